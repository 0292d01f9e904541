"""What faults are done to: a whole daemon on either database, a spool on a small disk, an archive, and the load."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import psutil
import sqlalchemy as sa

from medd.store.database import Database, check_schema
from medd.store.tables import delivery, instance, job, prediction, sent
from medd.testing import stub_bundle
from tests.support import ROOT, Daemon, PostgresServer, free_port, require, wait_until

#: Longest wait for anything to come back, seconds.
PATIENCE_S = 180.0
#: The latter is more than a worker takes to load its decoders on a machine that is busy with other things.
LEASE_S, STUCK_S = 3.0, 30.0
SETTINGS = """
[listener]
network_timeout_s = 5
association_timeout_s = 5
[spool]
path = "{spool}"
min_free_mib = {min_free_mib}
[worker]
lease_s = {lease_s}
stuck_s = {stuck_s}
batch_size = 8
poll_s = 0.05
threads = 1
[study]
quiet_s = 0.2
max_wait_s = 2
[deliver]
poll_s = 0.1
lease_s = 5
[[destination]]
type = "pacs"
name = "archive"
host = "127.0.0.1"
port = {archive}
ae_title = "ARCHIVE"
timeout_s = 5
send = ["sr"]
[[destination]]
type = "folder"
formats = ["json"]
"""


class Archive:
    """DCMTK's storescp, which can be away."""

    def __init__(self, folder: Path) -> None:
        [self._program] = require("storescp")
        folder.mkdir()
        self.folder, self.port = folder, free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [self._program, "--fork", "-aet", "ARCHIVE", "-od", str(self.folder), str(self.port)]
        environment = os.environ | {"TCP_NODELAY": "1"}
        with (self.folder.parent / "archive.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


class Rig:
    """All of it."""

    def __init__(self, folder: Path, kind: str, *, min_free_mib: int, rate: float, disk_mib: int = 512) -> None:
        self.folder, self.kind, self.rate = folder, kind, rate
        self.home, self.switches = folder / "home", folder / "home" / "switches"
        self.switches.mkdir(parents=True)
        self.journal = folder / "journal.jsonl"
        self.disk = folder / "disk"
        self.disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={disk_mib}m", "tmpfs", str(self.disk)]
        #: Whether the spool lies on a disk of its own, that can be filled and made read-only.
        self.has_disk = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        self.archive = Archive(folder / "archive")
        self.server: PostgresServer | None = None
        url = f"sqlite:///{self.home / 'medd.db'}"
        if kind == "postgresql":
            self.server = PostgresServer(durable=True)
            self.server.start()
            url = self.server.url()
        self.bundle = stub_bundle(self.home / "stub-bundle")
        plugins = self.home / "plugins"
        plugins.mkdir()
        (plugins / "chaos_plugin.py").write_text("from tests.chaos.model import *\n")
        keys = {"spool": self.disk / "spool", "min_free_mib": min_free_mib, "archive": self.archive.port}
        (self.home / "medd.toml").write_text(SETTINGS.format(lease_s=LEASE_S, stuck_s=STUCK_S, **keys))
        environment = {"CHAOS_SWITCHES": str(self.switches), "PYTHONPATH": str(ROOT), "MEDD_DATABASE__URL": url}
        self.daemon = Daemon(self.home, **environment)
        self.database = Database(url)
        self._load: subprocess.Popen[bytes] | None = None
        self._read = self._answered = 0
        self.began = datetime.now(UTC)

    def start(self) -> None:
        check_schema(self.database)
        self.archive.start()
        self.daemon.start()
        for stage in ("receive", "work", "deliver"):
            self.child(stage)

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.stop_load()
        if self.daemon.process is not None:
            self.daemon.stop()
        self.archive.stop()
        self.database.close()
        if self.server is not None:
            self.server.remove()
        if self.has_disk:
            subprocess.run(["umount", "-l", str(self.disk)], check=False)

    def child(self, stage: str) -> psutil.Process:
        return psutil.Process(wait_until(lambda: self.daemon.children().get(stage), PATIENCE_S, f"start of {stage}"))

    # -- load ----------------------------------------------------------------------------------------------------------

    def start_load(self, seed: int) -> None:
        command = [sys.executable, "-m", "medd", "load", f"MEDD@127.0.0.1:{self.daemon.port}", "--count", "0"]
        command += ["--rate", str(self.rate), "--senders", "4", "--size", "64", "--seed", str(seed), "--bad", "0.05"]
        command += ["--per-association", "50", "--images-per-study", "10", "--retry-s", str(PATIENCE_S)]
        command += ["--timeout-s", "10", "--journal", str(self.journal), "--yes-send-to", "127.0.0.1"]
        with (self.folder / "load.log").open("ab") as log:
            self._load = subprocess.Popen(command, stdout=log, stderr=log, env=self.daemon.environment)
        wait_until(lambda: self.answered(), PATIENCE_S, "the first answer")

    def stop_load(self) -> None:
        if self._load is not None:
            self._load.send_signal(signal.SIGINT)
            self._load.wait(60)
            self._load = None

    def answered(self) -> int:
        """Images that were answered with success so far."""
        if self.journal.exists():
            with self.journal.open("rb") as journal:
                journal.seek(self._read)
                lines, _, begun = journal.read().rpartition(b"\n")
                self._answered += lines.count(b'"status": "0x0000"')
                self._read = journal.tell() - len(begun)
        return self._answered

    # -- what it has come to -------------------------------------------------------------------------------------------

    def count(self, table: sa.Table, *where: sa.ColumnElement[bool]) -> int:
        with self.database.read() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(table).where(*where)) or 0

    def progress(self) -> dict[str, Callable[[], int]]:
        """What grows while all is well."""
        return {
            "answers": self.answered,
            "results": lambda: self.count(prediction),
            "deliveries": lambda: self.count(sent),
        }

    def recovery(self) -> dict[str, float]:
        """Seconds from now until there is the next answer, result and delivery."""
        began, meters, taken = time.monotonic(), self.progress(), {}
        before = {name: meter() for name, meter in meters.items()}
        while len(taken) < len(meters):
            for name, meter in meters.items():
                if name not in taken and meter() > before[name]:
                    taken[name] = time.monotonic() - began
            stuck = sorted(meters.keys() - taken.keys())
            assert time.monotonic() - began < PATIENCE_S, f"stuck: no {', '.join(stuck)} for {PATIENCE_S:.0f} s"
            time.sleep(0.02)
        return taken

    def wait_for_quiet(self) -> None:
        """Wait until nothing waits or runs, as long as it becomes less."""
        fewest, since = 1 << 62, time.monotonic()
        while left := sum(self.count(table, table.c.state.in_(("pending", "running"))) for table in (job, delivery)):
            if left < fewest:
                fewest, since = left, time.monotonic()
            assert time.monotonic() - since < PATIENCE_S, f"stuck: {left} jobs and deliveries do not end"
            time.sleep(0.1)

    def check(self) -> tuple[int, int]:
        """Assert that nothing is lost, doubled or stuck; returns images answered so far, and files that had no row."""
        stuck = self.count(job, job.c.state == "dead") + self.count(delivery, delivery.c.state == "dead")
        assert stuck == 0, f"{stuck} jobs or deliveries were given up"
        # What nobody was told that we have may lie there without a row; that, and nothing else, may have to be mended.
        mended = self.reconcile("--mend", "--young-s", "2")
        found = {one["check"]: one["found"] for one in mended["checks"] if one["found"]}
        orphans = found.pop("spool", 0)
        assert not found, mended
        assert mended["clean"], mended
        self.wait_for_quiet()
        again = self.reconcile("--verify")
        assert again["clean"], again
        with self.database.read() as connection:
            uids = connection.scalar(sa.select(sa.func.count(instance.c.sop_instance_uid.distinct())))
            held = set(connection.scalars(sa.select(sent.c.object).where(sent.c.destination == "archive")))
        assert self.count(instance) == uids, "an image is there twice"
        files = [path for path in self.archive.folder.iterdir() if path.is_file()]
        assert len(files) == len(held), f"{len(held)} objects acknowledged, {len(files)} in the archive"
        return self.answered(), orphans

    def reconcile(self, *options: str) -> dict:
        since = self.began.isoformat()
        done = self.daemon.medd(
            *("reconcile", "--journal", str(self.journal), "--told-since", since, "--format", "json"), *options
        )
        assert done.stdout, done.stderr
        return json.loads(done.stdout)
