"""What the checks share: what they look at, and what they have found."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection

from medd.errors import MeddError
from medd.ingest.intake import Intake
from medd.store.database import Database
from medd.store.outbox import Outbox
from medd.store.repository import is_alone
from medd.store.spool import Spool
from medd.store.tables import instance, job, prediction, purged

#: Findings that are named; the others are counted.
NAMED = 20
#: Rows of one look, so that no statement takes long; and rows that are mended in one transaction.
RANGE, AT_ONCE = 20_000, 200


@dataclass(frozen=True)
class Scope:
    """What is looked at, and how."""

    database: Database
    spool: Spool
    outbox: Outbox
    #: Takes files in that have no row; None where nothing is to be mended.
    intake: Intake | None = None
    #: Whether every file is read and held against its digest.
    verify: bool = False
    #: A file younger than this may be on its way, seconds.
    young_s: float = 600.0
    #: A lease that ended longer ago is stuck, seconds.
    lease_s: float = 360.0
    #: Images received since have to be told of to every destination; None: since each had its first.
    told_since: datetime | None = None

    @property
    def mends(self) -> bool:
        """Whether what is found is to be mended."""
        return self.intake is not None

    @cached_property
    def is_alone(self) -> bool:
        """Whether no image is known to lie in another host's spool."""
        with self.database.read() as connection:
            return is_alone(connection, self.spool.id)


@dataclass(slots=True)
class Check:
    """What came of one check. Names no patient and no study: rows go by their ids, files by their digests."""

    name: str
    looked_at: int = 0
    found: int = 0
    mended: int = 0
    #: The first of what was found, and what was done about it.
    examples: list[str] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Found and not mended."""
        return self.found - self.mended

    def note(self, what: str, count: int = 1, *, mended: str = "") -> None:
        """Add what was found."""
        self.found += count
        self.mended += count if mended else 0
        if len(self.examples) < NAMED:
            self.examples.append(f"{what}: {mended}" if mended else what)


@dataclass(frozen=True, slots=True)
class Rule:
    """What no instance may be, with its job and its current prediction."""

    #: For people.
    problem: str
    broken: ColumnElement[bool]
    #: What mends it, and how that is called; it is given ids of instances, at most `AT_ONCE`.
    mend: Callable[[Connection, Sequence[int]], None] | None = None
    done: str = ""


#: What rules speak of.
JOINED = (
    instance.outerjoin(job, job.c.instance_id == instance.c.id)
    .outerjoin(prediction, (prediction.c.instance_id == instance.c.id) & prediction.c.current)
    .outerjoin(purged, purged.c.instance_id == instance.c.id)
)


def hold(scope: Scope, check: Check, rule: Rule) -> None:
    """Hold a rule against all instances."""
    ids = sa.select(instance.c.id).select_from(JOINED).where(rule.broken)
    for low, high in ranges(scope.database, instance.c.id):
        within = ids.where(instance.c.id > low, instance.c.id <= high).order_by(instance.c.id)
        with scope.database.read() as connection:
            found = connection.scalars(within).all()
        for start in range(0, len(found), AT_ONCE):
            _settle(scope, check, rule, found[start : start + AT_ONCE])


def _settle(scope: Scope, check: Check, rule: Rule, found: Sequence[int]) -> None:
    if scope.mends and rule.mend is not None:
        still = sa.select(instance.c.id).select_from(JOINED).where(instance.c.id.in_(found), rule.broken)
        try:
            with scope.database.write() as connection:
                found = connection.scalars(still.order_by(instance.c.id).with_for_update(of=instance)).all()
                rule.mend(connection, found)
        except MeddError as error:
            for id_ in found:
                check.note(f"instance {id_}: {rule.problem}; could not be mended: {error}")
            return
    for id_ in found:
        check.note(f"instance {id_}: {rule.problem}", mended=rule.done if scope.mends else "")


def ranges(database: Database, column: sa.Column[Any]) -> Iterator[tuple[int, int]]:
    """The ids of a table in portions: each from above the first number to the second."""
    with database.read() as connection:
        lowest, highest = connection.execute(sa.select(sa.func.min(column), sa.func.max(column))).one()
    if lowest is not None:
        for low in range(lowest - 1, highest, RANGE):
            yield low, min(low + RANGE, highest)


def count(database: Database, table: sa.Table) -> int:
    """Rows of a table."""
    with database.read() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
