"""The web pages: whether they can be served, and to whom."""

import errno
import os
from collections.abc import Iterator

from medd import pipeline
from medd.doctor.finding import Finding, State
from medd.doctor.network import check_table, stage_runs, try_to_bind
from medd.settings import Settings, is_loopback
from medd.store import database as databases
from medd.store.database import Database
from medd.store.users import count_administrators


def check_web(settings: Settings) -> Iterator[Finding]:
    """Whether the port is free or ours, who may log in, and whether what crosses the network is encrypted."""
    wanted = settings.web
    service = pipeline.find_services(settings).get("web")
    runs_apart = not wanted.enabled and stage_runs(settings, "web")
    if not (wanted.enabled or runs_apart):
        yield Finding(State.OK, "web", "switched off, but for `medd serve --only web`")
        return
    if not runs_apart and (service is None or not service.is_wanted(settings)):
        yield Finding(State.OK, "web", "the extra is not installed")
        return
    yield _check_port(settings)
    if wanted.login:
        yield _check_administrators(settings)
    else:
        yield Finding(State.OK, "web login", "nobody logs in: every user of this machine is an administrator")
    if wanted.tls.certificate:
        yield from check_table(settings, "web.tls", wanted.tls, is_listener=True)
    elif not is_loopback(wanted.host):
        advice = "set [web.tls], or let only a proxy that has it reach this port"
        yield Finding(State.WARN, "web tls", "passwords and images cross the network in the clear", advice)


def _check_port(settings: Settings) -> Finding:
    wanted = settings.web
    where = f"{wanted.host} port {wanted.port}"
    runs, taken = stage_runs(settings, "web"), try_to_bind(wanted.host, wanted.port)
    if not taken:
        return Finding(State.OK, "web", f"{where} is free")
    if taken == errno.EADDRINUSE and runs is not False:
        return Finding(State.OK, "web", f"{where} is taken" + ("; medd's web pages run in this home" if runs else ""))
    # Images are received and scored without it.
    advice = "set web.port" if taken == errno.EADDRINUSE else "set web.host and web.port"
    return Finding(State.WARN, "web", f"{where}: {os.strerror(taken)}; medd will try again and again", advice)


def _check_administrators(settings: Settings) -> Finding:
    database = Database(settings.database_url)
    count = 0
    try:
        is_there = database.file is None or database.file.is_file()
        if is_there and databases.current_schema(database) == databases.SCHEMA:
            with database.read() as connection:
                count = count_administrators(connection)
    finally:
        database.close()
    if not count:
        advice = "medd users add NAME --role administrator"
        return Finding(State.WARN, "web login", "nobody is an administrator who can log in", advice)
    return Finding(State.OK, "web login", f"administrators who can log in: {count}")
