"""`kill -9` of the receiver, the worker and the whole daemon while DCMTK's storescu sends, and what must hold after it.

Every image that was answered 0x0000 has one row, one finished job, one result and its bytes; nothing is there twice.
An image that was not answered is sent again, as a modality would.
"""

import contextlib
import hashlib
import os
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import sqlalchemy as sa

from medd.store.database import Database
from medd.store.spool import Spool
from medd.store.tables import instance, job, prediction
from medd.testing import cheap_series, stub_bundle, write_stub_plugin
from tests.support import Daemon, require, wait_until

VICTIMS = ("receive", "work", "daemon")
#: Longest wait for the next answer, for a restart, or for the last result, seconds.
PATIENCE_S = 120.0


@dataclass
class Report:
    """What happened."""

    rounds: int = 0
    images: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    #: Kills that cut an association off, and jobs that were claimed more than once: proof that something was hit.
    cut_off: int = 0
    claimed_again: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        kills = ", ".join(f"{count} × {victim}" for victim, count in sorted(self.kills.items()))
        return (
            f"{self.rounds} rounds, {self.images} images, each with one row and one result; killed: {kills}; "
            f"{self.cut_off} associations cut off, {self.claimed_again} jobs claimed again; {self.seconds:.0f} s"
        )


class Storescu:
    """DCMTK's storescu in a thread, started again until every file was answered with success."""

    def __init__(self, port: int, files: Sequence[Path]) -> None:
        [self._program] = require("storescu")
        self._port, self._files = port, list(files)
        #: Files that were answered 0x0000, in order.
        self.acknowledged: list[Path] = []
        self.cut_off = 0
        self.stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait_for(self, answers: int) -> None:
        wait_until(lambda: len(self.acknowledged) >= answers, PATIENCE_S, f"answer {answers}")

    def join(self) -> None:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), f"{len(self.acknowledged)} of {len(self._files)} images were answered"

    def _run(self) -> None:
        while not self.stop.is_set():
            done = set(self.acknowledged)
            left = [path for path in self._files if path not in done]
            if not left:
                return
            self._send(left)
            time.sleep(0.05)

    def _send(self, files: Sequence[Path]) -> None:
        command = [self._program, "-v", "-nh", "-td", "30", "-aec", "MEDD", "127.0.0.1", str(self._port)]
        environment = os.environ | {"TCP_NODELAY": "1"}
        sending: Path | None = None
        with subprocess.Popen(
            [*command, *map(str, files)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
        ) as scu:
            assert scu.stderr is not None
            established = False
            for line in scu.stderr:
                established = established or "Association Accepted" in line
                if line.startswith("I: Sending file: "):
                    sending = Path(line.removeprefix("I: Sending file: ").strip())
                elif "Received Store Response (Success)" in line and sending is not None:
                    self.acknowledged.append(sending)
                    sending = None
        self.cut_off += established and scu.returncode != 0


def prepare(home: Path, url: str) -> Daemon:
    """A daemon whose worker takes its time, so that a kill finds it at work."""
    (home / "plugins").mkdir(parents=True)
    write_stub_plugin(home / "plugins", stub_bundle(home / "stub-bundle", delay_s=0.05))
    return Daemon(home, MEDD_DATABASE__URL=url, MEDD_WORKER__BATCH_SIZE="8", MEDD_WORKER__POLL_S="0.05")


def run(home: Path, url: str, *, rounds: int, images: int, seed: int, kills_per_round: int) -> Report:
    """Kill parts, each as often as the others, at random moments while `images` images are sent; check every round."""
    chance = random.Random(seed)
    victims: list[str] = []
    daemon, database, report = prepare(home / "home", url), Database(url), Report()
    began = time.monotonic()
    daemon.start()
    try:
        for number in range(rounds):
            folder = home / f"round-{number}"
            folder.mkdir()
            files = [folder / f"{place:04d}.dcm" for place in range(images)]
            for path, data in zip(files, cheap_series(images, rows=64, columns=64, seed=number), strict=True):
                path.write_bytes(data)
            sender = Storescu(daemon.port, files)
            try:
                for moment in sorted(chance.sample(range(images), kills_per_round)):
                    victims = victims or chance.sample(VICTIMS, len(VICTIMS))
                    victim = victims.pop()
                    sender.wait_for(moment)
                    time.sleep(chance.uniform(0, 0.01))
                    kill(daemon, victim)
                    report.kills[victim] += 1
                sender.join()
            finally:
                sender.stop.set()
            report.rounds, report.images = report.rounds + 1, report.images + images
            report.cut_off += sender.cut_off
            wait_until(lambda: unfinished(database) == 0, PATIENCE_S, "the last result")
            check(database, Spool(daemon.home / "spool"), sender.acknowledged, report.images)
        assert daemon.stop() == 0
        with database.read() as connection:
            report.claimed_again = connection.scalar(sa.select(sa.func.count()).where(job.c.attempts > 1)) or 0
    except BaseException:
        print(daemon.log.read_text()[-5000:])
        raise
    finally:
        if daemon.process is not None:
            daemon.stop()
        database.close()
    report.seconds = time.monotonic() - began
    return report


def kill(daemon: Daemon, victim: str) -> None:
    """`kill -9`; the whole daemon is started again, its parts start again by themselves."""
    if victim == "daemon":
        assert daemon.process is not None
        family = [daemon.process.pid, *daemon.children().values()]
        for process_id in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process_id, 9)
        daemon.kill()
        daemon.start()
        return
    process_id = wait_until(lambda: daemon.children().get(victim), PATIENCE_S, f"the start of {victim}")
    process = psutil.Process(process_id)
    process.kill()


def unfinished(database: Database) -> int:
    with database.read() as connection:
        return connection.scalar(sa.select(sa.func.count()).where(job.c.state.in_(("pending", "running")))) or 0


def check(database: Database, spool: Spool, acknowledged: Sequence[Path], images_so_far: int) -> None:
    """Assert what must hold of the images that were just answered, and that there is nothing else."""
    with database.read() as connection:
        rows = connection.execute(
            sa.select(
                instance.c.sop_instance_uid,
                instance.c.sha256,
                instance.c.media_type,
                instance.c.status,
                sa.select(sa.func.count()).where(prediction.c.instance_id == instance.c.id).scalar_subquery(),
                sa.select(sa.func.count())
                .where(job.c.instance_id == instance.c.id, job.c.state == "done")
                .scalar_subquery(),
            )
        ).all()
    assert len(rows) == images_so_far, f"{images_so_far} images make as many rows. Received: {len(rows)}"
    by_digest = {row.sha256: row for row in rows}
    assert len(by_digest) == len(rows)
    for path in acknowledged:
        data = path.read_bytes()
        dataset = data[144 + int.from_bytes(data[140:144], "little") :]
        digest = hashlib.sha256(dataset).hexdigest()
        assert digest in by_digest, f"{path.name} was answered with success and has no row"
        row = by_digest[digest]
        assert (row[3], row[4], row[5]) == ("scored", 1, 1), f"{path.name}: status, results, jobs. Received: {row[3:]}"
        assert spool.path(digest, row.media_type).read_bytes().endswith(dataset), f"{path.name}: other bytes"
