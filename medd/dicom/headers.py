"""What a DICOM object says of itself, read without touching its pixels.

The receiver reads one header for each image that comes in, whoever sent it. So it is walked here, in every encoding of
PS3.5 Annex A, in a bounded number of steps and without making anything of what is not asked for. pydicom makes an
object of each item it meets: a file of a few hundred bytes, inflated, would hold the receiver up for seconds.
"""

import struct
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

from pydicom.charset import convert_encodings, decode_bytes

from medd.dicom import part10
from medd.dicom.part10 import (
    DEFLATED,
    ELEMENT,
    IMPLICIT_VR_LITTLE_ENDIAN,
    LENGTH,
    LONG_VRS,
    SHORT_VRS,
    clean,
    media_type_of,
    split_file,
)
from medd.errors import InputError
from medd.records import InstanceHeader, MediaType, Reason

#: How much of a deflated dataset is inflated for its header: a small one may inflate to gigabytes.
_INFLATED_BYTES = 1 << 20
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"

UNDEFINED = 0xFFFFFFFF
_US = struct.Struct("<H")
_BIG_ELEMENT, _BIG_LENGTH = struct.Struct(">HH2sH"), struct.Struct(">I")
#: A header longer than what is in memory is read on by so much at a time, and so often: 4 MiB, were there no gaps.
_WINDOW_BYTES, _MAX_WINDOWS = 1 << 14, 256
#: Sequences of undefined length within each other; the Standard's own are some ten.
_MAX_DEPTH = 100
#: VR LO has 64 characters, of up to a few bytes each; much more is no name of anything, and no database indexes it.
_MAX_TEXT_BYTES = 1024
_PIXEL_DATA = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_SPECIFIC_CHARACTER_SET, _ROWS = 0x00080005, 0x00280010

# Tag → field of InstanceHeader, by what its value is.
_UIDS = {
    0x00080016: "sop_class_uid",
    0x00080018: "sop_instance_uid",
    0x0020000D: "study_instance_uid",
    0x0020000E: "series_instance_uid",
}
_CODES = {
    0x00080020: "study_date",
    0x00080060: "modality",
    0x00100040: "patient_sex",
    0x00101010: "patient_age",
    0x00180015: "body_part_examined",
    0x00185101: "view_position",
    0x00280004: "photometric_interpretation",
}
_TEXTS = {
    0x00080050: "accession_number",
    0x00080070: "manufacturer",
    0x00081010: "station_name",
    0x00081030: "study_description",
    0x0008103E: "series_description",
    0x00100020: "patient_id",
    0x00181030: "protocol_name",
}
_NUMBERS = {0x00280002: "samples_per_pixel", _ROWS: "rows", 0x00280011: "columns"}
_IMAGE_TYPE, _PATIENT_ORIENTATION, _NUMBER_OF_FRAMES = 0x00080008, 0x00200020, 0x00280008
_WANTED = frozenset(
    {_SPECIFIC_CHARACTER_SET, _IMAGE_TYPE, _PATIENT_ORIENTATION, _NUMBER_OF_FRAMES}
    | _UIDS.keys()
    | _CODES.keys()
    | _TEXTS.keys()
    | _NUMBERS.keys()
)
_LAST_WANTED = max(_WANTED)


def age_in_years(text: str) -> float | None:
    """An Age String (PS3.5 section 6.2, VR AS) such as 004Y, 018M, 006W or 003D in years; None for anything else."""
    number, unit = text[:-1], text[-1:]
    days = {"D": 1, "W": 7, "M": 30.4375, "Y": 365.25}.get(unit)
    return int(number) * days / 365.25 if days and len(number) == 3 and number.isascii() and number.isdigit() else None


def inspect_file(path: Path) -> InstanceHeader:
    """Read the header of any file that medd takes: DICOM with or without preamble, JPEG, PNG, TIFF.

    Raises:
        InputError: It is none of these, or damaged.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        beginning = file.read(part10.HEAD_BYTES)
        media_type = media_type_of(beginning)
        if media_type != MediaType.DICOM:
            return InstanceHeader(media_type)
        offset, syntax = split_file(beginning)
        size = file.seek(0, 2) - offset

        def read(at: int, length: int) -> bytes:
            file.seek(offset + at)
            return file.read(length)

        return read_header(beginning[offset:], syntax, size, read)


def read_header(
    prefix: bytes | bytearray, transfer_syntax_uid: str, size: int, read: Callable[[int, int], bytes] | None = None
) -> InstanceHeader:
    """Read the header of a dataset from its first bytes.

    Args:
        prefix: The dataset from its first byte, or as much of its beginning as there is.
        transfer_syntax_uid: How it is encoded.
        size: The length of the whole dataset, bytes.
        read: Gives more of it, by offset and length; where there is none, the prefix has to be enough.

    Raises:
        InputError: It is no DICOM dataset, it is shorter than it says, or its header is longer than anybody's.
        OSError: `read` fails.
    """
    if transfer_syntax_uid in DEFLATED:
        inflater = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        try:
            data = inflater.decompress(prefix, _INFLATED_BYTES)
        except zlib.error as error:
            raise InputError(Reason.UNREADABLE, "deflated dataset is damaged") from error
        if not inflater.eof and len(data) < _INFLATED_BYTES and len(prefix) == size:
            raise InputError(Reason.UNREADABLE, f"deflated dataset is truncated. Received: {size} bytes")
        # How long the whole is shows only at its end.
        walk = _Walk(data, transfer_syntax_uid, len(data) if inflater.eof else sys.maxsize, None)
    else:
        walk = _Walk(prefix, transfer_syntax_uid, size, read)
    try:
        has_pixels = walk.run()
    except _TooLong:
        if walk.tag <= _LAST_WANTED:
            message = f"no header within the first {walk.seen} bytes of the dataset"
            raise InputError(Reason.UNREADABLE, message) from None
        # Thousands of frames are described one by one. All that is asked for came before, but for the pixels.
        has_pixels = _ROWS in walk.values
    return _header(walk.values, has_pixels, transfer_syntax_uid)


class _TooLong(Exception):
    """There is more before the pixels than is looked at."""


class _Walk:
    """A walk through the top level of a dataset up to its pixels.

    It goes through a window on the dataset, which moves on where it ends. How often it does is limited, and with it how
    many elements and items are stepped over: each has eight bytes at least.

    Attributes:
        values: What is asked for, in little endian.
        tag: How far it got, where the window had to move or a sequence to be stepped over.
        seen: How far the window got, bytes.
    """

    def __init__(
        self,
        data: bytes | bytearray,
        transfer_syntax_uid: str,
        size: int,
        read: Callable[[int, int], bytes] | None,
    ) -> None:
        self._implicit = transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN
        self._big = transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN
        self._unpack = _BIG_ELEMENT.unpack_from if self._big else ELEMENT.unpack_from
        self._unpack_length = _BIG_LENGTH.unpack_from if self._big else LENGTH.unpack_from
        self._data, self._size, self._total, self._read = data, size, size, read
        self._base, self._windows = 0, 0
        self.values: dict[int, bytes] = {}
        self.tag = 0
        self.seen = len(data)

    def run(self) -> bool:
        """Walk; returns whether there are pixels."""
        implicit, values = self._implicit, self.values
        unpack, unpack_length = self._unpack, self._unpack_length
        # Positions are those in the window; `size` is that of the dataset from the window's beginning on.
        data, position, end, size = self._data, 0, len(self._data), self._size
        tag, longest = 0, 8 if implicit else 12
        while position < size:
            if position + longest > end:
                if end < size:
                    self.tag = tag
                    data, end, size = self._move(position)
                    position = 0
                if position + 8 > end:
                    raise self._truncated()
            group, element, vr, length = unpack(data, position)
            tag = group << 16 | element
            start = position + 8
            if implicit:
                length = unpack_length(data, position + 4)[0]
            elif vr not in SHORT_VRS:
                if vr in LONG_VRS:
                    if position + 12 > end:
                        raise self._truncated()
                    length = unpack_length(data, position + 8)[0]
                    start = position + 12
                elif not _is_vr(vr):
                    length = unpack_length(data, position + 4)[0]
            if tag in _PIXEL_DATA:
                if length != UNDEFINED and start + length > size:
                    message = f"pixel data is truncated: {length} bytes declared. Received: {size - start}"
                    raise InputError(Reason.UNREADABLE, message)
                return True
            if not 0x0002FFFF < tag <= 0x7FE00010:
                if group > 0x0002:  # nothing that is asked for comes behind the pixels
                    return False
                if group == 0x0002:
                    # In a file it would stand behind the meta group, as if it were part of it (PS3.10 section 7.1).
                    raise InputError(Reason.UNREADABLE, "file meta elements, group 0002, in the dataset")
            if length == UNDEFINED:
                self.tag = tag
                position = self._skip_sequence(start, implicit or vr == b"UN")
                data, end, size = self._data, len(self._data), self._size
                continue
            if start + length > size:
                message = f"dataset is truncated in ({group:04X},{element:04X}). Received: {self._total} bytes"
                raise InputError(Reason.UNREADABLE, message)
            if tag in _WANTED:
                if start + length > end:
                    data, end, size = self._move(start)
                    start = 0
                    if length > end:
                        raise InputError(Reason.UNREADABLE, f"({group:04X},{element:04X}) is too long: {length} bytes")
                value = bytes(data[start : start + length])
                values[tag] = value[1::-1] if self._big and tag in _NUMBERS else value
            position = start + length
        return False

    def _skip_sequence(self, position: int, implicit: bool) -> int:
        """Position behind a sequence of undefined length (PS3.5 section 7.5), in the window as it is then."""
        unpack, unpack_length = self._unpack, self._unpack_length
        data, end, size = self._data, len(self._data), self._size
        # The sequences that are open: whether each is in implicit VR. All but the innermost have an item open, too.
        levels, in_item = [implicit], False
        while True:
            if position + 12 > end < size:
                data, end, size = self._move(position)
                position = 0
            if position + 8 > end:
                raise self._truncated()
            group, element, vr, length = unpack(data, position)
            if in_item and group != 0xFFFE:
                implicit = levels[-1]
                if not implicit and vr in LONG_VRS:
                    if position + 12 > end:
                        raise self._truncated()
                    length = unpack_length(data, position + 8)[0]
                    position += 12
                else:
                    if implicit or (vr not in SHORT_VRS and not _is_vr(vr)):
                        length = unpack_length(data, position + 4)[0]
                    position += 8
                if length == UNDEFINED:
                    if len(levels) == _MAX_DEPTH:
                        message = f"sequences are nested more than {_MAX_DEPTH} deep"
                        raise InputError(Reason.UNREADABLE, message)
                    levels.append(implicit or vr == b"UN")
                    in_item = False
                else:
                    position += length
                continue
            tag, length = group << 16 | element, unpack_length(data, position + 4)[0]
            position += 8
            if in_item and tag == _ITEM_END:
                in_item = False
            elif not in_item and tag == _ITEM:
                if length == UNDEFINED:
                    in_item = True
                else:
                    position += length
            elif not in_item and tag == _SEQUENCE_END:
                levels.pop()
                if not levels:
                    return position
                in_item = True
            else:
                where = f"({self.tag >> 16:04X},{self.tag & 0xFFFF:04X})"
                raise InputError(Reason.UNREADABLE, f"{where} is no sequence. Received: ({group:04X},{element:04X})")

    def _move(self, position: int) -> tuple[bytes, int, int]:
        """Move the window: what it holds, how long that is, and how much of the dataset begins with it."""
        if self._read is None or self._windows == _MAX_WINDOWS:
            raise _TooLong
        self._windows += 1
        self._base += position
        self._size -= position
        self._data = self._read(self._base, _WINDOW_BYTES) if self._size > 0 else b""
        self.seen = self._base + len(self._data)
        return self._data, len(self._data), self._size

    def _truncated(self) -> InputError:
        return InputError(Reason.UNREADABLE, f"dataset is truncated. Received: {self._total} bytes")


def _is_vr(vr: bytes) -> bool:
    """Whether these bytes are a VR that nobody knows, with a length of 16 bits; otherwise there is none (implicit VR).

    Some writers change to implicit VR in the middle of a dataset, or within sequences.
    """
    return b"AA" <= vr <= b"ZZ"


def _header(values: dict[int, bytes], has_pixels: bool, transfer_syntax_uid: str) -> InstanceHeader:
    fields: dict[str, object] = {}
    for tag, name in _UIDS.items():
        if tag in values:
            uid = clean(values[tag].decode("ascii", "replace"))
            if len(uid) > 64:
                raise InputError(Reason.UNREADABLE, f"{name} is longer than 64 characters. Received: {len(uid)}")
            fields[name] = uid
    for name in ("sop_class_uid", "sop_instance_uid"):
        if not fields.get(name):
            raise InputError(Reason.UNREADABLE, f"no DICOM object: {name} is missing")
    for tag, name in _CODES.items():
        if tag in values:
            fields[name] = clean(values[tag].decode("ascii", "replace")).upper()[:16]
    charset = values.get(_SPECIFIC_CHARACTER_SET, b"")
    for tag, name in _TEXTS.items():
        if tag in values:
            if len(values[tag]) > _MAX_TEXT_BYTES:
                raise InputError(Reason.UNREADABLE, f"{name} is too long. Received: {len(values[tag])} bytes")
            fields[name] = _text(values[tag], charset)
    for tag, name in _NUMBERS.items():
        if len(values.get(tag, b"")) >= 2:
            fields[name] = _US.unpack_from(values[tag])[0]
    if tag_value := values.get(_IMAGE_TYPE):
        fields["image_type"] = tuple(clean(part).upper() for part in tag_value.decode("ascii", "replace").split("\\"))
    if tag_value := values.get(_PATIENT_ORIENTATION):
        fields["patient_orientation"] = clean(tag_value.decode("ascii", "replace").split("\\")[0]).upper()[:16]
    frames = clean(values.get(_NUMBER_OF_FRAMES, b"").decode("ascii", "replace"))
    if frames.isascii() and frames.isdigit() and len(frames) < 10:
        fields["number_of_frames"] = int(frames)
    return InstanceHeader(
        media_type=MediaType.DICOM,
        transfer_syntax_uid=transfer_syntax_uid,
        has_pixel_data=has_pixels,
        **fields,  # type: ignore[arg-type]
    )


def _text(value: bytes, charset: bytes) -> str:
    """Decode a text by the Specific Character Set (PS3.3 section C.12.1.1.2)."""
    if value.isascii() and b"\x1b" not in value:
        return clean(value.decode("ascii"))
    names = [clean(name) for name in charset.decode("ascii", "replace").split("\\")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an unknown character set is read as Latin-1, which loses nothing
        try:
            return clean(decode_bytes(value, convert_encodings(names), {0x5C}))
        except (LookupError, UnicodeError, ValueError):
            return clean(value.decode("latin-1"))
