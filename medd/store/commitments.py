"""Storage commitment on record: what we asked of destinations, what modalities asked of us, and what became of it.

::

    offered   waiting ──report acknowledged──▶ done
                 ├──the peer is away──▶ waiting, later
                 └──refused, or tried too long──▶ dead
    asked     waiting ──N-EVENT-REPORT──▶ done, and `sent.committed` says which objects
                 ├──the destination is away──▶ waiting, later
                 └──refused, or no answer──▶ dead
"""

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from medd.dicom.commitment import CLASS_INSTANCE_CONFLICT, NO_SUCH_OBJECT_INSTANCE, Outcome, Reference
from medd.errors import InputError, TransientError
from medd.records import Reason
from medd.store.clock import from_now, reached
from medd.store.database import Database
from medd.store.spool import Spool
from medd.store.tables import commitment, instance, job, purged, sent

log = logging.getLogger(__name__)

#: How long a claim holds: longer than an association takes to fail.
CLAIM_S = 300.0
#: For this long a destination may think about it.
ANSWER_S = 24 * 3600.0
#: More than any moment is ever set ahead.
_FURTHEST_S = 2 * ANSWER_S
#: Transactions of one peer that wait to be reported.
MAX_OPEN = 1000
#: UIDs in one statement.
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Commitment:
    """A row: one transaction."""

    id: int
    transaction_uid: str
    #: "asked" or "offered".
    direction: str
    #: The destination's name, or the AE title of the peer that asked.
    peer: str
    created_at: datetime
    #: This one included.
    attempts: int
    objects: tuple[Reference, ...]
    #: What went wrong last.
    error: str | None = None

    @property
    def age_s(self) -> float:
        """Seconds since it was asked."""
        return (datetime.now(UTC) - self.created_at).total_seconds()


class Commitments:
    """The rows of `commitment`. Every method raises `TransientError` when the database is away."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def offer(
        self,
        transaction_uid: str,
        peer: str,
        objects: Sequence[Reference],
        delay_s: float = 0,
        error: str | None = None,
    ) -> bool:
        """Note what a peer asks of us. The same request again is answered again.

        Args:
            transaction_uid: The peer's.
            peer: Its AE title.
            objects: What it asks for.
            delay_s: Not reported by `claim` before.
            error: What is to be on record if the peer is heard of no more.

        Returns:
            Whether there was room for it: a peer may have `MAX_OPEN` transactions that wait.

        Raises:
            InputError: The transaction is known, but for other objects or from somebody else.
        """
        references = [list(one) for one in objects]
        c = commitment.c
        with self.database.write() as connection:
            known = connection.execute(sa.select(commitment).where(c.transaction_uid == transaction_uid)).one_or_none()
            if known is None:
                theirs = (c.state == "waiting") & (c.direction == "offered") & (c.peer == peer)
                if connection.execute(sa.select(sa.func.count()).where(theirs)).scalar_one() >= MAX_OPEN:
                    return False
                self._insert(connection, transaction_uid, "offered", peer, references, delay_s, error)
                return True
            if (known.direction, known.peer, known.objects) != ("offered", peer, references):
                raise InputError(Reason.UNREADABLE, "the transaction UID is in use")
            again = {"state": "waiting", "attempts": 0, "error": error}
            times = {"created_at": from_now(self.database, 0), "available_at": from_now(self.database, delay_s)}
            connection.execute(commitment.update().where(c.id == known.id).values(**again, **times))
            return True

    def plan(self, connection: Connection, destination: str, objects: Sequence[Reference]) -> None:
        """Note, in the transaction of what a destination has acknowledged, that it is to be asked for it."""
        transaction_uid = f"2.25.{uuid.uuid4().int}"
        self._insert(connection, transaction_uid, "asked", destination, [list(one) for one in objects], 0)

    def _insert(
        self,
        connection: Connection,
        transaction_uid: str,
        direction: str,
        peer: str,
        objects: list[list[str]],
        delay_s: float,
        error: str | None = None,
    ) -> None:
        values = {"transaction_uid": transaction_uid, "direction": direction, "peer": peer, "objects": objects}
        times = {"created_at": from_now(self.database, 0), "available_at": from_now(self.database, delay_s)}
        connection.execute(commitment.insert().values(state="waiting", error=error, **values, **times))

    def claim(self, limit: int) -> list[Commitment]:
        """What is to be done now for the peer that waits longest, at most `limit` rows.

        They come back by themselves when whoever claimed them dies. One peer at a time, as several that are away take
        their time-outs one after the other.
        """
        c = commitment.c
        ready = (c.state == "waiting") & reached(self.database, c.available_at, _FURTHEST_S)
        next_ = sa.select(c.direction, c.peer).where(ready).order_by(c.available_at, c.id).limit(1)
        with self.database.read() as connection:
            whom = connection.execute(next_).one_or_none()
        if whom is None:
            return []
        theirs = ready & (c.direction == whom.direction) & (c.peer == whom.peer)
        chosen = sa.select(c.id).where(theirs).order_by(c.available_at, c.id).limit(limit)
        claimed = (
            commitment.update()
            .where(c.id.in_(chosen.with_for_update(skip_locked=True)))
            .values(attempts=c.attempts + 1, available_at=from_now(self.database, CLAIM_S))
            .returning(c.id, c.transaction_uid, c.direction, c.peer, c.created_at, c.attempts, c.objects, c.error)
        )
        with self.database.write() as connection:
            rows = connection.execute(claimed).all()
        as_tuples = [tuple((one[0], one[1]) for one in row.objects) for row in rows]  # JSON has lists
        found = [replace(Commitment(*row), objects=objects) for row, objects in zip(rows, as_tuples, strict=True)]
        return sorted(found, key=lambda row: row.id)

    def hold(self, row: Commitment) -> bool:
        """Extend a claim.

        Returns:
            Whether it still was ours. It is not when it ran out and another has it, or when the transaction is over.
        """
        c = commitment.c
        ours = (c.id == row.id) & (c.state == "waiting") & (c.attempts == row.attempts)
        held = commitment.update().where(ours).values(available_at=from_now(self.database, CLAIM_S))
        with self.database.write() as connection:
            return connection.execute(held).rowcount == 1

    def again(self, id_: int, seconds: float, error: str | None) -> None:
        """Have a row claimed again later."""
        self._set(id_, available_at=from_now(self.database, seconds), error=error)

    def done(self, id_: int, error: str | None = None) -> None:
        """Note that a transaction is over; `error` says what is not kept."""
        self._set(id_, state="done", error=error)

    def bury(self, id_: int, error: str) -> None:
        """Give a transaction up."""
        self._set(id_, state="dead", error=error)

    def find_offered(self, transaction_uid: str) -> int | None:
        """The row of a transaction that a peer asked for."""
        c = commitment.c
        wanted = (c.transaction_uid == transaction_uid) & (c.direction == "offered")
        with self.database.read() as connection:
            return connection.scalar(sa.select(c.id).where(wanted))

    def _set(self, id_: int, **values: Any) -> None:
        # The answer may have come meanwhile: a transaction that is over stays so.
        waiting = (commitment.c.id == id_) & (commitment.c.state == "waiting")
        with self.database.write() as connection:
            connection.execute(commitment.update().where(waiting).values(**values))

    def settle(self, outcome: Outcome) -> bool:
        """Note a destination's answer, on the transaction and on each object that was sent.

        Returns:
            Whether the transaction is known. An answer that comes late, or twice, counts.
        """
        c = commitment.c
        wanted = (c.transaction_uid == outcome.transaction_uid) & (c.direction == "asked")
        with self.database.write() as connection:
            row = connection.execute(sa.select(commitment).where(wanted).with_for_update()).one_or_none()
            if row is None:
                return False
            reasons = {uid: f"{reason:#06x}" for (_, uid), reason in outcome.failed}
            # Not mentioned is not promised, nor is what is mentioned under another class, or as both.
            promised = {(sop_class_uid, uid) for sop_class_uid, uid in outcome.committed if uid not in reasons}
            kept = [uid for sop_class_uid, uid in row.objects if (sop_class_uid, uid) in promised]
            refused = [uid for sop_class_uid, uid in row.objects if (sop_class_uid, uid) not in promised]
            for answer, uids in ((True, kept), (False, refused)):
                _mark(connection, row.peer, uids, answer)
            error = None
            if refused:
                named = ", ".join(f"{uid} ({reasons.get(uid, 'not mentioned')})" for uid in refused[:3])
                error = f"{len(refused)} of {len(row.objects)} objects are not kept: {named}"
            connection.execute(commitment.update().where(c.id == row.id).values(state="done", error=error))
        fields = {"event": "commitment.failed" if error else "commitment.settled", "peer": row.peer}
        log.log(logging.WARNING if error else logging.INFO, "%s", error or "all objects are kept", extra=fields)
        return True


def _mark(connection: Connection, destination: str, uids: Sequence[str], committed: bool) -> None:
    for at in range(0, len(uids), _AT_ONCE):
        ours = (sent.c.destination == destination) & sent.c.object.in_(uids[at : at + _AT_ONCE])
        connection.execute(sent.update().where(ours).values(committed=committed))


def judge(database: Database, spool: Spool, transaction_uid: str, objects: Sequence[Reference]) -> Outcome:
    """Which of these objects we keep: those that have a row of this class, and their bytes in the spool.

    Raises:
        TransientError: The database is away, the spool cannot be read, or it is another host that knows.
    """
    i = instance.c
    columns = (i.sop_instance_uid, i.sop_class_uid, i.sha256, i.media_type, i.size, job.c.spool)
    # What is to be deleted, or is, is promised to nobody: the file may be there for a moment yet.
    stays = ~sa.exists().where(purged.c.instance_id == i.id)
    query = sa.select(*columns).join_from(instance, job, isouter=True).where(stays)
    known: dict[str, list[Any]] = {}
    uids = sorted({uid for _, uid in objects})
    with database.read() as connection:
        for at in range(0, len(uids), _AT_ONCE):
            for row in connection.execute(query.where(i.sop_instance_uid.in_(uids[at : at + _AT_ONCE]))):
                known.setdefault(row.sop_instance_uid, []).append(row)
    try:
        here = spool.id
    except OSError as error:
        raise TransientError(f"spool: {error.strerror}") from error
    committed, failed = [], []
    for sop_class_uid, uid in objects:
        of_class = [row for row in known.get(uid, ()) if row.sop_class_uid == sop_class_uid]
        if any(_is_kept(row, spool, here) for row in of_class):
            committed.append((sop_class_uid, uid))
        elif any(not row.spool for row in of_class) and _others_spool(database, here):
            raise TransientError("an object without a job, whose bytes are not here: another host may have them")
        else:
            conflict = uid in known and not of_class
            failed.append(((sop_class_uid, uid), CLASS_INSTANCE_CONFLICT if conflict else NO_SUCH_OBJECT_INSTANCE))
    return Outcome(transaction_uid, tuple(committed), tuple(failed))


def _is_kept(row: Any, spool: Spool, here: str) -> bool:
    if row.spool and row.spool != here:
        return True  # in the spool of another host, which has synchronised the bytes before there was a row
    try:
        size = spool.size(spool.path(row.sha256, row.media_type))
        return size is not None and bool(size >= row.size)
    except OSError as error:  # what the disk does not say is no answer, and the answer is final
        raise TransientError(f"spool: {error.strerror}") from error


def _others_spool(database: Database, here: str) -> bool:
    # An image that was refused has no job: nothing tells in which host's spool it lies.
    with database.read() as connection:
        return connection.scalar(sa.select(job.c.id).where(job.c.spool.not_in(("", here))).limit(1)) is not None
