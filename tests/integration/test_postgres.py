"""The daemon on PostgreSQL: by URL, through a restart of the server under load, and with workers in many processes."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from medd.testing import cheap_series, stub_bundle, write_stub_plugin
from tests.support import Daemon, PostgresServer, RawSender, running, uid_in, wait_until

pytestmark = pytest.mark.peers


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server of the test's own, which it may stop."""
    own = PostgresServer()
    own.start()
    own.execute("CREATE DATABASE medd")
    yield own
    own.remove()


class Asker:
    """Asks the database of a daemon."""

    def __init__(self, server: PostgresServer, database: str = "medd") -> None:
        self._server, self._database = server, database

    def __call__(self, sql: str) -> int:
        return int(self._server.execute(sql, self._database))

    def scored(self) -> int:
        return self("SELECT count(*) FROM results WHERE status = 'scored'")

    def unfinished(self) -> int:
        return self("SELECT count(*) FROM job WHERE state IN ('pending', 'running')")

    def assert_once(self, uids: list[str]) -> None:
        """Each image has one row and one result, and there are no others."""
        total = len(uids)
        assert len(set(uids)) == total
        listed = ", ".join(f"'{uid}'" for uid in uids)
        assert (
            self(f"SELECT count(DISTINCT sop_instance_uid) FROM instance WHERE sop_instance_uid IN ({listed})") == total
        )
        for table in ("instance", "prediction", "job"):
            assert self(f"SELECT count(*) FROM {table}") == total, table
        assert self("SELECT count(*) FROM job WHERE state = 'done'") == total
        assert self.scored() == total


def daemon_on(home: Path, server: PostgresServer, *arguments: str, delay_s: float = 0.0, **environment: str) -> Daemon:
    if not (home / "plugins").exists():
        (home / "plugins").mkdir(parents=True)
        write_stub_plugin(home / "plugins", stub_bundle(home / "stub-bundle", delay_s=delay_s))
    return Daemon(home, *arguments, MEDD_DATABASE__URL=server.url("medd"), **environment)


def send(port: int, n: int, seed: int = 0) -> list[str]:
    """Send films; the UIDs of those that were stored: all."""
    films = list(cheap_series(n, rows=64, columns=64, seed=seed, part10=False))
    with RawSender(port) as sender:
        sender.associate()
        assert {sender.store(film, uid_in(film)) for film in films} == {(0x0000, "")}
        sender.release()
    return [uid_in(film) for film in films]


def test_images_are_scored_on_postgresql_by_url(tmp_path: Path, server: PostgresServer) -> None:
    ask = Asker(server)
    with running(daemon_on(tmp_path / "home", server)) as daemon:
        uids = send(daemon.port, 10)
        wait_until(lambda: ask.scored() == 10)
        ask.assert_once(uids)
        done = daemon.medd("results", "--format", "csv", "--limit", "4")
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 5
        assert not (daemon.home / "medd.db").exists()


class Persistent(threading.Thread):
    """A modality: sends film after film, one every few milliseconds, again until each was stored; keeps the answers."""

    def __init__(self, port: int, films: list[bytes]) -> None:
        super().__init__(daemon=True)
        self._port, self._films = port, films
        self.stored: list[str] = []
        self.statuses: list[int | None] = []

    def run(self) -> None:
        left = list(self._films)
        while left:
            try:
                with RawSender(self._port, timeout_s=60) as sender:
                    sender.associate()
                    while left:
                        status, _ = sender.store(left[0], uid_in(left[0]))
                        self.statuses.append(status)
                        if status == 0x0000:
                            self.stored.append(uid_in(left.pop(0)))
                        time.sleep(0.005 if status == 0x0000 else 0.1)
                    sender.release()
            except (ConnectionError, TimeoutError, AssertionError):
                self.statuses.append(None)
                time.sleep(0.1)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["fast shutdown", "crash"])
def test_a_server_stopped_and_started_under_load_costs_no_image(
    tmp_path: Path, server: PostgresServer, how: signal.Signals
) -> None:
    ask = Asker(server)
    films = list(cheap_series(200, rows=64, columns=64, part10=False))
    with running(daemon_on(tmp_path / "home", server, delay_s=0.05, MEDD_WORKER__BATCH_SIZE="4")) as daemon:
        parts = set(daemon.children().values())
        first = Persistent(daemon.port, films[:1])
        first.start()
        wait_until(lambda: ask("SELECT count(*) FROM prediction") > 0, 60, "the worker at work")
        senders = [Persistent(daemon.port, films[1 + place :: 2]) for place in range(2)]
        for sender in senders:
            sender.start()
        wait_until(lambda: sum(len(sender.stored) for sender in senders) > 40)
        server.stop(how)
        away = [len(sender.stored) for sender in senders]
        wait_until(lambda: all(0xA700 in sender.statuses for sender in senders), 60, "a refusal during the outage")
        assert [len(sender.stored) for sender in senders] == [pytest.approx(count, abs=1) for count in away], (
            "nothing can be stored without the database"
        )
        time.sleep(1)
        server.start()
        for sender in senders:
            sender.join(60)
            assert not sender.is_alive()
            assert set(sender.statuses) <= {0x0000, 0xA700, None}
        wait_until(lambda: ask.unfinished() == 0, 60, "the last result")
        ask.assert_once([uid for sender in (first, *senders) for uid in sender.stored])
        assert ask("SELECT count(*) FROM instance") == 200
        assert set(daemon.children().values()) == parts, "no process had to start again for it"
    log = daemon.log.read_text()
    assert "Traceback" not in log


def test_a_database_that_is_away_at_the_start_is_one_line(tmp_path: Path, server: PostgresServer) -> None:
    daemon = daemon_on(tmp_path / "home", server)
    server.stop()
    done = daemon.medd("serve")
    assert done.returncode in (1, 2)
    [line] = done.stderr.splitlines()
    assert line.startswith("medd: database: ")


def test_workers_in_three_processes_of_two_homes_score_each_image_once(tmp_path: Path, server: PostgresServer) -> None:
    ask = Asker(server)
    shared = {"MEDD_SPOOL__PATH": str(tmp_path / "spool"), "MEDD_WORKER__BATCH_SIZE": "4"}
    first = daemon_on(tmp_path / "one", server, delay_s=0.1, MEDD_WORKER__PROCESSES="2", **shared)
    second = daemon_on(tmp_path / "two", server, "--only", "work", delay_s=0.1, **shared)
    with running(first), running(second):
        uids = send(first.port, 120)
        owners = set()

        def note_owners() -> bool:
            listed = server.execute("SELECT DISTINCT lease_owner FROM job WHERE state = 'running'", "medd")
            owners.update(listed.splitlines())
            return ask.unfinished() == 0

        wait_until(note_owners, 60, "the last result")
        ask.assert_once(uids)
        assert len(owners) == 3, "each of the three worked"
        assert ask("SELECT max(attempts) FROM job") == 1
        scored = first.log.read_text().count("event=instance.scored") + second.log.read_text().count(
            "event=instance.scored"
        )
        assert scored == 120


def test_a_host_with_a_spool_of_its_own_leaves_the_work_of_others_alone(tmp_path: Path, server: PostgresServer) -> None:
    ask = Asker(server)
    receiver = daemon_on(tmp_path / "one", server, "--only", "receive")
    stranger = daemon_on(tmp_path / "two", server, "--only", "work", MEDD_WORKER__POLL_S="0.05")
    with running(receiver), running(stranger):
        uids = send(receiver.port, 5)
        time.sleep(1)
        assert ask("SELECT count(*) FROM job WHERE state = 'pending' AND attempts = 0") == 5
        with running(daemon_on(tmp_path / "one", server, "--only", "work")):
            wait_until(lambda: ask.unfinished() == 0)
            ask.assert_once(uids)


def test_the_work_of_a_worker_that_is_killed_is_finished_by_the_others(tmp_path: Path, server: PostgresServer) -> None:
    ask = Asker(server)
    shared = {
        "MEDD_SPOOL__PATH": str(tmp_path / "spool"),
        "MEDD_WORKER__BATCH_SIZE": "8",
        "MEDD_WORKER__LEASE_S": "2",
    }
    doomed = daemon_on(tmp_path / "doomed", server, "--only", "work", delay_s=30, **shared)
    with running(daemon_on(tmp_path / "one", server, delay_s=0.05, **shared)) as daemon:
        with running(doomed):
            owner = (tmp_path / "doomed" / "node-id").read_text().strip()
            theirs = f"SELECT count(*) FROM job WHERE state = 'running' AND lease_owner LIKE '{owner}%'"
            uids = []
            for seed in range(20):
                uids += send(daemon.port, 10, seed=seed)
                if ask(theirs):
                    break
            assert ask(theirs) > 0, "the doomed worker never got any work"
            assert doomed.process is not None
            process = psutil.Process(doomed.process.pid)
            assert not doomed.children(), "it works itself"
            os.kill(process.pid, signal.SIGKILL)
            doomed.kill()
        wait_until(lambda: ask.unfinished() == 0, 60, "the last result")
        ask.assert_once(uids)
        assert ask("SELECT max(attempts) FROM job") == 2
