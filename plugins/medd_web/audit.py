"""How the audit trail is kept: `audit.record(context, request, user, audit.Action.CASE_SEEN, study=…)`.

An event is committed before what it tells of is shown: where it cannot be kept, nothing is shown.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fastapi import Request
from sqlalchemy import Connection

from medd.errors import TransientError
from medd.records import AuditOutcome
from medd.store.audit import Event, add_event
from medd_web.actions import Action
from medd_web.buckets import address_of
from medd_web.context import Context

if TYPE_CHECKING:
    from medd_web.auth import User

log = logging.getLogger(__name__)

__all__ = ["Action", "attempt", "record", "record_in"]


def record(
    context: Context,
    request: Request,
    user: "User | None",
    action: str,
    *,
    study: str = "",
    instance: str | int = "",
    detail: str = "",
    outcome: AuditOutcome = AuditOutcome.SUCCESS,
) -> None:
    """Keep, in a transaction of its own, that somebody did something: for what changes nothing.

    Args:
        context: The context.
        request: By which it was done.
        user: Who; None where nobody is known.
        action: A word of `Action`, or of a plugin's own.
        study: The key of the study it is about, as in the table `study`.
        instance: The image it is about.
        detail: One sentence more.
        outcome: What became of it.

    Raises:
        TransientError: It cannot be kept; then it must not be done, or not be shown.
    """
    with context.write() as connection:
        record_in(connection, request, user, action, study=study, instance=instance, detail=detail, outcome=outcome)


def record_in(
    connection: Connection,
    request: Request,
    user: "User | None",
    action: str,
    *,
    study: str = "",
    instance: str | int = "",
    detail: str = "",
    outcome: AuditOutcome = AuditOutcome.SUCCESS,
) -> None:
    """The same in the transaction of a change: both are kept, or neither."""
    name, address = user.name if user else "", address_of(request)
    add_event(connection, Event(name, action, outcome, address, study, str(instance), detail))


@contextmanager
def attempt(context: Context, request: Request, user: "User", action: str, detail: str) -> Iterator[None]:
    """Keep what became of a change that is made in transactions of others: a success, or a failure where it raises.

    For changes that keep by themselves who made them and why (`medd.registry`): this event comes after them. Where it
    cannot be kept any more the log says so, and what became of the change is answered all the same.
    """
    outcome = AuditOutcome.FAILED
    try:
        yield
        outcome = AuditOutcome.SUCCESS
    finally:
        try:
            record(context, request, user, action, detail=detail, outcome=outcome)
        except TransientError as error:
            log.error("an event of the audit trail is lost: %s", error, extra={"event": "web.audit_lost"})
