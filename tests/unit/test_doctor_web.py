"""What the doctor says of the web pages."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from medd import settings, supervisor
from medd.doctor import Finding, State
from medd.doctor.web import check_web
from medd.pipeline import open_database
from medd.records import UserRole
from medd.settings import Settings, TlsSettings, WebSettings
from medd.store import users
from tests.certificates import Authority
from tests.support import free_port


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def look(home: Path, **web: Any) -> dict[str, Finding]:
    return {finding.name: finding for finding in check_web(loaded(home, **web))}


def loaded(home: Path, **web: Any) -> Settings:
    return settings.load(home).model_copy(update={"web": WebSettings(**({"port": free_port()} | web))})


def test_a_free_port_and_this_machine_alone_are_fine(home):
    found = look(home)
    assert {name: finding.state for name, finding in found.items()} == {"web": State.OK, "web login": State.OK}
    assert "is free" in found["web"].found
    assert "every user of this machine is an administrator" in found["web login"].found


def test_pages_that_are_switched_off_or_not_installed_are_not_looked_at(home, monkeypatch):
    assert look(home, enabled=False)["web"].found == "switched off, but for `medd serve --only web`"
    lock = supervisor.lock_stage(loaded(home), "web")
    try:
        assert "web login" in look(home, enabled=False), "which runs here"
    finally:
        os.close(lock)
    monkeypatch.setattr("medd_web._NEEDED", ("no_such_module",))
    assert look(home)["web"].found == "the extra is not installed"


def test_a_port_that_another_program_has_warns_and_our_own_does_not(home):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        warned = look(home, port=port)["web"]
        assert (warned.state, warned.advice) == (State.WARN, "set web.port")
        lock = supervisor.lock_stage(loaded(home), "web")
        try:
            ours = look(home, port=port)["web"]
        finally:
            os.close(lock)
        assert (ours.state, "medd's web pages run" in ours.found) == (State.OK, True)


def test_an_address_that_is_not_ours_warns(home):
    warned = look(home, host="192.0.2.1", login=True)["web"]
    assert (warned.state, "web.host" in warned.advice) == (State.WARN, True)


def test_a_log_in_that_nobody_can_use_warns_until_there_is_an_administrator(home):
    assert look(home, login=True)["web login"].state is State.WARN
    database = open_database(settings.load(home))
    with database.write() as connection:
        users.add_account(connection, "rita", UserRole.READER, "hash")
        users.add_account(connection, "robot", UserRole.ADMINISTRATOR, None)
    assert look(home, login=True)["web login"].state is State.WARN
    with database.write() as connection:
        users.add_account(connection, "ada", UserRole.ADMINISTRATOR, "hash")
    database.close()
    assert look(home, login=True)["web login"].found == "administrators who can log in: 1"


def test_other_machines_in_the_clear_warn_and_certificates_are_looked_at(home, tmp_path):
    assert look(home, login=True, host="0.0.0.0")["web tls"].state is State.WARN
    authority = Authority(tmp_path)
    for days, state in ((60, State.OK), (5, State.WARN), (-1, State.FAIL)):
        certificate, key = authority.issue(f"server{days}", days=days)
        tls = TlsSettings(certificate=str(certificate), key=str(key))
        assert look(home, login=True, host="0.0.0.0", tls=tls)["tls web.tls.certificate"].state is state
    assert look(home, tls=TlsSettings(certificate="nowhere"))["tls web.tls"].state is State.FAIL
