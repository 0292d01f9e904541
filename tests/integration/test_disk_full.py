"""The disk is full: the sender is told to come again, what was accepted is there, and with space all goes on."""

import os
import resource
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from medd.testing import cheap_series
from tests.support import Daemon, RawSender, running, uid_in, wait_until

SIDE = 512  # 512 KiB of pixels


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"a small tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def send(daemon: Daemon, films: list[bytes]) -> list[tuple[int, str]]:
    with RawSender(daemon.port) as sender:
        sender.associate()
        answers = [sender.store(film, uid_in(film)) for film in films]
        assert sender.echo() == 0
        sender.release()
    return answers


def scored(daemon: Daemon) -> set[str]:
    return {uid for (uid,) in daemon.query("SELECT sop_instance_uid FROM results WHERE status = 'scored'")}


def assert_told_to_come_again(answers: list[tuple[int, str]]) -> tuple[int, int]:
    """Some were stored, some refused for want of space, and nothing else; how many of each."""
    stored = [answer for answer in answers if answer[0] == 0x0000]
    refused = [answer for answer in answers if answer[0] == 0xA700]
    assert len(stored) + len(refused) == len(answers), answers
    assert all(comment for _, comment in refused)
    return len(stored), len(refused)


def test_a_full_spool_is_a700_and_the_same_images_are_taken_when_there_is_space(
    tmp_path: Path, small_disk: Path
) -> None:
    films = list(cheap_series(14, rows=SIDE, columns=SIDE, part10=False))
    large = list(cheap_series(2, rows=1024, columns=1024, seed=1, part10=False))  # these begin on the disk at once
    ballast = small_disk / "ballast"
    whole = {"MEDD_SPOOL__PATH": str(small_disk / "spool"), "MEDD_SPOOL__MIN_FREE_MIB": "0"}
    with running(Daemon(tmp_path / "home", **whole)) as daemon:
        ballast.write_bytes(bytes(4 << 20))
        first = send(daemon, films + large)
        stored, refused = assert_told_to_come_again(first)
        assert stored >= 4
        assert refused >= 4
        assert [status for status, _ in first[-2:]] == [0xA700, 0xA700]
        assert "No space left" in first[-1][1]
        accepted = {uid_in(film) for film, (status, _) in zip(films, first, strict=False) if status == 0x0000}
        wait_until(lambda: scored(daemon) == accepted)
        assert not list((small_disk / "spool" / "incoming").iterdir()), "what did not fit is not left lying about"
        files = list((small_disk / "spool").glob("??/*.dcm"))
        assert len(files) == stored
        ballast.unlink()
        again = send(daemon, films[: stored + 4])
        assert {status for status, _ in again} == {0x0000}
        wait_until(lambda: scored(daemon) == {uid_in(film) for film in films[: stored + 4]} | accepted)
        assert daemon.query("SELECT count(*) FROM instance") == [(len(scored(daemon)),)]
    assert "Traceback" not in daemon.log.read_text()


def test_a_full_disk_below_the_whole_home_is_a700_too(tmp_path: Path, small_disk: Path) -> None:
    films = list(cheap_series(200, rows=64, columns=64, part10=False))
    with running(Daemon(small_disk / "home", MEDD_LOG__LEVEL="ERROR", MEDD_SPOOL__MIN_FREE_MIB="0")) as daemon:
        ballast = small_disk / "ballast"
        disk = os.statvfs(small_disk)
        ballast.write_bytes(bytes(disk.f_bavail * disk.f_frsize - (600 << 10)))
        _, refused = assert_told_to_come_again(send(daemon, films))
        assert refused >= 50
        ballast.unlink()
        assert {status for status, _ in send(daemon, films)} == {0x0000}
        wait_until(lambda: scored(daemon) == {uid_in(film) for film in films}, 60)
        assert daemon.query("SELECT count(*) FROM instance") == [(200,)]
        assert daemon.query("SELECT count(*) FROM prediction") == [(200,)]


def test_images_are_refused_before_the_disk_is_full_and_those_taken_are_scored(
    tmp_path: Path, small_disk: Path
) -> None:
    films = list(cheap_series(12, rows=SIDE, columns=SIDE, part10=False))
    with running(Daemon(small_disk / "home", MEDD_SPOOL__MIN_FREE_MIB="4")) as daemon:
        first = []
        while not first or first[-1][0] == 0x0000:
            first += send(daemon, [films[len(first)]])
            time.sleep(0.5)  # it looks once a second
        assert first[-1] == (0xA700, "spool: less than 4 MiB free on its disk (spool.min_free_mib)")
        taken = films[: len(first) - 1]
        assert taken
        disk = os.statvfs(small_disk)
        assert disk.f_bavail * disk.f_frsize > 2 << 20
        wait_until(lambda: scored(daemon) == {uid_in(film) for film in taken})
        (daemon.home / "inbox" / "film.dcm").write_bytes(next(iter(cheap_series(1, rows=64, columns=64, seed=5))))
        wait_until(lambda: "spool.min_free_mib" in daemon.log.read_text())
        assert (daemon.home / "inbox" / "film.dcm").exists(), "what waits in a folder waits there"
        subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
        wait_until(lambda: send(daemon, [films[len(taken)]])[0][0] == 0x0000)
        wait_until(lambda: len(scored(daemon)) == len(taken) + 2, 60)


def test_images_are_refused_while_too_many_wait(tmp_path: Path) -> None:
    films = list(cheap_series(200, rows=64, columns=64, part10=False))
    with running(Daemon(tmp_path / "home", "--only", "receive", MEDD_SPOOL__MAX_WAITING="5")) as daemon:
        answers = []
        while not answers or answers[-1][0] == 0x0000:
            answers += send(daemon, [films[len(answers)]])
            time.sleep(0.1)  # it looks once a second
        assert len(answers) > 6
        assert answers[-1] == (0xA700, "queue: more than 5 images wait (spool.max_waiting)")
        [(kept,)] = daemon.query("SELECT count(*) FROM instance")
        assert kept == len(answers) - 1


def test_a_file_that_may_not_grow_is_a700_and_smaller_images_go_on(tmp_path: Path) -> None:
    # Where nothing can be mounted: a limit on the size of files makes write() fail in the same place.
    daemon = Daemon(tmp_path / "home", "--only", "receive")
    daemon.start()
    try:
        assert daemon.process is not None
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        [large] = cheap_series(1, rows=1024, columns=1024, part10=False)
        small = list(cheap_series(3, rows=64, columns=64, seed=1, part10=False))
        answers = send(daemon, [small[0], large, small[1]])
        assert [status for status, _ in answers] == [0x0000, 0xA700, 0x0000]
        assert "File too large" in answers[1][1]
        assert not list((daemon.home / "spool" / "incoming").iterdir())
    finally:
        daemon.stop()
    with running(Daemon(tmp_path / "home")) as unlimited:
        assert [status for status, _ in send(unlimited, [large, *small])] == [0x0000] * 4
        wait_until(lambda: scored(unlimited) == {uid_in(film) for film in (large, *small)})
