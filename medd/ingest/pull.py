"""Images fetched from an archive: so many, so fast, each study once, and continued where the last run stopped.

What was fetched stands in the table `pulled`. A run that is killed has written nothing of the study it was at, and the
next asks for that study again: series of which all lies here are left out, and the door takes the same bytes for the
same image.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TypeVar

from medd.dicom import peers
from medd.errors import MeddError, PeerRefused, SettingsError, TransientError
from medd.ingest.intake import Intake
from medd.ingest.query import FoundStudy, Query, Source, StudyRefused, Tally
from medd.settings import Settings
from medd.store import pulled
from medd.store.database import Database
from medd.store.pulled import Earlier

log = logging.getLogger(__name__)

#: Seconds before each further try of what may pass.
RETRY_DELAYS_S = (1.0, 4.0)
#: So many studies that could not be fetched one after the other end a run: the archive is away, not the study broken.
MAX_FAILURES_IN_A_ROW = 3

T = TypeVar("T")


class State(StrEnum):
    """What became of a study."""

    #: Listed only.
    WANTED = "wanted"
    FETCHED = "fetched"
    #: Not all of it came; it is asked for again next time.
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a run may ask of an archive."""

    #: Studies in one run; 0 sets no limit.
    studies: int = 0
    #: Studies a minute; 0 sets no limit.
    studies_per_min: float = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one study."""

    study: FoundStudy
    state: State
    #: Images that are safe here.
    images: int | None = None
    #: Images that the archive could not give, or that could not be taken.
    failed: int | None = None
    error: str = ""


#: The columns of `as_row`.
COLUMNS = (
    "study_instance_uid study_date study_time modalities patient_id accession_number state images failed error"
).split()


def as_row(outcome: Outcome) -> dict[str, object]:
    """An outcome as the command line shows it."""
    study = outcome.study
    images = study.images if outcome.state is State.WANTED else outcome.images
    return {
        "study_instance_uid": study.study_instance_uid,
        "study_date": study.study_date,
        "study_time": study.study_time,
        "modalities": "\\".join(study.modalities),
        "patient_id": study.patient_id,
        "accession_number": study.accession_number,
        "state": str(outcome.state),
        "images": images,
        "failed": outcome.failed,
        "error": outcome.error or None,
    }


def open_source(settings: Settings, name: str, intake: Intake, database: Database) -> Source:
    """The archive of this name: a ``[[peer]]``, a ``[[destination]]`` of type "pacs", or a ``[[dicomweb]]``.

    Raises:
        SettingsError: There is none, or how to reach it is wrong.
    """
    known = peers.known_peers(settings)
    servers = {server.name: server for server in settings.dicomweb}
    if name in known and name in servers:
        raise SettingsError(f"a peer and a dicomweb server have the same name. Received: {name!r}")
    if name in servers:
        from medd.ingest.dicomweb import DicomWebServer

        return DicomWebServer(servers[name], settings.home, intake, settings.listener.max_object_mib << 20)
    if name not in known:
        names = ", ".join((*known, *servers)) or "none; name one in a table [[peer]] or [[dicomweb]]"
        raise SettingsError(f"no archive of this name; known are: {names}. Received: {name!r}")
    from medd.ingest.retrieve import DicomPeer

    peer = known[name]
    return DicomPeer(peer, settings.listener, peers.tls_context(peer, settings.home), intake, database)


class Pull:
    """One run.

    Args:
        source: Whom to ask.
        database: Knows what was fetched.
        query: What to ask for.
        limits: How much.
        again: Whether what was fetched completely is fetched once more.
        stop: Ends the run after the study in hand.

    Attributes:
        known: Studies that were found and had been fetched before; complete when the run, or its preview, has ended.
    """

    def __init__(
        self,
        source: Source,
        database: Database,
        query: Query,
        limits: Limits | None = None,
        *,
        again: bool = False,
        stop: threading.Event | None = None,
    ) -> None:
        self._source, self._database, self._query = source, database, query
        self._limits, self._again = limits or Limits(), again
        self._stop = stop or threading.Event()
        self.known = 0

    def find(self) -> list[FoundStudy]:
        """The studies that are still to be fetched, without regard to the limits.

        The newest come first, and behind all others those that failed before, the longest ago first: a study that can
        never be fetched keeps no other from its turn. Those that were fetched are among them where the archive says
        that they have grown, or does not say.

        Raises:
            TransientError: The archive, or the database, is away.
            PeerRefused: The archive does not answer such a question, or not us.
        """
        found = self._patiently(lambda: self._source.find(self._query))
        earlier = self._find_earlier(found)
        wanted = [study for study in found if not self._is_known(study, earlier[study.study_instance_uid])]
        self.known = len(found) - len(wanted)
        wanted.sort(key=lambda study: (study.study_date, study.study_time, study.study_instance_uid), reverse=True)
        wanted.sort(key=lambda study: _failed_at(earlier[study.study_instance_uid]))
        return wanted

    def preview(self, studies: list[FoundStudy]) -> Iterator[Outcome]:
        """What `run` would fetch, fetching nothing. Raises as `find`."""
        listed = 0
        for study in studies:
            if self._limits.studies and listed >= self._limits.studies:
                return
            tally = self._tally(study)
            # Where the archive does not say what a study holds, or whether it has grown, its series do.
            if (tally.came_before or not study.modalities) and not self._is_missing(study, tally):
                self.known += tally.came_before
            else:
                listed += 1
                yield Outcome(study, State.WANTED)

    def run(self, studies: list[FoundStudy]) -> Iterator[Outcome]:
        """Fetch, and record what came.

        Raises:
            TransientError: The archive, or our disk or database, is away.
            PeerRefused: The archive gives us nothing, whatever we ask for.
        """
        fetched = failures = 0
        next_start = 0.0
        for study in studies:
            if self._limits.studies and fetched >= self._limits.studies:
                return
            if self._stop.wait(max(0.0, next_start - time.monotonic())):
                return
            if self._limits.studies_per_min:
                next_start = time.monotonic() + min(60 / self._limits.studies_per_min, 86_400)
            if self._is_known(study, self._find_earlier([study])[study.study_instance_uid]):
                continue  # another run was faster
            tally, failure = self._fetch(study)
            if tally is None:
                next_start = 0.0
                continue  # none of its series is wanted: it stays unknown, as one may be added
            problems = [*tally.problems, *([str(failure)] if failure else [])]
            outcome = Outcome(
                study,
                State.FAILED if tally.failed or problems else State.FETCHED,
                len(tally.received),
                tally.failed,
                "; ".join(dict.fromkeys(problems)) or ("images are missing" if tally.failed else ""),
            )
            self._record(outcome, tally)
            if tally.came_before and not tally.asked and outcome.state is State.FETCHED:
                self.known += 1  # nothing that is wanted has been added
                next_start = 0.0
                continue
            fetched += 1
            yield outcome
            failures = failures + 1 if failure else 0
            if failure and (isinstance(failure, PeerRefused) or failures >= MAX_FAILURES_IN_A_ROW):
                raise failure

    def _fetch(self, study: FoundStudy) -> tuple[Tally | None, MeddError | None]:
        """One study: what came, None where none of its series is wanted; and what broke it off."""
        tally = Tally()

        def attempt() -> bool:
            nonlocal tally
            tally = self._tally(study)
            return self._source.fetch(study.study_instance_uid, self._query.modalities, tally)

        try:
            return (tally if self._patiently(attempt) else None), None
        except StudyRefused as error:
            tally.problems.append(str(error))
            return tally, None
        except (TransientError, PeerRefused) as error:
            return tally, error

    def _tally(self, study: FoundStudy) -> Tally:
        """An empty one, which knows what lies here of the study."""
        if self._again:
            return Tally()
        came_before = any(self._covers(one) for one in self._find_earlier([study])[study.study_instance_uid])
        with self._database.read() as connection:
            return Tally(here=pulled.find_images(connection, study.study_instance_uid), came_before=came_before)

    def _is_missing(self, study: FoundStudy, tally: Tally) -> bool:
        uid, modalities = study.study_instance_uid, self._query.modalities
        try:
            return bool(tally.begin(self._patiently(lambda: self._source.find_series(uid, modalities))))
        except StudyRefused:
            return True  # a run would ask for it, and say so

    def _patiently(self, ask: Callable[[], T]) -> T:
        for delay_s in RETRY_DELAYS_S:
            try:
                return ask()
            except TransientError as error:
                if self._stop.wait(delay_s):
                    raise
                fields = {"event": "pull.retry", "peer": self._source.name}
                log.warning("tried again: %s", error, extra=fields)
        return ask()

    def _find_earlier(self, studies: list[FoundStudy]) -> dict[str, list[Earlier]]:
        uids = [study.study_instance_uid for study in studies]
        with self._database.read() as connection:
            found = pulled.find_earlier(connection, self._source.name, uids)
        return {uid: found.get(uid, []) for uid in uids}

    def _covers(self, earlier: Earlier) -> bool:
        return earlier.complete and earlier.modalities.issuperset(self._query.modalities)

    def _is_known(self, study: FoundStudy, earlier: list[Earlier]) -> bool:
        """Whether all that is wanted of a study came before, and the archive says that nothing was added since."""
        if self._again or study.images is None:
            return False
        return any(self._covers(one) and study.images <= one.listed for one in earlier)

    def _record(self, outcome: Outcome, tally: Tally) -> None:
        with self._database.write() as connection:
            pulled.record(
                connection,
                self._source.name,
                outcome.study.study_instance_uid,
                self._query.modalities,
                images=outcome.images or 0,
                failed=outcome.failed or 0,
                listed=tally.listed if outcome.study.images is None else outcome.study.images,
                complete=outcome.state is State.FETCHED,
                error=outcome.error,
            )


def _failed_at(earlier: list[Earlier]) -> datetime:
    """When a study failed last; the beginning of time where it never did."""
    return max((one.at for one in earlier if not one.complete), default=datetime.min.replace(tzinfo=UTC))
