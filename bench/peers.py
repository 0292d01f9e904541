"""Receivers to start and stop, and DCMTK's sender."""

import atexit
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from typing import ClassVar, Self

import psutil

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "plugins" / "medd_pneumonia" / "bundles" / "paper-1" / "model.keras"
#: Without it Nagle's algorithm holds DCMTK, and Orthanc which is built on it, at 22 images/s.
ENVIRONMENT = os.environ | {"TCP_NODELAY": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
#: Seconds for a receiver to come up: importing tensorflow on a busy machine takes several.
START_S = 120


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], seconds: float, what: str, poll_s: float = 0.01) -> None:
    """Poll `condition`; leave the script with a message when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"bench: {what}: not within {seconds:.0f} s")
        time.sleep(poll_s)


def count_rows(database: Path, query: str) -> int:
    """The one number that `query` gives on a SQLite file, 0 while the table is not there."""
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        return int(db.execute(query).fetchone()[0])
    return 0


# ---- Receivers ---------------------------------------------------------------------------------------------------


class Receiver:
    """A Storage SCP in its own process with an empty store, from `with` to the end of the block."""

    name = ""

    def __init__(self, scratch: Path, senders: int = 1) -> None:
        self.senders = senders
        self.home = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=scratch))
        self.log = self.home / "log.txt"
        self.port = free_port()

    def command(self) -> list[str]:
        """What starts it."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Variables that it wants besides the common ones."""
        return {}

    def ready(self) -> bool:
        """Whether it accepts images."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def count(self) -> int:
        """How many images it holds."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        with self.log.open("wb") as log:
            self.process = psutil.Popen(
                self.command(), cwd=self.home, env=ENVIRONMENT | self.environment(), stdout=log, stderr=log
            )

        def up() -> bool:
            if self.process.poll() is not None:
                sys.exit(f"bench: {self.name} ended at once:\n{self.log.read_text()[-2000:]}")
            return self.ready()

        wait_until(up, START_S, f"start of {self.name}")
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        if failed:
            print(f"bench: the last words of {self.name}:\n{self.log.read_text()[-2000:]}", file=sys.stderr)
        tree = [self.process, *self.process.children(recursive=True)]
        self.process.terminate()
        with suppress(psutil.TimeoutExpired, subprocess.TimeoutExpired):
            self.process.wait(30)
        for left in tree:
            with suppress(psutil.NoSuchProcess):
                left.kill()
        psutil.wait_procs(tree, 10)
        shutil.rmtree(self.home)


class Medd(Receiver):
    """medd with its defaults: fsync of the file and a committed row before each answer."""

    name = "medd"
    stages: tuple[str, ...] = ("--only", "receive")

    def command(self) -> list[str]:
        return [str(Path(sys.executable).with_name("medd")), "serve", "--home", str(self.home), *self.stages]

    def environment(self) -> dict[str, str]:
        # The network that the textbook script runs as well.
        # Its web pages wait for nobody here, and their port may be another medd's.
        return {
            "MEDD_LISTENER__PORT": str(self.port),
            "MEDD_MODEL__CLASSIFIER": "paper",
            "MEDD_WEB__ENABLED": "false",
        }

    def ready(self) -> bool:
        return any(line.startswith("ready:") for line in self.log.read_text().splitlines())

    @property
    def database(self) -> Path:
        return self.home / "medd.db"

    def count(self) -> int:
        return count_rows(self.database, "SELECT count(*) FROM instance")


class MeddWhole(Medd):
    """medd with every stage."""

    stages = ()


class Orthanc(Receiver):
    """Orthanc with its own SQLite index, files synced to disk before the answer."""

    name = "orthanc"
    options: ClassVar[dict[str, object]] = {}

    def command(self) -> list[str]:
        self.http_port = free_port()
        config = self.home / "orthanc.json"
        settings = {
            "StorageDirectory": str(self.home / "storage"),
            "IndexDirectory": str(self.home / "storage"),
            "SyncStorageArea": True,
            "StorageCompression": False,
            "OverwriteInstances": True,
            "Plugins": [],
            "RemoteAccessAllowed": False,
            "DicomCheckCalledAet": False,
            "HttpPort": self.http_port,
            "DicomPort": self.port,
        } | self.options
        config.write_text(json.dumps(settings))
        return [shutil.which("Orthanc") or "/usr/sbin/Orthanc", str(config)]

    def count(self) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/statistics") as answer:
            return int(json.load(answer)["CountInstances"])


class OrthancTuned(Orthanc):
    """Orthanc with the settings that could make it faster, at the price of a safeguard (the MD5 of its files)."""

    name = "orthanc-tuned"
    options: ClassVar[dict[str, object]] = {
        "DicomThreadsCount": 16,
        "MaximumPduLength": 131072,
        "StoreMD5ForAttachments": False,
    }


class Storescp(Receiver):
    """DCMTK's storescp: a file per image, neither fsync nor index.

    It serves one association at a time, or forks a process for each: whichever is faster for the number of senders.
    """

    name = "storescp"

    def command(self) -> list[str]:
        (self.home / "images").mkdir()
        mode = "--fork" if self.senders > 1 else "--single-process"
        return ["storescp", "-q", mode, "-od", str(self.home / "images"), str(self.port)]

    def count(self) -> int:
        return sum(1 for _ in (self.home / "images").iterdir())


class Textbook(Receiver):
    """`textbook.py`: what a user would write with pynetdicom; without a model it only stores."""

    name = "textbook"
    model: Path | None = None

    @property
    def database(self) -> Path:
        return self.home / "results.db"

    def command(self) -> list[str]:
        script = [sys.executable, str(ROOT / "bench" / "textbook.py"), str(self.home), str(self.port)]
        return script if self.model is None else [*script, "--model", str(self.model)]

    def count(self) -> int:
        return count_rows(self.database, "SELECT count(*) FROM result")


# ---- Senders -----------------------------------------------------------------------------------------------------


@cache
def sender_environment() -> dict[str, str]:
    """storescu reads its whole data dictionary at each start, 20 ms; the groups in use here are enough for it."""
    full = next(Path("/usr/share").glob("libdcmtk*/dicom.dic"), None)
    if full is None:
        return ENVIRONMENT
    short = Path(tempfile.mkdtemp(prefix="medd-bench-dictionary-")) / "dicom.dic"
    atexit.register(shutil.rmtree, short.parent)
    groups = tuple(f"({group}," for group in ("0000", "0002", "0008", "0010", "0018", "0020", "0028"))
    lines = (line for line in full.read_text().splitlines() if line.startswith((*groups, "(7fe0", "(7FE0")))
    short.write_text("\n".join(lines) + "\n")
    return ENVIRONMENT | {"DCMDICTPATH": str(short)}


def send(port: int, folders: Iterable[Path]) -> None:
    """Send each folder by a storescu of its own, all at once, each on one association."""
    call = ["storescu", "+sd", "+r", "-aec", "MEDD", "127.0.0.1", str(port)]
    senders = [subprocess.Popen([*call, str(folder)], env=sender_environment()) for folder in folders]
    codes = [sender.wait() for sender in senders]
    if any(codes):
        sys.exit("bench: a storescu failed")
