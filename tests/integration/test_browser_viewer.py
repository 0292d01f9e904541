"""The viewer: what mouse, fingers and keys do to the pixels of a canvas in a real Chromium."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

from medd.testing import dicom_radiograph
from medd_web import picture
from tests.browser import PATIENCE_MS, PHONE, Visit, browser, visiting  # noqa: F401 - a fixture
from tests.support import wait_until
from tests.unit.imaging.conftest import film_dataset
from tests.ward import Ward
from tests.web import running_web, web_settings

pytestmark = pytest.mark.peers
expect.set_options(timeout=PATIENCE_MS)
STUDY = "1.2.1"


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    with running_web(web_settings(tmp_path / "home")) as web:
        yield Ward(web, tmp_path)


def look(visit: Visit) -> str:
    return str(visit.page.locator("#viewer").get_attribute("data-look"))


def open_case(visit: Visit, more: str = "") -> None:
    visit.open(f"/case?study={STUDY}{more}")
    expect(visit.page.locator("#viewer[data-ready]")).to_be_visible()
    visit.settle()


def steps(bits: int, photometric: str = "MONOCHROME2"):
    """A film of four grey fields, in values of so many bits: 0, 1/4, 1/2 and all of it, from left to right."""
    white = (1 << bits) - 1
    stored = np.repeat(np.array([0, white // 4, white // 2, white]), 64)[None].repeat(256, 0)
    film = film_dataset(stored.astype(np.uint8 if bits == 8 else np.uint16), PhotometricInterpretation=photometric)
    film.BitsStored, film.HighBit = bits, bits - 1
    film.StudyInstanceUID, film.SeriesInstanceUID, film.SOPInstanceUID = STUDY, "1.2.2", "1.2.3"
    film.file_meta.MediaStorageSOPClassUID, film.file_meta.MediaStorageSOPInstanceUID = film.SOPClassUID, "1.2.3"
    film.WindowCenter, film.WindowWidth = (white + 1) / 2, white + 1
    return film


def fields(visit: Visit) -> list[int]:
    """The four fields as they are drawn; the film is fitted, so it stands in the middle."""
    share = visit.page.evaluate("(c => c.height / c.width)(document.getElementById('canvas'))")
    return [visit.pixel(0.5 + share * (field / 4 - 0.375))[0] for field in range(4)]


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_the_canvas_shows_what_the_object_asks_for_and_each_value_can_be_brought_out(browser, ward, bits):  # noqa: F811
    ward.receive(steps(bits))
    with visiting(browser, ward.web.url) as visit:
        open_case(visit)
        np.testing.assert_allclose(fields(visit), [0, 64, 127, 255], atol=2)
        white = (1 << bits) - 1
        visit.page.locator("#center").fill(str(white / 4))
        visit.page.locator("#width").fill(str(white / 8))
        visit.page.locator("#width").press("Enter")
        visit.settle()
        np.testing.assert_allclose(fields(visit), [0, 127, 255, 255], atol=5)
        visit.page.keyboard.press("Escape")
        visit.page.keyboard.press("i")
        visit.settle()
        np.testing.assert_allclose(fields(visit), [255, 128, 0, 0], atol=5)
        visit.page.keyboard.press("r")
        visit.settle()
        np.testing.assert_allclose(fields(visit), [0, 64, 127, 255], atol=2)


def test_a_film_whose_large_values_are_dark_is_shown_so_in_every_window(browser, ward):  # noqa: F811
    ward.receive(steps(12, "MONOCHROME1"))
    with visiting(browser, ward.web.url) as visit:
        open_case(visit)
        np.testing.assert_allclose(fields(visit), [255, 191, 128, 0], atol=2)
        visit.page.locator("#window").select_option("all")
        visit.settle()
        np.testing.assert_allclose(fields(visit), [255, 191, 128, 0], atol=2)


def test_presets_are_those_of_the_object_and_three_more(browser, ward):  # noqa: F811
    film = steps(12)
    film.WindowCenter, film.WindowWidth = [2048, 1024], [4096, 200]
    ward.receive(film)
    with visiting(browser, ward.web.url) as visit:
        open_case(visit)
        choices = visit.page.locator("#window option").all_inner_texts()
        assert choices == ["as sent", "1024 / 200", "all values", "1 % to 99 %", "own"]
        visit.page.locator("#window").select_option("1")
        visit.settle()
        np.testing.assert_allclose(fields(visit), [0, 127, 255, 255], atol=3)
        visit.page.locator("#window").select_option("auto")
        visit.settle()
        assert look(visit).startswith("auto ")


def test_the_mouse_changes_window_place_and_size(browser, ward):  # noqa: F811
    ward.receive(dicom_radiograph(1, size=256, StudyInstanceUID=STUDY))
    with visiting(browser, ward.web.url) as visit:
        open_case(visit)
        page, mouse = visit.page, visit.page.mouse
        box = page.locator("#canvas").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

        def drag(dx: int, dy: int, **options: str) -> None:
            mouse.move(x, y)
            mouse.down(**options)
            mouse.move(x + dx, y + dy, steps=3)
            mouse.up(**options)
            visit.settle()

        first = visit.picture()
        drag(100, 0)
        _, center, width = look(visit).split()
        assert (center, int(width) > 4096) == ("2048", True)
        drag(0, 100)
        assert int(look(visit).split()[1]) > 2048
        page.keyboard.press("r")
        visit.settle()
        assert visit.picture() == first

        sent = look(visit)
        drag(80, 40, button="right")
        assert (look(visit), visit.picture() == first) == (sent, False)
        mouse.dblclick(x, y)
        visit.settle()
        assert visit.picture() == first
        page.get_by_role("button", name="Move").click()
        drag(80, 40)
        assert (look(visit), visit.picture() == first) == (sent, False)
        page.keyboard.press("f")

        shown = page.locator("#readout").inner_text()
        mouse.move(x, y)
        mouse.wheel(0, -400)
        visit.settle()
        assert page.locator("#readout").inner_text() != shown
        middle = visit.pixel()
        page.keyboard.press("f")
        visit.settle()
        assert max(abs(a - b) for a, b in zip(visit.pixel(), middle, strict=True)) < 40, "it grows around the pointer"
        mouse.move(x + 1, y + 1)
        assert page.locator("#readout").inner_text().count(":") == 1, "the value under the pointer"


def test_the_heat_map_is_laid_over_as_strongly_as_one_wants(browser, ward):  # noqa: F811
    id_ = ward.receive(dicom_radiograph(1, size=256, StudyInstanceUID=STUDY))
    ward.score(id_, 0.9, seed=1)
    with visiting(browser, ward.web.url) as visit:
        open_case(visit)
        grey = visit.picture()
        visit.page.keyboard.press("h")
        wait_until(lambda: visit.picture() != grey, what="the heat map")
        warm = visit.picture()
        visit.page.locator("#opacity").fill("0")
        visit.settle()
        assert visit.picture() == grey
        visit.page.locator("#opacity").fill("100")
        visit.settle()
        assert visit.picture() not in (grey, warm)


def test_fingers_pinch_and_move_on_a_phone(browser, ward):  # noqa: F811
    ward.receive(dicom_radiograph(1, size=256, StudyInstanceUID=STUDY))
    with visiting(browser, ward.web.url, **PHONE) as visit:
        open_case(visit)
        before, shown = visit.picture(), visit.page.locator("#readout").inner_text()
        box = visit.page.locator("#canvas").bounding_box()
        devtools = visit.context.new_cdp_session(visit.page)
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

        def touch(kind: str, apart: float) -> None:
            points = [{"x": x - apart, "y": y, "id": 1}, {"x": x + apart, "y": y, "id": 2}]
            devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points if apart else []})

        touch("touchStart", 20)
        for apart in (40, 60, 80):
            touch("touchMove", apart)
        touch("touchEnd", 0)
        visit.settle()
        assert visit.picture() != before
        assert visit.page.locator("#readout").inner_text() != shown
        visit.page.get_by_role("button", name="Reset").click()
        visit.settle()
        assert visit.picture() == before


def test_a_window_that_changes_its_size_shows_the_whole_film_again(browser, ward):  # noqa: F811
    ward.receive(steps(8))
    with visiting(browser, ward.web.url) as visit:
        open_case(visit)
        visit.page.set_viewport_size({"width": 1000, "height": 700})
        wait_until(lambda: np.allclose(fields(visit), [0, 64, 127, 255], atol=2), what="the whole film")


def test_an_image_that_cannot_be_shown_says_why_and_the_rest_of_the_case_stays(browser, ward):  # noqa: F811
    ward.receive(dicom_radiograph(1, size=256, StudyInstanceUID=STUDY, patient_id="P1"))
    [path] = ward.web.context.spool.root.glob("*/*.dcm")
    path.write_bytes(path.read_bytes()[:-5000])
    with visiting(browser, ward.web.url) as visit:
        page = visit.open(f"/case?study={STUDY}")
        expect(page.locator("#message")).to_contain_text("This image cannot be shown")
        expect(page.locator("#message")).to_contain_text("cannot be decoded")
        page.keyboard.press("i")
        expect(page.get_by_role("heading", level=1)).to_have_text("P1")


def test_a_busy_server_is_asked_again(browser, ward, monkeypatch):  # noqa: F811
    ward.receive(steps(8))
    for _ in range(picture.DECODING + picture.WAITING):
        assert picture._waiting.acquire(blocking=False)
    released = False
    try:
        with visiting(browser, ward.web.url) as visit:
            with visit.page.expect_response(lambda answer: answer.status == 503):
                visit.open(f"/case?study={STUDY}")
            for _ in range(picture.DECODING + picture.WAITING):
                picture._waiting.release()
            released = True
            expect(visit.page.locator("#viewer[data-ready]")).to_be_visible()
    finally:
        if not released:
            for _ in range(picture.DECODING + picture.WAITING):
                picture._waiting.release()


def test_several_images_of_a_study_are_a_click_or_a_key_apart(browser, ward):  # noqa: F811
    ids = [ward.film(seed, StudyInstanceUID=STUDY, size=64) for seed in range(3)]
    with visiting(browser, ward.web.url) as visit:
        open_case(visit)
        image = lambda: int(visit.page.locator("#viewer").get_attribute("data-image"))  # noqa: E731
        assert image() == ids[0]
        visit.page.keyboard.press(".")
        visit.page.wait_for_url(f"**image={ids[1]}")
        visit.page.get_by_role("navigation", name="Images of this study").get_by_role("link").nth(2).click()
        visit.page.wait_for_url(f"**image={ids[2]}")
        expect(visit.page.locator("#viewer[data-ready]")).to_be_visible()
        visit.page.keyboard.press(",")
        visit.page.wait_for_url(f"**image={ids[1]}")
