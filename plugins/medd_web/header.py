"""What the header of an image says of patient and film, for whoever reads it: asked of the file, kept nowhere."""

from pathlib import Path

from pydicom import Dataset
from pydicom.charset import convert_encodings, decode_bytes

from medd.dicom.source import BROKEN, lenient, raw_value, read_source
from medd.errors import MeddError

#: What is shown, in this order: words, and the attributes whose values stand behind them.
FACTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Name", ("PatientName",)),
    ("Born", ("PatientBirthDate",)),
    ("Sex, age", ("PatientSex", "PatientAge")),
    ("Study", ("StudyDate", "StudyTime", "StudyDescription")),
    ("Series", ("Modality", "BodyPartExamined", "ViewPosition", "SeriesDescription")),
    ("Device", ("Manufacturer", "ManufacturerModelName", "StationName", "InstitutionName")),
    ("Comments", ("PatientComments", "ImageComments")),
)
#: Of an Age String (PS3.5 section 6.2).
_UNITS = {"D": "days", "W": "weeks", "M": "months", "Y": "years"}
#: Characters of one value that are looked at: a page needs no more.
LONGEST = 2000


def describe(path: Path) -> list[tuple[str, str]]:
    """What a DICOM file says, as words and values; [] where it cannot be read."""
    try:
        with lenient():
            source = read_source(path)
            values = ((word, " · ".join(filter(None, (_text(source, one) for one in of)))) for word, of in FACTS)
            return [(word, value) for word, value in values if value]
    except MeddError:
        return []


def _text(source: Dataset, keyword: str) -> str:
    value = _decoded(source, keyword)
    if keyword == "PatientName":  # PS3.5 section 6.2: letters, ideographs and sounds; within each, parts
        return " · ".join(" ".join(filter(None, group.split("^"))) for group in value.split("=") if group)
    if keyword == "PatientAge" and len(value) == 4 and value[:3].isdecimal():
        return f"{int(value[:3])} {_UNITS.get(value[3], value[3])}"
    if keyword.endswith("Date") and len(value) == 8 and value.isdecimal():
        return f"{value[:4]}-{value[4:6]}-{value[6:]}"
    if keyword.endswith("Time") and value[:4].isdecimal() and len(value) >= 4:
        return f"{value[:2]}:{value[2:4]}"
    return value


def _decoded(source: Dataset, keyword: str) -> str:
    """The first characters of a value; what its character set does not have is replaced."""
    try:
        value = raw_value(source, keyword)[: 4 * LONGEST]
        names = [
            name.strip() for name in raw_value(source, "SpecificCharacterSet").decode("ascii", "replace").split("\\")
        ]
        # What stands between these begins with the first character set again (PS3.5 section 6.1.2.5.3).
        return decode_bytes(value, convert_encodings(names), {0x5C, 0x5E, 0x3D})[:LONGEST].strip()
    except (LookupError, *BROKEN):  # a character set that nobody knows
        return raw_value(source, keyword)[:LONGEST].decode("latin-1").strip()
