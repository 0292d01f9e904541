"""Radiographs to send, and a sender that opens an association for each image."""

import io
import socket
import struct
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

#: Placeholder for the running number in the UIDs and the Patient ID of the template.
SERIAL = "9999999"


def _picture(size: int) -> np.ndarray:
    """Two dark lungs in a bright body: (size, size) uint16, 12 bits in use."""
    body = np.zeros((size, size), np.float32)
    centre = size // 2
    cv2.ellipse(body, (centre, centre), (int(0.44 * size), int(0.6 * size)), 0, 0, 360, 0.75, -1)
    for side in (-1, 1):
        lung = (centre + int(side * 0.2 * size), centre)
        cv2.ellipse(body, lung, (int(0.14 * size), int(0.32 * size)), 0, 0, 360, 0.25, -1)
    body = cv2.GaussianBlur(body, (0, 0), size / 40)
    noise = np.random.default_rng(1).normal(0, 0.02, (size, size))
    return np.clip((body + noise) * 4095, 0, 4095).astype(np.uint16)


def _template(size: int, study: str) -> bytes:
    """A whole CR file whose serial number is `SERIAL` and whose pixels are zero."""
    ds = Dataset()
    ds.SOPClassUID = ComputedRadiographyImageStorage
    ds.SOPInstanceUID = f"1.2.826.0.1.3680043.8.498.1.1.{SERIAL}"
    ds.StudyInstanceUID = f"1.2.826.0.1.3680043.8.498.1.2.{study}"
    ds.SeriesInstanceUID = f"1.2.826.0.1.3680043.8.498.1.3.{study}"
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.Modality, ds.BodyPartExamined, ds.ViewPosition = "CR", "CHEST", "PA"
    ds.PatientID, ds.PatientName, ds.PatientSex, ds.PatientBirthDate = f"B{study}", "Bench^Mark", "O", "20000101"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20240101", "120000", "1", f"A{study}"
    ds.SeriesNumber = ds.InstanceNumber = 1
    ds.Manufacturer, ds.StationName, ds.PatientOrientation = "medd", "BENCH", ["L", "F"]
    ds.Rows = ds.Columns = size
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.WindowCenter, ds.WindowWidth = 2048, 4096
    ds.PixelData = bytes(size * size * 2)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def make(
    folder: Path, count: int, size: int, senders: int = 1, first: int = 1_000_000, *, one_study: bool = False
) -> list[Path]:
    """Write `count` images of distinct UIDs, patients and pixels, dealt out to a folder per sender.

    Args:
        folder: Where to; made when it is not there.
        count: How many images.
        size: Side of the square image, pixels.
        senders: How many folders.
        first: Serial number of the first image, seven digits.
        one_study: All images of one patient and series.

    Returns:
        The senders' folders.
    """
    head = _template(size, str(first) if one_study else SERIAL)[: -size * size * 2]
    picture = _picture(size)
    folders = [folder / f"sender-{sender:02}" for sender in range(senders)]
    for path in folders:
        path.mkdir(parents=True)
    for index in range(count):
        serial = first + index
        pixels = np.roll(picture, serial % 8, axis=1)
        pixels[-1, :2] = serial % 4096, serial // 4096  # the picture's corner carries the number: no two alike
        content = head.replace(SERIAL.encode(), str(serial).encode()) + pixels.tobytes()
        (folders[index % senders] / f"{serial}.dcm").write_bytes(content)
    return folders


# ---- One association per image -----------------------------------------------------------------------------------
# A storescu per image would measure how fast processes start. The PDUs are those of PS3.8 section 9.3, built
# before the clock starts.


def _item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def _associate_rq(called: str) -> bytes:
    syntaxes = _item(0x30, ComputedRadiographyImageStorage.encode()) + _item(0x40, ExplicitVRLittleEndian.encode())
    user = _item(0x51, struct.pack(">L", 16384)) + _item(0x52, b"1.2.826.0.1.3680043.8.498.9")
    body = struct.pack(">HH16s16s32x", 1, 0, called.ljust(16).encode(), b"BENCH".ljust(16))
    body += _item(0x10, b"1.2.840.10008.3.1.1.1") + _item(0x20, b"\x01\0\0\0" + syntaxes) + _item(0x50, user)
    return struct.pack(">BxL", 1, len(body)) + body


def _command(sop_instance_uid: bytes) -> bytes:
    """C-STORE-RQ (PS3.7 section 9.3.1), Implicit VR Little Endian."""
    elements = [
        (0x0002, ComputedRadiographyImageStorage.encode()),
        (0x0100, struct.pack("<H", 0x0001)),
        (0x0110, struct.pack("<H", 1)),
        (0x0700, struct.pack("<H", 0)),
        (0x0800, struct.pack("<H", 1)),
        (0x1000, sop_instance_uid),
    ]
    padded = [(element, value + b"\0" * (len(value) % 2)) for element, value in elements]
    body = b"".join(struct.pack("<HHL", 0, element, len(value)) + value for element, value in padded)
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def _p_data(content: bytes, control: int, max_pdu: int) -> bytes:
    """P-DATA-TF PDUs of one PDV each; `control` is 1 for a command, 0 for a data set."""
    room = max_pdu - 6
    out = bytearray()
    for start in range(0, len(content), room):
        part = content[start : start + room]
        last = 2 if start + room >= len(content) else 0
        out += struct.pack(">BxLLBB", 4, len(part) + 6, len(part) + 2, 1, control | last) + part
    return bytes(out)


def _read_pdu(sock: socket.socket, expected: int) -> bytes:
    header = sock.recv(6, socket.MSG_WAITALL)
    if len(header) < 6 or header[0] != expected:
        raise ConnectionError(f"PDU type {expected} expected. Received: {header!r}")
    return sock.recv(int.from_bytes(header[2:]), socket.MSG_WAITALL)


def _associate(port: int, request: bytes) -> tuple[socket.socket, int]:
    """Open an association; the largest PDU that the peer takes, at most what storescu would send."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(request)
    answer = _read_pdu(sock, 2)
    position = 68
    limit = 0
    while position < len(answer):
        kind, length = struct.unpack_from(">BxH", answer, position)
        if kind == 0x21 and answer[position + 6] != 0:
            raise ConnectionError("presentation context refused")
        if kind == 0x51:
            limit = int.from_bytes(answer[position + 4 : position + 8])
        # The User Information item is a box of items: step into it, over the others.
        position += 4 if kind == 0x50 else 4 + length
    return sock, min(limit or 131072, 131072)


def _release(sock: socket.socket) -> None:
    sock.sendall(struct.pack(">BxLL", 5, 4, 0))
    _read_pdu(sock, 6)
    sock.close()


def messages(port: int, paths: Iterable[Path], called: str = "MEDD") -> list[bytes]:
    """The PDUs of a C-STORE-RQ for each file, as long as the receiver takes them."""
    sock, max_pdu = _associate(port, _associate_rq(called))
    _release(sock)
    made = []
    for path in paths:
        content = path.read_bytes()
        meta_length = struct.unpack_from("<L", content, 140)[0]  # (0002,0000), first after preamble and DICM
        uid = str(pydicom.dcmread(io.BytesIO(content), specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
        made.append(_p_data(_command(uid.encode()), 1, max_pdu) + _p_data(content[144 + meta_length :], 0, max_pdu))
    return made


def send_all(port: int, messages: Iterable[bytes], called: str = "MEDD") -> None:
    """Send all on one association; a status other than 0x0000 ends it."""
    sock, _ = _associate(port, _associate_rq(called))
    for message in messages:
        _store(sock, message)
    _release(sock)


def _store(sock: socket.socket, message: bytes) -> None:
    sock.sendall(message)
    answer = _read_pdu(sock, 4)
    if b"\0\0\0\x09\x02\0\0\0\0\0" not in answer:  # (0000,0900) Status, 2 bytes, 0x0000
        raise ConnectionError(f"C-STORE-RSP without success. Received: {answer!r}")


class OnePerImage:
    """Sends each image on an association of its own, one after the other."""

    def __init__(self, port: int, paths: Iterable[Path], called: str = "MEDD") -> None:
        self._port = port
        self._request = _associate_rq(called)
        self._messages = messages(port, paths, called)

    def send(self) -> None:
        """Send all; a status other than 0x0000 ends it."""
        for message in self._messages:
            sock, _ = _associate(self._port, self._request)
            _store(sock, message)
            _release(sock)
