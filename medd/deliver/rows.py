"""A report as rows, for what reads JSON or CSV: the keys of `medd results`."""

from typing import Any

from medd import DISCLAIMER
from medd.records import ImageResult, StudyReport
from medd.rows import plain

#: The keys of an image, in the order of a CSV file.
COLUMNS = (
    "sop_instance_uid",
    "series_instance_uid",
    "study_instance_uid",
    "patient_id",
    "accession_number",
    "sha256",
    "received_at",
    "status",
    "reason",
    "detail",
    "model",
    "label",
    "positive",
    "probability",
    "probabilities",
    "threshold",
    "flags",
    "scored_at",
)


def as_dict(report: StudyReport) -> dict[str, Any]:
    """A report as JSON has it."""
    return {
        "disclaimer": DISCLAIMER,
        "report": report.sop_instance_uid,
        "number": report.number,
        "predecessor": report.predecessor or None,
        "created_at": plain(report.created_at),
        "study_instance_uid": report.study_instance_uid,
        "patient_id": report.patient_id,
        "accession_number": report.accession_number,
        "results": [as_row(report, image) for image in report.images],
    }


def as_row(report: StudyReport, image: ImageResult) -> dict[str, Any]:
    """One image of a report."""
    one = image.prediction
    return {
        "sop_instance_uid": image.sop_instance_uid,
        "series_instance_uid": image.series_instance_uid,
        "study_instance_uid": report.study_instance_uid,
        "patient_id": report.patient_id,
        "accession_number": report.accession_number,
        "sha256": image.sha256,
        "received_at": plain(image.received_at),
        "status": str(image.status),
        "reason": image.reason,
        "detail": image.detail,
        "model": one and one.model,
        "label": one and one.label,
        "positive": one and one.positive,
        "probability": one and one.probability,
        "probabilities": one and dict(one.probabilities),
        "threshold": one and one.threshold,
        "flags": list(one.flags) if one else [],
        "scored_at": plain(one.scored_at) if one else None,
    }
