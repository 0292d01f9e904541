r"""Text that no database keeps: a NUL, in whatever way it is written, is refused before any route sees it.

Paths, query strings and small bodies are looked at: forms, as a NUL or ``%00``, and JSON, as ``\u0000``. Requests that
bring images hold NULs in plenty; what they call themselves is made plain where it is read.
"""

import re

from fastapi import HTTPException, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medd_web import problems
from medd_web.limits import LARGE

_IN_FORM = re.compile(rb"\0|%00")
#: A backslash that is itself written by one begins nothing.
_IN_JSON = re.compile(rb"\0|(?<!\\)(?:\\\\)*\\u0000")
#: Bytes of one piece that are looked at again with the next.
_OVERLAP = 64
_REFUSAL = "a NUL is no text"


class TextOnly:
    """Refuses requests with a NUL in what ought to be text (422)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        if "\0" in scope["path"] or _IN_FORM.search(scope["query_string"]):
            await problems.answer(request, 422, _REFUSAL)(scope, receive, send)
            return
        if scope["path"].startswith(LARGE):
            await self._app(scope, receive, send)
            return
        wrong = _IN_JSON if "json" in request.headers.get("content-type", "") else _IN_FORM
        tail = b""

        async def receive_text() -> Message:
            nonlocal tail
            message = await receive()
            piece = tail + message.get("body", b"")
            if wrong.search(piece):
                raise HTTPException(422, _REFUSAL)
            tail = piece[-_OVERLAP:]
            return message

        await self._app(scope, receive_text, send)
