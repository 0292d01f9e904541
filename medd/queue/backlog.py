"""How much waits, for those who add to it."""

import time

import sqlalchemy as sa

from medd.errors import TransientError
from medd.queue.base import JobState
from medd.store.database import Database
from medd.store.tables import job

#: Seconds between looks at the queue.
_LOOK_S = 1.0


class Backlog:
    """Says no while too much waits.

    Args:
        database: Where the jobs are.
        kind: Of the jobs.
        limit: So many may wait; 0 sets no limit.
    """

    def __init__(self, database: Database, kind: str, limit: int) -> None:
        self._database, self._limit = database, limit
        waiting = sa.select(job.c.id).where(job.c.kind == kind, job.c.state == JobState.PENDING).limit(limit + 1)
        self._count = sa.select(sa.func.count()).select_from(waiting.subquery())
        self._looked_at, self._is_full = -_LOOK_S, False

    def check(self) -> None:
        """Look, once a second at most.

        Raises:
            TransientError: More wait than may, or the database is away.
        """
        if not self._limit:
            return
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_S:
            with self._database.read() as connection:
                self._is_full = (connection.scalar(self._count) or 0) > self._limit
            self._looked_at = now
        if self._is_full:
            raise TransientError(f"queue: more than {self._limit} images wait (spool.max_waiting)")
