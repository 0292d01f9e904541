"""A database with its schema, without the migrations: they take a fifth of a second, and a thousand tests want one."""

import functools
import tempfile
from pathlib import Path

from medd.store.database import Database, check_schema


@functools.cache
def empty_database() -> bytes:
    """The file of an SQLite database with its schema."""
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/medd.db")
        check_schema(database)
        database.close()
        return Path(folder, "medd.db").read_bytes()


def open_new(file: Path) -> Database:
    """Open the SQLite database of a test, which is made where it is not there."""
    if not file.exists():
        file.write_bytes(empty_database())
    return Database(f"sqlite:///{file}")
