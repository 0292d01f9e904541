"""What the pages work with, and how they are made."""

import logging
import threading
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import pluggy
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from sqlalchemy import Connection

from medd import DISCLAIMER, __version__, pipeline
from medd.classify.desk import ModelDesk
from medd.imaging.isolated import Isolated
from medd.ingest.intake import Intake
from medd.records import UserRole
from medd.settings import Settings
from medd.store.cases import CaseImage
from medd.store.spool import Spool
from medd_web.buckets import LoginGuard

log = logging.getLogger(__name__)

#: Images decoded for the viewer at one time.
DECODING = 2
#: How long pages wait for another writer of the database, seconds: who waits holds a thread that could answer others.
WRITE_WAIT_S = 3.0
#: The pages in the bar above: path, title, and who may see them.
NAVIGATION = (
    ("/", "Worklist", UserRole.READER),
    ("/upload", "Upload", UserRole.OPERATOR),
    ("/models", "Models", UserRole.READER),
    ("/operations", "Operations", UserRole.READER),
)


class Context:
    """What every request shares.

    Attributes:
        settings: The settings.
        database: The database, with the schema of this program.
        manager: The plugins.
        spool: Where the bytes of the images lie.
        guard: How often it may be tried to log in.
        decoders: Where images are decoded for the viewer, in processes that are started for the first of them.
        stopping: Set when the server is to stop: streams of events end then.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = pipeline.open_database(settings)
        self.manager: pluggy.PluginManager = pipeline.load_plugins(settings)
        self.spool: Spool = pipeline.open_spool(settings)
        self.guard = LoginGuard()
        limits = settings.worker
        self.decoders = Isolated("medd_web.decoding:make", DECODING, limits.decode_timeout_s, limits.decode_memory_mib)
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._intake: Intake | None = None
        self._models: ModelDesk | None = None

    def bring(self, image: CaseImage) -> Path:
        """The file of an image. Where it cannot be brought here, that is told by whoever reads it."""
        path = self.spool.path(image.sha256, image.media_type)
        self.spool.bring_all([path])
        return path

    def write(self) -> AbstractContextManager[Connection]:
        """`database.write` for a page, which gives up earlier.

        Raises:
            TransientError: The database is away, locked or full.
        """
        return self.database.write(WRITE_WAIT_S)

    @property
    def intake(self) -> Intake:
        """The one door for images; made when it is needed first."""
        with self._lock:
            if self._intake is None:
                self._intake = pipeline.build_intake(self.settings, self.database)
            return self._intake

    @property
    def models(self) -> ModelDesk:
        """Where models are dealt with; made when it is needed first."""
        with self._lock:
            if self._models is None:
                self._models = pipeline.open_models(self.settings)
            return self._models

    def close(self) -> None:
        """Let go of everything."""
        self.decoders.close()
        with self._lock:
            if self._intake is not None:
                self._intake.close()
            if self._models is not None:
                self._models.database.close()
        self.database.close()


def get_context(request: Request) -> Context:
    """The context of a request; also as a dependency: ``context: Context = Depends(get_context)``."""
    return get_context_of(request.app)


def get_context_of(app: FastAPI) -> Context:
    """The context of an application."""
    context: Context = app.state.context
    return context


# -- pages ---------------------------------------------------------------------------------------------------------


def plain(text: object, length: int = 120) -> str:
    """A text from outside that cannot lead astray: on one line, of bounded length, without marks that turn it round.

    Jinja2 escapes it; this is about what is left: marks that write from right to left, control characters, 64 KB.
    """
    shown = str(text) if len(str(text)) <= length else str(text)[: length - 1] + "…"
    return "".join(character if character.isprintable() else "�" for character in shown)


def moment(at: datetime | None, form: str = "%Y-%m-%d %H:%M") -> str:
    """A time in this host's zone."""
    return at.astimezone().strftime(form) if at else ""


def ago(at: datetime | None, now: datetime | None = None) -> str:
    """How long something has been, in the largest two units: "3 d 4 h", "12 min"."""
    if at is None:
        return ""
    minutes = max(0, int(((now or datetime.now(UTC)) - at).total_seconds() // 60))
    days, hours = minutes // 1440, minutes // 60 % 24
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"


def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {"plain": plain, "moment": moment, "ago": ago}
    environment.globals |= {"disclaimer": DISCLAIMER, "version": __version__}
    return environment


TEMPLATES = _templates()


def page(request: Request, name: str, /, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A page, or a piece of one, from a template.

    Every template has `request`, `user` (or None), `navigation`, `disclaimer` and `version`; and the filters `plain`
    (whatever a peer or a user chose goes through it), `moment` and `ago`.

    Args:
        request: The request it answers.
        name: Of the template.
        status: Of HTTP.
        values: What the template shows.
    """
    user = getattr(request.state, "user", None)
    known = request.app.state.paths
    shared = {
        "request": request,
        "user": user,
        "login": get_context(request).settings.web.login,
        "navigation": [(path, title) for path, title, role in NAVIGATION if path in known and user and user.may(role)],
    }
    return HTMLResponse(TEMPLATES.get_template(name).render(shared | values), status)
