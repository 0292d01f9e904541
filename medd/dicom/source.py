"""The header of an image as it was sent: read without decoding what will only be passed on."""

import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta, timezone
from io import BytesIO
from pathlib import Path

from pydicom import Dataset, config, dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.errors import BytesLengthException
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.tag import BaseTag

from medd.dicom.part10 import DEFLATED, EXPLICIT_VR_LITTLE_ENDIAN, LONG_VRS, encode_file_meta, split_file
from medd.errors import InputError, TransientError
from medd.records import Reason

#: How much of a deflated object is inflated for its header: a small one may inflate to gigabytes.
_INFLATED_BYTES = 64 << 20
_UTC_OFFSET = re.compile(rb"([+-])(\d\d)(\d\d)")
#: What pydicom raises on bytes that are not what they say; OSError where the end of a value is no end of a file.
BROKEN = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, OSError, NotImplementedError),
    *(struct.error, BytesLengthException),
)


class _Leniency:
    """How many threads are within `lenient`: these settings belong to the process."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._within, self._settings = 0, ExitStack()

    def enter(self) -> None:
        """The first changes the settings."""
        with self._guard:
            if not self._within:
                self._settings.enter_context(warnings.catch_warnings())
                self._settings.enter_context(config.disable_value_validation())
                warnings.simplefilter("ignore")
            self._within += 1

    def leave(self) -> None:
        """The last restores them: while one is within, no other may make it strict."""
        with self._guard:
            self._within -= 1
            if not self._within:
                self._settings.close()


_LENIENCY = _Leniency()


@contextmanager
def lenient() -> Iterator[None]:
    """Take attributes as a device wrote them: pydicom neither warns of what is invalid nor refuses to write it.

    For the whole process, until the last thread has left.
    """
    _LENIENCY.enter()
    try:
        yield
    finally:
        _LENIENCY.leave()


def read_source(path: Path) -> Dataset:
    """The header of an image, its values as yet not decoded.

    Raises:
        InputError: It is no DICOM object, or names neither SOP class nor instance.
        TransientError: The file is not there, or cannot be read now.
    """
    try:
        with path.open("rb") as file:
            offset, syntax = split_file(file.read(1 << 16))
            file.seek(0)
            data = BytesIO(_inflate(file.read(), offset)) if syntax in DEFLATED else file
            source = dcmread(data, force=True, stop_before_pixels=True)
            if source.get("SOPClassUID") and source.get("SOPInstanceUID"):
                return source
    except OSError as error:
        if error.errno is None:  # pydicom's word for a header that breaks off, not the disk's
            raise InputError(Reason.UNREADABLE, f"{path.name}: no readable DICOM header") from error
        # The spool's disk may come back.
        raise TransientError(f"{path.name}: cannot be read. Received: {error.strerror or error}") from error
    except (InputError, zlib.error, *BROKEN) as error:
        raise InputError(Reason.UNREADABLE, f"{path.name}: no readable DICOM header") from error
    raise InputError(Reason.UNREADABLE, f"{path.name}: no DICOM object: SOP class or instance is missing")


def _inflate(data: bytes, offset: int) -> bytes:
    """The beginning of a deflated object (PS3.5 section A.5), as an explicit little endian one."""
    inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[offset:], _INFLATED_BYTES)
    return encode_file_meta("", "", EXPLICIT_VR_LITTLE_ENDIAN) + inflated


def raw_value(source: Dataset, keyword: str) -> bytes:
    """The bytes of an attribute as they were sent, without padding; b"" where it is absent or empty."""
    tag = tag_for_keyword(keyword)
    assert tag is not None
    return value_of(source, BaseTag(tag)).strip(b" \0") if tag in source else b""


def local_time(moment: datetime, source: Dataset) -> datetime:
    """A moment as the clocks beside the image show it.

    An object has one offset for all its times, and those of the study are copied: (0008,0201) Timezone Offset From UTC
    where the image has it. Otherwise UTC, as the same object is to have the same bytes on every host.
    """
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if stated := _UTC_OFFSET.fullmatch(raw_value(source, "TimezoneOffsetFromUTC")):
        sign, hours, minutes = stated.groups()
        offset = timedelta(hours=int(hours), minutes=int(minutes)) * (-1 if sign == b"-" else 1)
        if abs(offset) < timedelta(hours=24):
            return aware.astimezone(timezone(offset))
    return aware.astimezone(UTC)


def encode_element(element: DataElement) -> bytes:
    """An element in Explicit VR Little Endian; its text has to be ASCII."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = False, True
    write_data_element(buffer, element)
    return buffer.getvalue()


def value_of(source: Dataset, tag: BaseTag) -> bytes:
    """The value of an element that is no sequence, as it was sent."""
    element = source.get_item(tag)
    if isinstance(element, RawDataElement):
        return element.value or b""
    encoded = encode_element(source[tag])  # pydicom decoded it while reading, as it does with the character set
    return encoded[12 if encoded[4:6] in LONG_VRS else 8 :]
