"""What strangers may send: text that is none, silence, and floods; a real server over real sockets."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from fastapi import APIRouter
from fastapi.responses import Response

from medd.settings import WebSettings
from medd.store.database import Database
from medd_web import app, connections, context, heavy, limits
from tests.support import wait_until
from tests.web import Web, running_web, web_settings


@pytest.fixture
def strict(database_url: str, tmp_path: Path) -> Iterator[Web]:
    """A server where one logs in, on both databases."""
    with running_web(web_settings(tmp_path / "home", database_url=database_url, login=True)) as web:
        yield web


@pytest.fixture
def web(database_url: str, tmp_path: Path) -> Iterator[Web]:
    """A server for this machine alone, on both databases."""
    with running_web(web_settings(tmp_path / "home", database_url=database_url)) as web:
        yield web


FORM = {"Content-Type": "application/x-www-form-urlencoded"}


# Text that is none


ADDRESSES = ("/?origin=a%00b", "/worklist/rows?origin=%00", "/audit?account=%00", "/audit?study=%00", "/case/%00")


def test_a_nul_in_an_address_is_a_mistake_of_who_asks(web, caplog):
    for path in ADDRESSES:
        assert web.client.get(path).status_code == 422, path
    assert "fault" not in caplog.text


_PART = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
BODIES = (
    (FORM, b"name=a%00b&password=x"),
    (FORM, b"name=a\0b&password=x"),
    (FORM, b"name=" + b"a" * 50 + b"%0" + b"0&password=x"),
    (
        {"Content-Type": "multipart/form-data; charset=utf-7; boundary=b"},
        _PART % (b"name", b"+AAA-") + _PART % (b"password", b"x") + b"--b--\r\n",
    ),
)


def test_a_nul_in_a_form_is_a_mistake_of_who_sends_it_also_without_logging_in(strict, caplog):
    for headers, body in BODIES:
        answer = strict.client.post("/login", content=iter([body[:57], body[57:]]), headers=headers)
        assert answer.status_code in (400, 401, 422), body
    assert "fault" not in caplog.text


def test_a_percent_sign_and_noughts_that_are_text_are_taken(strict):
    assert strict.client.post("/login", data={"name": "a%00b", "password": "x"}).status_code == 401


# What strangers are told


def test_where_the_database_is_stays_in_the_log(tmp_path, caplog, monkeypatch):
    with running_web(web_settings(tmp_path / "home", login=True)) as web:
        away = Database("postgresql://medd@127.0.0.1:1/medd")
        monkeypatch.setattr(web.context, "database", away)
        answer = web.client.post("/login", data={"name": "rita", "password": "x"})
        monkeypatch.undo()
        away.close()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "127.0.0.1" not in answer.text
    assert "127.0.0.1" in caplog.text


@pytest.mark.parametrize("wrong", ["*", "proxy.hospital.example", "10.0.0.0/33", ""])
def test_a_trusted_proxy_is_an_address_or_a_network(wrong):
    with pytest.raises(ValueError, match="addresses or networks expected"):
        WebSettings(login=True, trusted_proxies=("10.0.0.1", "fd00::/8", wrong))


# Silence


def talk(web: Web, said: bytes = b"") -> socket.socket:
    there = socket.create_connection((web.client.base_url.host, web.client.base_url.port or 0), timeout=60)
    there.sendall(said)
    return there


def is_closed(there: socket.socket) -> bool:
    """Wait until it is; a time-out fails the test."""
    with there:
        try:
            return there.recv(1) == b""
        except ConnectionResetError:
            return True


def test_who_says_nothing_or_half_a_request_is_sent_away(tmp_path, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_S", 1.0)
    with running_web(web_settings(tmp_path / "home")) as web:
        silent = [talk(web), talk(web, b"GET /health/live HTT"), talk(web, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")]
        second = talk(web, b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        answer = second.recv(4096)
        second.sendall(b"GET /health/live HTT")
        assert answer.startswith(b"HTTP/1.1 200")
        while second.recv(4096):
            pass
        second.close()
        assert all(is_closed(one) for one in silent)


def test_one_address_cannot_hold_every_connection_but_a_proxy_may(tmp_path, monkeypatch):
    monkeypatch.setattr(connections, "MAX_PER_ADDRESS", 5)
    with running_web(web_settings(tmp_path / "home")) as web:
        held = [talk(web) for _ in range(5)]
        assert is_closed(talk(web))
        for one in held:
            one.close()
        wait_until(lambda: _answers(web), what="a place")
    with running_web(web_settings(tmp_path / "home2", login=True, trusted_proxies=("127.0.0.0/8",))) as web:
        held = [talk(web) for _ in range(20)]
        assert web.client.get("/health/live").status_code == 200
        for one in held:
            one.close()


def _answers(web: Web) -> bool:
    try:
        return web.client.get("/health/live").status_code == 200
    except httpx.TransportError:
        return False


def test_a_form_that_does_not_come_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "SMALL_S", 0.5)
    with running_web(web_settings(tmp_path / "home", login=True)) as web:
        head = b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 50\r\n"
        with talk(web, head + b"Content-Type: application/x-www-form-urlencoded\r\n\r\nname=") as there:
            assert there.recv(4096).startswith(b"HTTP/1.1 408")


# Others who are busy


def test_while_the_database_is_locked_health_and_styles_answer_and_pages_are_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(context, "WRITE_WAIT_S", 15.0)
    with running_web(web_settings(tmp_path / "home")) as web, ThreadPoolExecutor(2 * app.THREADS) as threads:
        web.client.get("/health")
        with web.database.write():
            waiting = [threads.submit(httpx.get, f"{web.url}audit", timeout=60) for _ in range(app.THREADS)]
            wait_until(lambda: anyio_threads() >= app.THREADS, what="all threads at work")
            for path in ("static/style.css", "health/live", "health"):
                assert httpx.get(web.url + path, timeout=60).status_code in (200, 503)
            assert not any(one.done() for one in waiting)
            answers = [one.result() for one in waiting]
        assert {answer.status_code for answer in answers} == {503}
        assert web.client.get("/audit").status_code == 200


def anyio_threads() -> int:
    return sum(thread.name.startswith("AnyIO worker thread") for thread in threading.enumerate())


def test_what_a_browser_has_is_not_sent_again(tmp_path):
    with running_web(web_settings(tmp_path / "home")) as web:
        first = web.client.get("/static/style.css")
        assert first.headers["content-type"] == "text/css; charset=utf-8"
        again = web.client.get("/static/style.css", headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/", "/static/nothing.css"):
            assert web.client.get(path).status_code == 404
        assert web.client.request("DELETE", "/static/style.css").status_code == 405


big = APIRouter()
BIG = bytes(30 << 20)


@big.get("/big")
async def send_big() -> Response:
    return heavy.Heavy(BIG)


def test_who_asks_and_does_not_read_holds_little_and_not_for_long(tmp_path, monkeypatch):
    monkeypatch.setattr(connections, "SILENCE_S", 5.0)
    monkeypatch.setattr(heavy, "BUDGET", 2 * len(BIG))
    make = app.create_app

    def with_big(settings):
        made = make(settings)
        made.include_router(big)
        return made

    monkeypatch.setattr(app, "create_app", with_big)
    with running_web(web_settings(tmp_path / "home")) as web:
        idle = [talk(web, b"GET /big HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n") for _ in range(2)]
        for one in idle:
            assert one.recv(12) == b"HTTP/1.1 200"
        refused = web.client.get("/big")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        wait_until(lambda: web.client.get("/big").content == BIG, what="that the silent are given up")
        for one in idle:
            one.close()
