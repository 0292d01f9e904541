"""The loop of every worker: claim → handle → acknowledge, with a heartbeat beside it."""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from medd import stuck
from medd.errors import TransientError
from medd.queue.sql import SqlQueue
from medd.records import Job

log = logging.getLogger(__name__)

#: Seconds to wait when the database is away.
AWAY_S = 1.0


class Stage(Protocol):
    """What a worker does with the jobs it claims."""

    def handle(self, jobs: Sequence[Job]) -> Callable[[], None]:
        """Do the work and return the function that commits its results.

        Work and commit are apart because a database that is away must not cost work that is done: the commit alone is
        tried again.

        Raises:
            TransientError: Nothing is said of any job: it is asked again with the same ones, and none has lost a try.
        """

    def bury(self, instance_ids: Sequence[int]) -> None:
        """Tell of jobs that were given up because whoever worked on them died."""

    def doing(self) -> str:
        """What it works with now, in a few words; asked by another thread."""


class Worker:
    """Runs one kind of job until it is told to stop. What it has claimed it finishes first.

    Args:
        queue: Where the jobs are.
        kind: Of the jobs.
        stage: Does them.
        batch_size: Jobs claimed at once.
        poll_s: Seconds between looks at an empty queue.
    """

    def __init__(self, queue: SqlQueue, kind: str, stage: Stage, *, batch_size: int, poll_s: float) -> None:
        self._queue, self._kind, self._stage = queue, kind, stage
        self._batch_size, self._poll_s = batch_size, poll_s
        self._stop = threading.Event()
        self._held: tuple[str, ...] = ()

    def stop(self) -> None:
        """Stop after the jobs in hand."""
        self._stop.set()

    def doing(self) -> str:
        """What it works with now, for those who watch."""
        return self._stage.doing()

    def run(self) -> None:
        """Work until `stop`."""
        heartbeat = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        heartbeat.start()
        fresh = True
        while not self._stop.is_set():
            try:
                if fresh:
                    self._recover(own=True)
                    fresh = False
                jobs = self._queue.claim(self._kind, self._batch_size)
                if jobs:
                    self._work(jobs)
                else:
                    self._stop.wait(self._poll_s)
            except TransientError as error:
                log.warning("waiting: %s", error, extra={"event": "worker.waiting"})
                self._stop.wait(AWAY_S)
            except Exception:  # a bug in one batch must not end the worker; the jobs come back when the lease ends
                log.exception("batch failed", extra={"event": "worker.failed"})
                self._stop.wait(AWAY_S)
        heartbeat.join(timeout=1)

    def _work(self, jobs: Sequence[Job]) -> None:
        self._held = tuple({job.lease_token for job in jobs})
        try:
            while True:
                try:
                    with stuck.bounded("a batch"):
                        commit = self._stage.handle(jobs)
                    break
                except TransientError as error:  # of what is around the images, each of which has an answer of its own
                    log.warning("images wait: %s", error, extra={"event": "worker.waiting", "count": len(jobs)})
                    if self._stop.wait(AWAY_S):
                        return
            while True:
                try:
                    commit()
                    return
                except TransientError as error:
                    log.warning("results wait: %s", error, extra={"event": "worker.waiting", "count": len(jobs)})
                    if self._stop.wait(AWAY_S):
                        return
        finally:
            self._held = ()

    def _recover(self, *, own: bool = False) -> None:
        if buried := self._queue.recover(self._kind, own=own).buried:
            self._stage.bury(buried)

    def _beat(self) -> None:
        while not self._stop.wait(self._queue.lease_s / 4):
            try:
                if self._held:
                    self._queue.extend(self._held)
                self._recover()
            except TransientError as error:
                log.warning("no heartbeat: %s", error, extra={"event": "worker.waiting"})
            except Exception:  # without a heartbeat the work in hand would be lost
                log.exception("heartbeat failed", extra={"event": "worker.failed"})
