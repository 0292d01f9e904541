"""The pulls of ``[[pull]]``: once a day at a local time, in a thread of the receiver. A missed one is not made up."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from medd.errors import MeddError, TransientError
from medd.ingest.pull import Limits, Pull, State
from medd.ingest.query import Query, Source, last_days
from medd.settings import PullSettings
from medd.store.database import Database

log = logging.getLogger(__name__)

#: Seconds between looks at the clock, which may be put forward or back meanwhile.
_LOOK_S = 20.0
#: Seconds that a study may take to end after `stop`.
_STOP_S = 10.0
#: Seconds before each further try of a pull whose archive is away.
RETRY_DELAYS_S = (300.0, 900.0, 3600.0)


def next_time(at: str, now: datetime) -> datetime:
    """The next moment when the local clock shows a time; always after `now`.

    Args:
        at: "HH:MM".
        now: With its zone, or naive and local.
    """
    hour, minute = int(at[:2]), int(at[3:])
    day = now.astimezone().replace(tzinfo=None)
    due = day.replace(hour=hour, minute=minute, second=0, microsecond=0)
    # Naive first, so that a day on which the clocks change is a day, not 24 hours.
    while due.astimezone() <= now.astimezone():
        due += timedelta(days=1)
    return due.astimezone()


@dataclass(slots=True)
class _Entry:
    settings: PullSettings
    source: Source
    due: datetime
    tries: int = 0


class ScheduledPulls:
    """Runs the pulls of the settings, one after the other.

    Args:
        pulls: The settings, each with its archive.
        database: Knows what was fetched.
        clock: The time, with its zone.
        look_s: Seconds between looks at the clock.
    """

    def __init__(
        self,
        pulls: Sequence[tuple[PullSettings, Source]],
        database: Database,
        clock: Callable[[], datetime] = lambda: datetime.now().astimezone(),
        look_s: float = _LOOK_S,
    ) -> None:
        for settings, _ in pulls:
            _query(settings)  # what cannot be asked is to be said at the start, not at night
        self._clock, self._database, self._look_s = clock, database, look_s
        self._entries = [_Entry(settings, source, next_time(settings.at, clock())) for settings, source in pulls]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulls", daemon=True)

    def start(self) -> None:
        """Wait for the first of them from now on."""
        if self._entries:
            self._thread.start()

    def stop(self) -> None:
        """End after the study in hand; a large one is broken off, and asked for again the next time."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(_STOP_S)

    def _run(self) -> None:
        while not self._stop.wait(self._look_s):
            for entry in self._entries:
                if self._clock() >= entry.due and not self._stop.is_set():
                    self._pull(entry)

    def _pull(self, entry: _Entry) -> None:
        name = entry.settings.source
        fields = {"event": "pull.failed", "peer": name}
        again_s: float | None = None
        try:
            self._fetch(entry)
        except TransientError as error:
            if entry.tries < len(RETRY_DELAYS_S):
                again_s = RETRY_DELAYS_S[entry.tries]
            log.error("%s; tried again %s", error, f"in {again_s:.0f} s" if again_s else "tomorrow", extra=fields)
        except MeddError as error:
            log.error("%s", error, extra=fields)
        except Exception:  # one pull that meets a bug must not end the others, nor the receiver
            log.exception("a pull failed", extra=fields)
        entry.tries = entry.tries + 1 if again_s else 0
        entry.due = (
            self._clock() + timedelta(seconds=again_s) if again_s else next_time(entry.settings.at, self._clock())
        )

    def _fetch(self, entry: _Entry) -> None:
        settings = entry.settings
        limits = Limits(settings.max_studies, settings.studies_per_min)
        pull = Pull(entry.source, self._database, _query(settings), limits, stop=self._stop)
        started = time.monotonic()
        counts: Counter[State] = Counter()
        images = 0
        for outcome in pull.run(pull.find()):
            counts[outcome.state] += 1
            images += outcome.images or 0
        log.info(
            "%d studies fetched with %d images, %d failed, %d known already, in %.0f s",
            counts[State.FETCHED],
            images,
            counts[State.FAILED],
            pull.known,
            time.monotonic() - started,
            extra={"event": "pull.ended", "peer": settings.source, "count": counts.total()},
        )


def _query(settings: PullSettings) -> Query:
    first, last = last_days(settings.days)
    return Query(first, last, settings.modalities)
