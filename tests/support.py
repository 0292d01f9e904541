"""What the tests share: real peers, real processes."""

import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"


def require(*programs: str) -> list[str]:
    """Paths of programs; the test is skipped where one is missing, or fails with MEDD_REQUIRE_PEERS=1."""
    search = os.environ["PATH"] + ":/usr/sbin:" + ":".join(map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"))))
    found = {program: shutil.which(program, path=search) for program in programs}
    missing = [program for program, path in found.items() if path is None]
    if missing:
        message = f"{', '.join(missing)} not installed"
        if os.environ.get("MEDD_REQUIRE_PEERS") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return [str(path) for path in found.values()]


def free_port() -> int:
    """A TCP port of the loopback interface that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], Any], timeout_s: float = 30, what: str = "condition") -> Any:
    """Wait for a condition to become true and return its value."""
    deadline = time.monotonic() + timeout_s
    while True:
        if value := condition():
            return value
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout_s} s"
        time.sleep(0.02)


class PostgresServer:
    """A private PostgreSQL server on a Unix socket and a loopback port, with its data in a temporary folder."""

    def __init__(self, *, durable: bool = False) -> None:
        self.initdb, self.server, self.psql = require("initdb", "postgres", "psql")
        self.folder = Path(tempfile.mkdtemp(prefix="medd-pg-"))
        self.port = free_port()
        self._durable = durable
        # PostgreSQL refuses to run as root; Debian's package made a user for it.
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
            self._user = {"user": "postgres", "group": "postgres", "extra_groups": []}
        options = ["--auth=trust", "--username=medd", "--encoding=UTF8", "--no-sync", "-D", self._data]
        subprocess.run([self.initdb, *options], check=True, capture_output=True, cwd="/", **self._user)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    def url(self, database: str = "postgres") -> str:
        return f"postgresql+psycopg://medd@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        options = ["-D", self._data, "-p", str(self.port), "-h", "127.0.0.1", "-k", str(self.folder)]
        options += [] if self._durable else ["-c", "fsync=off"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([self.server, *options], stdout=log, stderr=log, cwd="/", **self._user)
        wait_until(self.answers, what="PostgreSQL's start")

    def answers(self) -> bool:
        command = [self.psql, "-qAt", "-h", "127.0.0.1", "-p", str(self.port), "-U", "medd", "-c", "SELECT 1", "postgres"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def execute(self, sql: str, database: str = "postgres") -> str:
        command = [self.psql, "-qAt", "-h", "127.0.0.1", "-p", str(self.port), "-U", "medd", "-c", sql, database]
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()

    def stop(self, how: int = signal.SIGINT) -> None:
        """SIGINT is PostgreSQL's fast shutdown: sessions are cut off."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(30)
            self.process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class Daemon:
    """A real `medd serve` in a process of its own, with the stub classifier unless told otherwise."""

    def __init__(self, home: Path, *arguments: str, classifier: str = "stub", **environment: str) -> None:
        from medd.testing import stub_bundle, write_stub_plugin

        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        if classifier == "stub" and not (home / "plugins").exists():
            (home / "plugins").mkdir()
            write_stub_plugin(home / "plugins", stub_bundle(home / "stub-bundle"))
        self.port = free_port()
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("MEDD_")}
        self.environment |= {
            "MEDD_HOME": str(home),
            "MEDD_LISTENER__PORT": str(self.port),
            "MEDD_MODEL__CLASSIFIER": classifier,
            "PYTHONUNBUFFERED": "1",
            **environment,
        }
        self._arguments = arguments
        self.log = home / "log.txt"
        self.process: subprocess.Popen[str] | None = None

    def start(self, *, ready: bool = True) -> "Daemon":
        with self.log.open("a") as log:
            command = [sys.executable, "-m", "medd", "serve", *self._arguments]
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=self.environment
            )
        if ready:
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
            assert line.startswith("ready:"), f"no ready line but {line!r}; log:\n{self.log.read_text()}"
        return self

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(60)
        if self.process.stdout:
            self.process.stdout.close()
        self.process = None
        return code

    def kill(self) -> None:
        """kill -9 of the supervisor; its children are to notice by themselves."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
        self.process = None

    def children(self) -> dict[str, int]:
        """Process ids of the stages, by name: "receive", "work"."""
        import psutil

        assert self.process is not None
        found = {}
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.Error):
                line = child.cmdline()
                if "stage" in line:
                    found[line[line.index("stage") + 1]] = child.pid
        return found

    def medd(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command of medd on the same home."""
        command = [sys.executable, "-m", "medd", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=self.environment, check=False, timeout=120)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the daemon's SQLite database."""
        with contextlib.closing(sqlite3.connect(self.home / "medd.db", timeout=30)) as connection:
            return connection.execute(sql).fetchall()


@contextlib.contextmanager
def running(daemon: Daemon) -> Iterator[Daemon]:
    """Start a daemon, and stop it in the end if it still runs."""
    daemon.start()
    try:
        yield daemon
    finally:
        if daemon.process is not None:
            daemon.stop()
