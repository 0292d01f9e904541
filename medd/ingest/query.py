"""What is asked of an archive and what it answers, by C-FIND (PS3.4 Annex C) or by QIDO-RS (PS3.18 section 10.6).

An answer is material from outside: what does not fit the question is left out, with one line in the log.
"""

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass, field
from datetime import date, timedelta

from medd.errors import PeerRefused, SettingsError

log = logging.getLogger(__name__)

#: Study Root attributes at the levels STUDY and SERIES (PS3.4 tables C.6-1 to C.6-3).
STUDY_KEYS = (
    "StudyInstanceUID StudyDate StudyTime ModalitiesInStudy PatientID AccessionNumber NumberOfStudyRelatedInstances"
).split()
SERIES_KEYS = ("StudyInstanceUID", "SeriesInstanceUID", "Modality", "NumberOfSeriesRelatedInstances")
#: An archive that says more to one question passes our conditions over, or never ends.
MAX_ANSWERS = 100_000


class StudyRefused(PeerRefused):
    """An archive does not give what it was asked for; of anything else that says nothing."""


def is_uid(text: str) -> bool:
    """Whether a text is a UID (PS3.5 section 9.1); leading zeros, which exist, are let pass."""
    return len(text) <= 64 and re.fullmatch(r"[0-9]+(\.[0-9]+)*", text) is not None


@dataclass(frozen=True, slots=True)
class Query:
    """Which studies are wanted. What is empty sets no condition.

    Raises:
        SettingsError: A value would match something else than itself, or cannot be what it should be.
    """

    first_day: date | None = None
    last_day: date | None = None
    #: Only series of these are fetched (PS3.3 section C.7.3.1.1.1).
    modalities: tuple[str, ...] = ("CR", "DX")
    patient_id: str = ""
    accession_number: str = ""
    study_instance_uid: str = ""

    def __post_init__(self) -> None:
        if not self.modalities:
            raise SettingsError("modality: one at least is needed")
        for modality in self.modalities:
            if not re.fullmatch(r"[A-Z0-9_]{1,16}", modality):
                raise SettingsError(f"modality: letters and digits expected, such as CR. Received: {modality!r}")
        # Not shown when refused: it may end in a log.
        _check_exact("patient", self.patient_id, 64)
        _check_exact("accession", self.accession_number, 16)
        if self.study_instance_uid and not is_uid(self.study_instance_uid):
            raise SettingsError(f"study: a Study Instance UID expected. Received: {self.study_instance_uid!r}")
        if self.first_day and self.last_day and self.first_day > self.last_day:
            raise SettingsError(f"date: the range ends before it begins. Received: {self.date_range}")

    @property
    def date_range(self) -> str:
        """As range matching writes it (PS3.4 section C.2.2.2.5), or one day, or ""."""
        first, last = (f"{day:%Y%m%d}" if day else "" for day in (self.first_day, self.last_day))
        return first if first == last else f"{first}-{last}"

    def asks_for(self, study: "FoundStudy") -> bool:
        """Whether a study is one of those that were asked for; what its answer leaves open speaks for it."""
        if self.study_instance_uid and study.study_instance_uid != self.study_instance_uid:
            return False
        # Who names a patient must never get another's images because an archive knows no matching on that key.
        if self.patient_id and study.patient_id != self.patient_id:
            return False
        if self.accession_number and study.accession_number != self.accession_number:
            return False
        first, last = (f"{day:%Y%m%d}" if day else "" for day in (self.first_day, self.last_day))
        return not study.study_date or (first or study.study_date) <= study.study_date <= (last or study.study_date)


def last_days(days: int, today: date | None = None) -> tuple[date, date]:
    """The first and the last of so many days, of which today is one."""
    today = today or date.today()
    try:
        return today - timedelta(days=days - 1), today
    except OverflowError as error:
        raise SettingsError(f"days: so many are not in the calendar. Received: {days}") from error


def parse_dates(text: str) -> tuple[date, date]:
    """A day "YYYYMMDD", or a range "YYYYMMDD-YYYYMMDD".

    Raises:
        SettingsError: It is neither.
    """
    try:
        if match := re.fullmatch(r"([0-9]{8})(?:-([0-9]{8}))?", text):
            first = _day(match[1])
            return first, _day(match[2]) if match[2] else first
    except ValueError:
        pass
    raise SettingsError(f"date: YYYYMMDD or YYYYMMDD-YYYYMMDD expected. Received: {text!r}")


def _day(text: str) -> date:
    return date(int(text[:4]), int(text[4:6]), int(text[6:]))


def _check_exact(name: str, value: str, longest: int) -> None:
    # PS3.4 section C.2.2.2.4: "*" and "?" are wildcards; "\" separates values, each of which would match.
    if value and (set(value) & set("*?\\") or not value.isascii() or not value.isprintable() or value != value.strip()):
        raise SettingsError(f"{name}: printable ASCII without *, ? and backslash expected")
    if len(value) > longest:
        raise SettingsError(f"{name}: {longest} characters at most. Received: {len(value)}")


@dataclass(frozen=True, slots=True)
class FoundStudy:
    """A study that an archive says it has."""

    study_instance_uid: str
    #: "YYYYMMDD", or "".
    study_date: str = ""
    study_time: str = ""
    #: Empty where the archive does not say.
    modalities: tuple[str, ...] = ()
    #: Never logged.
    patient_id: str = ""
    accession_number: str = ""
    #: Of all its series; None where the archive does not say.
    images: int | None = None


@dataclass(frozen=True, slots=True)
class FoundSeries:
    """A series that an archive says a study has."""

    series_instance_uid: str
    #: None where the archive does not say.
    images: int | None = None


@dataclass(slots=True)
class Tally:
    """What came of a study; filled while it comes, so that it is true also of a fetch that breaks off."""

    #: SOP Instance UIDs that are safe here.
    received: set[str] = field(default_factory=set)
    #: Images that the archive could not give, or that could not be taken.
    failed: int = 0
    #: What went wrong, free of patient data.
    problems: list[str] = field(default_factory=list)
    #: What lies here from before: Series Instance UID → SOP Instance UIDs.
    here: Mapping[str, set[str]] = field(default_factory=dict)
    #: Whether all that was wanted had come before.
    came_before: bool = False
    #: Images that the archive lists in the series that are wanted, as far as it says.
    listed: int = 0
    #: Series that did not lie here.
    asked: int = 0

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return not self.failed and not self.problems

    def begin(self, series: list[FoundSeries]) -> list[FoundSeries]:
        """Which of the wanted series are to be fetched; the images of the others lie here, and count as received."""
        missing = []
        for one in series:
            lie_here = self.here.get(one.series_instance_uid, set())
            self.listed += one.images or 0
            # Where the archive does not say how many there are, one that came with all the others stands for all.
            if lie_here and (len(lie_here) >= one.images if one.images else self.came_before):
                self.received |= lie_here
            else:
                missing.append(one)
        self.asked += len(missing)
        return missing

    def compare(self, series: FoundSeries, given: int) -> None:
        """Hold the images that an archive gave, or said it could not give, against what it lists."""
        if given < (series.images or 0):
            self.problems.append(f"{given} images came of {series.images} that the archive lists")


class Source(ABC):
    """An archive that is asked for images.

    Attributes:
        name: As the settings call it.
    """

    name: str

    @abstractmethod
    def find(self, query: Query) -> list[FoundStudy]:
        """The studies that the archive has of what is asked for.

        Raises:
            TransientError: It is away or busy.
            PeerRefused: It does not answer such a question, or not us.
        """

    @abstractmethod
    def find_series(self, study_instance_uid: str, modalities: tuple[str, ...]) -> list[FoundSeries]:
        """The series of a study that are of these modalities. Raises as `find`."""

    @abstractmethod
    def fetch(self, study_instance_uid: str, modalities: tuple[str, ...], tally: Tally) -> bool:
        """Fetch what `tally.begin` leaves of those series; all that is counted in `tally.received` is safe on disk.

        Returns:
            False where the study has no such series.

        Raises:
            TransientError: The archive, or our disk or database, is away. What came is kept.
            StudyRefused: It does not tell what this study holds.
            PeerRefused: It gives us nothing, whatever we ask for.
        """


def check_number(answers: Sized, source: str) -> None:
    """Give an archive up that does not come to an end; as it comes, so that its answers never fill the memory.

    Raises:
        PeerRefused: There are more answers than `MAX_ANSWERS`.
    """
    if len(answers) > MAX_ANSWERS:
        raise PeerRefused(f"{source}: more than {MAX_ANSWERS} answers to one question; ask for fewer days")


def read_studies(answers: Iterable[Mapping[str, str]], query: Query, source: str) -> list[FoundStudy]:
    """Studies from an archive's answers, each once; what was not asked for, or names no study, is left out.

    Args:
        answers: Values by keyword; of several values, with backslashes between them.
        query: What was asked for.
        source: Whose answers they are, for the log.
    """
    found: dict[str, FoundStudy] = {}
    strange = 0
    for answer in answers:
        uid = answer.get("StudyInstanceUID", "")
        day = answer.get("StudyDate", "")
        study = FoundStudy(
            uid,
            day if re.fullmatch(r"[0-9]{8}", day) else "",
            answer.get("StudyTime", ""),
            tuple(filter(None, (word.strip() for word in answer.get("ModalitiesInStudy", "").split("\\")))),
            answer.get("PatientID", ""),
            answer.get("AccessionNumber", ""),
            _count(answer.get("NumberOfStudyRelatedInstances", "")),
        )
        if not is_uid(uid) or not query.asks_for(study):
            strange += 1
        elif not study.modalities or set(study.modalities) & set(query.modalities):
            found.setdefault(uid, study)
    _warn(source, strange)
    return list(found.values())


def read_series(
    answers: Iterable[Mapping[str, str]], study_instance_uid: str, modalities: tuple[str, ...], source: str
) -> list[FoundSeries]:
    """Series of these modalities from an archive's answers, each once; those of other studies are left out."""
    found: dict[str, FoundSeries] = {}
    strange = 0
    for answer in answers:
        uid = answer.get("SeriesInstanceUID", "")
        # Some archives do not repeat the UID that they were asked by.
        if not is_uid(uid) or answer.get("StudyInstanceUID", "") not in ("", study_instance_uid):
            strange += 1
        elif answer.get("Modality", "") in modalities:
            found.setdefault(uid, FoundSeries(uid, _count(answer.get("NumberOfSeriesRelatedInstances", ""))))
    _warn(source, strange)
    return list(found.values())


def _warn(source: str, strange: int) -> None:
    if strange:
        fields = {"event": "pull.strange", "peer": source, "count": strange}
        log.warning("answers that name no study or series, or one nobody asked for, are left out", extra=fields)


def _count(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None
