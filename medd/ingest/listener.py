"""The DICOM port: accepts connections and gives each an `Association` in a thread of its own."""

import contextlib
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pynetdicom import ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts
from pynetdicom.sop_class import Verification

from medd.dicom import commitment, part10, tls
from medd.errors import SettingsError
from medd.ingest import places, wire
from medd.ingest.association import Association
from medd.ingest.commitment import CommitmentDesk
from medd.ingest.intake import Intake
from medd.ingest.negotiation import Acceptance
from medd.settings import ListenerSettings

log = logging.getLogger(__name__)

#: How long associations may take to end after `stop`, seconds.
STOP_S = 10.0
#: Then they are cut off, and have this long to notice, seconds.
_CUT_OFF_S = 1.0


def supported_transfer_syntaxes() -> dict[str, frozenset[str]]:
    """What is accepted, by abstract syntax: every storage SOP class in every transfer syntax, as it comes; C-ECHO.

    And storage commitment, whose datasets are read, in the two syntaxes that everybody speaks.
    """
    every = frozenset(ALL_TRANSFER_SYNTAXES)
    storage = {str(context.abstract_syntax): every for context in AllStoragePresentationContexts}
    read = frozenset((part10.IMPLICIT_VR_LITTLE_ENDIAN, part10.EXPLICIT_VR_LITTLE_ENDIAN))
    return storage | {str(Verification): every, commitment.PUSH_MODEL: read}


class Listener:
    """The provider of C-STORE and C-ECHO (PS3.4 Annexes A and B), and of storage commitment (Annex J).

    Attributes:
        port: The TCP port it is bound to.
    """

    def __init__(
        self,
        settings: ListenerSettings,
        intake: Intake,
        desk: CommitmentDesk | None = None,
        home: Path = Path(),
    ) -> None:
        """Bind the port.

        Args:
            settings: The listener's.
            intake: Where images go.
            desk: Answers requests for storage commitment; without one, they are not accepted.
            home: Where relative paths of the settings begin.

        Raises:
            SettingsError: The address cannot be bound, an allowed host is no address, or TLS cannot be set up.
        """
        self._settings, self._intake = settings, intake
        syntaxes = supported_transfer_syntaxes()
        if desk is None:
            del syntaxes[commitment.PUSH_MODEL]
        self._acceptance = Acceptance(settings, syntaxes, desk)
        try:
            self._allowed = [ipaddress.ip_network(host, strict=False) for host in settings.allowed_hosts]
        except ValueError as error:
            raise SettingsError(f"listener.allowed_hosts: {error}") from error
        wants_tls = any(settings.tls.model_dump().values())
        self._tls = tls.server_context(settings.tls, home) if wants_tls else None
        if self._tls is not None and tls.certificate_days_left(settings.tls, home, "listener.tls") < 0:
            log.error("listener.tls.certificate has expired: peers will refuse us", extra={"event": "tls.expired"})
        try:
            family, _, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
            # A peer that reconnects after our restart must not find the port still taken (SO_REUSEADDR).
            everywhere = settings.host == "::"
            self._socket = socket.create_server(address[:2], family=family, backlog=256, dualstack_ipv6=everywhere)
        except OSError as error:
            message = (
                f"listener: {settings.host} port {settings.port} cannot be bound. Received: {error.strerror or error}"
            )
            raise SettingsError(message) from error
        self.port: int = self._socket.getsockname()[1]
        self._places = places.Places(settings)
        self._stopping = False
        self._threads = ThreadPoolExecutor(
            settings.max_associations + places.MAX_UNASSOCIATED, thread_name_prefix="association"
        )
        self._acceptor = threading.Thread(target=self._accept_connections, name="listener")

    def start(self) -> None:
        """Accept connections from now on."""
        self._acceptor.start()

    def is_alive(self) -> bool:
        """Whether connections are still accepted."""
        return self._acceptor.is_alive()

    def stop(self) -> None:
        """Accept no more, let images that are coming in end, abort the other associations.

        Who is still sending after `STOP_S` is cut off: threads that wait for him would keep the process from its end.
        """
        self._stopping = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._socket.close()
        if self._acceptor.ident is not None:
            self._acceptor.join()
        self._end_all(Association.stop, STOP_S)
        self._end_all(Association.evict, _CUT_OFF_S)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _end_all(self, how: Callable[[Association], None], within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while (associations := self._places.all()) and time.monotonic() < deadline:
            for association in associations:
                how(association)
            time.sleep(0.05)

    def _accept_connections(self) -> None:
        while not self._stopping:
            try:
                connection, address = self._socket.accept()
            except OSError as error:
                if self._stopping:
                    return
                # Out of file descriptors, most likely: associations that end will free some.
                log.error("cannot accept: %s", error.strerror, extra={"event": "listener.error"})
                time.sleep(0.2)
                continue
            host = address[0].removeprefix("::ffff:").split("%")[0]
            if self._allowed and not any(ipaddress.ip_address(host) in network for network in self._allowed):
                log.warning("connection refused", extra={"event": "connection.refused", "peer": host})
                connection.close()
            else:
                self._admit(connection, host)

    def _admit(self, connection: socket.socket, host: str) -> None:
        deadline = time.monotonic() + self._settings.association_timeout_s
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                # Takes the socket over; the handshake itself is made in the association's thread.
                connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        except OSError as error:  # the peer has gone again already
            fields = {"event": "association.lost", "peer": host}
            log.warning("association lost: %s", error.strerror or error, extra=fields)
            connection.close()
            return
        association = Association(connection, host, self._acceptance, self._intake, self._places)
        evicted = self._places.enter(association)
        if evicted is not None:
            log.warning("too many connections", extra={"event": "connection.refused", "peer": evicted.peer})
            evicted.evict()
        try:
            self._threads.submit(self._serve, association, connection, deadline)
        except RuntimeError as error:  # the system gives no more threads; those that end will free some
            log.error("cannot serve: %s", error, extra={"event": "listener.error"})
            self._places.leave(association)
            connection.close()

    def _serve(self, association: Association, connection: socket.socket, deadline: float) -> None:
        try:
            association.run(deadline)
        finally:
            wire.close(connection)
            self._places.leave(association)
