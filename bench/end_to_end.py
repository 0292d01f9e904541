"""From the first C-STORE to the last committed result: medd against the script that a user would write.

Both have their model loaded and one image through it before the clock starts. It runs from the start of the sender
until the database shows a probability for every image.
"""

import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from images import make
from peers import MODEL, MeddWhole, Receiver, Textbook, count_rows, send, wait_until
from tables import arguments, machine, ratio, report, spread

SIZE = 224
RUN_S = 600


class TextbookWithModel(Textbook):
    """The textbook handler with `model.predict` inside."""

    model = MODEL


#: Each with the query that counts committed results.
RECEIVERS: dict[type[Receiver], str] = {
    MeddWhole: "SELECT count(*) FROM instance WHERE status = 'scored'",
    TextbookWithModel: "SELECT count(*) FROM result WHERE probability IS NOT NULL",
}


def run(kind: type[Receiver], warm_up: list[Path], folders: list[Path], count: int, scratch: Path) -> float:
    """One run; returns images per second."""
    with kind(scratch) as receiver:

        def scored() -> int:
            return count_rows(receiver.database, RECEIVERS[kind])

        send(receiver.port, warm_up)
        wait_until(lambda: scored() == 1, RUN_S, f"{receiver.name}: result of the first image")
        os.sync()
        start = time.perf_counter()
        send(receiver.port, folders)
        wait_until(lambda: scored() == count + 1, RUN_S, f"{receiver.name}: results of {count} images")
        return count / (time.perf_counter() - start)


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--without", action="append", default=[], choices=[r.name for r in RECEIVERS])
    parser.add_argument("--senders", type=int, default=1)
    args = parser.parse_args()
    kinds = [kind for kind in RECEIVERS if kind.name not in args.without]
    count, rounds = (50, 1) if args.quick else (500, args.rounds)
    if not MODEL.exists():
        print("bench: the paper's bundle is not here; the textbook script runs its network untrained", file=sys.stderr)

    scratch = Path(tempfile.mkdtemp(prefix="medd-bench-", dir=args.scratch))
    rates: dict[str, list[float]] = defaultdict(list)
    try:
        warm_up = make(scratch / "warm-up", 1, SIZE, first=2_000_000)
        folders = make(scratch / "images", count, SIZE, args.senders)
        for _ in range(rounds):
            for kind in kinds:
                rates[kind.name].append(run(kind, warm_up, folders, count, scratch))
                print(f"{kind.name} {rates[kind.name][-1]:.1f}/s", file=sys.stderr)
    finally:
        shutil.rmtree(scratch)

    header = ["images per second", *rates]
    row = [f"{SIZE}×{SIZE}, {args.senders} sender(s)", *(spread(values, 1) for values in rates.values())]
    if len(rates) == len(RECEIVERS):
        header += ["medd : textbook", "bar"]
        row += [ratio(rates["medd"], rates["textbook"]), "≥ 10×"]
    note = f"{count} X-rays. Median (lowest–highest) of {rounds} interleaved rounds. {machine(args.scratch)}."
    report("From the first C-STORE to the last committed result", note, header, [row], args.output)


if __name__ == "__main__":
    main()
