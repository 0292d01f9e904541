"""Logging in with a real Chromium, and what other sites can make it do."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import expect

from medd.records import UserRole
from medd.store import users
from medd.store.audit import EventFilter, find_events
from medd_web import passwords
from tests.browser import PATIENCE_MS, PHONE, Visit, browser, visiting  # noqa: F401 - a fixture
from tests.web import Web, running_web, web_settings

pytestmark = pytest.mark.peers
expect.set_options(timeout=PATIENCE_MS)

PASSWORD = "four words in a row"


@pytest.fixture
def web(tmp_path) -> Iterator[Web]:
    with running_web(web_settings(tmp_path / "home", login=True)) as running:
        with running.database.write() as connection:
            hashed = passwords.hash_password(PASSWORD, "ada")
            users.add_account(connection, "ada", UserRole.ADMINISTRATOR, hashed)
        yield running


def log_in(visit: Visit, password: str = PASSWORD) -> None:
    visit.page.get_by_label("Name").fill("ada")
    visit.page.get_by_label("Password").fill(password)
    visit.page.keyboard.press("Enter")


def actions(web: Web) -> list[str]:
    with web.database.read() as connection:
        return [f"{row['action']} {row['outcome']}" for row in find_events(connection, EventFilter())]


def test_a_reader_logs_in_by_keys_changes_the_password_and_logs_out(web, browser):  # noqa: F811
    with visiting(browser, web.url) as visit:
        page = visit.open("/account")
        expect(page).to_have_url(f"{web.url}login?next=%2Faccount")
        expect(page.get_by_label("Name")).to_be_focused()
        log_in(visit, "wrong")
        expect(page.get_by_role("alert")).to_have_text("Name or password is wrong.")
        expect(page.get_by_label("Name")).to_have_value("ada")
        log_in(visit)
        expect(page).to_have_url(f"{web.url}account")
        [cookie] = visit.context.cookies()
        assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("medd_session", True, "Lax")
        assert page.evaluate("document.cookie") == ""
        page.get_by_label("The old one").fill(PASSWORD)
        page.get_by_label("The new one", exact=True).fill("other words in a row")
        page.get_by_label("The new one again").fill("other words in a row")
        page.keyboard.press("Enter")
        expect(page).to_have_url(f"{web.url}login")
        log_in(visit, "other words in a row")
        expect(page.locator("details.menu summary")).to_have_text("ada")
        page.locator("details.menu summary").focus()
        page.keyboard.press("Enter")
        page.get_by_role("link", name="Audit trail").click()
        expect(page.locator("tbody tr").first).to_contain_text("audit read")
        page.locator("details.menu summary").click()
        page.get_by_role("button", name="Log out").click()
        expect(page).to_have_url(f"{web.url}login")
        visit.open("/audit")
        expect(page).to_have_url(f"{web.url}login?next=%2Faudit")
        page.go_back()
        assert "audit read" not in page.content(), "no page of before is kept"
    assert "user_changed success" in actions(web)


def test_light_and_dark_are_chosen_and_kept(web, browser):  # noqa: F811
    with visiting(browser, web.url, color_scheme="dark") as visit:
        page = visit.open("/login")

        def ground() -> str:
            return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

        dark = ground()
        page.get_by_role("button", name="Switch between light and dark").click()
        light = ground()
        assert dark != light
        page.reload()
        assert ground() == light
        assert page.evaluate("Object.keys(localStorage)") == ["medd-theme"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_form_has_no_barrier_and_fits_a_phone(web, browser, scheme):  # noqa: F811
    with visiting(browser, web.url, color_scheme=scheme, **PHONE) as visit:
        visit.open("/login")
        log_in(visit, "wrong")
        visit.page.get_by_role("alert").wait_for()
        assert visit.barriers() == []
        wide, window = visit.width()
        assert wide <= window
        log_in(visit)
        visit.page.wait_for_url("**/")
        for path in ("/account", "/audit", "/nowhere"):
            visit.open(path)
            assert visit.barriers() == [], path
            wide, window = visit.width()
            assert wide <= window, path


ATTACK = """<!doctype html><title>cats</title>
<form id="f" method="post" action="{url}account/sessions"><input name="a" value="b"></form>
<iframe id="frame" src="{url}login"></iframe>
<script>
window.told = fetch("{url}account/sessions", {{method: "POST", credentials: "include", mode: "no-cors",
  headers: {{"Content-Type": "text/plain"}}, body: "{{}}"}}).then((r) => r.type, (e) => "refused");
window.read = fetch("{url}account", {{credentials: "include"}}).then((r) => r.text(), () => "refused");
</script>"""


@contextmanager
def attacker(url: str, host: str) -> Iterator[str]:
    """Another site, whose page does what it can with ours."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(ATTACK.format(url=url).encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://{host}:{server.server_port}/"
        finally:
            server.shutdown()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"], ids=["of the same host", "of another"])
def test_a_page_of_another_site_can_neither_do_nor_read_nor_show_anything(web, browser, host):  # noqa: F811
    with attacker(web.url, host) as evil, visiting(browser, web.url, faults=True) as visit:
        page = visit.open("/login?next=/account")
        log_in(visit)
        expect(page).to_have_url(f"{web.url}account")
        page.goto(evil)
        assert page.evaluate("window.told") in ("opaque", "refused")
        assert page.evaluate("window.read") == "refused"
        inside = page.frame(url="chrome-error://chromewebdata/")
        assert inside is not None, "our page is in no frame"
        with page.expect_navigation():
            page.evaluate("document.getElementById('f').submit()")
        assert "another site sent this request" in page.content()
        assert "logged_out success" not in actions(web)
        visit.open("/account")
        expect(page).to_have_url(f"{web.url}account")  # the session goes on


def test_without_log_in_a_page_of_another_site_comes_to_nothing_as_well(tmp_path, browser):  # noqa: F811
    with running_web(web_settings(tmp_path / "home")) as web, attacker(web.url, "127.0.0.1") as evil:
        with visiting(browser, web.url, faults=True) as visit:
            visit.page.goto(evil)
            visit.page.evaluate("window.told")
            assert visit.page.evaluate("window.read") == "refused"
        assert "logged_out success" not in actions(web)


def test_a_name_that_another_site_lets_point_here_leads_nowhere(web, browser):  # noqa: F811
    # DNS rebinding, as Chromium itself would see it: the name resolves to this machine.
    port = web.url.rstrip("/").rsplit(":", 1)[1]
    with visiting(browser, web.url, faults=True) as visit:
        answer = visit.page.goto(f"http://evil.localhost:{port}/login")
        assert answer is not None
        assert answer.status == 421
