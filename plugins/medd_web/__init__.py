"""The reading room: worklist, cases, models and operations in the browser, and the interfaces of other programs.

Nothing heavy is imported here: the receiver and `medd --help` load this module too.
"""

import importlib.util
from collections.abc import Iterable
from typing import TYPE_CHECKING

from medd import hookimpl
from medd.hookspecs import ServiceSpec

if TYPE_CHECKING:
    import typer

    from medd.settings import Settings

#: What the extra "web" installs.
_NEEDED = ("argon2", "fastapi", "jinja2", "prometheus_client", "python_multipart", "uvicorn")


def is_installed() -> bool:
    """Whether the extra "web" is installed."""
    return all(importlib.util.find_spec(name) for name in _NEEDED)


def _is_wanted(settings: "Settings") -> bool:
    return settings.web.enabled and is_installed()


@hookimpl
def register_services() -> Iterable[ServiceSpec]:
    """The web server."""
    return [ServiceSpec("web", build="medd_web.server:build", is_wanted=_is_wanted)]


@hookimpl
def register_commands(app: "typer.Typer") -> None:
    """`medd users` and `medd audit`."""
    from medd_web import users

    app.add_typer(users.users, name="users", help="Who may use the web pages, and their programs' tokens.")
    app.command()(users.audit)
