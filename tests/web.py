"""A real web server for tests: a port, a thread, and a client over real HTTP."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from medd import settings as medd_settings
from medd.settings import Settings
from medd.store.database import Database
from medd.testing import stub_bundle, write_stub_plugin
from medd_web.context import Context
from medd_web.server import WebServer
from tests.schema import empty_database
from tests.support import wait_until

#: What a browser sends that came here by a link or a typed address.
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@dataclass
class Web:
    """A server that runs, and whoever asks it."""

    #: With its closing slash.
    url: str
    #: Follows no redirections; asks as a program does.
    client: httpx.Client
    context: Context
    settings: Settings

    @property
    def database(self) -> Database:
        return self.context.database

    def browser(self, **options: Any) -> httpx.Client:
        """Another visitor, with cookies of his own, whose requests look like those of a browser on our pages."""
        headers = BROWSER | {"Origin": self.url.rstrip("/")} | options.pop("headers", {})
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=30, **options)


def web_settings(home: Path, *, database_url: str = "", **values: Any) -> Settings:
    """Settings of a home with the stub classifier, whose `[web]` has `values`; a free port, and no limit of rates."""
    if not (home / "plugins").exists():
        (home / "plugins").mkdir(parents=True)
        write_stub_plugin(home / "plugins", stub_bundle(home / "stub-bundle"))
    web = medd_settings.WebSettings(**({"port": 0, "max_requests_per_s": 0} | values))
    changed: dict[str, Any] = {"web": web, "model": medd_settings.ModelSettings(classifier="stub")}
    if not database_url and not (home / "medd.db").exists():
        (home / "medd.db").write_bytes(empty_database())
    elif database_url:
        changed["database"] = medd_settings.DatabaseSettings(url=database_url)
    return medd_settings.load(home).model_copy(update=changed)


@contextmanager
def running_web(settings: Settings) -> Iterator[Web]:
    """A server of these settings on a free port, in a thread; ``[web] port`` is to be 0."""
    server = WebServer(settings)
    thread = threading.Thread(target=server.run, name="web")
    thread.start()
    try:
        wait_until(lambda: server.is_started or not thread.is_alive(), what="the server's start")
        assert thread.is_alive(), "the server ended at its start"
        with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as client:
            yield Web(server.url, client, server.context, settings)
    finally:
        server.stop()
        thread.join(30)
    assert not thread.is_alive(), "the server does not stop"
