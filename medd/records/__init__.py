"""What crosses a stage border: frozen records and the words for their states."""

from medd.records.images import UNREPORTED, Instance, InstanceHeader, Job, MediaType, Reason, Status, Verdict
from medd.records.models import UNSURE, WITHDRAWN, Annotation, ModelChange, ModelEvent, ModelVersion, Objection, Role
from medd.records.results import (
    PATIENT_CONFLICT,
    Attachment,
    Delivery,
    DeliveryState,
    ImageResult,
    Prediction,
    StudyReport,
)
from medd.records.users import AuditOutcome, UserRole

__all__ = [
    "PATIENT_CONFLICT",
    "UNREPORTED",
    "UNSURE",
    "WITHDRAWN",
    "Annotation",
    "Attachment",
    "AuditOutcome",
    "Delivery",
    "DeliveryState",
    "ImageResult",
    "Instance",
    "InstanceHeader",
    "Job",
    "MediaType",
    "ModelChange",
    "ModelEvent",
    "ModelVersion",
    "Objection",
    "Prediction",
    "Reason",
    "Role",
    "Status",
    "StudyReport",
    "UserRole",
    "Verdict",
    "is_storable",
]


def is_storable(text: str) -> bool:
    """Whether every database takes a text: it encodes as UTF-8 and holds no NUL, which PostgreSQL refuses."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:  # what a terminal or a file name said in other bytes
        return False
