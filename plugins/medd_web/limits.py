"""How much, and how often: sizes of requests, and requests from one address."""

import anyio
from fastapi import HTTPException, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medd.settings import WebSettings
from medd_web import problems
from medd_web.buckets import Buckets, address_of

#: Bytes of a request that brings no images.
SMALL = 1 << 20
#: Seconds in which it must have come.
SMALL_S = 30.0
#: Paths below which requests bring images.
LARGE = ("/dicom-web/", "/upload", "/api/v1/upload", "/api/v1/instances")
#: A pause in which one may go on at full speed again, seconds: a page's pieces come at once.
BURST_S = 5.0


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
        count, until, is_complete = 0, anyio.current_time() + SMALL_S, most != SMALL

        async def receive_within() -> Message:
            nonlocal count, is_complete
            try:
                with anyio.fail_after(None if is_complete else max(0.0, until - anyio.current_time())):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"a request is to come within {SMALL_S:.0f} s") from None
            is_complete = is_complete or not message.get("more_body", False)
            count += len(message.get("body", b""))
            if count > most:  # it did not state its size
                raise HTTPException(413, f"at most {most} bytes are taken here")
            return message

        await self._app(scope, receive_within, send)
