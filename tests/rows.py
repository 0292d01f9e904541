"""Rows as the intake and the worker would write them."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

from medd.records import MediaType, Prediction, Status

#: When the first of the rows was received.
EPOCH = datetime(2026, 1, 1, 12, tzinfo=UTC)


def instance_row(number: int, **values: Any) -> dict[str, Any]:
    """A pending instance, the `number`-th second after `EPOCH`, in a study of its own."""
    row = {
        "sha256": hashlib.sha256(str(number).encode()).hexdigest(),
        "size": 1000 + number,
        "media_type": MediaType.DICOM,
        "origin": "dicom://CR1@10.0.0.1",
        "received_at": EPOCH + timedelta(seconds=number),
        "status": Status.PENDING,
        "reason": None,
        "detail": None,
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1",
        "sop_instance_uid": f"1.2.3.{number}",
        "series_instance_uid": f"1.2.2.{number}",
        "study_instance_uid": f"1.2.1.{number}",
        "patient_id": f"P{number}",
        "accession_number": f"A{number}",
        "modality": "CR",
        "manufacturer": "ACME",
        "station_name": "ROOM1",
        "patient_age": "004Y",
    }
    return row | values


def prediction_of(instance_id: int, probability: float = 0.75, model: str = "stub/1", **values: Any) -> Prediction:
    """A prediction of two labels with the threshold 0.5."""
    positive = probability >= 0.5
    fields = {
        "label": "PNEUMONIA" if positive else "NORMAL",
        "positive": positive,
        "probabilities": {"NORMAL": 1 - probability, "PNEUMONIA": probability},
        "threshold": 0.5,
        "findings": ("PNEUMONIA",),
        "preprocess_digest": "0123456789abcdef",
        "scored_at": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    }
    return Prediction(instance_id=instance_id, model=model, probability=probability, **(fields | values))
