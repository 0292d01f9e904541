"""How long the questions of `medd results` and `medd worklist` take over a million rows, on SQLite and PostgreSQL."""

import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import sqlalchemy as sa
from peers import free_port
from sqlalchemy import Connection
from tables import arguments, machine, report, spread

from medd.records import Reason, Status
from medd.store.database import Database, upgrade
from medd.store.repository import ResultFilter, count_statuses, find_results
from medd.store.studies import WorklistFilter, count_worklist, find_worklist, signature
from medd.store.tables import study
from medd.store.tally import refresh

#: A year of a large hospital's films: 2,700 a day.
ROWS = 1_000_000
SPAN = timedelta(days=365)
NOW = datetime.now(UTC).replace(microsecond=0)
UID = "1.2.826.0.1.3680043.8.498"
#: What the issue asks of each query, milliseconds.
BAR_MS = 100

# ---- Rows --------------------------------------------------------------------------------------------------------

Row = dict[str, Any]


def instances(count: int) -> Iterator[Row]:
    """Rows of `instance`, as they come in: two to a study, four to a patient."""
    random = Random(1)
    for number in range(1, count + 1):
        draw = random.random()
        status, reason = Status.SCORED, None
        if number > count - 50:
            status = Status.PENDING
        elif draw < 0.03:
            status, reason = Status.NOT_ASSESSED, Reason.LATERAL_VIEW
        elif draw < 0.0302:
            status, reason = Status.FAILED, Reason.UNREADABLE
        yield {
            "id": number,
            "sha256": f"{random.getrandbits(256):064x}",
            "size": 100_000,
            "media_type": "application/dicom",
            "origin": "dicom://MODALITY@10.0.0.1",
            "received_at": NOW - SPAN * (1 - number / count),
            "status": status.value,
            "reason": reason and reason.value,
            "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1",
            "sop_instance_uid": f"{UID}.1.{number}",
            "series_instance_uid": f"{UID}.2.{number}",
            "study_instance_uid": f"{UID}.3.{number // 2}",
            "patient_id": f"P{random.randrange(count // 4):07}",
            "accession_number": f"A{number // 2:07}",
            "modality": "CR",
        }


def predictions(count: int) -> Iterator[Row]:
    """Rows of `prediction`, one for each instance that was scored."""
    random = Random(2)
    for row in instances(count):
        if row["status"] == Status.SCORED:
            probability = random.betavariate(0.4, 1.2)
            yield {
                "id": row["id"],
                "instance_id": row["id"],
                "model": "paper/1",
                "label": "PNEUMONIA" if probability >= 0.5 else "NORMAL",
                "positive": probability >= 0.5,
                "probability": probability,
                "probabilities": json.dumps({"NORMAL": 1 - probability, "PNEUMONIA": probability}),
                "threshold": 0.5,
                "preprocess_digest": "0123456789abcdef",
                "scored_at": row["received_at"] + timedelta(seconds=1),
                "current": True,
            }


TABLES = {"instance": instances, "prediction": predictions}
#: Studies that nobody has read: the newest.
UNREAD = 100_000


def make_studies(database: Database) -> None:
    """The rows of `study`, all but the newest of them read."""
    with database.write() as connection:
        refresh(connection, None)
        oldest = sa.select(study.c.received_at).order_by(study.c.received_at.desc()).offset(UNREAD).limit(1)
        read = study.update().where(study.c.received_at <= oldest.scalar_subquery())
        connection.execute(read.values(read_at=study.c.received_at, read_by="anna"))
        if not database.is_sqlite:
            connection.exec_driver_sql("ANALYZE")  # what autovacuum does by itself a minute later


def load_sqlite(database: Database, count: int) -> None:
    """Insert the rows the fast way, times as the schema writes them."""
    with closing(sqlite3.connect(str(database.engine.url.database))) as db, db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA cache_size = -1000000")  # one gigabyte: loading is not what is measured
        for table, rows in TABLES.items():
            columns = next(rows(1000)).keys()
            places = ", ".join(f":{column}" for column in columns)
            statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})"
            db.executemany(statement, map(_times_as_text, rows(count)))


def _times_as_text(row: Row) -> Row:
    return {k: v.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if isinstance(v, datetime) else v for k, v in row.items()}


def load_postgresql(database: Database, count: int) -> None:
    """COPY the rows."""
    url = database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as db:
        for table, rows in TABLES.items():
            columns = next(rows(1000)).keys()
            with db.cursor().copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN") as copy:
                for row in rows(count):
                    copy.write_row(list(row.values()))


@contextmanager
def postgresql(scratch: Path) -> Iterator[str]:
    """A cluster of its own with the settings that initdb gives it; its URL."""
    as_owner = []
    folder = Path(tempfile.mkdtemp(prefix="postgresql-", dir=scratch))
    if os.geteuid() == 0:  # PostgreSQL does not run as root
        shutil.chown(folder, "postgres")
        as_owner = ["runuser", "-u", "postgres", "--"]
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    path = f"{found[-1]}:{os.environ['PATH']}" if found else os.environ["PATH"]
    data, port = str(folder / "data"), free_port()

    def call(*words: str) -> None:
        run = [*as_owner, "env", f"PATH={path}", *words]
        subprocess.run(run, check=True, cwd=folder, stdout=subprocess.DEVNULL)

    call("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    call("pg_ctl", "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
    try:
        yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
    finally:
        call("pg_ctl", "-D", data, "-m", "immediate", "stop")


# ---- Questions ---------------------------------------------------------------------------------------------------

Question = Callable[[Connection], int]


def questions(count: int) -> dict[str, Question]:
    """By the command that asks them."""

    def find(connection: Connection, **wanted: Any) -> int:
        return sum(1 for _ in find_results(connection, ResultFilter(**wanted)))

    def results(**wanted: Any) -> Question:
        return partial(find, **wanted)

    def worklist(
        max_wait: timedelta | None = timedelta(hours=4), limit: int = 100, offset: int = 0, **wanted: Any
    ) -> Question:
        asked = WorklistFilter(**wanted)
        return lambda connection: len(find_worklist(connection, asked, NOW, max_wait, limit, offset))

    day = NOW - timedelta(hours=24)
    return {
        "results --limit 100": results(limit=100),
        "results --since 24h --limit 100": results(since=day, limit=100),
        "results --since 24h": results(since=day),
        "results --patient P": results(patient=f"P{count // 9:07}"),
        "results --study UID": results(study=f"{UID}.3.{count // 5}"),
        "results --status pending": results(status=Status.PENDING),
        "results --status failed": results(status=Status.FAILED),
        "results --status not_assessed --limit 100": results(status=Status.NOT_ASSESSED, limit=100),
        "results --label L --min-probability 0.5 --limit 100": results(
            label="PNEUMONIA", min_probability=0.5, limit=100
        ),
        "results --label L --min-probability 0.999 --limit 100": results(
            label="PNEUMONIA", min_probability=0.999, limit=100
        ),
        "results --label L --min-probability 0.99999 --limit 100": results(
            label="PNEUMONIA", min_probability=0.99999, limit=100
        ),
        "results --since 24h --label L --min-probability 0.9": results(
            since=day, label="PNEUMONIA", min_probability=0.9
        ),
        "results --label none of these --limit 100": results(label="VIRUS", limit=100),
        "worklist": worklist(since=day, read=False),
        "worklist --all --since 365d": worklist(since=NOW - SPAN, read=None),
        "worklist of a site without a cap on waiting": worklist(max_wait=None, read=False),
        "worklist, a page of 50": worklist(limit=50),
        "worklist, a page of 50 behind 50,000": worklist(limit=50, offset=UNREAD // 2),
        "worklist, one patient": worklist(text=f"P{count // 9:07}", read=None),
        "worklist, all patients that begin with P": worklist(text="P"),
        "worklist, failed ones": worklist(status=Status.FAILED),
        "worklist, counted up to 1000": lambda connection: count_worklist(connection, WorklistFilter()),
        "worklist, whether anything has changed": lambda connection: len(signature(connection)),
        "count by status": lambda connection: len(count_statuses(connection)),
    }


def ask(database: Database, question: Question) -> tuple[int, float]:
    """The number of rows it gave, and milliseconds until the last of them."""
    start = time.perf_counter()
    with database.read() as connection:
        found = question(connection)
    return found, (time.perf_counter() - start) * 1000


def main() -> None:
    parser = arguments(__doc__, rounds=11)
    parser.add_argument("--rows", type=int, default=ROWS)
    args = parser.parse_args()
    count, rounds = (20_000, 3) if args.quick else (args.rows, args.rounds)

    scratch = Path(tempfile.mkdtemp(prefix="medd-bench-", dir=args.scratch))
    scratch.chmod(0o711)  # PostgreSQL's user must reach its folder in it
    found: dict[str, int] = {}
    taken: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    try:
        with postgresql(scratch) as url:
            databases = {"SQLite": Database(f"sqlite:///{scratch / 'medd.db'}"), "PostgreSQL": Database(url)}
            for name, load in (("SQLite", load_sqlite), ("PostgreSQL", load_postgresql)):
                upgrade(databases[name])
                load(databases[name], count)
                make_studies(databases[name])
                print(f"{name}: {count} rows loaded", file=sys.stderr)
            for _ in range(rounds):
                for title, question in questions(count).items():
                    for name, database in databases.items():
                        found[title], milliseconds = ask(database, question)
                        taken[title][name].append(milliseconds)
            for database in databases.values():
                database.close()
    finally:
        shutil.rmtree(scratch)

    table = []
    for title, by in taken.items():
        slower = max(statistics.median(by[name]) for name in databases)
        table.append([f"`{title}`", str(found[title]), *(spread(by[name], 1) for name in databases)])
        table[-1].append(f"{slower / BAR_MS:.2f}")
    note = (
        f"{count} instances over {SPAN.days} days, two to a study, the newest {min(UNREAD, count // 2)} unread. "
        f"Median (lowest–highest) milliseconds of {rounds} interleaved rounds; the highest is mostly the first, with "
        f"less in the caches. {machine(args.scratch)}."
    )
    header = ["query", "rows", *databases, f"slower one : {BAR_MS} ms"]
    report("Queries", note, header, table, args.output)


if __name__ == "__main__":
    main()
