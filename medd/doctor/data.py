"""What the daemon works with: settings, plugins, database, models."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from medd import pipeline, plugins
from medd.classify.classifier import load, prepare
from medd.deliver.build import build_destinations
from medd.dicom import samples
from medd.dicom.peers import known_peers
from medd.doctor.finding import Finding, State
from medd.doctor.host import WARN_CLOCK_S
from medd.errors import ModelError, PluginError, SchemaOutOfDate, SettingsError
from medd.hookspecs import ClassifierSpec
from medd.records import ModelVersion, Role
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
    """Whether the models in use are, byte for byte, those that were registered, and can score."""
    specs = plugins.classifiers(pipeline.load_plugins(settings))
    spec = registry.find_spec(settings.model.classifier, specs)
    database = Database(settings.database_url)
    try:
        is_there = database.file is None or database.file.is_file()
        schema = databases.current_schema(database) if is_there else None
        if schema is not None and schema != databases.SCHEMA:
            found = f"which is on duty cannot be told from schema {schema}"
            yield Finding(State.WARN, "model", found, "mend the database, then look again")
            return
        on_duty = {}
        if schema is not None:
            with database.read() as connection:
                on_duty = find_on_duty(connection, spec.name)
    finally:
        database.close()
    if Role.CHAMPION not in on_duty:
        yield _try_shipped(spec, specs)
    for role, model in sorted(on_duty.items()):
        yield _try_registered(role, model, specs)


def _try_shipped(spec: ClassifierSpec, specs: Sequence[ClassifierSpec]) -> Finding:
    if spec.bundle is None:
        return Finding(State.FAIL, "model", f"{spec.name}: none on duty, and none shipped", "train one: medd train")
    try:
        bundle = bundles.read(spec.bundle)
        _score(spec.bundle, specs)
    except (ModelError, PluginError) as error:
        return Finding(State.FAIL, "model", str(error), "install medd, or the plugin, and what it needs again")
    found = f"{bundle.ref}, as shipped: {len(bundle.files)} files have their digests; a film was scored"
    return Finding(State.OK, "model", found)


def _try_registered(role: Role, model: ModelVersion, specs: Sequence[ClassifierSpec]) -> Finding:
    # Without its champion a worker goes on with the one before; a candidate is nobody's result.
    state, name = State.FAIL if role is Role.CHAMPION else State.WARN, f"model {role}"
    try:
        registry.check(model)
    except ModelError as error:
        return Finding(state, name, str(error), "restore the bundle from its back-up, or: medd models rollback")
    try:
        _score(model.path, specs)
    except (ModelError, PluginError) as error:
        return Finding(state, name, str(error), "install what it runs on again, or: medd models rollback")
    return Finding(State.OK, name, f"{model.ref}: sha256 {model.digest[:16]}… verified; a film was scored")


def _score(folder: Path, specs: Sequence[ClassifierSpec]) -> None:
    """Do with a drawn film what a worker does; that the model may find it unlike a radiograph is fine.

    Raises:
        ModelUnusable: The model cannot be loaded, or fails on the film.
        PluginError: No plugin brings its classifier, or what it names is not there.
    """
    model = load(folder, specs, threads=1)
    model.judge([prepare(samples.expected(), model.bundle.preprocess)], [0])
