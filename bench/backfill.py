"""An archive scored by `medd backfill`: this host alone against Ray Data on the same host.

Each run has a fresh home and the shipped model. Ray's cluster is started by the command itself, so its start is in the
time of the whole command and not in that from the first result to the last. Ray's workers get the same niceness as the
local engine.
"""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path

from pydicom import uid
from tables import arguments, machine, ratio, report, spread

from medd.testing.films import cheap_series

ENGINES = ("local", "ray")
#: What is in the archives: name, side in pixels, transfer syntax, films.
ARCHIVES = (
    ("224×224, uncompressed", 224, uid.ExplicitVRLittleEndian, 1500),
    ("2048×2048, JPEG 2000", 2048, uid.JPEG2000Lossless, 96),
)
#: With fewer films, most are decoded already when the first result is committed: the rest says nothing of the rate.
LEAST_FOR_STEADY = 1000


def run(folder: Path, engine: str, count: int, scratch: Path) -> tuple[float, float]:
    """One backfill; returns films a second of the whole command, and from the first result to the last."""
    home = Path(tempfile.mkdtemp(dir=scratch))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MEDD_")}
    command = [sys.executable, "-m", "medd", "backfill", str(folder), "--engine", engine, "--home", str(home)]
    start = time.perf_counter()
    subprocess.run(command, env=environment | {"RAY_worker_niceness": "5"}, check=True, capture_output=True)
    seconds = time.perf_counter() - start
    with contextlib.closing(sqlite3.connect(home / "medd.db")) as database:
        moments = [datetime.fromisoformat(at) for (at,) in database.execute("SELECT scored_at FROM prediction")]
        judged = database.execute("SELECT count(*) FROM instance WHERE status <> 'pending'").fetchone()[0]
    if judged != count or not moments:
        raise SystemExit(f"bench: {engine}: {judged} of {count} films judged, {len(moments)} scored")
    shutil.rmtree(home)
    # All of a batch have about the same moment: the first batch has taken no time that could be seen.
    later = [at for at in moments if (at - min(moments)).total_seconds() > 1e-3]
    first_batch = len(moments) - len(later)
    steady = (max(moments) - min(moments)).total_seconds()
    return count / seconds, (len(moments) - first_batch) / steady if steady else 0.0


def main() -> None:
    parser = arguments(__doc__, rounds=1)
    args = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="medd-bench-", dir=args.scratch))
    rows = []
    try:
        for name, size, syntax, films in ARCHIVES:
            count = max(20, films // 20) if args.quick else films
            folder = scratch / f"films-{size}"
            folder.mkdir()
            for number, data in enumerate(cheap_series(count, rows=size, columns=size, transfer_syntax=syntax)):
                (folder / f"{number:06d}.dcm").write_bytes(data)
            whole: dict[str, list[float]] = defaultdict(list)
            steady: dict[str, list[float]] = defaultdict(list)
            for _ in range(1 if args.quick else args.rounds):
                for engine in ENGINES:
                    told = run(folder, engine, count, scratch)
                    whole[engine].append(told[0])
                    steady[engine].append(told[1])
                    print(f"{name}, {engine}: {told[0]:.1f}/s, {told[1]:.1f}/s", file=sys.stderr)
            told_of = [("whole command", whole)]
            if count >= LEAST_FOR_STEADY:
                told_of.append(("first to last result", steady))
            for what, rates in told_of:
                cells = [spread(rates[engine], 1) for engine in ENGINES]
                rows.append([f"{name}, {count} films, {what}", *cells, ratio(rates["ray"], rates["local"])])
            shutil.rmtree(folder)
    finally:
        shutil.rmtree(scratch)
    busy = f"load average {os.getloadavg()[1]:.1f} over the last five minutes"
    note = f"Films a second; median (lowest–highest) of interleaved rounds. {machine(args.scratch)}, {busy}."
    report("An archive, on this host and on Ray", note, ["", *ENGINES, "ray : local"], rows, args.output)


if __name__ == "__main__":
    main()
