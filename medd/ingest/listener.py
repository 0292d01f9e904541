"""The DICOM port: accepts connections and gives each an `Association` in a thread of its own."""

import contextlib
import ipaddress
import logging
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from pynetdicom import ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts
from pynetdicom.sop_class import Verification

from medd.errors import SettingsError
from medd.ingest.association import Acceptance, Association
from medd.ingest.intake import Intake
from medd.settings import ListenerSettings

log = logging.getLogger(__name__)

#: Seconds a new connection has to propose an association: one that stays silent must not keep others out.
ASSOCIATE_TIMEOUT_S = 10.0
#: Connections that have not been accepted as an association; more are closed at once.
MAX_UNASSOCIATED = 128
#: How long associations may take to end after `stop`, seconds.
STOP_S = 10.0


def supported_transfer_syntaxes() -> dict[str, frozenset[str]]:
    """What is accepted, by abstract syntax: every storage SOP class in every transfer syntax, as it comes; C-ECHO."""
    every = frozenset(ALL_TRANSFER_SYNTAXES)
    storage = {str(context.abstract_syntax): every for context in AllStoragePresentationContexts}
    return storage | {str(Verification): every}


class Listener:
    """The provider of C-STORE and C-ECHO (PS3.4 Annexes A and B).

    Attributes:
        port: The TCP port it is bound to.
    """

    def __init__(self, settings: ListenerSettings, intake: Intake) -> None:
        """Bind the port.

        Raises:
            SettingsError: The address cannot be bound, or an allowed host is no address.
        """
        self._settings, self._intake = settings, intake
        self._acceptance = Acceptance(settings, supported_transfer_syntaxes())
        try:
            self._allowed = [ipaddress.ip_network(host, strict=False) for host in settings.allowed_hosts]
        except ValueError as error:
            raise SettingsError(f"listener.allowed_hosts: {error}") from error
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
        self._guard = threading.Lock()
        self._open: set[Association] = set()
        self._accepted = 0
        self._stopping = False
        self._threads = ThreadPoolExecutor(
            settings.max_associations + MAX_UNASSOCIATED, thread_name_prefix="association"
        )
        self._acceptor = threading.Thread(target=self._accept_connections, name="listener")

    def start(self) -> None:
        """Accept connections from now on."""
        self._acceptor.start()

    def is_alive(self) -> bool:
        """Whether connections are still accepted."""
        return self._acceptor.is_alive()

    def stop(self) -> None:
        """Accept no more, let images that are coming in end, abort the other associations."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._socket.close()
        if self._acceptor.ident is not None:
            self._acceptor.join()
        deadline = time.monotonic() + STOP_S
        while self._open and time.monotonic() < deadline:
            with self._guard:
                associations = list(self._open)
            for association in associations:
                association.stop()
            time.sleep(0.05)
        self._threads.shutdown(wait=False, cancel_futures=True)

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
            elif len(self._open) - self._accepted >= MAX_UNASSOCIATED:
                log.warning("too many connections", extra={"event": "connection.refused", "peer": host})
                connection.close()
            else:
                try:
                    self._threads.submit(self._serve, connection, host)
                except RuntimeError as error:  # the system gives no more threads; those that end will free some
                    log.error("cannot serve: %s", error, extra={"event": "listener.error"})
                    connection.close()

    def _serve(self, connection: socket.socket, host: str) -> None:
        reserved = False

        def reserve() -> bool:
            nonlocal reserved
            with self._guard:
                reserved = self._accepted < self._settings.max_associations
                self._accepted += reserved
            if reserved:
                _set_timeout(connection, self._settings.network_timeout_s)
            return reserved

        def vacate() -> None:
            nonlocal reserved
            with self._guard:
                self._accepted -= reserved
                reserved = False

        association = Association(connection, host, self._acceptance, self._intake, reserve, vacate)
        with self._guard:
            self._open.add(association)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _set_timeout(connection, ASSOCIATE_TIMEOUT_S)
            association.run(time.monotonic() + ASSOCIATE_TIMEOUT_S)
        except OSError as error:
            fields = {"event": "association.lost", "peer": host}
            log.warning("association lost: %s", error.strerror or error, extra=fields)
        finally:
            connection.close()
            vacate()
            with self._guard:
                self._open.discard(association)


def _set_timeout(connection: socket.socket, seconds: float) -> None:
    """Let the kernel time the socket: Python's own time-outs cost a poll() before each read."""
    interval = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, interval)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, interval)
