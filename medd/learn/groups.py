"""Which sub-groups an image belongs to: a model may be good on the whole and poor for some."""

import re
from collections.abc import Sequence
from pathlib import Path

from medd.dicom.headers import age_in_years
from medd.learn.manifest import Sample
from medd.records import InstanceHeader
from medd.rows import read_csv

#: What an image is in that does not say.
UNKNOWN = "not stated"
#: A column with more different values than this is no grouping but a number or a name.
MOST_VALUES = 20

#: Lower ends of the age bands, years.
_AGES = (0, 2, 6, 18, 40, 65)
#: Where the files of Kermany et al. 2018 come from: two runs of numbering of normals, two kinds of pneumonia.
_SOURCES = re.compile(r"(NORMAL2-IM|IM)-\d+-\d+|person\d+_(bacteria|virus)_\d+")
_MANIFEST_COLUMNS = {"path", "label", "patient", "split"}


def group(data: Path, samples: Sequence[Sample], headers: Sequence[InstanceHeader]) -> dict[str, list[str]]:
    """Find the groupings that tell images of DATA apart.

    Args:
        data: DATA; where it is a CSV, each of its columns beyond those of the manifest is a grouping.
        samples: (N,) the images.
        headers: (N,) what their DICOM headers say.

    Returns:
        Grouping → (N,) the value of each image; only groupings with 2 to `MOST_VALUES` different ones.
    """
    found = {
        "age": [age_band(age_in_years(header.patient_age)) for header in headers],
        "sex": [header.patient_sex for header in headers],
        "view": [header.view_position for header in headers],
        "manufacturer": [header.manufacturer for header in headers],
        "source": [source_of(sample.path) for sample in samples],
    }
    if len({sample.label for sample in samples}) > 2:
        found["label"] = [sample.label for sample in samples]
    if data.is_file():
        found |= _columns(data, samples)
    found = {name: [value or UNKNOWN for value in values] for name, values in found.items()}
    return {name: values for name, values in found.items() if 2 <= len(set(values)) <= MOST_VALUES}


def age_band(years: float | None) -> str:
    """Sort an age into a band: "0–1", "2–5", … in years completed; "" where there is none."""
    if years is None:
        return ""
    low = max((lower for lower in _AGES if lower <= years), default=0)
    upper = next((end for end in _AGES if end > low), None)
    return f"{low}–{upper - 1}" if upper else f"{low}+"


def _years(text: str) -> float | None:
    """An age of a CSV: a number of years, or as DICOM writes it."""
    try:
        return float(text)
    except ValueError:
        return age_in_years(text)


def source_of(path: Path) -> str:
    """The part of the data that a file's name says it is from; "" where it says none."""
    match = _SOURCES.match(path.stem)
    return (match[1] or match[2]) if match else ""


def _columns(table: Path, samples: Sequence[Sample]) -> dict[str, list[str]]:
    rows = {table.parent / row["path"]: row for _, row in read_csv(table, ("path",))}
    names = [name for name in next(iter(rows.values()), {}) if name and name not in _MANIFEST_COLUMNS]
    found = {}
    for name in names:
        values = [rows[sample.path][name].strip() for sample in samples]
        found[name] = [age_band(_years(value)) for value in values] if name.casefold() == "age" else values
    return found
