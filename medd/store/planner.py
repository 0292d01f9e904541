"""What SQLite's planner has to be told: it has no statistics of how values are spread."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection


def unindexed(connection: Connection, column: ColumnElement[Any]) -> ColumnElement[Any]:
    """A column that SQLite does not look up in an index, by a unary plus before it (sqlite.org/optoverview.html)."""
    if connection.dialect.name != "sqlite":
        return column
    plus: Any = sa.sql.operators.custom_op("+")
    return sa.UnaryExpression(column, operator=plus, type_=column.type)
