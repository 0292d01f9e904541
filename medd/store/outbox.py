"""The outbox: which studies are still to be sent where. Opened in the transaction of the result it tells of.

::

    pending ──claim──▶ running ──finish──▶ done
       ▲                  │ │                │
       ├──retry, lost─────┘ └──bury──▶ dead  │
       ├───────────`medd queue retry`────┘   │
       └──────────────a late image───────────┘

One row for each study and destination. A late image raises its revision; whoever is sending an older one at that moment
finds that out when he finishes, and the row waits again.
"""

import secrets
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from medd.records import Delivery, DeliveryState
from medd.store.clock import from_now, reached
from medd.store.database import Database
from medd.store.tables import UtcDateTime, delivery, instance

#: More than any moment of the outbox is ever set ahead, seconds.
_FURTHEST_S = 7200.0
#: Seconds to wait after a claim that was lost at the first try, the second, …: the first is nearly always a restart.
_LOST_S = (0, 2, 4, 8, 16, 32, 64, 128)
_LOST = "the deliverer died or fell silent"
_FREE: dict[str, Any] = {"lease_owner": None, "lease_token": None, "lease_until": None}

# A row that nobody has tried yet takes a late image along; one that was tried, or is being sent, gets a new revision.
_OPEN = """
INSERT INTO delivery (study, destination, spool, revision, state, available_at, due_by)
VALUES ({study}, {destination}, {spool}, 1, 'pending', {available_at}, {due_by})
ON CONFLICT (study, destination) DO UPDATE SET
    spool = excluded.spool,
    revision = delivery.revision
        + CASE WHEN delivery.state = 'pending' AND delivery.attempts = 0 THEN 0 ELSE 1 END,
    available_at = CASE WHEN delivery.state = 'pending' AND delivery.due_by < excluded.available_at
        THEN delivery.due_by ELSE excluded.available_at END,
    due_by = CASE WHEN delivery.state = 'pending' THEN delivery.due_by ELSE excluded.due_by END,
    attempts = CASE WHEN delivery.state IN ('done', 'dead') THEN 0 ELSE delivery.attempts END,
    failing_since = CASE WHEN delivery.state IN ('done', 'dead') THEN NULL ELSE delivery.failing_since END,
    error = CASE WHEN delivery.state IN ('done', 'dead') THEN NULL ELSE delivery.error END,
    state = CASE WHEN delivery.state = 'running' THEN 'running' ELSE 'pending' END
"""
_NAMES = ("study", "destination", "spool", "available_at", "due_by")


def study_key(study_instance_uid: str, sha256: str) -> str:
    """What the outbox calls a study: its UID; an image without one is a study of its own."""
    return study_instance_uid or sha256


@dataclass(frozen=True, slots=True)
class Outbox:
    """Where results go, and how long a study may wait for company. Without a destination, nothing is ever opened."""

    #: Names of the destinations.
    destinations: tuple[str, ...] = ()
    quiet_s: float = 10
    max_wait_s: float = 60
    #: The id of the spool in which the bytes of those who open studies lie.
    spool: str = ""

    def rows(self, studies: Collection[str]) -> list[dict[str, Any]]:
        """The parameters of `statement` for studies that have a new result."""
        now = datetime.now(UTC)
        quiet = now + timedelta(seconds=min(self.quiet_s, self.max_wait_s))
        due = now + timedelta(seconds=self.max_wait_s)
        # In one order everywhere, so that two workers with images of the same studies wait for each other.
        return [
            {"study": study, "destination": destination, "spool": self.spool, "available_at": quiet, "due_by": due}
            for study in sorted(set(studies))
            for destination in sorted(self.destinations)
        ]

    @staticmethod
    def statement(mark: str) -> str:
        """The statement that opens a study for a destination.

        Args:
            mark: How the driver marks a parameter, such as ":{}".
        """
        return _OPEN.format(**{name: mark.format(name) for name in _NAMES})

    def open(self, connection: Connection, instance_ids: Sequence[int]) -> None:
        """Note that the studies of these instances have something new to tell."""
        if not self.destinations or not instance_ids:
            return
        columns = sa.select(instance.c.study_instance_uid, instance.c.sha256)
        found = connection.execute(columns.where(instance.c.id.in_(instance_ids)))
        times = [sa.bindparam(name, type_=UtcDateTime) for name in ("available_at", "due_by")]
        statement = sa.text(self.statement(":{}")).bindparams(*times)
        connection.execute(statement, self.rows({study_key(*row) for row in found}))


class Deliveries:
    """Claims and acknowledgements of one deliverer.

    Args:
        database: Where the outbox lies.
        owner: Who claims; a deliverer that starts again under the same name takes its own lost work back at once.
        lease_s: Seconds a claim holds without a heartbeat.
        spool: The id of the spool that this deliverer can read; the rest it leaves to other hosts.
    """

    def __init__(self, database: Database, owner: str = "", lease_s: float = 60, spool: str = "") -> None:
        self.database, self.owner, self.lease_s, self.spool = database, owner, lease_s, spool
        #: For each destination what may be claimed, and whether there is any; built once, as it is asked all the time.
        self._looks: dict[str, tuple[sa.ColumnElement[bool], sa.Select[Any]]] = {}

    def claim(self, destination: str, limit: int) -> list[Delivery]:
        """Claim what is to be sent to a destination, the longest waiting first.

        Raises:
            TransientError: The database is away.
        """
        if limit < 1:
            return []
        d = delivery.c
        ready, look = self._looks.get(destination) or self._looks.setdefault(destination, self._look(destination))
        with self.database.read() as connection:
            if connection.scalar(look) is None:
                return []
        chosen = sa.select(d.id).where(ready).order_by(d.available_at, d.id).limit(limit)
        claimed = (
            delivery.update()
            .where(d.id.in_(chosen.with_for_update(skip_locked=True)))
            .values(
                state=DeliveryState.RUNNING,
                attempts=d.attempts + 1,
                lease_owner=self.owner,
                lease_token=secrets.token_hex(16),
                lease_until=from_now(self.database, self.lease_s),
            )
            .returning(d.id, d.study, d.destination, d.revision, d.attempts, d.lease_token)
        )
        with self.database.write() as connection:
            return sorted((Delivery(*row) for row in connection.execute(claimed)), key=lambda one: one.id)

    def _look(self, destination: str) -> tuple[sa.ColumnElement[bool], sa.Select[Any]]:
        d = delivery.c
        # By the index and no further: on SQLite the receiver waits while we look. `recover` mends what lies far ahead.
        ready = (d.state == sa.literal_column("'pending'")) & (d.destination == destination) & (d.spool == self.spool)
        ready &= d.available_at <= from_now(self.database, 0)
        return ready, sa.select(d.id).where(ready).limit(1)

    def extend(self, held: Sequence[Delivery]) -> None:
        """The heartbeat: what is held, of what was claimed, holds for another lease.

        Raises:
            TransientError: The database is away.
        """
        d = delivery.c
        ours = d.id.in_([one.id for one in held]) & d.lease_token.in_({one.lease_token for one in held})
        with self.database.write() as connection:
            connection.execute(delivery.update().where(ours).values(lease_until=from_now(self.database, self.lease_s)))

    def recover(self, *, own: bool = False, give_up_after_s: float = 72 * 3600) -> int:
        """Give back what deliverers that fell silent had claimed; with `own`, an earlier life of this one.

        The first time it is tried again at once, then later and later; what ended its deliverers for longer than
        `give_up_after_s` seconds, the last time and the one before, is dead.

        It also mends moments further ahead than any is ever set, from before the clock was put back.

        Raises:
            TransientError: The database is away.
        """
        d = delivery.c
        lost = d.state == DeliveryState.RUNNING
        lost &= d.lease_owner == self.owner if own else reached(self.database, d.lease_until, _FURTHEST_S)
        # By the words of the partial index, and without the write lock: both are nearly always in vain.
        far = (d.state == sa.literal_column("'pending'")) & (d.available_at > from_now(self.database, _FURTHEST_S))
        with self.database.read() as connection:
            is_ahead = connection.scalar(sa.select(d.id).where(far).limit(1)) is not None
            is_lost = connection.scalar(sa.select(d.id).where(lost).limit(1)) is not None
        if is_ahead:
            with self.database.write() as connection:
                connection.execute(delivery.update().where(far).values(available_at=from_now(self.database, 0)))
        if not is_lost:
            return 0
        # As a failure: what ends its deliverer again and again goes behind the others, and not for ever.
        moments = [(d.attempts <= tries, from_now(self.database, wait_s)) for tries, wait_s in enumerate(_LOST_S, 1)]
        values = {
            "available_at": sa.case(*moments, else_=from_now(self.database, 2 * _LOST_S[-1])),
            "failing_since": sa.func.coalesce(d.failing_since, from_now(self.database, 0)),
            "error": _LOST,
        }
        hopeless = lost & (d.error == _LOST) & (d.failing_since < from_now(self.database, -give_up_after_s))
        with self.database.write() as connection:
            connection.execute(delivery.update().where(hopeless).values(state=DeliveryState.DEAD, **_FREE))
            back = delivery.update().where(lost).values(state=DeliveryState.PENDING, **values, **_FREE)
            return connection.execute(back).rowcount

    def finish(self, connection: Connection, claimed: Delivery) -> bool:
        """Mark a delivery done within the transaction of what it sent; a study that changed meanwhile waits again.

        Returns:
            Whether it was still ours.
        """
        d = delivery.c
        changed = d.revision > claimed.revision
        state = sa.case((changed, DeliveryState.PENDING.value), else_=DeliveryState.DONE.value)
        values = {"state": state, "attempts": 0, "failing_since": None, "error": None, **_FREE}
        return connection.execute(delivery.update().where(self._ours(claimed)).values(values)).rowcount == 1

    def wait(self, claimed: Delivery, seconds: float) -> None:
        """Give a delivery back untried: the rest of its study is still being scored.

        Raises:
            TransientError: The database is away.
        """
        values = {"available_at": from_now(self.database, seconds), "attempts": delivery.c.attempts - 1}
        self._give_back(claimed, values)

    def retry(self, claimed: Delivery, error: str, seconds: float) -> None:
        """Give a delivery back after a failure that may pass.

        Raises:
            TransientError: The database is away.
        """
        failing_since = sa.func.coalesce(delivery.c.failing_since, from_now(self.database, 0))
        values = {"available_at": from_now(self.database, seconds), "error": error, "failing_since": failing_since}
        self._give_back(claimed, values)

    def bury(self, claimed: Delivery, error: str) -> bool:
        """Give a delivery up; a study that changed meanwhile waits again, as nobody has tried what it is now.

        Returns:
            Whether it is dead now; False too where it is another deliverer's by now.

        Raises:
            TransientError: The database is away.
        """
        d = delivery.c
        changed = d.revision > claimed.revision
        values = {
            "state": sa.case((changed, DeliveryState.PENDING.value), else_=DeliveryState.DEAD.value),
            "attempts": sa.case((changed, 0), else_=d.attempts),
            "failing_since": sa.case((changed, None), else_=d.failing_since),
            "error": sa.case((changed, None), else_=error),
        }
        return self._give_back(claimed, values) == DeliveryState.DEAD

    def _give_back(self, claimed: Delivery, values: dict[str, Any]) -> str | None:
        """Returns the state it has now; None where it was not ours any more."""
        values = {"state": DeliveryState.PENDING, **values, **_FREE}
        changed = delivery.update().where(self._ours(claimed)).values(values).returning(delivery.c.state)
        with self.database.write() as connection:
            state: str | None = connection.scalar(changed)
        return state

    @staticmethod
    def _ours(claimed: Delivery) -> sa.ColumnElement[bool]:
        return (delivery.c.id == claimed.id) & (delivery.c.lease_token == claimed.lease_token)

    def failing_s(self, claimed: Delivery) -> float:
        """For how long a delivery has failed again and again, seconds.

        Raises:
            TransientError: The database is away.
        """
        since, now = self._beside_now(claimed, delivery.c.failing_since)
        return (now - since).total_seconds() if since else 0.0

    def due_in_s(self, claimed: Delivery) -> float:
        """Seconds until a delivery goes out whatever still comes.

        Raises:
            TransientError: The database is away.
        """
        due, now = self._beside_now(claimed, delivery.c.due_by)
        return float((due - now).total_seconds())

    def _beside_now(self, claimed: Delivery, moment: sa.ColumnElement[Any]) -> Any:
        columns = sa.select(moment, sa.type_coerce(from_now(self.database, 0), UtcDateTime))
        with self.database.read() as connection:
            return connection.execute(columns.where(delivery.c.id == claimed.id)).one()

    def revive(self, ids: Sequence[int] | None = None, destination: str | None = None) -> int:
        """Bring dead deliveries back, all or some: `medd queue retry`.

        Args:
            ids: Only these.
            destination: Only those to this one.

        Returns:
            How many came back.

        Raises:
            TransientError: The database is away.
        """
        dead = delivery.c.state == DeliveryState.DEAD
        if ids is not None:
            dead &= delivery.c.id.in_(ids)
        if destination is not None:
            dead &= delivery.c.destination == destination
        values = {"state": DeliveryState.PENDING, "attempts": 0, "failing_since": None}
        again = delivery.update().where(dead).values(available_at=from_now(self.database, 0), **values)
        with self.database.write() as connection:
            return connection.execute(again).rowcount


def count_deliveries(connection: Connection) -> dict[DeliveryState, int]:
    """How many deliveries are in each state."""
    counted = sa.select(delivery.c.state, sa.func.count()).group_by(delivery.c.state)
    found = {DeliveryState(state): count for state, count in connection.execute(counted)}
    return {state: found.get(state, 0) for state in DeliveryState}


def list_dead_deliveries(connection: Connection, limit: int, before: int | None = None) -> Iterator[dict[str, Any]]:
    """Dead deliveries with the reason, newest first; with `before`, only those before the one of this id."""
    d = delivery.c
    dead = sa.select(d.id, d.study, d.destination, d.attempts, d.error).where(d.state == DeliveryState.DEAD)
    if before is not None:
        dead = dead.where(d.id < before)
    for row in connection.execute(dead.order_by(d.id.desc()).limit(limit)):
        yield dict(row._mapping)
