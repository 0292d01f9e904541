"""``make chaos``: the long form, with its table."""

import argparse
import tempfile
from pathlib import Path

from tests.chaos.rounds import run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--database", choices=("sqlite", "postgresql", "both"), default="both")
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--faults", type=int, default=3, help="in each round")
    parser.add_argument("--rate", type=float, default=100.0, help="images a second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[], help="names of faults")
    parser.add_argument("--scratch", type=Path, help="where to work; needs a local disk")
    args = parser.parse_args()
    kinds = ("sqlite", "postgresql") if args.database == "both" else (args.database,)
    reports = []
    for kind in kinds:
        with tempfile.TemporaryDirectory(prefix="medd-chaos-", dir=args.scratch, ignore_cleanup_errors=True) as folder:
            options = {"rounds": args.rounds, "faults_per_round": args.faults, "seed": args.seed, "rate": args.rate}
            reports.append(run(Path(folder), kind, only=args.only, **options))
    for report in reports:
        print(f"\n{report}\n\n{report.table()}")


if __name__ == "__main__":
    main()
