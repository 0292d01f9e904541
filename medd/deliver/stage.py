"""What the deliverer does: claim a study for a destination, make its report, send it, keep what was answered."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pluggy
from pydicom import Dataset
from sqlalchemy import Connection

from medd import plugins, stuck
from medd.deliver.destination import Destination, Objects, Sent
from medd.errors import InputError, PeerRefused, TransientError
from medd.queue.base import backoff_s
from medd.records import Delivery, StudyReport
from medd.store.outbox import Deliveries
from medd.store.reports import Paths, acknowledged, has_pending, make_report, record_sent

log = logging.getLogger(__name__)

#: Seconds to wait when the database is away.
_AWAY_S = 1.0
#: Seconds between looks whether claims of others have run out, and other rounds (storage commitment).
_ROUND_S = 5.0


class _NotHere(TransientError):
    """An image cannot be read from our own disk: the destination has nothing to do with it."""


class _Ours:
    """The objects of a report, whose failures are told from the destination's."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def make(self, kind: str) -> Sequence[Dataset]:
        try:
            return self._objects.make(kind)
        except TransientError as error:
            raise _NotHere(str(error)) from error

    def patient_name(self) -> str:
        try:
            return self._objects.patient_name()
        except TransientError as error:
            raise _NotHere(str(error)) from error


class _Lane:
    """What goes to one destination. A slow one fills its own lane only."""

    def __init__(self, destination: Destination, threads: int) -> None:
        self.destination = destination
        self._threads = threads
        self._guard = threading.Lock()
        self._held: dict[int, Delivery] = {}
        #: Failures in a row, and the moment (monotonic) until which it rests after the last.
        self._failures, self._until = 0, 0.0

    def free(self) -> int:
        """How many may be claimed now. One that failed is tried with a single study before all the others follow."""
        with self._guard:
            if self._failures:
                return 1 if not self._held and time.monotonic() >= self._until else 0
            return self._threads - len(self._held)

    def hold(self, claimed: Sequence[Delivery]) -> None:
        with self._guard:
            self._held |= {one.id: one for one in claimed}

    def drop(self, claimed: Delivery) -> None:
        with self._guard:
            self._held.pop(claimed.id, None)

    def held(self) -> list[Delivery]:
        with self._guard:
            return list(self._held.values())

    def failed(self) -> None:
        with self._guard:
            if time.monotonic() >= self._until:  # else another study has just met the same failure
                self._failures += 1
                self._until = time.monotonic() + backoff_s(self._failures)

    def answered(self) -> None:
        with self._guard:
            self._failures, self._until = 0, 0.0


class Deliverer:
    """Sends what waits in the outbox until it is told to stop.

    A destination that is away rests, with all that waits for it, and is asked again after 1, 2, 4, … at most 300
    seconds; the others go on.

    Args:
        deliveries: The outbox.
        destinations: By name.
        spool: Where the bytes lie.
        make_objects: Makes the DICOM objects of a report.
        manager: Told of every delivery.
        threads: Studies sent at one time to each destination.
        poll_s: Seconds between looks at an empty outbox.
        give_up_after_s: Seconds of failure after which a delivery is dead.
        on_sent: Called with a destination's name and what it acknowledged, in the transaction that keeps that.
        rounds: Called every few seconds.
    """

    def __init__(
        self,
        deliveries: Deliveries,
        destinations: Mapping[str, Destination],
        spool: Paths,
        make_objects: Callable[[StudyReport], Objects],
        manager: pluggy.PluginManager,
        *,
        threads: int = 2,
        poll_s: float = 0.5,
        give_up_after_s: float = 72 * 3600,
        on_sent: Callable[[Connection, str, list[Sent]], None] = lambda _connection, _name, _taken: None,
        rounds: Callable[[], object] = lambda: None,
    ) -> None:
        self._deliveries, self._spool, self._make_objects = deliveries, spool, make_objects
        self._manager, self._poll_s, self._give_up_after_s = manager, poll_s, give_up_after_s
        self._on_sent, self._rounds = on_sent, rounds
        self._lanes = {name: _Lane(destination, threads) for name, destination in destinations.items()}
        self._threads = max(1, threads * len(destinations))
        self._stop, self._wake, self._ended = threading.Event(), threading.Event(), threading.Event()

    def stop(self) -> None:
        """Stop after what is being sent."""
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        """Send until `stop`."""
        # Threads of their own: a peer that is slow to answer must not cost the claims. They go on until the last study
        # in hand is sent, or another deliverer would take it.
        beats = [
            threading.Thread(target=self._beat, args=beat, daemon=True)
            for beat in ((min(self._deliveries.lease_s / 4, _ROUND_S), self._keep_claims), (_ROUND_S, self._rounds))
        ]
        for beat in beats:
            beat.start()
        with ThreadPoolExecutor(self._threads, thread_name_prefix="deliver") as pool:
            fresh = True
            while not self._stop.is_set():
                self._wake.clear()
                try:
                    if fresh:
                        self._deliveries.recover(own=True, give_up_after_s=self._give_up_after_s)
                        fresh = False
                    for lane in self._lanes.values():
                        self._claim(lane, pool)
                except TransientError as error:
                    log.warning("waiting: %s", error, extra={"event": "deliverer.waiting"})
                    self._stop.wait(_AWAY_S)
                    continue
                self._wake.wait(self._poll_s)
        self._ended.set()
        for beat in beats:
            beat.join(timeout=1)

    def _claim(self, lane: _Lane, pool: ThreadPoolExecutor) -> None:
        claimed = self._deliveries.claim(lane.destination.name, lane.free())
        lane.hold(claimed)
        for one in claimed:
            pool.submit(self._handle, lane, one)

    def _handle(self, lane: _Lane, claimed: Delivery) -> None:
        try:
            self._deliver(lane, claimed)
        except TransientError as error:  # of the database
            log.warning("waiting: %s", error, extra={"event": "deliverer.waiting", "delivery": claimed.id})
            with contextlib.suppress(TransientError):  # else its lease ends
                self._deliveries.retry(claimed, str(error), backoff_s(claimed.attempts))
        except Exception as error:  # a bug met by one study: the others go on
            log.exception("delivery failed", extra={"event": "deliverer.failed", "delivery": claimed.id})
            with contextlib.suppress(TransientError):
                self._fail(claimed, f"unexpected: {type(error).__name__}")
        finally:
            lane.drop(claimed)
            self._wake.set()

    def _deliver(self, lane: _Lane, claimed: Delivery) -> None:
        database = self._deliveries.database
        with database.read() as connection:
            waiting = has_pending(connection, claimed.study)
        if waiting and (left := self._deliveries.due_in_s(claimed)) > 0:  # the worker is still at it
            self._deliveries.wait(claimed, min(left, 1.0))
            return
        try:
            with database.write() as connection:
                report = make_report(connection, claimed.study, self._spool, self._deliveries.spool)
                known = acknowledged(connection, claimed.study, claimed.destination)
        except InputError as error:
            self._bury(claimed, str(error))
            return
        taken: list[Sent] = []
        failure: Exception | None = None
        if report is not None:
            # What cannot be brought is told of by whoever reads it.
            self._spool.bring_all([image.path for image in report.images if image.has_bytes])
            try:
                objects = _Ours(self._make_objects(report))
                name = f"destination {claimed.destination!r}"
                with stuck.bounded(name):
                    sending = lane.destination.send(report, objects, known)
                for one in stuck.bounded_each(sending, name):
                    taken.append(one)  # one by one: what came before an error stays
            except (TransientError, PeerRefused, InputError) as error:
                failure = error
            except Exception as error:  # a bug, of a plugin perhaps
                log.exception("delivery failed", extra={"event": "deliverer.failed", "delivery": claimed.id})
                failure = _NotHere(f"unexpected: {type(error).__name__}")
        self._settle(lane, claimed, report, taken, failure)

    def _settle(
        self,
        lane: _Lane,
        claimed: Delivery,
        report: StudyReport | None,
        taken: list[Sent],
        failure: Exception | None,
    ) -> None:
        ours = self._keep(claimed, report, taken, done=failure is None)
        fields = {"event": "delivery.sent", "delivery": claimed.id, "destination": claimed.destination}
        if taken or isinstance(failure, PeerRefused):  # it was there; of one that had nothing to send nobody knows
            lane.answered()
        if failure is None:
            log.info("sent: %d new objects", len(taken), extra=fields)
            if report is not None and ours:
                plugins.tell(self._manager, "delivery_sent", delivery=claimed, report=report)
        elif isinstance(failure, TransientError):
            if not isinstance(failure, _NotHere):
                lane.failed()
            self._fail(claimed, str(failure))
        else:
            self._bury(claimed, str(failure))

    def _keep(self, claimed: Delivery, report: StudyReport | None, taken: list[Sent], *, done: bool) -> bool:
        """Write down what was acknowledged, however long the database is away: nobody is to be sent it again."""
        while True:
            try:
                with self._deliveries.database.write() as connection:
                    if report is not None:
                        record_sent(connection, claimed.study, report.number, claimed.destination, taken)
                        self._on_sent(connection, claimed.destination, taken)
                    return self._deliveries.finish(connection, claimed) if done else True
            except TransientError as error:
                log.warning("waiting: %s", error, extra={"event": "deliverer.waiting", "delivery": claimed.id})
                if not taken or self._stop.wait(_AWAY_S):
                    raise

    def _fail(self, claimed: Delivery, error: str) -> None:
        if self._deliveries.failing_s(claimed) > self._give_up_after_s:
            self._bury(claimed, error)
            return
        self._deliveries.retry(claimed, error, backoff_s(claimed.attempts))
        fields = {"event": "delivery.retry", "delivery": claimed.id, "destination": claimed.destination}
        log.warning("will be tried again: %s", error, extra=fields)

    def _bury(self, claimed: Delivery, error: str) -> None:
        fields = {"event": "delivery.dead", "delivery": claimed.id, "destination": claimed.destination}
        if self._deliveries.bury(claimed, error):
            log.error("given up: %s", error, extra=fields)
        else:
            fields["event"] = "delivery.retry"
            log.warning(
                "will be tried again, as its study has changed, or is another deliverer's by now: %s",
                error,
                extra=fields,
            )

    def _keep_claims(self) -> None:
        held = [one for lane in self._lanes.values() for one in lane.held()]
        if held:
            self._deliveries.extend(held)
        self._deliveries.recover(give_up_after_s=self._give_up_after_s)

    def _beat(self, interval_s: float, action: Callable[[], object]) -> None:
        while not self._ended.wait(interval_s):
            try:
                action()
            except TransientError as error:
                log.warning("waiting: %s", error, extra={"event": "deliverer.waiting"})
            except Exception:  # without a heartbeat what is being sent would be claimed by another
                log.exception("heartbeat failed", extra={"event": "deliverer.failed"})
