"""Associations that we ask for: to send, to fetch, to verify. What we accept is `medd.ingest.listener`'s.

pynetdicom does the protocol. Here its many ways to fail become two: what may pass, and what a person must mend.
"""

import logging
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import Verification

from medd.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from medd.errors import PeerBusy, PeerRefused, TransientError
from medd.settings import PeerSettings

# It logs whole datasets at DEBUG, and as errors what is told better by the exceptions below.
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)

#: A-ASSOCIATE-RJ whose cause may pass (PS3.8 table 9-21): result 2 is "rejected-transient", and source 3 rejects for
#: congestion or a limit, whatever result it gives.
_TRANSIENT, _PRESENTATION = 0x02, 0x03
#: The largest PDU we take. A large object comes in several, so that its size can be watched while it comes.
MAX_PDU_BYTES = 1 << 20
#: To find out why an association failed, seconds.
_PROBE_S = 3.0


@contextmanager
def associate(
    peer: PeerSettings,
    calling_ae: str,
    contexts: Sequence[PresentationContext],
    *,
    tls: ssl.SSLContext | None = None,
    handlers: Sequence[Any] = (),
    negotiation: Sequence[Any] = (),
) -> Iterator[Association]:
    """An association with a peer, released at the end and aborted when the block raises.

    Args:
        peer: Whom to ask.
        calling_ae: Our AE title, unless the peer's settings name another one.
        contexts: The presentation contexts to propose, at most 128.
        tls: Where the peer's settings have the table ``tls``.
        handlers: pynetdicom's event handlers.
        negotiation: Items of extended negotiation, such as roles.

    Raises:
        PeerBusy: It rejects us for the time being.
        TransientError: It is away, or went away meanwhile.
        PeerRefused: It does not know us or our peer's AE title, or accepts none of the contexts.
    """
    entity = AE(ae_title=peer.calling_ae_title or calling_ae)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = peer.timeout_s
    entity.network_timeout = peer.timeout_s
    where = f"{peer.name} ({peer.ae_title}@{peer.host}:{peer.port})"
    rejections: list[A_ASSOCIATE_RJ] = []

    # Heard by ourselves: where a rejection comes very fast, pynetdicom takes it for a failure to connect.
    def hear(event: Any) -> None:
        if isinstance(event.pdu, A_ASSOCIATE_RJ):
            rejections.append(event.pdu)

    try:
        association = entity.associate(
            peer.host,
            peer.port,
            contexts=list(contexts),
            ae_title=peer.ae_title,
            max_pdu=MAX_PDU_BYTES,
            tls_args=(tls, peer.host) if tls is not None else None,
            evt_handlers=[*handlers, (evt.EVT_PDU_RECV, hear)],
            ext_neg=list(negotiation),
        )
    except (OSError, UnicodeError) as error:  # the name, which it looks up here, may be no name at all
        reason = getattr(error, "strerror", None) or "no such name"
        raise TransientError(f"{where} cannot be reached: {reason}") from error
    if not association.is_established:
        raise _rejection(rejections[0], where) if rejections else _failure(association, where, peer, tls)
    try:
        try:
            _prepare_socket(association, peer.timeout_s)
        except OSError as error:  # the peer was faster
            raise TransientError(f"{where} went away") from error
        yield association
    except BaseException:
        association.abort()
        raise
    if association.is_established:
        association.release()


def _rejection(rejected: A_ASSOCIATE_RJ, where: str) -> Exception:
    message = f"{where} rejects the association: {rejected.reason_str}"
    may_pass = rejected.result == _TRANSIENT or rejected.source == _PRESENTATION
    return PeerBusy(message) if may_pass else PeerRefused(message)


def _failure(association: Association, where: str, peer: PeerSettings, tls: ssl.SSLContext | None) -> Exception:
    if association.acceptor.primitive is not None and not association.accepted_contexts:
        return PeerRefused(f"{where} accepts none of the presentation contexts proposed")
    # pynetdicom keeps the cause to itself. A certificate that has run out may be renewed: no reason to give up.
    try:
        with socket.create_connection((peer.host, peer.port), timeout=min(_PROBE_S, peer.timeout_s)) as plain:
            if tls is not None:
                tls.wrap_socket(plain, server_hostname=peer.host).close()
    except ssl.SSLCertVerificationError as error:
        return TransientError(f"{where}: the certificate is not trusted: {error.verify_message}")
    except ssl.SSLError as error:
        return TransientError(f"{where}: no TLS: {error.reason or 'the connection was closed'}")
    except OSError as error:
        return TransientError(f"{where} cannot be reached: {error.strerror or 'no answer'}")
    return TransientError(f"{where} does not answer, or aborts")


def _prepare_socket(association: Association, timeout_s: float) -> None:
    # Another thread may set either to None meanwhile.
    opened = getattr(association.dul.socket, "socket", None)
    if opened is None:
        return
    # A message goes out in several small writes; Nagle's algorithm would hold each back for the answer to the last.
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Else a peer that falls silent within a PDU would hold us for ever, as even an abort waits for its end.
    opened.settimeout(timeout_s)


def echo(peer: PeerSettings, calling_ae: str, tls: ssl.SSLContext | None = None) -> None:
    """C-ECHO (PS3.4 Annex A).

    Raises:
        TransientError: The peer is away or busy.
        PeerRefused: It does not want us, or answers with a failure.
    """
    with associate(peer, calling_ae, [build_context(Verification)], tls=tls) as association:
        try:
            status = association.send_c_echo()
        except RuntimeError as error:  # pynetdicom's word for an association that is gone
            raise TransientError(f"{peer.name}: the association is gone") from error
        answer = getattr(status, "Status", None)
    if answer is None:
        raise TransientError(f"{peer.name}: no answer to C-ECHO")
    if answer != 0x0000:
        raise PeerRefused(f"{peer.name}: C-ECHO answered with {answer:#06x}")
