"""What storage commitment says (PS3.4 Annex J, Storage Commitment Push Model): who asks, what for, what is answered.

The requests and reports are small datasets; here they become records and back, whichever side we are on.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

import pydicom
from pydicom import DataElement, Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.tag import Tag

from medd.dicom.part10 import IMPLICIT_VR_LITTLE_ENDIAN
from medd.errors import InputError
from medd.records import Reason

#: The SOP class, and its one well-known instance (PS3.4 sections J.3.5 and J.3.1).
PUSH_MODEL, INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"

#: Action Type ID of "Request Storage Commitment" (PS3.4 table J.3-1).
REQUEST = 1
#: Event Type IDs (PS3.4 table J.3-2): all of it is kept, or some of it is not.
ALL_COMMITTED, FAILURES_EXIST = 1, 2

# Failure Reason (0008,1197), PS3.3 section C.14.1.1.
NO_SUCH_OBJECT_INSTANCE = 0x0112
CLASS_INSTANCE_CONFLICT = 0x0119

#: Items of sequences in one dataset.
MAX_ITEMS = 10_000
_ITEM_TAG = b"\xfe\xff\x00\xe0"

#: An object by its SOP Class UID and SOP Instance UID.
Reference = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request for storage commitment."""

    transaction_uid: str
    committed: tuple[Reference, ...]
    #: With the Failure Reason (0008,1197) of each.
    failed: tuple[tuple[Reference, int], ...] = ()

    @property
    def event_type(self) -> int:
        """Event Type ID of the N-EVENT-REPORT that tells it."""
        return FAILURES_EXIST if self.failed else ALL_COMMITTED


def request(transaction_uid: str, objects: Sequence[Reference]) -> Dataset:
    """The Action Information of an N-ACTION-RQ (PS3.4 table J.3-1)."""
    dataset = Dataset()
    _set_uid(dataset, "TransactionUID", transaction_uid)
    dataset.ReferencedSOPSequence = [_as_item(one) for one in objects]
    return dataset


def report(outcome: Outcome) -> Dataset:
    """The Event Information of an N-EVENT-REPORT-RQ (PS3.4 table J.3-2)."""
    dataset = Dataset()
    _set_uid(dataset, "TransactionUID", outcome.transaction_uid)
    if outcome.committed:
        dataset.ReferencedSOPSequence = [_as_item(one) for one in outcome.committed]
    if outcome.failed:
        dataset.FailedSOPSequence = [_as_item(one) for one, _ in outcome.failed]
        for item, (_, reason) in zip(dataset.FailedSOPSequence, outcome.failed, strict=True):
            item.FailureReason = reason
    return dataset


def read_request(dataset: Dataset) -> tuple[str, list[Reference]]:
    """Transaction UID and objects of a request.

    Raises:
        InputError: Something is missing or is no UID.
    """
    objects = _references(dataset, "ReferencedSOPSequence")
    if not objects:
        raise _unreadable("no object is referenced")
    return _uid(dataset, "TransactionUID"), objects


def read_report(dataset: Dataset) -> Outcome:
    """The outcome that a report tells.

    Raises:
        InputError: Something is missing or is no UID.
    """
    failed = _references(dataset, "FailedSOPSequence")
    reasons = [_reason(item) for item in _items(dataset, "FailedSOPSequence")]
    return Outcome(
        _uid(dataset, "TransactionUID"),
        tuple(_references(dataset, "ReferencedSOPSequence")),
        tuple(zip(failed, reasons, strict=True)),
    )


def encode(dataset: Dataset, transfer_syntax_uid: str) -> bytes:
    """The bytes of a dataset, Implicit or Explicit VR Little Endian."""
    stream = BytesIO()
    dataset.save_as(stream, implicit_vr=transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN, little_endian=True)
    return stream.getvalue()


def decode(data: bytes, transfer_syntax_uid: str) -> Dataset:
    """What matters here of a dataset's bytes, Implicit or Explicit VR Little Endian; all else is passed over.

    Read without pydicom, which takes 15 s for a megabyte of empty elements, and holds up every other thread meanwhile.

    Raises:
        InputError: They cannot be read, or have more than `MAX_ITEMS` items.
    """
    if data.count(_ITEM_TAG) > MAX_ITEMS:
        raise _unreadable(f"more than {MAX_ITEMS} items")
    try:
        dataset, _ = _Reader(data, transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN).dataset(0, len(data), _OF_DATASET)
    except struct.error as error:
        raise _unreadable("not readable as DICOM: cut short") from error
    return dataset


# PS3.5 chapter 7: tags as numbers, and the length that says "until the delimiter".
_ITEM, _ITEM_END, _SEQUENCE_END, _UNDEFINED = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, 0xFFFFFFFF
#: VRs whose length takes four bytes, after two that are reserved.
_LONG_VRS = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_OF_DATASET = {tag_for_keyword(one): one for one in ("TransactionUID", "ReferencedSOPSequence", "FailedSOPSequence")}
_OF_ITEM = {tag_for_keyword(one): one for one in ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID", "FailureReason")}
_TAG_AND_LENGTH, _SHORT_LENGTH, _LENGTH = struct.Struct("<HHI"), struct.Struct("<H"), struct.Struct("<I")


class _Reader:
    """Reads a few elements of a dataset. A `struct.error` says that the bytes are cut short."""

    def __init__(self, data: bytes, implicit: bool) -> None:
        self._data, self._implicit = data, implicit

    def dataset(self, at: int, end: int, wanted: Mapping[int | None, str]) -> tuple[Dataset, int]:
        """A dataset, or an item, that ends at `end` or with a delimiter; and where it ended."""
        found = Dataset()
        while at < end:
            tag, vr, at, length = self._header(at)
            if tag == _ITEM_END:
                return found, at
            keyword = wanted.get(tag)
            if keyword is None:
                at = self._after(at, length)
            elif keyword.endswith("Sequence"):
                _check_vr(vr, b"SQ", f"{keyword} is no sequence")
                items, at = self._sequence(at, end if length == _UNDEFINED else at + length)
                setattr(found, keyword, items)
            else:
                start, at = at, self._after(at, length)
                _set_value(found, keyword, vr, self._data[start:at])
            if at > end:
                raise _unreadable("not readable as DICOM: an element is longer than what holds it")
        return found, at

    def _sequence(self, at: int, end: int) -> tuple[list[Dataset], int]:
        items = []
        while at < end:
            tag, _, at, length = self._header(at)
            if tag == _SEQUENCE_END:
                break
            if tag != _ITEM:
                raise _unreadable("not readable as DICOM: a sequence of something else than items")
            item, at = self.dataset(at, end if length == _UNDEFINED else at + length, _OF_ITEM)
            items.append(item)
        return items, at

    def _header(self, at: int) -> tuple[int, bytes, int, int]:
        """Tag, VR (empty where there is none), where the value begins, its length."""
        group, element, length = _TAG_AND_LENGTH.unpack_from(self._data, at)
        tag = group << 16 | element
        if self._implicit or group == 0xFFFE:
            return tag, b"", at + 8, length
        vr = self._data[at + 4 : at + 6]
        if vr in _LONG_VRS:
            return tag, vr, at + 12, _LENGTH.unpack_from(self._data, at + 8)[0]
        return tag, vr, at + 8, _SHORT_LENGTH.unpack_from(self._data, at + 6)[0]

    def _after(self, at: int, length: int) -> int:
        """Where a value ends; one of undefined length ends with its delimiter, and may hold others of that kind."""
        if length != _UNDEFINED:
            return at + length
        depth = 1
        while depth:
            tag, _, at, length = self._header(at)
            if tag in (_ITEM_END, _SEQUENCE_END):
                depth -= 1
            elif length == _UNDEFINED:
                depth += 1
            else:
                at += length
        return at


def _set_value(dataset: Dataset, keyword: str, vr: bytes, value: bytes) -> None:
    if keyword != "FailureReason":
        _check_vr(vr, b"UI", f"{keyword} is no UID")
        _set_uid(dataset, keyword, value.decode("latin-1").rstrip(" \0"))
        return
    _check_vr(vr, b"US", "FailureReason is no number")
    if len(value) not in (0, 2):
        raise _unreadable("FailureReason is no number")
    dataset.FailureReason = int.from_bytes(value, "little")


def _check_vr(vr: bytes, expected: bytes, why: str) -> None:
    if vr not in (b"", b"UN", expected):
        raise _unreadable(why)


def _as_item(reference: Reference) -> Dataset:
    item = Dataset()
    _set_uid(item, "ReferencedSOPClassUID", reference[0])
    _set_uid(item, "ReferencedSOPInstanceUID", reference[1])
    return item


def _set_uid(dataset: Dataset, keyword: str, uid: str) -> None:
    # As it came: a UID with a leading zero is worth no warning here.
    element = DataElement(Tag(keyword), "UI", uid, validation_mode=pydicom.config.IGNORE)
    dataset.add(element)


def _references(dataset: Dataset, keyword: str) -> list[Reference]:
    items = _items(dataset, keyword)
    return [(_uid(item, "ReferencedSOPClassUID"), _uid(item, "ReferencedSOPInstanceUID")) for item in items]


# A peer may write any VR and any multiplicity, and pydicom makes of a value what they say.


def _items(dataset: Dataset, keyword: str) -> Sequence[Dataset]:
    items = dataset.get(keyword) or ()
    if not isinstance(items, (tuple, pydicom.Sequence)):
        raise _unreadable(f"{keyword} is no sequence")
    return items


def _uid(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    uid = value.strip(" \0") if isinstance(value, str) else ""
    # PS3.5 section 9.1, but for leading zeros: many a UID with them is in use.
    if len(uid) > 64 or not uid.isascii() or not all(part.isdigit() for part in uid.split(".")):
        raise _unreadable(f"{keyword} is missing or no UID")
    return uid


def _reason(item: Dataset) -> int:
    reason = item.get("FailureReason") or 0  # some leave it out
    if not isinstance(reason, int):
        raise _unreadable("FailureReason is no number")
    return reason


def _unreadable(why: str) -> InputError:
    return InputError(Reason.UNREADABLE, why)
