"""A hospital group in one machine: a receiver, two workers, PostgreSQL and an S3 server, a host each, under load."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from medd.store.database import Database, check_schema
from medd.store.tables import instance, job, prediction
from medd.testing import stub_bundle, write_stub_plugin
from tests.bucket import CREDENTIALS, S3Server
from tests.cluster.fabric import Fabric, Host
from tests.support import Daemon, PostgresServer, wait_until

#: Longest wait for anything to come back, seconds: a host that was cut off finds out after 20 s (medd.store.database).
PATIENCE_S = 180.0
LEASE_S = 5


class Server(PostgresServer):
    """PostgreSQL on a host."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self.host, self.prefix = host.address, host.prefix
        with (self.folder / "data" / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {host.address}/24 trust\n")


class Member:
    """A host with its daemon."""

    def __init__(self, host: Host, daemon: Daemon) -> None:
        self.host, self.daemon = host, daemon
        daemon.prefix = host.prefix

    def start(self) -> None:
        self.daemon.start()

    def kill(self) -> None:
        self.host.kill()
        self.daemon.kill()


class Rig:
    """All of it. The load and `medd reconcile` are ours, at the bridge."""

    def __init__(self, folder: Path, *, delay_s: float = 0.02, rate: float = 20.0) -> None:
        self.folder, self.rate, self.journal = folder, rate, folder / "journal.jsonl"
        self.fabric = Fabric()
        self.store, self.base = self.fabric.host("s3"), self.fabric.host("db")
        self.s3 = S3Server(self.store.address).start(*self.store.prefix).wait()
        self.server = Server(self.base)
        self.server.start()
        self._bundle = stub_bundle(folder / "stub-bundle", delay_s=delay_s)
        self.receiver = self._member("receiver", "--only", "receive")
        self.workers = [self._member(f"worker{n}", "--only", "work") for n in (1, 2)]
        self.admin = self._daemon("admin")
        os.environ.update(CREDENTIALS)
        self.database = Database(self.server.url())
        check_schema(self.database)
        self._load: subprocess.Popen[bytes] | None = None

    def _daemon(self, name: str, *arguments: str) -> Daemon:
        home = self.folder / name
        (home / "plugins").mkdir(parents=True)
        write_stub_plugin(home / "plugins", self._bundle)
        shared = self.s3.settings() | {"MEDD_DATABASE__URL": self.server.url(), "MEDD_LISTENER__HOST": "0.0.0.0"}
        limits = {"MEDD_WORKER__LEASE_S": str(LEASE_S), "MEDD_WORKER__BATCH_SIZE": "4", "MEDD_WORKER__POLL_S": "0.05"}
        return Daemon(home, *arguments, **shared, **limits, MEDD_LISTENER__NETWORK_TIMEOUT_S="5")

    def _member(self, name: str, *arguments: str) -> Member:
        return Member(self.fabric.host(name), self._daemon(name, *arguments))

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.stop_load()
        self.database.close()
        self.fabric.remove()
        for member in (self.receiver, *self.workers):
            if member.daemon.process is not None:
                member.daemon.kill()
        self.s3.stop()
        self.server.remove()

    # -- load ----------------------------------------------------------------------------------------------------------

    def load_command(self, count: int, rate: float, seed: int) -> list[str]:
        where = f"MEDD@{self.receiver.host.address}:{self.receiver.daemon.port}"
        command = [sys.executable, "-m", "medd", "load", where, "--count", str(count), "--rate", str(rate)]
        command += ["--senders", "4", "--size", "64", "--seed", str(seed), "--per-association", "50"]
        command += ["--images-per-study", "10", "--retry-s", str(PATIENCE_S), "--timeout-s", "30"]
        return [*command, "--journal", str(self.journal), "--yes-send-to", self.receiver.host.address]

    def send(self, count: int, seed: int) -> None:
        """Send so many images and wait until each is answered."""
        command = self.load_command(count, 0, seed)
        done = subprocess.run(command, env=self.admin.environment, capture_output=True, check=False, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def start_load(self, seed: int) -> None:
        with (self.folder / "load.log").open("ab") as log:
            command = self.load_command(0, self.rate, seed)
            self._load = subprocess.Popen(command, stdout=log, stderr=log, env=self.admin.environment)

    def stop_load(self) -> None:
        if self._load is not None:
            self._load.send_signal(signal.SIGINT)
            self._load.wait(PATIENCE_S)
            self._load = None

    def answered(self) -> int:
        """Images that were answered with success so far."""
        return self.journal.read_bytes().count(b'"status": "0x0000"') if self.journal.exists() else 0

    # -- what it has come to -------------------------------------------------------------------------------------------

    def count(self, table: sa.Table, *where: sa.ColumnElement[bool]) -> int:
        with self.database.read() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(table).where(*where)) or 0

    def recovery(self) -> dict[str, float]:
        """Seconds from now until there is the next answer and the next result."""
        meters: dict[str, Callable[[], int]] = {"answers": self.answered, "results": lambda: self.count(prediction)}
        began, taken = time.monotonic(), dict[str, float]()
        before = {name: meter() for name, meter in meters.items()}
        while len(taken) < len(meters):
            for name, meter in meters.items():
                if name not in taken and meter() > before[name]:
                    taken[name] = time.monotonic() - began
            assert time.monotonic() - began < PATIENCE_S, f"stuck: {sorted(meters.keys() - taken.keys())}"
            time.sleep(0.1)
        return taken

    def wait_for_quiet(self) -> None:
        """Wait until nothing waits or runs."""
        unfinished = job.c.state.in_(("pending", "running"))
        wait_until(lambda: self.count(job, unfinished) == 0, PATIENCE_S, "the end of every job")

    def check(self) -> int:
        """Assert that nothing is lost, doubled or stuck; returns the images answered so far."""
        self.wait_for_quiet()
        assert self.count(job, job.c.state == "dead") == 0
        # Before anything is mended: what was answered with success is in the database and in the bucket.
        asked = self.admin.medd(
            "reconcile", "--journal", str(self.journal), "--format", "json", timeout_s=PATIENCE_S * 4
        )
        (answered,) = (one for one in json.loads(asked.stdout)["checks"] if one["check"] == "journal")
        assert answered["looked_at"] >= self.answered() > 0, answered
        assert not answered["found"], answered
        done = self.admin.medd(
            *("reconcile", "--mend", "--verify", "--young-s", "0", "--journal", str(self.journal), "--format", "json"),
            timeout_s=PATIENCE_S * 4,
        )
        assert done.stdout, done.stderr
        told = json.loads(done.stdout)
        # What was put into the bucket and never answered may lie there without a row; nothing else is to be found.
        found = {one["check"]: one for one in told["checks"] if one["found"] and one["check"] != "spool"}
        assert not found, told
        assert told["clean"], told
        self.wait_for_quiet()
        with self.database.read() as connection:
            uids = connection.scalar(sa.select(sa.func.count(instance.c.sop_instance_uid.distinct())))
        images = self.count(instance)
        assert images == uids, "an image is there twice"
        assert self.count(prediction) == images, "not one result for each image"
        assert images >= self.answered()
        return self.answered()
