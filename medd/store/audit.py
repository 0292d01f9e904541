"""The audit trail: who saw which case and changed what. Events are only added."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from medd.records import AuditOutcome
from medd.store.tables import audit, study

#: Longest text that is kept with an event; a caller chooses some of them.
MAX_DETAIL = 500
#: The columns of `medd audit`.
COLUMNS = ("id", "at", "account", "address", "action", "outcome", "study", "instance", "detail", "patient_id")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that somebody did, or tried to."""

    #: A user's name, or "".
    account: str
    #: A word; `medd_web.audit.Action` has those of the web pages.
    action: str
    outcome: AuditOutcome = AuditOutcome.SUCCESS
    #: From where; "" at the command line.
    address: str = ""
    #: The study's key, as in the table `study`.
    study: str = ""
    instance: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events `find_events` gives; None does not restrict."""

    since: datetime | None = None
    account: str | None = None
    action: str | None = None
    study: str | None = None
    #: Only events older than the one of this id: the next page.
    before: int | None = None
    limit: int | None = None


def add_event(connection: Connection, event: Event) -> None:
    """Keep an event."""
    values = {
        "at": datetime.now(UTC),
        "account": _storable(event.account, 64),
        "address": _storable(event.address, 64),
        "action": event.action,
        "outcome": event.outcome,
        "study": _storable(event.study, 64),
        "instance": _storable(event.instance, 64),
        "detail": _storable(event.detail, MAX_DETAIL),
    }
    connection.execute(audit.insert().values(**values))


def find_events(connection: Connection, wanted: EventFilter) -> Iterator[dict[str, Any]]:
    """Events, newest first, each with the id of the patient whose study it is about."""
    columns = [audit.c[name] for name in COLUMNS[:-1]]
    statement = sa.select(*columns, study.c.patient_id).join_from(
        audit, study, (audit.c.study != "") & (study.c.study == audit.c.study), isouter=True
    )
    for column, value in (
        (audit.c.account, wanted.account),
        (audit.c.action, wanted.action),
        (audit.c.study, wanted.study),
    ):
        if value is not None:
            statement = statement.where(column == value)
    if wanted.since is not None:
        statement = statement.where(audit.c.at >= wanted.since)
    if wanted.before is not None:
        statement = statement.where(audit.c.id < wanted.before)
    rows = connection.execution_options(yield_per=1000).execute(
        statement.order_by(audit.c.id.desc()).limit(wanted.limit)
    )
    for row in rows:
        yield dict(row._mapping)


def was_seen_from(connection: Connection, account: str, action: str, address: str, days: float) -> bool:
    """Whether a user succeeded in an action from an address within the last days."""
    since = datetime.now(UTC) - timedelta(days=days)
    theirs = (audit.c.account == account) & (audit.c.action == action) & (audit.c.at >= since)
    there = (audit.c.address == address) & (audit.c.outcome == AuditOutcome.SUCCESS)
    return connection.scalar(sa.select(audit.c.id).where(theirs, there).limit(1)) is not None


def _storable(text: str, length: int) -> str:
    # What a caller sent may hold what no database takes.
    return text.encode("utf-8", "replace").decode().replace("\0", "�")[:length]
