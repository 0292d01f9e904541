"""Images from the browser: many files at once, each through the same door as C-STORE, each with its outcome.

A file's name is shown and kept with its image, and never becomes a path.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any
from urllib.parse import quote, unquote

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.requests import ClientDisconnect

from medd.errors import InputError, PluginError, TransientError
from medd.ingest.multipart import BadMultipart, boundary_of, parameters_of, read_parts
from medd.ingest.pieces import Arrival
from medd.records import MediaType, Status
from medd.store.outbox import study_key
from medd_web import problems, words
from medd_web.auth import User, operator
from medd_web.bodies import MAX_PARTS, RETRY_S, Body, is_disk_full, note_images, work_off
from medd_web.context import Context, get_context, page

router = APIRouter()

#: Characters of a file's name that are kept.
_NAME_LENGTH = 200


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file."""

    file: str
    #: "received", "known" (the same bytes were there), "refused" (it will never be taken) or "failed" (try again).
    outcome: str
    #: A sentence for people.
    text: str
    #: The status of HTTP if it were alone.
    code: int = 200
    instance_id: int | None = None
    status: str | None = None
    reason: str | None = None
    study: str | None = None
    #: The page of its study.
    link: str | None = None


def origin_of(user: str, host: str, name: str) -> str:
    """Where an uploaded image comes from: ``upload://USER@HOST/NAME``.

    The name is one segment: what divides or turns it, or is nothing to show, is written in per cent.
    """
    last = re.split(r"[\\/]", name)[-1][-_NAME_LENGTH:] or "unnamed"
    shown = "".join(one if one.isprintable() and one not in "%?#" else quote(one, errors="replace") for one in last)
    return f"upload://{user}@{host}/{shown}"


def name_of(disposition: str) -> str:
    """The file's name in a part of a form (RFC 7578 section 4.2); "" where there is none."""
    if match := re.search(r"filename\*=utf-8''([^;\s]+)", disposition, re.IGNORECASE):
        return unquote(match[1], errors="replace")
    match = re.search(r'filename="((?:[^"\\]|\\.)*)"', disposition) or re.search(r"filename=([^;\s]+)", disposition)
    # Browsers write a quote as %22 (WHATWG HTML section 4.10.21.8), others behind a backslash.
    return re.sub(r'\\(["\\])', r"\1", match[1]).replace("%22", '"') if match else ""


def take(context: Context, part: Iterable[bytes], name: str, origin: str) -> Outcome:
    """Take one file in."""
    arrival = Arrival(context.intake, context.settings.listener.max_object_mib << 20, frozenset(MediaType))
    try:
        receipt = arrival.receive(part, origin)
    except BadMultipart as error:
        return Outcome(name, "failed", str(error), 400)
    except InputError as error:
        return Outcome(name, "refused", str(error), 422)
    except TransientError as error:
        return Outcome(name, "failed", str(error), 507 if is_disk_full(error) else 503)
    except PluginError as error:
        return Outcome(name, "failed", str(error), 503)
    assert arrival.header is not None
    text = words.STATUSES[receipt.status][0].lower()
    if receipt.reason:
        text += f": {words.reason(receipt.reason)}"
    elif receipt.status is Status.PENDING:
        text = "waits for the model"
    study = study_key(arrival.header.study_instance_uid, receipt.sha256)
    return Outcome(
        name,
        "received" if receipt.new else "known",
        text if receipt.new else f"was here already; {text}",
        200,
        receipt.instance_id,
        str(receipt.status),
        str(receipt.reason) if receipt.reason else None,
        study,
        f"/case?study={quote(study)}",
    )


def _take_all(context: Context, boundary: bytes, user: User, host: str, body: Body) -> list[Outcome]:
    outcomes: list[Outcome] = []
    away: Outcome | None = None
    try:
        for part in read_parts(body, boundary):
            name = name_of(part.headers.get("content-disposition", ""))
            if not name:  # another field of the form, or no file was chosen
                continue
            if len(outcomes) == MAX_PARTS:
                outcomes.append(Outcome(name, "failed", f"at most {MAX_PARTS} files are taken at once", 413))
                break
            if away:  # each would have to wait for the same time-out
                outcomes.append(Outcome(name, away.outcome, away.text, away.code))
                continue
            outcomes.append(take(context, part, name, origin_of(user.name, host, name)))
            away = outcomes[-1] if outcomes[-1].code in (503, 507) else None
    except (BadMultipart, HTTPException, ClientDisconnect) as error:
        if not outcomes:
            raise (HTTPException(400, str(error)) if isinstance(error, BadMultipart) else error) from None
        if outcomes[-1].code != 400:
            outcomes.append(Outcome("", "failed", "the request broke off", 400))
    return outcomes


@router.get("/upload")
def show(request: Request, _user: Annotated[User, Depends(operator)]) -> HTMLResponse:
    """The page."""
    return page(request, "upload.html", outcomes=[], limit_mib=_limit_mib(get_context(request)))


@router.post("/upload")
async def upload(
    request: Request,
    context: Annotated[Context, Depends(get_context)],
    user: Annotated[User, Depends(operator)],
) -> Response:
    """Take the files of a form in; a page tells a person what became of them, JSON a program."""
    content_type = request.headers.get("content-type", "")
    boundary = boundary_of(content_type)
    if parameters_of(content_type)[0] != "multipart/form-data" or not boundary:
        raise HTTPException(415, "a form with files is expected (multipart/form-data)")
    host = request.client.host if request.client else ""
    outcomes = await work_off(request, partial(_take_all, context, boundary, user, host))
    if not outcomes:
        raise HTTPException(400, "no file was sent")
    if studies := Counter(one.study for one in outcomes if one.study):
        await run_in_threadpool(note_images, context, request, user, studies, "upload")
    codes = {one.code for one in outcomes}
    status = codes.pop() if len(codes) == 1 else 200
    if problems.wants_page(request):
        shown: dict[str, Any] = {"outcomes": outcomes, "limit_mib": _limit_mib(context)}
        return await run_in_threadpool(page, request, "upload.html", status=status, **shown)
    headers = {"Retry-After": str(RETRY_S)} if status in (503, 507) else {}
    return JSONResponse({"files": [asdict(one) for one in outcomes]}, status, headers)


def _limit_mib(context: Context) -> int:
    return min(context.settings.listener.max_object_mib, context.settings.web.max_upload_mib)
