"""Which studies are old enough to be deleted, and what keeps one of them all the same."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection

from medd.errors import TransientError
from medd.records import DeliveryState, Status
from medd.store.database import Database
from medd.store.outbox import study_key
from medd.store.repository import is_alone
from medd.store.spool import Spool
from medd.store.tables import UtcDateTime, annotation, commitment, delivery, instance, job, purged, study
from medd.store.tally import lock

#: Studies that are judged in one transaction, for which the receiver waits; and images that are looked at in one go.
AT_ONCE, _LOOKED_AT = 50, 1000
_DONE = (Status.SCORED, Status.NOT_ASSESSED)

i, s = instance.c, study.c
_KEY = sa.case((i.study_instance_uid != "", i.study_instance_uid), else_=i.sha256)


@dataclass(slots=True)
class Candidate:
    """A study that is old enough to go."""

    #: Why it stays; "" where nothing keeps it.
    why: str = ""
    #: Images whose bytes are here, with their sizes; how many have none any more, and how many there are.
    here: dict[int, int] = field(default_factory=dict)
    gone: int = 0
    images: set[int] = field(default_factory=set)


class Expiry:
    """Judges which studies may go.

    Args:
        database: Where the rows are.
        spool: Where the bytes are; what lies in another host's is left to that host.

    Attributes:
        is_alone: Whether no image is known to lie in another host's spool.
    """

    def __init__(self, database: Database, spool: Spool) -> None:
        self._database, self._spool = database, spool
        self._here = spool.id
        self._promised: set[int] = set()
        self._last_promise = 0
        with database.read() as connection:
            self.is_alone = is_alone(connection, self._here)
        # Ids are not committed in their order: only under the lock none is still to come below the last.
        with database.read() as connection:
            self._hold_promises(connection)
            last = connection.scalar(sa.select(sa.func.max(commitment.c.id)))
        with database.read() as connection:  # all of them here, so that later only new ones are read under the lock
            self._read_promises(connection, last or 0)

    def walk(self, wanted: ColumnElement[bool], before: datetime) -> Iterator[list[str]]:
        """The studies of images from before a moment, the oldest first, each once, a portion at a time."""
        seen: set[str] = set()
        place = (datetime.min.replace(tzinfo=UTC, year=1000), 0)
        columns = sa.select(i.received_at, i.id, _KEY.label("study")).where(wanted, i.received_at < before)
        while True:
            after = sa.tuple_(i.received_at, i.id) > sa.tuple_(sa.literal(place[0], UtcDateTime), place[1])
            with self._database.read() as connection:
                rows = connection.execute(columns.where(after).order_by(i.received_at, i.id).limit(_LOOKED_AT)).all()
            if not rows:
                return
            place = rows[-1].received_at, rows[-1].id
            fresh = [key for key in dict.fromkeys(row.study for row in rows) if key not in seen]
            seen.update(fresh)
            for start in range(0, len(fresh), AT_ONCE):
                yield fresh[start : start + AT_ONCE]

    def judge(
        self, connection: Connection, keys: Sequence[str], before: datetime, *, dry_run: bool
    ) -> dict[str, Candidate]:
        """Whether studies may go, in the order of `keys`; where one writes, nothing that matters changes meanwhile."""
        if not dry_run:
            self._hold_promises(connection)
        self._read_promises(connection)
        # Each part by its own index: together they would be looked for among all images without a study.
        of_uid = sa.select(i.id).where(i.study_instance_uid.in_(keys))
        of_file = sa.select(i.id).where(i.sha256.in_(keys), i.study_instance_uid == "")
        ids = connection.scalars(sa.union_all(of_uid, of_file)).all()
        if not dry_run:
            lock(connection, ids)
        old = set(connection.scalars(sa.select(s.study).where(s.study.in_(keys), s.last_received_at < before)))
        found = {key: Candidate() for key in keys if key in old}
        undelivered = sa.select(delivery.c.study).where(delivery.c.study.in_(keys))
        late = set(connection.scalars(undelivered.where(delivery.c.state != DeliveryState.DONE)))
        said = sa.select(annotation.c.instance_id).where(annotation.c.instance_id.in_(ids))
        annotated = set(connection.scalars(said))
        for row in self._images(connection, ids):
            key = study_key(row.study_instance_uid, row.sha256)
            if key not in found:
                continue
            one = found[key]
            one.images.add(row.id)
            one.why = one.why or self._why(row, row.id in annotated, key in late)
            if row.gone is not None:
                one.gone += bool(row.gone)
            elif self._is_here(row):
                one.here[row.id] = row.size
        return found

    def _images(self, connection: Connection, ids: Collection[int]) -> Sequence[Any]:
        names = (i.id, i.study_instance_uid, i.sha256, i.sop_instance_uid, i.media_type, i.size, i.status)
        of_job = (job.c.id.label("job"), job.c.state, job.c.spool)
        wanted = sa.select(*names, *of_job, purged.c.gone).where(i.id.in_(ids))
        joined = wanted.select_from(instance.outerjoin(job).outerjoin(purged, purged.c.instance_id == i.id))
        return connection.execute(joined.order_by(i.id)).all()

    def _why(self, row: Any, is_annotated: bool, is_late: bool) -> str:
        if row.status not in _DONE or (row.job is not None and row.state != "done"):
            return "unfinished or failed"
        if is_late:
            return "undelivered"
        if is_annotated:
            return "annotated"
        return "committed" if hash(row.sop_instance_uid) in self._promised and row.sop_instance_uid else ""

    def _is_here(self, row: Any) -> bool:
        """Whether the bytes lie in our spool; of what was refused at the door no row says so."""
        if row.spool:
            return bool(row.spool == self._here)
        if self.is_alone:
            return True
        try:
            return self._spool.size(self._spool.path(row.sha256, row.media_type)) is not None
        except OSError as error:
            raise TransientError(f"spool: {error.strerror}") from error

    def _hold_promises(self, connection: Connection) -> None:
        """Let no commitment be noted until the transaction ends.

        One is noted before it is judged: either we see it, or it is judged by what we have decided.
        """
        if not self._database.is_sqlite:  # there one writes at a time
            connection.execute(sa.text("LOCK TABLE commitment IN SHARE MODE"))

    def _read_promises(self, connection: Connection, last: int | None = None) -> None:
        """What storage commitments we gave, or are asked for; kept by hash, as there may be millions."""
        c = commitment.c
        offered = sa.select(c.id, c.objects).where(c.direction == "offered", c.id > self._last_promise)
        if last is not None:
            offered = offered.where(c.id <= last)
        for id_, objects in connection.execute(offered.order_by(c.id)):
            self._promised.update(hash(uid) for _, uid in objects)
            self._last_promise = id_
