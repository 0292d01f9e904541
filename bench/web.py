"""The worklist page under wrk: 100,000 unread studies, beside a worker that scores what comes in.

Needs `wrk` (Debian's package of that name). The daemon is real, its database SQLite.
"""

import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from peers import free_port
from query import load_sqlite, make_studies
from tables import arguments, machine, report

from medd.store.database import Database, check_schema
from medd.testing import cheap_series

STUDIES = 100_000
PAGES = {"the page": "/", "the rows it asks for when something has changed": "/worklist/rows"}


def main() -> None:
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--studies", type=int, default=STUDIES)
    parser.add_argument("--connections", type=int, default=4, help="open at one time (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=20)
    args = parser.parse_args()
    studies, seconds = (2_000, 3) if args.quick else (args.studies, args.seconds)
    with tempfile.TemporaryDirectory(prefix="medd-bench-", dir=args.scratch) as scratch:
        home = Path(scratch) / "home"
        home.mkdir()
        database = Database(f"sqlite:///{home / 'medd.db'}")
        check_schema(database)
        load_sqlite(database, 2 * studies)
        make_studies(database)
        database.close()
        rows = [[title, *measure(home, path, args.connections, seconds)] for title, path in PAGES.items()]
    note = (
        f"{studies} unread studies, {args.connections} connections for {seconds} s each, while a film comes in by the "
        f"folder ten times a second and is judged. {machine(args.scratch)}."
    )
    header = ["worklist", "requests/s", "median, ms", "p95, ms", "errors", "films judged meanwhile"]
    report("The worklist in the browser", note, header, rows, args.output)


def measure(home: Path, path: str, connections: int, seconds: int) -> list[str]:
    web, dicom = free_port(), free_port()
    (home / "medd.toml").write_text(
        f"[listener]\nport = {dicom}\n[web]\nport = {web}\nmax_requests_per_s = 0\n[[inbox]]\nsettle_s = 0\n"
    )
    daemon = subprocess.Popen(
        [sys.executable, "-m", "medd", "serve", "--home", str(home)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert daemon.stdout is not None
        assert daemon.stdout.readline().startswith("ready:")
        assert daemon.stderr is not None
        for line in daemon.stderr:
            if "reading room at" in line:
                break
        threading.Thread(target=daemon.stderr.read, daemon=True).start()
        stop = threading.Event()
        sender = threading.Thread(target=keep_sending, args=(home / "inbox", stop))
        sender.start()
        before = judged(home)
        script = Path(home) / "p95.lua"
        script.write_text(
            'done = function(s, l, r) io.write(string.format("p50=%d p95=%d errors=%d\\n", l:percentile(50),'
            " l:percentile(95), s.errors.status + s.errors.timeout + s.errors.read + s.errors.connect)) end\n"
        )
        command = [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{seconds}s",
            "-s",
            str(script),
            f"http://127.0.0.1:{web}{path}",
        ]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        stop.set()
        sender.join()
        [p50, p95, errors] = map(int, re.search(r"p50=(\d+) p95=(\d+) errors=(\d+)", told).groups())
        rate = re.search(r"Requests/sec:\s+([\d.]+)", told).group(1)
        return [rate, f"{p50 / 1000:.1f}", f"{p95 / 1000:.1f}", str(errors), str(judged(home) - before)]
    finally:
        daemon.terminate()
        daemon.wait(30)


def keep_sending(inbox: Path, stop: threading.Event) -> None:
    for number, film in enumerate(cheap_series(100_000, rows=224, columns=224, seed=3)):
        if stop.wait(0.1):
            return
        part = inbox / f"{number}.part"
        part.write_bytes(film)
        part.rename(inbox / f"{number}.dcm")


def judged(home: Path) -> int:
    import sqlite3

    with sqlite3.connect(home / "medd.db") as db:
        return int(db.execute("SELECT count(*) FROM job WHERE state = 'done'").fetchone()[0])


if __name__ == "__main__":
    main()
