"""The jobs of a backfill: behind all others in the one queue, so that nothing that comes in live waits for them.

They are at least as far back as what `medd rescore` brings back, so their results are not delivered: years of history
would flood whoever reads the PACS.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from medd.queue.base import CLASSIFY, RESCORE_PRIORITY, JobState
from medd.queue.sql import SqlQueue
from medd.records import Job, Status
from medd.store.clock import from_now
from medd.store.database import Database
from medd.store.tables import instance, job

#: Behind what is scored again: that is waited for by whoever promoted a model.
BACKFILL_PRIORITY = RESCORE_PRIORITY + 1

_OF_A_BACKFILL = (job.c.kind == CLASSIFY) & (job.c.priority == BACKFILL_PRIORITY)


def count_left(database: Database, spool: str) -> int:
    """How many images of backfills are taken in and not yet judged.

    Raises:
        TransientError: The database is away.
    """
    states = (JobState.PENDING, JobState.RUNNING)
    # One search for each state: each has an index of its own, which is as small as the queue.
    mine = _OF_A_BACKFILL & (job.c.spool == spool)
    counts = [sa.select(sa.func.count()).where(mine, job.c.state == sa.literal_column(f"'{one}'")) for one in states]
    with database.read() as connection:
        return sum(connection.scalar(one) or 0 for one in counts)


def live_waits(database: Database, spool: str) -> bool:
    """Whether an image that came in live waits to be scored.

    Raises:
        TransientError: The database is away.
    """
    waiting = (job.c.kind == CLASSIFY) & (job.c.spool == spool) & (job.c.state == sa.literal_column("'pending'"))
    found = sa.exists().where(waiting, job.c.priority < RESCORE_PRIORITY, job.c.available_at.is_(None))
    with database.read() as connection:
        return bool(connection.scalar(sa.select(found)))


def find_settled(database: Database, digests: Sequence[str]) -> dict[str, Status]:
    """Which of these bytes are here already, each with its status; what failed for good may be tried again.

    Raises:
        TransientError: The database is away.
    """
    known = sa.select(instance.c.sha256, instance.c.status).where(instance.c.sha256.in_(digests))
    with database.read() as connection:
        found = {sha256: Status(status) for sha256, status in connection.execute(known)}
    return {sha256: status for sha256, status in found.items() if status is not Status.FAILED}


def hold(queue: SqlQueue, token: str, instance_ids: Sequence[int]) -> list[Job]:
    """Claim the jobs of these images under a token that a whole run shares.

    A task that is done again after its node died finds its jobs still held by the run and goes on. Jobs that others
    hold or have done are left to them, and so are those that wait for another try: a worker deals with them in the end.
    No try is counted, as the run ends a decoder's process, never its own.

    Args:
        queue: Of the run.
        token: Of the run; whoever finishes a job shows it.
        instance_ids: The images.

    Raises:
        TransientError: The database is away.
    """
    mine = (job.c.kind == CLASSIFY) & job.c.instance_id.in_(instance_ids)
    free = mine & (job.c.state == JobState.PENDING) & (job.c.spool == queue.spool) & job.c.available_at.is_(None)
    lease = {"lease_owner": queue.owner, "lease_token": token, "lease_until": from_now(queue.database, queue.lease_s)}
    held = sa.select(job.c.id, job.c.kind, job.c.instance_id, job.c.attempts, job.c.lease_token, job.c.priority)
    with queue.database.write() as connection:
        # In one order everywhere, so that two tasks with the same images wait for each other, not deadlock.
        chosen = sa.select(job.c.id).where(free).order_by(job.c.id).with_for_update(skip_locked=True)
        connection.execute(job.update().where(job.c.id.in_(chosen)).values(state=JobState.RUNNING, **lease))
        found = connection.execute(held.where(mine, job.c.lease_token == token).order_by(job.c.id))
        return [Job(*row) for row in found]


def release(queue: SqlQueue, token: str) -> None:
    """Give back what a run still holds: a worker takes it, or the next run.

    Raises:
        TransientError: The database is away.
    """
    free = {"lease_owner": None, "lease_token": None, "lease_until": None}
    with queue.database.write() as connection:
        mine = (job.c.state == JobState.RUNNING) & (job.c.lease_token == token)
        connection.execute(job.update().where(mine).values(state=JobState.PENDING, **free))
