"""``make fuzz``: one target or all, for so many minutes each."""

import argparse
import importlib
import sys
from pathlib import Path

from tests.fuzz import runner
from tests.fuzz.target import Target

TARGETS = ("headers", "pixels", "pdus", "settings", "manifests", "stow")
RAM_DISK = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
BUILD = Path(__file__).parents[2] / "build" / "fuzz"


def find(name: str) -> type[Target]:
    target: type[Target] = importlib.import_module(f"tests.fuzz.{name}").TARGET
    return target


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=(*TARGETS, "all"), nargs="?", default="all")
    parser.add_argument("--minutes", type=float, default=60.0, help="for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replay", type=Path, metavar="FILE", help="try the input of a finding once more")
    parser.add_argument("--scratch", type=Path, default=RAM_DISK, help="where to work; a RAM disk is fastest")
    args = parser.parse_args()
    if args.replay and args.target == "all":
        parser.error("--replay needs the target that the input is of")
    if args.replay:
        print(runner.replay(find(args.target), args.replay))
        return 0
    found = 0
    for name in TARGETS if args.target == "all" else (args.target,):
        runner.clear(BUILD, name)
        options = {"seed": args.seed, "seconds": args.minutes * 60, "build": BUILD, "scratch": args.scratch}
        report = runner.merge(runner.supervised(find(name), **options))
        runner.save(report, BUILD)
        print(report, flush=True)
        found += len(report.findings)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
