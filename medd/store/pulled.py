"""Which studies were fetched, and whether all of each came."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from medd.store.tables import instance, pulled

#: UIDs in one question; every database takes that many.
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Earlier:
    """What came of a study when series of some modalities were asked for; of several tries the last counts."""

    modalities: frozenset[str]
    #: When that was.
    at: datetime
    #: Images that the archive said the study has.
    listed: int
    #: Whether all that was asked for came.
    complete: bool


def find_earlier(connection: Connection, source: str, studies: Sequence[str]) -> dict[str, list[Earlier]]:
    """Which of these studies were asked of a source before, by Study Instance UID."""
    found: dict[str, list[Earlier]] = {}
    for start in range(0, len(studies), _AT_ONCE):
        statement = sa.select(
            pulled.c.study_instance_uid, pulled.c.modalities, pulled.c.at, pulled.c.listed, pulled.c.complete
        ).where(pulled.c.source == source, pulled.c.study_instance_uid.in_(studies[start : start + _AT_ONCE]))
        for uid, modalities, at, listed, complete in connection.execute(statement):
            found.setdefault(uid, []).append(Earlier(frozenset(modalities.split(",")), at, listed, complete))
    return found


def record(
    connection: Connection,
    source: str,
    study: str,
    modalities: Iterable[str],
    *,
    images: int,
    failed: int,
    listed: int,
    complete: bool,
    error: str,
) -> None:
    """Keep what came of a study; of several tries the last counts."""
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    key = {"source": source, "study_instance_uid": study, "modalities": ",".join(sorted(set(modalities)))}
    values = {
        "at": datetime.now(UTC),
        "images": images,
        "failed": failed,
        "listed": listed,
        "complete": complete,
        "error": error or None,
    }
    statement = insert(pulled).values(**key, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=[pulled.c[name] for name in key], set_=values))


def find_images(connection: Connection, study: str) -> dict[str, set[str]]:
    """The images of a study that were received, by whatever way: Series Instance UID → SOP Instance UIDs."""
    statement = sa.select(instance.c.series_instance_uid, instance.c.sop_instance_uid).where(
        instance.c.study_instance_uid == study
    )
    found: dict[str, set[str]] = {}
    for series, image in connection.execute(statement):
        found.setdefault(series, set()).add(image)
    return found
