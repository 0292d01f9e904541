"""What is asked of an archive, what its answers are worth, and what a run makes of them."""

import errno
import http.server
import itertools
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import AE, _config, build_context, evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.dimse_primitives import C_GET, C_MOVE
from pynetdicom.pdu import A_ASSOCIATE_AC
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification

from medd.dicom.peers import find_peer, known_peers
from medd.errors import InputError, PeerRefused, SettingsError, TransientError
from medd.ingest import admission, multipart, retrieve, schedule
from medd.ingest import pull as pulling
from medd.ingest import query as querying
from medd.ingest.dicomweb import DicomWebServer
from medd.ingest.intake import Intake
from medd.ingest.pull import Limits, Outcome, Pull, State, open_source
from medd.ingest.query import (
    FoundSeries,
    FoundStudy,
    Query,
    Source,
    StudyRefused,
    Tally,
    last_days,
    parse_dates,
    read_studies,
)
from medd.ingest.retrieve import STORAGE_CLASSES, TRANSFER_SYNTAXES, DicomPeer
from medd.ingest.schedule import ScheduledPulls, next_time
from medd.plugins import load_plugins
from medd.settings import (
    DestinationSettings,
    DicomWebSettings,
    ListenerSettings,
    PeerSettings,
    PullSettings,
    Settings,
)
from medd.store import pulled
from medd.store.database import Database
from medd.store.spool import Spool
from medd.store.tables import instance
from medd.store.tables import pulled as pulled_table
from medd.testing import dicom_radiograph
from tests.peers import dataset_bytes
from tests.schema import open_new
from tests.support import free_port


class Home:
    """A door on SQLite, and what came through it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = open_new(folder / "medd.db")
        self.spool = Spool(folder / "spool")
        self.spool.prepare()
        self.intake = Intake(self.database, self.spool, load_plugins(builtin=(admission,)))

    def received(self) -> dict[str, str]:
        """SOP Instance UID → origin."""
        with self.database.read() as connection:
            rows = connection.execute(sa.select(instance.c.sop_instance_uid, instance.c.origin))
            return {uid: origin for uid, origin in rows}  # noqa: C416 - rows are no pairs to mypy

    def pulled(self) -> list[Any]:
        with self.database.read() as connection:
            return list(connection.execute(sa.select(pulled_table).order_by(pulled_table.c.study_instance_uid)))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    opened = Home(tmp_path)
    yield opened
    opened.intake.close()
    opened.database.close()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulling, "RETRY_DELAYS_S", (0.01, 0.01))


# The question ---------------------------------------------------------------------------------------------------------


def test_a_day_and_a_range_of_days_are_understood() -> None:
    assert parse_dates("20260228") == (date(2026, 2, 28), date(2026, 2, 28))
    assert parse_dates("20260101-20260131") == (date(2026, 1, 1), date(2026, 1, 31))
    assert last_days(2, date(2026, 3, 1)) == (date(2026, 2, 28), date(2026, 3, 1))
    assert Query(*parse_dates("20260101-20260131")).date_range == "20260101-20260131"
    assert Query(*parse_dates("20260101")).date_range == "20260101"
    assert Query().date_range == ""


@pytest.mark.parametrize("text", ["2026", "20260230", "20260101-", "-20260101", "20260101*", "2026010１", ""])
def test_what_is_no_date_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="YYYYMMDD"):
        parse_dates(text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"patient_id": "*"},
        {"patient_id": "P?1"},
        {"patient_id": "P1\\P2"},
        {"patient_id": "P1\n"},
        {"patient_id": "P" * 65},
        {"patient_id": " P1"},
        {"accession_number": "A*"},
        {"accession_number": "A" * 17},
        {"study_instance_uid": "1.2.3\\1.2.4"},
        {"study_instance_uid": "1.2.*"},
        {"study_instance_uid": "../../etc"},
        {"study_instance_uid": "1." * 33 + "1"},
        {"modalities": ("CR*",)},
        {"modalities": ("CR\\CT",)},
        {"modalities": ("cr",)},
        {"modalities": ()},
        {"first_day": date(2026, 2, 1), "last_day": date(2026, 1, 1)},
    ],
)
def test_a_value_that_would_match_more_than_itself_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        Query(**wrong)


def test_a_refused_patient_id_is_not_repeated() -> None:
    with pytest.raises(SettingsError) as caught:
        Query(patient_id="SECRET*")
    assert "SECRET" not in str(caught.value)


def test_answers_that_were_not_asked_for_are_left_out_with_one_line(caplog: pytest.LogCaptureFixture) -> None:
    query = Query(date(2026, 1, 1), date(2026, 1, 31), patient_id="P1")
    good = {"StudyInstanceUID": "1.2.3", "StudyDate": "20260115", "PatientID": "P1", "ModalitiesInStudy": "CT\\DX"}
    answers: list[dict[str, str]] = [
        good,
        good,
        {},
        good | {"StudyInstanceUID": "../evil"},
        good | {"StudyInstanceUID": "1.2.4", "PatientID": "SECRET"},
        good | {"StudyInstanceUID": "1.2.5", "StudyDate": "20250115"},
        good | {"StudyInstanceUID": "1.2.6", "ModalitiesInStudy": "CT\\SR"},
        good | {"StudyInstanceUID": "1.2.7", "StudyDate": "yesterday", "ModalitiesInStudy": ""},
    ]
    found = read_studies(answers, query, "archive")
    assert [study.study_instance_uid for study in found] == ["1.2.3", "1.2.7"]
    assert found[0].modalities == ("CT", "DX")
    assert len(caplog.records) == 1
    assert caplog.records[0].count == 4  # type: ignore[attr-defined]
    assert "SECRET" not in caplog.text


# The run --------------------------------------------------------------------------------------------------------------


class Shelf(Source):
    """An archive in memory: Study Instance UID → number of images, or what is raised, one after the other."""

    name = "shelf"

    def __init__(self, **studies: Any) -> None:
        self.studies = {f"1.{name.removeprefix('s')}": what for name, what in studies.items()}
        #: What it says that each study has; None where it does not.
        self.counts: dict[str, int | None] = {}
        self.asked: list[str] = []
        self.find_errors: list[Exception] = []

    def find(self, query: Query) -> list[FoundStudy]:
        if self.find_errors:
            raise self.find_errors.pop(0)
        return [FoundStudy(uid, study_date=f"2026010{uid[-1]}", images=self.counts.get(uid, 1)) for uid in self.studies]

    def find_series(self, study_instance_uid: str, modalities: tuple[str, ...]) -> list[FoundSeries]:
        return [FoundSeries(f"{study_instance_uid}.9")] if self.studies[study_instance_uid] is not None else []

    def fetch(self, study_instance_uid: str, modalities: tuple[str, ...], tally: Tally) -> bool:
        self.asked.append(study_instance_uid)
        tally.begin(self.find_series(study_instance_uid, modalities))
        what = self.studies[study_instance_uid]
        if isinstance(what, list):
            what = what.pop(0) if len(what) > 1 else what[0]
        if isinstance(what, Exception):
            tally.received.add("1.2.3")
            raise what
        if what is None:
            return False
        tally.received |= {f"{study_instance_uid}.{number}" for number in range(abs(what))}
        tally.failed = 1 if what < 0 else 0
        return True


def run(home: Home, shelf: Source, **options: Any) -> list[Outcome]:
    one = Pull(shelf, home.database, Query(), **options)
    return list(one.run(one.find()))


def test_each_study_is_fetched_once_and_the_newest_first(home: Home) -> None:
    shelf = Shelf(s1=2, s3=1, s2=1)
    outcomes = run(home, shelf)
    assert [(one.study.study_instance_uid, one.images, one.state) for one in outcomes] == [
        ("1.3", 1, State.FETCHED),
        ("1.2", 1, State.FETCHED),
        ("1.1", 2, State.FETCHED),
    ]
    again = Pull(shelf, home.database, Query())
    assert again.find() == []
    assert again.known == 3
    assert len(run(home, shelf, again=True)) == 3


def test_a_study_of_which_not_all_came_is_asked_for_again(home: Home) -> None:
    shelf = Shelf(s1=-2)
    [outcome] = run(home, shelf)
    assert (outcome.state, outcome.images, outcome.failed) == (State.FAILED, 2, 1)
    [row] = home.pulled()
    assert (row.complete, row.images, row.failed, row.error) == (False, 2, 1, "images are missing")
    shelf.studies["1.1"] = 3
    [outcome] = run(home, shelf)
    assert outcome.state is State.FETCHED
    [row] = home.pulled()
    assert (row.complete, row.images, row.failed, row.error) == (True, 3, 0, None)


def test_what_may_pass_is_tried_again_at_once(home: Home) -> None:
    shelf = Shelf(s1=[TransientError("away"), 1])
    shelf.find_errors = [TransientError("away"), TransientError("away")]
    [outcome] = run(home, shelf)
    assert outcome.state is State.FETCHED
    assert shelf.asked == ["1.1", "1.1"]


def test_an_archive_that_stays_away_ends_the_run_after_three_studies(home: Home) -> None:
    shelf = Shelf(s1=1, s2=TransientError("away"), s3=TransientError("away"), s4=TransientError("away"), s5=1)
    seen = []
    one = Pull(shelf, home.database, Query())
    with pytest.raises(TransientError, match="away"):
        seen.extend(one.run(one.find()))
    rows = {row.study_instance_uid: (row.complete, row.images, row.error) for row in home.pulled()}
    away = (False, 1, "away")
    assert rows == {"1.5": (True, 1, None), "1.4": away, "1.3": away, "1.2": away}


def test_an_archive_that_refuses_us_is_not_asked_for_the_next_study(home: Home) -> None:
    shelf = Shelf(s1=1, s2=PeerRefused("no"))
    one = Pull(shelf, home.database, Query())
    with pytest.raises(PeerRefused):
        list(one.run(one.find()))
    assert shelf.asked == ["1.2"]


def test_the_limit_counts_what_is_fetched_and_the_next_run_goes_on_behind_it(home: Home) -> None:
    shelf = Shelf(s1=1, s2=1, s3=None, s4=1)
    assert [one.study.study_instance_uid for one in run(home, shelf, limits=Limits(2))] == ["1.4", "1.2"]
    assert [one.study.study_instance_uid for one in run(home, shelf, limits=Limits(2))] == ["1.1"]
    # Nothing of it was wanted today; that may change.
    assert "1.3" not in {row.study_instance_uid for row in home.pulled()}


def test_a_preview_lists_what_a_run_would_fetch(home: Home) -> None:
    shelf = Shelf(s1=1, s2=1, s3=None, s4=1)
    one = Pull(shelf, home.database, Query(), Limits(2))
    assert [seen.study.study_instance_uid for seen in one.preview(one.find())] == ["1.4", "1.2"]
    assert shelf.asked == []
    assert home.pulled() == []


def test_the_rate_is_kept(home: Home) -> None:
    started = time.monotonic()
    run(home, Shelf(s1=1, s2=1, s3=1), limits=Limits(0, 60 / 0.2))
    assert 0.4 <= time.monotonic() - started < 3


def test_a_run_that_is_stopped_ends_after_the_study_in_hand(home: Home) -> None:
    stop = threading.Event()
    one = Pull(Shelf(s1=1, s2=1, s3=1), home.database, Query(), Limits(0, 1), stop=stop)
    outcomes = one.run(one.find())
    assert next(outcomes).study.study_instance_uid == "1.3"
    stop.set()
    assert list(outcomes) == []


def test_rows_of_pulled_studies_hold_on_both_databases(database: Database) -> None:
    uids = [f"1.{number}" for number in range(1200)]
    with database.write() as connection:
        for uid in uids[:3]:
            record(connection, "a", uid, images=1, failed=0, listed=1, complete=uid != "1.2", error="")
        record(connection, "a", "1.1", images=2, failed=1, listed=3, complete=False, error="later")
        pulled.record(connection, "a", "1.1", ("CT",), images=9, failed=0, listed=9, complete=True, error="")
        record(connection, "b", "1.5", images=1, failed=0, listed=1, complete=True, error="")
    with database.read() as connection:
        found = pulled.find_earlier(connection, "a", uids)
        assert {uid: [(sorted(one.modalities), one.listed, one.complete) for one in found[uid]] for uid in found} == {
            "1.0": [(["CR", "DX"], 1, True)],
            "1.1": [(["CR", "DX"], 3, False), (["CT"], 9, True)],
            "1.2": [(["CR", "DX"], 1, False)],
        }
        assert pulled.find_images(connection, "1.1") == {}


def record(connection: Any, source: str, study: str, **values: Any) -> None:
    pulled.record(connection, source, study, ("DX", "CR"), **values)


def hold(home: Home, study: str, series: str, *images: str) -> None:
    """Images that came in before, by whatever way."""
    rows = [
        {
            "sha256": image.rjust(64, "0"),
            "size": 1,
            "media_type": "application/dicom",
            "origin": "test",
            "received_at": datetime.now(UTC),
            "status": "pending",
            "sop_instance_uid": image,
            "series_instance_uid": series,
            "study_instance_uid": study,
        }
        for image in images
    ]
    with home.database.write() as connection:
        connection.execute(sa.insert(instance), rows)


def test_a_study_that_has_grown_is_fetched_again_and_one_that_has_not_is_known(home: Home) -> None:
    shelf = Shelf(s1=1, s2=1)
    run(home, shelf)
    shelf.studies["1.1"], shelf.counts["1.1"] = 3, 3
    [outcome] = run(home, shelf)
    assert (outcome.study.study_instance_uid, outcome.images) == ("1.1", 3)
    assert [row.listed for row in home.pulled()] == [3, 1]
    assert run(home, shelf) == []
    shelf.counts["1.1"] = 2  # something was deleted there
    assert run(home, shelf) == []


def test_what_was_fetched_of_one_modality_is_not_known_of_another(home: Home) -> None:
    shelf = Shelf(s1=1)
    queries = {name: Query(modalities=tuple(name.split())) for name in ("DX", "CR", "CR DX", "DX CR")}

    def fetched(name: str) -> int:
        one = Pull(shelf, home.database, queries[name])
        return len(list(one.run(one.find())))

    # Two nightly pulls for one modality each do not undo what the other did.
    assert [fetched(name) for name in ("DX", "CR", "DX", "CR")] == [1, 1, 0, 0]
    # Both together are another question; who asked it knows the answer to each.
    assert [fetched(name) for name in ("CR DX", "DX CR", "DX")] == [1, 0, 0]


def test_a_study_that_grew_by_what_is_not_wanted_is_asked_for_its_series_only(home: Home) -> None:
    shelf = Shelf(s1=1)
    run(home, shelf)
    hold(home, "1.1", "1.1.9", "1.1.0")
    shelf.counts["1.1"] = 5  # a report of ours, a CT
    seen = Pull(shelf, home.database, Query())
    assert list(seen.preview(seen.find())) == []
    assert seen.known == 1
    again = Pull(shelf, home.database, Query())
    assert list(again.run(again.find())) == []
    assert again.known == 1
    asked = len(shelf.asked)
    assert run(home, shelf) == []
    assert len(shelf.asked) == asked


def test_where_an_archive_tells_no_number_its_series_are_looked_at(home: Home) -> None:
    shelf = Shelf(s1=1)
    shelf.counts["1.1"] = None
    [outcome] = run(home, shelf)
    hold(home, "1.1", "1.1.9", "1.1.0")
    assert outcome.state is State.FETCHED
    again = Pull(shelf, home.database, Query())
    assert list(again.run(again.find())) == []
    assert again.known == 1
    assert len(run(home, shelf, again=True)) == 1


def test_series_that_lie_here_are_not_fetched_again() -> None:
    here = {"1.1": {"a", "b"}, "1.2": {"c"}, "1.3": {"d"}}
    series = [
        FoundSeries("1.1", 2),
        FoundSeries("1.2", 2),
        FoundSeries("1.3"),
        FoundSeries("1.4"),
        FoundSeries("1.5", 0),
    ]
    tally = Tally(here=here)
    assert [one.series_instance_uid for one in tally.begin(series)] == ["1.2", "1.3", "1.4", "1.5"]
    assert (tally.received, tally.listed, tally.asked) == ({"a", "b"}, 4, 4)
    tally = Tally(here=here, came_before=True)
    assert [one.series_instance_uid for one in tally.begin(series)] == ["1.2", "1.4", "1.5"]
    assert len(Tally().begin(series)) == 5


def test_a_study_that_is_refused_keeps_no_other_from_being_fetched(home: Home) -> None:
    shelf = Shelf(s1=1, s2=StudyRefused("not for you"), s3=1)
    outcomes = run(home, shelf)
    assert [(one.state, one.error) for one in outcomes] == [
        (State.FETCHED, ""),
        (State.FAILED, "not for you"),
        (State.FETCHED, ""),
    ]


def test_studies_that_break_every_association_keep_the_others_waiting_once_only(home: Home) -> None:
    away = TransientError("away")
    shelf = Shelf(s1=1, s2=1, s3=away, s4=away, s5=away)
    with pytest.raises(TransientError):
        run(home, shelf)
    assert set(shelf.asked) == {"1.5", "1.4", "1.3"}
    one = Pull(shelf, home.database, Query())
    found = [study.study_instance_uid for study in one.find()]
    assert found == ["1.2", "1.1", "1.5", "1.4", "1.3"]
    assert [seen.state for seen in run(home, shelf, limits=Limits(2))] == [State.FETCHED] * 2
    # Of those that failed, the one that has waited longest goes first.
    run(home, shelf, limits=Limits(1))
    one = Pull(shelf, home.database, Query())
    assert [study.study_instance_uid for study in one.find()] == ["1.4", "1.3", "1.5"]


# Names ----------------------------------------------------------------------------------------------------------------


def known(home: Home) -> Settings:
    pacs = {"type": "pacs", "host": "10.0.0.2", "port": 11112, "ae_title": "PACS", "send": ["sr"]}
    return Settings(
        home=home.folder,
        peer=(PeerSettings(name="archive", host="10.0.0.1", ae_title="ARCHIVE", retrieve="move"),),
        destination=(
            DestinationSettings(name="main", **pacs),
            DestinationSettings(name="archive", **pacs),
            DestinationSettings(type="folder", path="out"),
        ),
        dicomweb=(DicomWebSettings(name="web", url="http://127.0.0.1:1/dicom-web"),),
    )


def test_archives_are_peers_pacs_destinations_and_dicomweb_servers(home: Home) -> None:
    settings = known(home)
    assert {name: peer.ae_title for name, peer in known_peers(settings).items()} == {
        "archive": "ARCHIVE",
        "main": "PACS",
    }
    assert isinstance(open_source(settings, "main", home.intake, home.database), DicomPeer)
    assert isinstance(open_source(settings, "web", home.intake, home.database), DicomWebServer)
    with pytest.raises(SettingsError, match="archive, main, web"):
        open_source(settings, "nowhere", home.intake, home.database)
    with pytest.raises(SettingsError, match="archive, main"):
        find_peer(settings, "web")


def test_a_destination_that_is_no_address_is_named() -> None:
    settings = Settings(destination=(DestinationSettings(type="pacs", name="main", host="x", ae_title="A\\B"),))
    with pytest.raises(SettingsError, match="'main': ae_title"):
        known_peers(settings)


# DIMSE, against an archive that says what it is told to ---------------------------------------------------------------


class Archive:
    """A Query/Retrieve SCP of pynetdicom; `find`, `get` and `move` may be replaced."""

    def __init__(self, *films: Dataset) -> None:
        self.films = list(films)
        self.port = free_port()
        self.find: Callable[[Any], Any] = self.answer
        self.get: Callable[[Any], Any] = self.give
        self.move: Callable[[Any], Any] = lambda event: iter([(None, None)])
        self.questions: list[Dataset] = []
        entity = AE("ARCHIVE")
        entity.add_supported_context(retrieve._FIND)
        entity.add_supported_context(retrieve._GET)
        entity.add_supported_context(retrieve._MOVE)
        for name in STORAGE_CLASSES:
            entity.add_supported_context(name, list(TRANSFER_SYNTAXES), scu_role=True, scp_role=True)
        handlers = [
            (evt.EVT_C_FIND, lambda event: self.find(event)),
            (evt.EVT_C_GET, lambda event: self.get(event)),
            (evt.EVT_C_MOVE, lambda event: self.move(event)),
        ]
        self.server = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)  # type: ignore[arg-type]

    def answer(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        self.questions.append(event.identifier)
        series = event.identifier.QueryRetrieveLevel == "SERIES"
        wanted = event.identifier.get("ModalitiesInStudy")
        for film in self.films:
            if series and film.StudyInstanceUID != event.identifier.StudyInstanceUID:
                continue
            if wanted and film.Modality != wanted:
                continue
            answer = Dataset()
            answer.QueryRetrieveLevel = event.identifier.QueryRetrieveLevel
            answer.StudyInstanceUID = film.StudyInstanceUID
            if series:
                answer.SeriesInstanceUID, answer.Modality = film.SeriesInstanceUID, film.Modality
                answer.NumberOfSeriesRelatedInstances = 1
            else:
                answer.StudyDate, answer.PatientID = film.StudyDate, film.PatientID
                answer.ModalitiesInStudy = film.Modality
            yield 0xFF00, answer

    def give(self, event: Any) -> Iterator[Any]:
        films = [film for film in self.films if film.SeriesInstanceUID == event.identifier.SeriesInstanceUID]
        yield len(films)
        for film in films:
            yield 0xFF00, film

    def stop(self) -> None:
        self.server.shutdown()


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    monkeypatch.setattr(_config, "LOG_RESPONSE_IDENTIFIERS", False)
    started = Archive(dicom_radiograph(1, size=64), dicom_radiograph(2, size=64, modality="CR"))
    yield started
    started.stop()


def peer_of(archive: Archive, home: Home, how: str = "get", timeout_s: float = 10, **listener: Any) -> DicomPeer:
    peer = PeerSettings(
        name="archive", host="127.0.0.1", port=archive.port, ae_title="ARCHIVE", timeout_s=timeout_s, retrieve=how
    )
    return DicomPeer(peer, ListenerSettings(**listener), None, home.intake, home.database)


def test_what_a_get_brings_lies_in_the_spool_as_it_was_sent(archive: Archive, home: Home, tmp_path: Path) -> None:
    outcomes = run(home, peer_of(archive, home))
    assert [(one.state, one.images, one.failed, one.error) for one in outcomes] == [(State.FETCHED, 1, 0, "")] * 2
    assert home.received() == {str(film.SOPInstanceUID): "dicom://ARCHIVE@127.0.0.1" for film in archive.films}
    sent = set()
    for number, film in enumerate(archive.films):
        film.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
        sent.add(dataset_bytes(tmp_path / f"{number}.dcm"))
    assert {dataset_bytes(file) for file in (home.folder / "spool").glob("??/*.dcm")} == sent


def test_a_peer_that_knows_no_modalities_in_study_is_asked_once(archive: Archive, home: Home) -> None:
    def find(event: Any) -> Iterator[tuple[int, Dataset | None]]:
        wanted = event.identifier.pop("ModalitiesInStudy", None)
        for status, answer in archive.answer(event):
            assert answer is not None
            if wanted is not None:
                del answer.ModalitiesInStudy
            yield status, answer

    archive.find = find
    assert len(peer_of(archive, home).find(Query())) == 2
    assert len(archive.questions) == 1


def test_a_peer_that_refuses_the_key_is_asked_without_it(archive: Archive, home: Home) -> None:
    def find(event: Any) -> Iterator[tuple[int, Dataset | None]]:
        if event.identifier.get("ModalitiesInStudy"):
            yield 0xA900, None
        else:
            yield from archive.answer(event)

    archive.find = find
    assert len(peer_of(archive, home).find(Query())) == 2


@pytest.mark.parametrize(
    ("status", "error"), [(0xA700, TransientError), (0xC001, TransientError), (0x0122, PeerRefused)]
)
def test_a_question_that_fails_is_an_error(archive: Archive, home: Home, status: int, error: type[Exception]) -> None:
    archive.find = lambda event: iter([(status, None)])
    with pytest.raises(error, match=f"C-FIND answered with {status:#06x}"):
        peer_of(archive, home).find(Query())


def test_garbage_among_the_answers_costs_one_line(
    archive: Archive, home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    def find(event: Any) -> Iterator[tuple[int, Dataset | None]]:
        odd = Dataset()
        odd.PatientID = "SECRET"
        yield 0xFF00, odd
        odd.add_new(0x0020000D, "LO", "not a uid")
        yield 0xFF00, odd
        yield from archive.answer(event)

    archive.find = find
    assert len(peer_of(archive, home).find(Query(modalities=("DX",)))) == 1
    assert len(caplog.records) == 1
    assert "SECRET" not in caplog.text


def test_series_of_other_studies_and_modalities_are_not_fetched(archive: Archive, home: Home) -> None:
    film = archive.films[0]

    def find(event: Any) -> Iterator[tuple[int, Dataset | None]]:
        for modality, study, series in (
            ("DX", film.StudyInstanceUID, film.SeriesInstanceUID),
            ("CT", film.StudyInstanceUID, "1.2.3"),
            ("DX", "1.2.9", "1.2.4"),
            ("DX", film.StudyInstanceUID, "*"),
        ):
            answer = Dataset()
            answer.StudyInstanceUID, answer.Modality = study, modality
            answer.add_new(0x0020000E, "LO", series)
            yield 0xFF00, answer

    archive.find = find
    found = peer_of(archive, home).find_series(film.StudyInstanceUID, ("DX",))
    assert [one.series_instance_uid for one in found] == [film.SeriesInstanceUID]


def test_an_image_that_nobody_asked_for_is_not_taken(archive: Archive, home: Home) -> None:
    wanted, other = archive.films

    def get(event: Any) -> Iterator[Any]:
        yield 2
        yield 0xFF00, wanted
        yield 0xFF00, other

    archive.get = get
    tally = Tally()
    assert peer_of(archive, home).fetch(wanted.StudyInstanceUID, ("DX",), tally)
    assert (tally.received, tally.failed) == ({str(wanted.SOPInstanceUID)}, 1)
    assert set(home.received()) == {str(wanted.SOPInstanceUID)}


def test_images_that_the_peer_cannot_give_are_counted(archive: Archive, home: Home) -> None:
    film = archive.films[0]
    strange = dicom_radiograph(5, size=64)
    strange.SOPClassUID = strange.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"  # no context for it

    def get(event: Any) -> Iterator[Any]:
        yield 2
        yield 0xFF00, film
        yield 0xFF00, strange

    archive.get = get
    tally = Tally()
    peer_of(archive, home).fetch(film.StudyInstanceUID, ("DX",), tally)
    assert (len(tally.received), tally.failed, tally.complete) == (1, 1, False)


def test_a_peer_that_says_it_sent_what_never_came_is_not_believed(archive: Archive, home: Home) -> None:
    archive.get = lambda event: iter([0])
    tally = Tally()
    peer_of(archive, home).fetch(archive.films[0].StudyInstanceUID, ("DX",), tally)
    assert not tally.complete


def bare_final(archive: Archive, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """Let the archive end every C-GET and C-MOVE with a status and without the optional counts."""
    encode = DIMSEMessage.primitive_to_message

    def without_counts(self: Any, primitive: Any) -> None:
        if isinstance(primitive, C_GET | C_MOVE) and primitive.Status not in (None, 0xFF00):
            primitive.Status = status
            for name in ("Remaining", "Completed", "Failed", "Warning"):
                setattr(primitive, f"NumberOf{name}Suboperations", None)
        encode(self, primitive)

    monkeypatch.setattr(DIMSEMessage, "primitive_to_message", without_counts)


def list_images(archive: Archive, count: int) -> None:
    """Let the archive say that every series has so many images."""

    def find(event: Any) -> Iterator[tuple[int, Dataset | None]]:
        for status, answer in archive.answer(event):
            if answer is not None and "NumberOfSeriesRelatedInstances" in answer:
                answer.NumberOfSeriesRelatedInstances = count
            yield status, answer

    archive.find = find


@pytest.mark.parametrize("status", [0xB000, 0x0000])
@pytest.mark.parametrize("how", ["get", "move"])
def test_fewer_images_than_listed_are_not_all_whatever_the_final_status(
    archive: Archive, home: Home, monkeypatch: pytest.MonkeyPatch, status: int, how: str
) -> None:
    film = archive.films[0]
    list_images(archive, 5)
    bare_final(archive, monkeypatch, status)

    def move(event: Any) -> Iterator[Any]:
        hold(home, film.StudyInstanceUID, film.SeriesInstanceUID, film.SOPInstanceUID)
        yield None, None

    archive.move = move
    tally = Tally()
    assert peer_of(archive, home, how).fetch(film.StudyInstanceUID, ("DX",), tally)
    assert tally.received == {str(film.SOPInstanceUID)}
    assert "1 images came of 5 that the archive lists" in tally.problems
    assert (f"C-{how.upper()} answered with 0xb000" in tally.problems) == (status == 0xB000)


def test_a_warning_is_a_problem_also_where_no_number_is_listed(
    archive: Archive, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_images(archive, 0)
    bare_final(archive, monkeypatch, 0xB000)
    tally = Tally()
    peer_of(archive, home).fetch(archive.films[0].StudyInstanceUID, ("DX",), tally)
    assert not tally.complete


def test_an_image_that_cannot_be_handled_or_has_no_context_is_counted(
    archive: Archive, home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    list_images(archive, 0)
    bare_final(archive, monkeypatch, 0x0000)

    def bug(*_: Any) -> Any:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(home.intake, "read_header", bug)
        tally = Tally()
        peer_of(archive, home).fetch(archive.films[0].StudyInstanceUID, ("DX",), tally)
    assert (tally.received, tally.failed) == (set(), 1)
    assert "ZeroDivisionError" in caplog.text

    def none(*_: Any, **__: Any) -> Any:
        raise ValueError

    take = Association._c_store_scp

    def without_context(self: Any, request: Any) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(self, "_get_valid_context", none)
            take(self, request)

    monkeypatch.setattr(Association, "_c_store_scp", without_context)
    tally = Tally()
    peer_of(archive, home).fetch(archive.films[0].StudyInstanceUID, ("DX",), tally)
    assert (tally.received, tally.failed) == (set(), 1)


@pytest.mark.parametrize("how", ["get", "move"])
@pytest.mark.parametrize("status", [0x0110, 0xA900, 0xA702, 0xC000, 0xFE00])
def test_a_status_about_one_study_is_a_problem_of_that_study(
    archive: Archive, home: Home, monkeypatch: pytest.MonkeyPatch, how: str, status: int
) -> None:
    bare_final(archive, monkeypatch, status)
    archive.move = lambda event: iter([(None, None)])
    outcomes = run(home, peer_of(archive, home, how))
    assert [one.state for one in outcomes] == [State.FAILED] * 2
    assert all(f"answered with {status:#06x}" in one.error for one in outcomes)


@pytest.mark.parametrize("how", ["get", "move"])
@pytest.mark.parametrize("status", [0x0122, 0x0124, 0xA801])
def test_a_status_about_us_ends_the_run(
    archive: Archive, home: Home, monkeypatch: pytest.MonkeyPatch, how: str, status: int
) -> None:
    bare_final(archive, monkeypatch, status)
    one = Pull(peer_of(archive, home, how), home.database, Query())
    with pytest.raises(PeerRefused, match=f"{status:#06x}"):
        list(one.run(one.find()))
    assert len(home.pulled()) == 1


def test_a_study_whose_series_are_not_told_is_a_problem_of_that_study(archive: Archive, home: Home) -> None:
    odd = archive.films[0].StudyInstanceUID

    def find(event: Any) -> Iterator[tuple[int, Dataset | None]]:
        if event.identifier.QueryRetrieveLevel == "SERIES" and event.identifier.StudyInstanceUID == odd:
            yield 0xA900, None
        else:
            yield from archive.answer(event)

    archive.find = find
    outcomes = run(home, peer_of(archive, home))
    assert {one.state for one in outcomes} == {State.FAILED, State.FETCHED}
    assert [one.error for one in outcomes if one.error] == ["archive: C-FIND answered with 0xa900"]


# What is aborted in the middle of its answers leaves pynetdicom's thread with a socket that it forgets to close.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_peer_that_never_ends_its_answers_is_given_up(
    archive: Archive, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(querying, "MAX_ANSWERS", 50)
    told = 0

    def find(event: Any) -> Iterator[tuple[int, Dataset | None]]:
        nonlocal told
        while event.assoc.is_established and told < 100_000:
            told += 1
            answer = Dataset()
            answer.StudyInstanceUID = f"1.2.{told}"
            yield 0xFF00, answer

    archive.find = find
    with pytest.raises(PeerRefused, match="more than 50 answers"):
        peer_of(archive, home).find(Query())
    assert told < 100_000


def test_an_object_over_the_limit_is_not_held_whole(
    archive: Archive, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.films[0] = dicom_radiograph(1, size=2048)
    held: list[int] = []
    take = retrieve._Taker.take

    def watched(self: Any, event: Any) -> int:
        held.append(event.request.DataSet.getbuffer().nbytes)
        return take(self, event)

    monkeypatch.setattr(retrieve._Taker, "take", watched)
    tally = Tally()
    peer_of(archive, home, max_object_mib=1).fetch(archive.films[0].StudyInstanceUID, ("DX",), tally)
    assert (tally.received, tally.failed) == (set(), 1)
    assert 1 << 20 < held[0] <= 2 << 20
    assert len(archive.films[0].PixelData) > held[0]


def test_an_image_that_takes_longer_than_the_time_out_is_taken_while_bytes_flow(
    archive: Archive, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.films[0] = dicom_radiograph(1, size=256)
    encode = DIMSEMessage.encode_msg

    def slowly(self: Any, context_id: int, max_pdu_length: int) -> Iterator[Any]:
        slow = isinstance(self, C_STORE_RQ)
        for piece in encode(self, context_id, 32_768 if slow else max_pdu_length):
            if slow:
                time.sleep(0.3)
            yield piece

    monkeypatch.setattr(DIMSEMessage, "encode_msg", slowly)
    tally = Tally()
    peer_of(archive, home, timeout_s=0.8).fetch(archive.films[0].StudyInstanceUID, ("DX",), tally)
    assert (len(tally.received), tally.problems) == (1, [])


def test_a_peer_that_falls_silent_within_a_pdu_is_an_error_that_may_pass(home: Home) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    release = threading.Event()

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(accept_first_context())
            connection.recv(65_536)
            connection.sendall(b"\x04\x00\x00\x01\x00\x00" + b"\x00" * 100)  # 100 bytes of 65,536
            release.wait(20)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    settings = PeerSettings(
        name="archive", host="127.0.0.1", port=server.getsockname()[1], ae_title="ARCHIVE", timeout_s=0.5
    )
    started = time.monotonic()
    try:
        with pytest.raises(TransientError):
            DicomPeer(settings, ListenerSettings(), None, home.intake, home.database).find(Query())
        assert time.monotonic() - started < 10
    finally:
        release.set()
        thread.join(10)
        server.close()


def accept_first_context() -> bytes:
    """An A-ASSOCIATE-AC for the first presentation context."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = UID("1.2.840.10008.3.1.1.1")
    primitive.calling_ae_title, primitive.called_ae_title = "MEDD", "ARCHIVE"
    primitive.result, primitive.result_source, primitive.diagnostic = 0, 1, 1
    context = build_context(retrieve._FIND, "1.2.840.10008.1.2")
    context.context_id, context.result = 1, 0
    primitive.presentation_context_definition_results_list = [context]
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received = 16_384
    implementation.implementation_class_uid = UID("1.2.3")
    primitive.user_information = [length, implementation]
    answer = A_ASSOCIATE_AC()
    answer.from_primitive(primitive)
    return bytes(answer.encode())


def test_a_full_disk_is_answered_out_of_resources_and_ends_the_fetch(
    archive: Archive, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[int] = []
    take = retrieve._Taker.take

    def watched(self: Any, event: Any) -> int:
        answers.append(take(self, event))
        return answers[-1]

    def full(*_: Any) -> Any:
        raise TransientError("spool: No space left on device")

    monkeypatch.setattr(retrieve._Taker, "take", watched)
    monkeypatch.setattr(home.intake, "receive_dataset", full)
    tally = Tally()
    with pytest.raises(TransientError, match="No space left"):
        peer_of(archive, home).fetch(archive.films[0].StudyInstanceUID, ("DX",), tally)
    assert answers == [0xA700]
    assert tally.received == set()


def test_a_damaged_image_is_answered_cannot_understand(
    archive: Archive, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: Any) -> Any:
        raise InputError("unreadable", "damaged")

    monkeypatch.setattr(home.intake, "read_header", damaged)
    tally = Tally()
    peer_of(archive, home).fetch(archive.films[0].StudyInstanceUID, ("DX",), tally)
    assert (tally.received, tally.failed) == (set(), 1)


def test_an_object_over_the_limit_is_refused(archive: Archive, home: Home) -> None:
    archive.films[0] = dicom_radiograph(1, size=1024)
    tally = Tally()
    peer_of(archive, home, max_object_mib=1).fetch(archive.films[0].StudyInstanceUID, ("DX",), tally)
    assert (tally.received, tally.failed) == (set(), 1)


def test_a_peer_that_goes_away_is_an_error_that_may_pass(archive: Archive, home: Home) -> None:
    def get(event: Any) -> Iterator[Any]:
        yield 2
        yield 0xFF00, archive.films[0]
        event.assoc.abort()

    archive.get = get
    tally = Tally()
    with pytest.raises(TransientError, match="C-GET"):
        peer_of(archive, home).fetch(archive.films[0].StudyInstanceUID, ("DX",), tally)
    assert len(tally.received) == 1


def test_a_move_to_nowhere_says_what_to_look_at(archive: Archive, home: Home) -> None:
    study = archive.films[0].StudyInstanceUID
    with pytest.raises(PeerRefused, match="0xa801"):
        peer_of(archive, home, "move").fetch(study, ("DX",), Tally())

    def move(event: Any) -> Iterator[Any]:
        yield ("127.0.0.1", free_port())

    archive.move = move
    tally = Tally()
    peer_of(archive, home, "move").fetch(study, ("DX",), tally)
    assert not tally.complete
    assert "medd serve" in tally.problems[0]


def test_contexts_of_a_get_fit_into_one_association() -> None:
    assert len(STORAGE_CLASSES) * len(TRANSFER_SYNTAXES) + 2 <= 128


# Multipart and DICOMweb -----------------------------------------------------------------------------------------------


def split(body: bytes, size: int) -> list[bytes]:
    return [body[place : place + size] for place in range(0, len(body), size)]


@pytest.mark.parametrize("size", [1, 2, 7, 64, 10_000])
@pytest.mark.parametrize("preamble", [b"", b"hello\r\n"])
def test_parts_come_out_as_they_went_in_however_the_body_is_cut(size: int, preamble: bytes) -> None:
    contents = [b"first\r\n--b\r-\n", b"", b"\r\n--boun\r\n", bytes(range(256)) * 5]
    body = preamble
    for content in contents:
        body += b"--bound\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n"
    body += b"--bound--\r\nepilogue"
    assert [b"".join(part) for part in multipart.read_parts(split(body, size), b"bound")] == contents
    # Parts that nobody reads are skipped.
    assert len(list(multipart.read_parts(split(body, size), b"bound"))) == 4


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no delimiter at all" * 10_000,
        b"--bound\r\n\r\ncut off",
        b"--bound\r\nheader: " + b"x" * 100_000,
        b"--bound\r\n\r\nwhole\r\n--bound",
    ],
)
def test_a_body_that_ends_too_early_is_an_error_that_may_pass(body: bytes) -> None:
    with pytest.raises(TransientError):
        [list(part) for part in multipart.read_parts(split(body, 1000), b"bound")]


def test_the_boundary_is_read_from_the_content_type() -> None:
    assert multipart.boundary_of('multipart/related; type="application/dicom"; boundary="a b"') == b"a b"
    assert multipart.boundary_of("Multipart/Related; BOUNDARY=abc") == b"abc"
    assert multipart.boundary_of("application/dicom") == b""
    assert multipart.boundary_of("") == b""


class Web:
    """An HTTP server that answers what it is told to: path → (status, content type, body), or several in turn."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.requests: list[tuple[str, str]] = []
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path, _, question = self.path.partition("?")
                web.requests.append((self.path, self.headers.get("Authorization", "")))
                answer = web.answers.get(path, (404, "text/plain", b""))
                if callable(answer):
                    answer = answer(question)
                if isinstance(answer, list):
                    answer = answer.pop(0) if len(answer) > 1 else answer[0]
                status, content_type, body = answer
                body = json.dumps(body).encode() if not isinstance(body, bytes) else body
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/dicom-web"

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def web() -> Iterator[Web]:
    started = Web()
    yield started
    started.stop()


JSON = "application/dicom+json"
FILM = dicom_radiograph(1, size=64)
STUDY, SERIES = str(FILM.StudyInstanceUID), str(FILM.SeriesInstanceUID)


def film_file(folder: Path, film: Dataset = FILM) -> bytes:
    film.save_as(folder / "film.dcm", enforce_file_format=True)
    return (folder / "film.dcm").read_bytes()


def multipart_of(*files: bytes) -> tuple[int, str, bytes]:
    body = b"".join(b"--XX\r\nContent-Type: application/dicom\r\n\r\n" + file + b"\r\n" for file in files)
    return 200, 'multipart/related; type="application/dicom"; boundary=XX', body + b"--XX--\r\n"


def offer(web: Web, *files: bytes, images: int = 1) -> None:
    study = {"0020000D": {"vr": "UI", "Value": [STUDY]}, "00080061": {"vr": "CS", "Value": ["CT", "DX"]}}
    series = {
        "0020000E": {"vr": "UI", "Value": [SERIES]},
        "00080060": {"vr": "CS", "Value": ["DX"]},
        "00201209": {"vr": "IS", "Value": [images]},
    }
    ct = {"0020000E": {"vr": "UI", "Value": ["1.2.3"]}, "00080060": {"vr": "CS", "Value": ["CT"]}}
    web.answers["/dicom-web/studies"] = lambda question: (200, JSON, [] if "offset=1" in question else [study])
    web.answers[f"/dicom-web/studies/{STUDY}/series"] = (200, JSON, [series, ct])
    web.answers[f"/dicom-web/studies/{STUDY}/series/{SERIES}"] = multipart_of(*files)


def server_of(web: Web, home: Home, **more: Any) -> DicomWebServer:
    return DicomWebServer(
        DicomWebSettings(name="web", url=web.url, timeout_s=5, **more), home.folder, home.intake, 1 << 20
    )


def test_a_series_comes_over_the_web_byte_for_byte(web: Web, home: Home, tmp_path: Path) -> None:
    file = film_file(tmp_path)
    offer(web, file)
    (tmp_path / "token").write_text("secret\n")
    [outcome] = run(home, server_of(web, home, token_file="token"))
    assert (outcome.state, outcome.images) == (State.FETCHED, 1)
    assert home.received() == {str(FILM.SOPInstanceUID): "dicomweb://127.0.0.1"}
    [spooled] = (home.folder / "spool").glob("??/*.dcm")
    assert spooled.read_bytes() == file
    assert {token for _, token in web.requests} == {"Bearer secret"}
    assert not any("1.2.3" in path for path, _ in web.requests)


def test_a_server_that_sends_one_instance_bare_is_understood(web: Web, home: Home, tmp_path: Path) -> None:
    offer(web)
    file = film_file(tmp_path)
    web.answers[f"/dicom-web/studies/{STUDY}/series/{SERIES}"] = (200, "application/dicom", file)
    [outcome] = run(home, server_of(web, home))
    assert outcome.state is State.FETCHED


def test_a_busy_server_is_asked_again_and_one_that_refuses_us_is_not(web: Web, home: Home, tmp_path: Path) -> None:
    offer(web, film_file(tmp_path))
    good = web.answers[f"/dicom-web/studies/{STUDY}/series/{SERIES}"]
    web.answers[f"/dicom-web/studies/{STUDY}/series/{SERIES}"] = [(503, "text/plain", b""), good]
    [outcome] = run(home, server_of(web, home))
    assert outcome.state is State.FETCHED
    for status in (401, 403, 404):
        web.answers["/dicom-web/studies"] = (status, "text/plain", b"P1 is not yours")
        with pytest.raises(PeerRefused, match=f"HTTP {status}") as caught:
            run(home, server_of(web, home))
        assert "P1" not in str(caught.value)


def test_a_connection_that_fails_names_no_patient(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    nowhere = SimpleNamespace(url=f"http://127.0.0.1:{free_port()}/dicom-web")
    one = Pull(server_of(nowhere, home), home.database, Query(patient_id="SECRET"))  # type: ignore[arg-type]
    with pytest.raises(TransientError) as caught:
        one.find()
    assert "SECRET" not in str(caught.value) + caplog.text


def test_a_patients_id_is_in_no_log_line_of_a_question(
    web: Web, home: Home, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    offer(web, film_file(tmp_path))
    assert server_of(web, home).find(Query(patient_id="SECRET")) == []  # another patient's study is no answer
    assert "SECRET" in web.requests[0][0]
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize("status", [400, 403, 406, 451])
def test_a_series_that_is_refused_costs_its_study_only(web: Web, home: Home, tmp_path: Path, status: int) -> None:
    offer(web, film_file(tmp_path))
    web.answers[f"/dicom-web/studies/{STUDY}/series/{SERIES}"] = (status, "text/plain", b"P1 is not yours")
    [outcome] = run(home, server_of(web, home))
    assert outcome.state is State.FAILED
    assert f"HTTP {status}" in outcome.error
    web.answers[f"/dicom-web/studies/{STUDY}/series"] = (status, "text/plain", b"P1 is not yours")
    [outcome] = run(home, server_of(web, home))
    assert f"HTTP {status}" in outcome.error
    web.answers[f"/dicom-web/studies/{STUDY}/series"] = (401, "text/plain", b"who are you")
    with pytest.raises(PeerRefused, match="HTTP 401"):
        run(home, server_of(web, home))


def test_a_disk_that_fails_when_a_header_is_read_may_pass(
    web: Web, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    offer(web, film_file(tmp_path))
    monkeypatch.setattr(home.intake, "read_header", failing)
    with pytest.raises(TransientError, match="spool: Input/output error"):
        server_of(web, home).fetch(STUDY, ("DX",), Tally())


def test_a_server_that_passes_every_condition_over_is_given_up(
    web: Web, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(querying, "MAX_ANSWERS", 50)
    numbers = itertools.count(1)

    def page(question: str) -> tuple[int, str, Any]:
        return 200, JSON, [{"0020000D": {"vr": "UI", "Value": [f"1.2.{next(numbers)}"]}} for _ in range(20)]

    web.answers["/dicom-web/studies"] = page
    with pytest.raises(PeerRefused, match="more than 50 answers"):
        server_of(web, home).find(Query())


def test_a_film_that_comes_later_is_fetched_and_the_first_is_not_fetched_twice(
    web: Web, home: Home, tmp_path: Path
) -> None:
    offer(web, film_file(tmp_path))
    path = f"/dicom-web/studies/{STUDY}/series/{SERIES}"
    assert [one.state for one in run(home, server_of(web, home))] == [State.FETCHED]
    assert run(home, server_of(web, home)) == []
    assert [asked for asked, _ in web.requests].count(path) == 1
    later = dicom_radiograph(1, size=64, view="PA")
    later.StudyInstanceUID, later.SeriesInstanceUID = STUDY, "1.2.4"
    series = [
        {"0020000E": {"Value": [uid]}, "00080060": {"Value": ["DX"]}, "00201209": {"Value": [1]}}
        for uid in (SERIES, "1.2.4")
    ]
    web.answers[f"/dicom-web/studies/{STUDY}/series"] = (200, JSON, series)
    web.answers[f"/dicom-web/studies/{STUDY}/series/1.2.4"] = multipart_of(film_file(tmp_path, later))
    [outcome] = run(home, server_of(web, home))
    assert (outcome.state, outcome.images) == (State.FETCHED, 2)
    assert [asked for asked, _ in web.requests].count(path) == 1


def test_a_body_that_is_cut_off_leaves_the_study_incomplete(web: Web, home: Home, tmp_path: Path) -> None:
    file = film_file(tmp_path)
    offer(web, images=2)
    status, content_type, body = multipart_of(file, file)
    web.answers[f"/dicom-web/studies/{STUDY}/series/{SERIES}"] = (status, content_type, body[:-200])
    [outcome] = run(home, server_of(web, home))
    assert (outcome.state, outcome.images) == (State.FAILED, 1)
    assert "last delimiter" in outcome.error


def test_fewer_images_than_listed_leave_the_study_incomplete(web: Web, home: Home, tmp_path: Path) -> None:
    offer(web, film_file(tmp_path), images=2)
    [outcome] = run(home, server_of(web, home))
    assert (outcome.state, outcome.error) == (State.FAILED, "1 images came of 2 that the archive lists")


def test_what_was_not_asked_for_or_is_no_image_is_not_taken(web: Web, home: Home, tmp_path: Path) -> None:
    offer(web, film_file(tmp_path), film_file(tmp_path, dicom_radiograph(9, size=64)), b"rubbish", b"")
    [outcome] = run(home, server_of(web, home))
    assert (outcome.images, outcome.failed) == (1, 3)
    assert set(home.received()) == {str(FILM.SOPInstanceUID)}


@pytest.mark.parametrize(
    "answer",
    [[1, "x", None], [{"0020000D": "1.2.3"}], [{"0020000D": {"Value": "1.2"}}], [{"0020000D": {"Value": [None]}}], {}],
)
def test_garbage_of_a_server_is_no_study(web: Web, home: Home, answer: Any) -> None:
    web.answers["/dicom-web/studies"] = (200, JSON, answer)
    assert server_of(web, home).find(Query()) == []


def test_what_is_no_json_is_said(web: Web, home: Home) -> None:
    web.answers["/dicom-web/studies"] = (200, "text/html", b"<html>log in here</html>")
    with pytest.raises(PeerRefused, match="no DICOM JSON"):
        server_of(web, home).find(Query())


def test_a_server_that_knows_no_offset_is_not_asked_for_ever(web: Web, home: Home, tmp_path: Path) -> None:
    offer(web, film_file(tmp_path))
    same = web.answers["/dicom-web/studies"]("")
    web.answers["/dicom-web/studies"] = same
    assert len(server_of(web, home).find(Query(modalities=("DX",)))) == 1
    assert len(web.requests) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "ftp://x"},
        {"url": "x"},
        {"url": "http://"},
        {"url": "http://[::1"},
        {"token_file": "missing"},
        {"ca": "missing"},
    ],
)
def test_settings_of_a_server_that_cannot_be_used_are_refused(home: Home, wrong: dict[str, Any]) -> None:
    settings = DicomWebSettings(**({"name": "web", "url": "http://127.0.0.1/x"} | wrong))
    with pytest.raises(SettingsError, match="web"):
        DicomWebServer(settings, home.folder, home.intake, 1 << 20)


# The schedule ---------------------------------------------------------------------------------------------------------


def local(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone()


def test_a_pull_is_due_at_its_time_of_day() -> None:
    assert next_time("01:30", local("2026-03-01T01:29:59")) == local("2026-03-01T01:30")
    assert next_time("01:30", local("2026-03-01T01:30:00")) == local("2026-03-02T01:30")
    assert next_time("23:59", local("2026-12-31T23:59:30")) == local("2027-01-01T23:59")


def test_a_pull_is_due_once_on_days_on_which_the_clocks_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        moment = datetime(2026, 3, 27, 12, tzinfo=UTC)
        seen = []
        for _ in range(4):
            moment = next_time("02:30", moment)
            seen.append(moment)
        days = [one.astimezone(UTC).date().isoformat() for one in seen]
        assert days == ["2026-03-28", "2026-03-29", "2026-03-30", "2026-03-31"]
        moment = datetime(2026, 10, 24, 12, tzinfo=UTC)
        first, second = next_time("02:30", moment), next_time("02:30", next_time("02:30", moment))
        assert second - first >= timedelta(hours=23)
    finally:
        monkeypatch.undo()
        time.tzset()


class Clock:
    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_scheduled_pulls_run_when_they_are_due_and_failures_are_tried_later(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock(local("2026-03-01T00:00"))
    shelf = Shelf(s1=1)
    shelf.find_errors = [TransientError("away")] * 3
    broken = Shelf()
    broken.find_errors = [ZeroDivisionError()]  # type: ignore[list-item]
    pulls = ScheduledPulls(
        [(PullSettings(source="shelf", at="01:30"), shelf), (PullSettings(source="broken", at="01:30"), broken)],
        home.database,
        clock,
        look_s=0.01,
    )
    pulls.start()
    try:
        time.sleep(0.1)
        assert shelf.asked == []
        clock.now = local("2026-03-01T01:30")
        wait_for(lambda: "ZeroDivisionError" in caplog.text)
        assert "away; tried again in 300 s" in caplog.text
        clock.now = local("2026-03-01T01:36")
        wait_for(lambda: "known already" in caplog.text)
        assert "1 studies fetched with 1 images" in caplog.text
        clock.now = local("2026-03-02T01:30")
        wait_for(lambda: "1 known already" in caplog.text)
    finally:
        pulls.stop()
    assert shelf.asked == ["1.1"]


def test_a_pull_that_cannot_be_asked_is_refused_at_the_start(home: Home) -> None:
    with pytest.raises(SettingsError, match="modality"):
        ScheduledPulls([(PullSettings(source="x", at="01:30", modalities=("C*",)), Shelf())], home.database)
    assert schedule.RETRY_DELAYS_S
