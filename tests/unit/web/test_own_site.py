"""No other site makes a browser do something here, and no other name leads here."""

import pytest
from fastapi import Request

from medd.settings import WebSettings
from medd_web.context import ago, plain
from medd_web.csrf import is_known, known_names, refusal
from medd_web.login import own_path

HERE = "medd.example:8080"


def request(method: str, **headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in {"host": HERE, **headers}.items()]
    return Request({"type": "http", "method": method, "headers": raw})


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({"sec_fetch_site": "same-origin", "origin": "http://medd.example:8080"}, False),
        ({"sec_fetch_site": "none"}, False),  # typed by the user
        ({"sec_fetch_site": "cross-site", "origin": "http://evil.example"}, True),
        ({"sec_fetch_site": "same-site", "origin": "http://medd.example:9000"}, True),
        ({"sec_fetch_site": "cross-site", "origin": "http://medd.example:8080"}, True),
        ({"origin": "http://medd.example:8080"}, False),
        ({"origin": "https://medd.example:8080"}, False),
        ({"origin": "http://medd.example"}, True),
        ({"origin": "http://medd.example:8080.evil.example"}, True),
        ({"origin": "http://evil.example"}, True),
        ({"origin": "null"}, True),
        ({"origin": ""}, True),
        ({}, False),  # a program
        ({"cookie": "medd_session=x"}, True),  # a browser of before 2020
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_what_changes_something_comes_from_our_own_pages(method, headers, refused):
    assert bool(refusal(request(method, **headers), "medd_session")) is refused


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_looking_is_free(method):
    assert refusal(request(method, sec_fetch_site="cross-site", origin="http://evil.example"), "medd_session") == ""


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost", True),
        ("LOCALHOST:8080", True),
        ("127.0.0.1:8080", True),
        ("[::1]:8080", True),
        ("10.1.2.3", True),  # an address cannot be given to another host
        ("reading.hospital.example", True),
        ("reading.hospital.example.evil.example", False),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("2130706433", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
        ("[::1", False),
        ("localhost@evil.example", False),
    ],
)
def test_only_addresses_and_our_own_names_lead_here(host, known):
    names = known_names(WebSettings(login=True, allowed_hosts=("Reading.Hospital.Example",)))
    assert is_known(host, names) is known


@pytest.mark.parametrize("path", ["/", "/case/1.2.3", "/?status=scored&text=a%20b", "/login?next=%2F"])
def test_one_goes_on_to_the_page_that_one_wanted(path):
    assert own_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "case",
        "//evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "https://evil.example/",
        "/\t/evil.example",
        "/x\r\nSet-Cookie: a=b",
        "javascript:alert(1)",
        "/ü",
    ],
)
def test_nobody_is_led_elsewhere_by_logging_in(path):
    assert own_path(path) == "/"


def test_a_name_can_turn_round_nothing_and_fills_no_page():
    assert plain("Müller^Jörg") == "Müller^Jörg"
    assert plain("abc\u202edcb\u2066\x00\x1b[2J\n") == "abc�dcb���[2J�"
    assert len(plain("x" * 65536)) == 120
    assert plain(None) == "None"


def test_a_wait_is_told_in_its_largest_units():
    from datetime import UTC, datetime, timedelta

    now = datetime(2026, 1, 10, 12, tzinfo=UTC)
    waits = [timedelta(seconds=59), timedelta(minutes=5), timedelta(hours=3, minutes=7), timedelta(days=2, hours=4)]
    assert [ago(now - wait, now) for wait in waits] == ["0 min", "5 min", "3 h 7 min", "2 d 4 h"]
    assert (ago(None), ago(now + timedelta(hours=1), now)) == ("", "0 min")
