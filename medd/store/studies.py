"""Studies as the worklist shows them: its order, one of them, and who has read it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection

from medd.records import WITHDRAWN, Annotation, Status, is_storable
from medd.store.planner import unindexed
from medd.store.tables import annotation, instance, study
from medd.store.tally import lock
from medd.store.urgency import Place, overdue_before, place_of

#: More rows than this are gone through in the order of the list, until enough of them fit; fewer are sorted.
_MANY = 1000
#: Of so many of the last changes `signature` tells.
_LAST = 64

s = study.c
_URGENCY = (s.band, s.rank, s.waiting_since, s.instance_id)


@dataclass(frozen=True, slots=True)
class WorklistFilter:
    """Which studies `find_worklist` gives; None and "" do not restrict."""

    #: An image of it was received since.
    since: datetime | None = None
    status: Status | None = None
    #: The beginning of a patient id or accession number, or a whole Study Instance UID (or SHA-256 of a file).
    text: str = ""
    #: "dicom://AE@host" or "file:relative/path", whole.
    origin: str = ""
    #: Whether somebody has read it.
    read: bool | None = False


@dataclass(frozen=True, slots=True)
class After:
    """A place in the list, to go on behind it: that of a row as `find_worklist` gave it."""

    #: "overdue", "fresh" or "read".
    part: str
    #: The row's values of what its part is sorted by.
    values: tuple[Any, ...]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "After":
        """The place of a row."""
        if row["place"] == Place.READ:
            return cls("read", (row["read_at"], row["instance_id"]))
        if row["place"] == Place.OVERDUE:
            return cls("overdue", (row["waiting_since"], row["instance_id"]))
        return cls("fresh", tuple(row[column.name] for column in _URGENCY))

    def condition(self, order: Sequence[ColumnElement[Any]]) -> ColumnElement[bool]:
        """What lies behind it in its part."""
        columns = [getattr(one, "element", one) for one in order]  # without "descending"
        here = sa.tuple_(*(sa.literal(value, column.type) for value, column in zip(self.values, columns, strict=True)))
        return sa.tuple_(*columns) < here if self.part == "read" else sa.tuple_(*columns) > here


def find_worklist(
    connection: Connection,
    wanted: WorklistFilter,
    now: datetime,
    max_wait: timedelta | None,
    limit: int,
    offset: int = 0,
    after: After | None = None,
) -> list[dict[str, Any]]:
    """Studies in the order of `medd.store.urgency`: the columns of `study`, and "place", why it stands there.

    Args:
        connection: Where to ask.
        wanted: Which of them.
        now: This moment.
        max_wait: Who is unread for longer goes first; None or 0 is no cap.
        limit: At most so many.
        offset: So many of the first are left out.
        after: Only what comes behind this place, for the same `now` and `max_wait`.
    """
    fits = _fits(connection, wanted)
    found: list[sa.Row[Any]] = []
    for name, part, order in _parts(connection, wanted, fits, overdue_before(now, max_wait)):
        if after is not None:
            if name != after.part:
                continue
            part &= after.condition(order)
            after = None
        rows = connection.execute(
            sa.select(study).where(part, fits).order_by(*order).limit(limit - len(found)).offset(offset)
        ).all()
        found += rows
        if len(found) == limit:
            break
        if rows:
            offset = 0
        elif offset:
            offset -= _count(connection, part & fits, offset)
    columns = [dict(row._mapping) for row in found]
    return [row | {"place": str(place_of(row, now, max_wait))} for row in columns]


def count_worklist(connection: Connection, wanted: WorklistFilter, at_most: int = 1000) -> int:
    """How many studies fit, counted no further than `at_most`."""
    return _count(connection, _is_read(wanted.read) & _fits(connection, wanted), at_most)


def find_study(connection: Connection, key: str) -> dict[str, Any] | None:
    """The row of a study, by its Study Instance UID or the SHA-256 of an image file."""
    row = connection.execute(sa.select(study).where(s.study == key)).one_or_none()
    return dict(row._mapping) if row else None


def signature(connection: Connection) -> tuple[Any, ...]:
    """What differs from before when any study has changed since, whatever the order in which changes were committed."""
    # What lies ahead was written before a clock was put back, and would hide what comes now.
    last = sa.select(s.changed_at).where(s.changed_at <= datetime.now(UTC)).order_by(s.changed_at.desc())
    return tuple(connection.scalars(last.limit(_LAST)))


def _count(connection: Connection, condition: ColumnElement[bool], at_most: int) -> int:
    some = sa.select(sa.literal(1)).select_from(study).where(condition).limit(at_most).subquery()
    return connection.scalar(sa.select(sa.func.count()).select_from(some)) or 0


def _is_read(read: bool | None) -> ColumnElement[bool]:
    # Not as a parameter: only so the partial indices are used.
    return sa.true() if read is None else s.read_at.is_not(None) if read else s.read_at.is_(None)


def _parts(
    connection: Connection, wanted: WorklistFilter, fits: ColumnElement[bool], before: datetime | None
) -> Iterator[tuple[str, ColumnElement[bool], Sequence[ColumnElement[Any]]]]:
    """The parts of the list, one after the other, each with a condition and an order that have an index."""
    unread = s.read_at.is_(None)
    if wanted.read is not True:
        if before is None:
            yield "fresh", unread, _URGENCY
        else:
            yield "overdue", unread & (s.waiting_since < before), (s.waiting_since, s.instance_id)
            fresh = unread & (s.waiting_since >= before)
            order: Sequence[ColumnElement[Any]] = _URGENCY
            if connection.dialect.name == "sqlite":  # it has no statistics of how many there are
                if _count(connection, fresh & fits, _MANY) < _MANY:
                    order = (unindexed(connection, s.band), *_URGENCY[1:])
                else:
                    fresh = unread & (unindexed(connection, s.waiting_since) >= before)
            yield "fresh", fresh, order
    if wanted.read is not False:
        yield "read", s.read_at.is_not(None), (s.read_at.desc(), s.instance_id.desc())


def _fits(connection: Connection, wanted: WorklistFilter) -> ColumnElement[bool]:
    conditions: list[ColumnElement[bool]] = [sa.true()]
    if wanted.since is not None:
        conditions.append(s.last_received_at >= wanted.since)
    if wanted.status is not None:
        conditions.append(s.status == wanted.status)
    if wanted.origin:
        conditions.append(s.origin == wanted.origin)
    if wanted.text:
        conditions.append(_matches(connection, wanted.text))
    return sa.and_(*conditions)


def _matches(connection: Connection, text: str) -> ColumnElement[bool]:
    if not is_storable(text):
        return sa.false()
    last = text + chr(0x10FFFF)
    columns: tuple[ColumnElement[Any], ...] = (s.patient_id, s.accession_number)
    keys = {text}
    for column in columns:
        begins = (column >= text) & (column < last)
        keys.update(connection.scalars(sa.select(s.study).where(begins).limit(_MANY)))
    # The few that match are looked up by their keys; many are soon met on the way through the list.
    if len(keys) < _MANY:
        return s.study.in_(keys)
    columns = tuple(unindexed(connection, column) for column in columns)
    return sa.or_(s.study == text, *((column >= text) & (column < last) for column in columns))


def mark_read(connection: Connection, key: str, reader: str, at: datetime, images: int | None = None) -> bool:
    """Note that a study was read; who read it first stays.

    Args:
        connection: Of the transaction.
        key: Of the study.
        reader: Who read it.
        at: When.
        images: How many images the reader saw; where there are others by now, it was not read. None: all there are.

    Returns:
        False when it was read before, has other images, or is not there.
    """
    values = {"read_at": at, "read_by": reader, "changed_at": datetime.now(UTC)}
    waits = (s.study == key) & s.read_at.is_(None)
    if images is not None:
        waits &= s.images == images
    return connection.execute(study.update().where(waits).values(values)).rowcount == 1


def mark_unread(connection: Connection, key: str) -> bool:
    """Put a study back among those that wait; returns False when it waits already, or is not there."""
    values = {"read_at": None, "read_by": None, "changed_at": datetime.now(UTC)}
    read = (s.study == key) & s.read_at.is_not(None)
    return connection.execute(study.update().where(read).values(values)).rowcount == 1


def follow_annotations(connection: Connection, said: Sequence[Annotation], images: int | None = None) -> None:
    """Mark the studies of new annotations as read; as unread where what was said is withdrawn and nothing else stands.

    To be called last in the transaction that stores the annotations.

    Args:
        connection: Of the transaction.
        said: What is new.
        images: How many images of each study were seen, as `mark_read` has it.
    """
    for key, ids in sorted(lock(connection, [one.instance_id for one in said]).items()):
        stands = [one for one in said if one.instance_id in ids and one.label != WITHDRAWN]
        if stands:
            mark_read(connection, key, stands[0].reader, stands[0].at, images)
        elif not _is_annotated(connection, key):
            mark_unread(connection, key)


def _is_annotated(connection: Connection, key: str) -> bool:
    a, i = annotation.c, instance.c
    belongs = (i.study_instance_uid == key) | ((i.sha256 == key) & (i.study_instance_uid == ""))
    of_study = a.instance_id.in_(sa.select(i.id).where(belongs))
    newest = sa.select(sa.func.max(a.id)).where(of_study).group_by(a.instance_id, a.reader)
    standing = sa.exists().where(a.id.in_(newest) & (a.label != WITHDRAWN))
    return bool(connection.scalar(sa.select(standing)))
