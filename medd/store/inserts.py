"""Instances into the database, at the pace at which images come in.

The one place that goes past SQLAlchemy to the driver: its expression language costs more than the insert itself, for
every image that a modality waits for.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import PoolProxiedConnection

from medd.errors import InputError, TransientError
from medd.records import UNREPORTED, Reason, Status
from medd.store.database import Database
from medd.store.outbox import Outbox, study_key
from medd.store.tables import instance
from medd.store.tally import count_in_statement, counted, refresh_statement

#: What an instance has when it comes in.
_COLUMNS = tuple(column.name for column in instance.columns if column.name not in ("id", "refused_by"))


@dataclass(frozen=True, slots=True)
class Added:
    """What became of a row."""

    id: int
    #: False when the same bytes were there already.
    new: bool
    status: Status
    reason: Reason | None


class InstanceInserter:
    """Inserts instances with their jobs, on a connection of its own. For one thread at a time.

    Args:
        database: Where they go.
        job_kind: Of the jobs.
        spool: Where their bytes lie.
        outbox: Where what is refused is told of.
        has_bytes: Whether the bytes of a row lie in the spool; asked where retention had deleted them.
    """

    def __init__(
        self,
        database: Database,
        job_kind: str,
        spool: str = "",
        outbox: Outbox = Outbox(),  # noqa: B008  # frozen
        has_bytes: Callable[[dict[str, Any]], bool] = lambda _row: True,
    ) -> None:
        self._has_bytes = has_bytes
        self._database, self._kind, self._spool, self._outbox = database, job_kind, spool, outbox
        self._dbapi: Any = database.engine.dialect.loaded_dbapi
        self._pooled: PoolProxiedConnection | None = None
        mark = ":{}" if database.is_sqlite else "%({})s"
        names, values = ", ".join(_COLUMNS), ", ".join(mark.format(name) for name in _COLUMNS)
        self._insert = f"INSERT INTO instance ({names}) VALUES ({values}) ON CONFLICT (sha256) DO NOTHING RETURNING id"
        kind, spool, id_, sha256 = (mark.format(name) for name in ("kind", "spool", "id", "sha256"))
        priority = mark.format("priority")
        self._job = (
            "INSERT INTO job (kind, spool, instance_id, priority, state)"
            f" VALUES ({kind}, {spool}, {id_}, {priority}, 'pending')"
        )
        self._revive = (
            f"UPDATE job SET state = 'pending', spool = {spool}, attempts = 0, available_at = NULL"
            f" WHERE instance_id = {id_} AND state = 'dead'",
            f"UPDATE instance SET status = 'pending', reason = NULL, detail = NULL WHERE id = {id_}",
        )
        # What a backfill has queued already, and now comes in live, waits behind the others no longer, and is told of.
        self._hasten = (
            f"UPDATE job SET priority = {priority}"
            f" WHERE instance_id = {id_} AND state IN ('pending', 'running') AND priority > {priority}"
        )
        self._count_in = count_in_statement(mark)
        lock = f"SELECT study FROM study WHERE study = {mark.format('study')} FOR UPDATE"
        self._recount = (*(() if database.is_sqlite else (lock,)), refresh_statement(mark))
        self._open = outbox.statement(mark)
        # Its bytes lie here now, whichever host had them: that one may be gone for good.
        self._bring = f"UPDATE job SET spool = {spool} WHERE instance_id = {id_} AND spool <> {spool}"
        self._keep = f"DELETE FROM purged WHERE instance_id = {id_} RETURNING instance_id"
        # Held until it is answered for: retention deletes no row that is, and one that it has in hand is waited for.
        hold = "" if database.is_sqlite else " FOR KEY SHARE"
        self._known = f"SELECT id, status, reason FROM instance WHERE sha256 = {sha256}{hold}"

    def add(self, rows: Sequence[dict[str, Any]]) -> dict[str, Added]:
        """Insert instances, and a job for each that is pending, in one transaction; same bytes again change nothing.

        Args:
            rows: Columns of `instance`, and where it is not 0 the job's "priority".

        Returns:
            By SHA-256.

        Raises:
            InputError: The database refuses a row; none was inserted.
            TransientError: The database is away, locked or full; none was inserted.
        """
        stale = self._pooled is not None
        try:
            return self._try(rows)
        except TransientError:
            # A server that was restarted in the meantime only shows on the first use of the old connection.
            if not stale:
                raise
            return self._try(rows)

    def _try(self, rows: Sequence[dict[str, Any]]) -> dict[str, Added]:
        dbapi = self._dbapi
        try:
            return self._transaction(rows)
        except (dbapi.DataError, dbapi.IntegrityError) as error:
            self.close()
            kind = type(error).__name__
            raise InputError(Reason.UNREADABLE, f"the database refuses the row. Received: {kind}") from error
        except dbapi.Error as error:
            self.close()
            message = str(error).strip().splitlines()
            raise TransientError(f"database: {message[0] if message else type(error).__name__}") from error
        except BaseException:
            self.close()
            raise

    def _transaction(self, rows: Sequence[dict[str, Any]]) -> dict[str, Added]:
        if self._pooled is None:
            self._pooled = self._connect()
        cursor = self._pooled.cursor()
        # Each question to a server is a way there and back: one that needs no answer is not waited for.
        driver: Any = self._pooled.dbapi_connection
        with contextlib.closing(cursor), contextlib.nullcontext() if self._database.is_sqlite else driver.pipeline():
            # On SQLite the write lock is taken at once: a transaction that reads first could not get it later.
            cursor.execute("BEGIN IMMEDIATE" if self._database.is_sqlite else "BEGIN")
            # In one order everywhere, so that two receivers with the same images wait for each other, not deadlock.
            unique = {row["sha256"]: self._moments(row) for row in rows}
            revived: set[str] = set()
            added = {sha256: self._add(cursor, unique[sha256], revived) for sha256 in sorted(unique)}
            self._count(cursor, unique, added, revived)
            # What a model will never see is told of as well: no answer at all would pass for "nothing found".
            refused = (row for sha256, row in unique.items() if added[sha256].new and _is_told_of(row))
            for opened in self._outbox.rows({study_key(row["study_instance_uid"], row["sha256"]) for row in refused}):
                cursor.execute(self._open, self._moments(opened))
            cursor.execute("COMMIT")
        return added

    def _connect(self) -> PoolProxiedConnection:
        try:
            pooled = self._database.engine.raw_connection()
        except self._dbapi.Error:
            raise
        except SQLAlchemyError as error:  # it wraps what the driver raises when it connects
            raise TransientError(f"database: {type(error).__name__}") from error
        if not self._database.is_sqlite:
            pooled.driver_connection.autocommit = True  # type: ignore[union-attr] # BEGIN and COMMIT are ours
        pooled.detach()
        return pooled

    def _count(self, cursor: Any, rows: dict[str, dict[str, Any]], added: dict[str, Added], revived: set[str]) -> None:
        """Keep the rows of the studies, in one order everywhere; one that is made anew comes after its new images."""
        changed = [sha256 for sha256, one in added.items() if one.new or sha256 in revived]
        keyed = ((study_key(rows[sha256]["study_instance_uid"], sha256), sha256) for sha256 in changed)
        now = self._moments({"changed_at": datetime.now(UTC)})
        for key, _, sha256 in sorted((key, sha256 in revived, sha256) for key, sha256 in keyed):
            if sha256 not in revived:
                cursor.execute(self._count_in, counted(rows[sha256], key, added[sha256].id, **now))
                continue
            for statement in self._recount:
                cursor.execute(statement, {"study": key} | now)

    def _add(self, cursor: Any, row: dict[str, Any], revived: set[str]) -> Added:
        found = cursor.execute(self._insert, row).fetchone()
        if found is None:
            known = cursor.execute(self._known, {"sha256": row["sha256"]}).fetchone()
            if known is None:  # between the two statements: the sender is to try again
                raise TransientError("database: the image's old row has just been deleted")
            id_, status, reason = known
            # Its bytes had been deleted, and are there again; unless that was after they were published. Whoever
            # deletes them holds the row that we have just deleted, so what we see now stays so.
            is_kept_anew = cursor.execute(self._keep, {"id": id_}).fetchone() is not None
            if is_kept_anew and not self._has_bytes(row):
                raise TransientError("spool: the image's old file has just been deleted")
            if is_kept_anew or status == Status.PENDING:
                cursor.execute(self._bring, {"id": id_, "spool": self._spool})
            if status == Status.FAILED:
                # Sent again after the work on it failed for good: the sender wants it tried again.
                for statement in self._revive:
                    cursor.execute(statement, {"id": id_, "spool": self._spool})
                revived.add(row["sha256"])
                status, reason = Status.PENDING, None
            if status == Status.PENDING:
                cursor.execute(self._hasten, {"id": id_, "priority": row.get("priority", 0)})
            return Added(id_, False, Status(status), Reason(reason) if reason else None)
        if row["status"] == Status.PENDING:
            wanted = {"kind": self._kind, "spool": self._spool, "id": found[0], "priority": row.get("priority", 0)}
            cursor.execute(self._job, wanted)
        return Added(found[0], True, row["status"], row["reason"])

    def _moments(self, values: dict[str, Any]) -> dict[str, Any]:
        if not self._database.is_sqlite:
            return values
        return {name: _utc_text(one) if isinstance(one, datetime) else one for name, one in values.items()}

    def close(self) -> None:
        """Give the connection up; the next `add` makes another. What was not committed is rolled back."""
        if self._pooled is not None:
            pooled, self._pooled = self._pooled, None
            connection: Any = pooled.dbapi_connection
            pooled.invalidate()
            # A detached connection is nobody's to close but ours; left to the garbage collector it keeps its locks.
            with contextlib.suppress(self._dbapi.Error):
                connection.close()


def _is_told_of(row: dict[str, Any]) -> bool:
    return row["status"] != Status.PENDING and row["reason"] not in UNREPORTED


def _utc_text(moment: datetime) -> str:
    # As `UtcDateTime` writes it, in a fraction of the time.
    return moment.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
