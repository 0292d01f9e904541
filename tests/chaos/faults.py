"""What can go wrong. Each fault is done, lasts a while, and ends; from then on it is measured how long things take."""

import contextlib
import os
import random
import signal
import socket
import sqlite3
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import psutil
import sqlalchemy as sa

from medd.store.tables import delivery, job
from tests.chaos.rig import LEASE_S, PATIENCE_S, Rig
from tests.support import associate_rq, wait_until

Fault = Callable[[Rig, random.Random], None]


def kill_receiver(rig: Rig, chance: random.Random) -> None:
    """`kill -9` of the receiver."""
    rig.child("receive").kill()


def kill_worker(rig: Rig, chance: random.Random) -> None:
    """`kill -9` of the worker."""
    rig.child("work").kill()


def kill_deliverer(rig: Rig, chance: random.Random) -> None:
    """`kill -9` of the deliverer."""
    rig.child("deliver").kill()


def kill_daemon(rig: Rig, chance: random.Random) -> None:
    """`kill -9` of the whole daemon, which is then started again."""
    assert rig.daemon.process is not None
    for process_id in (rig.daemon.process.pid, *rig.daemon.children().values()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGKILL)
    rig.daemon.kill()
    rig.daemon.start()


def freeze_worker(rig: Rig, chance: random.Random) -> None:
    """SIGSTOP of the worker for longer than its lease."""
    worker = rig.child("work")
    worker.suspend()
    time.sleep(LEASE_S + chance.uniform(1, 2))
    with contextlib.suppress(psutil.NoSuchProcess):
        worker.resume()


def hang_model(rig: Rig, chance: random.Random) -> None:
    """The model hangs in a batch, for ever; counted from there."""
    _hang(rig, "model-hangs")


def hang_plugin(rig: Rig, chance: random.Random) -> None:
    """A plugin never returns when it is told of an image, a result or a delivery; counted from there."""
    _hang(rig, f"plugin-hangs-in-{chance.choice(('receive', 'work', 'deliver'))}")


def _hang(rig: Rig, name: str) -> None:
    path = rig.switches / name
    path.touch()
    wait_until(lambda: not path.exists(), PATIENCE_S, f"{name}: to be met")


def raise_in_plugin(rig: Rig, chance: random.Random) -> None:
    """A plugin raises whenever it is told of anything, for 2 to 3 s."""
    (rig.switches / "plugin-raises").touch()
    time.sleep(chance.uniform(2, 3))
    (rig.switches / "plugin-raises").unlink()


def stop_database(rig: Rig, chance: random.Random) -> None:
    """PostgreSQL stopped at once (SIGQUIT), started again after 1 to 4 s."""
    assert rig.server is not None
    rig.server.stop(signal.SIGQUIT)
    time.sleep(chance.uniform(1, 4))
    rig.server.start()


def lock_database(rig: Rig, chance: random.Random) -> None:
    """Another process holds the database's write lock for 2 to 5 s (SQLite), or the tables' (PostgreSQL)."""
    seconds = chance.uniform(2, 5)
    if rig.server is None:
        with contextlib.closing(sqlite3.connect(rig.home / "medd.db", timeout=30, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            time.sleep(seconds)
            connection.execute("ROLLBACK")
        return
    with rig.database.engine.begin() as connection:
        connection.execute(sa.text("LOCK TABLE instance, job, delivery IN ACCESS EXCLUSIVE MODE"))
        time.sleep(seconds)


def fill_disk(rig: Rig, chance: random.Random) -> None:
    """The spool's disk is full for 2 to 4 s."""
    ballast = rig.disk / "ballast"
    with ballast.open("wb") as file:
        free = os.statvfs(rig.disk)
        with contextlib.suppress(OSError):  # the receiver was faster with the last of it
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize)
    time.sleep(chance.uniform(2, 4))
    ballast.unlink()


def make_spool_read_only(rig: Rig, chance: random.Random) -> None:
    """The spool's disk is read-only for 2 to 4 s."""
    wait_until(lambda: _remount(rig, "ro"), PATIENCE_S, "a moment without an open file")
    time.sleep(chance.uniform(2, 4))
    assert _remount(rig, "rw")


def _remount(rig: Rig, how: str) -> bool:
    command = ["mount", "-o", f"remount,{how}", str(rig.disk)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def stop_archive(rig: Rig, chance: random.Random) -> None:
    """The archive that results go to is away for 2 to 5 s."""
    rig.archive.stop()
    time.sleep(chance.uniform(2, 5))
    rig.archive.start()


def open_by_halves(rig: Rig, chance: random.Random) -> None:
    """40 peers send half a PDU, or nothing, and fall silent; they stay until medd is rid of them."""
    with _silent(rig, 40, chance):
        time.sleep(1)


@contextmanager
def _silent(rig: Rig, count: int, chance: random.Random) -> Iterator[None]:
    request = associate_rq({1: ("1.2.840.10008.1.1", ("1.2.840.10008.1.2",))})
    with contextlib.ExitStack() as stack:
        for number in range(count):
            try:
                peer = stack.enter_context(socket.create_connection(("127.0.0.1", rig.daemon.port), timeout=5))
                # Nothing; half of a request; an association, and then half of a command.
                half = chance.randrange(len(request))
                sent = (b"", request[:half], request + struct.pack(">BxII", 4, 100, 96))[number % 3]
                peer.sendall(sent)
            except OSError:  # closed already, in favour of others
                continue
        yield


def step_clock(rig: Rig, chance: random.Random) -> None:
    """The clock is put back by 3 h: all moments of what waits and runs lie 3 h ahead."""
    ahead = datetime.now(UTC) + timedelta(hours=3)
    with rig.database.write() as connection:
        for table in (job, delivery):
            running, waiting = table.c.state == "running", table.c.state == "pending"
            connection.execute(table.update().where(running).values(lease_until=ahead))
            connection.execute(table.update().where(waiting).values(available_at=ahead))
        connection.execute(delivery.update().where(delivery.c.state == "pending").values(due_by=ahead))


def spoil_bundle(rig: Rig, chance: random.Random) -> None:
    """The model's bundle is overwritten by garbage, the worker killed, the bundle mended after 3 to 5 s."""
    before = {path: path.read_bytes() for path in rig.bundle.iterdir()}
    for path in before:
        path.write_bytes(chance.randbytes(200))
    rig.recovery()  # what is loaded goes on
    rig.child("work").kill()
    time.sleep(chance.uniform(3, 5))
    for path, data in before.items():
        path.write_bytes(data)


ALWAYS: tuple[Fault, ...] = (
    kill_receiver,
    kill_worker,
    kill_deliverer,
    kill_daemon,
    freeze_worker,
    hang_model,
    hang_plugin,
    raise_in_plugin,
    lock_database,
    stop_archive,
    open_by_halves,
    step_clock,
    spoil_bundle,
)
ON_A_DISK: tuple[Fault, ...] = (fill_disk, make_spool_read_only)
POSTGRESQL: tuple[Fault, ...] = (stop_database,)


def faults_of(rig: Rig) -> list[Fault]:
    """All that can be done to a rig."""
    return [*ALWAYS, *(ON_A_DISK if rig.has_disk else ()), *(POSTGRESQL if rig.server is not None else ())]
