"""What was read once is not read again: which file of an archive held which bytes.

It saves work and decides nothing: whether an image is here is asked of the database, by the digest. Where the journal
is lost, the files are read once more, and found to be here.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from medd.backfill.jobs import find_settled
from medd.backfill.source import Entry
from medd.errors import SettingsError
from medd.records import Status
from medd.store.database import Database

#: Files that are looked up together.
_AT_ONCE = 500


class Journal:
    """A small file of its own in the home folder. For one thread.

    Args:
        file: Made where it is missing.
        source: The archive's name.

    Raises:
        SettingsError: The file cannot be written.
    """

    def __init__(self, file: Path, source: str) -> None:
        self._source = source
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._rows = sqlite3.connect(file, isolation_level=None)
            # Nothing depends on its last rows: a power failure may take them.
            self._rows.execute("PRAGMA journal_mode = WAL")
            self._rows.execute("PRAGMA synchronous = OFF")
            self._rows.execute(
                "CREATE TABLE IF NOT EXISTS taken (source TEXT, key BLOB, mark TEXT, sha256 TEXT,"
                " PRIMARY KEY (source, key)) WITHOUT ROWID"
            )
        except (OSError, sqlite3.Error) as error:
            raise SettingsError(f"{file}: cannot be written. Received: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._rows.close()

    def note(self, taken: Iterable[tuple[Entry, str]]) -> None:
        """Keep what files held: each with the SHA-256 under which it was taken in."""
        rows = [(self._source, _bytes(entry.key), entry.mark, sha256) for entry, sha256 in taken]
        self._rows.execute("BEGIN")
        self._rows.executemany("INSERT OR REPLACE INTO taken VALUES (?, ?, ?, ?)", rows)
        self._rows.execute("COMMIT")

    def sift(self, entries: Iterable[Entry], database: Database) -> Iterator[tuple[Entry, Status | None]]:
        """Every entry, with the status of its image where it is here already, unchanged, and has not failed.

        Raises:
            TransientError: The database is away.
        """
        remaining = iter(entries)
        while some := list(islice(remaining, _AT_ONCE)):
            digests = self._digests(some)
            settled = find_settled(database, list(set(digests.values()))) if digests else {}
            for entry in some:
                yield entry, settled.get(digests.get(entry, ""))

    def _digests(self, entries: Sequence[Entry]) -> dict[Entry, str]:
        marks = ", ".join("?" * len(entries))
        wanted = f"SELECT key, mark, sha256 FROM taken WHERE source = ? AND key IN ({marks})"
        rows = self._rows.execute(wanted, (self._source, *(_bytes(entry.key) for entry in entries)))
        known = {(key, mark): sha256 for key, mark, sha256 in rows}
        pairs = ((entry, known.get((_bytes(entry.key), entry.mark))) for entry in entries)
        return {entry: sha256 for entry, sha256 in pairs if sha256 is not None}


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")
