"""A database for each contract test; on PostgreSQL one for all of them, emptied in between, as making one takes longer
than most tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from medd.store.database import Database, check_schema
from medd.store.tables import metadata
from tests.schema import open_new
from tests.support import PostgresServer


@pytest.fixture(scope="session")
def shared_url(postgres: PostgresServer) -> str:
    """The URL of a database on PostgreSQL, with its schema, that tests leave behind as it comes."""
    postgres.execute("CREATE DATABASE medd_contract")
    url = postgres.url("medd_contract")
    opened = Database(url)
    check_schema(opened)
    opened.close()
    return url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.peers)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database with its schema, once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        opened = open_new(tmp_path / "medd.db")
    else:
        opened = Database(request.getfixturevalue("shared_url"))
        names = ", ".join(table.name for table in metadata.sorted_tables)
        with opened.write() as connection:
            connection.execute(sa.text(f"TRUNCATE {names} RESTART IDENTITY CASCADE"))
    yield opened
    opened.close()
