"""The pixels of an image for the viewer: decoded once, whole, with every grey value it has; and its heat map.

Decoding costs memory and time, and anybody who may see a case may ask for it: few at a time are decoded, few more wait,
and the rest are told to come again.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import cv2
import numpy as np
from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import Response

from medd.errors import TransientError
from medd.store.cases import CaseImage, find_images
from medd.store.repository import find_attachments
from medd_web.actions import Action
from medd_web.api.listing import RowId
from medd_web.audit import record
from medd_web.auth import User, reader
from medd_web.buckets import address_of
from medd_web.context import DECODING, Context, get_context
from medd_web.heavy import Heavy
from medd_web.lately import Lately

log = logging.getLogger(__name__)
router = APIRouter()

#: Requests that wait for their turn to be decoded.
WAITING = 6
#: Raised whenever the same image would give other bytes.
VERSION = 1
#: Side of a heat map, pixels; how many thumbnails are kept.
HEAT, KEPT = 512, 512

_decoding = threading.BoundedSemaphore(DECODING)
_waiting = threading.BoundedSemaphore(DECODING + WAITING)
#: An image that somebody has looked at is one event of the audit trail in so many seconds.
_SEEN = Lately(600)
Reader = Annotated[User, Depends(reader)]


@contextmanager
def _turn() -> Iterator[None]:
    """Wait for one's turn to decode."""
    if not _waiting.acquire(blocking=False):
        raise HTTPException(503, "many images are asked for at this moment", {"Retry-After": "1"})
    try:
        with _decoding:
            yield
    finally:
        _waiting.release()


def find_image(context: Context, instance_id: int) -> CaseImage:
    """One image.

    Raises:
        HTTPException: There is none.
    """
    with context.database.read() as connection:
        found = find_images(connection, [instance_id])
    if not found:
        raise HTTPException(404, "there is no such image")
    return found[0]


def _find_film(context: Context, request: Request, user: User, instance_id: int) -> CaseImage:
    """An image whose pixels may be shown; whoever asks is noted.

    Raises:
        HTTPException: There is none (404), or retention has deleted it (410), whatever a browser or we have kept of it.
    """
    image = find_image(context, instance_id)
    note(context, request, user, image.study, image.id)
    if image.is_purged:
        raise HTTPException(410, "it was deleted here, as old images are; its results stay, the archive may have it")
    return image


def _decode(context: Context, what: str, image: CaseImage) -> bytes:
    made = context.decoders.call((what, context.bring(image), image.media_type))
    if isinstance(made, TransientError):
        log.error("an image cannot be shown: %s", made, extra={"event": "web.failed", "reason": type(made).__name__})
        raise HTTPException(503, "the image cannot be read at this moment", {"Retry-After": "5"})
    if isinstance(made, Exception):
        raise made
    return bytes(made)


def _is_known(request: Request, etag: str) -> bool:
    return etag in [one.strip() for one in request.headers.get("if-none-match", "").split(",")]


def _kept(etag: str) -> dict[str, str]:
    # Kept by the browser, but asked about each time: somebody else may sit there by now.
    return {"ETag": etag, "Cache-Control": "private, no-cache"}


@router.get("/image/{instance_id}/levels")
def levels(request: Request, user: Reader, instance_id: RowId) -> Response:
    """All pixels of an image, in the form of `pack`."""
    context = get_context(request)
    image = _find_film(context, request, user, instance_id)
    etag = f'"{image.sha256[:32]}-{VERSION}"'
    if _is_known(request, etag):
        return Response(status_code=304, headers=_kept(etag))
    with _turn():
        body = _decode(context, "levels", image)
    return Heavy(body, media_type="application/octet-stream", headers=_kept(etag))


@router.get("/image/{instance_id}/heat")
def heat(request: Request, user: Reader, instance_id: RowId) -> Response:
    """The heat map of the prediction that is shown: a PNG in colour, clear where it is cold, for the whole film."""
    context = get_context(request)
    image = find_image(context, instance_id)
    with context.database.read() as connection:
        found = [one for one in find_attachments(connection, instance_id) if one.name == "heat" and image.has_heat]
    if not found:
        raise HTTPException(404, "there is no heat map")
    note(context, request, user, image.study, image.id)
    return Response(paint(found[0].content), media_type="image/png")


def paint(content: bytes) -> bytes:
    """A grey heat map as a coloured one: what spoke for a finding most is opaque, what did not, clear."""
    small = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)
    if small is None:
        raise HTTPException(404, "the heat map is damaged")
    grey = cv2.resize(small, (HEAT, HEAT), interpolation=cv2.INTER_CUBIC)
    painted = cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2BGRA)
    painted[..., 3] = grey
    _, encoded = cv2.imencode(".png", painted)
    return encoded.tobytes()


_thumbnails: OrderedDict[str, bytes] = OrderedDict()
_guard = threading.Lock()


@router.get("/image/{instance_id}/thumbnail")
def thumbnail(request: Request, user: Reader, instance_id: RowId) -> Response:
    """A small picture of an image, for studies of several."""
    context = get_context(request)
    image = _find_film(context, request, user, instance_id)
    etag = f'"{image.sha256[:32]}-t{VERSION}"'
    if _is_known(request, etag):
        return Response(status_code=304, headers=_kept(etag))
    with _guard:
        made = _thumbnails.get(image.sha256)
    if made is None:
        with _turn():
            made = _decode(context, "thumbnail", image)
        with _guard:
            _thumbnails[image.sha256] = made
            while len(_thumbnails) > KEPT:
                _thumbnails.popitem(last=False)
    return Response(made, media_type="image/png", headers=_kept(etag))


def note(
    context: Context, request: Request, user: User, study: str, image_id: int | None = None, *, again: bool = False
) -> None:
    """Keep that somebody has looked at an image, or at what is told of a study.

    Args:
        context: The context.
        request: By which it is looked at.
        user: Who looks.
        study: Its key.
        image_id: The image; None: none, and any image of the study tells of it too.
        again: Also where it was told of a short while ago.
    """
    who = (context.settings.home, user.name, address_of(request))
    if again or (*who, image_id or study) not in _SEEN:
        record(context, request, user, Action.CASE_SEEN, study=study, instance=image_id or "")
        _SEEN.add((*who, study))
        if image_id is not None:
            _SEEN.add((*who, image_id))
