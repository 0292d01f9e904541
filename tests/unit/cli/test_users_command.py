"""`medd users` and `medd audit`: what they take, what they say, and what they leave in the trail."""

import getpass
import io
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from medd.store import users
from medd.store.audit import Event, add_event
from medd.store.database import Database
from medd_web import passwords
from tests.home import Home

PASSWORD = "four words in a row"


def read(home: Home, function: Callable, *arguments: object) -> object:
    database = home.database()
    with database.read() as connection:
        found = function(connection, *arguments)
    database.close()
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\nanother line\n")
    return path


@pytest.fixture
def ann(home: Home, file: Path) -> Home:
    home.medd("users", "add", "Ann", "--role", "administrator", "--password-file", file)
    return home


def test_a_user_is_added_with_a_password_from_a_file(ann):
    known = read(ann, users.find_account, "ann")
    assert known.password.startswith("$argon2id$")
    assert passwords.is_right(PASSWORD, known.password)
    [row] = ann.json("users", "list")
    assert (row["name"], row["role"], row["password"], row["disabled"]) == ("ann", "administrator", True, False)
    assert "argon2" not in str(row)


def test_no_home_is_made_that_nobody_named(home, monkeypatch, tmp_path):
    monkeypatch.delenv("MEDD_HOME")
    monkeypatch.chdir(tmp_path)
    adding = ("users", "add", "ann", "--no-password")
    for command in (adding, ("ingest", "."), ("users", "disable", "ann"), ("audit",)):
        assert "--home" in home.refused(*command)
    assert not (tmp_path / "medd-home").exists()
    for command in (("users", "disable", "ann"), ("audit",)):
        assert "no database at" in home.refused(*command, "--home", home.path)
    home.medd(*adding, "--home", home.path)
    home.medd("users", "disable", "ann", "--home", home.path)


def test_a_password_comes_from_standard_input_too(home, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{PASSWORD}\r\n"))
    home.medd("users", "add", "ann", "--password-file", "-")
    assert passwords.is_right(PASSWORD, read(home, users.find_account, "ann").password)


def test_a_password_is_asked_for_twice_at_a_terminal(home, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)
    answers = iter([PASSWORD, "something else", PASSWORD, PASSWORD])
    monkeypatch.setattr(getpass, "getpass", lambda prompt: next(answers))
    assert "the two differ" in home.medd("users", "add", "ann", code=2)[1]
    home.medd("users", "add", "ann")
    assert passwords.is_right(PASSWORD, read(home, users.find_account, "ann").password)


def test_no_command_takes_a_password_as_an_argument(home):
    for command in ("add", "password"):
        assert "--password " not in home.medd("users", command, "--help")[0]
        assert home.medd("users", command, "ann", PASSWORD, code=2)[0] == ""


def test_without_a_terminal_and_a_file_there_is_no_password(home, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{PASSWORD}\n"))
    assert "there is no terminal to ask" in home.medd("users", "add", "ann", code=2)[1]


@pytest.mark.parametrize(
    ("password", "why"),
    [
        ("short", "12 to 256 characters"),
        ("x" * 257, "12 to 256 characters"),
        ("annannannann", "guessed at once"),
        ("ann-12345678", "guessed at once"),
        ("aaaaaaaaaaaaaaaa", "guessed at once"),
        ("", "12 to 256 characters"),
    ],
)
def test_a_password_that_is_guessed_at_once_is_refused(home, file, password, why):
    file.write_text(password)
    refused = home.medd("users", "add", "ann", "--password-file", file, code=2)[1]
    assert why in refused
    assert len(password) < 3 or password not in refused


def test_a_password_file_that_cannot_be_read_is_named(home, tmp_path, file):
    file.write_bytes(b"\xff\xfe\xff")
    for path in (tmp_path / "nowhere", file):
        assert (
            f"--password-file: {path} cannot be read"
            in home.medd("users", "add", "x", "--password-file", path, code=2)[1]
        )


def test_a_password_is_the_same_however_its_accents_are_typed():
    composed, decomposed = "caf\u00e9 cr\u00e8me br\u00fbl\u00e9e", "cafe\u0301 cre\u0300me bru\u0302le\u0301e"
    assert passwords.is_right(decomposed, passwords.hash_password(composed, "ann"))
    assert not passwords.is_right("cafe creme brulee", passwords.hash_password(composed, "ann"))


def test_a_hash_of_no_known_kind_is_no_door():
    assert not passwords.is_right(PASSWORD, "plain text")
    assert not passwords.is_right(PASSWORD, "")
    assert not passwords.is_right("nobody has this password", None)


def test_a_program_has_no_password(home):
    home.medd("users", "add", "pacs-script", "--no-password", "--role", "operator")
    assert read(home, users.find_account, "pacs-script").password is None


def test_users_are_changed_disabled_and_let_in_again(ann, file):
    file.write_text("some other words in a row\n")
    assert "reader" in ann.medd("users", "role", "ann", "reader")[0]
    ann.medd("users", "password", "ANN", "--password-file", file)
    ann.medd("users", "disable", "ann")
    known = read(ann, users.find_account, "ann")
    assert (str(known.role), known.disabled) == ("reader", True)
    assert passwords.is_right("some other words in a row", known.password)
    ann.medd("users", "enable", "ann")
    assert read(ann, users.find_account, "ann").disabled is False


def test_the_tokens_that_outlive_a_password_are_counted_and_can_be_taken_back(ann, file):
    ann.medd("users", "token", "add", "ann")
    file.write_text("some other words in a row\n")
    assert "1 of ann's tokens still hold" in ann.medd("users", "password", "ann", "--password-file", file)[0]
    assert "still hold" not in ann.medd("users", "password", "ann", "--tokens", "--password-file", file)[0]
    assert ann.json("users", "token", "list") == []


def test_the_last_administrator_is_not_taken_away_in_silence(ann):
    assert "nobody is an administrator who can log in" in ann.medd("users", "disable", "ann")[1]


def test_who_is_not_there_is_named(ann):
    for command in (("role", "bob", "reader"), ("disable", "bob"), ("token", "add", "bob"), ("token", "revoke", 9)):
        assert "there is no" in ann.medd("users", *command, code=2)[1]
    assert "there is a user of this name" in ann.medd("users", "add", "ANN", "--no-password", code=2)[1]
    ann.medd("users", "role", "ann", "god", code=2)


def test_a_token_is_shown_once(ann):
    made = ann.medd("users", "token", "add", "ann", "--for", "nightly export", "--days", "30")[0].strip()
    assert read(ann, users.find_token, made) is not None
    [row] = ann.json("users", "token", "list")
    assert (row["account"], row["name"]) == ("ann", "nightly export")
    assert made not in str(row)
    assert "token 1 of ann is revoked" in ann.medd("users", "token", "revoke", row["id"])[0]
    assert read(ann, users.find_token, made) is None
    assert ann.medd("users", "token", "add", "ann", "--days", "0")[0].startswith("medd_")
    assert ann.json("users", "token", "list")[0]["expires_at"] is None


def test_the_trail_tells_who_changed_whom_and_who_read_it(ann):
    ann.medd("users", "token", "add", "ann")
    ann.medd("users", "role", "ann", "operator")
    told = [(row["action"], row["detail"]) for row in ann.json("audit")]
    assert told == [
        ("audit_read", ""),
        ("role_changed", "operator for ann"),
        ("token_changed", "made 'api' for ann"),
        ("user_changed", "added ann as administrator"),
    ]
    assert {row["account"] for row in ann.json("audit", "--limit", 2)} == {getpass.getuser()}
    assert PASSWORD not in str(ann.json("audit"))


def test_the_trail_is_filtered_and_has_the_form_of_dicom(ann):
    database = Database(f"sqlite:///{ann.path / 'medd.db'}")
    with database.write() as connection:
        add_event(connection, Event("ann", "case_seen", address="10.0.0.1", study="1.2.3", detail="<script>\u202e"))
    database.close()
    assert [row["action"] for row in ann.json("audit", "--user", "ann")] == ["case_seen"]
    assert [row["action"] for row in ann.json("audit", "--study", "1.2.3")] == ["case_seen"]
    assert ann.json("audit", "--action", "nothing") == []
    assert len(ann.json("audit", "--since", "1h")) > 3
    lines = ann.medd("audit", "--action", "case_seen", "--format", "xml")[0].splitlines()
    [message] = map(ElementTree.fromstring, lines)
    assert message.find("EventIdentification/EventID").get("csd-code") == "110103"
    assert message.find("ParticipantObjectIdentification").get("ParticipantObjectID") == "1.2.3"
    assert "\u202e" not in ann.medd("audit", "--user", "ann")[0]
    assert "--since: 30m, 24h" in ann.medd("audit", "--since", "soon", code=2)[1]


def test_without_the_extra_nobody_is_given_a_password(home, file, monkeypatch):
    monkeypatch.setattr("medd_web._NEEDED", ("argon2", "no_such_module"))
    assert "pip install 'medd[web]'" in home.medd("users", "add", "ann", "--password-file", file, code=2)[1]
    assert "pip install 'medd[web]'" in home.medd("serve", "--only", "web", code=2)[1]
