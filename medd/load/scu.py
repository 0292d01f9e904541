"""A Storage SCU on a bare socket: little work for each image, so that what is measured is the receiver.

pynetdicom's requestor costs several milliseconds for each image, more than medd takes to store it.
"""

import socket
import ssl
import struct
from collections.abc import Sequence

from medd.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from medd.errors import PeerRefused, TransientError

#: PDU types (PS3.8 section 9.3.1).
_ASSOCIATE_RQ, _ASSOCIATE_AC, _ASSOCIATE_RJ, _P_DATA, _RELEASE_RQ, _RELEASE_RP, _ABORT = range(1, 8)
_APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
#: The largest PDU that we send, whatever the peer would take, and the largest that we take.
_MAX_PDU = 1 << 20
_C_STORE_RQ, _C_STORE_RSP = 0x0001, 0x8001


class Association:
    """One association with a Storage SCP.

    Args:
        address: Host and port.
        called: The peer's AE title.
        calling: Ours.
        contexts: SOP class and transfer syntax of each presentation context, at most 128.
        tls: To wrap the connection in, and the name that the peer's certificate has to have.
        timeout_s: To connect, and without an answer.

    Raises:
        OSError: The peer is away.
        PeerRefused: It rejects the association.
        TransientError: It breaks the protocol or aborts.
    """

    def __init__(
        self,
        address: tuple[str, int],
        called: str,
        calling: str,
        contexts: Sequence[tuple[str, str]],
        tls: tuple[ssl.SSLContext, str] | None = None,
        timeout_s: float = 30,
    ) -> None:
        self._message_id = 0
        self._socket = socket.create_connection(address, timeout_s)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                self._socket = tls[0].wrap_socket(self._socket, server_hostname=tls[1])
            self._socket.sendall(_associate_rq(called, calling, contexts))
            kind, body = self._receive()
            if kind == _ASSOCIATE_RJ:
                raise PeerRefused(f"association rejected: result {body[1]}, source {body[2]}, reason {body[3]}")
            if kind != _ASSOCIATE_AC:
                raise TransientError("association aborted")
            accepted, longest = _decode_ac(body)
        except BaseException:
            self._socket.close()
            raise
        self._contexts = {pair: number for number, pair in _numbered(contexts) if number in accepted}
        # What a PDU holds beside a fragment: length, context id and message control header of the one value in it.
        # Fragments have an even length (PS3.8 annex E.1).
        self._fragment = max(2, ((min(longest, _MAX_PDU) if longest else _MAX_PDU) - 6) & ~1)

    def accepts(self, sop_class_uid: str, transfer_syntax_uid: str) -> bool:
        """Whether the peer has accepted to be sent such an object."""
        return (sop_class_uid, transfer_syntax_uid) in self._contexts

    def store(self, sop_class_uid: str, transfer_syntax_uid: str, sop_instance_uid: str, dataset: bytes) -> int:
        """Send one object by C-STORE; returns the status of the answer.

        Raises:
            OSError: The connection is gone, or no answer came in time.
            TransientError: The peer aborts or breaks the protocol.
        """
        self._message_id = self._message_id % 65535 + 1
        context = self._contexts[sop_class_uid, transfer_syntax_uid]
        command = _store_rq(self._message_id, sop_class_uid, sop_instance_uid)
        pending = _p_data(context, 0x03, command)
        view = memoryview(dataset)
        for start in range(0, max(1, len(view)), self._fragment):
            fragment = view[start : start + self._fragment]
            last = start + self._fragment >= len(view)
            self._socket.sendall(pending + _p_data(context, 0x02 if last else 0x00, fragment))
            pending = b""
        return self._status()

    def release(self) -> None:
        """End the association in order; a peer that does not answer is left.

        Raises:
            OSError: The connection is gone.
        """
        try:
            self._socket.sendall(struct.pack(">BxII", _RELEASE_RQ, 4, 0))
            self._receive()
        finally:
            self._socket.close()

    def close(self) -> None:
        """Drop the connection."""
        self._socket.close()

    def _status(self) -> int:
        command = b""
        while True:
            kind, body = self._receive()
            if kind != _P_DATA:
                raise TransientError("association aborted" if kind == _ABORT else f"unexpected PDU of type {kind}")
            position = 0
            while position + 6 <= len(body):
                length, _, control = struct.unpack_from(">IBB", body, position)
                command += body[position + 6 : position + 4 + length]
                position += 4 + length
                if control & 0x02:
                    return _decode_rsp(command, self._message_id)

    def _receive(self) -> tuple[int, bytes]:
        kind, length = struct.unpack(">BxI", self._exactly(6))
        if length > _MAX_PDU:
            raise TransientError(f"a PDU larger than we take: {length} bytes")
        return kind, self._exactly(length)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._socket.recv(size - len(data))
            if not more:
                raise ConnectionResetError("connection closed")
            data += more
        return data


def _numbered(contexts: Sequence[tuple[str, str]]) -> list[tuple[int, tuple[str, str]]]:
    return [(2 * place + 1, pair) for place, pair in enumerate(contexts)]


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def _associate_rq(called: str, calling: str, contexts: Sequence[tuple[str, str]]) -> bytes:
    """A-ASSOCIATE-RQ (PS3.8 section 9.3.2)."""
    items = _item(0x10, _APPLICATION_CONTEXT)
    for number, (sop_class, syntax) in _numbered(contexts):
        names = _item(0x30, sop_class.encode()) + _item(0x40, syntax.encode())
        items += _item(0x20, bytes((number, 0, 0, 0)) + names)
    user = _item(0x51, struct.pack(">I", _MAX_PDU)) + _item(0x52, IMPLEMENTATION_CLASS_UID.encode())
    items += _item(0x50, user + _item(0x55, IMPLEMENTATION_VERSION_NAME.encode()))
    titles = called.ljust(16).encode() + calling.ljust(16).encode()
    body = struct.pack(">Hxx", 1) + titles + bytes(32) + items
    return struct.pack(">BxI", _ASSOCIATE_RQ, len(body)) + body


def _decode_ac(body: bytes) -> tuple[set[int], int]:
    """The presentation contexts that were accepted, and the largest PDU that the peer takes, 0 for any."""
    accepted, longest, position = set(), 16384, 68
    while position + 4 <= len(body):
        kind, length = struct.unpack_from(">BxH", body, position)
        value = body[position + 4 : position + 4 + length]
        if kind == 0x21 and value[2] == 0:
            accepted.add(value[0])
        elif kind == 0x50 and value[:1] == b"\x51":
            longest = int.from_bytes(value[4:8], "big")
        position += 4 + length
    return accepted, longest


def _p_data(context: int, control: int, fragment: bytes | memoryview) -> bytes:
    """P-DATA-TF with one value (PS3.8 section 9.3.5)."""
    return struct.pack(">BxIIBB", _P_DATA, len(fragment) + 6, len(fragment) + 2, context, control) + fragment


def _store_rq(message_id: int, sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """The command set of C-STORE-RQ (PS3.7 section 9.3.1.1): Implicit VR Little Endian."""
    group = _element(0x0002, _uid(sop_class_uid)) + _element(0x0100, struct.pack("<H", _C_STORE_RQ))
    group += _element(0x0110, struct.pack("<H", message_id)) + _element(0x0700, struct.pack("<H", 0))
    group += _element(0x0800, struct.pack("<H", 1)) + _element(0x1000, _uid(sop_instance_uid))
    return _element(0x0000, struct.pack("<I", len(group))) + group


def _element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHI", 0, number, len(value)) + value


def _uid(value: str) -> bytes:
    return value.encode() + b"\0" * (len(value) % 2)


def _decode_rsp(command: bytes, message_id: int) -> int:
    values, position = {}, 0
    while position + 8 <= len(command):
        _, number, length = struct.unpack_from("<HHI", command, position)
        values[number] = int.from_bytes(command[position + 8 : position + 8 + length], "little") if length <= 4 else 0
        position += 8 + length
    if values.get(0x0100) != _C_STORE_RSP or values.get(0x0120) != message_id or 0x0900 not in values:
        raise TransientError("the answer is for another message")
    return values[0x0900]
