"""Logging in and out, and what users do about their own account."""

import logging
import re
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import RedirectResponse, Response

from medd.errors import SettingsError
from medd.records import AuditOutcome
from medd.store import users
from medd.store.audit import Event, add_event, was_seen_from
from medd_web import audit, passwords
from medd_web.auth import COOKIE, User, identify, reader
from medd_web.buckets import address_of
from medd_web.context import Context, get_context, page

#: A user who logged in from an address within so many days is known there.
FAMILIAR_DAYS = 30.0
_WRONG = "Name or password is wrong."

log = logging.getLogger(__name__)
router = APIRouter()


@router.get("/login")
def show(request: Request, next: str = "/") -> Response:
    """The form."""
    if identify(request) is not None:
        return RedirectResponse(own_path(next), 303)
    return page(request, "login.html", next=own_path(next), name="", fault="")


@router.post("/login")
def log_in(
    request: Request,
    name: Annotated[str, Form(max_length=64)],
    password: Annotated[str, Form(max_length=1024)],
    next: Annotated[str, Form(max_length=2048)] = "/",
) -> Response:
    """Check a name and a password, and open a session."""
    context = get_context(request)
    if not context.settings.web.login:
        return RedirectResponse("/", 303)
    wait, user, checked = _check(context, request, name, password)
    if user is None:
        status, fault = (429, f"Too many tries. Try again in {_in_words(wait)}.") if wait else (401, _WRONG)
        answer: Response = page(request, "login.html", status=status, next=own_path(next), name=name, fault=fault)
        if wait:
            answer.headers["Retry-After"] = str(int(wait) + 1)
        return answer
    address, hours = address_of(request), context.settings.web.session_h
    with context.write() as connection:
        users.close_session(connection, request.cookies.get(COOKIE, ""))  # one browser, one session
        value = users.open_session(connection, user.name, checked, hours, address)
        if value is not None:
            add_event(connection, Event(user.name, audit.Action.LOGGED_IN, address=address))
    if value is None:  # the password was changed since it was looked at
        return page(request, "login.html", status=401, next=own_path(next), name=name, fault=_WRONG)
    answer = RedirectResponse(own_path(next), 303)
    answer.set_cookie(
        COOKIE,
        value,
        max_age=int(hours * 3600),
        httponly=True,
        # Not "strict": a link to a case in a mail or a PACS would lead to the log-in of somebody who is logged in. What
        # changes anything is held to our own pages by csrf.py.
        samesite="lax",
        secure=request.url.scheme == "https",
    )
    return answer


def _check(context: Context, request: Request, name: str, password: str) -> tuple[float, User | None, str]:
    """Seconds after which it may be tried again; the user, or None; and the hash by which it is he."""
    address, kept = address_of(request), name.strip().lower()
    with context.database.read() as connection:
        known = users.find_account(connection, kept)
        familiar = was_seen_from(connection, kept, audit.Action.LOGGED_IN, address, FAMILIAR_DAYS)
    # Taken before the hash is made: hashing is what a flood of tries would stop us with.
    if wait := context.guard.take(kept, address, familiar=familiar):
        return wait, None, ""
    hashed = known.password if known and not known.disabled else None
    right = passwords.is_right(password, hashed)  # also for nobody: the time must not tell who is known
    if known is None or hashed is None or not right:
        # A name that is nobody's may be a password that was typed into the wrong field.
        who = User(known.name, known.role) if known else None
        refused = AuditOutcome.REFUSED
        audit.record(context, request, who, audit.Action.LOGGED_IN, detail="wrong name or password", outcome=refused)
        log.warning("a log-in was refused", extra={"event": "web.login_refused", "peer": address})
        return 0.0, None, ""
    context.guard.give_back(kept, address, familiar=familiar)
    if passwords.is_outdated(hashed):
        newer = passwords.rehash(password)
        with context.write() as connection:
            if users.renew_hash(connection, known.name, hashed, newer):
                hashed = newer
    return 0.0, User(known.name, known.role), hashed


@router.post("/logout")
def log_out(request: Request) -> Response:
    """Close the session."""
    context, user = get_context(request), identify(request)
    if user is not None and context.settings.web.login:
        with context.write() as connection:
            users.close_session(connection, request.cookies.get(COOKIE, ""))
            add_event(connection, Event(user.name, audit.Action.LOGGED_OUT, address=address_of(request)))
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="lax")
    return answer


@router.get("/account")
def account(request: Request, user: Annotated[User, Depends(reader)]) -> Response:
    """What a user may do about his own account."""
    return _account(request, user)


@router.post("/account/password")
def change_password(
    request: Request,
    user: Annotated[User, Depends(reader)],
    old: Annotated[str, Form(max_length=1024)],
    new: Annotated[str, Form(max_length=1024)],
    again: Annotated[str, Form(max_length=1024)],
    tokens: Annotated[bool, Form()] = False,
) -> Response:
    """Take a new password, and log the user out everywhere."""
    context = get_context(request)
    if not context.settings.web.login:
        return _account(request, user)
    if new != again:
        return _account(request, user, "The new passwords differ.")
    wait, same, _ = _check(context, request, user.name, old)
    if same is None:
        return _account(request, user, f"Too many tries; wait {_in_words(wait)}." if wait else "The old one is wrong.")
    try:
        hashed = passwords.hash_password(new, user.name)
    except SettingsError as error:
        return _account(request, user, str(error))
    with context.write() as connection:
        users.change_account(connection, user.name, password=hashed)
        detail = "changed the password"
        if tokens:
            detail += f", took {users.revoke_tokens(connection, user.name)} tokens back"
        event = Event(user.name, audit.Action.USER_CHANGED, address=address_of(request), detail=detail)
        add_event(connection, event)
    return RedirectResponse("/login", 303)


@router.post("/account/sessions")
def end_sessions(request: Request, user: Annotated[User, Depends(reader)]) -> Response:
    """Log the user out everywhere."""
    context = get_context(request)
    with context.write() as connection:
        users.close_sessions(connection, user.name)
        event = Event(user.name, audit.Action.LOGGED_OUT, address=address_of(request), detail="everywhere")
        add_event(connection, event)
    return RedirectResponse("/login", 303)


def _account(request: Request, user: User, fault: str = "") -> Response:
    with get_context(request).database.read() as connection:
        tokens, holding = users.list_tokens(connection, user.name), users.count_tokens(connection, user.name)
    shown = {"tokens": tokens, "holding": holding, "fault": fault, "min_length": passwords.MIN_LENGTH}
    return page(request, "account.html", status=400 if fault else 200, **shown)


def own_path(path: str) -> str:
    """A path of ours to go on to after logging in; whatever would lead elsewhere is the first page."""
    # Browsers read a backslash as a slash, drop tabs and line breaks, and take two slashes for another host.
    return path if re.fullmatch(r"/(?![/\\])[^\\\x00-\x20\x7f]*", path) and path.isascii() else "/"


def _in_words(seconds: float) -> str:
    minutes = int(seconds) // 60 + 1
    return f"{minutes} minutes" if minutes > 1 else "a minute"
