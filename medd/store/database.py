"""The connection to SQLite or PostgreSQL, and the check that its schema fits."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError

from medd.errors import SchemaOutOfDate, SettingsError, TransientError

#: The migration this program is written for.
SCHEMA = "0007"

#: A server that vanishes without a word is given up after some 20 s; the kernel would wait for a quarter of an hour.
_POSTGRESQL = {
    "connect_timeout": 10,
    "tcp_user_timeout": 20_000,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}

#: How long a writer waits for another one, seconds.
BUSY_TIMEOUT_S = 30


class Database:
    """An engine, and transactions whose failures are `TransientError`.

    Attributes:
        engine: The SQLAlchemy engine.
        file: The SQLite file; None on PostgreSQL.
        is_sqlite: Whether it is SQLite; else it is PostgreSQL.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = sa.make_url(url)
            self.is_sqlite = parsed.get_backend_name() == "sqlite"
            if not self.is_sqlite and parsed.get_backend_name() != "postgresql":
                raise SettingsError(f"database.url: sqlite or postgresql expected. Received: {parsed.drivername}")
            self.file = Path(parsed.database) if self.is_sqlite and parsed.database else None
            if self.is_sqlite:
                # A bug is logged with its traceback, and rows hold names of patients: no parameters in it.
                self.engine: Engine = sa.create_engine(
                    parsed, connect_args={"timeout": BUSY_TIMEOUT_S}, hide_parameters=True
                )
                event.listen(self.engine, "connect", _configure_sqlite)
                event.listen(self.engine, "begin", _begin_sqlite)
            else:
                # A server that was restarted must cost no work: each connection is tried before it is used.
                self.engine = sa.create_engine(
                    parsed.set(drivername="postgresql+psycopg"),
                    pool_pre_ping=True,
                    hide_parameters=True,
                    connect_args=_POSTGRESQL,
                )
        except (NoSuchModuleError, ModuleNotFoundError) as error:
            message = "database.url: the driver is missing; install it with: pip install 'medd[postgres]'"
            raise SettingsError(message) from error
        except (ArgumentError, ValueError) as error:
            raise SettingsError("database.url: not a database URL, such as sqlite:///medd.db") from error

    @contextmanager
    def write(self, wait_s: float = BUSY_TIMEOUT_S) -> Iterator[Connection]:
        """A transaction that changes rows; on SQLite it takes the write lock at once, so that it never deadlocks.

        Args:
            wait_s: How long to wait there for another writer, seconds.

        Raises:
            TransientError: The database is away, locked or full.
        """
        options = {"medd_write": True, "medd_wait_s": wait_s}
        with _transient(), self.engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads.

        Raises:
            TransientError: The database is away.
        """
        with _transient(), self.engine.connect() as connection:
            yield connection

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun by _begin_sqlite, not by the driver
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # a committed row survives a power failure
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    immediate = options.get("medd_write")
    if immediate:
        driver: Any = connection.connection.driver_connection
        driver.execute(f"PRAGMA busy_timeout = {round(options.get('medd_wait_s', BUSY_TIMEOUT_S) * 1000)}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


@contextmanager
def _transient() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise TransientError(f"database: {_first_line(error)}") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise TransientError(f"database: {_first_line(error)}") from error
        raise


def _first_line(error: DBAPIError) -> str:
    # The driver's own message, not SQLAlchemy's, which would show the parameters: patient data.
    return str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__


def migrations_dir() -> Path:
    """Alembic's scripts: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    shipped = package / "migrations"
    return shipped if shipped.is_dir() else package.parent / "migrations"


def _alembic_config(database: Database) -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_dir()))
    config.attributes["engine"] = database.engine
    return config


def current_schema(database: Database) -> str | None:
    """The migration the database is at; None for an empty one.

    Raises:
        SettingsError: What the URL names is no database.
        TransientError: The database is away.
    """
    try:
        with database.read() as connection:
            if not sa.inspect(connection).has_table("alembic_version"):
                return None
            found: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
            return found
    except DatabaseError as error:
        raise SettingsError(f"database.url: {_first_line(error)}") from error


def upgrade(database: Database) -> None:
    """Bring the schema to the one this program is written for.

    Raises:
        SchemaOutOfDate: The database is newer than the program.
    """
    from alembic import command

    found = current_schema(database)
    if found is not None and found > SCHEMA:
        raise SchemaOutOfDate(f"the database is newer than this medd: install a newer medd. Received: schema {found}")
    with _transient():
        command.upgrade(_alembic_config(database), "head")


def check_schema(database: Database, *, create: bool = True) -> None:
    """Refuse to work on a schema that does not fit; with `create`, an empty database is given its schema.

    Raises:
        SchemaOutOfDate: It is older or newer; the message says what to do.
    """
    found = current_schema(database)
    if found is None and create:
        upgrade(database)
    elif found is None:
        raise SchemaOutOfDate("the database is empty: nothing was received yet")
    elif found < SCHEMA:
        raise SchemaOutOfDate(f"the database is older than this medd. Run `medd db upgrade`. Received: schema {found}")
    elif found > SCHEMA:
        raise SchemaOutOfDate(f"the database is newer than this medd: install a newer medd. Received: schema {found}")
