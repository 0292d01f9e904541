"""Moments that rows are compared with: on PostgreSQL by the one clock that all hosts share, on SQLite by the host's."""

from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement

from medd.store.database import Database
from medd.store.tables import UtcDateTime


def from_now(database: Database, seconds: float) -> ColumnElement[datetime]:
    """The moment `seconds` from now."""
    if database.is_sqlite:
        return sa.literal(datetime.now(UTC) + timedelta(seconds=seconds), UtcDateTime)
    return sa.func.statement_timestamp() + sa.literal(timedelta(seconds=seconds), sa.Interval)


def reached(database: Database, column: ColumnElement[Any], furthest_s: float) -> ColumnElement[bool]:
    """Whether a moment has come.

    One further ahead than `furthest_s`, which is more than any is ever set, was written before the clock was put back:
    it counts as reached.
    """
    return (column <= from_now(database, 0)) | (column > from_now(database, furthest_s))
