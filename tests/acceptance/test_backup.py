"""Backup and restore as docs/operations.md has them, of a daemon under load."""

import contextlib
import hashlib
import os
import shutil
import sqlite3
import subprocess
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from medd.store.database import Database
from medd.store.spool import Spool
from medd.store.tables import instance
from medd.testing import cheap_series, stub_bundle, write_stub_plugin
from tests.support import Daemon, PostgresServer, RawSender, require, running, uid_in, wait_until

pytestmark = pytest.mark.timeout(900)

#: More than are ever sent.
MANY = 100_000


class Load:
    """A modality that goes on sending; it knows which images were answered with success."""

    def __init__(self, port: int, seed: int) -> None:
        self.acknowledged: list[str] = []
        self._port, self._seed = port, seed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with RawSender(self._port) as sender:
            sender.associate()
            for dataset in cheap_series(MANY, rows=64, columns=64, part10=False, seed=self._seed):
                if self._stop.wait(0.01):  # else there is more to score than a test can wait for
                    return
                uid = uid_in(dataset)
                assert sender.store(dataset, uid)[0] == 0
                self.acknowledged.append(uid)
            sender.release()


def prepare(home: Path, **environment: str) -> Daemon:
    (home / "plugins").mkdir(parents=True)
    write_stub_plugin(home / "plugins", stub_bundle(home / "stub-bundle", delay_s=0.02))
    return Daemon(home, **environment)


def copy_home(home: Path, copy: Path) -> None:
    """As rsync of the home folder, without the database: it must bear files that come and go meanwhile."""

    def copied(source: str, target: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.copy2(source, target)

    ignored = shutil.ignore_patterns("medd.db*", "run", "incoming", "log.txt")
    shutil.copytree(home, copy, ignore=ignored, copy_function=copied, dirs_exist_ok=True)


def check(database_url: str, home: Path, answered: set[str]) -> set[str]:
    """Every row of a restored database has its file, byte for byte; returns what it knows of."""
    database = Database(database_url)
    with database.read() as connection:
        rows = connection.execute(
            sa.select(instance.c.sha256, instance.c.media_type, instance.c.sop_instance_uid)
        ).all()
    database.close()
    spool = Spool(home / "spool")
    for row in rows:
        data = spool.path(row.sha256, row.media_type).read_bytes()
        assert hashlib.sha256(data[144 + int.from_bytes(data[140:144], "little") :]).hexdigest() == row.sha256
    known = {row.sop_instance_uid for row in rows}
    assert answered <= known, "an image that was answered before the backup is not in it"
    return known


def go_on(daemon: Daemon, database_url: str, known: set[str]) -> None:
    """A restored home opens, scores what waited, takes in what has a file but no row yet, and more."""
    assert daemon.medd("db", "check").returncode == 0
    with running(daemon):
        with Load(daemon.port, seed=9) as load:
            wait_until(lambda: len(load.acknowledged) > 20, what="images after the restoration")
        folders = sorted((daemon.home / "spool").glob("[0-9a-f][0-9a-f]"))
        taken = daemon.medd("ingest", *map(str, folders))
        assert taken.returncode == 0, taken.stderr
        database = Database(database_url)

        def rest() -> int | None:
            with database.read() as connection:
                return connection.scalar(sa.select(sa.func.count()).where(instance.c.status != "scored"))

        wait_until(lambda: rest() == 0, 120, "every image's result")
        with database.read() as connection:
            count = connection.scalar(sa.select(sa.func.count()).select_from(instance)) or 0
        database.close()
        files = sum(1 for _ in (daemon.home / "spool").glob("??/*.dcm"))
        assert count == files, "a file of the copied spool has no row"
        assert count >= len(known) + len(load.acknowledged)


def test_a_backup_of_sqlite_taken_under_load_opens_and_goes_on(tmp_path):
    daemon, copy = prepare(tmp_path / "home"), tmp_path / "copy"
    with running(daemon), Load(daemon.port, seed=1) as load:
        wait_until(lambda: len(load.acknowledged) > 50, what="some images")
        answered = set(load.acknowledged)
        copy.mkdir()
        done = daemon.medd("db", "backup", str(copy / "medd.db"))
        assert done.returncode == 0, done.stderr
        copy_home(daemon.home, copy)
    assert (copy / "medd.db").stat().st_mode & 0o777 == 0o600
    assert not list(copy.glob("medd.db-*"))
    assert not list(copy.glob(".medd.db*"))
    with contextlib.closing(sqlite3.connect(copy / "medd.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    known = check(f"sqlite:///{copy / 'medd.db'}", copy, answered)
    assert len(known) < len(load.acknowledged), "the copy was made under load"
    go_on(Daemon(copy), f"sqlite:///{copy / 'medd.db'}", known)


@pytest.mark.peers
def test_a_backup_of_postgresql_taken_under_load_opens_and_goes_on(tmp_path, postgres: PostgresServer, postgres_url):
    dump, restore = require("pg_dump", "pg_restore")
    where = ["-h", "127.0.0.1", "-p", str(postgres.port), "-U", "medd"]
    daemon, copy = prepare(tmp_path / "home", MEDD_DATABASE__URL=postgres_url), tmp_path / "copy"
    with running(daemon), Load(daemon.port, seed=2) as load:
        wait_until(lambda: len(load.acknowledged) > 50, what="some images")
        answered = set(load.acknowledged)
        file = tmp_path / "medd.dump"
        name = postgres_url.rpartition("/")[2]
        subprocess.run([dump, "--format=custom", "--file", str(file), *where, name], check=True)
        copy_home(daemon.home, copy)
    again = f"{name}_restored"
    postgres.execute(f"CREATE DATABASE {again}")
    try:
        subprocess.run([restore, "--exit-on-error", "--no-owner", "--dbname", again, *where, str(file)], check=True)
        known = check(postgres.url(again), copy, answered)
        go_on(Daemon(copy, MEDD_DATABASE__URL=postgres.url(again)), postgres.url(again), known)
    finally:
        postgres.execute(f"DROP DATABASE {again} WITH (FORCE)")


def test_a_backup_that_cannot_be_finished_leaves_the_last_one(tmp_path):
    daemon = prepare(tmp_path / "home")
    assert daemon.medd("db", "upgrade").returncode == 0
    target = tmp_path / "medd.db"
    assert daemon.medd("db", "backup", str(target)).returncode == 0
    before = target.read_bytes()
    with (daemon.home / "medd.db").open("r+b") as file:  # a page of the database is damaged
        file.seek(4096 * 3)
        file.write(os.urandom(4096))
    done = daemon.medd("db", "backup", str(target))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_backup_is_refused_where_it_makes_no_sense(tmp_path):
    daemon = prepare(tmp_path / "home")
    assert daemon.medd("db", "backup", str(tmp_path / "x")).returncode == 2, "nothing was received yet"
    assert daemon.medd("db", "upgrade").returncode == 0
    onto_itself = daemon.medd("db", "backup", str(daemon.home / "medd.db"))
    assert onto_itself.returncode == 2
    nowhere = daemon.medd("db", "backup", str(tmp_path / "no" / "such" / "folder"))
    assert (nowhere.returncode, "No such file" in nowhere.stderr) == (1, True)
