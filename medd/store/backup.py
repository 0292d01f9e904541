"""A copy of a SQLite database while the daemon runs. PostgreSQL has pg_dump."""

import contextlib
import os
import sqlite3
from pathlib import Path

from medd.errors import SettingsError, TransientError
from medd.store.database import BUSY_TIMEOUT_S, Database
from medd.store.durable import sync_folder


def back_up(database: Database, target: Path) -> int:
    """Copy a database as it is at one moment; who writes to it meanwhile does not wait.

    The copy is one file, readable by its owner alone, and has its name only when it is complete, checked and safe on
    the disk: it is that or what was there before.

    Args:
        database: What is copied.
        target: The file.

    Returns:
        Its size, bytes.

    Raises:
        SettingsError: The database is not SQLite, or the file would be the database itself.
        TransientError: The disk is full or failing, the database is damaged, or it is away.
    """
    if database.file is None:
        raise SettingsError("the database is PostgreSQL: use pg_dump (docs/operations.md)")
    if target.resolve() == database.file.resolve():
        raise SettingsError(f"FILE is the database itself. Received: {target}")
    part = target.with_name(f".{target.name}.part")
    try:
        part.unlink(missing_ok=True)
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            _copy(database.file, part)
            with part.open("rb") as file:
                os.fsync(file.fileno())
            size = part.stat().st_size
            part.replace(target)
            sync_folder(target.parent)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise TransientError(f"{target}: {error.strerror}") from error
    except sqlite3.Error as error:
        raise TransientError(f"database: {error}") from error
    return size


def _copy(source: Path, target: Path) -> None:
    with (
        contextlib.closing(sqlite3.connect(source, timeout=BUSY_TIMEOUT_S)) as here,
        contextlib.closing(sqlite3.connect(target)) as there,
    ):
        # All pages in one step, which is one reading transaction; in several, each write would begin it anew
        # (sqlite.org/c3ref/backup_finish.html). In WAL mode a reader holds nobody up.
        here.backup(there, pages=-1)
        # The copy is to be one file, not one with a journal beside it.
        there.execute("PRAGMA journal_mode = DELETE")
        found = there.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise TransientError(f"database: damaged, and not copied. Received: {found}")
