"""Jobs and predictions: is everything worked on that should be, and is what was done there?"""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy import Connection

from medd.queue.base import CLASSIFY, JobState
from medd.queue.sql import SqlQueue
from medd.reconcile.check import AT_ONCE, Check, Rule, Scope, count, hold
from medd.records import DeliveryState, Status
from medd.store.clock import from_now
from medd.store.outbox import Deliveries
from medd.store.tables import annotation, attachment, delivery, instance, job, prediction, purged
from medd.store.tally import refresh

#: No lease is ever given for so long: one that ends later was given before the clock was put back, seconds.
_FURTHEST_S = 7200.0
i, j, p = instance.c, job.c, prediction.c
_STATE_OF = {Status.PENDING: JobState.PENDING, Status.SCORED: JobState.DONE, Status.FAILED: JobState.DEAD}


def jobs(scope: Scope) -> Check:
    """Every image that a model was or is to be shown has its job, and the two agree."""
    check = Check("jobs", count(scope.database, instance))

    def make(connection: Connection, ids: Sequence[int]) -> None:
        for id_, status in connection.execute(sa.select(i.id, i.status).where(i.id.in_(ids))).all():
            row = {"kind": CLASSIFY, "instance_id": id_, "state": _STATE_OF[Status(status)], "spool": scope.spool.id}
            connection.execute(job.insert().values(row))

    # What was refused at the door never had one.
    without = j.id.is_(None) & (i.status != Status.NOT_ASSESSED)
    hold(scope, check, Rule("has no job", without, make, "job made anew"))
    over = (i.status == Status.PENDING) & j.state.in_([JobState.DONE, JobState.DEAD])
    alive = (i.status == Status.FAILED) & (j.state != JobState.DEAD)
    # Nothing is taken from a worker: what runs ends by itself.
    mismatch = (over | alive) & (j.state != JobState.RUNNING)
    hold(scope, check, Rule("and its job disagree", mismatch, _again, "will be scored again"))
    return check


def predictions(scope: Scope) -> Check:
    """Every scored image has its current prediction, and no other image has one."""
    check = Check("predictions", count(scope.database, prediction))
    bare = (i.status == Status.SCORED) & p.id.is_(None) & j.id.is_not(None)
    here = bare & purged.c.instance_id.is_(None)
    hold(scope, check, Rule("is scored and has no prediction", here, _again, "will be scored again"))
    hold(scope, check, Rule("is scored, has no prediction, and its bytes were deleted", bare & ~here))
    shown = (i.status != Status.SCORED) & p.id.is_not(None)
    hold(scope, check, Rule("is not scored and has a prediction", shown, _hide, "prediction not shown any more"))
    return check


def _again(connection: Connection, ids: Sequence[int]) -> None:
    pending = {"state": JobState.PENDING, "attempts": 0, "available_at": None, "error": None}
    connection.execute(job.update().where(j.instance_id.in_(ids) & (j.state != JobState.RUNNING)).values(**pending))
    waiting = {"status": Status.PENDING, "reason": None, "detail": None, "refused_by": None}
    connection.execute(instance.update().where(i.id.in_(ids)).values(**waiting))
    refresh(connection, ids)


def _hide(connection: Connection, ids: Sequence[int]) -> None:
    connection.execute(prediction.update().where(p.instance_id.in_(ids) & p.current).values(current=False))
    refresh(connection, ids)


def strays(scope: Scope) -> Check:
    """No row speaks of an image that there is not: SQLite holds that only for those who ask it to."""
    check = Check("strays")
    for table in (job, prediction, attachment, annotation):
        check.looked_at += count(scope.database, table)
        gone = ~sa.exists().where(i.id == table.c.instance_id)
        with scope.database.read() as connection:
            found = connection.scalar(sa.select(sa.func.count()).select_from(table).where(gone)) or 0
        if found == 0:
            continue
        # What a reader said is nobody's to delete.
        if not scope.mends or table is annotation:
            check.note(f"{found} rows of {table.name} without their instance", found)
            continue
        with scope.database.write() as connection:
            found = connection.execute(table.delete().where(gone)).rowcount
        check.note(f"{found} rows of {table.name} without their instance", found, mended="deleted")
    return check


def leases(scope: Scope) -> Check:
    """Nothing is held by somebody who has long fallen silent."""
    check, database = Check("leases"), scope.database
    for table, running in ((job, JobState.RUNNING), (delivery, DeliveryState.RUNNING)):
        held = table.c.state == str(running)
        until = table.c.lease_until
        stuck = (until < from_now(database, -scope.lease_s)) | (until > from_now(database, _FURTHEST_S))
        with database.read() as connection:
            check.looked_at += connection.scalar(sa.select(sa.func.count()).select_from(table).where(held)) or 0
            found = connection.scalars(sa.select(table.c.id).where(held & stuck).limit(AT_ONCE)).all()
        if found and scope.mends:
            # As any worker does; what was tried too often is given up, and told of.
            if table is job:
                SqlQueue(database, spool=scope.spool.id, outbox=scope.outbox).recover(CLASSIFY)
            else:
                Deliveries(database).recover()
        for id_ in found:
            check.note(f"{table.name} {id_}: its lease has long ended", mended="given back" if scope.mends else "")
    return check
