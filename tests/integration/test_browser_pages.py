"""Every page in a real Chromium: for who does not see well, in light and in dark, on a phone, with hostile data."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from medd.dicom.source import lenient
from medd.records import UserRole
from medd.store import users
from medd.testing import dicom_radiograph
from medd_web import passwords
from tests.browser import PATIENCE_MS, PHONE, Visit, browser, visiting  # noqa: F401 - a fixture
from tests.ward import Ward
from tests.web import Web, running_web, web_settings

pytestmark = pytest.mark.peers
expect.set_options(timeout=PATIENCE_MS)

PASSWORD = "four words in a row"
HOSTILE = "<script>alert(1)</script>'\"><img src=x onerror=alert(2)>\u202eevil\u2066"


@pytest.fixture(scope="module")
def web(tmp_path_factory) -> Iterator[Web]:
    """A server with log-in, an administrator, and a case of every kind, with what no well-meaning peer would write."""
    folder = tmp_path_factory.mktemp("pages")
    with running_web(web_settings(folder / "home", login=True)) as running:
        with running.database.write() as connection:
            hashed = passwords.hash_password(PASSWORD, "boss")
            users.add_account(connection, "boss", UserRole.ADMINISTRATOR, hashed)
        fill(Ward(running, folder))
        yield running


def fill(ward: Ward) -> None:
    ward.film(1, 0.9, StudyInstanceUID="1.2.1", patient_id="P")
    ward.film(2, 0.2, StudyInstanceUID="1.2.2", patient_id="P")
    ward.refuse(ward.film(3, StudyInstanceUID="1.2.3", patient_id="P"))
    ward.film(4, StudyInstanceUID="1.2.4", minutes_ago=300)
    for seed, probability in ((5, 0.8), (6, None)):
        ward.film(seed, probability, StudyInstanceUID="1.2.5")
    film = dicom_radiograph(7, size=64, StudyInstanceUID="1.2.6", SpecificCharacterSet="ISO_IR 192")
    with lenient():
        film.PatientName = (HOSTILE * 3000)[:64_000]
        film.PatientID = film.AccessionNumber = film.StationName = film.Manufacturer = HOSTILE
        film.PatientComments = film.ImageComments = film.StudyDescription = HOSTILE
        ward.score(ward.receive(film, origin=f"file:{HOSTILE}"), 0.95, seed=7)
    long = dicom_radiograph(8, size=64, StudyInstanceUID="1.2.7", patient_id="W" * 64)
    with lenient():
        long.StationName = "M" * 300
        ward.score(ward.receive(long, origin=f"file:{'i' * 400}"), 0.1)


CASES = [f"/case?study=1.2.{number}" for number in range(1, 8)]
LISTS = ["/", "/?read=all&q=P", "/?q=nobody", "/login", "/nowhere"]


def pages(visit: Visit) -> Iterator[str]:
    """Go to every page there is, those that links lead to included; of each path once, but for the cases."""
    ahead, seen = [*LISTS, *CASES], set()
    while ahead:
        path = ahead.pop(0)
        seen.add(path.partition("?")[0])
        if not is_page(visit, path):
            continue
        for found in visit.page.eval_on_selector_all("a[href]", "all => all.map(one => one.getAttribute('href'))"):
            link = found.partition("#")[0]
            if link.startswith("/") and link.partition("?")[0] not in seen and link not in ahead:
                ahead.append(link)
        yield path


def log_in(visit: Visit) -> None:
    visit.open("/login")
    visit.page.get_by_label("Name").fill("boss")
    visit.page.get_by_label("Password").fill(PASSWORD)
    visit.page.get_by_role("button", name="Log in").click()
    visit.page.wait_for_url("**/")


def is_page(visit: Visit, path: str) -> bool:
    """Go there; whether it is one for people, in full."""
    answer = visit.page.goto(path)
    assert answer is not None
    assert answer.status != 500, path
    if "text/html" not in answer.headers.get("content-type", "") or not visit.page.locator("main").count():
        return False
    if path.startswith("/case?"):
        expect(visit.page.locator("#trail .steps")).to_be_visible()
        expect(visit.page.locator("#viewer[data-ready]")).to_be_visible()
    return True


# Dark and light differ in colours alone.
@pytest.mark.parametrize(("scheme", "rules"), [("light", ()), ("dark", ("color-contrast",))], ids=["light", "dark"])
def test_axe_finds_no_serious_barrier_on_any_page(browser, web, scheme, rules):  # noqa: F811
    with visiting(browser, web.url, color_scheme=scheme) as visit:
        assert visit.open("/login").title()
        check(visit, "/login", *rules)
        log_in(visit)
        seen = {path for path in pages(visit) if check(visit, path, *rules)}
        assert {"/", *CASES, "/models", "/operations", "/upload", "/account"} <= seen
        visit.open("/")
        visit.page.keyboard.press("?")
        check(visit, "the dialog", *rules)


def check(visit: Visit, path: str, *rules: str) -> bool:
    assert visit.barriers(*rules) == [], path
    return True


def test_on_a_phone_nothing_is_wider_than_the_screen(browser, web):  # noqa: F811
    with visiting(browser, web.url, color_scheme="dark", **PHONE) as visit:
        log_in(visit)
        for path in pages(visit):
            wide, window = visit.width()
            assert (window, wide <= window) == (390, True), f"{path}: {wide} of {window}"
        visit.open("/case?study=1.2.6")
        check(visit, "a case on a phone")
        visit.open("/")
        check(visit, "the list on a phone")


def test_the_switch_between_light_and_dark_holds(browser, web):  # noqa: F811
    ground = "getComputedStyle(document.body).backgroundColor"
    with visiting(browser, web.url, color_scheme="light") as visit:
        log_in(visit)
        light = visit.page.evaluate(ground)
        visit.page.get_by_role("button", name="Switch between light and dark").click()
        dark = visit.page.evaluate(ground)
        visit.open("/case?study=1.2.1")
        assert light != dark == visit.page.evaluate(ground)


def test_what_a_peer_wrote_is_text_on_every_page_and_runs_nowhere(browser, web):  # noqa: F811
    with visiting(browser, web.url) as visit:  # a dialog, or a script that is refused, fails it
        log_in(visit)
        shown = 0
        for path in pages(visit):
            text = visit.page.locator("body").inner_text()
            shown += "<script>alert(1)</script>" in text
            assert not set("\u202e\u2066") & set(visit.page.content()), path
            assert visit.page.locator("img[src=x]").count() == 0, path
            assert len(visit.page.content()) < 200_000, path
        assert shown >= 2, "the list and the case show it"
        visit.open("/case?study=1.2.6")
        name = visit.page.locator(".case-who span").first.inner_text()
        assert name.startswith("<script>alert(1)</script>'\"><img src")
        assert len(name) <= 64
        visit.page.get_by_label("Comment").fill(HOSTILE[:200])
        visit.page.get_by_role("button", name="Cannot tell").click()
        expect(visit.page.locator(".said")).to_contain_text("<script>alert(1)</script>")


def test_every_page_says_that_it_is_for_research_only(browser, web):  # noqa: F811
    with visiting(browser, web.url) as visit:
        log_in(visit)
        for _ in pages(visit):
            expect(visit.page.get_by_role("note").first).to_contain_text("Not for diagnosis")
