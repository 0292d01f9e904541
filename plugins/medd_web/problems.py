"""Answers that say what went wrong: a page to a person, problem details (RFC 9457) to a program."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from sqlalchemy.exc import DataError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medd.errors import GateRefused, InputError, MeddError, ModelError, PeerRefused, SettingsError, TransientError
from medd_web.context import page

log = logging.getLogger(__name__)

#: Below these, programs ask; elsewhere people do.
PROGRAMS = ("/api/", "/dicom-web/", "/metrics", "/health")

#: What is said of all that may be over soon; the log says what it was.
AWAY = "medd cannot do this at this moment; try again soon"

#: What an error of medd's is in HTTP; the first that fits counts.
STATUS_OF: tuple[tuple[type[MeddError], int], ...] = (
    (TransientError, 503),
    (InputError, 422),
    (GateRefused, 409),
    (ModelError, 409),
    (PeerRefused, 502),
    (SettingsError, 400),
)


def wants_page(request: Request) -> bool:
    """Whether it is a person who asks, and so is to be shown a page."""
    return not request.url.path.startswith(PROGRAMS) and "text/html" in request.headers.get("accept", "")


def answer(
    request: Request, status: int, detail: str = "", headers: Mapping[str, str] | None = None, **more: Any
) -> Response:
    """The answer to a request that failed.

    Args:
        request: The request.
        status: Of HTTP.
        detail: One sentence for people; nothing of a patient.
        headers: More headers.
        more: More members of the problem details.
    """
    title = HTTPStatus(status).phrase
    response: Response
    if wants_page(request):
        response = page(request, "error.html", status=status, title=title, detail=detail)
    else:
        body = {"type": "about:blank", "title": title, "status": status, "detail": detail, **more}
        response = JSONResponse(body, status, media_type="application/problem+json")
    response.headers.update(headers or {})
    return response


def install(app: FastAPI) -> None:
    """Let an application answer so to every error."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(MeddError, _expected)
    app.add_exception_handler(DataError, _no_text)
    app.add_middleware(Faults)


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code < 400 or error.status_code in (204, 304):
        return Response(status_code=error.status_code, headers=error.headers)
    if error.status_code == 401 and request.headers.get("hx-request"):  # a piece of a page: all of it must go
        return Response(status_code=401, headers={"HX-Redirect": "/login"})
    if error.status_code == 401 and wants_page(request):
        here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse("/login?" + urlencode({"next": here if request.method == "GET" else "/"}), 303)
    return answer(request, error.status_code, str(error.detail), error.headers)


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # What was received is not repeated: it may be a password, or of a patient.
    faults = [{"where": ".".join(map(str, one["loc"])), "what": one["msg"]} for one in error.errors()]
    detail = "; ".join(f"{one['where']}: {one['what']}" for one in faults)
    return answer(request, 422, detail, errors=faults)


def _expected(request: Request, error: Exception) -> Response:
    status = next((status for kind, status in STATUS_OF if isinstance(error, kind)), 500)
    if status >= 500:
        log.error("a request failed: %s", error, extra={"event": "web.failed", "reason": type(error).__name__})
    if isinstance(error, TransientError):  # its words may name hosts, ports and folders, and strangers may ask
        return answer(request, status, AWAY, {"Retry-After": "5"})
    return answer(request, status, str(error))


def _no_text(request: Request, error: Exception) -> Response:
    # A value that no column holds and `text.py` did not see: who sent it is at fault, not medd.
    log.warning("a request had a value that the database refuses", extra={"event": "web.refused"})
    return answer(request, 422, "a value has a form that cannot be kept")


class Faults:
    """Answers a fault of ours like any other failure, and logs it; the connection goes on."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        began = False

        async def send_and_note(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception:  # whatever it is: who asks is to be told, and whoever runs this to find it in the log
            log.exception("a request met a fault", extra={"event": "web.fault"})
            if began or scope["type"] != "http":
                raise
            await answer(Request(scope), 500, "This is a fault of medd; its log says more.")(scope, receive, send)
