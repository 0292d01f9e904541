"""Who may come in, how long, and what he may do: a real server over real HTTP."""

import logging
import re
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import httpx
import pytest
from fastapi import APIRouter, Depends, Request

from medd.errors import SettingsError, TransientError
from medd.records import UserRole
from medd.settings import TlsSettings
from medd.store import users
from medd.store.audit import Event, EventFilter, add_event, find_events
from medd.store.tables import session
from medd_web import app as application
from medd_web import passwords
from medd_web.auth import User, administrator, operator, reader
from medd_web.server import build
from tests.certificates import Authority
from tests.support import free_port
from tests.web import BROWSER, Web, running_web, web_settings

PASSWORD = "four words in a row"
#: Hashing is meant to be slow: once for all tests.
HASHED = passwords.hash_password(PASSWORD, "nobody")

probes = APIRouter()


@probes.get("/probe/reader")
def read(request: Request, user: Annotated[User, Depends(reader)]) -> dict[str, str]:
    return {"name": user.name, "role": user.role}


@probes.post("/probe/operator")
def operate(request: Request, user: Annotated[User, Depends(operator)]) -> dict[str, str]:
    return {"name": user.name}


@probes.delete("/api/v1/probe/{study}")
def administer(study: str, user: Annotated[User, Depends(administrator)]) -> dict[str, str]:
    return {"name": user.name}


@probes.get("/api/v1/fault")
def fail(user: Annotated[User, Depends(reader)]) -> None:
    raise RuntimeError("a fault with GEHEIM^KARLA in it")


@probes.get("/api/v1/away")
def away(user: Annotated[User, Depends(reader)]) -> None:
    raise TransientError("database: away")


@pytest.fixture(autouse=True)
def _probes(monkeypatch: pytest.MonkeyPatch) -> None:
    make = application.create_app

    def with_probes(settings):
        app = make(settings)
        app.include_router(probes)
        return app

    monkeypatch.setattr(application, "create_app", with_probes)


def add_people(web: Web) -> None:
    with web.database.write() as connection:
        for name, role in (("rita", "reader"), ("otto", "operator"), ("ada", "administrator")):
            users.add_account(connection, name, UserRole(role), HASHED)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    with running_web(web_settings(tmp_path / "home", login=True)) as web:
        add_people(web)
        yield web


def log_in(browser: httpx.Client, name: str = "rita", password: str = PASSWORD, **more: str) -> httpx.Response:
    return browser.post("/login", data={"name": name, "password": password, **more})


def make_token(web: Web, name: str) -> dict[str, str]:
    with web.database.write() as connection:
        return {"Authorization": f"Bearer {users.add_token(connection, name, 'test', 1)}"}


def events(web: Web) -> list[tuple[str, str, str]]:
    """Who did what with which outcome, oldest first."""
    with web.database.read() as connection:
        rows = list(find_events(connection, EventFilter()))
    return [(row["account"], row["action"], str(row["outcome"])) for row in reversed(rows)]


# Logging in


def test_who_is_not_logged_in_is_led_to_the_form_and_then_to_the_page_he_wanted(web):
    with web.browser() as browser:
        first = browser.get("/probe/reader?study=1.2.3")
        assert (first.status_code, first.headers["location"]) == (303, "/login?next=%2Fprobe%2Freader%3Fstudy%3D1.2.3")
        form = browser.get(first.headers["location"])
        assert 'value="/probe/reader?study=1.2.3"' in form.text
        assert "Research use only" in form.text
        done = log_in(browser, "Rita", next="/probe/reader?study=1.2.3")
        assert (done.status_code, done.headers["location"]) == (303, "/probe/reader?study=1.2.3")
        assert browser.get(done.headers["location"]).json() == {"name": "rita", "role": "reader"}
        assert browser.get("/login").headers["location"] == "/"
    assert events(web) == [("", "server_started", "success"), ("rita", "logged_in", "success")]


def test_the_cookie_is_kept_from_scripts_and_from_other_sites(web):
    with web.browser() as browser:
        [cookie] = log_in(browser).headers.get_list("set-cookie")
    parts = [part.strip().lower() for part in cookie.split(";")]
    assert {"httponly", "samesite=lax", "path=/", "max-age=43200"} <= set(parts)
    assert "secure" not in parts, "over http a browser would throw it away"
    value = parts[0].split("=")[1]
    assert len(value) == 43


@pytest.mark.parametrize(
    ("name", "password"),
    [("rita", "wrong"), ("rita", ""), ("nobody", PASSWORD), ("rita' OR 1=1 --", PASSWORD), ("rita\0", PASSWORD)],
)
def test_a_wrong_name_and_a_wrong_password_are_answered_alike(web, name, password):
    with web.browser() as browser:
        refused = log_in(browser, name, password)
        assert refused.status_code in (400, 401, 422)
        assert "set-cookie" not in refused.headers
        if refused.status_code == 401:
            assert "Name or password is wrong." in refused.text
        assert browser.get("/probe/reader").status_code == 303


def test_a_disabled_user_a_program_and_a_stranger_are_answered_alike_and_as_slowly(web, monkeypatch):
    hashed = []
    monkeypatch.setattr(passwords, "is_right", lambda password, stored: hashed.append(stored) or stored is not None)
    with web.database.write() as connection:
        users.change_account(connection, "otto", disabled=True)
        users.add_account(connection, "robot", UserRole.READER, None)
    with web.browser() as browser:
        answers = [log_in(browser, name) for name in ("otto", "robot", "stranger")]
    assert {answer.status_code for answer in answers} == {401}
    assert hashed == [None] * 3, "a hash is made for each of them"
    assert [who for who, what, _ in events(web) if what == "logged_in"] == ["otto", "robot", ""]


def test_a_name_that_may_be_a_password_is_written_down_nowhere(web, caplog):
    with caplog.at_level(logging.DEBUG), web.browser() as browser:
        assert log_in(browser, "GEHEIM-my-password").status_code == 401
    with web.database.read() as connection:
        rows = str(list(find_events(connection, EventFilter())))
    assert "geheim" not in rows.lower()
    assert "geheim" not in caplog.text.lower()


def test_tries_are_limited_for_a_user_and_the_right_password_must_wait_too(web):
    with web.browser() as browser:
        assert [log_in(browser, password="wrong").status_code for _ in range(6)] == [401] * 5 + [429]
        late = log_in(browser)
        assert late.status_code == 429
        assert 0 < int(late.headers["retry-after"]) <= 61
        assert "Try again in" in late.text
        assert log_in(browser, "otto").status_code == 303, "another user is not held up"


def test_whoever_logs_in_gets_a_new_session_and_his_old_one_ends(web):
    with web.browser() as browser:
        log_in(browser)
        first = browser.cookies["medd_session"]
        log_in(browser, "ada")
        assert browser.cookies["medd_session"] != first
        assert browser.get("/probe/reader").json()["name"] == "ada"
    with web.browser(cookies={"medd_session": first}) as old:
        assert old.get("/probe/reader").status_code == 303


def test_a_cookie_that_somebody_else_has_set_is_never_taken_over(web):
    with web.browser(cookies={"medd_session": "fixed-by-an-attacker"}) as browser:
        log_in(browser)
        values = {cookie.value for cookie in browser.cookies.jar}
    with web.browser(cookies={"medd_session": "fixed-by-an-attacker"}) as attacker:
        assert attacker.get("/probe/reader").status_code == 303
    assert len(values - {"fixed-by-an-attacker"}) == 1


# Sessions


def test_an_expired_session_is_none(web):
    with web.browser() as browser:
        log_in(browser)
        assert browser.get("/probe/reader").status_code == 200
        with web.database.write() as connection:
            connection.execute(session.update().values(expires_at=datetime.now(UTC) - timedelta(seconds=1)))
        assert browser.get("/probe/reader").headers["location"].startswith("/login")
        piece = browser.get("/probe/reader", headers={"HX-Request": "true"})
        assert (piece.status_code, piece.headers["hx-redirect"]) == (401, "/login")


def test_logging_out_ends_the_session_also_for_who_copied_the_cookie(web):
    with web.browser() as browser:
        log_in(browser)
        copied = dict(browser.cookies)
        assert browser.post("/logout").headers["location"] == "/login"
        assert "medd_session" not in browser.cookies
    with web.browser(cookies=copied) as thief:
        assert thief.get("/probe/reader").status_code == 303
    assert events(web)[-1] == ("rita", "logged_out", "success")


def test_a_user_takes_a_new_password_and_is_logged_out_everywhere(web):
    other = "quite another row of words"
    with web.browser() as browser, web.browser() as elsewhere:
        log_in(browser)
        log_in(elsewhere)
        account = browser.get("/account")
        assert "rita" in account.text
        assert browser.post("/account/password", data={"old": "x", "new": other, "again": other}).status_code == 400
        assert browser.post("/account/password", data={"old": PASSWORD, "new": other, "again": "y"}).status_code == 400
        short = browser.post("/account/password", data={"old": PASSWORD, "new": "short", "again": "short"})
        assert (short.status_code, "12 to 256 characters" in short.text) == (400, True)
        assert "short" not in short.text.replace("too short", "")
        done = browser.post("/account/password", data={"old": PASSWORD, "new": other, "again": other})
        assert done.headers["location"] == "/login"
        for client in (browser, elsewhere):
            assert client.get("/probe/reader").status_code == 303
        assert log_in(browser).status_code == 401
        assert log_in(browser, password=other).status_code == 303
        assert browser.post("/account/sessions").headers["location"] == "/login"
        assert browser.get("/probe/reader").status_code == 303


def test_with_a_new_password_the_tokens_can_be_taken_back(web):
    token, other = make_token(web, "rita"), "quite another row of words"
    wanted = {"old": PASSWORD, "new": other, "again": other, "tokens": "true"}
    with web.browser() as browser:
        log_in(browser)
        assert "1 still hold" in browser.get("/account").text
        assert browser.post("/account/password", data=wanted).status_code == 303
    assert web.client.get("/probe/reader", headers=token).status_code == 401


def test_a_password_that_is_changed_while_it_is_looked_at_opens_nothing(web, monkeypatch):
    right = passwords.is_right

    def change_meanwhile(password, hashed):
        with web.database.write() as connection:
            users.change_account(connection, "rita", password="another hash")
        return right(password, hashed)

    monkeypatch.setattr(passwords, "is_right", change_meanwhile)
    with web.browser() as browser:
        assert log_in(browser).status_code == 401
        assert browser.get("/probe/reader").status_code == 303


# Roles and tokens


def test_each_role_may_what_is_its_own_and_no_more(web):
    allowed = {}
    for name in ("rita", "otto", "ada"):
        shown = make_token(web, name)
        allowed[name] = [
            web.client.get("/probe/reader", headers=shown).status_code,
            web.client.post("/probe/operator", headers=shown).status_code,
            web.client.delete("/api/v1/probe/1.2.3", headers=shown).status_code,
        ]
    assert allowed == {"rita": [200, 403, 403], "otto": [200, 200, 403], "ada": [200, 200, 200]}


def test_a_refused_right_is_told_and_kept(web):
    refused = web.client.delete("/api/v1/probe/1.2.3", headers=make_token(web, "rita"))
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json() == {
        "type": "about:blank",
        "title": "Forbidden",
        "status": 403,
        "detail": "this needs the role administrator; yours is reader",
    }
    assert events(web)[-1] == ("rita", "refused", "refused")
    with web.browser() as browser:
        log_in(browser)
        page = browser.get("/audit")
        assert (page.status_code, "this needs the role administrator" in page.text) == (403, True)


def test_a_program_without_a_right_token_is_told_so_and_led_nowhere(web):
    token = make_token(web, "rita")["Authorization"]
    for shown in ("", "Bearer", "Bearer x", f"Basic {token[7:]}", token[:-1], token.lower().replace("medd_", "MEDD_")):
        refused = web.client.get("/probe/reader", headers={"Authorization": shown} if shown else {})
        assert (refused.status_code, refused.json()["status"]) == (401, 401)
        assert refused.headers["www-authenticate"].startswith("Bearer")


def test_a_wrong_token_is_not_saved_by_a_right_cookie(web):
    with web.browser() as browser:
        log_in(browser)
        assert browser.get("/probe/reader", headers={"Authorization": "Bearer x", "Accept": "*/*"}).status_code == 401


def test_a_user_who_is_disabled_is_out_at_once(web):
    shown = make_token(web, "rita")
    with web.browser() as browser:
        log_in(browser)
        with web.database.write() as connection:
            users.change_account(connection, "rita", disabled=True)
        assert browser.get("/probe/reader").status_code == 303
        assert web.client.get("/probe/reader", headers=shown).status_code == 401


# Other sites, other names


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_site_can_do_nothing_with_the_readers_cookie(web, headers):
    with web.browser() as browser:
        log_in(browser, "otto")
        refused = browser.post("/probe/operator", headers=headers)
        assert refused.status_code == 403
        assert browser.post("/logout", headers=headers).status_code == 403
        with web.browser(headers=headers) as victim:
            assert log_in(victim).status_code == 403, "nor log somebody in"
        assert browser.post("/probe/operator").status_code == 200


def test_a_cookie_without_any_word_of_where_the_request_comes_from_is_refused(web):
    with web.browser() as browser:
        log_in(browser, "otto")
        web.client.cookies.update(browser.cookies)
    refused = web.client.post("/probe/operator")
    assert (refused.status_code, "too old" in refused.json()["detail"]) == (403, True)


def test_without_log_in_another_site_can_do_nothing_either(tmp_path):
    with running_web(web_settings(tmp_path / "home")) as web:
        assert web.client.post("/probe/operator").json() == {"name": "local"}
        assert web.client.post("/probe/operator", headers={"Origin": "http://evil.example"}).status_code == 403
        assert web.client.get("/probe/reader", headers={"Host": "evil.example"}).status_code == 421
        assert web.client.get("/login").headers["location"] == "/"
        assert "Nobody logs in here" in web.client.get("/account", headers=BROWSER).text


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:80", "", "x" * 3000])
def test_a_name_that_is_not_ours_is_refused(web, host):
    for path in ("/login", "/static/style.css", "/probe/reader"):
        assert web.client.get(path, headers={"Host": host}).status_code in (400, 421)


def test_names_of_the_settings_lead_here(tmp_path):
    with running_web(web_settings(tmp_path / "home", login=True, allowed_hosts=("medd.hospital.example",))) as web:
        for host in ("medd.hospital.example", "MEDD.hospital.example:443", "localhost:1", "10.0.0.1"):
            assert web.client.get("/login", headers={"Host": host}).status_code == 200


# Limits


def test_requests_from_one_address_are_limited(tmp_path):
    with running_web(web_settings(tmp_path / "home", max_requests_per_s=0.02)) as web:
        assert web.client.get("/probe/reader").status_code == 200
        refused = web.client.get("/probe/reader")
        assert (refused.status_code, refused.json()["detail"]) == (429, "too many requests")
        assert 1 <= int(refused.headers["retry-after"]) <= 51
        assert web.client.get("/static/style.css").status_code == 200


def test_a_request_that_is_too_large_is_refused_whether_it_says_so_or_not(web):
    stated = web.client.post("/login", content=b"name=" + b"x" * (1 << 20))
    assert stated.status_code == 413

    def pieces() -> Iterator[bytes]:
        yield b"name=rita&password="
        for _ in range(2000):
            yield b"x" * 1000

    form = {"Content-Type": "application/x-www-form-urlencoded"}
    unstated = web.client.post("/login", content=pieces(), headers=form)
    assert unstated.status_code == 413


# What every answer has


def test_every_answer_tells_the_browser_what_it_may_do(web):
    paths = ["/login", "/static/app.js", "/nowhere", "/probe/reader"]
    answers = [web.client.get(path) for path in paths] + [web.client.get("/login", headers={"Host": "evil.example"})]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "server" not in answer.headers
    assert {answer.headers["cache-control"] for answer in answers[2:]} == {"no-store"}
    assert answers[1].headers["cache-control"] == "no-cache"


def test_pages_keep_to_their_own_policy(web):
    with web.browser() as browser:
        log_in(browser, "ada")
        for path in ("/login?next=/x", "/account", "/audit", "/nowhere"):
            text = browser.get(path).text
            assert not re.search(r"<script(?![^>]*\bsrc=)", text), f"{path}: a script stands in the page"
            assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", text), path
            assert not re.findall(r'(?:src|href)="(?:https?:)?//', text), f"{path}: something comes from elsewhere"


def test_a_fault_shows_nothing_of_itself(web, caplog):
    shown = make_token(web, "rita")
    answer = web.client.get("/api/v1/fault", headers=shown)
    assert answer.status_code == 500
    assert "GEHEIM" not in answer.text
    assert answer.json()["detail"] == "This is a fault of medd; its log says more."
    assert "content-security-policy" in answer.headers
    assert web.client.get("/api/v1/away", headers=shown).status_code == 503
    assert web.client.get("/probe/reader", headers=shown).status_code == 200


def test_what_a_form_lacks_is_said_without_what_it_had(web):
    answer = web.client.post("/login", data={"password": "GEHEIM"})
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"where": "body.name", "what": "Field required"}]
    assert "GEHEIM" not in answer.text
    with web.browser() as browser:
        assert "Unprocessable" in browser.post("/login", data={"password": "x"}).text


def test_no_line_of_the_log_holds_a_page_a_cookie_or_a_password(web, caplog):
    with caplog.at_level(logging.INFO), web.browser() as browser:
        log_in(browser, password="GEHEIM-wrong")
        log_in(browser)
        browser.get("/probe/reader?patient=KARLA")
        cookie = browser.cookies["medd_session"]
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    assert not [line for line in ours if "GEHEIM" in line or "KARLA" in line or cookie in line]


# The audit trail


def test_whoever_reads_the_trail_stands_in_it(web):
    with web.browser() as browser:
        log_in(browser, "ada")
        assert "audit read" in browser.get("/audit").text
    assert events(web)[-1] == ("ada", "audit_read", "success")


def test_a_patient_whose_name_is_a_script_is_text_in_the_trail(web):
    nasty = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\u202e" + "x" * 65536
    with web.database.write() as connection:
        add_event(connection, Event("ada", "studies_listed", detail=nasty))
        add_event(connection, Event(nasty, "case_seen", study=nasty, instance=nasty, address=nasty))
    with web.browser() as browser:
        log_in(browser, "ada")
        for path in ("/audit", "/audit?" + str(httpx.QueryParams(account=nasty[:60], action="x", study=nasty[:60]))):
            text = browser.get(path).text
            assert "<script>alert" not in text
            assert "<img" not in text.replace('<img src="/static/icon.svg"', "")
            assert "\u202e" not in text
            assert "&lt;script&gt;alert(1)" in text
            assert len(text) < 30_000


def test_the_trail_is_filtered_and_read_page_by_page(web):
    with web.database.write() as connection:
        for n in range(150):
            add_event(connection, Event("rita", "case_seen", study=f"1.2.{n}"))
    with web.browser() as browser:
        log_in(browser, "ada")
        first = browser.get("/audit?account=rita&action=case_seen")
        assert first.text.count('nowrap">case seen</td>') == 100
        older = re.search(r'href="(/audit\?[^"]*)"', first.text.split("</table>")[1])[1].replace("&amp;", "&")
        second = browser.get(older)
        assert second.text.count('nowrap">case seen</td>') == 50
        assert "1.2.0<" in second.text
        assert "Older" not in second.text
        assert "30m, 24h, 7d" in browser.get("/audit?since=yesterday").text
        assert browser.get("/audit?before=0").status_code == 422


# TLS, and what cannot be started


def test_over_https_the_cookie_is_kept_from_plain_http(tmp_path):
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    tls = TlsSettings(certificate=str(certificate), key=str(key))
    with running_web(web_settings(tmp_path / "home", login=True, tls=tls)) as web:
        add_people(web)
        assert web.url.startswith("https://127.0.0.1:")
        trusted = ssl.create_default_context(cafile=str(authority.certificate))
        headers = BROWSER | {"Origin": web.url.rstrip("/")}
        with httpx.Client(base_url=web.url, verify=trusted, trust_env=False, headers=headers) as browser:
            answer = log_in(browser)
            assert "secure" in answer.headers["set-cookie"].lower()
            assert answer.headers["strict-transport-security"] == "max-age=31536000"
            assert browser.get("/probe/reader").status_code == 200
        with pytest.raises(httpx.TransportError):
            httpx.get(web.url.replace("https", "http"), trust_env=False)


def test_a_proxy_is_believed_only_where_the_settings_name_it(tmp_path):
    told = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https", "Origin": "https://medd.example"}
    told |= {"Host": "medd.example"}
    for number, (proxies, secure, address) in enumerate(
        (((), False, "127.0.0.1"), (("127.0.0.1",), True, "203.0.113.9"))
    ):
        values = {"login": True, "allowed_hosts": ("medd.example",), "trusted_proxies": proxies}
        with running_web(web_settings(tmp_path / f"home{number}", **values)) as web:
            add_people(web)
            answer = web.client.post("/login", data={"name": "rita", "password": PASSWORD}, headers=told)
            assert ("secure" in answer.headers["set-cookie"].lower()) is secure
            with web.database.read() as connection:
                [event] = find_events(connection, EventFilter(account="rita"))
            assert event["address"] == address


def test_an_answer_does_not_wait_for_the_acknowledgement_of_its_beginning(web):
    web.client.get("/static/style.css")
    waits = []
    for _ in range(30):
        began = time.monotonic()
        assert web.client.get("/static/icon.svg").status_code == 200
        waits.append(time.monotonic() - began)
    assert min(waits) < 0.03, "the kernel's timer is 40 ms, so that none is faster with it"


def test_a_port_that_is_taken_may_be_free_later(tmp_path):
    with running_web(web_settings(tmp_path / "home")) as web:
        port = httpx.URL(web.url).port
        with pytest.raises(TransientError, match=f"127.0.0.1 port {port} cannot be bound"):
            build(web_settings(tmp_path / "other", port=port))


def test_a_certificate_that_is_not_there_is_a_mistake(tmp_path):
    settings = web_settings(tmp_path / "home", port=free_port(), tls=TlsSettings(certificate="nowhere.pem"))
    with pytest.raises(SettingsError, match=r"web\.tls\.certificate: .*nowhere\.pem cannot be read"):
        build(settings)


def test_what_ought_to_be_changed_is_said_at_the_start(tmp_path, caplog):
    with caplog.at_level(logging.WARNING), running_web(web_settings(tmp_path / "home", login=True, host="0.0.0.0")):
        pass
    assert "nobody can log in as administrator yet" in caplog.text
    assert "cross the network in the clear" in caplog.text
