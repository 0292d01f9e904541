"""Who asks, and whether he may: dependencies of the routes.

::

    @router.get("/models")
    def models(request: Request, user: Annotated[User, Depends(reader)]) -> HTMLResponse: ...

A browser shows the cookie of a session, a program a token (RFC 6750). A stream of events that stays open has to ask
again itself, by `identify`: sessions end, and users are disabled.
"""

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import HTTPException, Request, Security
from fastapi.security import HTTPBearer

from medd.records import AuditOutcome, UserRole
from medd.store.users import find_session, find_token
from medd_web import audit
from medd_web.context import get_context

#: The session's cookie.
COOKIE = "medd_session"
_ORDER = list(UserRole)
_bearer = HTTPBearer(auto_error=False, description="A token made by `medd users token add`.")


@dataclass(frozen=True, slots=True)
class User:
    """Who is at the browser, or whose token it is."""

    name: str
    role: UserRole

    def may(self, role: UserRole | str) -> bool:
        """Whether the rights of a role are his."""
        return _ORDER.index(self.role) >= _ORDER.index(UserRole(role))


#: Everybody, where nobody logs in.
LOCAL = User("local", UserRole.ADMINISTRATOR)


def identify(request: Request) -> User | None:
    """Who asks; None where nobody has logged in, or not any more.

    Raises:
        TransientError: The database is away.
    """
    context = get_context(request)
    if not context.settings.web.login:
        return LOCAL
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme:  # whoever shows a token means to be judged by it, not by a cookie that is there as well
        find, value = find_token, token.strip() if scheme.lower() == "bearer" else ""
    else:
        find, value = find_session, request.cookies.get(COOKIE, "")
    if not value:
        return None
    with context.database.read() as connection:
        found = find(connection, value)
    return User(*found) if found else None


def _at_least(role: UserRole) -> Callable[..., User]:
    def dependency(request: Request, _token: object = Security(_bearer)) -> User:
        user = identify(request)
        if user is None:
            raise HTTPException(401, "log in first", {"WWW-Authenticate": 'Bearer realm="medd"'})
        request.state.user = user
        if not user.may(role):
            what = f"{request.method} {request.url.path}"
            refused = AuditOutcome.REFUSED
            audit.record(get_context(request), request, user, audit.Action.REFUSED, detail=what, outcome=refused)
            raise HTTPException(403, f"this needs the role {role}; yours is {user.role}")
        return user

    return dependency


#: May see studies and results, and say what the truth is.
reader = _at_least(UserRole.READER)
#: May bring images and deal with failed work.
operator = _at_least(UserRole.OPERATOR)
#: May promote models and read the audit trail.
administrator = _at_least(UserRole.ADMINISTRATOR)
