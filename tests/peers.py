"""Real archives for tests: DCMTK's dcmqrscp and Orthanc, each with what it holds in a temporary folder."""

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset
from pynetdicom import AE, build_context
from pynetdicom.sop_class import Verification

from tests.support import free_port, require, wait_until

#: Where Debian's package orthanc-dicomweb puts the plugin.
DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def answers_echo(port: int, ae_title: str) -> bool:
    """Whether a peer on the loopback interface answers C-ECHO."""
    # A bare connection first: pynetdicom leaves the socket of one that is refused to the garbage collector.
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    entity = AE("PROBE")
    association = entity.associate("127.0.0.1", port, [build_context(Verification)], ae_title=ae_title)
    if not association.is_established:
        return False
    association.send_c_echo()
    association.release()
    return True


@contextmanager
def answering(ae_title: str) -> Iterator[int]:
    """A peer that answers C-ECHO and knows nothing else; its port."""
    port = free_port()
    entity = AE(ae_title)
    entity.add_supported_context(Verification)
    server = entity.start_server(("127.0.0.1", port), block=False)
    yield port
    server.shutdown()


def send(port: int, ae_title: str, datasets: Iterable[Dataset]) -> None:
    """Store objects in a peer, each as it is encoded."""
    for dataset in datasets:
        entity = AE("PROBE")
        context = build_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
        association = entity.associate("127.0.0.1", port, [context], ae_title=ae_title)
        assert association.is_established
        assert association.send_c_store(dataset).Status == 0x0000
        association.release()


class Dcmqrscp:
    """DCMTK's image archive.

    Args:
        folder: Is made; holds the images and the configuration.
        known: Whom it may send to by C-MOVE: AE title → port on the loopback interface.
        options: More of the command line's.
    """

    ae_title = "QRSCP"

    def __init__(self, folder: Path, known: Mapping[str, int] | None = None, options: Iterable[str] = ()) -> None:
        self._program, self._index = require("dcmqrscp", "dcmqridx")
        self.folder, self.port, self._options = folder, free_port(), list(options)
        self.images = folder / "images"
        self.images.mkdir(parents=True)
        self.images.chmod(0o777)  # started as root, it becomes another user where it is told one
        self.process: subprocess.Popen[bytes] | None = None
        self.know(known or {})

    def know(self, known: Mapping[str, int]) -> None:
        """Write the configuration; takes effect with the next `start`."""
        hosts = "".join(f"{name.lower()} = ({name}, localhost, {port})\n" for name, port in known.items())
        (self.folder / "dcmqrscp.cfg").write_text(
            f"NetworkTCPPort = {self.port}\nMaxPDUSize = 65536\nMaxAssociations = 16\n"
            f"HostTable BEGIN\n{hosts}HostTable END\nVendorTable BEGIN\nVendorTable END\n"
            f"AETable BEGIN\n{self.ae_title} {self.images} RW (2000, 1024mb) ANY\nAETable END\n"
        )

    def start(self) -> "Dcmqrscp":
        command = [self._program, "-c", str(self.folder / "dcmqrscp.cfg"), "-ll", "info", *self._options]
        with (self.folder / "log").open("ab") as log:
            environment = os.environ | {"TCP_NODELAY": "1"}
            # A group of its own: it forks a process for each association.
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        try:
            wait_until(lambda: answers_echo(self.port, self.ae_title), what="dcmqrscp's start")
        except BaseException:
            self.stop()
            raise
        return self

    def hold(self, datasets: Iterable[Dataset]) -> None:
        """Put objects into the archive's folder and index, whatever their encoding."""
        files = []
        for number, dataset in enumerate(datasets):
            files.append(str(self.images / f"film-{len(list(self.images.iterdir()))}-{number}.dcm"))
            dataset.save_as(files[-1], enforce_file_format=True)
        for start in range(0, len(files), 200):
            subprocess.run([self._index, str(self.images), *files[start : start + 200]], check=True)
        for file in self.images.iterdir():
            file.chmod(0o666)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
            self.process = None


class OrthancArchive:
    """An Orthanc that is asked for what it holds.

    Args:
        folder: Is made.
        known: Whom it may send to by C-MOVE: AE title → port on the loopback interface.
        port: Where it listens for DICOM; else a free one.
        dicomweb: Whether it offers DICOMweb; needs Debian's package orthanc-dicomweb.
        users: Names and passwords; without any, everybody may ask.
        more: Other keys of Orthanc's configuration.
    """

    ae_title = "ORTHANC"

    def __init__(
        self,
        folder: Path,
        known: Mapping[str, int] | None = None,
        *,
        port: int | None = None,
        dicomweb: bool = False,
        users: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        [self._program] = require("Orthanc")
        if dicomweb and not DICOMWEB_PLUGIN.exists():
            message = "orthanc-dicomweb not installed"
            pytest.fail(message) if os.environ.get("MEDD_REQUIRE_PEERS") == "1" else pytest.skip(message)
        folder.mkdir(parents=True)
        self.folder, self.port, self.http_port = folder, port or free_port(), free_port()
        configuration = {
            "Name": "archive",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "HttpPort": self.http_port,
            "DicomPort": self.port,
            "DicomAet": self.ae_title,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": bool(users),
            "RegisteredUsers": dict(users or {}),
            "DicomAlwaysAllowFind": True,
            "DicomAlwaysAllowGet": True,
            "DicomAlwaysAllowMove": True,
            "DicomCheckModalityHost": False,
            "DicomModalities": {name.lower(): [name, "127.0.0.1", port] for name, port in (known or {}).items()},
            "Plugins": [str(DICOMWEB_PLUGIN)] if dicomweb else [],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            "TranscodeDicomProtocol": False,
            **(more or {}),
        }
        (folder / "orthanc.json").write_text(json.dumps(configuration))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "OrthancArchive":
        with (self.folder / "log").open("ab") as log:
            command = [self._program, str(self.folder / "orthanc.json")]
            environment = os.environ | {"TCP_NODELAY": "1"}
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            wait_until(self._is_up, what="Orthanc's start")
        except BaseException:
            self.stop()
            raise
        return self

    def _is_up(self) -> bool:
        # Another's Orthanc may have taken a port that was free a moment ago, and answers in place of ours.
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log").read_text()
        try:
            return bool(self.get("/system"))
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    def get(self, path: str) -> Any:
        return json.loads(self.read(path))

    def read(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=30) as answer:
            return bytes(answer.read())

    def post(self, path: str, data: bytes) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", data)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def hold(self, datasets: Iterable[Dataset]) -> None:
        """Put objects into the archive, whatever their encoding."""
        for number, dataset in enumerate(datasets):
            file = self.folder / f"{time.monotonic_ns()}-{number}.dcm"
            dataset.save_as(file, enforce_file_format=True)
            self.post("/instances", file.read_bytes())

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
            self.process = None


def dataset_bytes(file: Path) -> bytes:
    """What of a file (PS3.10) is dataset: the same bytes however it came."""
    with file.open("rb") as opened:
        pydicom.filereader.read_preamble(opened, force=False)
        pydicom.filereader._read_file_meta_info(opened)
        return opened.read()
