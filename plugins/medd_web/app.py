"""The application: everything that answers under one port. Read this first."""

import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio.to_thread
from fastapi import FastAPI

from medd import DISCLAIMER, __version__
from medd.settings import Settings
from medd_web import problems
from medd_web.api import schema
from medd_web.auth import COOKIE
from medd_web.context import Context
from medd_web.csrf import OwnSiteOnly
from medd_web.headers import Headers
from medd_web.limits import Limits
from medd_web.static import Static
from medd_web.text import TextOnly

#: Modules with a `router`: pages, which people see, and interfaces, which the OpenAPI document describes.
PAGES: tuple[str, ...] = (
    "medd_web.worklist",
    "medd_web.case",
    "medd_web.picture",
    "medd_web.events",
    "medd_web.upload",
    "medd_web.login",
    "medd_web.audit_log",
    "medd_web.models",
    "medd_web.operations",
    "medd_web.metrics",
    "medd_web.health",
)
INTERFACES: tuple[str, ...] = ("medd_web.api", "medd_web.stow")
#: Requests answered at one time; each may hold a connection to the database, of which there are 15.
THREADS = 12


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    yield
    app.state.context.close()


def create_app(settings: Settings) -> FastAPI:
    """The application of the settings.

    Raises:
        MeddError: The database, the spool or a plugin cannot be used.
    """
    app = FastAPI(
        title="medd",
        version=__version__,
        description=DISCLAIMER,
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # these two load scripts from elsewhere
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state.context = Context(settings)
    problems.install(app)
    app.state.paths = set()
    for name in (*PAGES, *INTERFACES):
        router = importlib.import_module(name).router
        app.include_router(router, include_in_schema=name in INTERFACES)
        app.state.paths |= {getattr(route, "path", "") for route in router.routes}
    schema.describe(app)
    app.mount("/static", Static(Path(__file__).parent / "static", "/static/"), name="static")
    # The last one added is the first one asked.
    app.add_middleware(TextOnly)
    app.add_middleware(OwnSiteOnly, settings=settings.web, cookie=COOKIE)
    app.add_middleware(Limits, settings=settings.web)
    app.add_middleware(Headers, https=bool(settings.web.tls.certificate))
    return app
