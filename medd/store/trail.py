"""Every step of one case with its time, from the rows that each step left: `medd explain`, and the case page's trail.

Nothing is written for it. Where a step leaves no time of its own (a refusal after decoding, what still waits), its
place among the others is known and its time is not.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from os.path import commonprefix
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from medd.dicom.findings import finding_of, lines_of
from medd.errors import SettingsError
from medd.records import UNSURE, WITHDRAWN, AuditOutcome, DeliveryState, Prediction, Status, is_storable
from medd.store.annotations import find_instances
from medd.store.outbox import study_key
from medd.store.tables import (
    annotation,
    attachment,
    audit,
    commitment,
    delivery,
    instance,
    job,
    prediction,
    pulled,
    purged,
    report,
    sent,
    study,
)

#: What the audit trail tells besides, and is told from its own rows here.
_TOLD_OTHERWISE = ("annotated", "study_read")
#: Storage commitment is asked for this long after what it is about, at most.
_COMMITMENT_WITHIN = timedelta(days=7)
#: So many objects at most are looked for one by one.
_MANY = 32


class What(StrEnum):
    """The kind of a step."""

    FETCHED = "fetched"
    RECEIVED = "received"
    ADMITTED = "admitted"
    #: At the door or after decoding, by a rule or by a model.
    NOT_ASSESSED = "not_assessed"
    WAITING = "waiting"
    #: The work on it failed for good.
    FAILED = "failed"
    PREPROCESSED = "preprocessed"
    SCORED = "scored"
    #: By a candidate; nobody was shown it.
    SHADOW = "shadow"
    ANNOTATED = "annotated"
    #: Retention has deleted the bytes; what was said of them stays.
    PURGED = "purged"
    REPORT = "report"
    #: The delivery to a destination, where it is not over.
    DELIVERY = "delivery"
    #: A destination has acknowledged objects.
    DELIVERED = "delivered"
    COMMITMENT = "commitment"
    #: Somebody has read the study.
    READ = "read"
    #: Somebody saw it, or took it away, by the audit trail.
    ACCESSED = "accessed"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened."""

    #: UTC; None where no time is kept.
    at: datetime | None
    what: What
    #: Of which image; None: of the whole study.
    instance_id: int | None
    #: A sentence for people.
    told: str
    #: The same and more, as JSON has it.
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Case:
    """What `find_case` found."""

    #: Study Instance UID, or the SHA-256 of an image that has none.
    study: str
    #: The images that are asked about.
    instance_ids: tuple[int, ...]


def find_case(connection: Connection, key: str) -> Case:
    """The case that a Study or SOP Instance UID, a SHA-256 in hex, or an instance id names.

    A study is asked about with all its images; what names an image, with that one.

    Raises:
        SettingsError: There is none.
    """
    if not key or not is_storable(key):
        raise SettingsError(f"no study or instance is named. Received: {key!r}")
    i = instance.c
    of_study = i.study_instance_uid == key
    ids = connection.scalars(sa.select(i.id).where(of_study).order_by(i.id)).all()
    if ids:
        return Case(key, tuple(ids))
    named = find_instances(connection, key)
    rows = connection.execute(sa.select(i.id, i.study_instance_uid, i.sha256).where(i.id.in_(named)).order_by(i.id))
    found = [(row.id, study_key(row.study_instance_uid, row.sha256)) for row in rows]
    if not found:
        raise SettingsError(f"no study or instance of this UID, SHA-256 or id. Received: {key!r}")
    return Case(found[0][1], tuple(id_ for id_, of in found if of == found[0][1]))


def find_steps(connection: Connection, case: Case) -> list[Step]:
    """Every step of a case, in the order of time; what has no time stands after what it follows from."""
    images = connection.execute(instance.select().where(instance.c.id.in_(case.instance_ids))).all()
    steps = [*_fetched(connection, case.study)]
    for image in sorted(images, key=lambda row: row.id):
        steps += _of_image(connection, image)
    steps += _of_study(connection, case.study, images)
    return _in_order(steps)


def _in_order(steps: Sequence[Step]) -> list[Step]:
    """By time, stably; a step without one takes that of the step before it."""
    keys: list[tuple[bool, datetime | None]] = []
    latest: datetime | None = None
    for step in steps:
        latest = step.at or latest
        keys.append((latest is not None, latest))
    # What still waits comes last, whatever was before it.
    last = {n for n, step in enumerate(steps) if step.what in (What.WAITING, What.DELIVERY) and step.at is None}
    order = sorted(range(len(steps)), key=lambda n: (n in last, keys[n]))
    return [steps[n] for n in order]


# -- what came in, and what was said of it -------------------------------------------------------------------------


def _fetched(connection: Connection, key: str) -> Iterator[Step]:
    for row in connection.execute(pulled.select().where(pulled.c.study_instance_uid == key)):
        told = f"fetched from {row.source}: {row.images} images" + (f", {row.failed} failed" if row.failed else "")
        facts = _facts(row, "source modalities images failed listed complete error")
        yield Step(row.at, What.FETCHED, None, told, facts)


def _of_image(connection: Connection, image: Any) -> Iterator[Step]:
    facts = _facts(image, "origin media_type size sha256 sop_class_uid sop_instance_uid modality station_name")
    yield Step(image.received_at, What.RECEIVED, image.id, f"received from {_from(image.origin)}", facts)
    work = connection.execute(job.select().where(job.c.instance_id == image.id)).first()
    if work is not None:
        yield from _worked_on(connection, image, work)
    elif image.status == Status.NOT_ASSESSED:
        yield _refused(image, image.received_at)
    yield from _annotated(connection, image.id)
    for row in connection.execute(purged.select().where(purged.c.instance_id == image.id)):
        yield Step(row.at, What.PURGED, image.id, "its bytes were deleted from the spool; its results stay", {})


def _worked_on(connection: Connection, image: Any, work: Any) -> Iterator[Step]:
    yield Step(image.received_at, What.ADMITTED, image.id, "admitted: a job to score it", {"job": work.id})
    said = connection.execute(prediction.select().where(prediction.c.instance_id == image.id).order_by(prediction.c.id))
    digests: set[str] = set()
    for row in sorted(said, key=lambda row: (row.scored_at, row.shadow)):
        if row.preprocess_digest not in digests:
            digests.add(row.preprocess_digest)
            yield _preprocessed(row)
        yield _scored(connection, row)
    if image.status == Status.NOT_ASSESSED:
        yield _refused(image, None)
    elif work.state == "dead":
        told = f"given up after {work.attempts} tries: {work.error}"
        yield Step(None, What.FAILED, image.id, told, _facts(work, "attempts error"))
    elif work.state in ("pending", "running"):
        told = "is being scored" if work.state == "running" else "waits to be scored"
        told += f"; tried {work.attempts} times: {work.error}" if work.error else ""
        yield Step(None, What.WAITING, image.id, told, _facts(work, "state attempts available_at error"))


def _from(origin: str) -> str:
    scheme, _, rest = origin.partition(":")
    named = {"dicom": "{} over DICOM", "dicomweb": "{} by DICOMweb", "file": "the file {}", "upload": "{}, uploaded"}
    return named.get(scheme, f"{scheme} {{}}").format(rest.removeprefix("//")) if rest else origin


def _refused(image: Any, at: datetime | None) -> Step:
    by = f" by {image.refused_by}" if image.refused_by else ""
    detail = f": {image.detail}" if image.detail else ""
    told = f"not assessed{by}: {image.reason}{detail}"
    return Step(at, What.NOT_ASSESSED, image.id, told, _facts(image, "reason detail refused_by"))


def _preprocessed(row: Any) -> Step:
    told = f"decoded and preprocessed by spec {row.preprocess_digest}"
    if row.input_mean is not None and row.input_std is not None:
        told += f"; mean {row.input_mean:.3f}, standard deviation {row.input_std:.3f}"
    facts = _facts(row, "preprocess_digest input_mean input_std")
    return Step(row.scored_at, What.PREPROCESSED, row.instance_id, told, facts)


def _scored(connection: Connection, row: Any) -> Step:
    kept = _facts(row, "model label positive probability probabilities threshold")
    findings, flags = tuple(row.findings or ()), tuple(row.flags or ())
    of_image = {"instance_id": row.instance_id, "scored_at": row.scored_at, "preprocess_digest": row.preprocess_digest}
    made = Prediction(**of_image, **kept, findings=findings, flags=flags)
    a = attachment.c
    names = connection.scalars(sa.select(a.name).where((a.instance_id == row.instance_id) & (a.model == row.model)))
    facts = kept | {"findings": list(findings), "flags": list(flags), "current": row.current}
    facts["attachments"] = sorted(names)
    told = f"{row.model}: {' '.join(lines_of(made, finding_of(made, {}))[0].split())}"
    told += "".join(f"; {flag.replace('_', ' ')}" for flag in flags)
    if row.shadow:
        return Step(row.scored_at, What.SHADOW, row.instance_id, f"in the shadow, shown to nobody: {told}", facts)
    told += "" if row.current else " (no longer shown)"
    return Step(row.scored_at, What.SCORED, row.instance_id, told, facts)


def _annotated(connection: Connection, instance_id: int) -> Iterator[Step]:
    rows = annotation.select().where(annotation.c.instance_id == instance_id).order_by(annotation.c.id)
    for row in connection.execute(rows):
        said = {WITHDRAWN: "takes back what was said", UNSURE: "cannot tell"}.get(row.label, f"says {row.label}")
        told = f"{row.reader} {said}" + (f": {row.comment}" if row.comment else "")
        yield Step(row.at, What.ANNOTATED, instance_id, told, _facts(row, "reader label comment"))


# -- what goes out -------------------------------------------------------------------------------------------------


def _of_study(connection: Connection, key: str, images: Sequence[Any]) -> Iterator[Step]:
    for row in connection.execute(report.select().where(report.c.study == key).order_by(report.c.number)):
        told = f"report {row.number} of what was known then"
        yield Step(row.created_at, What.REPORT, None, told, _facts(row, "number sop_instance_uid"))
    taken = connection.execute(sent.select().where(sent.c.study == key).order_by(sent.c.at, sent.c.object)).all()
    yield from (_delivered(row) for row in taken)
    waiting = delivery.select().where(delivery.c.study == key).order_by(delivery.c.destination)
    yield from (_delivery(row) for row in connection.execute(waiting) if row.state != DeliveryState.DONE or row.error)
    uids = {row.sop_instance_uid for row in images} | {row.object for row in taken}
    moments = [row.received_at for row in images] + [row.at for row in taken]
    if moments:
        yield from _commitments(connection, uids - {""}, min(moments), max(moments) + _COMMITMENT_WITHIN)
    for row in connection.execute(study.select().where(study.c.study == key, study.c.read_at.is_not(None))):
        yield Step(row.read_at, What.READ, None, f"read by {row.read_by}", _facts(row, "read_by"))
    seen = audit.select().where(audit.c.study == key, audit.c.action.not_in(_TOLD_OTHERWISE)).order_by(audit.c.id)
    for row in connection.execute(seen):
        told = f"{row.account} from {row.address or 'this machine'}: {row.action.replace('_', ' ')}"
        told += "" if row.outcome == AuditOutcome.SUCCESS else f" ({row.outcome})"
        yield Step(row.at, What.ACCESSED, None, told, _facts(row, "account address action outcome instance detail"))


def _delivered(row: Any) -> Step:
    keeps = {None: "", True: "; it keeps it (storage commitment)", False: "; it does NOT keep it (storage commitment)"}
    told = f"{row.destination} took {row.object} of report {row.number} and answered {row.answer}{keeps[row.committed]}"
    return Step(
        row.at, What.DELIVERED, None, told, _facts(row, "destination object sop_class_uid number answer committed")
    )


def _delivery(row: Any) -> Step:
    told = {
        DeliveryState.PENDING: f"to be sent to {row.destination}",
        DeliveryState.RUNNING: f"is being sent to {row.destination}",
        DeliveryState.DEAD: f"given up: not sent to {row.destination}",
        DeliveryState.DONE: f"sent to {row.destination}",
    }[DeliveryState(row.state)]
    told += f"; tried {row.attempts} times" if row.attempts and row.state != DeliveryState.RUNNING else ""
    told += f": {row.error}" if row.error else ""
    facts = _facts(row, "destination state revision attempts available_at failing_since error")
    return Step(None, What.DELIVERY, None, told, facts)


def _commitments(connection: Connection, uids: set[str], since: datetime, until: datetime) -> Iterator[Step]:
    """Storage commitment about objects of the case, which a transaction holds as JSON: few of them are to be parsed."""
    c = commitment.c
    text = sa.cast(c.objects, sa.Text)
    # What many objects have in common says less, but is looked for once.
    looked_for = uids if len(uids) <= _MANY else {commonprefix(sorted(uids))}  # noqa: RUF071
    written = (json.dumps(uid)[1:-1] for uid in looked_for)
    may_be_about = sa.or_(sa.false(), *(text.contains(part, autoescape=True) for part in written))
    wanted = c.created_at.between(since, until) & may_be_about
    for row in connection.execute(commitment.select().where(wanted).order_by(c.id)):
        about = [uid for _, uid in row.objects if uid in uids]
        if not about:
            continue
        told = {
            "asked": f"{row.peer} was asked to keep {len(about)} objects",
            "offered": f"{row.peer} asked us to keep {len(about)} images",
        }[row.direction]
        told += {"waiting": "; not answered yet", "done": "; answered", "dead": "; given up"}[row.state]
        told += f": {row.error}" if row.error else ""
        facts = _facts(row, "transaction_uid direction peer state attempts error") | {"objects": about}
        yield Step(row.created_at, What.COMMITMENT, None, told, facts)


def _facts(row: Any, names: str) -> dict[str, Any]:
    """Columns of a row, as JSON has them."""
    values = ((name, row._mapping[name]) for name in names.split())
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in values}
