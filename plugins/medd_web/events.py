"""Tells open pages that something has changed, by server-sent events: they then ask for what they show.

No event says of what study it tells, so none can tell somebody what he may not know.
"""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Iterable
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import StreamingResponse

from medd.errors import TransientError
from medd.store.studies import signature
from medd_web.auth import User, reader
from medd_web.context import Context, get_context

router = APIRouter()

#: Seconds between two looks at the database, however many pages are open.
LOOK_S = 1.0
#: Seconds after which a silent stream says that it lives: proxies cut off what does not.
BEAT_S = 15.0
#: A stream ends after so many seconds; the browser comes again, and who has been logged out meanwhile is refused.
LIFE_S = 600.0
#: Streams at one time.
MAX_STREAMS = 200


def digest(state: Iterable[Any]) -> str:
    """A short word for a state of the worklist, as `medd.store.studies.signature` gives it."""
    return hashlib.sha256(repr(tuple(state)).encode()).hexdigest()[:16]


class Watcher:
    """Looks at the database for all who watch."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = asyncio.Lock()
        self._seen, self._at = "", 0.0
        self.streams = 0

    async def look(self) -> str:
        """The state of the worklist, a second old at most; the last one known while the database is away."""
        async with self._lock:
            if time.monotonic() - self._at >= LOOK_S:
                with contextlib.suppress(TransientError):
                    self._seen = await anyio.to_thread.run_sync(self._look)
                self._at = time.monotonic()
            return self._seen

    def _look(self) -> str:
        with self._context.database.read() as connection:
            return digest(signature(connection))

    async def events(self) -> AsyncIterator[str]:
        """The lines of one stream: an event at the beginning, and at each change."""
        began = beaten = time.monotonic()
        told = None
        self.streams += 1
        try:
            yield "retry: 2000\n\n"
            while not self._context.stopping.is_set() and time.monotonic() - began < LIFE_S:
                state = await self.look()
                if state != told:
                    told, beaten = state, time.monotonic()
                    yield f"event: changed\ndata: {state}\n\n"
                elif time.monotonic() - beaten > BEAT_S:
                    beaten = time.monotonic()
                    yield ": still here\n\n"
                await asyncio.sleep(LOOK_S)
        finally:
            self.streams -= 1


def _watcher(request: Request) -> Watcher:
    # One for the application, made in its own event loop.
    state = request.app.state
    if not hasattr(state, "watcher"):
        state.watcher = Watcher(get_context(request))
    found: Watcher = state.watcher
    return found


@router.get("/events")
async def events(request: Request, user: Annotated[User, Depends(reader)]) -> StreamingResponse:
    """Tell a page of changes until it is closed."""
    watcher = _watcher(request)
    if watcher.streams >= MAX_STREAMS:
        raise HTTPException(503, "too many pages are open", {"Retry-After": "30"})
    headers = {"X-Accel-Buffering": "no"}  # nginx would hold events back
    return StreamingResponse(watcher.events(), media_type="text/event-stream", headers=headers)
