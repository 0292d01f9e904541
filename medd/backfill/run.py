"""One run of a backfill on this host: files go through the door, and a worker of its own scores what waits.

The worker is one like all others: it takes what comes in live before any of the backfill, and where a daemon runs on
the same database, its workers help. Whatever is stopped, killed or broken off leaves rows and jobs that the next run,
or the daemon, goes on with.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

from medd import pipeline
from medd.backfill.door import Door, State, Taken, build_intake, in_threads, patiently
from medd.backfill.jobs import count_left
from medd.backfill.journal import Journal
from medd.backfill.progress import Progress
from medd.backfill.source import Entry, Source
from medd.errors import TransientError
from medd.settings import Settings
from medd.store.database import Database

log = logging.getLogger(__name__)

#: So many images of a backfill wait to be scored at most: a queue that is no longer than it needs to be is soon empty
#: when a run is stopped.
WINDOW = 2000
#: Files after which the journal is written.
_NOTE_EVERY = 200
#: Seconds between looks at the queue.
_LOOK_S = 0.25


class Run:
    """What every backfill has: the figures, the queue that it looks at.

    Args:
        settings: The settings.

    Raises:
        MeddError: The database or the spool cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings, self.progress = settings, Progress()
        self.database: Database = pipeline.open_database(settings)
        self.spool = pipeline.open_spool(settings).id
        limit = settings.spool.max_waiting
        # What waits of a backfill must not be what images that come in live are refused for.
        self.window = min(WINDOW, max(1, limit // 2)) if limit else WINDOW
        #: Whether what is taken in is done only when the queue has no more of it.
        self.by_queue = True

    def close(self) -> None:
        """Close what is open."""
        self.look()
        self.database.close()

    def look(self) -> None:
        """Bring the figures up to date."""
        try:
            self.progress.left = count_left(self.database, self.spool) if self.by_queue else 0
        except TransientError as error:
            self.progress.waits = str(error)

    def tell(self, sentence: str) -> None:
        """Say why it waits."""
        if sentence != self.progress.waits:
            log.warning("backfill waits: %s", sentence, extra={"event": "backfill.waiting"})
        self.progress.waits = sentence


class FileRun(Run):
    """The backfill of an archive of files, with a journal of what was read.

    Args:
        settings: The settings.
        source: The archive.

    Raises:
        MeddError: As `Run`, or the journal cannot be written.
    """

    def __init__(self, settings: Settings, source: Source) -> None:
        super().__init__(settings)
        self.source = source
        self._journal = Journal(settings.home / "backfill.journal", source.name)

    def close(self) -> None:
        """Close the journal and the database."""
        self._journal.close()
        super().close()

    def count(self) -> None:
        """Count the archive's files, beside everything else."""

        def work() -> None:
            try:
                self.progress.total = sum(1 for _ in self.source.entries())
            except TransientError:
                return  # whoever takes them in meets it as well

        threading.Thread(target=work, name="counter", daemon=True).start()

    def wanted(self) -> Iterator[Entry]:
        """The files that have to be read; the others are counted.

        Raises:
            TransientError: The archive cannot be listed, or the database is away.
        """
        for entry, status in self._journal.sift(self.source.entries(), self.database):
            if status is None:
                yield entry
            else:
                self.progress.skip(status)

    def note(self, taken: list[Taken]) -> None:
        """Count files that were handed in, and keep what they held."""
        for one in taken:
            self.progress.add(one)
        self._journal.note((one.entry, one.sha256) for one in taken if one.state is not State.FAILED)


@contextmanager
def working(settings: Settings) -> Iterator[None]:
    """A worker in this process, for as long as the context lasts; it finishes what it has in hand.

    Raises:
        MeddError: The model, the database or a plugin cannot be used.
    """
    worker = pipeline.build_worker(settings, "backfill")
    thread = threading.Thread(target=worker.run, name="worker", daemon=True)
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join()


def drain(run: Run, most: int = 0) -> None:
    """Wait until no more than so many images are left to be scored.

    Raises:
        TransientError: The database is away for good.
    """
    while True:
        run.progress.left = patiently(lambda: count_left(run.database, run.spool), run.tell)
        if run.progress.left <= most:
            return
        threading.Event().wait(_LOOK_S)


def run_local(run: FileRun) -> None:
    """Take in and score an archive on this host.

    Raises:
        TransientError: The archive, the disk or the database is away for good; what was taken in stays.
    """
    intake = build_intake(run.settings, run.database)
    door = Door(run.source, intake)

    def take(entry: Entry) -> Taken:
        taken = patiently(lambda: door.take(entry), run.tell)
        run.progress.waits = ""
        return taken

    run.count()
    with working(run.settings):
        try:
            _in_portions(in_threads(take, run.wanted()), run)
        finally:
            intake.close()
        drain(run)


def _in_portions(taken: Iterator[Taken], run: FileRun) -> None:
    """Note what was taken in, and let the queue grow no longer than it may."""
    while portion := list(islice(taken, _NOTE_EVERY)):
        run.note(portion)
        drain(run, run.window)
