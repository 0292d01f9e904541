"""Who asks, and whether he may: dependencies of the routes.

::

    @router.get("/models")
    def models(request: Request, user: Annotated[User, Depends(reader)]) -> HTMLResponse: ...
"""

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import HTTPException, Request, Security
from fastapi.security import HTTPBearer

from medd.records import UserRole
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

    def may(self, role: UserRole) -> bool:
        """Whether the rights of a role are his."""
        return _ORDER.index(self.role) >= _ORDER.index(role)


#: Everybody, where nobody logs in.
LOCAL = User("local", UserRole.ADMINISTRATOR)


def identify(request: Request) -> User | None:
    """Who asks; None where nobody has logged in."""
    if not get_context(request).settings.web.login:
        return LOCAL
    return None


def _at_least(role: UserRole) -> Callable[..., User]:
    def dependency(request: Request, _token: object = Security(_bearer)) -> User:
        user = identify(request)
        if user is None:
            raise HTTPException(401, "log in first", {"WWW-Authenticate": "Bearer"})
        request.state.user = user
        if not user.may(role):
            raise HTTPException(403, f"this needs the role {role}")
        return user

    return dependency


#: May see studies and results, and say what the truth is.
reader = _at_least(UserRole.READER)
#: May bring images and deal with failed work.
operator = _at_least(UserRole.OPERATOR)
#: May promote models and read the audit trail.
administrator = _at_least(UserRole.ADMINISTRATOR)
