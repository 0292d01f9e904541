"""Files and rows: each row has its bytes, each file its row, and what was answered with success is there."""

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from medd.dicom.part10 import HEAD_BYTES, split_file
from medd.errors import InputError, MeddError, SettingsError, TransientError
from medd.queue.base import JobState
from medd.reconcile.check import AT_ONCE, Check, Scope, count
from medd.records import MediaType, Reason, Status
from medd.store.tables import instance, job, purged
from medd.store.tally import refresh

i, j = instance.c, job.c
_LOST = "spool: its file is missing or damaged"
_COLUMNS = (i.id, i.sha256, i.media_type, i.size, i.status, i.sop_instance_uid, j.spool, j.state)


def digest(path: Path) -> str:
    """SHA-256 of the content of a spool file, without what was put before it; "" where it is not what its name says.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        if path.suffix == ".dcm":
            try:
                file.seek(split_file(file.read(HEAD_BYTES))[0])
            except InputError:  # what could not be read was kept as it came
                file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def images(scope: Scope) -> Check:
    """Every row has its file, and a file of the right size; with `verify`, the right bytes."""
    check = Check("images", count(scope.database, instance))
    last = 0
    while True:
        rows = _rows(scope, i.id > last)
        if not rows:
            return check
        last = rows[-1].id
        if scope.verify:
            _bring(scope, rows)
        lost = [row for row in rows if not _is_elsewhere(scope, row) and not _is_whole(scope, row)]
        if scope.verify:
            _let_go(scope, rows)
        # What is being deleted, or sent again, in this moment looks otherwise now.
        for row in _rows(scope, i.id.in_([row.id for row in lost])) if lost else ():
            # One that failed says so already, and comes back when it is sent again.
            if row.status == Status.FAILED or _is_whole(scope, row):
                continue
            what = f"instance {row.id}: file {row.sha256} is missing or damaged"
            if not scope.mends:
                check.note(what)
            elif row.status == Status.PENDING and _fail(scope, row.id):
                check.note(what, mended="not scored yet, and said to have failed")
            else:
                check.note(f"{what}: its result stays; the same image sent again brings the bytes back")


def _rows(scope: Scope, wanted: sa.ColumnElement[bool]) -> Sequence[Any]:
    """Instances in the order of their ids, without those whose bytes retention has deleted."""
    stays = ~sa.exists().where(purged.c.instance_id == i.id)
    query = sa.select(*_COLUMNS).join_from(instance, job, isouter=True).where(wanted, stays)
    with scope.database.read() as connection:
        return connection.execute(query.order_by(i.id).limit(AT_ONCE)).all()


def _is_elsewhere(scope: Scope, row: Any) -> bool:
    """Whether the bytes lie in another host's spool; what was refused at the door may, as no row says where it is."""
    if row.spool or scope.is_alone:
        return bool(row.spool) and row.spool != scope.spool.id
    return _size(scope, scope.spool.path(row.sha256, row.media_type)) is None


def _is_whole(scope: Scope, row: Any) -> bool:
    path = scope.spool.path(row.sha256, row.media_type)
    size = _size(scope, path)
    if size is None or size < row.size:
        return False
    try:
        return not scope.verify or digest(scope.spool.bring(path)) == row.sha256
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unreadable(scope, path.name, error) from error


def _size(scope: Scope, path: Path) -> int | None:
    """Bytes of a kept file, with what was put before its content; None where there is none."""
    try:
        return scope.spool.size(path)
    except OSError as error:
        raise _unreadable(scope, path.name, error) from error


def _unreadable(scope: Scope, name: str, error: OSError) -> MeddError:
    """A disk that does not read is a fault here, a bucket that is away is none."""
    kind = SettingsError if scope.spool.bucket is None else TransientError
    return kind(f"spool: {name} cannot be read. Received: {error.strerror}")


def _bring(scope: Scope, rows: Iterable[Any]) -> None:
    """Bring the files of rows from a bucket, many at once."""
    paths = [scope.spool.path(row.sha256, row.media_type) for row in rows]
    for path, failure in zip(paths, scope.spool.bring_anew(paths), strict=True):
        if failure is not None and not isinstance(failure, FileNotFoundError):
            raise _unreadable(scope, path.name, failure)


def _let_go(scope: Scope, rows: Iterable[Any]) -> None:
    """Leave the cache to those who work with it."""
    for row in rows:
        scope.spool.forget(scope.spool.path(row.sha256, row.media_type))


def _digest_kept(scope: Scope, path: Path) -> str:
    """`digest` of what is kept, whatever a cache says."""
    scope.spool.forget(path)
    return digest(scope.spool.bring(path))


def _fail(scope: Scope, id_: int) -> bool:
    """Give an image up that waits to be scored; returns False where a worker has it in hand."""
    with scope.database.write() as connection:
        waits = (j.instance_id == id_) & (j.state == JobState.PENDING)
        dead = job.update().where(waits).values(state=JobState.DEAD, available_at=None, error=_LOST)
        if connection.execute(dead).rowcount == 0:
            return False
        failed = {"status": Status.FAILED, "reason": Reason.RETRIES_EXHAUSTED, "detail": _LOST}
        connection.execute(instance.update().where(i.id == id_).values(**failed))
        refresh(connection, [id_])
        scope.outbox.open(connection, [id_])
    return True


def spool(scope: Scope) -> Check:
    """Every file has its row, unless it is young.

    A sound file without a row is taken in by the one door: its sender may have been told that we have it, as when the
    database was restored from a copy, and an image too many is none, as the same bytes are one instance. A damaged one,
    which a crash leaves before anything is answered, is moved to ``spool/orphans``.
    """
    check = Check("spool")
    before = time.time() - scope.young_s
    try:
        files = scope.spool.old_files(before)
        while page := list(islice(files, AT_ONCE)):
            check.looked_at += len(page)
            with scope.database.read() as connection:
                stems = {path.stem for path in page}
                known = connection.execute(sa.select(i.sha256, i.media_type).where(i.sha256.in_(stems)))
                owned = {scope.spool.path(*row) for row in known}
            for path in page:
                if path not in owned and scope.spool.size(path) is not None:
                    _adopt(scope, check, path)
    except OSError as error:
        raise _unreadable(scope, "it", error) from error
    return check


def _adopt(scope: Scope, check: Check, path: Path) -> None:
    what = f"file {path.name[:80]} without a row"
    if scope.intake is None:
        check.note(what)
        return
    try:
        if _digest_kept(scope, path) == path.stem:
            receipt = scope.intake.receive_file(path, f"file:spool/{path.name}")
            check.note(what, mended=f"taken in as instance {receipt.instance_id}")
            return
        scope.spool.set_aside(path)
        check.note(f"{what}, and damaged", mended="moved to orphans/")
    except (MeddError, OSError) as error:
        check.note(f"{what}; could not be mended: {getattr(error, 'strerror', None) or error}")


def journal(scope: Scope, file: Path) -> Check:
    """Every image of a journal of `medd load` that was answered 0x0000 is in the database, and its bytes in the spool.

    Raises:
        SettingsError: It is no such journal.
    """
    check = Check("journal")
    try:
        with file.open("rb") as lines:
            entries = (json.loads(line) for line in lines if line.endswith(b"\n"))  # the last may be cut off
            taken = ((one["sha256"], one["uid"]) for one in entries if one["status"] == "0x0000")
            while page := dict(islice(taken, AT_ONCE)):
                check.looked_at += len(page)
                _look_up(scope, check, page)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"--journal: {file}: not a journal of medd load. Received: {error}") from error
    return check


def _look_up(scope: Scope, check: Check, page: dict[str, str]) -> None:
    query = sa.select(*_COLUMNS, purged.c.at).select_from(instance.outerjoin(job).outerjoin(purged))
    with scope.database.read() as connection:
        found = {row.sha256: row for row in connection.execute(query.where(i.sha256.in_(page)))}
    _bring(scope, found.values())
    for sha256, uid in page.items():
        row = found.get(sha256)
        if row is None:
            path = scope.spool.path(sha256, MediaType.DICOM)
            if scope.mends and _size(scope, path) is not None:
                _adopt(scope, check, path)
            else:
                check.note(f"{sha256}: answered with success and not in the database")
        elif row.sop_instance_uid not in (uid, ""):  # "" of what cannot be read
            check.note(f"instance {row.id}: is not of the image that was sent")
        elif row.at is None and not _is_elsewhere(scope, row):
            path = scope.spool.path(sha256, row.media_type)
            try:
                whole = digest(path) == sha256
            except OSError:
                whole = False
            if not whole:
                check.note(f"instance {row.id}: answered with success, and its bytes are not in the spool")
    _let_go(scope, found.values())
