"""What storage commitment says (PS3.4 Annex J, Storage Commitment Push Model): who asks, what for, what is answered.

The requests and reports are small datasets; here they become records and back, whichever side we are on.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import pydicom
from pydicom import DataElement, Dataset
from pydicom.filereader import read_dataset
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

#: Items of sequences in one dataset: pydicom takes a tenth of a millisecond for each.
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
    dataset.ReferencedSOPSequence = [_item(one) for one in objects]
    return dataset


def report(outcome: Outcome) -> Dataset:
    """The Event Information of an N-EVENT-REPORT-RQ (PS3.4 table J.3-2)."""
    dataset = Dataset()
    _set_uid(dataset, "TransactionUID", outcome.transaction_uid)
    if outcome.committed:
        dataset.ReferencedSOPSequence = [_item(one) for one in outcome.committed]
    if outcome.failed:
        dataset.FailedSOPSequence = [_item(one) for one, _ in outcome.failed]
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
    """A dataset from its bytes, Implicit or Explicit VR Little Endian.

    Raises:
        InputError: They cannot be read, or have more than `MAX_ITEMS` items.
    """
    if data.count(_ITEM_TAG) > MAX_ITEMS:
        raise _unreadable(f"more than {MAX_ITEMS} items")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = read_dataset(BytesIO(data), transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN, True)
            dataset.decode()  # reads what was deferred, so that no surprise comes later
    except Exception as error:  # damaged bytes bring out anything
        raise _unreadable(f"not readable as DICOM. Received: {type(error).__name__}") from error
    return dataset


def _item(reference: Reference) -> Dataset:
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
