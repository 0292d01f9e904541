"""What the operations page, the metrics and the health tell of: asked of the database, and remembered for a while.

However many people and programs look, each question is asked once in so many seconds.
"""

import os
import platform
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import sqlalchemy as sa
from fastapi import Request

from medd import __version__
from medd.learn.drift import compare
from medd.queue.base import CLASSIFY
from medd.records import ModelVersion
from medd.registry import bundle as bundles
from medd.store import activity
from medd.store.activity import Bucket, Latency, Outgoing, Step, Waiting
from medd.store.database import SCHEMA
from medd.store.devices import find_sightings
from medd.store.models import find_models
from medd.store.processes import Process, find_processes
from medd_web.context import Context, get_context

T = TypeVar("T")

#: How far back the rates of each step go.
SPANS = {Step.MINUTE: timedelta(hours=1), Step.HOUR: timedelta(hours=48), Step.DAY: timedelta(days=30)}
#: How long rates of each step are remembered, seconds: a month of a busy house takes a moment to count.
_KEPT_S = {Step.MINUTE: 2.0, Step.HOUR: 10.0, Step.DAY: 120.0}
#: What is older than this does not change any more, and is not deleted earlier.
SETTLED = timedelta(days=1)
#: Over so long latency is measured.
LATENCY_SPAN = timedelta(hours=1)


class Remembered(Generic[T]):
    """An answer that is made when it is asked for, and given again for some seconds; who asks meanwhile waits."""

    def __init__(self, make: Callable[[], T], seconds: float) -> None:
        self._make, self._seconds = make, seconds
        self._lock = threading.Lock()
        self._until = 0.0
        self._made: T | None = None

    def get(self) -> T:
        """The answer; raises what making it raises, and then remembers nothing new."""
        with self._lock:
            if self._made is None or time.monotonic() >= self._until:
                self._made = self._make()
                self._until = time.monotonic() + self._seconds
            return self._made

    def forget(self) -> None:
        """Make it anew the next time: something was changed."""
        self._until = 0.0


class Counts:
    """How often what happened since we began to look: numbers that never fall, as Prometheus wants its counters.

    Rows may go, by retention, and change: what failed is scored after all. So what is older than a day is counted for
    good, and each time only the rest is.

    Args:
        ask: Counts what happened between two moments.
    """

    def __init__(self, ask: Callable[[datetime, datetime], Counter[tuple[str, ...]]]) -> None:
        self._ask, self._lock = ask, threading.Lock()
        self._since = datetime.now(UTC)
        self._settled: Counter[tuple[str, ...]] = Counter()
        self._told: Counter[tuple[str, ...]] = Counter()

    def get(self, now: datetime | None = None) -> dict[tuple[str, ...], int]:
        """The numbers by now; raises what asking raises."""
        now = now or datetime.now(UTC)
        with self._lock:
            if now - self._since > 2 * SETTLED:
                until = now - SETTLED
                self._settled.update(self._ask(self._since, until))
                self._since = until
            # To the second after this one, as clocks differ; what comes late is counted the next time.
            found = Counter(self._settled)
            found.update(self._ask(self._since, now + timedelta(seconds=1)))
            for key, count in found.items():
                self._told[key] = max(self._told[key], count)
            return dict(self._told)


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system that medd writes to."""

    #: "spool", "home" or "database".
    name: str
    free: int
    total: int

    @property
    def share_free(self) -> float:
        """In [0, 1]."""
        return self.free / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True)
class Now:
    """How it stands."""

    at: datetime
    queue: Waiting
    outgoing: list[Outgoing]
    scoring: Latency | None
    delivery: Latency | None
    processes: list[Process]
    disks: list[Disk]
    #: Bytes received in the last 24 hours.
    bytes_a_day: int
    #: Why images of the last 24 hours were not judged: status → reason → how many.
    reasons: dict[str, dict[str, int]]

    @property
    def days_left(self) -> float | None:
        """For how many days the spool's disk lasts if each is like the last; None where nothing came."""
        spool = next((disk for disk in self.disks if disk.name == "spool"), None)
        return spool.free / self.bytes_a_day if spool and self.bytes_a_day else None


class Watch:
    """The questions, each with its memory."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.now = Remembered(self._now, 2.0)
        self.counts = Counts(self._ask_counts)
        self.models = Remembered(self._models, 2.0)
        self._rates = {step: Remembered(partial(self._make_rates, step), _KEPT_S[step]) for step in Step}
        self._drift: dict[tuple[str, str, int], Remembered[list[dict[str, object]]]] = {}
        self._lock = threading.Lock()

    @property
    def destinations(self) -> list[str]:
        """Those of the settings."""
        return [table.label for table in self._context.settings.destination]

    def rates(self, step: Step) -> list[Bucket]:
        """What happened in each minute, hour or day of the last while."""
        return self._rates[step].get()

    def drift(self, model: ModelVersion, days: int) -> list[dict[str, object]]:
        """What `medd drift` shows of a model; empty where its bundle has no reference.

        Raises:
            ModelUnusable: The bundle cannot be read.
            TransientError: The database is away.
        """
        key = (model.ref, model.digest, days)
        with self._lock:
            if key not in self._drift:
                if len(self._drift) > 20:
                    self._drift.clear()
                # A month of a busy house is a million rows that are gone through one by one.
                self._drift[key] = Remembered(partial(self._make_drift, model, days), 600.0)
            remembered = self._drift[key]
        return remembered.get()

    def _make_drift(self, model: ModelVersion, days: int) -> list[dict[str, object]]:
        reference = bundles.read(model.path, verify=False).reference
        if reference is None:
            return []
        with self._context.database.read() as connection:
            seen = find_sightings(connection, model.ref, datetime.now(UTC) - timedelta(days=days))
            return list(compare(seen, reference))

    def _models(self) -> list[ModelVersion]:
        with self._context.database.read() as connection:
            return find_models(connection)

    def _make_rates(self, step: Step) -> list[Bucket]:
        now, models = datetime.now(UTC), [model.ref for model in self.models.get()]
        since = now - SPANS[step] + step.length
        with self._context.database.read() as connection:
            return activity.find_rates(connection, step, since, now, models=models, destinations=self.destinations)

    def _ask_counts(self, since: datetime, until: datetime) -> Counter[tuple[str, ...]]:
        models = [model.ref for model in self.models.get()]
        with self._context.database.read() as connection:
            return activity.find_counts(connection, since, until, models=models, destinations=self.destinations)

    def _now(self) -> Now:
        now = datetime.now(UTC)
        day, while_ago = now - timedelta(days=1), now - LATENCY_SPAN
        processes = find_processes(self._context.database)
        with self._context.database.read() as connection:
            return Now(
                now,
                activity.find_queue(connection, CLASSIFY, now),
                activity.find_outgoing(connection, self.destinations, now, day),
                activity.find_scoring_latency(connection, while_ago),
                activity.find_delivery_latency(connection, self.destinations, while_ago),
                processes,
                self.disks(),
                activity.count_bytes(connection, day),
                activity.find_reasons(connection, day),
            )

    def disks(self) -> list[Disk]:
        """The file systems that medd writes to, each once."""
        settings = self._context.settings
        folders: dict[str, Path] = {"spool": settings.under_home(settings.spool.path), "home": settings.home}
        if self._context.database.file is not None:
            folders["database"] = self._context.database.file.parent
        found: dict[int, Disk] = {}
        for name, folder in folders.items():
            usage = shutil.disk_usage(folder)
            found.setdefault(os.stat(folder).st_dev, Disk(name, usage.free, usage.total))  # noqa: PTH116 - as above
        return list(found.values())

    def versions(self) -> dict[str, str]:
        """What runs here."""
        database = self._context.database
        statement = "SELECT sqlite_version()" if database.is_sqlite else "SHOW server_version"
        with database.read() as connection:
            server = connection.scalar(sa.text(statement))
        kind = "SQLite" if database.is_sqlite else "PostgreSQL"
        return {"medd": __version__, "schema": SCHEMA, "Python": platform.python_version(), kind: str(server)}


_made = threading.Lock()


def get_watch(request: Request) -> Watch:
    """The one of this application; also as a dependency."""
    state = request.app.state
    with _made:
        if not hasattr(state, "watch"):
            state.watch = Watch(get_context(request))
    watch: Watch = state.watch
    return watch
