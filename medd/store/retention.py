"""Retention: what is done with is deleted by age and size, `medd purge` and ``[retention]``.

A study goes as a whole. None goes that waits, runs, failed or is undelivered, that a reader has annotated, or of which
a storage commitment was given or asked for.

The row first, the file after::

    1  rows of `purged` say of which images the bytes are to go             committed
    2  each file is deleted while its row of `purged` is held, then `gone`  committed
    3  much later: all rows of the study, once each of its images is gone   committed

So there is never a row without its file but one that says so. Killed between 1 and 2, the next run deletes the file.
The same image sent again meanwhile takes its row of `purged` back and looks whether its file is there
(`medd.store.inserts`): holding that row, nobody else can delete it.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from medd.errors import TransientError
from medd.records import AuditOutcome
from medd.settings import RetentionSettings
from medd.store.audit import Event, add_event
from medd.store.database import Database
from medd.store.expiry import AT_ONCE, Expiry
from medd.store.spool import Spool
from medd.store.tables import commitment, delivery, instance, job, purged, report, sent, study

log = logging.getLogger(__name__)

#: What came in for so long is not deleted for want of room: late images and reports may still need it.
YOUNG = timedelta(days=1)
#: Seconds between two transactions of the daemon's runs, and for one to end at a stop.
_PAUSE_S, _STOP_S = 0.1, 10.0

i = instance.c


@dataclass(frozen=True, slots=True)
class Rules:
    """What is to go; None keeps it for ever."""

    #: The images of studies whose last image is older.
    images: timedelta | None = None
    #: The images of the oldest studies, until no more than so much is left, bytes.
    spool_bytes: int | None = None
    #: All that is known of studies whose last image is older.
    results: timedelta | None = None

    @classmethod
    def of(cls, settings: RetentionSettings) -> "Rules":
        """Those of the settings."""
        return cls(
            timedelta(days=settings.days) if settings.days else None,
            settings.max_spool_mib << 20 if settings.max_spool_mib else None,
            timedelta(days=settings.results_days) if settings.results_days else None,
        )


@dataclass(slots=True)
class Outcome:
    """What a run deleted, or would delete."""

    #: Images whose bytes go, in so many studies.
    studies: int = 0
    images: int = 0
    bytes: int = 0
    #: Studies of which everything goes, and old transactions of storage commitment.
    results: int = 0
    commitments: int = 0
    #: Studies that are old enough and stay all the same: why → how many.
    kept: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        """For people."""
        told = f"{self.images} images ({self.bytes / (1 << 20):.1f} MiB) of {self.studies} studies"
        told += f", all of {self.results} studies, {self.commitments} storage commitments"
        kept = ", ".join(f"{count} {why}" for why, count in sorted(self.kept.items()))
        return told + (f"; kept: {kept}" if kept else "")


class Retention:
    """Deletes what is done with.

    Args:
        database: Where the rows are.
        spool: Where the bytes are; what lies in another host's is left to that host.
        pause: Called between two transactions, so that others get on; it returns True to end the run.
    """

    def __init__(self, database: Database, spool: Spool, pause: Callable[[], bool] = lambda: False) -> None:
        self._database, self._spool, self._pause = database, spool, pause
        self._here = spool.id

    def run(self, rules: Rules, *, account: str = "medd", dry_run: bool = False) -> Outcome:
        """Delete by the rules; the audit trail says that it was done.

        Args:
            rules: What is to go.
            account: Who wants it.
            dry_run: Only count.

        Raises:
            TransientError: The database is away, or the spool cannot be written. Run again, it goes on.
        """
        now, outcome = datetime.now(UTC), Outcome()
        expiry = Expiry(self._database, self._spool)
        if not dry_run:
            self._unlink()  # what a run that was killed had decided
        ages = [age for age in (rules.images, rules.results) if age is not None]
        if ages:
            self._delete_images(expiry, now - min(ages), None, outcome, dry_run=dry_run)
        if rules.spool_bytes is not None:
            # Of a dry run nothing has gone yet.
            surplus = self._stored(expiry) - rules.spool_bytes - (outcome.bytes if dry_run else 0)
            self._delete_images(expiry, now - YOUNG, surplus, outcome, dry_run=dry_run)
        if rules.results is not None:
            self._delete_results(expiry, now - rules.results, outcome, dry_run=dry_run)
        if ages:
            self._delete_commitments(now - min(ages), outcome, dry_run=dry_run)
        if not dry_run and (outcome.images or outcome.results or outcome.commitments):
            log.info("deleted %s", outcome, extra={"event": "retention.deleted", "count": outcome.images})
            with self._database.write() as connection:
                add_event(connection, Event(account, "purged", AuditOutcome.SUCCESS, detail=str(outcome)))
        return outcome

    # -- images --------------------------------------------------------------------------------------------------------

    def _delete_images(
        self, expiry: Expiry, before: datetime, surplus: int | None, outcome: Outcome, *, dry_run: bool
    ) -> None:
        """Delete the bytes of studies from before a moment; with `surplus`, of the oldest until so much is freed."""
        stays = ~sa.exists().where(purged.c.instance_id == i.id)
        for keys in expiry.walk(stays, before):
            if surplus is not None and surplus <= 0:
                return
            with self._portion(dry_run=dry_run) as connection:
                going: dict[int, int] = {}
                judged = expiry.judge(connection, keys, before, dry_run=dry_run)
                outcome.kept.update(one.why for one in judged.values() if one.why)
                for one in judged.values():
                    if one.why or not one.here or (surplus is not None and surplus <= 0):
                        continue
                    size = sum(one.here.values())
                    surplus = None if surplus is None else surplus - size
                    going |= one.here
                    outcome.studies, outcome.bytes = outcome.studies + 1, outcome.bytes + size
                    outcome.images += len(one.here)
                if going and not dry_run:
                    row = {"at": datetime.now(UTC), "spool": self._here, "gone": False}
                    # Hosts that share the spool may come to the same at the same time.
                    insert = (sqlite if self._database.is_sqlite else postgresql).insert(purged)
                    rows = [row | {"instance_id": id_} for id_ in sorted(going)]
                    connection.execute(insert.on_conflict_do_nothing(index_elements=["instance_id"]), rows)
            if not dry_run:
                self._unlink()
            if self._pause():
                return

    def _unlink(self) -> None:
        p = purged.c
        going = sa.select(p.instance_id, i.sha256, i.media_type).join_from(purged, instance)
        going = going.where(p.spool == self._here, ~p.gone).limit(AT_ONCE).with_for_update(of=purged)
        while True:
            with self._database.write() as connection:
                found = connection.execute(going).all()
                try:
                    for row in found:
                        self._spool.delete(self._spool.path(row.sha256, row.media_type))
                except OSError as error:
                    raise TransientError(f"spool: {error.strerror}") from error
                ids = [row.instance_id for row in found]
                connection.execute(purged.update().where(p.instance_id.in_(ids)).values(gone=True))
            if not found:
                return

    def _stored(self, expiry: Expiry) -> int:
        """What the images in this spool take, bytes, without those that may as well lie in another."""
        nobodys = job.c.spool.is_(None) if expiry.is_alone else sa.false()
        ours = sa.or_(nobodys, job.c.spool.in_(("", self._here)))
        stays = ~sa.exists().where(purged.c.instance_id == i.id)
        total = sa.select(sa.func.sum(i.size)).join_from(instance, job, isouter=True).where(ours, stays)
        with self._database.read() as connection:
            return int(connection.scalar(total) or 0)

    # -- results -------------------------------------------------------------------------------------------------------

    def _delete_results(self, expiry: Expiry, before: datetime, outcome: Outcome, *, dry_run: bool) -> None:
        """Delete all rows of studies from before a moment, of which no bytes are left."""
        # A dry run has left them where they are.
        none = sa.true() if dry_run else sa.exists().where((purged.c.instance_id == i.id) & purged.c.gone)
        for keys in expiry.walk(none, before):
            with self._portion(dry_run=dry_run) as connection:
                judged = expiry.judge(connection, keys, before, dry_run=dry_run)
                going = {
                    key: one
                    for key, one in judged.items()
                    if not one.why and len(one.images) == one.gone + (len(one.here) if dry_run else 0)
                }
                if going and not dry_run:
                    held = self._hold_gone(connection, {id_ for one in going.values() for id_ in one.images})
                    going = {key: one for key, one in going.items() if one.images <= held}
                outcome.results += len(going)
                if going and not dry_run:
                    for table in (delivery, report, sent, study):
                        connection.execute(table.delete().where(table.c.study.in_(going)))
                    ids = [id_ for one in going.values() for id_ in one.images]
                    connection.execute(instance.delete().where(i.id.in_(ids)))
            if self._pause():
                return

    @staticmethod
    def _hold_gone(connection: Connection, ids: Collection[int]) -> set[int]:
        """Which of these images have no bytes now, and get none until the transaction ends.

        One that is just being sent again has its rows held by its receiver, and is left out: nobody waits for another.
        """
        held = sa.select(i.id).join_from(instance, purged).where(i.id.in_(ids), purged.c.gone)
        return set(connection.scalars(held.with_for_update(of=(instance, purged), skip_locked=True)))

    def _delete_commitments(self, before: datetime, outcome: Outcome, *, dry_run: bool) -> None:
        """Delete old transactions that nothing hangs on: our own questions, and answers that were never heard."""
        c = commitment.c
        over = sa.or_((c.direction == "asked") & (c.state != "waiting"), c.state == "dead")
        old = over & (c.created_at < before)
        with self._portion(dry_run=dry_run) as connection:
            if dry_run:
                outcome.commitments = connection.scalar(sa.select(sa.func.count()).where(old)) or 0
            else:
                outcome.commitments = connection.execute(commitment.delete().where(old)).rowcount

    def _portion(self, *, dry_run: bool) -> AbstractContextManager[Connection]:
        return self._database.read() if dry_run else self._database.write()


class Rounds:
    """Runs retention every hour, in a thread of its own.

    Args:
        database: Where the rows are.
        spool: Where the bytes are.
        rules: What is to go.
        first_s: Seconds until the first run, when everything else has started.
        every_s: Seconds between two runs.
    """

    def __init__(
        self, database: Database, spool: Spool, rules: Rules, first_s: float = 60, every_s: float = 3600
    ) -> None:
        self._retention = Retention(database, spool, lambda: self._stop.wait(_PAUSE_S))
        self._rules, self._first_s, self._every_s = rules, first_s, every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="retention", daemon=True)

    def start(self) -> None:
        """Run from now on, where there is anything to do."""
        if self._rules != Rules():
            self._thread.start()

    def stop(self) -> None:
        """End after the transaction in hand."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(_STOP_S)

    def _run(self) -> None:
        wait_s = self._first_s
        while not self._stop.wait(wait_s):
            wait_s = self._every_s
            try:
                self._retention.run(self._rules)
            except TransientError as error:
                log.warning("waiting: %s", error, extra={"event": "retention.waiting"})
            except Exception:  # a bug met here must not end the receiver
                log.exception("retention failed", extra={"event": "retention.failed"})
