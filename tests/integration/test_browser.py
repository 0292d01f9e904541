"""The reading room as a radiologist has it open: a real Chromium before a real daemon, and before a ward of films."""

import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from playwright.sync_api import Page, expect

from medd.learn.corrections import merge
from medd.learn.manifest import Sample
from medd.registry.bundle import file_digest
from medd.store.annotations import find_truths
from medd.store.database import Database
from medd.store.spool import Spool
from medd.testing import dicom_radiograph, stub_bundle, write_stub_plugin
from tests.browser import PATIENCE_MS, Visit, browser, visiting  # noqa: F401 - a fixture
from tests.peers import send
from tests.support import Daemon, free_port, running, wait_until
from tests.ward import Ward
from tests.web import running_web, web_settings

pytestmark = pytest.mark.peers
expect.set_options(timeout=PATIENCE_MS)

#: A plugin of strangers, whose heat map is what the viewer shows.
HEAT = """
import cv2
import numpy as np

from medd import hookimpl
from medd.records import Attachment


@hookimpl
def explain_prediction(image, prediction, classifier):
    warm = np.zeros((8, 8), np.uint8)
    warm[2:4, 2:4] = 255
    return [Attachment("heat", "image/png", cv2.imencode(".png", warm)[1].tobytes())]
"""
PASSWORD = "four words in a row"
DARK, BRIGHT = {"WindowCenter": 3000, "WindowWidth": 2000}, {"WindowCenter": 1000, "WindowWidth": 1500}


def rows(page: Page) -> list[str]:
    """The patients of the list, from the top."""
    return page.locator("#list a.open").all_inner_texts()


def make_daemon(home: Path) -> tuple[Daemon, str]:
    (home / "plugins").mkdir(parents=True)
    write_stub_plugin(home / "plugins", stub_bundle(home / "stub-bundle"))
    (home / "plugins" / "heat.py").write_text(HEAT)
    port = free_port()
    daemon = Daemon(
        home, MEDD_WEB__ENABLED="true", MEDD_WEB__LOGIN="true", MEDD_WEB__PORT=str(port), MEDD_WEB__HOST="127.0.0.1"
    )
    (home / "password").write_text(PASSWORD)
    done = daemon.medd("users", "add", "dr.lind", "--password-file", str(home / "password"))
    assert done.returncode == 0, done.stderr
    return daemon, f"http://127.0.0.1:{port}/"


def learned(home: Path) -> dict[str, str]:
    """What `medd retrain` would learn besides its base data: file in the spool → label."""
    base = []
    for number in range(2):
        path = home / f"base-{number}.png"
        cv2.imwrite(str(path), np.full((64, 64), 40 * number, np.uint8))
        base.append(Sample(path, "NORMAL", f"B{number}", file_digest(path)))
    sides = {base[0].sha256[:16]: "test", base[1].sha256[:16]: "train"}
    database = Database(f"sqlite:///{home / 'medd.db'}")
    with database.read() as connection:
        merged = merge(base, find_truths(connection), sides, Spool(home / "spool"))
    database.close()
    return {sample.path.stem: sample.label for sample in merged.samples if sample.path.parent.parent.name == "spool"}


def test_an_image_arrives_rises_is_read_and_what_the_reader_says_is_learned_from(browser, tmp_path):  # noqa: F811
    home = tmp_path / "home"
    daemon, url = make_daemon(home)
    with running(daemon), visiting(browser, url) as visit:
        page = visit.page
        wait_until(lambda: "web-0 is ready" in daemon.log.read_text(), 60)
        visit.open("/")
        page.get_by_label("Name").fill("dr.lind")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_text("Nothing waits to be read")).to_be_visible()
        expect(page.locator("#live.is-live")).to_be_visible()

        # It comes by C-STORE, and rises without anybody's doing.
        page.evaluate("window.sameVisit = true")
        dark = dicom_radiograph(1, size=256, patient_id="DARK", **DARK)
        bright = dicom_radiograph(2, size=256, patient_id="BRIGHT", **BRIGHT)
        send(daemon.port, "MEDD", [dark])
        expect(page.locator("#list tr[data-place=below]")).to_contain_text("DARK")
        send(daemon.port, "MEDD", [bright])
        expect(page.locator("#list tr[data-place=finding]")).to_contain_text("BRIGHT")
        assert rows(page) == ["BRIGHT", "DARK"]
        assert page.evaluate("window.sameVisit"), "the page was not loaded again"

        page.get_by_role("link", name="BRIGHT").click()
        expect(page.locator("#viewer[data-ready]")).to_be_visible()
        change_window(visit)
        show_heat(visit)

        page.get_by_role("button", name="Disagree").click()
        expect(page.locator("#side")).to_contain_text("You say: NORMAL")
        expect(page.locator("#trail")).to_contain_text("dr.lind says NORMAL")
        [(sha256,)] = daemon.query("SELECT sha256 FROM instance WHERE patient_id = 'BRIGHT'")
        assert learned(home) == {sha256: "NORMAL"}
        page.keyboard.press("z")
        expect(page.locator("#side")).not_to_contain_text("You say")
        assert learned(home) == {}
    assert "Traceback" not in daemon.log.read_text()


def change_window(visit: Visit) -> None:
    before, look = visit.picture(), visit.page.locator("#viewer").get_attribute("data-look")
    box = visit.page.locator("#canvas").bounding_box()
    visit.page.mouse.move(box["x"] + 300, box["y"] + 300)
    visit.page.mouse.down()
    visit.page.mouse.move(box["x"] + 200, box["y"] + 380, steps=4)
    visit.page.mouse.up()
    visit.settle()
    assert visit.picture() != before
    assert visit.page.locator("#viewer").get_attribute("data-look") != look


def show_heat(visit: Visit) -> None:
    button = visit.page.get_by_role("button", name="Heat map")
    grey = visit.picture()
    with visit.page.expect_response(re.compile("/heat$")):
        button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    wait_until(lambda: visit.picture() != grey, what="the heat map")
    button.click()
    visit.settle()
    assert visit.picture() == grey


# -- a ward of films -----------------------------------------------------------------------------------------------


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    with running_web(web_settings(tmp_path / "home")) as web:
        yield Ward(web, tmp_path)


def test_all_of_it_can_be_done_by_keys_alone(browser, ward):  # noqa: F811
    for seed, p in enumerate((0.9, 0.8, 0.2)):
        ward.film(seed, p, patient_id=f"P{seed}")
    with visiting(browser, ward.web.url) as visit:
        page, press = visit.open("/"), visit.page.keyboard.press
        focused = lambda: page.evaluate("document.activeElement.textContent")  # noqa: E731
        press("j")
        assert focused() == "P0"
        press("j")
        press("ArrowDown")
        press("j")
        assert focused() == "P2", "at the end it stays"
        press("k")
        assert focused() == "P1"
        press("/")
        page.keyboard.type("P0")
        press("Enter")
        page.wait_for_url("**/?q=P0*")
        assert rows(page) == ["P0"]
        press("?")
        expect(page.get_by_role("dialog")).to_be_visible()
        press("j")
        press("Escape")
        expect(page.get_by_role("dialog")).not_to_be_visible()
        press("j")
        press("Enter")
        expect(page.locator("#viewer[data-ready]")).to_be_visible()
        before = visit.picture()
        for keys in (["i"], ["i", "Shift+ArrowUp", "Shift+ArrowLeft"], ["r", "+"]):
            for key in keys:
                press(key)
            visit.settle()
            assert visit.picture() != before
        # Held down, a key goes on moving; it reads no study after study that nobody has seen.
        held = """key => !document.body.dispatchEvent(
            new KeyboardEvent("keydown", { key, repeat: true, cancelable: true, bubbles: true }))"""
        assert [key for key in "nmacdzh+-" if page.evaluate(held, key)] == ["+", "-"]
        press("f")
        visit.settle()
        assert visit.picture() == before
        page.locator("#canvas").focus()
        press("ArrowRight")
        visit.settle()
        assert visit.picture() != before
        press("a")
        expect(page.locator("#side")).to_contain_text("You say: PNEUMONIA")
        press("c")
        expect(page.locator("#side")).to_contain_text("You say: cannot tell")
        press("z")
        expect(page.locator("#side")).not_to_contain_text("You say")
        page.get_by_label("Comment").focus()
        page.keyboard.type("a d c z m")
        expect(page.locator("#side")).not_to_contain_text("You say")
        press("Escape")
        press("d")
        expect(page.locator("#side")).to_contain_text("a d c z m")
        press("w")
        page.wait_for_url("**/?q=P0")
        expect(page.get_by_text("No study fits")).to_be_visible()


def test_who_switches_single_keys_off_triggers_nothing(browser, ward):  # noqa: F811
    ward.film(1, 0.9, StudyInstanceUID="1.2.1")
    with visiting(browser, ward.web.url) as visit:
        page = visit.open("/case?study=1.2.1")
        expect(page.locator("#viewer[data-ready]")).to_be_visible()
        page.get_by_role("button", name="Keys").click()
        page.get_by_label("Keys work without").uncheck()
        page.get_by_role("button", name="Close").click()
        before = visit.picture()
        for key in ("i", "a", "m"):
            page.keyboard.press(key)
        page.reload()
        expect(page.locator("#viewer[data-ready]")).to_be_visible()
        page.keyboard.press("i")
        visit.settle()
        assert visit.picture() == before
        expect(page.locator("#side")).not_to_contain_text("You say")


def test_read_and_next_goes_through_the_list_until_nothing_is_left(browser, ward):  # noqa: F811
    for seed, p in enumerate((0.7, 0.9, None)):
        ward.film(seed, p, patient_id=f"P{seed}")
    with visiting(browser, ward.web.url) as visit:
        page = visit.open("/")
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        for patient in ("P1", "P0", "P2"):
            expect(page.get_by_role("heading", level=1)).to_have_text(patient)
            expect(page.locator("#viewer[data-ready]")).to_be_visible()
            page.keyboard.press("m")
        expect(page.get_by_text("Nothing waits to be read")).to_be_visible()


def test_the_row_under_the_pointer_does_not_move_and_what_is_new_is_said(browser, ward):  # noqa: F811
    for seed in range(3):
        ward.film(seed, 0.6, patient_id=f"OLD{seed}")
    with visiting(browser, ward.web.url) as visit:
        page = visit.open("/")
        expect(page.locator("#live.is-live")).to_be_visible()
        row = page.locator("#list tr", has_text="OLD1")
        row.hover()
        place = row.bounding_box()
        late = ward.film(7, 0.99, patient_id="NEW")
        ward.film(8, patient_id="WAITS")
        expect(page.locator("#fresh")).to_contain_text("2 new, 1 urgent")
        assert rows(page) == ["OLD0", "OLD1", "OLD2"]
        assert row.bounding_box() == place
        assert page.title().startswith("(2) ")
        page.mouse.move(5, 5)
        expect(page.locator("#list tr").nth(1)).to_contain_text("NEW")
        assert rows(page) == ["NEW", "OLD0", "OLD1", "OLD2", "WAITS"]
        expect(page.locator("#fresh")).to_be_hidden()
        assert page.title().startswith("Worklist")

        # What changes in a row that is there is shown where it stands; and by a key at once.
        page.locator("#list tr", has_text="WAITS").hover()
        [waits] = [ward_id for ward_id in range(late, late + 3) if ward_id != late][:1]
        ward.score(waits, 0.8)
        expect(page.locator("#list tr", has_text="WAITS")).to_contain_text("0.800")
        assert rows(page)[-1] == "WAITS"
        expect(page.locator("#fresh")).to_contain_text("another order")
        page.keyboard.press("u")
        expect(page.locator("#list tr").nth(2)).to_contain_text("WAITS")


def test_the_row_with_the_focus_keeps_it_and_its_place_on_the_screen(browser, ward):  # noqa: F811
    for seed in range(12):
        ward.film(seed, 0.6 - seed / 100, patient_id=f"OLD{seed}", size=64)
    with visiting(browser, ward.web.url, viewport={"width": 1200, "height": 400}) as visit:
        page = visit.open("/")
        expect(page.locator("#live.is-live")).to_be_visible()
        for _ in range(8):
            page.keyboard.press("j")
        place = page.locator("#list tr", has_text="OLD7").bounding_box()
        ward.film(20, 0.99, patient_id="NEW", size=64)
        expect(page.locator("#list tr", has_text="NEW")).to_be_attached()
        assert page.evaluate("document.activeElement.textContent") == "OLD7"
        now = page.locator("#list tr", has_text="OLD7").bounding_box()
        assert abs(now["y"] - place["y"]) < 2
        page.keyboard.press("k")
        assert page.evaluate("document.activeElement.textContent") == "OLD6"


def test_a_page_that_hears_nothing_says_so_and_recovers(browser, ward):  # noqa: F811
    with visiting(browser, ward.web.url, faults=True) as visit:
        page = visit.open("/")
        expect(page.locator("#live.is-live")).to_be_visible()
        visit.context.set_offline(True)
        page.evaluate("dispatchEvent(new Event('offline'))")
        expect(page.locator("#live")).to_contain_text("not up to date")
        ward.film(1, 0.9, patient_id="MEANWHILE")
        visit.context.set_offline(False)
        expect(page.locator("#list")).to_contain_text("MEANWHILE")
        expect(page.locator("#live.is-live")).to_be_visible()


def test_a_result_that_comes_while_the_case_is_open_appears_there(browser, ward):  # noqa: F811
    id_ = ward.film(1, StudyInstanceUID="1.2.1")
    with visiting(browser, ward.web.url) as visit:
        page = visit.open("/case?study=1.2.1")
        expect(page.locator("#side")).to_contain_text("No model has judged this image yet")
        expect(page.locator("#trail")).to_contain_text("waits to be scored")
        ward.score(id_, 0.91)
        expect(page.locator("#side")).to_contain_text("0.910")
        expect(page.locator("#trail")).to_contain_text("stub/1: PNEUMONIA p = 0.910")
