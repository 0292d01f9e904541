"""What a case page shows of a study and its images, and of what else there is of the same patient."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from medd.records import DeliveryState, MediaType, Prediction, Reason, Status
from medd.store.outbox import study_key
from medd.store.tables import annotation, attachment, delivery, instance, prediction, purged, study

_OF_IMAGE = (
    *("id", "sha256", "media_type", "origin", "received_at", "status", "reason", "detail", "refused_by"),
    *("study_instance_uid", "sop_instance_uid"),
)
_OF_PREDICTION = (
    *("model", "label", "positive", "probability", "probabilities", "threshold", "preprocess_digest", "scored_at"),
    *("findings", "flags", "input_mean", "input_std"),
)


@dataclass(frozen=True, slots=True)
class CaseImage:
    """One image of a case."""

    id: int
    #: Study Instance UID, or the SHA-256 of an image that has none.
    study: str
    sha256: str
    media_type: MediaType
    #: "dicom://AE@host" or "file:relative/path".
    origin: str
    received_at: datetime
    status: Status
    reason: Reason | None
    #: One sentence more than the reason.
    detail: str
    #: "name/version" of the model that refused it; "" where none did.
    refused_by: str
    sop_instance_uid: str
    #: What is shown; without its attachments. None where no model judged it.
    prediction: Prediction | None
    #: Whether the prediction is a finding with a heat map: below the threshold it would show a finding that is none.
    has_heat: bool
    #: Whether retention has deleted its bytes, or is about to.
    is_purged: bool = False


def find_images(connection: Connection, ids: Sequence[int]) -> list[CaseImage]:
    """Images of a case, in the order in which they came in."""
    i, p, a = instance.c, prediction.c, attachment.c
    heat = sa.exists().where((a.instance_id == i.id) & (a.model == p.model) & (a.name == "heat") & p.positive)
    is_purged = sa.exists().where(purged.c.instance_id == i.id).label("is_purged")
    columns = (*(i[name] for name in _OF_IMAGE), *(p[name] for name in _OF_PREDICTION))
    rows = connection.execute(
        sa.select(*columns, heat.label("has_heat"), is_purged)
        .join_from(instance, prediction, (p.instance_id == i.id) & p.current, isouter=True)
        .where(i.id.in_(ids))
        .order_by(i.id)
    )
    return [_image(row._asdict()) for row in rows]


def _image(row: Mapping[str, Any]) -> CaseImage:
    said = {name: row[name] for name in _OF_PREDICTION}
    said |= {name: tuple(said[name] or ()) for name in ("findings", "flags")}
    return CaseImage(
        id=row["id"],
        study=study_key(row["study_instance_uid"], row["sha256"]),
        sha256=row["sha256"],
        media_type=MediaType(row["media_type"]),
        origin=row["origin"],
        received_at=row["received_at"],
        status=Status(row["status"]),
        reason=Reason(row["reason"]) if row["reason"] else None,
        detail=row["detail"] or "",
        refused_by=row["refused_by"] or "",
        sop_instance_uid=row["sop_instance_uid"],
        prediction=Prediction(instance_id=row["id"], **said) if row["model"] is not None else None,
        has_heat=bool(row["has_heat"]),
        is_purged=bool(row["is_purged"]),
    )


def find_said(connection: Connection, instance_id: int) -> list[dict[str, Any]]:
    """All that readers said of an image, newest first; "stands" is true of the last word of each."""
    a = annotation.c
    rows = connection.execute(annotation.select().where(a.instance_id == instance_id).order_by(a.id.desc()))
    found: list[dict[str, Any]] = []
    seen: set[str] = set()
    for row in rows:
        found.append({**row._mapping, "stands": row.reader not in seen})
        seen.add(row.reader)
    return found


def find_others(connection: Connection, key: str, patient_id: str, limit: int) -> list[dict[str, Any]] | None:
    """Other studies with the same Patient ID, newest first: rows of `study`; none where there is no id.

    Returns:
        None where there are more than `limit`: that is an ID such as ANONYMOUS, and they are those of strangers.
    """
    if not patient_id:
        return []
    s = study.c
    # In no order, so that no more than these are looked up.
    some = connection.execute(sa.select(study).where(s.patient_id == patient_id).limit(limit + 2)).mappings().all()
    others = [dict(row) for row in some if row["study"] != key]
    if len(others) > limit:
        return None
    return sorted(others, key=lambda row: (row["received_at"], row["instance_id"]), reverse=True)


@dataclass(frozen=True, slots=True)
class Sending:
    """Where the delivery of a study to one destination stands."""

    destination: str
    state: DeliveryState
    #: What went wrong last.
    error: str


def find_sendings(connection: Connection, studies: Sequence[str]) -> dict[str, list[Sending]]:
    """Where studies are sent, by study, in the order of the destinations' names."""
    d = delivery.c
    rows = connection.execute(
        sa.select(d.study, d.destination, d.state, d.error).where(d.study.in_(studies)).order_by(d.destination)
    )
    found: dict[str, list[Sending]] = {}
    for key, destination, state, error in rows:
        found.setdefault(key, []).append(Sending(destination, DeliveryState(state), error or ""))
    return found
