"""``make cluster``: the long form, with its table."""

import argparse
import tempfile
from pathlib import Path

from tests.cluster.rounds import run, speedup


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--rate", type=float, default=20.0, help="images a second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--images", type=int, default=200, help="of each measurement of the workers; 0: none")
    args = parser.parse_args()
    if args.images:
        with tempfile.TemporaryDirectory(prefix="medd-cluster-", ignore_cleanup_errors=True) as folder:
            one, two = speedup(Path(folder), images=args.images)
        print(f"one worker {one:.1f} results/s, two {two:.1f}: {two / one:.2f}×")
    if args.rounds:
        with tempfile.TemporaryDirectory(prefix="medd-cluster-", ignore_cleanup_errors=True) as folder:
            print(f"\n{run(Path(folder), rounds=args.rounds, seed=args.seed, rate=args.rate)}")


if __name__ == "__main__":
    main()
