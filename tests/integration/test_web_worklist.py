"""The worklist in the browser: what stands where, why, and how an open page hears of changes. Over real HTTP."""

import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from medd.records import DeliveryState, Reason
from medd.store.audit import EventFilter, find_events
from medd.store.studies import mark_read
from medd.store.tables import delivery
from medd.testing import dicom_radiograph
from medd_web import events
from medd_web.lately import Lately
from tests.support import wait_until
from tests.ward import Ward
from tests.web import running_web, web_settings


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    with running_web(web_settings(tmp_path / "home")) as web:
        yield Ward(web, tmp_path)


class Rows(HTMLParser):
    """The rows of the table: their cells as text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._cell = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")
        self._cell = tag == "td" or (self._cell and tag != "th")

    def handle_endtag(self, tag):
        self._cell = self._cell and tag != "td"

    def handle_data(self, data):
        if self._cell:
            self.rows[-1][-1] += data

    def texts(self) -> list[list[str]]:
        return [[" ".join(cell.split()) for cell in row] for row in self.rows if row]


def get(ward: Ward, path: str = "/") -> str:
    answer = ward.web.client.get(path, headers={"Accept": "text/html"})
    assert answer.status_code == 200, answer.text
    return answer.text


def patients(ward: Ward, path: str = "/") -> list[str]:
    return [row[2] for row in Rows(get(ward, path)).texts()]


def test_the_most_urgent_stands_first_and_each_row_says_why(ward):
    ward.film(1, 0.2, patient_id="BELOW")
    ward.film(2, 0.7, patient_id="FINDING")
    ward.film(3, patient_id="WAITS")
    ward.film(4, patient_id="SIDE", ViewPosition="LL")
    ward.refuse(ward.film(5, patient_id="STRANGE"))
    ward.film(6, 0.99, patient_id="SURE")
    ward.film(7, 0.1, patient_id="LATE", minutes_ago=241)
    late = {"patient_id": "LATE, FAILED", "StudyInstanceUID": "1.2.9"}
    ward.film(8, 0.1, minutes_ago=250, **late)
    ward.fail(ward.film(9, **late))
    rows = {row[2]: row for row in Rows(get(ward)).texts()}
    said = "Overdue unread for 4 h 10 min; 1 of 2 images failed: tried too often"
    assert rows.pop("LATE, FAILED")[0] == said
    assert list(rows) == ["LATE", "SURE", "FINDING", "WAITS", "SIDE", "STRANGE", "BELOW"]
    assert [(row[0], row[1]) for row in rows.values()] == [
        ("Overdue unread for 4 h 1 min", "0.100"),
        ("Finding PNEUMONIA", "0.990"),
        ("Finding PNEUMONIA", "0.700"),
        ("Waiting the image waits for the model", "no score"),
        ("Not assessed a lateral or decubitus view", "no score"),
        ("Not assessed unlike what the model was trained on", "no score"),
        ("Below threshold", "0.200"),
    ]
    assert rows["SURE"][4:7] == ["0 min ago", "1 image", "CR1@10.0.0.1"]


def test_what_was_not_assessed_or_is_below_is_never_called_normal(ward):
    ward.film(1, 0.2)
    ward.refuse(ward.film(2))
    ward.film(3, ViewPosition="LL")
    page = get(ward)
    assert not re.search("normal|negative|healthy|clear", Rows(page).texts().__repr__(), re.IGNORECASE)
    assert "Research use only. Not for diagnosis." in page


def test_studies_of_several_images_say_what_is_missing(ward):
    study = {"StudyInstanceUID": "1.2.1", "patient_id": "P"}
    ward.film(1, 0.2, **study)
    ward.film(2, **study)
    failed = ward.film(3, **study)
    assert Rows(get(ward)).texts()[0][0] == "Waiting 2 of 3 images wait for the model"
    assert Rows(get(ward)).texts()[0][5] == "3 images"
    ward.refuse(failed, Reason.UNREADABLE)
    assert Rows(get(ward)).texts()[0][0] == "Waiting 1 of 3 images waits for the model"


def test_where_results_went_stands_in_the_row(ward):
    ward.film(1, 0.9, StudyInstanceUID="1.2.1")
    now = datetime.now(UTC)
    with ward.database.write() as connection:
        for name, state, error in (("pacs", DeliveryState.DONE, None), ("ward", DeliveryState.DEAD, "refuses <SR>")):
            row = {"study": "1.2.1", "destination": name, "revision": 1, "state": state, "error": error}
            connection.execute(delivery.insert().values(**row, available_at=now, due_by=now))
    page = get(ward)
    assert Rows(page).texts()[0][7] == "pacs: sent ward: given up"
    assert 'title="refuses &lt;SR&gt;"' in page


def test_the_list_is_filtered_by_what_the_address_says(ward):
    ward.film(1, 0.9, patient_id="ABC-1", AccessionNumber="X77")
    ward.film(2, 0.2, patient_id="ABC-2", StudyInstanceUID="1.2.3.4")
    ward.film(3, patient_id="DEF-3", minutes_ago=90)
    assert patients(ward, "/?q=ABC") == ["ABC-1", "ABC-2"]
    assert patients(ward, "/?q=X7") == ["ABC-1"]
    assert patients(ward, "/?q=1.2.3.4") == ["ABC-2"]
    assert patients(ward, "/?status=pending") == ["DEF-3"]
    assert patients(ward, "/?status=scored&q=ABC-2") == ["ABC-2"]
    assert patients(ward, "/?since=1h") == ["ABC-1", "ABC-2"]
    assert patients(ward, "/?origin=dicom%3A%2F%2FCR1%4010.0.0.1&q=DEF") == ["DEF-3"]
    assert patients(ward, "/?origin=dicom%3A%2F%2FELSE%4010.0.0.1") == []
    with ward.database.write() as connection:
        mark_read(connection, "1.2.3.4", "anna", datetime.now(UTC))
    assert patients(ward) == ["ABC-1", "DEF-3"]
    assert patients(ward, "/?read=read") == ["ABC-2"]
    assert Rows(get(ward, "/?read=read")).texts()[0][0] == "Read by anna, 0 min ago"
    assert patients(ward, "/?read=all") == ["ABC-1", "DEF-3", "ABC-2"]


@pytest.mark.parametrize(
    "query", ["status=perfect", "since=yesterday", "read=perhaps", "status=", "q=%F0%9F%98%80", "q=%27%3B--"]
)
def test_a_word_that_is_not_known_is_no_error(ward, query):
    ward.film(1, 0.9)
    assert len(patients(ward, f"/?{query}")) == (0 if query.startswith("q=") else 1)


@pytest.mark.parametrize("query", ["page=0", "page=x", "page=100001", "q=%00", "q=" + "x" * 201])
def test_what_cannot_be_meant_is_refused(ward, query):
    assert ward.web.client.get(f"/?{query}").status_code == 422


def test_a_long_list_has_pages(ward, monkeypatch):
    monkeypatch.setattr("medd_web.worklist.PAGE", 2)
    monkeypatch.setattr("medd_web.worklist.COUNTED", 4)
    for seed in range(5):
        ward.film(seed, 0.9 - seed / 10, patient_id=f"P{seed}", size=64)
    assert patients(ward) == ["P0", "P1"]
    assert patients(ward, "/?page=2") == ["P2", "P3"]
    last = get(ward, "/?page=3&q=P")
    assert [row[2] for row in Rows(last).texts()] == ["P4"]
    assert "5 to 5 of more than 4" in last
    assert 'rel="prev" href="/?q=P&amp;page=2"' in last
    assert 'rel="next"' not in last
    assert "no such page any more" in get(ward, "/?page=9")


def test_an_empty_list_says_which_kind_of_empty_it_is(ward):
    assert "Nothing waits to be read" in get(ward)
    assert "No study fits" in get(ward, "/?q=nobody")


def test_without_a_cap_nothing_is_overdue(tmp_path):
    from medd.settings import WorklistSettings

    settings = web_settings(tmp_path / "home").model_copy(update={"worklist": WorklistSettings(max_wait_min=0)})
    with running_web(settings) as web:
        ward = Ward(web, tmp_path)
        ward.film(1, 0.1, minutes_ago=10_000)
        assert Rows(get(ward)).texts()[0][0] == "Below threshold"
        assert "Findings first" in get(ward)


HOSTILE = [
    "<script>alert(1)</script>",
    "'\"><img src=x onerror=alert(1)>",
    "a & b",
    "{{ 7 * 7 }}",
    "\u05d0\u05d1\u05d2",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_peer_wrote_is_text(ward, text):
    film = dicom_radiograph(1, size=64, patient_id=text, SpecificCharacterSet="ISO_IR 192")
    film.AccessionNumber = text[:16]
    ward.receive(film, origin=f"file:{text}")
    page = get(ward, f"/?{httpx.QueryParams({'q': text[:3]})}")
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "49" not in Rows(page).texts()[0][2]
    assert [row[2] for row in Rows(page).texts()] == [text]


def test_marks_that_turn_the_direction_of_writing_are_not_shown_as_such(ward):
    ward.receive(dicom_radiograph(1, size=64), origin="file:evil\u202egpj.exe")
    page = get(ward)
    assert "\u202e" not in page
    assert "evil�gpj.exe" in page


def test_a_list_that_is_looked_at_again_and_again_is_one_event(ward, monkeypatch):
    monkeypatch.setattr("medd_web.worklist._LISTED", Lately(600))
    for path in ("/", "/", "/worklist/rows", "/?q=P1", "/"):
        get(ward, path)
    with ward.database.read() as connection:
        listed = [e["detail"] for e in find_events(connection, EventFilter(action="studies_listed"))]
    assert listed == ["?q=P1", ""]


def test_who_asks_for_the_rows_alone_is_on_record_too(ward, monkeypatch):
    monkeypatch.setattr("medd_web.worklist._LISTED", Lately(600))
    for path in ("/worklist/rows?q=P1", "/worklist/rows?q=P1", "/?q=P1"):
        get(ward, path)
    with ward.database.read() as connection:
        assert [e["detail"] for e in find_events(connection, EventFilter(action="studies_listed"))] == ["?q=P1"]


# -- changes -------------------------------------------------------------------------------------------------------


class Listener:
    """A page that is open."""

    def __init__(self, ward: Ward) -> None:
        self.heard: list[str] = []
        self._ward, self._thread = ward, threading.Thread(target=self._listen)
        self._thread.start()
        wait_until(lambda: self.heard, what="the first event")

    def _listen(self) -> None:
        with self._ward.web.browser() as browser, browser.stream("GET", "/events") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            self.heard += (line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data:"))

    def end(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()


def signature(ward: Ward) -> str:
    return re.search('data-signature="([^"]+)"', get(ward, "/worklist/rows"))[1]


def test_an_open_page_hears_of_each_change_and_of_nothing_else(ward, monkeypatch):
    monkeypatch.setattr(events, "LOOK_S", 0.02)
    listener = Listener(ward)
    assert listener.heard == [signature(ward)]
    id_ = ward.film(1)
    wait_until(lambda: signature(ward) == listener.heard[-1])
    told = len(listener.heard)
    assert told > 1
    ward.score(id_, 0.9)
    wait_until(lambda: len(listener.heard) > told and signature(ward) == listener.heard[-1])
    ward.web.context.stopping.set()
    listener.end()


def test_streams_end_by_themselves_so_that_who_is_logged_out_is_refused(ward, monkeypatch):
    monkeypatch.setattr(events, "LIFE_S", 0.0)
    assert ward.web.client.get("/events").text == "retry: 2000\n\n"


def test_more_streams_than_there_is_room_for_are_refused(ward, monkeypatch):
    monkeypatch.setattr(events, "MAX_STREAMS", 0)
    answer = ward.web.client.get("/events")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")


def test_a_silent_stream_says_that_it_lives(ward, monkeypatch):
    monkeypatch.setattr(events, "LOOK_S", 0.01)
    monkeypatch.setattr(events, "BEAT_S", 0.01)
    with ward.web.browser() as browser, browser.stream("GET", "/events") as answer:
        assert any(line == ": still here" for line in answer.iter_lines())


def test_nobody_hears_or_sees_anything_without_logging_in(tmp_path):
    with running_web(web_settings(tmp_path / "home", login=True)) as web:
        for path in ("/events", "/worklist/rows", "/case?study=1", "/image/1/levels", "/image/1/heat"):
            assert web.client.get(path).status_code == 401
        with web.browser() as browser:
            assert browser.get("/").headers["location"].startswith("/login")
