"""What the daemon works with: settings, plugins, database, models."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from medd import pipeline, plugins
from medd.deliver.build import build_destinations
from medd.dicom.peers import known_peers
from medd.doctor.finding import Finding, State
from medd.doctor.host import WARN_CLOCK_S
from medd.errors import MeddError, SchemaOutOfDate, SettingsError
from medd.records import Role
from medd.registry import bundle as bundles
from medd.registry import registry
from medd.settings import Settings
from medd.store import database as databases
from medd.store.database import Database
from medd.store.models import find_on_duty
from medd.store.tables import UtcDateTime, instance


def check_settings(settings: Settings) -> Iterator[Finding]:
    """Whether what the settings name fits together; that they can be read shows in our being here."""
    build_destinations(settings, plugins.destinations(pipeline.load_plugins(settings)))
    known = {*known_peers(settings), *(server.name for server in settings.dicomweb)}
    if unknown := sorted({pull.source for pull in settings.pull} - known):
        raise SettingsError(f"pull.source: no [[peer]] or [[dicomweb]] of this name. Received: {', '.join(unknown)}")
    if settings.retrain.data and not settings.under_home(Path(settings.retrain.data)).exists():
        found = f"retrain.data: {settings.under_home(Path(settings.retrain.data))} is not there"
        yield Finding(State.WARN, "settings", found, "medd retrain will refuse: set it right, or mount it")
    counts = (
        f"{len(settings.inbox)} inboxes, {len(settings.destination)} destinations, "
        f"{len(settings.peer)} peers, {len(settings.dicomweb)} DICOMweb servers"
    )
    yield Finding(State.OK, "settings", f"valid: {counts}")


def check_plugins(settings: Settings) -> Iterator[Finding]:
    """Whether all plugins load, and one brings the classifier."""
    manager = pipeline.load_plugins(settings)
    specs = plugins.classifiers(manager)
    registry.find_spec(settings.model.classifier, specs)
    found = f"{len(manager.get_plugins())} loaded; classifiers: {', '.join(spec.name for spec in specs)}"
    yield Finding(State.OK, "plugins", found)


def check_database(settings: Settings) -> Iterator[Finding]:
    """Whether the database answers, fits this program, and shares our time."""
    database = Database(settings.database_url)
    try:
        if database.file is not None and not database.file.is_file():
            yield Finding(State.OK, "database", f"{database.file} is made at the first start")
            return
        kind = "SQLite" if database.is_sqlite else "PostgreSQL"
        found = databases.current_schema(database)
        try:
            databases.check_schema(database, create=False)
        except SchemaOutOfDate as error:
            if found is None:
                yield Finding(State.OK, "database", f"{kind} answers; empty: the schema is made at the first start")
            else:
                yield Finding(State.FAIL, "database", f"{kind} answers; {error}", "medd db upgrade")
            return
        yield Finding(State.OK, "database", f"{kind} answers; schema {found} is current")
        yield from _compare_clocks(database)
    finally:
        database.close()


def _compare_clocks(database: Database) -> Iterator[Finding]:
    with database.read() as connection:
        newest = connection.scalar(sa.select(sa.func.max(instance.c.received_at, type_=UtcDateTime)))
        theirs = None if database.is_sqlite else connection.scalar(sa.text("SELECT clock_timestamp()"))
    now = datetime.now(UTC)
    if theirs is not None:
        apart = (theirs - now).total_seconds()
        found = f"the database server's differs by {apart:+.1f} s"
        if abs(apart) > WARN_CLOCK_S:
            yield Finding(State.WARN, "clock database", found, "synchronise the clocks of both hosts (NTP)")
        else:
            yield Finding(State.OK, "clock database", found)
    if newest is not None and (ahead := (newest - now).total_seconds()) > WARN_CLOCK_S:
        found = f"the newest image was received {ahead:.0f} s from now"
        yield Finding(State.WARN, "clock history", found, "the clock was put back, or was wrong then: check NTP")


def check_models(settings: Settings) -> Iterator[Finding]:
    """Whether the models in use are, byte for byte, those that were registered."""
    spec = registry.find_spec(settings.model.classifier, plugins.classifiers(pipeline.load_plugins(settings)))
    database = Database(settings.database_url)
    try:
        is_there = database.file is None or database.file.is_file()
        on_duty = {}
        if is_there and databases.current_schema(database) == databases.SCHEMA:
            with database.read() as connection:
                on_duty = find_on_duty(connection, spec.name)
    finally:
        database.close()
    if Role.CHAMPION not in on_duty:
        if spec.bundle is None:
            yield Finding(State.FAIL, "model", f"{spec.name}: none on duty, and none shipped", "train one: medd train")
            return
        bundle = bundles.read(spec.bundle)
        yield Finding(State.OK, "model", f"{bundle.ref}, as shipped: {len(bundle.files)} files have their digests")
    for role, model in sorted(on_duty.items()):
        try:
            registry.check(model)
        except MeddError as error:
            # Without its champion a worker goes on with the one before; a candidate is nobody's result.
            state = State.FAIL if role is Role.CHAMPION else State.WARN
            advice = "restore the bundle from its back-up, or: medd models rollback"
            yield Finding(state, f"model {role}", str(error), advice)
        else:
            yield Finding(State.OK, f"model {role}", f"{model.ref}: sha256 {model.digest[:16]}… verified")
