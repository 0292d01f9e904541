"""Every benchmark, one after the other: what `make bench` runs. Options are handed on to each."""

import subprocess
import sys
from pathlib import Path

BENCHMARKS = (
    "receive",
    "end_to_end",
    "stages",
    "plan",
    "backfill",
    "query",
    "web",
    "idle_and_memory",
    "training",
    "inference",
)


def main() -> int:
    failed = []
    for name in BENCHMARKS:
        script = Path(__file__).with_name(f"{name}.py")
        if subprocess.run([sys.executable, str(script), *sys.argv[1:]]).returncode:
            failed.append(name)
    if failed:
        print(f"bench: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
