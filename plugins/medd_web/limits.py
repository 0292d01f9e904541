"""How much, and how often: sizes of requests, requests from one address, tries to log in."""

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

from fastapi import HTTPException, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medd.settings import WebSettings
from medd_web import problems

#: Bytes of a request that brings no images.
SMALL = 1 << 20
#: Paths below which requests bring images.
LARGE = ("/dicom-web/", "/upload", "/api/v1/upload", "/api/v1/instances")
#: A pause in which one may go on at full speed again, seconds: a page's pieces come at once.
BURST_S = 5.0


class Buckets:
    """Token buckets: each key may do `size` things at once, and later `per_s` more a second.

    Thread-safe; forgets keys that are full again, and the oldest beyond `keys` of them.
    """

    def __init__(
        self, size: float, per_s: float, *, keys: int = 10_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._size, self._per_s, self._keys, self._clock = size, per_s, keys, clock
        self._levels: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, key: Hashable) -> float:
        """Take one; returns 0.0, or the seconds after which there is one again."""
        with self._lock:
            now = self._clock()
            level, at = self._levels.pop(key, (self._size, now))
            level = min(self._size, level + (now - at) * self._per_s)
            wait = 0.0 if level >= 1 else (1 - level) / self._per_s
            self._levels[key] = (level if wait else level - 1, now)
            while len(self._levels) > self._keys:
                self._levels.popitem(last=False)
            return wait

    def give_back(self, key: Hashable) -> None:
        """Undo a `take`."""
        with self._lock:
            if key in self._levels:
                level, at = self._levels[key]
                self._levels[key] = (min(self._size, level + 1), at)


def address_of(request: Request) -> str:
    """Whose request it is; of IPv6 the network of 64 bits, as one caller has all of it."""
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return host if address.is_loopback else str(ipaddress.ip_network(f"{host}/64", strict=False))
    return host


class Limits:
    """Refuses requests that are too large (413) or come too fast (429)."""

    def __init__(self, app: ASGIApp, *, settings: WebSettings) -> None:
        self._app = app
        self._large = settings.max_upload_mib << 20
        rate = settings.max_requests_per_s
        self._rate = Buckets(max(1.0, rate * BURST_S), rate) if rate else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"].startswith("/static/"):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        if self._rate and (wait := self._rate.take(address_of(request))):
            response = problems.answer(request, 429, "too many requests", {"Retry-After": str(int(wait) + 1)})
            await response(scope, receive, send)
            return
        most = self._large if scope["path"].startswith(LARGE) else SMALL
        stated = request.headers.get("content-length", "0")
        if not stated.isdecimal() or int(stated) > most:
            status = 413 if stated.isdecimal() else 400
            await problems.answer(request, status, f"at most {most} bytes are taken here")(scope, receive, send)
            return
        count = 0

        async def receive_within() -> Message:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            if count > most:  # it did not state its size
                raise HTTPException(413, f"at most {most} bytes are taken here")
            return message

        await self._app(scope, receive_within, send)
