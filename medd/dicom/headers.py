"""What a DICOM object says of itself, read without touching its pixels.

The receiver reads one header for each image that comes in, so the usual encodings (PS3.5 Annex A: Implicit and Explicit
VR Little Endian, and every compressed syntax, which is Explicit VR) are walked here directly. Whatever is unusual
(big endian, a VR that is none) is left to pydicom, which is thorough and about ten times slower.
"""

import struct
import sys
import warnings
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.charset import convert_encodings, decode_bytes

from medd.dicom import part10
from medd.dicom.part10 import (
    DEFLATED,
    ELEMENT,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    LENGTH,
    LONG_VRS,
    SHORT_VRS,
    clean,
    encode_file_meta,
    media_type_of,
    split_file,
)
from medd.errors import InputError
from medd.records import InstanceHeader, MediaType, Reason

#: How much of a deflated dataset is inflated for its header: a small one may inflate to gigabytes.
_INFLATED_BYTES = 1 << 20
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"

UNDEFINED = 0xFFFFFFFF
_TAG = struct.Struct("<HH")
_US = struct.Struct("<H")
#: VR LO has 64 characters, of up to a few bytes each; much more is no name of anything, and no database indexes it.
_MAX_TEXT_BYTES = 1024
_PIXEL_DATA = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_SPECIFIC_CHARACTER_SET = 0x00080005

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
_NUMBERS = {0x00280002: "samples_per_pixel", 0x00280010: "rows", 0x00280011: "columns"}
_IMAGE_TYPE, _PATIENT_ORIENTATION, _NUMBER_OF_FRAMES = 0x00080008, 0x00200020, 0x00280008
_WANTED = frozenset(
    {_SPECIFIC_CHARACTER_SET, _IMAGE_TYPE, _PATIENT_ORIENTATION, _NUMBER_OF_FRAMES}
    | _UIDS.keys()
    | _CODES.keys()
    | _TEXTS.keys()
    | _NUMBERS.keys()
)


def age_in_years(text: str) -> float | None:
    """An Age String (PS3.5 section 6.2, VR AS) such as 004Y, 018M, 006W or 003D in years; None for anything else."""
    number, unit = text[:-1], text[-1:]
    days = {"D": 1, "W": 7, "M": 30.4375, "Y": 365.25}.get(unit)
    return int(number) * days / 365.25 if days and len(number) == 3 and number.isascii() and number.isdigit() else None


class _Unusual(Exception):
    """The walk met something that is left to pydicom."""


class _Cut(Exception):
    """The walk ran past the end of the bytes."""


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
        header = read_header(beginning[offset:], syntax, size)
        if header is None:
            file.seek(offset)
            header = read_with_pydicom(file, syntax)
        return header


def read_header(prefix: bytes | bytearray, transfer_syntax_uid: str, size: int) -> InstanceHeader | None:
    """Read the header of a dataset from its first bytes.

    Args:
        prefix: The dataset from its first byte, or as much of its beginning as there is.
        transfer_syntax_uid: How it is encoded.
        size: The length of the whole dataset, bytes.

    Returns:
        The header, or None when it does not end within the prefix or is unusual: then `read_file` has to.

    Raises:
        InputError: It is no DICOM dataset, or the dataset is shorter than it says.
    """
    if transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN:
        return None
    if transfer_syntax_uid in DEFLATED:
        return _read_deflated(prefix, transfer_syntax_uid, size)
    try:
        values, has_pixels = _walk(prefix, transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN, size)
    except _Unusual:
        return None
    except _Cut:
        if len(prefix) < size:
            return None
        raise InputError(Reason.UNREADABLE, f"dataset is truncated. Received: {size} bytes") from None
    return _header(values, has_pixels, transfer_syntax_uid)


def _read_deflated(prefix: bytes | bytearray, transfer_syntax_uid: str, size: int) -> InstanceHeader:
    inflater = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    try:
        data = inflater.decompress(prefix, _INFLATED_BYTES)
    except zlib.error as error:
        raise InputError(Reason.UNREADABLE, "deflated dataset is damaged") from error
    if not inflater.eof and len(data) < _INFLATED_BYTES and len(prefix) == size:
        raise InputError(Reason.UNREADABLE, f"deflated dataset is truncated. Received: {size} bytes")
    try:
        # How long the whole is shows only at its end.
        values, has_pixels = _walk(data, False, len(data) if inflater.eof else sys.maxsize)
    except (_Unusual, _Cut):
        if not inflater.eof:
            message = f"no header within the first {len(data)} bytes of the deflated dataset"
            raise InputError(Reason.UNREADABLE, message) from None
        header = read_with_pydicom(BytesIO(data), EXPLICIT_VR_LITTLE_ENDIAN)
        return replace(header, transfer_syntax_uid=transfer_syntax_uid)
    return _header(values, has_pixels, transfer_syntax_uid)


def read_file(path: Path) -> InstanceHeader:
    """Read the header of a Part 10 file (PS3.10 section 7) with pydicom.

    Raises:
        InputError: It cannot be read as DICOM.
        OSError: The file itself cannot be read.
    """
    with path.open("rb") as file:
        return read_with_pydicom(file)


def read_with_pydicom(file: BinaryIO, transfer_syntax_uid: str = "") -> InstanceHeader:
    """Read a header with pydicom, from a Part 10 file or, given its transfer syntax, from a bare dataset.

    Raises:
        InputError: It cannot be read as DICOM.
    """
    if transfer_syntax_uid:
        file = BytesIO(encode_file_meta("", "", transfer_syntax_uid) + file.read())
    tags: list[int] = [*_WANTED, *_PIXEL_DATA]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is odd but readable is no concern of the receiver
            dataset = pydicom.dcmread(file, force=True, specific_tags=tags, defer_size=4096)
            values = {int(element.tag): _raw(element) for element in dataset.values()}
    except Exception as error:  # zlib.error, struct.error, RecursionError, …: damaged bytes bring out anything
        raise InputError(Reason.UNREADABLE, f"not readable as DICOM. Received: {type(error).__name__}") from error
    syntax = transfer_syntax_uid or str(dataset.file_meta.get("TransferSyntaxUID", ""))
    return _header(values, not _PIXEL_DATA.isdisjoint(values), syntax)


def _raw(element: Any) -> bytes:
    value, tag = element.value, int(element.tag)
    if isinstance(value, bytes):
        if tag in _NUMBERS and len(value) == 2 and not getattr(element, "is_little_endian", True):
            return value[::-1]
        return value
    if tag in _NUMBERS and isinstance(value, int):
        return _US.pack(value & 0xFFFF)
    if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue":
        return "\\".join(map(str, value)).encode("utf-8", "replace")
    return str(value if value is not None else "").encode("utf-8", "replace")


def _walk(data: bytes | bytearray, implicit: bool, size: int) -> tuple[dict[int, bytes], bool]:
    """Walk the top level of a little-endian dataset up to its pixels."""
    values: dict[int, bytes] = {}
    position, end = 0, len(data)
    unpack_short, unpack_long = ELEMENT.unpack_from, LENGTH.unpack_from
    while position < size:
        if position + 8 > end:
            raise _Cut
        group, element, vr, length = unpack_short(data, position)
        tag = group << 16 | element
        if implicit:
            length = unpack_long(data, position + 4)[0]
            start = position + 8
        elif vr in SHORT_VRS:
            start = position + 8
        elif vr in LONG_VRS:
            if position + 12 > end:
                raise _Cut
            length = unpack_long(data, position + 8)[0]
            start = position + 12
        else:
            raise _Unusual
        if tag in _PIXEL_DATA:
            if length != UNDEFINED and start + length > size:
                message = f"pixel data is truncated: {length} bytes declared. Received: {size - start}"
                raise InputError(Reason.UNREADABLE, message)
            return values, True
        if tag > 0x7FE00010 or (group < 8 and group != 0x0002):
            # Nothing that is asked for comes behind the pixels, and nothing of a dataset before group 0008.
            if group < 8:
                raise _Unusual
            return values, False
        if length == UNDEFINED:
            position = _skip_items(data, start, implicit or vr == b"UN", end)
            continue
        if start + length > size:
            message = f"dataset is truncated in ({group:04X},{element:04X}). Received: {size} bytes"
            raise InputError(Reason.UNREADABLE, message)
        if tag in _WANTED:
            if start + length > end:
                raise _Cut
            values[tag] = bytes(data[start : start + length])
        position = start + length
    return values, False


def _skip_items(data: bytes | bytearray, position: int, implicit: bool, end: int, depth: int = 0) -> int:
    """Position behind a sequence of undefined length (PS3.5 section 7.5)."""
    if depth > 32:
        raise _Unusual
    while True:
        if position + 8 > end:
            raise _Cut
        group, element = _TAG.unpack_from(data, position)
        tag, length = group << 16 | element, LENGTH.unpack_from(data, position + 4)[0]
        position += 8
        if tag == _SEQUENCE_END:
            return position
        if tag != _ITEM:
            raise _Unusual
        position = _skip_dataset(data, position, implicit, end, depth) if length == UNDEFINED else position + length


def _skip_dataset(data: bytes | bytearray, position: int, implicit: bool, end: int, depth: int) -> int:
    """Position behind an item of undefined length."""
    while True:
        if position + 8 > end:
            raise _Cut
        group, element, vr, length = ELEMENT.unpack_from(data, position)
        if group << 16 | element == _ITEM_END:
            return position + 8
        if implicit:
            length = LENGTH.unpack_from(data, position + 4)[0]
            position += 8
        elif vr in SHORT_VRS:
            position += 8
        elif vr in LONG_VRS and position + 12 <= end:
            length = LENGTH.unpack_from(data, position + 8)[0]
            position += 12
        else:
            raise _Unusual
        if length == UNDEFINED:
            position = _skip_items(data, position, implicit or vr == b"UN", end, depth + 1)
        else:
            position += length


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
