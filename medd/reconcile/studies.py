"""What follows from the images of a study: its row, and that its results are told of."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Connection

from medd.queue.base import RESCORE_PRIORITY, JobState
from medd.reconcile.check import AT_ONCE, Check, Rule, Scope, count, hold
from medd.records import UNREPORTED, Status
from medd.store.tables import delivery, instance, job, study
from medd.store.tally import find_differing, refresh

#: The first deliveries to a destination tell since when it is known.
_FIRST = 100
i = instance.c
_KEY = sa.case((i.study_instance_uid != "", i.study_instance_uid), else_=i.sha256)


def studies(scope: Scope) -> Check:
    """The worklist's rows say what the images and their predictions say."""
    check = Check("studies", count(scope.database, study))
    missing = ~sa.exists().where(study.c.study == _KEY)
    hold(scope, check, Rule("its study has no row", missing, refresh, "made anew"))
    last = ""
    while True:
        keys = sa.select(study.c.study).where(study.c.study > last).order_by(study.c.study).limit(AT_ONCE)
        with scope.database.read() as connection:
            page = connection.scalars(keys).all()
            differing = find_differing(connection, page) if page else []
        if not page:
            return check
        last = page[-1]
        if scope.mends and differing:
            with scope.database.write() as connection:
                _mend(connection, [key for key, _ in differing])
        for _, deciding in differing:
            what = f"the study of instance {deciding}: its row says otherwise"
            check.note(what, mended="made anew" if scope.mends else "")


def _mend(connection: Connection, keys: Sequence[str]) -> None:
    of_study = (i.study_instance_uid.in_(keys)) | (i.sha256.in_(keys) & (i.study_instance_uid == ""))
    refresh(connection, connection.scalars(sa.select(i.id).where(of_study)).all())
    none = ~sa.exists().where(study.c.study == _KEY)
    connection.execute(study.delete().where(study.c.study.in_(keys), none))


def deliveries(scope: Scope) -> Check:
    """Whatever is to be told of stands in the outbox, for every destination."""
    check = Check("deliveries", count(scope.database, delivery))
    unreported = i.reason.in_([str(reason) for reason in UNREPORTED])
    finished = (i.status != Status.PENDING) & (i.reason.is_(None) | ~unreported)
    # History is not told of. What was refused at the door, live or as history, has no job that says which it was: it is
    # left alone, unless somebody names the moment since when everything is to be told of.
    live = (job.c.priority < RESCORE_PRIORITY) & job.c.state.in_([JobState.DONE, JobState.DEAD])
    finished &= live | job.c.id.is_(None) if scope.told_since else live
    for name in scope.outbox.destinations:
        since = scope.told_since or _known_since(scope, name)
        if since is None:
            continue
        untold = finished & (i.received_at >= since)
        untold &= ~sa.exists().where((delivery.c.study == _KEY) & (delivery.c.destination == name))
        outbox = replace(scope.outbox, destinations=(name,))
        hold(scope, check, Rule(f"is not told of to {name}", untold, outbox.open, "will be"))
    return check


def _known_since(scope: Scope, destination: str) -> datetime | None:
    """A moment at which a destination was there already: what came before it may rightly never have been told of."""
    d = delivery.c
    first = sa.select(d.due_by).where(d.destination == destination).order_by(d.id).limit(_FIRST).subquery()
    with scope.database.read() as connection:
        found: datetime | None = connection.scalar(sa.select(sa.func.min(first.c.due_by)))
    return found
