"""One association from its first byte to its last, in one thread: the acceptor's side of PS3.8 for C-ECHO and C-STORE.

The dataset goes from the socket into the spool as it comes, never decoded, and never held in memory when it is large.
Storage commitment (PS3.4 Annex J) is read and passed on to `medd.ingest.commitment`.
"""

import contextlib
import logging
import socket
import ssl
import struct
import time

from medd.dicom import commitment, part10
from medd.errors import InputError, PluginError, TransientError
from medd.ingest import negotiation, pdu, wire
from medd.ingest.commitment import CommitmentDesk, Reply
from medd.ingest.intake import Intake
from medd.ingest.negotiation import Acceptance
from medd.ingest.pdu import Command, ProtocolError
from medd.ingest.places import Places
from medd.ingest.sink import Sink
from medd.ingest.wire import HandshakeFailed, PeerGone
from medd.store.spool import SpoolWriter

log = logging.getLogger(__name__)

#: Below glibc's threshold for a mapping of its own, which would be made and unmade for each association.
_BUFFER_BYTES = 120 << 10
_MAX_COMMAND_BYTES = 1 << 16
#: A request for storage commitment of some 10,000 images.
_MAX_REFERENCES_BYTES = 1 << 20
#: Reports that a peer may leave unanswered.
_MAX_OPEN_REPORTS = 100
#: Whoever takes no longer PDUs than this is told nothing: a report would come in fragments without number, bytes.
_MIN_REPORT_PDU_BYTES = 1 << 10
_PDU = struct.Struct(">BxI")
_PDV = struct.Struct(">IBB")


class Association:
    """Serves one connection; `run` returns when it is over.

    Attributes:
        peer: The host at the other end.
    """

    def __init__(
        self, connection: socket.socket, peer: str, acceptance: Acceptance, intake: Intake, places: Places
    ) -> None:
        self._connection, self.peer, self._acceptance, self._intake = connection, peer, acceptance, intake
        self._places = places
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._contexts: dict[int, tuple[str, str]] = {}
        self._calling_ae = ""
        self._max_length = 0
        # What we told the peer about storage commitment and is not yet answered: message id → transaction.
        self._told: dict[int, str] = {}
        self._last_message_id = 0
        self._proposed = False
        self._stored = 0
        self._idle = True
        self._stopping = False

    def stop(self) -> None:
        """End the association after the image that is coming in, at once when none is. Called from another thread."""
        self._stopping = True
        if self._idle:
            wire.shut(self._connection, socket.SHUT_RD)

    def evict(self) -> None:
        """Cut the connection off, as others want its place or the listener its end. Called from another thread."""
        self._stopping = True
        wire.shut(self._connection, socket.SHUT_RDWR)

    def run(self, deadline: float) -> None:
        """Serve the connection until it is released, aborted, lost or stopped.

        Args:
            deadline: When an association must have been proposed, by `time.monotonic`; however slowly bytes trickle in.
        """
        self._deadline = deadline
        try:
            if isinstance(self._connection, ssl.SSLSocket):
                wire.shake_hands(self._connection, deadline)
            if self._accept():
                self._serve()
        except HandshakeFailed as error:
            log.warning("TLS refused: %s", error, extra={"event": "tls.refused", "peer": self.peer})
        except ProtocolError as error:
            log.warning("association aborted: %s", error, extra={"event": "association.aborted", "peer": self.peer})
            self._send_quietly(pdu.encode_abort(2, 1))
        except PeerGone as error:
            if self._stopping:
                self._send_quietly(pdu.encode_abort(0, 0))
            else:
                log.warning("association lost: %s", error, extra={"event": "association.lost", "peer": self.peer})
        except OSError as error:
            fields = {"event": "association.lost", "peer": self.peer}
            log.warning("association lost: %s", error.strerror or error, extra=fields)
        except Exception:  # one association must never take the listener with it
            log.exception("association failed", extra={"event": "association.failed", "peer": self.peer})
            self._send_quietly(pdu.encode_abort(2, 0))
        finally:
            self._report()

    # Association set-up (PS3.8 section 7.1) ---------------------------------------------------------------------------

    def _accept(self) -> bool:
        kind, length = self._read_pdu_header()
        if kind != pdu.ASSOCIATE_RQ:
            raise ProtocolError(f"A-ASSOCIATE-RQ expected. Received: PDU type {kind:#04x}")
        if length > negotiation.MAX_ASSOCIATE_BYTES:
            raise ProtocolError(f"A-ASSOCIATE-RQ of {length} bytes")
        body = b"".join(self._read(min(left, _BUFFER_BYTES)) for left in range(length, 0, -_BUFFER_BYTES))
        self._proposed = True
        request = pdu.decode_associate_rq(body)
        refusal = negotiation.refusal_of(request, self._acceptance.settings)
        if refusal is None and (no_place := self._places.reserve(self)):
            refusal = pdu.REJECT_CONGESTION, no_place
        if refusal is not None:
            answer, why = refusal
            log.warning("association rejected: %s", why, extra={"event": "association.rejected", "peer": self.peer})
            self._connection.sendall(pdu.encode_associate_rj(*answer))
            return False
        wire.set_timeout(self._connection, self._acceptance.settings.network_timeout_s)
        self._calling_ae, self._max_length = request.calling_ae, request.max_length
        results, self._contexts = negotiation.choose_contexts(request, self._acceptance)
        roles = negotiation.choose_roles(request, self._contexts)
        answer_pdu = pdu.encode_associate_ac(
            body, results, part10.IMPLEMENTATION_CLASS_UID, part10.IMPLEMENTATION_VERSION_NAME, roles
        )
        self._connection.sendall(answer_pdu)
        return True

    # Messages (PS3.7 section 9) ---------------------------------------------------------------------------------------

    def _serve(self) -> None:
        command_set = bytearray()
        command: Command | None = None
        sink: Sink | None = None
        message_context = 0
        try:
            while True:
                self._idle = command is None and not command_set
                if self._idle and self._stopping:
                    raise PeerGone("stopping")
                kind, left = self._read_pdu_header()
                if kind == pdu.RELEASE_RQ:
                    # Before the answer: the peer may come back with its next association at once.
                    self._places.vacate(self)
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
            fields = {"event": "association.ended", "peer": self.peer, "count": self._stored}
            log.info("stored images of %s", self._calling_ae, extra=fields)

    def _begin(self, command: Command, context_id: int) -> Sink:
        limit = self._acceptance.settings.max_object_mib << 20
        if command.command_field != pdu.STORE_RQ:
            is_read = self._contexts[context_id][0] == commitment.PUSH_MODEL
            return Sink(None, _MAX_REFERENCES_BYTES if is_read else 0)
        prefix = part10.encode_file_meta(
            command.sop_class_uid, command.sop_instance_uid, self._contexts[context_id][1], self._calling_ae
        )
        return Sink(self._intake.begin(prefix), limit)

    def _answer(self, context_id: int, command: Command, sink: Sink | None) -> None:
        if command.command_field == pdu.CANCEL_RQ:
            return  # no answer belongs to it, and what it would cancel is over
        if command.command_field & pdu.RESPONSE:
            self._hear(command)
            return
        reply: Reply | None = None
        if command.command_field == pdu.ECHO_RQ:
            status, comment = pdu.SUCCESS, ""
        elif command.command_field == pdu.STORE_RQ and sink is not None and sink.writer is not None:
            status, comment = self._store(context_id, command, sink, sink.writer)
        elif (
            command.command_field in (pdu.ACTION_RQ, pdu.EVENT_REPORT_RQ)
            and self._contexts[context_id][0] == commitment.PUSH_MODEL
            and self._acceptance.desk is not None
        ):
            reply = self._commit(self._acceptance.desk, context_id, command, sink)
            status, comment = reply.status, reply.comment
        else:
            status, comment = pdu.UNRECOGNIZED_OPERATION, "only C-ECHO, C-STORE, storage commitment"
        if status != pdu.SUCCESS:
            self._log_refusal(command, status, comment)
        self._connection.sendall(pdu.encode_response(context_id, command, status, comment))
        if reply is not None and reply.report is not None:
            self._tell(context_id, reply)

    def _log_refusal(self, command: Command, status: int, comment: str) -> None:
        fields = {"peer": self.peer, "reason": f"{status:#06x}"}
        if command.command_field in (pdu.ACTION_RQ, pdu.EVENT_REPORT_RQ):
            log.warning("storage commitment refused: %s", comment, extra=fields | {"event": "commitment.refused"})
            return
        uid = command.sop_instance_uid[:64]
        shown = uid if uid.replace(".", "").isdigit() else "?"
        log.warning("SOP instance %s refused: %s", shown, comment, extra=fields | {"event": "store.refused"})

    # Storage commitment (PS3.4 Annex J) -------------------------------------------------------------------------------

    def _commit(self, desk: CommitmentDesk, context_id: int, command: Command, sink: Sink | None) -> Reply:
        if command.command_field == pdu.ACTION_RQ:
            if len(self._told) >= _MAX_OPEN_REPORTS:
                return Reply(pdu.RESOURCE_LIMITATION, "too many reports are not answered")
            if 0 < self._max_length < _MIN_REPORT_PDU_BYTES:
                return Reply(pdu.RESOURCE_LIMITATION, "a report does not fit the PDUs taken")
        data = None if sink is None or sink.failure else bytes(sink.data)
        return desk.answer(command, data, self._contexts[context_id][1], self._calling_ae)

    def _tell(self, context_id: int, reply: Reply) -> None:
        """Report to a peer that has no address in the settings on the association it asks on."""
        assert reply.report is not None
        message_id = self._last_message_id % 0xFFFF + 1
        while message_id in self._told:
            message_id = message_id % 0xFFFF + 1
        self._last_message_id = message_id
        self._told[message_id] = reply.transaction_uid
        request = Command(
            pdu.EVENT_REPORT_RQ, message_id, commitment.PUSH_MODEL, commitment.INSTANCE, True, reply.event_type
        )
        for piece in pdu.encode_request(context_id, request, reply.report, self._max_length):
            self._connection.sendall(piece)

    def _hear(self, response: Command) -> None:
        """What the peer says to our report."""
        transaction_uid = self._told.pop(response.message_id, None)
        if response.command_field != pdu.EVENT_REPORT_RQ | pdu.RESPONSE or transaction_uid is None:
            raise ProtocolError("a response that nobody asked for")
        assert self._acceptance.desk is not None
        self._acceptance.desk.told(transaction_uid, response.status)

    def _store(self, context_id: int, command: Command, sink: Sink, writer: SpoolWriter) -> tuple[int, str]:
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
            self._intake.receive_dataset(writer, header, f"dicom://{self._calling_ae}@{self.peer}")
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
            if kind == pdu.TLS_HANDSHAKE and not self._proposed:
                raise ProtocolError("the peer speaks TLS, and this port does not (listener.tls)")
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

    def _stream(self, size: int, sink: Sink) -> None:
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
        if not self._proposed:
            # However slowly its bytes trickle in, the proposal is complete by then.
            wire.set_timeout(self._connection, max(0.001, self._deadline - time.monotonic()))
        try:
            count = self._connection.recv_into(self._view[self._end :])
        except (BlockingIOError, TimeoutError):
            silent = "no byte within the network time-out" if self._proposed else "no association proposed in time"
            raise PeerGone(silent) from None
        if not count:
            raise PeerGone("connection closed by the peer")
        if not self._proposed and time.monotonic() > self._deadline:
            raise PeerGone("no association proposed in time")
        self._end += count

    def _send_quietly(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self._connection.sendall(data)
