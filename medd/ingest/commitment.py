"""Storage commitment as it comes in on an association (PS3.4 Annex J): requests of modalities, answers of archives.

Only what has to be done before the response: the request is on record, or the outcome is. Who is reported to on an
association of its own, `medd.deliver.commitment` does that.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from medd.dicom import commitment
from medd.errors import InputError, TransientError
from medd.ingest import pdu
from medd.ingest.pdu import Command
from medd.settings import PeerSettings
from medd.store.commitments import Commitments, judge
from medd.store.database import Database
from medd.store.spool import Spool

log = logging.getLogger(__name__)

#: A peer without an address is told on the association it asks on, or not at all.
_SAME_ASSOCIATION_S = 60.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What a request is answered, and what is told at once on the same association."""

    status: int
    comment: str = ""
    transaction_uid: str = ""
    event_type: int = 0
    #: Event Information, in the transfer syntax of the request; None where nothing is told here.
    report: bytes | None = None


class CommitmentDesk:
    """Answers N-ACTION-RQ and N-EVENT-REPORT-RQ.

    Args:
        database: Where requests and outcomes are put on record.
        spool: Where the bytes are that we are asked to keep.
        peers: Peers whose address is known: they are told on an association that we open.
    """

    def __init__(self, database: Database, spool: Spool, peers: Sequence[PeerSettings] = ()) -> None:
        self._database, self._spool = database, spool
        self._commitments = Commitments(database)
        self._known = {peer.ae_title.casefold() for peer in peers}

    def answer(self, command: Command, data: bytes | None, transfer_syntax_uid: str, calling_ae: str) -> Reply:
        """Answer a request.

        Args:
            command: N-ACTION-RQ or N-EVENT-REPORT-RQ.
            data: Its dataset; None where there is none, or too much.
            transfer_syntax_uid: Of the dataset.
            calling_ae: Who sends it.
        """
        is_action = command.command_field == pdu.ACTION_RQ
        if command.sop_class_uid != commitment.PUSH_MODEL:
            return Reply(pdu.NO_SUCH_SOP_CLASS, "not the Storage Commitment Push Model")
        if command.sop_instance_uid != commitment.INSTANCE:
            return Reply(pdu.NO_SUCH_OBJECT_INSTANCE, "not the well-known SOP Instance")
        if is_action and command.type_id != commitment.REQUEST:
            return Reply(pdu.NO_SUCH_ACTION_TYPE, "only Request Storage Commitment (1)")
        if not is_action and command.type_id not in (commitment.ALL_COMMITTED, commitment.FAILURES_EXIST):
            return Reply(pdu.NO_SUCH_EVENT_TYPE, "only the outcomes 1 and 2")
        if data is None:
            return Reply(pdu.INVALID_ARGUMENT_VALUE, "no dataset, or one that is too large")
        try:
            dataset = commitment.decode(data, transfer_syntax_uid)
            if is_action:
                return self._request(*commitment.read_request(dataset), transfer_syntax_uid, calling_ae)
            if not self._commitments.settle(commitment.read_report(dataset)):
                return Reply(pdu.INVALID_ARGUMENT_VALUE, "no transaction of ours")
        except InputError as error:
            return Reply(pdu.INVALID_ARGUMENT_VALUE, str(error))
        except TransientError as error:
            return Reply(pdu.PROCESSING_FAILURE, str(error))
        return Reply(pdu.SUCCESS)

    def _request(
        self, transaction_uid: str, objects: list[commitment.Reference], transfer_syntax_uid: str, calling_ae: str
    ) -> Reply:
        is_known = calling_ae.casefold() in self._known
        reply = Reply(pdu.SUCCESS)
        if is_known:
            has_room = self._commitments.offer(transaction_uid, calling_ae, objects)
        else:
            outcome = judge(self._database, self._spool, transaction_uid, objects)
            told = commitment.encode(commitment.report(outcome), transfer_syntax_uid)
            reply = Reply(pdu.SUCCESS, "", transaction_uid, outcome.event_type, told)
            unheard = f"told on its own association, and not answered; no [[peer]] has AE title {calling_ae}"
            has_room = self._commitments.offer(transaction_uid, calling_ae, objects, _SAME_ASSOCIATION_S, unheard)
        if not has_room:
            return Reply(pdu.RESOURCE_LIMITATION, "too many transactions wait to be reported")
        fields = {"event": "commitment.requested", "peer": calling_ae, "count": len(objects)}
        log.info("asks for storage commitment", extra=fields)
        return reply

    def told(self, transaction_uid: str, status: int) -> None:
        """Note what a peer answered to the report on its own association."""
        try:
            id_ = self._commitments.find_offered(transaction_uid)
            if id_ is None:
                return
            if status == pdu.SUCCESS:
                self._commitments.done(id_)
            else:
                self._commitments.bury(id_, f"the peer answers the report with {status:#06x}")
        except TransientError as error:  # nothing is lost but the note that it was told
            log.warning("commitment: %s", error, extra={"event": "commitment.waiting"})
