"""Signs of life, on SQLite and on PostgreSQL."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from medd import __version__
from medd.store import processes
from medd.store.database import Database
from medd.store.processes import SILENT_S, Pulse, find_processes
from medd.store.tables import process
from tests.support import PostgresServer, wait_until


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "BEAT_S", 0.05)


def pulse(database: Database, node: str = "host-1", stage: str = "work", number: int = 0, **options) -> Pulse:
    return Pulse(Database(database.engine.url.render_as_string(hide_password=False)), node, stage, number, **options)


def beat_once(database: Database, node: str = "host-1") -> None:
    """One sign of a process that is killed after it."""
    opened = Database(database.engine.url.render_as_string(hide_password=False))
    Pulse(opened, node, "work").beat()
    opened.close()


def age(database: Database, seconds: float) -> None:
    """Make every sign older."""
    with database.write() as connection:
        for row in connection.execute(sa.select(process)).all():
            mine = (process.c.node == row.node) & (process.c.stage == row.stage) & (process.c.number == row.number)
            older = row.beat_at - timedelta(seconds=seconds)
            connection.execute(process.update().where(mine).values(beat_at=older))


def test_a_process_is_seen_while_it_runs_and_gone_when_it_ends_in_order(database):
    with pulse(database, doing=lambda: "stub/1"), pulse(database, number=1), pulse(database, "host-2", "receive"):
        found = wait_until(lambda: len(rows := find_processes(database)) == 3 and rows)
        assert [(one.stage, one.node, one.number) for one in found] == [
            ("receive", "host-2", 0),
            ("work", "host-1", 0),
            ("work", "host-1", 1),
        ]
        assert found[1].doing == "stub/1"
        assert {one.version for one in found} == {__version__}
        assert all(one.is_alive and one.silent_s < 5 for one in found)
        assert abs((datetime.now(UTC) - found[0].started_at).total_seconds()) < 5
    assert find_processes(database) == []


def test_signs_go_on_and_tell_what_it_does_by_now(database):
    models = ["stub/1"]
    with pulse(database, doing=lambda: models[0]):
        wait_until(lambda: find_processes(database))
        age(database, 1000)
        models[0] = "stub/2"
        wait_until(lambda: [(one.doing, one.is_alive) for one in find_processes(database)] == [("stub/2", True)])


def test_one_that_is_killed_counts_as_gone_after_a_while(database):
    beat_once(database)
    [found] = find_processes(database)
    assert found.is_alive
    age(database, SILENT_S + 1)
    [found] = find_processes(database)
    assert not found.is_alive
    assert found.silent_s > SILENT_S


def test_one_whose_work_has_ended_gives_no_sign(database):
    asked = threading.Event()

    def dead() -> bool:
        asked.set()
        return False

    with pulse(database, is_alive=dead):
        assert asked.wait(10)
        assert find_processes(database) == []


def test_one_that_starts_again_takes_its_row_over(database):
    beat_once(database)
    [before] = find_processes(database)
    beat_once(database)
    [after] = find_processes(database)
    assert after.started_at > before.started_at


def test_a_host_that_is_gone_for_good_is_forgotten(database):
    beat_once(database, "old-host")
    age(database, processes.FORGET_S + 1)
    beat_once(database, "new-host")
    assert [one.node for one in find_processes(database)] == ["new-host"]


@pytest.mark.peers
def test_a_database_that_goes_away_ends_no_pulse():
    server = PostgresServer()
    try:
        server.start()
        url = server.url()
        database = Database(url)
        processes.process.metadata.create_all(database.engine)
        with Pulse(Database(url), "host-1", "work"):
            wait_until(lambda: find_processes(database))
            database.close()
            server.stop()
            server.start()
            age(database, 1000)
            wait_until(lambda: [one.is_alive for one in find_processes(database)] == [True])
        assert find_processes(database) == []
        database.close()
    finally:
        server.remove()
