"""Moments that rows are compared with: on PostgreSQL by the one clock that all hosts share, on SQLite by the host's."""

from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement

from medd.store.database import Database
from medd.store.tables import UtcDateTime


def from_now(database: Database, seconds: float) -> ColumnElement[datetime]:
    """The moment `seconds` from when the statement is executed, so that one that is asked often is built once."""
    if database.is_sqlite:
        ahead = timedelta(seconds=seconds)
        return sa.bindparam(None, callable_=lambda: datetime.now(UTC) + ahead, type_=UtcDateTime, unique=True)
    return sa.func.statement_timestamp() + sa.literal(timedelta(seconds=seconds), sa.Interval)


def reached(database: Database, column: ColumnElement[Any], furthest_s: float) -> ColumnElement[bool]:
    """Whether a moment has come.

    One further ahead than `furthest_s`, which is more than any is ever set, was written before the clock was put back:
    it counts as reached.
    """
    return (column <= from_now(database, 0)) | (column > from_now(database, furthest_s))
