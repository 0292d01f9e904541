"""`medd serve` as an operator knows it: it starts, stops, is killed, and starts again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from medd.testing import cheap_series
from tests.support import ROOT, Daemon, RawSender, running, uid_in, wait_until

SHIPPED = ROOT / "plugins" / "medd_pneumonia" / "bundles" / "pneumonia-1" / "bundle.json"


def send(port: int, n: int, seed: int = 0) -> None:
    with RawSender(port) as sender:
        sender.associate()
        for film in cheap_series(n, rows=64, columns=64, seed=seed, part10=False):
            assert sender.store(film, uid_in(film)) == (0x0000, "")
        sender.release()


def scored(daemon: Daemon) -> int:
    [(count,)] = daemon.query("SELECT count(*) FROM results WHERE status = 'scored'")
    return int(count)


def family(daemon: Daemon) -> list[psutil.Process]:
    assert daemon.process is not None
    supervisor = psutil.Process(daemon.process.pid)
    return [supervisor, *supervisor.children(recursive=True)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_stops_the_daemon_and_its_children_within_seconds(tmp_path: Path, number: int) -> None:
    daemon = Daemon(tmp_path / "home")
    with running(daemon):
        send(daemon.port, 5)
        wait_until(lambda: scored(daemon) == 5)
        processes = family(daemon)
        assert len(processes) == 4  # supervisor, receiver, worker and what decodes for it
        assert daemon.process is not None
        with RawSender(daemon.port) as idle:
            idle.associate()
            began = time.monotonic()
            daemon.process.send_signal(number)
            assert idle.receive_pdu()[0] == 7  # an idle association is aborted, not left hanging
        assert daemon.process.wait(15) == 0
        assert time.monotonic() - began < 8
        assert not [process for process in processes if process.is_running()]
        assert daemon.process.stdout is not None
        assert daemon.process.stdout.read() == "", "one line on stdout, the ready line, and no more"
    assert "Traceback" not in daemon.log.read_text()


def test_a_signal_during_the_start_stops_the_daemon_too(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "home").start(ready=False)
    wait_until(lambda: (tmp_path / "home" / "run").exists())
    time.sleep(0.3)
    processes = family(daemon)
    assert daemon.stop() == 0
    wait_until(lambda: not [process for process in processes if process.is_running()])
    assert "Traceback" not in daemon.log.read_text()


def test_children_of_a_killed_supervisor_leave_and_a_new_daemon_goes_on_in_the_same_home(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "home")
    daemon.start()
    orphans = family(daemon)[1:]
    assert len(orphans) >= 2
    send(daemon.port, 20)
    daemon.kill()
    with running(daemon):  # at once, while the orphans may still be there
        wait_until(lambda: scored(daemon) == 20)
        wait_until(lambda: not [process for process in orphans if process.is_running()])
        send(daemon.port, 20, seed=1)
        wait_until(lambda: scored(daemon) == 40)
    assert "Traceback" not in daemon.log.read_text()


def test_children_of_a_supervisor_that_is_killed_during_their_start_leave_too(tmp_path: Path) -> None:
    # They find nobody to tell that they are ready.
    daemon = Daemon(tmp_path / "home").start(ready=False)
    wait_until(lambda: len(daemon.children()) == 2)
    orphans = family(daemon)[1:]
    daemon.kill()
    wait_until(lambda: not [process for process in orphans if process.is_running()])


@pytest.mark.parametrize("part", ["receive", "work"])
def test_a_part_that_is_killed_starts_again_by_itself(tmp_path: Path, part: str) -> None:
    daemon = Daemon(tmp_path / "home")
    with running(daemon):
        before = wait_until(lambda: daemon.children().get(part))
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: daemon.children().get(part) not in (None, before))

        def answers() -> bool:
            try:
                send(daemon.port, 3)
            except (ConnectionError, TimeoutError):
                return False
            return True

        wait_until(answers)
        wait_until(lambda: scored(daemon) == 3)
    assert f"{part}-0 died" in daemon.log.read_text()


def test_a_second_daemon_in_the_same_home_is_refused_by_one_line(tmp_path: Path) -> None:
    first = Daemon(tmp_path / "home")
    with running(first):
        second = Daemon(tmp_path / "home")
        done = subprocess.run(
            [sys.executable, "-m", "medd", "serve"],
            capture_output=True,
            text=True,
            env=second.environment,
            check=False,
            timeout=60,
        )
        assert done.returncode == 2
        assert done.stdout == ""
        [line] = done.stderr.splitlines()
        assert line.startswith("medd: home: another medd already serves 'receive'")
        send(first.port, 1)
        wait_until(lambda: scored(first) == 1)


def test_receiver_and_worker_may_be_two_programs_on_one_home(tmp_path: Path) -> None:
    # On a home that does not exist yet.
    receiver = Daemon(tmp_path / "home", "--only", "receive")
    worker = Daemon(tmp_path / "home", "--only", "work")
    with running(receiver):
        send(receiver.port, 4)
        assert scored(receiver) == 0, "nobody works yet"
        with running(worker):
            wait_until(lambda: scored(receiver) == 4)
            send(receiver.port, 4, seed=1)
            wait_until(lambda: scored(receiver) == 8)
            assert worker.stop() == 0
        assert receiver.stop() == 0


def test_images_are_taken_by_folder_and_by_hand_as_well(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "medd.toml").write_text('[[inbox]]\npath = "inbox"\nsettle_s = 0.2\nrescan_s = 1\n')
    films = list(cheap_series(3, rows=64, columns=64))
    with running(Daemon(home)) as daemon:
        (home / "inbox" / "ward 3").mkdir(parents=True)
        (home / "inbox" / "ward 3" / "film without extension").write_bytes(films[0])
        (home / "inbox" / "copy.dcm").write_bytes(films[0])
        (home / "inbox" / "other.dcm.part").write_bytes(films[2])
        (tmp_path / "by-hand.dcm").write_bytes(films[1])
        done = daemon.medd("ingest", str(tmp_path / "by-hand.dcm"))
        assert done.returncode == 0, done.stderr
        wait_until(lambda: scored(daemon) == 2)
        wait_until((home / "inbox" / "done" / "ward 3" / "film without extension").exists)
        wait_until((home / "inbox" / "done" / "copy.dcm").exists)
        time.sleep(1.5)  # a rescan more
        assert scored(daemon) == 2, "the same bytes twice are one instance, an unfinished file is none"
        assert (home / "inbox" / "other.dcm.part").exists()


def test_results_of_a_stopped_daemon_can_be_read_and_a_new_start_changes_nothing(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "home")
    with running(daemon):
        send(daemon.port, 3)
        wait_until(lambda: scored(daemon) == 3)
    before = daemon.medd("results", "--format", "json")
    assert before.returncode == 0
    assert before.stdout.count('"scored"') == 3
    with running(daemon):
        send(daemon.port, 3)
        time.sleep(1)
    assert daemon.medd("results", "--format", "json").stdout == before.stdout


@pytest.mark.skipif(not SHIPPED.exists(), reason="the default bundle is not trained yet")
def test_the_demo_runs_through_and_leaves_its_results(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MEDD_")}
    command = [sys.executable, "-m", "medd", "demo", "--home", str(tmp_path / "demo")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "the worklist" in done.stdout
    assert (tmp_path / "demo" / "medd.db").exists()
    assert "Traceback" not in done.stdout + done.stderr
