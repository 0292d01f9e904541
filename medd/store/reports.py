"""Reports of studies, made of their rows: the same rows make the same report."""

import hashlib
import json
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from medd import __version__
from medd.dicom.derived import derive_uid
from medd.errors import InputError
from medd.records import (
    PATIENT_CONFLICT,
    UNREPORTED,
    Attachment,
    ImageResult,
    MediaType,
    Prediction,
    Reason,
    Status,
    StudyReport,
)
from medd.store.tables import attachment, instance, job, prediction, purged, report, sent


class Paths(Protocol):
    """Where bytes lie: a spool."""

    def path(self, sha256: str, media_type: str) -> Path:
        """The file of an instance."""
        ...

    def bring_all(self, paths: Sequence[Path]) -> list[OSError | None]:
        """See to it that files can be read here, where they are kept elsewhere."""
        ...


def _belongs_to(study: str) -> sa.ColumnElement[bool]:
    i = instance.c
    return (i.study_instance_uid == study) | ((i.sha256 == study) & (i.study_instance_uid == ""))


def has_pending(connection: Connection, study: str) -> bool:
    """Whether an image of a study still waits to be scored."""
    waiting = sa.exists().where(_belongs_to(study) & (instance.c.status == Status.PENDING))
    return bool(connection.scalar(sa.select(waiting)))


def find_images(
    connection: Connection, study: str, spool: Paths, here: str | None = None
) -> tuple[list[ImageResult], str, str]:
    """The images of a study that a report speaks of, and the patient's id and accession number of the first.

    With `here`, the id of a spool, those whose bytes lie in another host's have none here.

    Raises:
        InputError: The images name different patients.
    """
    i, p = instance.c, prediction.c
    gone: sa.ColumnElement[bool] = sa.exists().where(purged.c.instance_id == i.id)
    if here is not None:
        gone |= sa.exists().where((job.c.instance_id == i.id) & (job.c.spool != here))
    columns = sa.select(
        i.id,
        i.sha256,
        i.media_type,
        i.sop_class_uid,
        i.sop_instance_uid,
        i.series_instance_uid,
        i.status,
        i.reason,
        i.detail,
        i.patient_id,
        i.accession_number,
        i.received_at,
        *(p[name] for name in _OF_PREDICTION),
        p.scored_at,
        sa.not_(gone).label("has_bytes"),
    ).join_from(instance, prediction, (p.instance_id == i.id) & p.current, isouter=True)
    spoken_of = i.reason.is_(None) | i.reason.not_in([str(reason) for reason in UNREPORTED])
    wanted = columns.where(_belongs_to(study) & spoken_of)
    # Sorted here: databases differ in how they order text, and the order is part of what a report says.
    rows = sorted(connection.execute(wanted), key=lambda row: (row.sop_instance_uid, row.sha256))
    if len({row.patient_id for row in rows}) > 1:
        raise InputError(PATIENT_CONFLICT, "the images of the study name different patients: nothing is sent")
    found = _attachments(connection, [row.id for row in rows if row.model])
    images = [_image(row, spool, found.get((row.id, row.model), ())) for row in rows]
    return images, rows[0].patient_id if rows else "", rows[0].accession_number if rows else ""


_OF_PREDICTION = (
    "model",
    "label",
    "positive",
    "probability",
    "probabilities",
    "threshold",
    "preprocess_digest",
    "findings",
    "flags",
)


def _image(row: Any, spool: Paths, attachments: tuple[Attachment, ...]) -> ImageResult:
    predicted = None
    if row.model is not None:
        told = {name: getattr(row, name) for name in _OF_PREDICTION} | {
            "findings": tuple(row.findings or ()),
            "flags": tuple(row.flags or ()),
        }
        predicted = Prediction(instance_id=row.id, scored_at=row.scored_at, attachments=attachments, **told)
    return ImageResult(
        instance_id=row.id,
        sha256=row.sha256,
        media_type=MediaType(row.media_type),
        path=spool.path(row.sha256, row.media_type),
        sop_class_uid=row.sop_class_uid,
        sop_instance_uid=row.sop_instance_uid,
        series_instance_uid=row.series_instance_uid,
        status=Status(row.status),
        reason=Reason(row.reason) if row.reason else None,
        detail=row.detail,
        prediction=predicted,
        received_at=row.received_at,
        has_bytes=bool(row.has_bytes),
    )


def _attachments(connection: Connection, ids: Sequence[int]) -> dict[tuple[int, str], tuple[Attachment, ...]]:
    a = attachment.c
    columns = sa.select(a.instance_id, a.model, a.name, a.media_type, a.content).where(a.instance_id.in_(ids))
    found: dict[tuple[int, str], tuple[Attachment, ...]] = {}
    for id_, model, *what in connection.execute(columns.order_by(a.name)):
        found[id_, model] = (*found.get((id_, model), ()), Attachment(*what))
    return found


def make_report(connection: Connection, study: str, spool: Paths, here: str | None = None) -> StudyReport | None:
    """What is known of a study now: the report that says so already, or a new one that follows it.

    Within a transaction that writes; `here` as for `find_images`. None where there is nothing that a report would speak
    of.

    Raises:
        InputError: The images name different patients.
    """
    if connection.dialect.name == "postgresql":
        # Two deliverers, for two destinations: who looked first must not write last. On SQLite one writes at a time.
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(study))))
    images, patient_id, accession_number = find_images(connection, study, spool, here)
    if not images:
        return None
    # The version too, as the objects that are made of the same results may differ from one to the next.
    said = [__version__, *(_said_of(image) for image in images)]
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    r = report.c
    chain = sa.select(r.number, r.digest, r.sop_instance_uid, r.created_at).where(r.study == study)
    made = connection.execute(chain.order_by(r.number.desc()).limit(2)).all()
    if not made or made[0].digest != digest:
        number = made[0].number + 1 if made else 1
        moments = (image.prediction.scored_at if image.prediction else image.received_at for image in images)
        row = {
            "study": study,
            "number": number,
            "digest": digest,
            "sop_instance_uid": derive_uid("medd", "report", study, str(number), digest),
            "created_at": max(moment for moment in moments if moment),
        }
        connection.execute(report.insert().values(row))
        made = connection.execute(chain.order_by(r.number.desc()).limit(2)).all()
    first = images[0]
    return StudyReport(
        study_instance_uid="" if study == first.sha256 else study,
        number=made[0].number,
        sop_instance_uid=made[0].sop_instance_uid,
        predecessor=made[1].sop_instance_uid if len(made) > 1 else "",
        created_at=made[0].created_at,
        patient_id=patient_id,
        accession_number=accession_number,
        images=tuple(images),
    )


def _said_of(image: ImageResult) -> list[Any]:
    one = image.prediction
    scored = [] if one is None else [*(getattr(one, name) for name in _OF_PREDICTION), str(one.scored_at)]
    return [image.sha256, image.sop_instance_uid, image.status, image.reason, image.detail, *scored]


def acknowledged(connection: Connection, study: str, destination: str) -> set[str]:
    """What a destination has acknowledged of a study, by object."""
    mine = (sent.c.study == study) & (sent.c.destination == destination)
    return set(connection.scalars(sa.select(sent.c.object).where(mine)))


def record_sent(connection: Connection, study: str, number: int, destination: str, objects: Collection[Any]) -> None:
    """Store what a destination has acknowledged; each object has `object`, `sop_class_uid` and `answer`."""
    if not objects:
        return
    insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(sent)
    row = {"destination": destination, "study": study, "number": number, "at": datetime.now(UTC)}
    rows = [row | {"object": one.object, "sop_class_uid": one.sop_class_uid, "answer": one.answer} for one in objects]
    connection.execute(insert.on_conflict_do_nothing(index_elements=["destination", "object"]), rows)
