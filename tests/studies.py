"""Studies as a deliverer meets them: synthetic films on disk, and what was said of them."""

import hashlib
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pydicom import Dataset
from pydicom.uid import generate_uid

from medd.records import Attachment, ImageResult, MediaType, Prediction, Reason, Status, StudyReport
from medd.testing import dicom_radiograph

CODES = {"PNEUMONIA": ("233604007", "SCT", "Pneumonia")}
SCORED_AT = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)

#: A name of each character set, as the examples of PS3.5 Annexes H, I, J and K have it, and what decodes it.
NAMES = {
    "cyrillic": ("ISO_IR 144", b"\xbb\xee\xda\x63\x65\xdc\xd1\x79\x70\xd3"),
    "greek": ("ISO_IR 126", b"\xc4\xe9\xef\xed\xf5\xf3\xe9\xef\xf2"),
    "arabic": ("ISO_IR 127", b"\xe2\xc8\xc7\xe6\xea^\xe4\xe6\xd2\xc7\xd1"),
    "japanese": (
        "\\ISO 2022 IR 87",
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
    ),
    "japanese_katakana": (
        "ISO 2022 IR 13\\ISO 2022 IR 87",
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
    ),
    "korean": (
        "\\ISO 2022 IR 149",
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
    ),
    "utf8": ("ISO_IR 192", "Wang^XiaoDong=王^小東=".encode()),
    "gb18030": ("GB18030", b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab="),
    "latin1_unsaid": ("", "Müller^Jörg".encode("latin-1")),
}


def padded(value: bytes) -> bytes:
    return value + b" " * (len(value) % 2)


def heat() -> Attachment:
    """White in one place, left of the middle and below it."""
    grey = np.zeros((8, 8), np.uint8)
    grey[5, 2] = 255
    return Attachment("heat", "image/png", cv2.imencode(".png", grey)[1].tobytes())


def prediction(instance_id: int = 1, probability: float = 0.931, **changes: Any) -> Prediction:
    positive = probability >= 0.4849
    values: dict[str, Any] = {
        "instance_id": instance_id,
        "model": "pneumonia/1",
        "label": "PNEUMONIA" if positive else "NORMAL",
        "positive": positive,
        "probability": probability,
        "probabilities": {"NORMAL": 1 - probability, "PNEUMONIA": probability},
        "threshold": 0.4849,
        "preprocess_digest": "0123abcd",
        "scored_at": SCORED_AT,
        "findings": ("PNEUMONIA",),
        "attachments": (heat(),),
    }
    return Prediction(**values | changes)


def film(seed: int = 3, **attributes: Any) -> Dataset:
    return dicom_radiograph(seed, **{"size": (160, 128)} | attributes)


def film_bytes(name: bytes, charset: str, **attributes: Any) -> bytes:
    """A film whose Patient's Name is given in bytes, which need not be what the character set allows."""
    place = b"@" * len(padded(name))
    made = film(patient_name=place.decode(), SpecificCharacterSet=charset or None, **attributes)
    stream = BytesIO()
    made.save_as(stream, enforce_file_format=True)
    data = stream.getvalue()
    assert data.count(place) == 1
    return data.replace(place, padded(name))


def image(
    folder: Path,
    source: Dataset | bytes,
    said: Prediction | None = None,
    *,
    instance_id: int = 1,
    reason: Reason | None = None,
    detail: str | None = None,
    status: Status | None = None,
    like: Dataset | None = None,
) -> ImageResult:
    """Lay an image into a folder, and say what became of it."""
    data = source if isinstance(source, bytes) else _encoded(source)
    path = folder / f"{instance_id}.dcm"
    path.write_bytes(data)
    about = like if like is not None else source if isinstance(source, Dataset) else film()
    return ImageResult(
        instance_id=instance_id,
        sha256=hashlib.sha256(data).hexdigest(),
        media_type=MediaType.DICOM,
        path=path,
        sop_class_uid=str(about.SOPClassUID),
        sop_instance_uid=str(about.SOPInstanceUID),
        series_instance_uid=str(about.SeriesInstanceUID),
        status=status or (Status.SCORED if said else Status.NOT_ASSESSED),
        reason=reason,
        detail=detail,
        prediction=said,
    )


def _encoded(source: Dataset) -> bytes:
    stream = BytesIO()
    source.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def report(*images: ImageResult, study: str = "", number: int = 1, predecessor: str = "") -> StudyReport:
    return StudyReport(
        study_instance_uid=study or str(film().StudyInstanceUID),
        number=number,
        sop_instance_uid=str(generate_uid(entropy_srcs=["report", str(number)])),
        predecessor=predecessor,
        created_at=datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC),
        patient_id="SYN-0003",
        accession_number="SYN000003",
        images=images,
    )


def saved(made: Dataset) -> bytes:
    """The bytes of an object as they are filed."""
    return _encoded(made)
