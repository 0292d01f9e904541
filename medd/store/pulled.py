"""Which studies were fetched, and whether all of each came."""

from collections.abc import Sequence
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from medd.store.tables import instance, pulled

#: UIDs in one question; every database takes that many.
_AT_ONCE = 500


def find_states(connection: Connection, source: str, studies: Sequence[str]) -> dict[str, bool]:
    """Which of these studies were asked of a source before: Study Instance UID → whether all of it came."""
    found: dict[str, bool] = {}
    for start in range(0, len(studies), _AT_ONCE):
        statement = sa.select(pulled.c.study_instance_uid, pulled.c.complete).where(
            pulled.c.source == source, pulled.c.study_instance_uid.in_(studies[start : start + _AT_ONCE])
        )
        found.update((uid, complete) for uid, complete in connection.execute(statement))
    return found


def record(
    connection: Connection, source: str, study: str, *, images: int, failed: int, complete: bool, error: str
) -> None:
    """Keep what came of a study; of several tries the last counts."""
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    values = {
        "at": datetime.now(UTC),
        "images": images,
        "failed": failed,
        "complete": complete,
        "error": error or None,
    }
    statement = insert(pulled).values(source=source, study_instance_uid=study, **values)
    key = [pulled.c.source, pulled.c.study_instance_uid]
    connection.execute(statement.on_conflict_do_update(index_elements=key, set_=values))


def find_images(connection: Connection, study: str, series: str) -> set[str]:
    """The SOP Instance UIDs of a series that were received, by whatever way."""
    statement = sa.select(instance.c.sop_instance_uid).where(
        instance.c.study_instance_uid == study, instance.c.series_instance_uid == series
    )
    return set(connection.scalars(statement))
