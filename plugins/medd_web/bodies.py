"""Bodies of requests that bring images: read by a thread of their own, piece by piece as they come.

They may take minutes, so they take none of the threads that answer everybody else; and beyond `SLOTS` at one time the
answer is to come again later.
"""

import errno
import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread
from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

from medd.errors import TransientError
from medd.store.audit import Event, add_event
from medd_web.actions import Action
from medd_web.auth import User
from medd_web.buckets import address_of
from medd_web.context import Context, get_context

#: Requests with images at one time.
SLOTS = 16
#: Seconds without a byte before a sender counts as gone, as for C-STORE.
SILENCE_S = 30
#: Seconds between looks whether the server is to stop.
_LOOK_S = 0.5
#: Images, or files, in one request.
MAX_PARTS = 10_000
#: After how many seconds to try again when the disk is full, or all slots are taken.
RETRY_S = 30

T = TypeVar("T")
log = logging.getLogger(__name__)


class Body:
    """The body of a request: an iterator for a thread that `work_off` started.

    It raises `ClientDisconnect` when the sender has gone. Whoever has stored something by then returns what, so that it
    is noted; nobody sees the answer.
    """

    def __init__(self, request: Request) -> None:
        self._receive, self._stopping = request.receive, get_context(request).stopping
        self._peer = address_of(request)
        self._is_complete = False

    def __iter__(self) -> "Body":
        return self

    def __next__(self) -> bytes:
        while not self._is_complete:
            if piece := anyio.from_thread.run(self._next):
                return piece
        raise StopIteration

    async def _next(self) -> bytes:
        for _ in range(round(SILENCE_S / _LOOK_S)):
            with anyio.move_on_after(_LOOK_S):
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    log.warning("a sender of images has gone", extra={"event": "upload.lost", "peer": self._peer})
                    raise ClientDisconnect
                self._is_complete = not message.get("more_body", False)
                return bytes(message.get("body", b""))
            if self._stopping.is_set():
                raise HTTPException(503, "medd is stopping", {"Retry-After": str(RETRY_S)})
        raise HTTPException(408, f"no byte for {SILENCE_S} s")


async def work_off(request: Request, work: Callable[[Body], T]) -> T:
    """Let a thread read a body; returns what `work` returns.

    Raises:
        HTTPException: Too many do so at this time (503), or the sender fell silent (408) or has gone.
    """
    state = request.app.state
    slots: anyio.CapacityLimiter | None = getattr(state, "slots", None)
    if slots is None:
        slots = state.slots = anyio.CapacityLimiter(SLOTS)
    try:
        slots.acquire_on_behalf_of_nowait(request)
    except anyio.WouldBlock:
        message = f"images come in from {SLOTS} senders already"
        raise HTTPException(503, message, {"Retry-After": str(RETRY_S)}) from None
    try:
        # Not by the limiter of all other threads, whose places are for who is answered at once.
        return await anyio.to_thread.run_sync(work, Body(request), limiter=anyio.CapacityLimiter(1))
    except ClientDisconnect:  # an answer that nobody will see
        raise HTTPException(400, "the sender has gone") from None
    finally:
        slots.release_on_behalf_of(request)


def note_images(context: Context, request: Request, user: User, studies: Mapping[str, int], how: str) -> None:
    """Keep in the audit trail, at once, how many images of which studies were brought.

    Raises:
        TransientError: The database is away.
    """
    address = address_of(request)
    with context.database.write() as connection:  # with patience: the images are here, and would be sent again
        for study, count in sorted(studies.items()):
            event = Event(user.name, Action.IMAGES_RECEIVED, address=address, study=study, detail=f"{count} by {how}")
            add_event(connection, event)


def is_disk_full(error: TransientError) -> bool:
    """Whether it was the disk that had no room."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
