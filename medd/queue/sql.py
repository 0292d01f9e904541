"""The queue as a table, on SQLite and PostgreSQL alike."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection

from medd.queue.base import MAX_BACKOFF_S, RESCORE_PRIORITY, JobState, backoff_s
from medd.records import Job, Reason, Status
from medd.store.clock import from_now, reached
from medd.store.database import Database
from medd.store.outbox import Outbox
from medd.store.tables import instance, job, prediction, purged
from medd.store.tally import refresh

#: Which goes first.
_ORDER = (job.c.priority, job.c.id)
#: Jobs that come back in one transaction.
_AT_ONCE = 500
#: What a job that nobody holds has.
_FREE: dict[str, Any] = {"lease_owner": None, "lease_token": None, "lease_until": None}


@dataclass(frozen=True, slots=True)
class Recovered:
    """What became of jobs whose workers fell silent."""

    #: So many wait again.
    given_back: int
    #: The instances whose jobs were tried too often and are dead.
    buried: tuple[int, ...] = ()


class SqlQueue:
    """Claims and acknowledgements of one worker.

    Args:
        database: Where the jobs lie.
        owner: Who claims; a worker that starts again under the same name takes its own lost work back at once.
        lease_s: Seconds a claim holds without a heartbeat.
        max_attempts: Tries before a job is dead.
        spool: The id of the spool that this worker can read; other jobs it leaves to other hosts.
        outbox: Where results go; told of what is given up.
    """

    def __init__(
        self,
        database: Database,
        owner: str = "",
        lease_s: float = 60,
        max_attempts: int = 5,
        spool: str = "",
        outbox: Outbox = Outbox(),  # noqa: B008  # frozen
    ) -> None:
        self.database, self.owner, self.lease_s, self.max_attempts = database, owner, lease_s, max_attempts
        self.spool, self.outbox = spool, outbox
        #: For each kind what may be claimed, and how often the first of it was tried. Built once: an idle worker asks
        #: several times a second, and building costs more than asking.
        self._looks: dict[str, tuple[ColumnElement[bool], sa.Select[Any]]] = {}

    def _in(self, seconds: float) -> ColumnElement[datetime]:
        return from_now(self.database, seconds)

    def _reached(self, column: ColumnElement[Any]) -> ColumnElement[bool]:
        return reached(self.database, column, 2 * MAX_BACKOFF_S)

    def claim(self, kind: str, limit: int) -> list[Job]:
        """Claim the jobs that go first, at most `limit`.

        A job that was tried twice is claimed alone: if it is the one that kills its worker, no other suffers for it.

        Raises:
            TransientError: The database is away.
        """
        ready, first = self._looks.get(kind) or self._looks.setdefault(kind, self._look(kind))
        with self.database.read() as connection:
            attempts = connection.scalar(first)
        if attempts is None:
            return []
        if attempts >= 2:
            limit = 1
        else:
            ready &= job.c.attempts < 2
        token = secrets.token_hex(16)
        chosen = sa.select(job.c.id).where(ready).order_by(*_ORDER).limit(limit).with_for_update(skip_locked=True)
        statement = (
            job.update()
            .where(job.c.id.in_(chosen))
            .values(
                state=JobState.RUNNING,
                attempts=job.c.attempts + 1,
                lease_owner=self.owner,
                lease_token=token,
                lease_until=self._in(self.lease_s),
            )
            .returning(job.c.id, job.c.kind, job.c.instance_id, job.c.attempts, job.c.lease_token, job.c.priority)
        )
        with self.database.write() as connection:
            return sorted((Job(*row) for row in connection.execute(statement)), key=lambda claimed: claimed.id)

    def _look(self, kind: str) -> tuple[ColumnElement[bool], sa.Select[Any]]:
        ready = (
            (job.c.kind == kind)
            & (job.c.spool == self.spool)
            & (job.c.state == JobState.PENDING)
            & (job.c.available_at.is_(None) | self._reached(job.c.available_at))
        )
        return ready, sa.select(job.c.attempts).where(ready).order_by(*_ORDER).limit(1)

    def extend(self, tokens: Sequence[str]) -> None:
        """The heartbeat: every job still running under these tokens holds for another lease.

        Raises:
            TransientError: The database is away.
        """
        with self.database.write() as connection:
            ours = (job.c.state == JobState.RUNNING) & job.c.lease_token.in_(tokens)
            connection.execute(job.update().where(ours).values(lease_until=self._in(self.lease_s)))

    def finish(self, connection: Connection, claimed: Sequence[Job]) -> dict[int, int]:
        """Mark jobs done within the transaction of their results.

        Returns:
            The ids of those that were still ours, and their priorities by now; the results of the others must not be
            stored.
        """
        ours = job.c.id.in_([one.id for one in claimed]) & job.c.lease_token.in_({one.lease_token for one in claimed})
        done = job.update().where(ours).values(state=JobState.DONE, error=None, **_FREE)
        return {one.id: one.priority for one in connection.execute(done.returning(job.c.id, job.c.priority))}

    def retry(self, claimed: Job, error: str, *, last: bool = False) -> JobState | None:
        """Give a job back after a failure that may pass, or bury it when it was tried too often, or `last` says so.

        Returns:
            Its state now, or None when it is no longer ours.

        Raises:
            TransientError: The database is away.
        """
        with self.database.write() as connection:
            ours = (job.c.id == claimed.id) & (job.c.lease_token == claimed.lease_token)
            if last or claimed.attempts >= self.max_attempts:
                state, available_at = JobState.DEAD, None
            else:
                state, available_at = JobState.PENDING, self._in(backoff_s(claimed.attempts))
            given_back = job.update().where(ours).values(state=state, available_at=available_at, error=error, **_FREE)
            if connection.execute(given_back).rowcount == 0:
                return None
            if state is JobState.DEAD:
                self._fail_instances(connection, [claimed.instance_id], error)
            return state

    def recover(self, kind: str, *, own: bool = False) -> Recovered:
        """Give back the jobs of workers that fell silent; with `own`, those of an earlier life of this worker.

        Returns:
            What became of them.

        Raises:
            TransientError: The database is away.
        """
        lost = (job.c.kind == kind) & (job.c.state == JobState.RUNNING)
        lost &= job.c.lease_owner == self.owner if own else self._reached(job.c.lease_until)
        with self.database.read() as connection:
            if connection.scalar(sa.select(sa.exists().where(lost))) is False:
                return Recovered(0)
        error = "the worker died or fell silent"
        with self.database.write() as connection:
            again = job.update().where(lost & (job.c.attempts < self.max_attempts))
            back = connection.execute(again.values(state=JobState.PENDING, error=error, **_FREE)).rowcount
            given_up = job.update().where(lost & (job.c.attempts >= self.max_attempts))
            dead = given_up.values(state=JobState.DEAD, error=error, **_FREE).returning(job.c.instance_id)
            buried = connection.scalars(dead).all()
            self._fail_instances(connection, buried, error)
        return Recovered(back, tuple(buried))

    def revive(self, kind: str, instance_ids: Sequence[int] | None = None) -> int:
        """Bring dead jobs back, all of a kind or those of some instances: `medd queue retry`.

        Returns:
            How many came back.

        Raises:
            TransientError: The database is away.
        """
        dead = (job.c.kind == kind) & (job.c.state == JobState.DEAD)
        if instance_ids is not None:
            dead &= job.c.instance_id.in_(instance_ids)
        again = {"status": Status.PENDING, "reason": None, "detail": None}
        count, last = 0, 0
        while True:  # in portions, as below
            portion = sa.select(job.c.id).where(dead & (job.c.id > last)).order_by(job.c.id).limit(_AT_ONCE)
            with self.database.read() as connection:
                found = connection.scalars(portion).all()
            if not found:
                return count
            alive = job.update().where(job.c.id.in_(found) & dead)
            alive = alive.values(state=JobState.PENDING, attempts=0, available_at=None)
            with self.database.write() as connection:
                ids = list(connection.scalars(alive.returning(job.c.instance_id)))
                failed = instance.c.id.in_(ids) & (instance.c.status == Status.FAILED)
                connection.execute(instance.update().where(failed).values(**again))
                refresh(connection, ids)
            count, last = count + len(ids), found[-1]

    def rescore(self, kind: str, model: str, since: datetime | None = None) -> int:
        """Bring finished work back, behind all that comes in live, where `model` did not say what is shown now.

        What is shown stays until the model has spoken, and stays as history after that. What was not assessed comes
        back only where another model refused it. Work that waits, runs or is dead is left alone, and so is an image
        whose bytes retention has deleted.

        Args:
            kind: The work of scoring.
            model: "name/version"; what it has scored or refused already is left alone.
            since: Only what was received from then on.

        Returns:
            How many came back.

        Raises:
            TransientError: The database is away.
        """
        i, p = instance.c, prediction.c
        by_it = sa.exists().where((p.instance_id == i.id) & p.current & (p.model == model))
        # On SQLite status and time are kept from its planner (as in `medd.store.repository`): by their indices each
        # portion would go through the whole history and sort it; jobs in the order of their ids are gone through once.
        status, received_at = self._unindexed(i.status), self._unindexed(i.received_at)
        refused = (status == Status.NOT_ASSESSED) & (i.reason == Reason.UNFAMILIAR)
        refused &= i.refused_by.is_distinct_from(model)
        wanted = (job.c.kind == kind) & (job.c.state == JobState.DONE)
        wanted &= ((status == Status.SCORED) & ~by_it) | refused
        wanted &= ~sa.exists().where(purged.c.instance_id == i.id)
        if since is not None:
            wanted &= received_at >= since
        ids = sa.select(job.c.id).join_from(job, instance).where(wanted).order_by(job.c.id).limit(_AT_ONCE)
        back: dict[str, Any] = {"state": JobState.PENDING, "attempts": 0, "available_at": None, "error": None}
        count, last = 0, 0
        while True:  # in portions, and looked for without the write lock, so that the receiver never waits long
            with self.database.read() as connection:
                found = connection.scalars(ids.where(job.c.id > last)).all()
            if not found:
                return count
            again = job.update().where(job.c.id.in_(found) & (job.c.state == JobState.DONE))
            with self.database.write() as connection:
                count += connection.execute(again.values(priority=RESCORE_PRIORITY, **back)).rowcount
            last = found[-1]

    def _unindexed(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        if not self.database.is_sqlite:
            return column
        plus: Any = sa.sql.operators.custom_op("+")
        return sa.UnaryExpression(column, operator=plus, type_=column.type)

    def counts(self, kind: str) -> dict[JobState, int]:
        """How many jobs of a kind are in each state.

        Raises:
            TransientError: The database is away.
        """
        statement = sa.select(job.c.state, sa.func.count()).where(job.c.kind == kind).group_by(job.c.state)
        with self.database.read() as connection:
            found = {JobState(state): count for state, count in connection.execute(statement)}
        return {state: found.get(state, 0) for state in JobState}

    def _fail_instances(self, connection: Connection, ids: Sequence[int], detail: str) -> None:
        failed = {"status": Status.FAILED, "reason": Reason.RETRIES_EXHAUSTED, "detail": detail}
        # What was scored before, and could not be scored again, keeps what is known of it.
        waiting = instance.c.id.in_(ids) & (instance.c.status == Status.PENDING)
        changed = instance.update().where(waiting).values(**failed).returning(instance.c.id)
        given_up = connection.scalars(changed).all()
        refresh(connection, given_up)
        # As of what is scored: history is not delivered.
        live = sa.select(job.c.instance_id).where(job.c.instance_id.in_(given_up), job.c.priority < RESCORE_PRIORITY)
        self.outbox.open(connection, connection.scalars(live).all())
