"""The one door: whatever comes in by C-STORE, folder or command passes here, and nothing else writes instances.

Bytes first, row second, answer third. The same bytes twice are one instance; a refusal is a row with a reason.
"""

import logging
import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pluggy

from medd import plugins
from medd.dicom import headers, part10
from medd.errors import InputError, TransientError
from medd.queue.backlog import Backlog
from medd.queue.base import CLASSIFY
from medd.records import Instance, InstanceHeader, MediaType, Reason, Status, Verdict
from medd.store.database import Database
from medd.store.inserts import Added, InstanceInserter
from medd.store.outbox import Outbox
from medd.store.spool import Spool, SpoolWriter

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of something that was handed in."""

    instance_id: int
    sha256: str
    #: False when the same bytes were there already.
    new: bool
    status: Status
    reason: Reason | None = None
    #: One sentence more.
    detail: str = ""


class Intake:
    """The door. Safe to use from many threads at once: images that come in at the same time share a commit.

    Args:
        database: Where the rows go.
        spool: Where the bytes go.
        manager: Asked whether a model may judge an image, and told what came in.
        outbox: Where what is refused is told of.
        max_waiting: Nothing is taken in while more images wait to be scored; 0 sets no limit.
        priority: Of the jobs; lower goes first, and what comes in live has 0.
    """

    def __init__(
        self,
        database: Database,
        spool: Spool,
        manager: pluggy.PluginManager,
        outbox: Outbox = Outbox(),  # noqa: B008  # frozen
        max_waiting: int = 0,
        priority: int = 0,
    ) -> None:
        self._spool, self._manager, self._priority = spool, manager, priority
        self._backlog = Backlog(database, CLASSIFY, max_waiting)
        self._commits = _GroupCommit(InstanceInserter(database, CLASSIFY, spool.id, outbox, self._has_bytes))

    def close(self) -> None:
        """Close the connection to the database."""
        self._commits.close()

    def _has_bytes(self, row: dict[str, Any]) -> bool:
        try:
            return self._spool.size(self._spool.path(row["sha256"], row["media_type"])) is not None
        except OSError as error:
            raise TransientError(f"spool: {error.strerror}") from error

    def begin(self, prefix: bytes = b"", media_type: MediaType = MediaType.DICOM) -> SpoolWriter:
        """Begin to take bytes in; the writer is then handed to `receive_dataset`, or discarded."""
        return self._spool.writer(prefix, media_type)

    def read_header(self, writer: SpoolWriter, transfer_syntax_uid: str) -> InstanceHeader:
        """Read the header of the complete dataset in `writer`.

        Raises:
            InputError: It is no readable DICOM dataset.
            OSError: The disk fails.
        """
        return headers.read_header(writer.head, transfer_syntax_uid, writer.size, writer.read)

    def receive_dataset(self, writer: SpoolWriter, header: InstanceHeader, origin: str) -> Receipt:
        """Make the bytes in `writer` an instance. When this returns, bytes and row survive a power failure.

        Raises:
            InputError: The row cannot be stored as it is.
            PluginError: A plugin's admission rule failed.
            TransientError: Disk or database failed; nothing was taken in and the sender should try again.
        """
        return self._receive(writer, header, origin, plugins.admit(self._manager, header), self._priority)

    def receive_file(self, path: Path, origin: str, priority: int | None = None) -> Receipt:
        """Take in a copy of a file: DICOM with or without preamble, JPEG, PNG or TIFF.

        A file that cannot be read as any of them becomes a row as well: not assessed, unreadable.

        Raises:
            OSError: The file cannot be read.
            PluginError: A plugin's admission rule failed.
            TransientError: The spool or the database failed.
        """
        # A file name may be no UTF-8 at all, which no database takes.
        origin = origin.encode("utf-8", "backslashreplace").decode()
        with path.open("rb") as file:
            data = file.read(part10.HEAD_BYTES)
            media_type = part10.media_type_of(data)
            header, refusal, offset = InstanceHeader(media_type), Verdict(), 0
            syntax = ""
            if media_type == MediaType.DICOM:
                try:
                    offset, syntax = part10.split_file(data)
                except InputError as error:
                    refusal = Verdict(Reason.UNREADABLE, str(error))
            has_meta = offset > 0
            prefix = bytes(data[:offset]) if has_meta else part10.encode_file_meta("", "", syntax) if syntax else b""
            writer = self._spool.writer(prefix, media_type)
            try:
                content: bytes = data[offset:]
                while content:
                    _spool_write(writer, content)
                    content = file.read(part10.HEAD_BYTES)
                if syntax:
                    try:
                        header = self.read_header(writer, syntax)
                    except InputError as error:
                        refusal = Verdict(Reason.UNREADABLE, str(error))
                verdict = refusal if refusal.reason else plugins.admit(self._manager, header)
                return self._receive(writer, header, origin, verdict, self._priority if priority is None else priority)
            finally:
                writer.discard()

    def _receive(
        self, writer: SpoolWriter, header: InstanceHeader, origin: str, verdict: Verdict, priority: int
    ) -> Receipt:
        self._backlog.check()
        try:
            writer.publish()
            writer.sync()
        except OSError as error:
            raise TransientError(f"spool: {error.strerror}") from error
        status = Status.PENDING if verdict.reason is None else Status.NOT_ASSESSED
        row = {
            "sha256": writer.sha256,
            "size": writer.size,
            "media_type": header.media_type,
            "origin": origin,
            "received_at": datetime.now(UTC),
            "status": status,
            "reason": verdict.reason,
            "detail": verdict.detail or None,
            "sop_class_uid": header.sop_class_uid,
            "sop_instance_uid": header.sop_instance_uid,
            "series_instance_uid": header.series_instance_uid,
            "study_instance_uid": header.study_instance_uid,
            "patient_id": header.patient_id,
            "accession_number": header.accession_number,
            "modality": header.modality,
            "manufacturer": header.manufacturer,
            "station_name": header.station_name,
            "patient_age": header.patient_age[:4],  # VR AS; a longer one is none, and the database takes no more
            "priority": priority,
        }
        added = self._commits.add(row)
        if added.new:
            self._tell(added, row, header)
        return Receipt(added.id, writer.sha256, added.new, added.status, added.reason, verdict.detail)

    def _tell(self, added: Added, row: dict[str, Any], header: InstanceHeader) -> None:
        fields = {"event": "instance.received", "instance": added.id, "reason": added.reason or "-"}
        log.debug("received %s, %d bytes: %s", header.media_type, row["size"], added.status, extra=fields)
        if not self._manager.hook.instance_received.get_hookimpls():
            return
        path = self._spool.path(row["sha256"], header.media_type)
        taken = Instance(
            added.id,
            row["sha256"],
            path,
            header.media_type,
            row["origin"],
            row["received_at"],
            header.sop_instance_uid,
            header.study_instance_uid,
        )
        plugins.tell(self._manager, "instance_received", instance=taken, header=header)


def _spool_write(writer: SpoolWriter, data: bytes) -> None:
    try:
        writer.write(data)
    except OSError as error:
        raise TransientError(f"spool: {error.strerror}") from error


class _Waiting:
    """A row on its way into the database."""

    __slots__ = ("added", "error", "row")

    def __init__(self, row: dict[str, Any]) -> None:
        self.row = row
        self.added: Added | None = None
        self.error: Exception | None = None


class _GroupCommit:
    """Rows that come while another commit is under way go into the next one together.

    Whoever gets the lock commits for all who wait; the others find their row done. One sender alone pays no more than
    one commit and no switch of threads, sixteen share it.
    """

    def __init__(self, inserter: InstanceInserter) -> None:
        self._inserter = inserter
        self._leader = threading.Lock()
        self._guard = threading.Lock()
        self._rows: list[_Waiting] = []

    def add(self, row: dict[str, Any]) -> Added:
        """Commit a row.

        Raises:
            InputError: The database refuses this row.
            TransientError: The database is away.
        """
        mine = _Waiting(row)
        with self._guard:
            self._rows.append(mine)
        with self._leader:
            if mine.added is None and mine.error is None:
                with self._guard:
                    batch, self._rows = self._rows, []
                self._commit(batch)
        if mine.error is not None:
            raise mine.error
        assert mine.added is not None
        return mine.added

    def close(self) -> None:
        with self._leader:
            self._inserter.close()

    def _commit(self, batch: list[_Waiting]) -> None:
        try:
            added = self._inserter.add([waiting.row for waiting in batch])
        except InputError as error:
            # One row that the database refuses must not take the others with it.
            if len(batch) > 1:
                for waiting in batch:
                    self._commit([waiting])
            else:
                batch[0].error = error
        except Exception as error:  # whoever waits must get an answer, whatever went wrong
            if not isinstance(error, TransientError):
                log.exception("commit failed", extra={"event": "intake.failed"})
                error = TransientError(f"database: {type(error).__name__}")
            for waiting in batch:
                waiting.error = error
        else:
            # Two of the same bytes in one commit: only the first is new.
            for waiting in batch:
                found = added[waiting.row["sha256"]]
                waiting.added = found
                if found.new:
                    added[waiting.row["sha256"]] = replace(found, new=False)
