"""What the objects that medd makes of an image have in common: whose they are, their UIDs, and their encoding.

The patient and study modules are carried over as bytes. To decode a name and encode it again may change it (ISO 2022
has several spellings of one text) and fails where a device wrote what its Specific Character Set does not have. What
medd itself adds is ASCII, which is the same in every character set of the Standard (PS3.5 section 6.1.2).

The frame of each object is built here rather than by highdicom's classes: those decode what they copy, stamp the time
of the call, and read 22 MB of tables for it. The content of the report is highdicom's (`medd.dicom.report`).
"""

import hashlib
import struct
import unicodedata
import uuid
from datetime import datetime
from io import BytesIO

from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_has_tag, dictionary_VR, tag_for_keyword
from pydicom.tag import BaseTag

from medd import __version__
from medd.dicom.modules import COPIED, REQUIRED
from medd.dicom.part10 import (
    ELEMENT,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLEMENTATION_VERSION_NAME,
    LENGTH,
    LONG_VRS,
    encode_file_meta,
)
from medd.dicom.source import BROKEN, encode_element, local_time, raw_value, value_of

#: The coding scheme of what the public ones have no code for (PS3.16 section 8.2: private ones begin with 99).
PRIVATE_SCHEME = "99MEDD"

#: Kind of object → modality, series number and series description of the one series that a study has of it.
_SERIES = {
    "sr": ("SR", 9801, "medd: report, research use only"),
    "sc": ("OT", 9802, "medd: picture, research use only"),
    "gsps": ("PR", 9803, "medd: annotation, research use only"),
}
#: Bytes of one number of a VR, for what comes from a big endian object.
_NUMBER_SIZE = {"US": 2, "SS": 2, "AT": 2, "OW": 2, "UL": 4, "SL": 4, "FL": 4, "OL": 4, "OF": 4, "FD": 8, "OD": 8}
_ITEM = struct.Struct("<HHI")
#: What has no decomposition into a letter and its marks (UAX #15), and how it is spelt without it.
_SPELT = str.maketrans(
    {"×": "x", "–": "-", "—": "-", "\\": "/", "ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O"}
)


def derive_uid(*parts: str) -> str:
    """A UID that the same parts always give: a UUID of their SHA-256 (PS3.5 section B.2)."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def plain(text: str, limit: int = 1024) -> str:
    """A text of ours in ASCII, for any character set and VR: no backslash, which divides values, and one line.

    Letters lose their marks. What has no likeness in ASCII is named by its code point, as <U+4E2D>, so that two texts
    do not become one.
    """
    spelt = unicodedata.normalize("NFKD", text).translate(_SPELT)
    letters = (c if c.isascii() else f"<U+{ord(c):04X}>" for c in spelt if not unicodedata.combining(c))
    printable = "".join(c if c.isprintable() else " " for c in letters)
    return " ".join(printable.split())[:limit].rstrip()


def code_item(value: str, scheme: str, meaning: str) -> Dataset:
    """One item of a code sequence (PS3.3 section 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def reference_item(source: Dataset) -> Dataset:
    """One item that refers to an image (PS3.3 table 10-11)."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    return item


def begin(kind: str, sop_class_uid: str, sop_instance_uid: str, source: Dataset, moment: datetime) -> Dataset:
    """A new object with its series, equipment and SOP Common modules (PS3.3 sections C.7.3.1, C.7.5.2, C.12.1).

    Args:
        kind: "sr", "sc" or "gsps".
        sop_class_uid: What it is.
        sop_instance_uid: Its own.
        source: The image whose patient and study it shares.
        moment: When its content was made.
    """
    modality, number, description = _SERIES[kind]
    study = raw_value(source, "StudyInstanceUID").decode("ascii", "replace")
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = sop_class_uid, sop_instance_uid
    made.Modality, made.SeriesNumber, made.SeriesDescription = modality, number, description
    made.SeriesInstanceUID = derive_uid("series", kind, study)
    made.Manufacturer = made.ManufacturerModelName = "medd"
    made.SoftwareVersions, made.DeviceSerialNumber = __version__, IMPLEMENTATION_VERSION_NAME
    at = local_time(moment, source)
    made.InstanceCreationDate, made.InstanceCreationTime = dicom_date(at), dicom_time(at)
    return made


def dicom_date(at: datetime) -> str:
    """VR DA."""
    return at.strftime("%Y%m%d")


def dicom_time(at: datetime) -> str:
    """VR TM, to the microsecond: two results of one second stay apart."""
    return at.strftime("%H%M%S.%f")


def finish(made: Dataset, source: Dataset) -> Dataset:
    """Give an object the patient and study of its source, and encode it once and for all.

    Returns:
        The object as if read from a file, Explicit VR Little Endian: whoever writes it so writes these same bytes.
    """
    elements = {tag: encode_element(made[tag]) for tag in made.keys()}  # noqa: SIM118 – iterating gives elements
    little = source.original_encoding[1] is not False
    for keyword in COPIED:
        tag = tag_for_keyword(keyword)
        assert tag is not None
        if tag in source:
            elements[BaseTag(tag)] = _copy(source, BaseTag(tag), little=little)
        elif keyword in REQUIRED:
            elements[BaseTag(tag)] = _element(BaseTag(tag), dictionary_VR(tag), b"")
    meta = encode_file_meta(str(made.SOPClassUID), str(made.SOPInstanceUID), EXPLICIT_VR_LITTLE_ENDIAN)
    return dcmread(BytesIO(meta + b"".join(elements[tag] for tag in sorted(elements))))


def _copy(source: Dataset, tag: BaseTag, *, little: bool) -> bytes:
    """An element of a source, its value byte for byte, in Explicit VR Little Endian."""
    element = source.get_item(tag)
    stated = str(element.VR or "UN") if element is not None else "UN"
    # The dictionary's word counts, as an implicit object has no VR and some devices write UN for what they do not know.
    vr = dictionary_VR(tag) if dictionary_has_tag(tag) and len(dictionary_VR(tag)) == 2 else stated
    if "SQ" in (vr, stated):
        try:
            items = [
                b"".join(_copy(item, one, little=little) for one in sorted(item.keys()) if one.element != 0)
                for item in source[tag].value
            ]
        except BROKEN:  # a sequence of bytes that are none: an empty one says as much
            items = []
        body = b"".join(_ITEM.pack(0xFFFE, 0xE000, len(item)) + item for item in items)
        return _element(tag, "SQ", body)
    value = value_of(source, tag)
    size = _NUMBER_SIZE.get(vr, 1)
    if not little and size > 1:
        value = b"".join(value[i : i + size][::-1] for i in range(0, len(value), size))
    return _element(tag, vr if len(vr) == 2 else "UN", value)


def _element(tag: BaseTag, vr: str, value: bytes) -> bytes:
    kind = vr.encode("ascii")
    value += (b"\0" if vr in ("UI", "OB", "UN") else b" ") * (len(value) % 2)
    if kind not in LONG_VRS and len(value) > 0xFFFF:
        kind = b"UN"  # PS3.5 section 6.2.2, note to UN: what is too long for its VR
    if kind in LONG_VRS:
        return ELEMENT.pack(tag.group, tag.element, kind, 0) + LENGTH.pack(len(value)) + value
    return ELEMENT.pack(tag.group, tag.element, kind, len(value)) + value
