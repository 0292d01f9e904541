"""Operations and models in a real Chromium: they keep up by themselves, lose no focus, and do what they are told."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playwright.sync_api import expect

from medd.records import Annotation, Reason
from medd.settings import DestinationSettings, PeerSettings
from medd.store.annotations import annotate
from medd.store.outbox import Deliveries, Outbox
from medd.store.processes import Pulse
from medd.store.tables import instance, job
from medd.testing import stub_bundle
from tests.browser import PATIENCE_MS, PHONE, browser, visiting  # noqa: F401 - a fixture
from tests.integration.test_web_models import measured, on_duty
from tests.peers import answering
from tests.ward import Ward
from tests.web import Web, running_web, web_settings

pytestmark = [
    pytest.mark.peers,
    # Where a peer does not answer, pynetdicom leaves its socket to the garbage collector.
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]
expect.set_options(timeout=PATIENCE_MS)

LONG = "W" * 300


@pytest.fixture
def archive() -> Iterator[int]:
    with answering("ARCHIVE") as port:
        yield port


@pytest.fixture
def web(tmp_path: Path, archive: int) -> Iterator[Web]:
    """A house in which something of everything has happened; stub/1 is on duty, stub/2 in its shadow, stub/3 known."""
    home = tmp_path / "home"
    peer = PeerSettings(name="archive", host="127.0.0.1", port=archive, ae_title="ARCHIVE")
    settings = web_settings(home).model_copy(
        update={"peer": (peer,), "destination": (DestinationSettings(type="folder", name="main"),)}
    )
    measured(home / "stub-bundle")
    for number in ("2", "3"):
        measured(stub_bundle(home / "models" / f"stub-{number}", version=number), int(number))
    with running_web(settings) as running:
        fill(Ward(running, tmp_path))
        yield running


def fill(ward: Ward) -> None:
    desk = ward.web.context.models
    for number in ("2", "3"):
        desk.find(f"stub-{number}", "anna", f"made by medd retrain {LONG}")
    scored = [ward.film(seed, 0.9 if seed % 2 else 0.1, size=64) for seed in range(6)]
    ward.refuse(ward.film(10, size=64), Reason.LATERAL_VIEW)
    for seed in (20, 21):
        bury(ward, ward.film(seed, size=64))
    with ward.database.write() as connection:
        for reader in ("anna", "ben"):
            annotate(connection, Annotation(scored[0], "NORMAL", reader, datetime.now(UTC)))
        Outbox(("main",), quiet_s=0).open(connection, scored[:2])
    for claimed in Deliveries(ward.database, "me").claim("main", 2):
        Deliveries(ward.database).bury(claimed, f"refused {LONG}")
    Pulse(ward.database, "ward-1", "work", doing=lambda: "stub/1").beat()


def bury(ward: Ward, id_: int) -> None:
    with ward.database.write() as connection:
        dead = {"state": "dead", "attempts": 5, "error": f"spool: damaged {LONG}"}
        connection.execute(job.update().where(job.c.instance_id == id_).values(**dead))
        failed = {"status": "failed", "reason": Reason.RETRIES_EXHAUSTED}
        connection.execute(instance.update().where(instance.c.id == id_).values(**failed))


def test_the_page_keeps_up_by_itself_and_takes_nothing_out_of_the_hand(browser, web, tmp_path):  # noqa: F811
    with visiting(browser, web.url) as visit:
        page = visit.open("/operations?step=minute")
        waiting = page.locator(".tile", has_text="Waiting to be scored").locator(".big")
        expect(waiting).to_have_text("0")
        page.locator("#chart-1-table summary").click()
        button = page.locator("[id^=retry-jobs-]:not(#retry-jobs-all)").first
        button.focus()
        held = button.get_attribute("id")
        Ward(web, tmp_path).film(30, size=64)
        expect(waiting).to_have_text("1")
        assert page.evaluate("document.activeElement.id") == held
        expect(page.locator("#chart-1-table")).to_have_attribute("open", "")
        assert "step=minute" in (page.locator("#now").get_attribute("hx-get") or "")


def test_where_nothing_has_changed_nothing_is_drawn_anew(browser, web):  # noqa: F811
    with visiting(browser, web.url) as visit:
        page = visit.open("/operations")
        # The signs of life grow older all the time: without them nothing changes by itself.
        page.route("**/operations/now*", lambda route: route.fulfill(body="<p id='same'>as ever</p>"))
        expect(page.locator("#same")).to_be_visible()
        page.evaluate("document.getElementById('same').dataset.mark = 'kept'")
        with page.expect_response("**/operations/now*"):
            pass
        with page.expect_response("**/operations/now*"):
            pass
        expect(page.locator("#same")).to_have_attribute("data-mark", "kept")
        expect(page.locator("#fresh")).to_contain_text("as of")


def test_a_server_that_is_away_is_told_of_once(browser, web):  # noqa: F811
    with visiting(browser, web.url, faults=True) as visit:
        page = visit.open("/operations")
        page.route("**/operations/now*", lambda route: route.abort())
        expect(page.locator("#fresh")).to_have_text("The server does not answer.")
        expect(page.locator("#notices .notice")).to_have_count(0)


def test_what_was_given_up_is_brought_back_by_a_click(browser, web):  # noqa: F811
    with visiting(browser, web.url) as visit:
        page = visit.open("/operations")
        dead = page.locator("section", has=page.get_by_role("heading", name="Given up", exact=True)).last
        expect(dead.locator("tbody tr")).to_have_count(4)
        dead.get_by_role("button", name="Retry image").first.click()
        expect(dead.locator("tbody tr")).to_have_count(3)
        expect(page.locator("#now > .notice")).to_have_text("1 back in the queue.")
        dead.get_by_role("button", name="Retry all deliveries").click()
        expect(dead.locator("tbody tr")).to_have_count(1)


def test_a_peer_is_called_and_answers(browser, web):  # noqa: F811
    with visiting(browser, web.url) as visit:
        page = visit.open("/operations")
        page.get_by_role("button", name="Call archive").click()
        expect(page.locator(".answer")).to_contain_text("answers in")


def test_a_model_is_put_on_duty_and_taken_back_with_the_keyboard_alone(browser, web):  # noqa: F811
    with visiting(browser, web.url) as visit:
        page = visit.open("/models/stub/3")
        page.locator("summary", has_text="Put on duty").focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        page.keyboard.type("better on the films of our new room")
        page.keyboard.press("Enter")
        page.wait_for_url("**/models?done=promote")
        expect(page.get_by_role("status").first).to_contain_text("It is on duty.")
        expect(page.locator("section", has=page.get_by_role("heading", name="On duty")).first).to_contain_text("stub/3")
        assert on_duty(web)["champion"] == "stub/3"
        page.locator("summary", has_text="Roll back to stub/1").focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")  # without a reason nothing is sent
        assert on_duty(web)["champion"] == "stub/3"
        page.keyboard.type("findings are missed")
        page.keyboard.press("Enter")
        page.wait_for_url("**/models?done=rollback")
        assert on_duty(web)["champion"] == "stub/1"


def test_drift_is_computed_beside_the_page(browser, web):  # noqa: F811
    with visiting(browser, web.url) as visit:
        page = visit.open("/models")
        expect(page.locator("#drift .device")).to_have_count(1)
        page.get_by_role("button", name="30 days").click()
        expect(page.locator("#drift")).to_contain_text("in 30 days")


@pytest.mark.parametrize("options", [{}, {"color_scheme": "dark"}, PHONE], ids=["light", "dark", "phone"])
def test_everybody_can_use_them(browser, web, options):  # noqa: F811
    with visiting(browser, web.url, **options) as visit:
        for path in ("/operations", "/operations?step=day", "/models", "/models/stub/1", "/models/stub/2"):
            page = visit.open(path)
            if path == "/models":
                expect(page.locator("#drift .device")).to_have_count(1)
            page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
            assert visit.barriers() == []
            wide, window = visit.width()
            assert wide <= window, f"{path} is {wide} pixels wide"
