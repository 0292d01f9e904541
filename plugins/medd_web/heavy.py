"""Large answers: sent piece by piece, and only so many bytes of them held at one time.

Whoever asks and does not read would else fill the memory; `connections.py` gives up on him after a while.
"""

from fastapi import Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from medd_web import problems

#: Bytes of large answers that are on their way, in all.
BUDGET = 256 << 20
#: Bytes handed on at one time; the next wait until most of them have gone.
PIECE = 1 << 18


class Heavy(Response):
    """A large answer; 503 where too many are on their way already."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        state, size = scope["app"].state, len(self.body)  # one event loop: nothing comes between
        held = getattr(state, "heavy", 0)
        if held and held + size > BUDGET:
            why = "many images are on their way at this moment"
            await problems.answer(Request(scope), 503, why, {"Retry-After": "5"})(scope, receive, send)
            return
        state.heavy = held + size
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for begin in range(0, size, PIECE):
                piece = bytes(self.body[begin : begin + PIECE])
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            state.heavy -= size
