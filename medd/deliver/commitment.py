"""Storage commitment on associations that we open (PS3.4 Annex J): asking destinations, and telling modalities.

What comes in on associations that others open is `medd.ingest.commitment`'s. Both meet in the rows of `commitment`.
"""

import logging
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from pydicom import Dataset
from pynetdicom import build_context, build_role, evt
from pynetdicom.association import Association
from sqlalchemy import Connection

from medd.deliver.destination import Sent
from medd.dicom import commitment
from medd.dicom.network import associate
from medd.dicom.part10 import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from medd.dicom.tls import client_context
from medd.errors import InputError, PeerRefused, TransientError
from medd.queue.base import backoff_s
from medd.settings import PeerSettings, Settings
from medd.store.commitments import ANSWER_S, Commitment, Commitments, judge
from medd.store.database import Database
from medd.store.spool import Spool

log = logging.getLogger(__name__)

#: Many archives answer at once; for those we hold the association open that long, seconds.
WAIT_S = 3.0
#: Rows dealt with in one go.
_AT_ONCE = 50
#: Statuses that may pass: Processing failure, Resource limitation (PS3.7 Annex C).
_MAY_PASS = (0x0110, 0x0213)
_SUCCESS, _INVALID_ARGUMENT_VALUE, _PROCESSING_FAILURE = 0x0000, 0x0115, 0x0110


def planner(
    database: Database, destinations: Mapping[str, PeerSettings]
) -> Callable[[Connection, str, Sequence[Sent]], None]:
    """What notes, in the transaction of a delivery, that a destination is to be asked for what it acknowledged.

    Args:
        database: Where it is put on record.
        destinations: Those that are asked, by name.
    """
    commitments = Commitments(database)

    def plan(connection: Connection, name: str, taken: Sequence[Sent]) -> None:
        objects = [(one.sop_class_uid, one.object) for one in taken if one.sop_class_uid]
        if name in destinations and objects:
            commitments.plan(connection, name, objects)

    return plan


def _ask(
    commitments: Commitments,
    rows: Sequence[Commitment],
    peer: PeerSettings,
    calling_ae: str,
    tls: ssl.SSLContext | None,
) -> None:
    """Ask a destination for several transactions on one association, and wait there for its answers to them."""
    unanswered = {row.transaction_uid for row in rows}
    all_answered = threading.Event()

    def forget(transaction_uid: str) -> None:
        unanswered.discard(transaction_uid)
        if not unanswered:
            all_answered.set()

    def hear(event: evt.Event) -> tuple[int, None]:
        try:
            outcome = commitment.read_report(event.event_information)
            if not commitments.settle(outcome):
                return _INVALID_ARGUMENT_VALUE, None
        except InputError:
            return _INVALID_ARGUMENT_VALUE, None
        except TransientError:
            return _PROCESSING_FAILURE, None
        forget(outcome.transaction_uid)
        return _SUCCESS, None

    def request(association: Association, row: Commitment) -> None:
        information = commitment.request(row.transaction_uid, row.objects)
        try:
            _send(association, f"{peer.name}: N-ACTION", association.send_n_action, information, commitment.REQUEST)
        except PeerRefused:
            forget(row.transaction_uid)
            raise
        commitments.again(row.id, ANSWER_S - row.age_s, None)

    def listen(association: Association) -> None:
        if association.is_established:
            all_answered.wait(WAIT_S)

    how: dict[str, Any] = {"tls": tls, "handlers": [(evt.EVT_N_EVENT_REPORT, hear)]}
    _in_turn(commitments, rows, partial(associate, peer, calling_ae, _contexts(), **how), request, ANSWER_S, listen)


def _in_turn(
    commitments: Commitments,
    rows: Sequence[Commitment],
    connect: Callable[[], AbstractContextManager[Association]],
    do: Callable[[Association, Commitment], None],
    give_up_after_s: float,
    at_last: Callable[[Association], None] = lambda _association: None,
) -> None:
    """Do something for each row on one association; what fails is on record, and tried again where that may help."""
    waiting = list(rows)
    try:
        while waiting:
            begun_with = len(waiting)
            with connect() as association:
                # Some peers end their association after each transaction: the others go on the next one.
                while waiting and (association.is_established or len(waiting) == begun_with):
                    if commitments.hold(waiting[0]):
                        try:
                            do(association, waiting[0])
                        except PeerRefused as error:  # of this transaction; it may well take the next
                            _note(commitments.bury, waiting[0], str(error))
                    del waiting[0]
                if not waiting:
                    at_last(association)
    except TransientError as error:
        _put_off(commitments, waiting, str(error), give_up_after_s)
    except PeerRefused as error:
        for row in waiting:
            _note(commitments.bury, row, str(error))


def _put_off(commitments: Commitments, rows: Sequence[Commitment], why: str, give_up_after_s: float) -> None:
    for row in rows:
        if row.age_s > give_up_after_s:
            _note(commitments.bury, row, why)
        else:
            _note(commitments.again, row, backoff_s(row.attempts), why)


class Reporter:
    """Does what is due: tells modalities what became of their requests, and looks after our own.

    Args:
        database: Where the rows are.
        spool: Where the bytes are that we are asked to keep.
        settings: Who is who, and how long is tried.
        destinations: By name, where destinations are asked once more that were away when they were asked.

    Raises:
        SettingsError: A peer's TLS cannot be set up.
    """

    def __init__(
        self,
        database: Database,
        spool: Spool,
        settings: Settings,
        destinations: Mapping[str, PeerSettings] | None = None,
    ) -> None:
        self._database, self._spool, self._commitments = database, spool, Commitments(database)
        self._calling_ae = settings.listener.ae_title
        self._give_up_after_s = settings.deliver.give_up_after_h * 3600
        self._peers = {peer.ae_title.casefold(): peer for peer in settings.peer}
        self._destinations = dict(destinations or {})
        self._tls = {
            id(peer): client_context(peer.tls, settings.home, f"peer {peer.name}: tls")
            for peer in (*self._peers.values(), *self._destinations.values())
            if peer.tls is not None
        }

    def run_once(self) -> int:
        """Deal with the rows that are due. A peer that is away costs its time-out, once for all its rows.

        Returns:
            How many there were.

        Raises:
            TransientError: The database is away.
        """
        done, met = 0, set()
        while rows := self._commitments.claim(_AT_ONCE):
            whom = rows[0].direction, rows[0].peer
            self._deal_with(*whom, rows)
            done += len(rows)
            if whom in met:  # due once more, while others were slow: the next round is soon enough
                break
            met.add(whom)
        return done

    def _deal_with(self, direction: str, name: str, rows: list[Commitment]) -> None:
        try:
            (self._report if direction == "offered" else self._look_after)(name, rows)
        except TransientError:
            raise
        except Exception as error:  # one peer must never keep the others from being told
            log.exception("storage commitment failed", extra={"event": "commitment.error", "peer": name})
            patience_s = self._give_up_after_s if direction == "offered" else ANSWER_S
            _put_off(self._commitments, rows, f"unexpected. Received: {type(error).__name__}", patience_s)

    def _report(self, ae_title: str, rows: list[Commitment]) -> None:
        peer = self._peers.get(ae_title.casefold())
        if peer is None:
            for row in rows:
                _note(self._commitments.bury, row, row.error or f"nobody to tell: no [[peer]] with AE title {ae_title}")
            return

        def tell(association: Association, row: Commitment) -> None:
            outcome = judge(self._database, self._spool, row.transaction_uid, row.objects)
            send = association.send_n_event_report
            _send(association, f"{peer.name}: N-EVENT-REPORT", send, commitment.report(outcome), outcome.event_type)
            self._commitments.done(row.id)
            fields = {"event": "commitment.reported", "peer": row.peer, "count": len(row.objects)}
            log.info("told of %d objects kept, %d not", len(outcome.committed), len(outcome.failed), extra=fields)

        # We call, but it is us who provide the service (PS3.4 section J.2, PS3.7 section D.3.3.4).
        how: dict[str, Any] = {
            "tls": self._tls.get(id(peer)),
            "negotiation": [build_role(commitment.PUSH_MODEL, scp_role=True)],
        }
        connect = partial(associate, peer, self._calling_ae, _contexts(), **how)
        _in_turn(self._commitments, rows, connect, tell, self._give_up_after_s)

    def _look_after(self, destination: str, rows: list[Commitment]) -> None:
        peer = self._destinations.get(destination)
        asked = []
        for row in rows:
            if row.age_s >= ANSWER_S:
                _note(self._commitments.bury, row, "no answer within a day")
            elif peer is not None:
                asked.append(row)
            else:
                self._commitments.again(row.id, ANSWER_S - row.age_s, "not asked: the destination was away")
        if peer is not None and asked:
            _ask(self._commitments, asked, peer, self._calling_ae, self._tls.get(id(peer)))


def _contexts() -> list[Any]:
    return [build_context(commitment.PUSH_MODEL, [IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN])]


def _send(
    association: Association, what: str, send: Callable[..., tuple[Dataset, Any]], dataset: Dataset, type_id: int
) -> None:
    if not association.is_established:
        raise TransientError(f"{what}: the association was lost")
    try:
        status, _ = send(dataset, type_id, commitment.PUSH_MODEL, commitment.INSTANCE)
    except (RuntimeError, ValueError) as error:  # pynetdicom: the association ended, or a dataset it cannot encode
        if association.is_established:
            raise PeerRefused(f"{what} cannot be encoded") from error
        raise TransientError(f"{what}: the association was lost") from error
    answer = status.get("Status")
    if answer is None:
        raise TransientError(f"{what}: no answer")
    if answer in _MAY_PASS:
        raise TransientError(f"{what} answered with {answer:#06x}")
    if answer != _SUCCESS:
        raise PeerRefused(f"{what} answered with {answer:#06x}")


def _note(record: Callable[..., None], row: Commitment, *how: Any) -> None:
    record(row.id, *how)
    fields = {"event": "commitment.dead" if len(how) == 1 else "commitment.waiting", "peer": row.peer}
    log.warning("storage commitment: %s", how[-1], extra=fields)
