"""An archive's files through the one door: bytes safe, then the row and a job behind all others."""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import TypeVar

from medd import pipeline
from medd.backfill.jobs import BACKFILL_PRIORITY
from medd.backfill.source import Entry, Source
from medd.errors import InputError, TransientError
from medd.ingest.intake import Intake
from medd.records import Status
from medd.settings import Settings
from medd.store.database import Database
from medd.store.outbox import Outbox

#: Threads that read files and share commits.
THREADS = 8
#: Seconds before each further try of what may pass: a database that restarts, a disk that is being cleared.
RETRY_DELAYS_S = (1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0)

T = TypeVar("T")


class State(StrEnum):
    """What became of a file at the door."""

    #: Its image is to be scored, or is being.
    QUEUED = "queued"
    #: It was here already, and was judged.
    KNOWN = "known"
    #: It is nothing a model may judge, or cannot be read as an image; its row says why.
    NOT_ASSESSED = "not assessed"
    #: It could not be read at all.
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Taken:
    """One file that was handed in."""

    entry: Entry
    state: State
    instance_id: int = 0
    sha256: str = ""
    #: Why it failed.
    detail: str = ""


def build_intake(settings: Settings, database: Database) -> Intake:
    """The one door, for history: what is refused is on record, and told to no destination."""
    manager = pipeline.load_plugins(settings)
    spool, limit = pipeline.open_spool(settings), settings.spool.max_waiting
    return Intake(database, spool, manager, Outbox(), limit, BACKFILL_PRIORITY)


def patiently(ask: Callable[[], T], tell: Callable[[str], None] = lambda _sentence: None) -> T:
    """Try again what may pass.

    Args:
        ask: What to do.
        tell: Told why it waits.

    Raises:
        TransientError: It has not passed for more than two minutes.
    """
    for delay_s in RETRY_DELAYS_S:
        try:
            return ask()
        except TransientError as error:
            tell(str(error))
            time.sleep(delay_s)
    return ask()


class Door:
    """Takes the files of an archive in. Safe to use from many threads at once.

    Args:
        source: The archive.
        intake: From `build_intake`.
    """

    def __init__(self, source: Source, intake: Intake) -> None:
        self._source, self._intake = source, intake

    def take(self, entry: Entry) -> Taken:
        """Take one file in; the same bytes again are the image that is here.

        Raises:
            TransientError: The spool or the database failed.
        """
        try:
            with self._source.open(entry.key) as path:
                receipt = self._intake.receive_file(path, self._source.origin(entry.key))
        except (InputError, OSError) as error:
            cause = getattr(error, "strerror", None) or str(error)
            return Taken(entry, State.FAILED, detail=f"{entry.key}: cannot be taken in. Received: {cause}")
        judged = State.NOT_ASSESSED if receipt.new else State.KNOWN
        state = State.QUEUED if receipt.status is Status.PENDING else judged
        return Taken(entry, state, receipt.instance_id, receipt.sha256)


def in_threads(work: Callable[[Entry], T], entries: Iterable[Entry], threads: int = THREADS) -> Iterator[T]:
    """What `work` returns for each entry, as it comes; few more are begun than there are threads.

    Raises:
        TransientError: As `work`; what was begun is finished first.
    """
    remaining = iter(entries)
    with ThreadPoolExecutor(threads, thread_name_prefix="backfill") as pool:
        begun: set[Future[T]] = set()
        while True:
            begun |= {pool.submit(work, entry) for entry in islice(remaining, 2 * threads - len(begun))}
            if not begun:
                return
            done, begun = wait(begun, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
