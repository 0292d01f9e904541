"""One object that comes in pieces, from a body of HTTP: through the door as its bytes come, never whole in memory."""

import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress

from medd.dicom import headers, part10
from medd.errors import InputError, TransientError
from medd.ingest.intake import Intake, Receipt
from medd.records import InstanceHeader, MediaType, Reason
from medd.store.spool import SpoolWriter

#: What a door takes that is for DICOM alone.
DICOM_ONLY = frozenset((MediaType.DICOM,))


class TooLarge(InputError):
    """An object is larger than what is taken in."""

    def __init__(self, limit: int) -> None:
        super().__init__(Reason.UNREADABLE, f"object is larger than {limit >> 20} MiB")


class Arrival:
    """One object on its way in: a file of PS3.10, or where they are taken a JPEG, PNG or TIFF.

    Args:
        intake: The door.
        limit: The largest object taken, bytes.
        kinds: What is taken.

    Attributes:
        header: What it is, as far as that is known, also of an object that was refused; None of what nobody can read.
    """

    def __init__(self, intake: Intake, limit: int, kinds: Collection[MediaType] = DICOM_ONLY) -> None:
        self._intake, self._limit, self._kinds = intake, limit, kinds
        self.header: InstanceHeader | None = None

    def receive(
        self, pieces: Iterable[bytes], origin: str, check: Callable[[InstanceHeader], None] | None = None
    ) -> Receipt:
        """Take it in. When this returns, bytes and row survive a power failure.

        Args:
            pieces: The file.
            origin: Where it comes from.
            check: Raises `InputError` at the header of what is not wanted.

        Raises:
            InputError: It is none of what is taken, damaged, or not wanted.
            TooLarge: It is larger than the limit.
            PluginError: A plugin's admission rule failed.
            TransientError: Disk or database failed; nothing was taken in, and the sender should try again.
        """
        rest = iter(pieces)
        head = _head(rest)
        kind = part10.media_type_of(bytes(head[:256]))
        if kind not in self._kinds:
            raise InputError(Reason.UNREADABLE, f"{kind}: not taken in here")
        offset, syntax = part10.split_file(head) if kind == MediaType.DICOM else (0, "")
        prefix = bytes(head[:offset]) or (part10.encode_file_meta("", "", syntax) if syntax else b"")
        writer = self._intake.begin(prefix, kind)
        try:
            for piece in _chain(bytes(head[offset:]), rest):
                if writer.size + len(piece) > self._limit:
                    raise TooLarge(self._limit)
                _write(writer, piece)
            self.header = self._read_header(writer, syntax) if syntax else InstanceHeader(kind)
            if check is not None:
                check(self.header)
            return self._intake.receive_dataset(writer, self.header, origin)
        except (InputError, TransientError):
            self._name(head[offset:], syntax)
            raise
        finally:
            writer.discard()

    def name(self, pieces: Iterable[bytes]) -> None:
        """Read no more than what it is, into `header`; what cannot be read stays unknown."""
        head = _head(iter(pieces))
        with suppress(InputError):
            offset, syntax = part10.split_file(head)
            self._name(head[offset:], syntax)

    def _name(self, head: bytes | bytearray, syntax: str) -> None:
        if syntax and self.header is None:
            with suppress(InputError):
                self.header = headers.read_header(head, syntax, sys.maxsize)  # of which the end never came

    def _read_header(self, writer: SpoolWriter, syntax: str) -> InstanceHeader:
        try:
            return self._intake.read_header(writer, syntax)
        except OSError as error:  # the file that was just written
            raise TransientError(f"spool: {error.strerror}") from error


def _head(pieces: Iterator[bytes]) -> bytearray:
    head = bytearray()
    for piece in pieces:
        head += piece
        if len(head) >= part10.HEAD_BYTES:
            break
    return head


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _write(writer: SpoolWriter, data: bytes) -> None:
    try:
        writer.write(data)
    except OSError as error:
        raise TransientError(f"spool: {error.strerror}") from error
