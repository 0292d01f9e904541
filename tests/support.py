"""What the tests share: real peers, real processes."""

import contextlib
import os
import random
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from medd.errors import MeddError, TransientError

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"

#: Digital X-Ray Image Storage – For Presentation, and the other UIDs that every sender here needs.
DX = "1.2.840.10008.5.1.4.1.1.1.1"
VERIFICATION = "1.2.840.10008.1.1"
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"


def require(*programs: str) -> list[str]:
    """Paths of programs; the test is skipped where one is missing, or fails with MEDD_REQUIRE_PEERS=1."""
    # PostgreSQL's own first: Debian's psql is a script that starts it, and takes ten times as long.
    own = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")))
    search = ":".join([*own, os.environ["PATH"], "/usr/sbin"])
    found = {program: shutil.which(program, path=search) for program in programs}
    missing = [program for program, path in found.items() if path is None]
    if missing:
        message = f"{', '.join(missing)} not installed"
        if os.environ.get("MEDD_REQUIRE_PEERS") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return [str(path) for path in found.values()]


_given: set[int] = set()


def free_port() -> int:
    """A TCP port that nobody listens on now, another each time.

    Below those that the system gives to outgoing connections, or one of them might take it before it is used.
    """
    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port
    raise OSError("no free port")


def wait_until(condition: Callable[[], Any], timeout_s: float = 30, what: str = "condition") -> Any:
    """Wait for a condition to become true and return its value."""
    deadline = time.monotonic() + timeout_s
    while True:
        if value := condition():
            return value
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout_s} s"
        time.sleep(0.02)


def in_place(function: Callable[[Any], Any]) -> Callable[[Iterable[Any]], list[Any]]:
    """What `Isolated.map` does, without other processes."""

    def call(item: Any) -> Any:
        try:
            return function(item)
        except MeddError as error:
            return error
        except Exception as error:
            return TransientError(f"preparation failed: {type(error).__name__}")

    return lambda items: [call(item) for item in items]


class PostgresServer:
    """A private PostgreSQL server on a Unix socket and a loopback port, with its data in a temporary folder."""

    def __init__(self, *, durable: bool = False) -> None:
        self.initdb, self.server, self.psql = require("initdb", "postgres", "psql")
        self.folder = Path(tempfile.mkdtemp(prefix="medd-pg-"))
        self.host, self.port = "127.0.0.1", free_port()
        #: What the server's command begins with: to run it elsewhere.
        self.prefix: tuple[str, ...] = ()
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
        return f"postgresql+psycopg://medd@{self.host}:{self.port}/{database}"

    def start(self) -> None:
        options = ["-D", self._data, "-p", str(self.port), "-h", self.host, "-k", str(self.folder)]
        options += [] if self._durable else ["-c", "fsync=off"]
        command, who = [self.server, *options], self._user
        if self.prefix:  # which needs to be root itself
            command = [*self.prefix, "setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]
            who = {}
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **who)
        wait_until(self.answers, what="PostgreSQL's start")

    def answers(self) -> bool:
        return self._ask("SELECT 1", "postgres").returncode == 0

    def execute(self, sql: str, database: str = "postgres") -> str:
        done = self._ask(sql, database)
        assert done.returncode == 0, f"{sql}: {done.stderr}"
        return done.stdout.strip()

    def _ask(self, sql: str, database: str) -> subprocess.CompletedProcess[str]:
        where = ["-h", self.host, "-p", str(self.port), "-U", "medd", database]
        return subprocess.run([self.psql, "-qAt", "-c", sql, *where], capture_output=True, check=False, text=True)

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
            "MEDD_WORKER__THREADS": "1",
            "MEDD_WEB__ENABLED": "false",  # several run at once; tests of the web ask for it and for a free port
            "PYTHONUNBUFFERED": "1",
            **environment,
        }
        self._arguments = arguments
        self.log = home / "log.txt"
        self.process: subprocess.Popen[str] | None = None
        #: What the command begins with: to run it elsewhere.
        self.prefix: tuple[str, ...] = ()

    def start(self, *, ready: bool = True) -> "Daemon":
        with self.log.open("a") as log:
            command = [*self.prefix, sys.executable, "-m", "medd", "serve", *self._arguments]
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=self.environment
            )
        if ready:
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
            if not line.startswith("ready:"):
                self.kill()
                pytest.fail(f"no ready line but {line!r}; log:\n{self.log.read_text()}")
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

    def medd(self, *arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Run another command of medd on the same home."""
        command = [sys.executable, "-m", "medd", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, env=self.environment, check=False, timeout=timeout_s
        )

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


class RawSender:
    """A Storage SCU on a bare socket: it sends what it is told to, also what no library would.

    Args:
        port: Of the receiver on the loopback interface.
        contexts: Presentation context id → abstract syntax and the transfer syntaxes that are proposed for it.
    """

    def __init__(
        self,
        port: int,
        contexts: Mapping[int, tuple[str, Sequence[str]]] | None = None,
        *,
        called: str = "MEDD",
        calling: str = "RAW",
        timeout_s: float = 30,
    ) -> None:
        self.contexts = contexts if contexts is not None else {1: (DX, (EXPLICIT,)), 3: (VERIFICATION, (IMPLICIT,))}
        self._called, self._calling = called, calling
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._message_id = 0

    def __enter__(self) -> "RawSender":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            if not more:
                raise ConnectionResetError(f"closed after {len(data)} of {size} bytes")
            data += more
        return data

    def receive_pdu(self) -> tuple[int, bytes]:
        """The next PDU: its type and its body."""
        kind, length = struct.unpack(">BxI", self.receive(6))
        return kind, self.receive(length)

    def is_closed_by_peer(self) -> bool:
        """Wait until the peer closes the connection; what it sends until then is dropped."""
        with contextlib.suppress(ConnectionError):
            while self.socket.recv(1 << 16):
                pass
        return True

    def associate(self) -> dict[int, tuple[int, str]]:
        """Negotiate; the answer to each context: its result and transfer syntax."""
        self.send(associate_rq(self.contexts, self._called, self._calling))
        kind, body = self.receive_pdu()
        assert kind == 2, f"A-ASSOCIATE-AC expected. Received: PDU {kind}, {body.hex()}"
        answers, position = {}, 68
        while position < len(body):
            item, length = struct.unpack_from(">BxH", body, position)
            if item == 0x21:
                value = body[position + 4 : position + 4 + length]
                answers[value[0]] = (value[2], value[8:].decode())
            position += 4 + length
        return answers

    def store_message(self, dataset: bytes, uid: str, *, sop_class: str = DX) -> tuple[bytes, bytes]:
        """The command set of a C-STORE-RQ and its dataset."""
        self._message_id = self._message_id % 65535 + 1
        return command_set(0x0001, self._message_id, sop_class, uid, has_dataset=True), dataset

    def store(self, dataset: bytes, uid: str, *, sop_class: str = DX, context: int = 1) -> tuple[int, str]:
        """Send one image; the answer's status and Error Comment."""
        command, dataset = self.store_message(dataset, uid, sop_class=sop_class)
        self.send(pdata((context, 3, command)) + pdata((context, 2, dataset)))
        return self.receive_status()

    def echo(self, context: int = 3) -> int:
        self._message_id = self._message_id % 65535 + 1
        self.send(pdata((context, 3, command_set(0x0030, self._message_id, VERIFICATION))))
        return self.receive_status()[0]

    def receive_response(self) -> dict[int, bytes]:
        """The command set of the next response: element number of group 0000 → value."""
        kind, body = self.receive_pdu()
        assert kind == 4, f"P-DATA-TF expected. Received: PDU {kind}, {body.hex()}"
        return decode_command_set(body[6:])

    def receive_status(self) -> tuple[int, str]:
        response = self.receive_response()
        assert int.from_bytes(response[0x0120], "little") == self._message_id, "the answer is for another message"
        return int.from_bytes(response[0x0900], "little"), response.get(0x0902, b"").decode().strip()

    def release(self) -> None:
        self.send(struct.pack(">BxII", 5, 4, 0))
        kind, _ = self.receive_pdu()
        assert kind == 6, f"A-RELEASE-RP expected. Received: PDU {kind}"
        self.socket.close()


def associate_rq(
    contexts: Mapping[int, tuple[str, Sequence[str]]], called: str = "MEDD", calling: str = "RAW"
) -> bytes:
    """An A-ASSOCIATE-RQ (PS3.8 section 9.3.2)."""

    def item(kind: int, value: bytes) -> bytes:
        return struct.pack(">BxH", kind, len(value)) + value

    items = item(0x10, b"1.2.840.10008.3.1.1.1")
    for number, (abstract, transfer) in contexts.items():
        syntaxes = b"".join(item(0x40, syntax.encode()) for syntax in transfer)
        items += item(0x20, bytes((number, 0, 0, 0)) + item(0x30, abstract.encode()) + syntaxes)
    items += item(0x50, item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3.4"))
    body = struct.pack(">Hxx16s16s32x", 1, called.ljust(16).encode(), calling.ljust(16).encode()) + items
    return struct.pack(">BxI", 1, len(body)) + body


def pdata(*values: tuple[int, int, bytes]) -> bytes:
    """One P-DATA-TF of presentation data values: context id, message control header, fragment (PS3.8 9.3.5)."""
    body = b"".join(struct.pack(">IBB", len(data) + 2, context, control) + data for context, control, data in values)
    return struct.pack(">BxI", 4, len(body)) + body


def command_set(field: int, message_id: int, sop_class: str, uid: str = "", *, has_dataset: bool = False) -> bytes:
    """A DIMSE request's command set (PS3.7 section 6.3)."""

    def element(number: int, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return struct.pack("<HHI", 0, number, len(value)) + value

    group = element(0x0002, sop_class.encode()) + element(0x0100, struct.pack("<H", field))
    group += element(0x0110, struct.pack("<H", message_id)) + element(0x0700, b"\0\0")
    group += element(0x0800, struct.pack("<H", 0 if has_dataset else 0x0101))
    group += element(0x1000, uid.encode()) if uid else b""
    return element(0x0000, struct.pack("<I", len(group))) + group


def decode_command_set(data: bytes) -> dict[int, bytes]:
    values, position = {}, 0
    while position < len(data):
        _, number, length = struct.unpack_from("<HHI", data, position)
        values[number] = data[position + 8 : position + 8 + length]
        position += 8 + length
    return values


def uid_in(dataset: bytes) -> str:
    """The SOP Instance UID of a little-endian explicit dataset of the test kit."""
    at = dataset.index(b"\x08\x00\x18\x00UI")
    length = int.from_bytes(dataset[at + 6 : at + 8], "little")
    return dataset[at + 8 : at + 8 + length].decode().rstrip("\0")
