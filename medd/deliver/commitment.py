"""Storage commitment on associations that we open (PS3.4 Annex J): asking destinations, and telling modalities.

What comes in on associations that others open is `medd.ingest.commitment`'s. Both meet in the rows of `commitment`.
"""

import logging
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from pydicom import Dataset
from pynetdicom import build_context, build_role, evt
from pynetdicom.association import Association

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


def ask(
    database: Database,
    destination_name: str,
    peer: PeerSettings,
    calling_ae: str,
    objects: Sequence[tuple[str, str]],
    tls: ssl.SSLContext | None = None,
    wait_s: float = WAIT_S,
) -> None:
    """Ask a destination to take responsibility for objects that it has acknowledged, and whose rows are in `sent`.

    The answer comes within `wait_s` on the same association, or later on one that the destination opens to our
    listener. What the destination does not like is on record and in the log; it is no failure of the delivery.

    Args:
        database: Where it is put on record.
        destination_name: As `sent.destination` has it.
        peer: Whom to ask.
        calling_ae: Our AE title, unless the peer's settings name another one.
        objects: SOP Class UID and SOP Instance UID of each.
        tls: Where the peer's settings have the table ``tls``.
        wait_s: How long to wait for an answer at once, seconds.

    Raises:
        TransientError: The database is away.
    """
    if objects:
        commitments = Commitments(database)
        _ask(commitments, commitments.ask(destination_name, objects), peer, calling_ae, tls, wait_s)


def _ask(
    commitments: Commitments,
    row: Commitment,
    peer: PeerSettings,
    calling_ae: str,
    tls: ssl.SSLContext | None,
    wait_s: float = WAIT_S,
) -> None:
    answered = threading.Event()

    def hear(event: evt.Event) -> tuple[int, None]:
        try:
            known = commitments.settle(commitment.read_report(event.event_information))
        except InputError:
            known = False
        except TransientError:
            return _PROCESSING_FAILURE, None
        answered.set()
        return _SUCCESS if known else _INVALID_ARGUMENT_VALUE, None

    handlers = [(evt.EVT_N_EVENT_REPORT, hear)]
    try:
        with associate(peer, calling_ae, _contexts(), tls=tls, handlers=handlers) as association:
            information = commitment.request(row.transaction_uid, row.objects)
            answer = association.send_n_action(
                information, commitment.REQUEST, commitment.PUSH_MODEL, commitment.INSTANCE
            )
            _check(answer[0], f"{peer.name}: N-ACTION")
            commitments.again(row.id, ANSWER_S - row.age_s, None)
            answered.wait(wait_s)
    except TransientError as error:
        _note(commitments.again, row, backoff_s(row.attempts), str(error))
    except PeerRefused as error:
        _note(commitments.bury, row, str(error))


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
        rows = self._commitments.claim(_AT_ONCE)

        def whom(row: Commitment) -> tuple[str, str]:
            return row.direction, row.peer

        for (direction, name), some in groupby(sorted(rows, key=whom), key=whom):
            if direction == "offered":
                self._report(name, list(some))
            else:
                for row in some:
                    self._look_after(row)
        return len(rows)

    def _report(self, ae_title: str, rows: list[Commitment]) -> None:
        peer = self._peers.get(ae_title.casefold())
        if peer is None:
            for row in rows:
                _note(self._commitments.bury, row, f"nobody to tell: no [[peer]] with AE title {ae_title}")
            return
        waiting = list(rows)
        # We call, but it is us who provide the service (PS3.4 section J.2, PS3.7 section D.3.3.4).
        roles = [build_role(commitment.PUSH_MODEL, scp_role=True)]
        tls = self._tls.get(id(peer))
        try:
            with associate(peer, self._calling_ae, _contexts(), tls=tls, negotiation=roles) as association:
                while waiting:
                    self._tell(association, peer, waiting[0])
                    del waiting[0]
        except TransientError as error:
            for row in waiting:
                if row.age_s > self._give_up_after_s:
                    _note(self._commitments.bury, row, str(error))
                else:
                    _note(self._commitments.again, row, backoff_s(row.attempts), str(error))
        except PeerRefused as error:
            for row in waiting:
                _note(self._commitments.bury, row, str(error))

    def _tell(self, association: Association, peer: PeerSettings, row: Commitment) -> None:
        outcome = judge(self._database, self._spool, row.transaction_uid, row.objects)
        answer = association.send_n_event_report(
            commitment.report(outcome), outcome.event_type, commitment.PUSH_MODEL, commitment.INSTANCE
        )
        try:
            _check(answer[0], f"{peer.name}: N-EVENT-REPORT")
        except PeerRefused as error:  # of this transaction; it may well take the next
            _note(self._commitments.bury, row, str(error))
            return
        self._commitments.done(row.id)
        fields = {"event": "commitment.reported", "peer": row.peer, "count": len(row.objects)}
        log.info("told of %d objects kept, %d not", len(outcome.committed), len(outcome.failed), extra=fields)

    def _look_after(self, row: Commitment) -> None:
        peer = self._destinations.get(row.peer)
        if row.age_s >= ANSWER_S:
            _note(self._commitments.bury, row, "no answer within a day")
        elif peer is not None:
            _ask(self._commitments, row, peer, self._calling_ae, self._tls.get(id(peer)))
        else:
            self._commitments.again(row.id, ANSWER_S - row.age_s, "not asked: the destination was away")


def _contexts() -> list[Any]:
    return [build_context(commitment.PUSH_MODEL, [IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN])]


def _check(status: Dataset, what: str) -> None:
    answer = getattr(status, "Status", None)
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
