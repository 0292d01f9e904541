"""What came in, was judged and went out, what waits, and how long it took: the questions of people who watch a daemon.

Each is answered from an index, over the time asked for or over what waits, never over the whole history.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection

from medd.records import Status
from medd.store.tables import annotation, delivery, instance, job, prediction, sent

#: Latencies are measured on so many of the newest at most.
SAMPLE = 10_000


class Step(StrEnum):
    """How long a time is counted together."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"

    @property
    def length(self) -> timedelta:
        """The time itself."""
        return {Step.MINUTE: timedelta(minutes=1), Step.HOUR: timedelta(hours=1), Step.DAY: timedelta(days=1)}[self]

    def begin(self, moment: datetime) -> datetime:
        """The beginning, in UTC, of the time that a moment lies in."""
        first = {Step.MINUTE: {}, Step.HOUR: {"minute": 0}, Step.DAY: {"minute": 0, "hour": 0}}[self]
        return moment.astimezone(UTC).replace(second=0, microsecond=0, **first)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Bucket:
    """What happened in one minute, hour or day."""

    start: datetime
    #: Images received then, by where they stand now.
    pending: int = 0
    scored: int = 0
    not_assessed: int = 0
    failed: int = 0
    #: Predictions made then and shown, whenever their images came.
    judged: int = 0
    #: Objects that destinations acknowledged then.
    delivered: int = 0

    @property
    def received(self) -> int:
        """All images received then."""
        return self.pending + self.scored + self.not_assessed + self.failed


def find_rates(
    connection: Connection,
    step: Step,
    since: datetime,
    until: datetime,
    *,
    models: Sequence[str],
    destinations: Sequence[str],
) -> list[Bucket]:
    """What happened in each minute, hour or day from `since` to `until`, the empty ones as well.

    Args:
        connection: To the database.
        step: How long a bucket is.
        since: The first one is that in which this moment lies.
        until: And this one the last.
        models: "name/version" of all that may have judged.
        destinations: All that may have acknowledged.
    """
    first, last = step.begin(since), step.begin(until)
    count = round((last - first) / step.length) + 1
    found = {start: Bucket(start) for start in (first + n * step.length for n in range(count))}

    def put(names: Sequence[Any], moments: sa.Select[Any]) -> None:
        for start, name, number in connection.execute(moments):
            bucket = found.get(_moment(start))
            if bucket is not None and name in names:
                found[bucket.start] = replace(found[bucket.start], **{name: getattr(bucket, name) + number})

    i, p = instance.c, prediction.c
    start = _start_of(connection, i.received_at, step)
    came = sa.select(start, i.status, sa.func.count()).where(i.status.in_(list(Status)), i.received_at >= first)
    put([str(status) for status in Status], came.group_by(start, i.status))
    start = _start_of(connection, p.scored_at, step)
    shown = p.model.in_(models) & (p.shadow == sa.false()) & (p.scored_at >= first)
    put(["judged"], sa.select(start, sa.literal("judged"), sa.func.count()).where(shown).group_by(start))
    start = _start_of(connection, sent.c.at, step)
    taken = sent.c.destination.in_(destinations) & (sent.c.at >= first)
    put(["delivered"], sa.select(start, sa.literal("delivered"), sa.func.count()).where(taken).group_by(start))
    return list(found.values())


_WIDTH = {Step.MINUTE: 16, Step.HOUR: 13, Step.DAY: 10}


def _start_of(connection: Connection, column: ColumnElement[Any], step: Step) -> ColumnElement[Any]:
    if connection.dialect.name == "sqlite":  # RFC 3339 text, cut off
        return sa.func.substr(sa.type_coerce(column, sa.String), 1, sa.literal_column(str(_WIDTH[step])))
    return sa.func.date_trunc(sa.literal_column(f"'{step}'"), column, sa.literal_column("'UTC'"))


def _moment(start: Any) -> datetime:
    if isinstance(start, str):
        return datetime.fromisoformat(start + "0000-01-01T00:00:00"[len(start) :]).replace(tzinfo=UTC)
    moment: datetime = start.astimezone(UTC)
    return moment


def find_reasons(connection: Connection, since: datetime) -> dict[str, dict[str, int]]:
    """Why images received since then were not judged: status → reason → how many, the most frequent first."""
    i, number = instance.c, sa.func.count()
    unjudged = i.status.in_([Status.NOT_ASSESSED, Status.FAILED]) & (i.received_at >= since)
    rows = sa.select(i.status, i.reason, number).where(unjudged).group_by(i.status, i.reason).order_by(number.desc())
    found: dict[str, dict[str, int]] = {}
    for status, reason, count in connection.execute(rows):
        found.setdefault(status, {})[reason] = count
    return found


def count_bytes(connection: Connection, since: datetime) -> int:
    """Bytes received since then."""
    total = sa.select(sa.func.coalesce(sa.func.sum(instance.c.size), 0)).where(instance.c.received_at >= since)
    return int(connection.scalar(total) or 0)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Jobs that score."""

    #: Of what comes in.
    pending: int
    #: Of history that is scored again.
    again: int
    running: int
    dead: int
    #: For how long the image at the head of those that come in has waited, seconds; 0 where none waits.
    oldest_s: float


def find_queue(connection: Connection, kind: str, now: datetime) -> Waiting:
    """What waits to be scored."""
    j = job.c
    of_kind = j.kind == kind
    history = j.priority > 0
    # The words as literals: only so are the partial indices found, which are as small as the queue.
    pending, running, dead = (of_kind & (j.state == sa.literal_column(f"'{word}'")) for word in _OPEN)
    counted = sa.select(history, sa.func.count()).where(pending).group_by(history)
    waits = {bool(again): count for again, count in connection.execute(counted)}
    at_work, given_up = (connection.scalar(sa.select(sa.func.count()).where(one)) or 0 for one in (running, dead))
    head = sa.select(sa.func.min(j.id)).where(pending, ~history).scalar_subquery()
    oldest = connection.scalar(sa.select(instance.c.received_at).join(job).where(j.id == head))
    age = max(0.0, (now - oldest).total_seconds()) if oldest else 0.0
    return Waiting(waits.get(False, 0), waits.get(True, 0), at_work, given_up, age)


_OPEN = ("pending", "running", "dead")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """How it stands with one destination."""

    name: str
    #: Studies that wait, are being sent, and were given up.
    pending: int = 0
    running: int = 0
    dead: int = 0
    #: Studies of those that wait which were tried in vain, since when, and what went wrong there.
    failing: int = 0
    failing_since: datetime | None = None
    error: str | None = None
    #: For how long the first of those that wait is overdue, seconds; 0 where none is.
    overdue_s: float = 0.0
    #: Objects acknowledged in the time asked for, and when the last one ever was.
    sent: int = 0
    last_sent_at: datetime | None = None


def find_outgoing(connection: Connection, names: Sequence[str], now: datetime, since: datetime) -> list[Outgoing]:
    """How it stands with each destination, those of the settings first, then whatever else has something waiting.

    Args:
        connection: To the database.
        names: The destinations of the settings.
        now: The moment.
        since: From when on what was sent is counted.
    """
    d = delivery.c
    found = {name: Outgoing(name) for name in names}
    for state in _OPEN:
        counted = sa.select(d.destination, sa.func.count()).where(d.state == sa.literal_column(f"'{state}'"))
        for name, count in connection.execute(counted.group_by(d.destination)):
            found[name] = replace(found.get(name, Outgoing(name)), **{state: count})
    waits = d.state == sa.literal_column("'pending'")
    failed = sa.func.count(d.failing_since)
    columns = sa.select(
        d.destination, sa.func.min(d.due_by), failed, sa.func.min(d.failing_since), sa.func.max(d.error)
    )
    for name, due_by, *what in connection.execute(columns.where(waits).group_by(d.destination)):
        overdue = max(0.0, (now - due_by).total_seconds())
        failing, failing_since, error = what
        found[name] = replace(
            found.get(name, Outgoing(name)),
            overdue_s=overdue,
            failing=failing,
            failing_since=failing_since,
            error=error if failing else None,
        )
    for name, one in found.items():
        to = sent.c.destination == name
        count = connection.scalar(sa.select(sa.func.count()).where(to, sent.c.at >= since))
        last = connection.scalar(sa.select(sa.func.max(sent.c.at)).where(to))
        found[name] = replace(one, sent=count or 0, last_sent_at=last)
    return list(found.values())


@dataclass(frozen=True, slots=True)
class Latency:
    """How long something took, seconds; measured on `n`."""

    n: int
    p50: float
    p95: float
    p99: float
    longest: float


def percentiles(seconds: Sequence[float]) -> Latency | None:
    """Percentiles by nearest rank; None of nothing."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    p50, p95, p99 = (ordered[math.ceil(share * len(ordered)) - 1] for share in (0.5, 0.95, 0.99))
    return Latency(len(ordered), p50, p95, p99, ordered[-1])


def find_scoring_latency(connection: Connection, since: datetime) -> Latency | None:
    """From received to first scored, of the newest images received since then; None where none was scored."""
    i, p = instance.c, prediction.c
    newest = sa.select(i.id, i.received_at).where(i.status == Status.SCORED, i.received_at >= since)
    newest = newest.order_by(i.received_at.desc()).limit(SAMPLE)
    images = newest.subquery()
    first = sa.select(images.c.received_at, sa.func.min(p.scored_at)).join(prediction, p.instance_id == images.c.id)
    rows = connection.execute(first.where(p.shadow == sa.false()).group_by(images.c.id, images.c.received_at))
    return percentiles([max(0.0, (scored - received).total_seconds()) for received, scored in rows])


def find_delivery_latency(connection: Connection, names: Sequence[str], since: datetime) -> Latency | None:
    """From a study's first image to the first report of it that a destination acknowledged since then."""
    s, i = sent.c, instance.c
    newest = sa.select(s.study, s.at).where(s.destination.in_(names), s.at >= since, s.number == 1)
    newest = newest.order_by(s.at.desc()).limit(SAMPLE)
    taken = newest.subquery()
    of_study = sa.select(sa.func.min(i.received_at)).where(i.study_instance_uid == taken.c.study).scalar_subquery()
    of_file = sa.select(i.received_at).where(i.sha256 == taken.c.study).scalar_subquery()
    first = sa.select(sa.func.min(taken.c.at), sa.func.coalesce(of_study, of_file)).group_by(taken.c.study)
    rows = connection.execute(first)
    return percentiles([max(0.0, (at - received).total_seconds()) for at, received in rows if received])


def find_counts(
    connection: Connection,
    since: datetime,
    until: datetime,
    *,
    models: Sequence[str],
    destinations: Sequence[str],
) -> Counter[tuple[str, ...]]:
    """How often what happened in a while.

    Args:
        connection: To the database.
        since: From this moment on …
        until: … and before this one.
        models: "name/version" of all that may have judged.
        destinations: All that may have acknowledged.

    Returns:
        Images by ("received",), and those of them that do not wait any more by ("finished", status, reason or "");
        predictions by ("predicted", model, "true" where in the shadow, else "false"); objects that were acknowledged by
        ("delivered", destination); words of readers by ("said",).
    """
    i, p, s, number = instance.c, prediction.c, sent.c, sa.func.count()

    def within(column: ColumnElement[Any]) -> ColumnElement[bool]:
        return (column >= since) & (column < until)

    found: Counter[tuple[str, ...]] = Counter()
    found["received",] = connection.scalar(sa.select(number).where(within(i.received_at))) or 0
    # By itself: its index has the status, and not the reason.
    scored = sa.select(number).where(i.status == Status.SCORED, within(i.received_at))
    found["finished", str(Status.SCORED), ""] = connection.scalar(scored) or 0
    unjudged = i.status.in_([Status.NOT_ASSESSED, Status.FAILED]) & within(i.received_at)
    for status, why, count in connection.execute(
        sa.select(i.status, i.reason, number).where(unjudged).group_by(i.status, i.reason)
    ):
        found["finished", status, why] = count
    spoken = p.model.in_(models) & p.shadow.in_((sa.true(), sa.false())) & within(p.scored_at)
    for model, shadow, count in connection.execute(
        sa.select(p.model, p.shadow, number).where(spoken).group_by(p.model, p.shadow)
    ):
        found["predicted", model, str(bool(shadow)).lower()] = count
    taken = s.destination.in_(destinations) & within(s.at)
    for name, count in connection.execute(sa.select(s.destination, number).where(taken).group_by(s.destination)):
        found["delivered", name] = count
    found["said",] = connection.scalar(sa.select(number).where(within(annotation.c.at))) or 0
    return found
