"""What the deliverer does: claim a study for a destination, make its report, send it, keep what was answered."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait

import pluggy
from sqlalchemy import Connection

from medd import plugins
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
        threads: Studies sent at one time.
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
        threads: int = 4,
        poll_s: float = 0.5,
        give_up_after_s: float = 72 * 3600,
        on_sent: Callable[[Connection, str, list[Sent]], None] = lambda _connection, _name, _taken: None,
        rounds: Callable[[], object] = lambda: None,
    ) -> None:
        self._deliveries, self._destinations, self._spool = deliveries, destinations, spool
        self._make_objects, self._manager = make_objects, manager
        self._threads, self._poll_s, self._give_up_after_s = threads, poll_s, give_up_after_s
        self._on_sent, self._rounds = on_sent, rounds
        self._stop = threading.Event()
        self._guard = threading.Lock()
        self._held: dict[int, Delivery] = {}
        #: Destination → failures in a row, and the moment (monotonic) until which it rests.
        self._resting: dict[str, tuple[int, float]] = {}

    def stop(self) -> None:
        """Stop after what is being sent."""
        self._stop.set()

    def run(self) -> None:
        """Send until `stop`."""
        beats = [threading.Thread(target=self._beat, args=beat, daemon=True) for beat in self._regularly()]
        for beat in beats:
            beat.start()
        fresh = True
        busy: set[Future[None]] = set()
        with ThreadPoolExecutor(self._threads, thread_name_prefix="deliver") as pool:
            while not self._stop.is_set():
                try:
                    if fresh:
                        self._deliveries.recover(own=True)
                        fresh = False
                    claimed = self._claim(self._threads - len(busy))
                except TransientError as error:
                    log.warning("waiting: %s", error, extra={"event": "deliverer.waiting"})
                    self._stop.wait(_AWAY_S)
                    continue
                busy |= {pool.submit(self._handle, one) for one in claimed}
                if busy:
                    busy = wait(busy, timeout=self._poll_s, return_when="FIRST_COMPLETED").not_done
                else:
                    self._stop.wait(self._poll_s)
        for beat in beats:
            beat.join(timeout=1)

    def _claim(self, limit: int) -> list[Delivery]:
        now = time.monotonic()
        with self._guard:
            tried = {one.destination for one in self._held.values()}
            rested = [name for name, (_, until) in self._resting.items() if now >= until and name not in tried]
            well = [name for name in self._destinations if name not in self._resting]
        claimed: list[Delivery] = []
        # One that failed is tried with a single study before all the others follow.
        for names, most in [([name], 1) for name in rested] + [(well, limit)]:
            claimed += self._deliveries.claim(names, min(most, limit - len(claimed)))
        with self._guard:
            self._held |= {one.id: one for one in claimed}
        return claimed

    def _handle(self, claimed: Delivery) -> None:
        try:
            self._deliver(claimed)
        except TransientError as error:  # of the database: the claim's lease ends, and it is tried again
            log.warning("waiting: %s", error, extra={"event": "deliverer.waiting", "delivery": claimed.id})
        except Exception as error:  # a bug, or a plugin's, met by one study: the others go on
            log.exception("delivery failed", extra={"event": "deliverer.failed", "delivery": claimed.id})
            with contextlib.suppress(TransientError):
                self._fail(claimed, f"unexpected: {type(error).__name__}")
        finally:
            with self._guard:
                self._held.pop(claimed.id, None)

    def _deliver(self, claimed: Delivery) -> None:
        database, destination = self._deliveries.database, self._destinations[claimed.destination]
        with database.read() as connection:
            waiting = has_pending(connection, claimed.study)
        if waiting and (left := self._deliveries.due_in_s(claimed)) > 0:  # the worker is still at it
            self._deliveries.wait(claimed, min(left, 1.0))
            return
        try:
            with database.write() as connection:
                report = make_report(connection, claimed.study, self._spool)
                known = acknowledged(connection, claimed.study, claimed.destination)
        except InputError as error:
            self._bury(claimed, str(error))
            return
        taken: list[Sent] = []
        failure: Exception | None = None
        if report is not None:
            try:
                for one in destination.send(report, self._make_objects(report), known):
                    taken.append(one)  # one by one: what came before an error stays
            except (TransientError, PeerRefused, InputError) as error:
                failure = error
        self._settle(claimed, report, taken, failure)

    def _settle(
        self, claimed: Delivery, report: StudyReport | None, taken: list[Sent], failure: Exception | None
    ) -> None:
        with self._deliveries.database.write() as connection:
            if report is not None:
                record_sent(connection, claimed.study, report.number, claimed.destination, taken)
                self._on_sent(connection, claimed.destination, taken)
            if failure is None:
                self._deliveries.finish(connection, claimed)
        fields = {"event": "delivery.sent", "delivery": claimed.id, "destination": claimed.destination}
        if failure is None:
            with self._guard:
                self._resting.pop(claimed.destination, None)
            log.info("sent: %d new objects", len(taken), extra=fields)
            if report is not None:
                plugins.tell(self._manager, "delivery_sent", delivery=claimed, report=report)
        elif isinstance(failure, TransientError):
            self._rest(claimed.destination)
            self._fail(claimed, str(failure))
        else:
            self._bury(claimed, str(failure))

    def _rest(self, destination: str) -> None:
        with self._guard:
            failures, until = self._resting.get(destination, (0, 0.0))
            if time.monotonic() >= until:  # else another study has just met the same failure
                self._resting[destination] = failures + 1, time.monotonic() + backoff_s(failures + 1)

    def _fail(self, claimed: Delivery, error: str) -> None:
        if self._deliveries.failing_s(claimed) > self._give_up_after_s:
            self._bury(claimed, error)
            return
        self._deliveries.retry(claimed, error, backoff_s(claimed.attempts))
        fields = {"event": "delivery.retry", "delivery": claimed.id, "destination": claimed.destination}
        log.warning("will be tried again: %s", error, extra=fields)

    def _bury(self, claimed: Delivery, error: str) -> None:
        self._deliveries.bury(claimed, error)
        fields = {"event": "delivery.dead", "delivery": claimed.id, "destination": claimed.destination}
        log.error("given up: %s", error, extra=fields)

    def _regularly(self) -> list[tuple[float, Callable[[], object]]]:
        # Two threads, as a peer that is slow to answer must not cost the claims.
        return [(min(self._deliveries.lease_s / 4, _ROUND_S), self._keep_claims), (_ROUND_S, self._rounds)]

    def _keep_claims(self) -> None:
        with self._guard:
            held = [one.lease_token for one in self._held.values()]
        if held:
            self._deliveries.extend(held)
        self._deliveries.recover()

    def _beat(self, interval_s: float, action: Callable[[], object]) -> None:
        while not self._stop.wait(interval_s):
            try:
                action()
            except TransientError as error:
                log.warning("waiting: %s", error, extra={"event": "deliverer.waiting"})
            except Exception:  # without a heartbeat what is being sent would be claimed by another
                log.exception("heartbeat failed", extra={"event": "deliverer.failed"})
