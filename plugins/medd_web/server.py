"""The web server as a part of the daemon."""

import contextlib
import logging
import socket
from typing import TYPE_CHECKING

from medd import __version__
from medd.dicom.tls import server_context
from medd.errors import SettingsError, TransientError
from medd.settings import Settings, is_loopback
from medd.store.audit import Event, add_event
from medd.store.users import count_administrators
from medd_web import is_installed
from medd_web.actions import Action

if TYPE_CHECKING:
    from medd_web.context import Context

log = logging.getLogger(__name__)

#: Seconds in which requests that are being answered may finish when we stop.
GRACE_S = 5
#: Connections at one time; beyond them the answer is 503.
MAX_CONNECTIONS = 500


class WebServer:
    """A port and the application behind it.

    Attributes:
        name: For the ready line.
        url: Where it answers.
        context: What the application works with.
    """

    def __init__(self, settings: Settings) -> None:
        wanted = settings.web
        tls = server_context(wanted.tls, settings.home, "web.tls") if wanted.tls.certificate else None
        # First of all, as it is the one thing that may have to be tried again.
        self._socket = _bind(wanted.host, wanted.port)
        import uvicorn

        from medd_web.app import create_app
        from medd_web.connections import protocol_for
        from medd_web.context import get_context_of

        try:
            app = create_app(settings)
            self.context: Context = get_context_of(app)
            self._begin(settings)
        except BaseException:
            self._socket.close()
            raise
        options: dict[str, object] = {"ssl_context_factory": lambda *_: tls} if tls else {}
        if wanted.trusted_proxies:
            options["forwarded_allow_ips"] = list(wanted.trusted_proxies)
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=protocol_for(wanted.trusted_proxies),
                loop="medd_web.connections:Loop",
                lifespan="on",
                ws="none",
                log_config=None,
                log_level="warning",
                access_log=False,  # addresses of pages hold ids of patients
                server_header=False,
                proxy_headers=bool(wanted.trusted_proxies),
                limit_concurrency=MAX_CONNECTIONS,
                timeout_graceful_shutdown=GRACE_S,
                **options,  # type: ignore[arg-type]
            )
        )
        shown = f"[{wanted.host}]" if ":" in wanted.host else wanted.host
        self.url = f"{'https' if tls else 'http'}://{shown}:{self._socket.getsockname()[1]}/"
        self.name = f"reading room at {self.url}"

    @property
    def is_started(self) -> bool:
        """Whether requests are answered."""
        return self._server.started

    def run(self) -> None:
        """Answer requests until `stop`."""
        try:
            self._server.run(sockets=[self._socket])
        finally:
            with contextlib.suppress(TransientError):  # a database that is away must not hold up who stops
                self._note(Action.SERVER_STOPPED)
            self.context.database.close()

    def _begin(self, settings: Settings) -> None:
        if settings.web.login:
            with self.context.database.read() as connection:
                administrators = count_administrators(connection)
            if not administrators:
                log.warning("nobody can log in as administrator yet: medd users add NAME --role administrator")
        if not settings.web.tls.certificate and not is_loopback(settings.web.host):
            log.warning(
                "without [web.tls], or a proxy that has it, passwords and images cross the network in the clear"
            )
        self._note(Action.SERVER_STARTED)

    def _note(self, action: Action) -> None:
        with self.context.database.write() as connection:
            add_event(connection, Event("", action, detail=f"medd {__version__}"))

    def stop(self) -> None:
        """Answer what is being asked, and no more."""
        self.context.stopping.set()
        self._server.should_exit = True


def build(settings: Settings) -> WebServer:
    """The web server of the settings, with its port bound.

    Raises:
        SettingsError: Something in the settings is wrong, or the extra is not installed.
        TransientError: The port is taken, or the database away.
    """
    if not is_installed():
        raise SettingsError("web: the extra is not installed; install it with: pip install 'medd[web]'")
    return WebServer(settings)


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        both = host == "::" and socket.has_dualstack_ipv6()
        bound = socket.create_server(address[:2], family=family, backlog=1024, dualstack_ipv6=both)
        # Accepted connections inherit it. asyncio sets it only where a socket says that its protocol is TCP, which this
        # one leaves open; without it an answer's last packet waits 40 ms for the acknowledgement of the one before.
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return bound
    except OSError as error:  # it may be free later; images are received without it
        reason = error.strerror or str(error)
        raise TransientError(f"web.host: {host} port {port} cannot be bound. Received: {reason}") from error
