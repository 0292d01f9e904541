"""The operations page over real HTTP: what it shows, who may do what there, and what a retry and a call do."""

import gc
import re
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from medd.records import Reason, UserRole
from medd.settings import DestinationSettings, PeerSettings
from medd.store import users
from medd.store.audit import EventFilter, find_events
from medd.store.outbox import Deliveries, Outbox
from medd.store.processes import Pulse
from medd.store.reports import record_sent
from medd.store.tables import instance, job
from medd.testing import dicom_radiograph
from tests.peers import answering
from tests.support import free_port
from tests.ward import Ward
from tests.web import Web, running_web, web_settings

# Where a peer does not answer, pynetdicom leaves its socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")

SCRIPT = "<script>alert('1')</script>"


def get(web: Web, path: str) -> httpx.Response:
    with web.browser() as browser:
        return browser.get(path)


def post(web: Web, path: str, data: dict, **headers: str) -> httpx.Response:
    with web.browser(headers=headers) as browser:
        return browser.post(path, data=data)


class Place:
    """A ward with two destinations and three peers, of which one answers, one refuses connections and one is silent."""

    def __init__(self, web: Web, folder: Path) -> None:
        self.web, self.ward = web, Ward(web, folder)

    @property
    def database(self):
        return self.web.database

    def bury(self, instance_id: int, error: str = "spool: damaged") -> None:
        with self.database.write() as connection:
            mine = job.c.instance_id == instance_id
            connection.execute(job.update().where(mine).values(state="dead", attempts=5, error=error))
            failed = {"status": "failed", "reason": Reason.RETRIES_EXHAUSTED}
            connection.execute(instance.update().where(instance.c.id == instance_id).values(**failed))

    def bury_delivery(self, instance_id: int, destination: str, error: str = "refused") -> int:
        with self.database.write() as connection:
            Outbox((destination,), quiet_s=0).open(connection, [instance_id])
        [claimed] = Deliveries(self.database, "me").claim(destination, 1)
        Deliveries(self.database).bury(claimed, error)
        return claimed.id

    def states(self, table: str) -> list[str]:
        with self.database.read() as connection:
            return [row[0] for row in connection.exec_driver_sql(f"SELECT state FROM {table} ORDER BY id")]


@pytest.fixture
def archive() -> Iterator[int]:
    """A peer that answers C-ECHO; its port."""
    with answering("ARCHIVE") as port:
        yield port


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=8) as server:
        yield server.getsockname()[1]


def peer(name: str, port: int, **values) -> PeerSettings:
    return PeerSettings(name=name, host="127.0.0.1", port=port, ae_title="ARCHIVE", **values)


@pytest.fixture
def place(tmp_path: Path, archive: int, silent: int) -> Iterator[Place]:
    peers = (peer("archive", archive), peer("away", free_port()), peer("silent", silent, timeout_s=0.5))
    destinations = (DestinationSettings(type="folder", name="main"), DestinationSettings(type="folder", name=SCRIPT))
    settings = web_settings(tmp_path / "home").model_copy(update={"peer": peers, "destination": destinations})
    with running_web(settings) as web:
        yield Place(web, tmp_path)
    gc.collect()  # those sockets, while the mark above still holds


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


def test_an_empty_house_is_told_of_without_a_figure_too_many(place):
    page = place.web.browser().get("/operations").text
    told = text_of(page)
    assert "Waiting to be scored 0" in told
    assert "none in the last hour" in told
    assert "None has given a sign of life." in told
    assert "Nothing in this time." in told


def test_the_page_tells_what_waits_came_and_was_not_judged(place):
    place.ward.film(1, 0.9)
    place.ward.refuse(place.ward.film(2), Reason.LATERAL_VIEW)
    place.ward.film(3, minutes_ago=5)
    with Pulse(place.database, "ward-1", "work", doing=lambda: "stub/1") as pulse:
        pulse.beat()
        told = text_of(place.web.browser().get("/operations?step=minute").text)
    assert "Waiting to be scored 1 the first for 5 min" in told
    assert "a lateral or decubitus view 1" in told
    assert re.search(r"Received [\d.]+ 3 3 ", told)
    assert re.search(r"work ward-1 alive stub/1", told)
    assert "1 image of the last hour" in told
    assert "not assessed a lateral" in told
    assert "normal" not in told.lower()


def test_charts_have_a_name_a_table_and_no_style_of_their_own(place):
    place.ward.film(1, 0.9)
    page = place.web.browser().get("/operations").text
    charts = re.findall(r'<svg viewBox="0 0 460 [^>]*>', page)
    assert len(charts) == 2
    assert all('role="img"' in one and 'aria-label="' in one for one in charts)
    assert "style=" not in page
    assert "<style" not in page
    assert page.count("<summary>Figures</summary>") == 2


def test_the_part_that_changes_comes_alone(place):
    part = place.web.browser().get("/operations/now?step=day").text
    assert "<html" not in part
    assert "Waiting to be scored" in part
    assert place.web.browser().get("/operations/now?step=year").status_code == 422


def test_a_dead_job_is_brought_back_alone_and_all_are(place):
    ids = [place.ward.film(seed) for seed in range(3)]
    for id_ in ids:
        place.bury(id_, f"spool: damaged {SCRIPT}")
    browser = place.web.browser()
    page = browser.get("/operations").text
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;alert") >= 3
    done = browser.post("/operations/retry", data={"what": "jobs", "id": ids[1]})
    assert (done.status_code, done.headers["location"]) == (303, "/operations")
    assert place.states("job") == ["dead", "pending", "dead"]
    fresh = browser.post("/operations/retry?step=day", data={"what": "jobs"}, headers={"HX-Request": "true"})
    assert "2 back in the queue." in fresh.text
    assert place.states("job") == ["pending"] * 3


def test_dead_deliveries_are_brought_back_one_those_of_a_destination_or_all(place):
    ids = [place.ward.film(seed, 0.9) for seed in range(3)]
    dead = [place.bury_delivery(id_, "main") for id_ in ids]
    other = place.bury_delivery(ids[0], SCRIPT)
    browser = place.web.browser()
    assert "<script>alert" not in browser.get("/operations").text
    browser.post("/operations/retry", data={"what": "deliveries", "id": dead[2]})
    assert place.states("delivery") == ["dead", "dead", "pending", "dead"]
    browser.post("/operations/retry", data={"what": "deliveries", "destination": "main"})
    assert place.states("delivery") == ["pending"] * 3 + ["dead"]
    browser.post("/operations/retry", data={"what": "deliveries"})
    assert place.states("delivery") == ["pending"] * 4
    with place.database.read() as connection:
        events = list(find_events(connection, EventFilter(action="work_retried")))
        [seen] = find_events(connection, EventFilter(action="studies_listed"))
    assert seen["detail"] == "/operations"
    assert [event["detail"] for event in events] == [
        "deliveries: all",
        "deliveries: all to main",
        f"deliveries: {dead[2]}",
    ]
    assert other > 0


@pytest.mark.parametrize("data", [{}, {"what": "users"}, {"what": "jobs", "id": "x"}, {"what": "jobs", "id": "-1"}])
def test_a_retry_of_nonsense_is_refused(place, data):
    assert place.web.browser().post("/operations/retry", data=data).status_code == 422


def test_destinations_tell_how_it_stands_with_each(place):
    id_ = place.ward.film(1, 0.9)
    with place.database.write() as connection:
        Outbox(("main", "gone"), quiet_s=0).open(connection, [id_])
        taken = [SimpleNamespace(object="1.2.9", sop_class_uid="", answer="0x0000")]
        record_sent(connection, "1.2.3", 1, "main", taken)
    deliveries = Deliveries(place.database, "me")
    [claimed] = deliveries.claim("main", 1)
    deliveries.retry(claimed, "main cannot be reached", 60)
    told = text_of(place.web.browser().get("/operations").text)
    assert "main failing for 0 min: main cannot be reached 1 0 0 1" in told
    assert "gone not in the settings busy 1 0 0 0 never" in told
    assert f"{datetime.now(UTC).astimezone() - timedelta(seconds=30):%Y-%m-%d}" in told


@pytest.mark.parametrize(
    ("name", "answer"), [("archive", r"answers in \d+ ms"), ("away", r"no .*cannot be reached"), ("silent", "no ")]
)
def test_a_peer_is_called_within_a_time_limit(place, name, answer):
    started = time.monotonic()
    found = place.web.browser().post("/operations/echo", data={"peer": name})
    assert found.status_code == 200
    assert re.search(answer, text_of(found.text))
    assert time.monotonic() - started < 10


def test_a_peer_that_the_settings_do_not_name_is_not_called(place):
    found = place.web.browser(headers={"Accept": "*/*"}).post("/operations/echo", data={"peer": "127.0.0.1:104"})
    assert found.status_code == 400
    assert "no peer of this name" in found.json()["detail"]


def test_peers_that_hang_keep_nobody_from_the_pages(place):
    """Three calls at a time, and whoever comes then is told so."""
    answers: list[int] = []

    def call() -> None:
        answers.append(place.web.browser().post("/operations/echo", data={"peer": "silent"}).status_code)

    threads = [threading.Thread(target=call) for _ in range(6)]
    for one in threads:
        one.start()
    assert place.web.browser().get("/operations").status_code == 200
    for one in threads:
        one.join()
    assert sorted(set(answers)) == [200, 429]


def signed_in(web: Web, name: str) -> httpx.Client:
    browser = web.browser()
    done = browser.post("/login", data={"name": name, "password": "four words in a row"})
    assert done.status_code == 303, done.text
    return browser


def test_a_reader_sees_and_an_operator_does(tmp_path):
    from medd_web import passwords

    with running_web(web_settings(tmp_path / "home", login=True)) as web:
        ward = Ward(web, tmp_path)
        with web.database.write() as connection:
            for name, role in (("rita", UserRole.READER), ("otto", UserRole.OPERATOR)):
                users.add_account(connection, name, role, passwords.hash_password("four words in a row", name))
        assert web.browser().get("/operations").status_code == 303
        assert web.client.post("/operations/retry", data={"what": "jobs"}).status_code == 401
        Place(web, tmp_path).bury(ward.film(1))
        rita, otto = signed_in(web, "rita"), signed_in(web, "otto")
        page = rita.get("/operations").text
        assert "spool: damaged" in page
        assert "/operations/retry" not in page
        assert rita.post("/operations/retry", data={"what": "jobs"}).status_code == 403
        assert rita.post("/operations/echo", data={"peer": "x"}).status_code == 403
        assert "/operations/retry" in otto.get("/operations").text
        assert otto.post("/operations/retry", data={"what": "jobs"}).status_code == 303
        assert Place(web, tmp_path).states("job") == ["pending"]
        with web.database.read() as connection:
            [event] = list(find_events(connection, EventFilter(action="work_retried")))
        assert (event["account"], event["detail"]) == ("otto", "jobs: all")


def test_films_of_many_names_leave_none_on_the_page(place):
    id_ = place.ward.receive(dicom_radiograph(1, size=64, patient_id="GEHEIM-77"))
    place.bury(id_)
    assert "GEHEIM" not in place.web.browser().get("/operations").text
