"""The questions that are asked of the database, and the facts that are told to it."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection
from sqlalchemy.dialects import postgresql, sqlite

from medd.records import Attachment, Prediction, Status
from medd.store.planner import unindexed
from medd.store.tables import attachment, instance, job, prediction, results


@dataclass(frozen=True, slots=True)
class Location:
    """Where an instance's bytes lie in its spool, and what the model has to know of it."""

    sha256: str
    media_type: str
    #: (0010,1010) Patient's Age.
    patient_age: str = ""


def locate(connection: Connection, ids: Sequence[int]) -> dict[int, Location]:
    """Where instances lie, by id."""
    columns = sa.select(instance.c.id, instance.c.sha256, instance.c.media_type, instance.c.patient_age)
    return {id_: Location(*where) for id_, *where in connection.execute(columns.where(instance.c.id.in_(ids)))}


def is_alone(connection: Connection, spool: str) -> bool:
    """Whether no image is known to lie in another spool than the one of this id."""
    elsewhere = sa.exists().where(job.c.spool.not_in(("", spool)))
    return not connection.scalar(sa.select(elsewhere))


def record_predictions(connection: Connection, made: Sequence[Prediction]) -> None:
    """Store predictions, each as the current one of its instance; the same model version twice is one prediction.

    `medd.store.tally.refresh` of these instances belongs into the same transaction.
    """
    if not made:
        return
    ids = [one.instance_id for one in made]
    earlier = prediction.c.instance_id.in_(ids) & prediction.c.current
    connection.execute(prediction.update().where(earlier).values(current=False))
    _put_predictions(connection, made, current=True)
    scored = {"status": Status.SCORED, "reason": None, "detail": None, "refused_by": None}
    connection.execute(instance.update().where(instance.c.id.in_(ids)).values(**scored))


def record_shadow(connection: Connection, made: Sequence[Prediction]) -> None:
    """Store what a candidate says beside the champion: never current, and never over what was shown once."""
    if made:
        _put_predictions(connection, made, current=False)


def _put_predictions(connection: Connection, made: Sequence[Prediction], *, current: bool) -> None:
    insert = _insert(connection, prediction)
    changed = {c.name: c for c in insert.excluded if c.name not in ("id", "instance_id", "model")}
    upsert = insert.on_conflict_do_update(
        index_elements=["instance_id", "model"], set_=changed, where=None if current else prediction.c.shadow
    )
    rows = [asdict(one) | {"current": current, "shadow": not current} for one in made]
    attached = [
        {"instance_id": row["instance_id"], "model": row["model"], **one}
        for row in rows
        for one in row.pop("attachments")
    ]
    connection.execute(upsert, rows)
    if attached:
        put = _insert(connection, attachment)
        keys = ["instance_id", "model", "name"]
        newer = {name: put.excluded[name] for name in ("media_type", "content")}
        connection.execute(put.on_conflict_do_update(index_elements=keys, set_=newer), attached)


def find_attachments(connection: Connection, instance_id: int) -> tuple[Attachment, ...]:
    """What explains the current prediction of an instance."""
    columns = sa.select(attachment.c.name, attachment.c.media_type, attachment.c.content)
    on = (attachment.c.instance_id == prediction.c.instance_id) & (attachment.c.model == prediction.c.model)
    wanted = columns.join(prediction, on).where(prediction.c.instance_id == instance_id, prediction.c.current)
    return tuple(Attachment(*row) for row in connection.execute(wanted.order_by(attachment.c.name)))


def _insert(connection: Connection, table: sa.Table) -> Any:
    return (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)


def set_not_assessed(
    connection: Connection, instance_id: int, reason: str, detail: str, refused_by: str | None = None
) -> None:
    """Record why an instance is not assessed, and which model ("name/version") refused it, where one did.

    `medd.store.tally.refresh` of it belongs into the same transaction.
    """
    # What an earlier model said of it is history: nobody is to be shown a label of what is not assessed.
    earlier = (prediction.c.instance_id == instance_id) & prediction.c.current
    connection.execute(prediction.update().where(earlier).values(current=False))
    values = {"status": Status.NOT_ASSESSED, "reason": reason, "detail": detail, "refused_by": refused_by}
    connection.execute(instance.update().where(instance.c.id == instance_id).values(**values))


@dataclass(frozen=True, slots=True)
class ResultFilter:
    """Which rows `find_results` gives; None does not restrict."""

    since: datetime | None = None
    label: str | None = None
    min_probability: float | None = None
    patient: str | None = None
    study: str | None = None
    status: Status | None = None
    limit: int | None = None
    #: Only what comes behind this place in the order: `received_at` and `instance_id` of a row.
    after: tuple[datetime, int] | None = None
    instance_id: int | None = None


#: The columns of a result, in the order of `medd results --format csv`.
RESULT_COLUMNS = tuple(column.name for column in results.columns)


def find_results(connection: Connection, wanted: ResultFilter) -> Iterator[dict[str, Any]]:
    """The rows of the view ``results``, newest first, one after the other."""
    statement = sa.select(results)
    label, probability = _score_columns(connection, wanted)
    if wanted.since is not None:
        statement = statement.where(results.c.received_at >= wanted.since)
    if wanted.label is not None:
        statement = statement.where(label == wanted.label)
    if wanted.min_probability is not None:
        statement = statement.where(probability >= wanted.min_probability)
    if wanted.patient is not None:
        statement = statement.where(results.c.patient_id == wanted.patient)
    if wanted.study is not None:
        statement = statement.where(results.c.study_instance_uid == wanted.study)
    if wanted.status is not None:
        statement = statement.where(results.c.status == wanted.status)
    if wanted.instance_id is not None:
        statement = statement.where(results.c.instance_id == wanted.instance_id)
    if wanted.after is not None:
        at, id_ = sa.literal(wanted.after[0], results.c.received_at.type), sa.literal(wanted.after[1])
        statement = statement.where(sa.tuple_(results.c.received_at, results.c.instance_id) < sa.tuple_(at, id_))
    statement = statement.order_by(results.c.received_at.desc(), results.c.instance_id.desc()).limit(wanted.limit)
    streamed = connection.execution_options(yield_per=1000)
    for row in streamed.execute(statement):
        yield dict(row._mapping)


#: Scores that match in so many rows are found faster by going through the newest than through all that match.
_MANY = 5000


def _score_columns(connection: Connection, wanted: ResultFilter) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """Label and probability, on SQLite kept from its planner where it would sort a million rows to show a hundred.

    SQLite has no statistics of how values are spread. Without the indices of the scores that of the times is left.
    """
    label, probability = results.c.label, results.c.probability
    if connection.dialect.name != "sqlite" or (wanted.label is None and wanted.min_probability is None):
        return label, probability
    if wanted.since is None:
        matching = sa.select(prediction.c.id)
        if wanted.label is not None:
            matching = matching.where(prediction.c.label == wanted.label)
        if wanted.min_probability is not None:
            matching = matching.where(prediction.c.probability >= wanted.min_probability)
        found = connection.scalar(sa.select(sa.func.count()).select_from(matching.limit(_MANY).subquery())) or 0
        if found < _MANY:
            return label, probability
    return unindexed(connection, label), unindexed(connection, probability)


def list_dead(connection: Connection, limit: int, before: int | None = None) -> Iterator[dict[str, Any]]:
    """Dead jobs with the reason, newest first; with `before`, only those before the one of this id."""
    statement = (
        sa.select(job.c.id, job.c.kind, job.c.instance_id, instance.c.sop_instance_uid, job.c.attempts, job.c.error)
        .join(instance)
        .where(job.c.state == "dead")
        .order_by(job.c.id.desc())
        .limit(limit)
    )
    if before is not None:
        statement = statement.where(job.c.id < before)
    for row in connection.execute(statement):
        yield dict(row._mapping)


def count_statuses(connection: Connection) -> dict[Status, int]:
    """How many instances are in each status."""
    statement = sa.select(instance.c.status, sa.func.count()).group_by(instance.c.status)
    found = {Status(status): count for status, count in connection.execute(statement)}
    return {status: found.get(status, 0) for status in Status}
