"""What strangers may send: text that is none, silence, and floods; a real server over real sockets."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from medd.settings import WebSettings
from medd.store.database import Database
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
        assert web.client.get(path).status_code == 400, path
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
