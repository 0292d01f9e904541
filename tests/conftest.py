"""Fixtures that every tier shares."""

import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from medd.store.database import Database, check_schema
from tests.support import DATA, PostgresServer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `data` are skipped, saying so, where the data set is absent; `full` ones unless asked for."""
    for item in items:
        if item.get_closest_marker("data") and not DATA.is_dir():
            item.add_marker(pytest.mark.skip(reason="development data set ../shared/data is absent"))
        if item.get_closest_marker("full") and os.environ.get("MEDD_FULL") != "1":
            item.add_marker(pytest.mark.skip(reason="long form: run `make bench` or set MEDD_FULL=1"))


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("MEDD_") and name not in ("MEDD_REQUIRE_PEERS", "MEDD_FULL"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _no_handler_of_another_test() -> Iterator[None]:
    # A command that was run in this process has sent the log to a stream that is closed afterwards.
    yield
    root = logging.getLogger()
    root.handlers[:] = [one for one in root.handlers if type(one) is not logging.StreamHandler]


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server for the whole session; tests make databases of their own in it."""
    server = PostgresServer()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """The URL of a fresh database on PostgreSQL."""
    name = f"medd_{secrets.token_hex(6)}"
    postgres.execute(f"CREATE DATABASE {name}")
    yield postgres.url(name)
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.peers)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a fresh database, once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'medd.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A fresh database with its schema, once on SQLite and once on PostgreSQL."""
    opened = Database(database_url)
    check_schema(opened)
    yield opened
    opened.close()
