"""Durable ingest: images per second into medd, Orthanc, storescp and pynetdicom's textbook handler.

The clock runs from the start of the senders to the end of the last: every image is answered by then. What the
receiver holds is counted after each run. Each run starts with an empty store.
"""

import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from images import OnePerImage, make
from peers import Medd, Orthanc, OrthancTuned, Receiver, Storescp, Textbook, send
from tables import arguments, machine, ratio, report, spread

RECEIVERS: dict[str, type[Receiver]] = {r.name: r for r in (Medd, Orthanc, Storescp, Textbook)}
#: Measured when asked for.
EXTRA: dict[str, type[Receiver]] = {OrthancTuned.name: OrthancTuned}


@dataclass(frozen=True)
class Scenario:
    """What is sent, and how."""

    title: str
    count: int
    size: int
    #: What medd : Orthanc should be at least.
    bar: float
    senders: int = 1
    one_per_image: bool = False


SCENARIOS = {
    "1": Scenario("224×224, 1 sender", 500, 224, 2),
    "4": Scenario("224×224, 4 senders", 500, 224, 2, senders=4),
    "16": Scenario("224×224, 16 senders", 500, 224, 1.5, senders=16),
    "each": Scenario("224×224, an association per image", 500, 224, 1, one_per_image=True),
    "large": Scenario("2048×2048, 1 sender", 60, 2048, 3),
}


def run(kind: type[Receiver], scenario: Scenario, folders: list[Path], scratch: Path) -> float:
    """One run; returns images per second."""
    count = sum(1 for folder in folders for _ in folder.iterdir())
    with kind(scratch, scenario.senders) as receiver:
        each = OnePerImage(receiver.port, sorted(folders[0].iterdir())) if scenario.one_per_image else None
        os.sync()  # what the run before left unwritten (storescp does not sync) must not burden this one
        start = time.perf_counter()
        if each:
            each.send()
        else:
            send(receiver.port, folders)
        seconds = time.perf_counter() - start
        held = receiver.count()
        if held != count:
            sys.exit(f"bench: {receiver.name} holds {held} of {count} images")
    return count / seconds


def disk(folders: list[Path], scratch: Path) -> float:
    """The disk alone: the same bytes written by one thread, file by file, each synced; files per second."""
    contents = [path.read_bytes() for folder in folders for path in sorted(folder.iterdir())]
    target = Path(tempfile.mkdtemp(dir=scratch))
    os.sync()
    start = time.perf_counter()
    for number, content in enumerate(contents):
        with (target / str(number)).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    shutil.rmtree(target)
    return len(contents) / seconds


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--without", action="append", default=[], choices=RECEIVERS, help="leave a receiver out")
    parser.add_argument("--with", dest="extra", action="append", default=[], choices=EXTRA, help="measure this too")
    parser.add_argument("--one-study", action="store_true", help="all images of one patient, not each of its own")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="only these (default: all)")
    args = parser.parse_args()
    kinds = [kind for name, kind in RECEIVERS.items() if name not in args.without]
    kinds += [EXTRA[name] for name in args.extra]
    names = [kind.name for kind in kinds]
    others = [name for name in names if name != "medd"] if "medd" in names else []
    scenarios = [SCENARIOS[name] for name in args.scenario or SCENARIOS]
    rounds = 1 if args.quick else args.rounds

    scratch = Path(tempfile.mkdtemp(prefix="medd-bench-", dir=args.scratch))
    rows = []
    try:
        for number, scenario in enumerate(scenarios):
            count = max(scenario.senders, scenario.count // 10) if args.quick else scenario.count
            folders = make(
                scratch / f"images-{number}", count, scenario.size, scenario.senders, one_study=args.one_study
            )
            rates: dict[str, list[float]] = defaultdict(list)
            for _ in range(rounds):
                rates["disk"].append(disk(folders, scratch))
                for kind in kinds:
                    rates[kind.name].append(run(kind, scenario, folders, scratch))
                    print(f"{scenario.title}: {kind.name} {rates[kind.name][-1]:.0f}/s", file=sys.stderr)
            shutil.rmtree(scratch / f"images-{number}")
            ratios = [ratio(rates["medd"], rates[name]) for name in others]
            rows.append([scenario.title, *(spread(rates[name]) for name in (*names, "disk")), *ratios])
            if "orthanc" in others:
                rows[-1].append(f"≥ {scenario.bar}×")
    finally:
        shutil.rmtree(scratch)
    header = ["images per second", *names, "disk alone", *(f"medd : {name}" for name in others)]
    if "orthanc" in others:
        header.append("bar for medd : orthanc")
    note = f"Median (lowest–highest) of {rounds} interleaved rounds. {machine(args.scratch)}."
    report("Receiving", note, header, rows, args.output)


if __name__ == "__main__":
    main()
