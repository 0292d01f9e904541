"""The upload page in a real Chromium, and the page that explains the interfaces."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from playwright.sync_api import expect

from medd.store.tables import instance
from medd.testing import cheap_series, jpeg_radiograph
from tests.browser import PATIENCE_MS, PHONE, browser, visiting  # noqa: F401 - a fixture
from tests.web import Web, running_web, web_settings

pytestmark = pytest.mark.peers
expect.set_options(timeout=PATIENCE_MS)

NASTY = "<img src=x onerror=alert(1)>\u202e.dcm"
#: What the browser does when files are dropped, with the bytes that it read.
DROP = """([name, content]) => {
    const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name));
    const zone = document.getElementById("drop");
    for (const kind of ["dragover", "drop"])
        zone.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with running_web(web_settings(tmp_path_factory.mktemp("upload") / "home", max_upload_mib=1)) as running:
        yield running


def origins(web: Web) -> set[str]:
    with web.database.read() as connection:
        return set(connection.scalars(sa.select(instance.c.origin)))


def test_files_are_chosen_dropped_sent_and_told_of(browser, web, tmp_path: Path):  # noqa: F811
    films = list(cheap_series(6, rows=64, columns=64))
    files = [tmp_path / f"film {number}.dcm" for number in range(4)]
    for file, data in zip(files, films, strict=False):
        file.write_bytes(data)
    (tmp_path / "again.dcm").write_bytes(films[0])
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "large.png").write_bytes(bytes(2 << 20))
    with visiting(browser, web.url) as visit:
        page = visit.open("/upload")
        expect(page.get_by_role("button", name="Upload")).to_be_hidden()
        page.set_input_files("#files", [*files, tmp_path / "notes.txt", tmp_path / "large.png"])
        expect(page.locator("#summary")).to_have_text("6 of 6 done, 2 refused.")
        expect(page.locator("#list .badge", has_text="received")).to_have_count(4)
        expect(page.locator("#list tr", has_text="notes.txt")).to_contain_text("neither a DICOM object nor")
        expect(page.locator("#list tr", has_text="large.png")).to_contain_text("larger than 1.0 MiB")
        page.set_input_files("#files", [tmp_path / "again.dcm"])
        expect(page.locator("#list tr", has_text="again.dcm")).to_contain_text("known")
        page.evaluate(DROP, [NASTY, base64.b64encode(films[4]).decode()])
        page.evaluate(DROP, ["a film.jpg", base64.b64encode(jpeg_radiograph(1)).decode()])
        expect(page.locator("#summary")).to_have_text("9 of 9 done, 1 known already, 2 refused.")
        expect(page.locator("#list th", has_text="onerror")).to_have_text(NASTY)
        assert visit.barriers() == []
        page.locator("#list tr", has_text="film 2.dcm").get_by_role("link", name="Open").click()
        expect(page).to_have_url(re.compile(r"/case\?study="))
    kept = origins(web)
    assert {f"upload://local@127.0.0.1/film {number}.dcm" for number in range(4)} <= kept
    assert len(kept) == 6
    assert not any("\u202e" in origin for origin in kept)


def test_a_file_that_could_not_be_sent_is_sent_again(browser, web, tmp_path: Path):  # noqa: F811
    [*_, data] = cheap_series(1, rows=64, columns=64, seed=5)
    (tmp_path / "late.dcm").write_bytes(data)
    with visiting(browser, web.url, faults=True) as visit:
        page = visit.open("/upload")
        page.route("**/upload", lambda route: route.abort() if route.request.method == "POST" else route.continue_())
        page.set_input_files("#files", [tmp_path / "late.dcm"])
        row = page.locator("#list tr", has_text="late.dcm")
        expect(row).to_contain_text("the server does not answer")
        page.unroute("**/upload")
        row.get_by_role("button", name="Try again").click()
        expect(row.get_by_role("link", name="Open")).to_be_visible()
        expect(page.locator("#summary")).to_have_text("1 of 1 done.")


@pytest.mark.parametrize("options", [{"color_scheme": "light"}, {"color_scheme": "dark"}, PHONE])
def test_upload_and_reference_for_everybody(browser, web, options):  # noqa: F811
    with visiting(browser, web.url, **options) as visit:
        for path in ("/upload", "/api/v1/docs"):
            page = visit.open(path)
            for closed in page.locator("details:not([open]) > summary").all()[:3] if path.startswith("/api") else []:
                closed.click()
            assert visit.barriers() == []
            wide, window = visit.width()
            assert wide <= window


def test_without_scripts_the_form_does_the_same(browser, web, tmp_path: Path):  # noqa: F811
    [data] = cheap_series(1, rows=64, columns=64, seed=6)
    (tmp_path / "plain.dcm").write_bytes(data)
    with visiting(browser, web.url, java_script_enabled=False) as visit:
        page = visit.open("/upload")
        page.set_input_files("#files", [tmp_path / "plain.dcm"])
        page.get_by_role("button", name="Upload").click()
        row = page.locator("#list tr", has_text="plain.dcm")
        expect(row).to_contain_text("received")
        expect(row.get_by_role("link", name="Open")).to_be_visible()
    assert "upload://local@127.0.0.1/plain.dcm" in origins(web)
