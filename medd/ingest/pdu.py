"""The DICOM Upper Layer's protocol data units (PS3.8 section 9.3) and DIMSE command sets (PS3.7 section 6.3), as bytes.

Only what an acceptor of C-ECHO, C-STORE and storage commitment needs. pynetdicom has all of it, and decodes and copies
each PDU several times on the way through its threads; measured in ``bench/``, that is most of what receiving a small
image costs.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, DATA_TF, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)

#: PS3.7 Annex A: the one application context there is.
APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"

#: What a TLS client sends first (RFC 8446 section 5.1): no PDU, but worth telling apart.
TLS_HANDSHAKE = 0x16

ECHO_RQ, STORE_RQ, CANCEL_RQ, EVENT_REPORT_RQ, ACTION_RQ = 0x0030, 0x0001, 0x0FFF, 0x0100, 0x0130
#: Set in the command field of every response.
RESPONSE = 0x8000
#: Command Data Set Type (0000,0800): none; any other value says that there is one.
NO_DATASET, WITH_DATASET = 0x0101, 0x0001

# DIMSE statuses (PS3.7 Annex C, PS3.4 section B.2.3).
SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
NO_SUCH_OBJECT_INSTANCE = 0x0112
INVALID_ARGUMENT_VALUE = 0x0115
NO_SUCH_SOP_CLASS = 0x0118
NO_SUCH_ACTION_TYPE = 0x0123
NO_SUCH_EVENT_TYPE = 0x0113
UNRECOGNIZED_OPERATION = 0x0211
RESOURCE_LIMITATION = 0x0213
OUT_OF_RESOURCES = 0xA700
DATASET_DOES_NOT_MATCH_SOP_CLASS = 0xA900
CANNOT_UNDERSTAND = 0xC000

# A-ASSOCIATE-RJ (PS3.8 table 9-21): result, source, reason.
REJECT_CONGESTION = (2, 3, 1)
REJECT_PROTOCOL_VERSION = (1, 2, 2)
REJECT_APPLICATION_CONTEXT = (1, 1, 2)
REJECT_CALLING_AE = (1, 1, 3)
REJECT_CALLED_AE = (1, 1, 7)

# Presentation context results (PS3.8 table 9-18).
ACCEPTED, ABSTRACT_SYNTAX_NOT_SUPPORTED, TRANSFER_SYNTAXES_NOT_SUPPORTED = 0, 3, 4

RELEASE_RP_PDU = struct.pack(">BxI4x", RELEASE_RP, 4)

_ITEM = struct.Struct(">BxH")
_ELEMENT = struct.Struct("<HHI")


class ProtocolError(Exception):
    """The peer sent what the protocol does not allow here; the association is aborted."""


@dataclass(frozen=True, slots=True)
class ProposedContext:
    """A presentation context as the peer proposes it."""

    id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(slots=True)
class AssociateRequest:
    """An A-ASSOCIATE-RQ (PS3.8 section 9.3.2)."""

    protocol_version: int
    called_ae: str
    calling_ae: str
    application_context: bytes = b""
    contexts: list[ProposedContext] = field(default_factory=list)
    #: The longest P-DATA-TF that the peer takes, bytes; 0 is any.
    max_length: int = 0
    #: SOP class → the roles the peer proposes to play, SCU and SCP, each 0 or 1 (PS3.7 section D.3.3.4).
    roles: dict[str, tuple[int, int]] = field(default_factory=dict)


def decode_associate_rq(body: bytes) -> AssociateRequest:
    """Decode the body of an A-ASSOCIATE-RQ, without its six bytes of header.

    Raises:
        ProtocolError: It is malformed.
    """
    if len(body) < 68:
        raise ProtocolError("A-ASSOCIATE-RQ is too short")
    request = AssociateRequest(
        protocol_version=int.from_bytes(body[:2], "big"),
        called_ae=_ae_title(body[4:20]),
        calling_ae=_ae_title(body[20:36]),
    )
    for kind, value in _items(body, 68):
        if kind == 0x10:
            request.application_context = value.rstrip(b"\0 ")
        elif kind == 0x20:
            request.contexts.append(_context(value))
        elif kind == 0x50:
            _user_information(value, request)
    return request


def _user_information(value: bytes, request: AssociateRequest) -> None:
    # PS3.8 section D.1, PS3.7 section D.3.3. What is malformed here has never kept an image out, and does not now.
    position = 0
    while position + 4 <= len(value):
        kind, length = _ITEM.unpack_from(value, position)
        item = value[position + 4 : position + 4 + length]
        position += 4 + length
        if kind == 0x51 and len(item) == 4:
            request.max_length = int.from_bytes(item, "big")
        elif kind == 0x54 and len(item) >= 4:
            size = int.from_bytes(item[:2], "big")
            roles = item[2 + size : 4 + size]
            if len(roles) == 2:
                request.roles[_uid(item[2 : 2 + size])] = (roles[0] & 1, roles[1] & 1)


def _context(value: bytes) -> ProposedContext:
    abstract, transfer = "", []
    if len(value) < 4:
        raise ProtocolError("a presentation context is cut short")
    for kind, name in _items(value, 4):
        if kind == 0x30:
            abstract = _uid(name)
        elif kind == 0x40:
            transfer.append(_uid(name))
    return ProposedContext(value[0], abstract, tuple(transfer))


def _items(data: bytes, position: int) -> list[tuple[int, bytes]]:
    items = []
    while position < len(data):
        if position + 4 > len(data):
            raise ProtocolError("an item is cut short")
        kind, length = _ITEM.unpack_from(data, position)
        position += 4
        if position + length > len(data):
            raise ProtocolError("an item is longer than what holds it")
        items.append((kind, data[position : position + length]))
        position += length
    return items


def _ae_title(field_: bytes) -> str:
    # A NUL ends it for many senders; what a terminal or a database would choke on is no part of a name (PS3.5, VR AE).
    return "".join(c for c in field_.split(b"\0")[0].decode("ascii", "replace") if c.isprintable()).strip()


def _uid(value: bytes) -> str:
    return value.rstrip(b"\0 ").decode("ascii", "replace")


def encode_associate_ac(
    request_body: bytes,
    results: list[tuple[int, int, str]],
    implementation_class_uid: str,
    version_name: str,
    roles: dict[str, tuple[int, int]] | None = None,
) -> bytes:
    """Encode an A-ASSOCIATE-AC (PS3.8 section 9.3.3).

    Args:
        request_body: The request's body, whose AE titles are sent back as they came.
        results: For each proposed context its id, result and transfer syntax.
        implementation_class_uid: Ours.
        version_name: Ours, at most 16 characters.
        roles: For SOP classes whose roles the peer proposed, those that it may play.
    """
    items = [_item(0x10, APPLICATION_CONTEXT)]
    for context_id, result, syntax in results:
        items.append(_item(0x21, bytes((context_id, 0, result, 0)) + _item(0x40, syntax.encode())))
    # Maximum length 0: a PDU may be of any size, as it is never held in memory whole.
    user = _item(0x51, bytes(4)) + _item(0x52, implementation_class_uid.encode())
    for uid, (scu, scp) in (roles or {}).items():
        user += _item(0x54, struct.pack(">H", len(uid)) + uid.encode() + bytes((scu, scp)))
    user += _item(0x55, version_name.encode())
    body = b"\0\1\0\0" + request_body[4:36] + bytes(32) + b"".join(items) + _item(0x50, user)
    return struct.pack(">BxI", ASSOCIATE_AC, len(body)) + body


def _item(kind: int, value: bytes) -> bytes:
    return _ITEM.pack(kind, len(value)) + value


def encode_associate_rj(result: int, source: int, reason: int) -> bytes:
    """Encode an A-ASSOCIATE-RJ (PS3.8 section 9.3.4)."""
    return struct.pack(">BxIxBBB", ASSOCIATE_RJ, 4, result, source, reason)


def encode_abort(source: int, reason: int) -> bytes:
    """Encode an A-ABORT (PS3.8 section 9.3.8): source 2 is the provider, with reason 1 "unrecognized PDU", 2 …."""
    return struct.pack(">BxIxxBB", ABORT, 4, source, reason)


@dataclass(frozen=True, slots=True)
class Command:
    """A DIMSE command set, as far as an acceptor needs it (PS3.7 section E.1)."""

    command_field: int
    #: Of a response, the id of the message that it responds to.
    message_id: int
    #: Affected or, in some requests, requested.
    sop_class_uid: str
    sop_instance_uid: str
    has_dataset: bool
    #: Event or Action Type ID; 0 where there is none.
    type_id: int = 0
    #: Of a response.
    status: int = 0


def decode_command(data: bytes | bytearray) -> Command:
    """Decode a command set, which is always Implicit VR Little Endian.

    Raises:
        ProtocolError: It is malformed.
    """
    values: dict[int, bytes] = {}
    position, end = 0, len(data)
    while position + 8 <= end:
        group, element, length = _ELEMENT.unpack_from(data, position)
        position += 8
        if group != 0x0000 or position + length > end:
            raise ProtocolError("malformed command set")
        values[element] = bytes(data[position : position + length])
        position += length
    if any(len(values.get(element, b"")) > 2 for element in (0x0100, 0x0110, 0x0800)):
        raise ProtocolError("a number of the command set is longer than two bytes")
    try:
        if values[0x0100] not in _COMPOSITE:
            return _decode_other(values)
        return Command(
            command_field=int.from_bytes(values[0x0100], "little"),
            message_id=int.from_bytes(values[0x0110], "little"),
            sop_class_uid=_uid(values.get(0x0002, b"")),
            sop_instance_uid=_uid(values.get(0x1000, b"")),
            has_dataset=int.from_bytes(values[0x0800], "little") != NO_DATASET,
        )
    except KeyError as error:
        raise ProtocolError(f"command set without (0000,{error.args[0]:04X})") from error


_COMPOSITE = tuple(struct.pack("<H", number) for number in (STORE_RQ, ECHO_RQ))


def _decode_other(values: dict[int, bytes]) -> Command:
    """A response, a cancellation, or a request of the DIMSE-N services (PS3.7 section 10.3), whose elements differ."""
    numbers = {element: int.from_bytes(values.get(element, b"")[:2], "little") for element in (0x1002, 0x1008, 0x0900)}
    command_field = int.from_bytes(values[0x0100], "little")
    responds = command_field & RESPONSE or command_field == CANCEL_RQ
    return Command(
        command_field=command_field,
        message_id=int.from_bytes(values[0x0120 if responds else 0x0110], "little"),
        sop_class_uid=_uid(values.get(0x0002) or values.get(0x0003, b"")),
        sop_instance_uid=_uid(values.get(0x1000) or values.get(0x1001, b"")),
        has_dataset=int.from_bytes(values[0x0800], "little") != NO_DATASET,
        type_id=numbers[0x1002] or numbers[0x1008],
        status=numbers[0x0900],
    )


def encode_response(context_id: int, command: Command, status: int, comment: str = "") -> bytes:
    """Encode the response to a request (PS3.7 sections 9.3 and 10.3) in one P-DATA-TF.

    Args:
        context_id: The presentation context of the request.
        command: The request.
        status: DIMSE status.
        comment: Error Comment (0000,0902), at most 64 characters; left out when empty.
    """
    elements = [
        _element(0x0002, _even(command.sop_class_uid, b"\0")),
        _element(0x0100, struct.pack("<H", command.command_field | 0x8000)),
        _element(0x0120, struct.pack("<H", command.message_id)),
        _element(0x0800, struct.pack("<H", NO_DATASET)),
        _element(0x0900, struct.pack("<H", status)),
    ]
    if comment:
        elements.append(_element(0x0902, _even(comment[:64], b" ")))
    if command.sop_instance_uid:
        elements.append(_element(0x1000, _even(command.sop_instance_uid, b"\0")))
    if command.type_id:
        elements.append(_type_id(command))
    return _pdata(context_id, _COMMAND | _LAST, _command_set(elements))


def encode_request(context_id: int, command: Command, dataset: bytes, max_length: int) -> Iterator[bytes]:
    """Encode a request with its dataset, such as an N-EVENT-REPORT-RQ (PS3.7 section 10.3.1.1), a P-DATA-TF at a time.

    Args:
        context_id: The presentation context.
        command: The request.
        dataset: In the context's transfer syntax.
        max_length: The longest P-DATA-TF that the peer takes; 0 is any.
    """
    elements = [
        _element(0x0002, _even(command.sop_class_uid, b"\0")),
        _element(0x0100, struct.pack("<H", command.command_field)),
        _element(0x0110, struct.pack("<H", command.message_id)),
        _element(0x0800, struct.pack("<H", WITH_DATASET)),
        _element(0x1000, _even(command.sop_instance_uid, b"\0")),
        _type_id(command),
    ]
    yield from _fragments(context_id, _COMMAND, _command_set(elements), max_length)
    yield from _fragments(context_id, 0, dataset, max_length)


def _fragments(context_id: int, control: int, data: bytes, max_length: int) -> Iterator[bytes]:
    # PS3.8 section D.1: the maximum length leaves out the PDU's own header; Annex E: fragments are of even length.
    size = max(max_length - 6 & ~1, 2) if max_length else max(len(data), 1)
    last = max(len(data) - 1, 0) // size * size
    for start in range(0, last, size):
        yield _pdata(context_id, control, data[start : start + size])
    yield _pdata(context_id, control | _LAST, data[last:])


# Message control header (PS3.8 section E.2).
_COMMAND, _LAST = 0x01, 0x02


def _pdata(context_id: int, control: int, fragment: bytes) -> bytes:
    return struct.pack(">BxIIBB", DATA_TF, len(fragment) + 6, len(fragment) + 2, context_id, control) + fragment


def _command_set(elements: list[bytes]) -> bytes:
    group = b"".join(elements)
    return _element(0x0000, struct.pack("<I", len(group))) + group


def _type_id(command: Command) -> bytes:
    element = 0x1008 if command.command_field == ACTION_RQ else 0x1002
    return _element(element, struct.pack("<H", command.type_id))


def _element(element: int, value: bytes) -> bytes:
    return _ELEMENT.pack(0x0000, element, len(value)) + value


def _even(text: str, padding: bytes) -> bytes:
    value = text.encode("ascii", "replace")
    return value + padding * (len(value) % 2)
