"""A report to send."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from medd.records import ImageResult, MediaType, Reason, Status, StudyReport
from tests.rows import prediction_of

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def image(number: int, **values: object) -> ImageResult:
    told = {
        "instance_id": number,
        "sha256": f"{number:064x}",
        "media_type": MediaType.JPEG,
        "path": Path(f"{number}.jpg"),
        "sop_class_uid": "",
        "sop_instance_uid": f"1.2.3.{number}",
        "series_instance_uid": "1.2.2",
        "status": Status.SCORED,
        "received_at": NOW,
    }
    return ImageResult(**(told | values))  # type: ignore[arg-type]


@pytest.fixture
def report() -> StudyReport:
    """A study with an image that was scored and one that was not assessed."""
    return StudyReport(
        study_instance_uid="1.2.1",
        number=2,
        sop_instance_uid="2.25.222222222222222222222222222",
        predecessor="2.25.1",
        created_at=NOW,
        patient_id="P|1^2&3~4\\5\r6",
        accession_number="=A1",
        images=(
            image(1, prediction=prediction_of(1, probability=0.875)),
            image(2, status=Status.NOT_ASSESSED, reason=Reason.LATERAL_VIEW, detail="a lateral view"),
        ),
    )
