"""No other site may make a reader's browser do something here, nor call us by a name that is not ours.

**Cross-site requests.** A browser says itself where a request comes from, in headers that no script can set:
``Sec-Fetch-Site`` (to https and to this machine) and ``Origin`` (with every POST, PUT, PATCH and DELETE). A request
that changes something must come from our own origin. A token in every form would prove the same, and would be missing
in the one form where it is forgotten; this holds for every route there is or will be. Programs send neither header:
they are let through without a session's cookie, which only browsers have. Cookies are ``SameSite=Lax`` besides.

**DNS rebinding.** A site can let its own name point to 127.0.0.1; its scripts are then of the same origin as ours. So
the name by which we are called must be known: an address, this host's name, or one of ``web.allowed_hosts``.
"""

import ipaddress
import socket
from urllib.parse import urlsplit

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from medd.settings import WebSettings
from medd_web import problems

_SAFE = ("GET", "HEAD", "OPTIONS")


def refusal(request: Request, cookie: str) -> str:
    """Why a request is refused as another site's; "" where it is not.

    Args:
        request: The request.
        cookie: The name of the session's cookie.
    """
    if request.method in _SAFE:
        return ""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        return "" if site in ("same-origin", "none") else "another site sent this request"
    if origin is not None:
        return "" if urlsplit(origin).netloc == request.headers.get("host") else "another site sent this request"
    return "a browser that does not say who sends its requests is too old" if cookie in request.cookies else ""


def known_names(settings: WebSettings) -> frozenset[str]:
    """The names by which we may be called, in lower case."""
    return frozenset(
        name.lower() for name in ("localhost", settings.host, socket.gethostname(), *settings.allowed_hosts)
    )


def is_known(host: str, names: frozenset[str]) -> bool:
    """Whether a ``Host`` header is an address or one of our names; its port may be a proxy's."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name not in names:
            ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class OwnSiteOnly:
    """Refuses requests of other sites, and requests by other names."""

    def __init__(self, app: ASGIApp, *, settings: WebSettings, cookie: str) -> None:
        self._app, self._cookie = app, cookie
        self._names = known_names(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http":
            request = Request(scope)
            if not is_known(request.headers.get("host", ""), self._names):
                why = "this host is not known by that name; web.allowed_hosts can allow it"
                await problems.answer(request, 421, why)(scope, receive, send)
                return
            if why := refusal(request, self._cookie):
                await problems.answer(request, 403, why)(scope, receive, send)
                return
        await self._app(scope, receive, send)
