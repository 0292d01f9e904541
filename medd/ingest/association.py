"""One association from its first byte to its last, in one thread: the acceptor's side of PS3.8 for C-ECHO and C-STORE.

The dataset goes from the socket into the spool as it comes, never decoded, and never held in memory when it is large.
"""

import contextlib
import logging
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from medd.dicom import part10
from medd.errors import InputError, PluginError, TransientError
from medd.ingest import pdu
from medd.ingest.intake import Intake
from medd.ingest.pdu import Command, ProtocolError
from medd.settings import ListenerSettings
from medd.store.spool import SpoolWriter

log = logging.getLogger(__name__)

#: Below glibc's threshold for a mapping of its own, which would be made and unmade for each association.
_BUFFER_BYTES = 120 << 10
#: An A-ASSOCIATE-RQ with 128 contexts of every transfer syntax has some 155 KiB.
_MAX_ASSOCIATE_BYTES = 1 << 18
_MAX_COMMAND_BYTES = 1 << 16
_PDU = struct.Struct(">BxI")
_PDV = struct.Struct(">IBB")


class PeerGone(Exception):
    """The peer closed the connection or fell silent."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What a listener accepts.

    Attributes:
        settings: AE titles, limits.
        transfer_syntaxes: By abstract syntax, those that are accepted.
    """

    settings: ListenerSettings
    transfer_syntaxes: dict[str, frozenset[str]]


class Association:
    """Serves one connection; `run` returns when it is over."""

    def __init__(
        self,
        connection: socket.socket,
        peer: str,
        acceptance: Acceptance,
        intake: Intake,
        reserve: Callable[[], bool],
        vacate: Callable[[], None],
    ) -> None:
        self._connection, self._peer, self._acceptance, self._intake = connection, peer, acceptance, intake
        self._reserve, self._vacate = reserve, vacate
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._contexts: dict[int, tuple[str, str]] = {}
        self._calling_ae = ""
        self._proposed = False
        self._stored = 0
        self._idle = True
        self._stopping = False

    def stop(self) -> None:
        """End the association after the image that is coming in, at once when none is. Called from another thread."""
        self._stopping = True
        if self._idle:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RD)

    def run(self, deadline: float) -> None:
        """Serve the connection until it is released, aborted, lost or stopped.

        Args:
            deadline: When an association must have been proposed, by `time.monotonic`; however slowly bytes trickle in.
        """
        self._deadline = deadline
        try:
            if self._accept():
                self._serve()
        except ProtocolError as error:
            log.warning("association aborted: %s", error, extra={"event": "association.aborted", "peer": self._peer})
            self._send_quietly(pdu.encode_abort(2, 1))
        except PeerGone as error:
            if self._stopping:
                self._send_quietly(pdu.encode_abort(0, 0))
            else:
                log.warning("association lost: %s", error, extra={"event": "association.lost", "peer": self._peer})
        except OSError as error:
            fields = {"event": "association.lost", "peer": self._peer}
            log.warning("association lost: %s", error.strerror or error, extra=fields)
        except Exception:  # one association must never take the listener with it
            log.exception("association failed", extra={"event": "association.failed", "peer": self._peer})
            self._send_quietly(pdu.encode_abort(2, 0))
        finally:
            self._report()

    # Association set-up (PS3.8 section 7.1) ---------------------------------------------------------------------------

    def _accept(self) -> bool:
        kind, length = self._read_pdu_header()
        if kind != pdu.ASSOCIATE_RQ:
            raise ProtocolError(f"A-ASSOCIATE-RQ expected. Received: PDU type {kind:#04x}")
        if length > _MAX_ASSOCIATE_BYTES:
            raise ProtocolError(f"A-ASSOCIATE-RQ of {length} bytes")
        body = b"".join(self._read(min(left, _BUFFER_BYTES)) for left in range(length, 0, -_BUFFER_BYTES))
        self._proposed = True
        request = pdu.decode_associate_rq(body)
        refusal = self._refusal(request)
        if refusal is not None:
            answer, why = refusal
            log.warning("association rejected: %s", why, extra={"event": "association.rejected", "peer": self._peer})
            self._connection.sendall(pdu.encode_associate_rj(*answer))
            return False
        self._calling_ae = request.calling_ae
        results = []
        for context in request.contexts:
            supported = self._acceptance.transfer_syntaxes.get(context.abstract_syntax)
            syntax = next((s for s in context.transfer_syntaxes if supported and s in supported), "")
            if syntax:
                self._contexts[context.id] = (context.abstract_syntax, syntax)
                results.append((context.id, pdu.ACCEPTED, syntax))
            else:
                why_not = pdu.TRANSFER_SYNTAXES_NOT_SUPPORTED if supported else pdu.ABSTRACT_SYNTAX_NOT_SUPPORTED
                # The syntax of a refused context is not significant, but its item has to be there.
                results.append((context.id, why_not, part10.IMPLICIT_VR_LITTLE_ENDIAN))
        answer_pdu = pdu.encode_associate_ac(
            body, results, part10.IMPLEMENTATION_CLASS_UID, part10.IMPLEMENTATION_VERSION_NAME
        )
        self._connection.sendall(answer_pdu)
        return True

    def _refusal(self, request: pdu.AssociateRequest) -> tuple[tuple[int, int, int], str] | None:
        settings = self._acceptance.settings
        if not request.protocol_version & 1:
            return pdu.REJECT_PROTOCOL_VERSION, "unknown protocol version"
        if request.application_context != pdu.APPLICATION_CONTEXT:
            return pdu.REJECT_APPLICATION_CONTEXT, "unknown application context"
        if settings.require_called_ae and request.called_ae.casefold() != settings.ae_title.casefold():
            return pdu.REJECT_CALLED_AE, f"called AE title is not ours. Received: {request.called_ae}"
        allowed = {title.casefold() for title in settings.allowed_calling_ae}
        if allowed and request.calling_ae.casefold() not in allowed:
            return pdu.REJECT_CALLING_AE, f"calling AE title is not allowed. Received: {request.calling_ae}"
        if not self._reserve():
            return pdu.REJECT_CONGESTION, f"{settings.max_associations} associations are open already"
        return None

    # Messages (PS3.7 section 9) ---------------------------------------------------------------------------------------

    def _serve(self) -> None:
        command_set = bytearray()
        command: Command | None = None
        sink: _Sink | None = None
        message_context = 0
        try:
            while True:
                self._idle = command is None and not command_set
                if self._idle and self._stopping:
                    raise PeerGone("stopping")
                kind, left = self._read_pdu_header()
                if kind == pdu.RELEASE_RQ:
                    self._vacate()  # before the answer: the peer may come back with its next association at once
                    self._connection.sendall(pdu.RELEASE_RP_PDU)
                    return
                if kind == pdu.ABORT:
                    if command is not None:
                        raise PeerGone("aborted by the peer in the middle of an image")
                    return
                if kind != pdu.DATA_TF:
                    raise ProtocolError(f"unexpected PDU type {kind:#04x}")
                self._idle = False
                while left:
                    length, context_id, control = _PDV.unpack(self._read(6)) if left >= 6 else (0, 0, 0)
                    if length < 2 or length + 4 > left:
                        raise ProtocolError("presentation data value does not fit its PDU")
                    left -= length + 4
                    length -= 2
                    if context_id not in self._contexts:
                        raise ProtocolError(f"presentation context {context_id} was not accepted")
                    is_command, is_last = control & 1, control & 2
                    if is_command:
                        if command is not None or len(command_set) + length > _MAX_COMMAND_BYTES:
                            raise ProtocolError("unexpected command")
                        command_set += self._read(length)
                        if not is_last:
                            continue
                        command, message_context = pdu.decode_command(command_set), context_id
                        command_set.clear()
                        if command.has_dataset:
                            sink = self._begin(command, message_context)
                            continue
                        self._answer(message_context, command, None)
                        command = None
                    else:
                        if command is None or sink is None or context_id != message_context:
                            raise ProtocolError("data without a command")
                        self._stream(length, sink)
                        if not is_last:
                            continue
                        self._answer(message_context, command, sink)
                        command = sink = None
        finally:
            if sink is not None:
                sink.discard()

    def _report(self) -> None:
        if self._stored:
            fields = {"event": "association.ended", "peer": self._peer, "count": self._stored}
            log.info("stored images of %s", self._calling_ae, extra=fields)

    def _begin(self, command: Command, context_id: int) -> "_Sink":
        limit = self._acceptance.settings.max_object_mib << 20
        if command.command_field != pdu.STORE_RQ:
            return _Sink(None, limit)
        prefix = part10.encode_file_meta(
            command.sop_class_uid, command.sop_instance_uid, self._contexts[context_id][1], self._calling_ae
        )
        return _Sink(self._intake.begin(prefix), limit)

    def _answer(self, context_id: int, command: Command, sink: "_Sink | None") -> None:
        if command.command_field == pdu.CANCEL_RQ:
            return  # no answer belongs to it, and what it would cancel is over
        if command.command_field == pdu.ECHO_RQ:
            status, comment = pdu.SUCCESS, ""
        elif command.command_field == pdu.STORE_RQ and sink is not None and sink.writer is not None:
            status, comment = self._store(context_id, command, sink, sink.writer)
        else:
            status, comment = pdu.UNRECOGNIZED_OPERATION, "only C-ECHO and C-STORE are offered"
        if status != pdu.SUCCESS:
            shown = command.sop_instance_uid if command.sop_instance_uid.replace(".", "").isdigit() else "?"
            fields = {"event": "store.refused", "peer": self._peer, "reason": f"{status:#06x}"}
            log.warning("SOP instance %s refused: %s", shown, comment, extra=fields)
        self._connection.sendall(pdu.encode_response(context_id, command, status, comment))

    def _store(self, context_id: int, command: Command, sink: "_Sink", writer: SpoolWriter) -> tuple[int, str]:
        """The C-STORE itself; success only when bytes and row are safe on disk."""
        abstract_syntax, transfer_syntax = self._contexts[context_id]
        try:
            if sink.failure:
                return pdu.OUT_OF_RESOURCES, sink.failure
            header = self._intake.read_header(writer, transfer_syntax)
            if not command.sop_class_uid == abstract_syntax == header.sop_class_uid:
                return pdu.DATASET_DOES_NOT_MATCH_SOP_CLASS, "SOP Class UID of dataset, command and context differ"
            if command.sop_instance_uid != header.sop_instance_uid:
                return pdu.DATASET_DOES_NOT_MATCH_SOP_CLASS, "SOP Instance UID of dataset and command differ"
            self._intake.receive_dataset(writer, header, f"dicom://{self._calling_ae}@{self._peer}")
            self._stored += 1
            return pdu.SUCCESS, ""
        except InputError as error:
            return pdu.CANNOT_UNDERSTAND, str(error)
        except (TransientError, PluginError) as error:
            return pdu.OUT_OF_RESOURCES, str(error)
        except OSError as error:
            return pdu.OUT_OF_RESOURCES, f"spool: {error.strerror}"
        finally:
            writer.discard()

    # Bytes ------------------------------------------------------------------------------------------------------------

    def _read_pdu_header(self) -> tuple[int, int]:
        kind, length = _PDU.unpack(self._read(6))
        if not pdu.ASSOCIATE_RQ <= kind <= pdu.ABORT:
            raise ProtocolError(f"unknown PDU type {kind:#04x}")
        if kind in (pdu.RELEASE_RQ, pdu.ABORT):
            self._read(length)
        return kind, length

    def _read(self, size: int) -> bytes:
        """Exactly `size` bytes; only for what is small."""
        if self._end - self._start < size:
            if size > _BUFFER_BYTES:
                raise ProtocolError(f"{size} bytes are too many here")
            rest = self._end - self._start
            self._view[:rest] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, rest
            while self._end < size:
                self._receive()
        data = bytes(self._view[self._start : self._start + size])
        self._start += size
        return data

    def _stream(self, size: int, sink: "_Sink") -> None:
        """Pass `size` bytes on as they come."""
        while size:
            if self._start == self._end:
                self._start = self._end = 0
                self._receive()
            taken = min(size, self._end - self._start)
            sink.write(self._view[self._start : self._start + taken])
            self._start += taken
            size -= taken

    def _receive(self) -> None:
        try:
            count = self._connection.recv_into(self._view[self._end :])
        except BlockingIOError:  # the time-out that the listener set on the socket has run out
            raise PeerGone("no byte within the network time-out") from None
        if not count:
            raise PeerGone("connection closed by the peer")
        if not self._proposed and time.monotonic() > self._deadline:
            raise PeerGone("no association proposed in time")
        self._end += count

    def _send_quietly(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self._connection.sendall(data)


class _Sink:
    """Where a dataset goes: the spool; when that fails, nowhere, so that the peer can finish and be answered."""

    def __init__(self, writer: SpoolWriter | None, limit: int) -> None:
        self.writer, self.failure = writer, ""
        self._limit = limit

    def write(self, data: memoryview) -> None:
        if self.writer is None or self.failure:
            return
        if self.writer.size + len(data) > self._limit:
            self.failure = f"object is larger than {self._limit >> 20} MiB"
        else:
            try:
                self.writer.write(data)
            except OSError as error:
                self.failure = f"spool: {error.strerror}"
        if self.failure:
            self.writer.discard()

    def discard(self) -> None:
        if self.writer is not None:
            self.writer.discard()
