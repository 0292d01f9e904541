"""Which bundle is on duty for a classifier."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from medd.errors import ModelUnusable, SettingsError
from medd.hookspecs import ClassifierSpec
from medd.records import ModelChange, ModelEvent, ModelVersion, Role, is_storable
from medd.registry import bundle as bundles
from medd.store.database import Database
from medd.store.models import add_event, find_events, find_model, find_on_duty, lock_models, put_model, set_role

#: Who did what nobody asked for.
MEDD = "medd"


def find_spec(name: str, specs: Sequence[ClassifierSpec]) -> ClassifierSpec:
    """The classifier that ``[model] classifier`` names.

    Raises:
        SettingsError: No plugin brings it.
    """
    for spec in specs:
        if spec.name == name:
            return spec
    known = ", ".join(spec.name for spec in specs) or "none"
    raise SettingsError(f"model.classifier: no plugin brings {name!r}; there are: {known}")


def champion(database: Database, spec: ClassifierSpec) -> ModelVersion:
    """The model on duty; where none is, the one that the classifier's plugin ships goes on duty.

    Raises:
        ModelUnusable: There is neither, or the shipped one is broken.
        TransientError: The database is away.
    """
    with database.read() as connection:
        on_duty = find_on_duty(connection, spec.name).get(Role.CHAMPION)
    if spec.bundle is None:
        if on_duty is None:
            raise ModelUnusable(f"classifier {spec.name!r} has no model: its plugin ships none; train one")
        return on_duty
    try:
        shipped = _shipped(spec, spec.bundle)
    except ModelUnusable:
        if on_duty is None:
            raise
        return on_duty
    if on_duty is not None and on_duty.ref != shipped.ref:
        return on_duty
    if on_duty is None or on_duty.digest != shipped.digest:
        _put_shipped(database, shipped)
    # Where a plugin lies differs from host to host and after an upgrade: its own word goes before the database's.
    return shipped


def _put_shipped(database: Database, shipped: ModelVersion) -> None:
    now, classifier = datetime.now(UTC), shipped.classifier
    with database.write() as connection:
        lock_models(connection)
        put_model(connection, shipped, now)
        if Role.CHAMPION not in find_on_duty(connection, classifier):
            set_role(connection, shipped, Role.CHAMPION)
            why = "shipped with the plugin"
            add_event(connection, ModelEvent(now, classifier, shipped.ref, ModelChange.PROMOTED, MEDD, why, {}))


def champion_folder(database: Database, spec: ClassifierSpec) -> Path:
    """The folder of the model on duty; raises as `champion`."""
    return champion(database, spec).path


def line_of_duty(database: Database, spec: ClassifierSpec) -> list[ModelVersion]:
    """The champion, then those it replaced, the last one first, and in the end the shipped one.

    A worker that cannot load the first goes on with the next.

    Raises:
        ModelUnusable: There is none.
        TransientError: The database is away.
    """
    line = [champion(database, spec)]
    while (earlier := find_replaced(database, line[-1])) is not None and earlier.ref not in [one.ref for one in line]:
        line.append(earlier)
    if spec.bundle is not None:
        with suppress(ModelUnusable):
            shipped = _shipped(spec, spec.bundle)
            # The last one, and where the plugin lies now.
            line = [one for one in line if one.ref != shipped.ref or one is line[0]]
            line += [shipped] if line[0].ref != shipped.ref else []
    return line


def find_usable(database: Database, spec: ClassifierSpec) -> ModelVersion:
    """The first of the `line_of_duty` whose bundle is whole and the one that was registered.

    Raises:
        ModelUnusable: None is; the message is the champion's.
        TransientError: The database is away.
    """
    errors: list[ModelUnusable] = []
    for version in line_of_duty(database, spec):
        try:
            check(version)
        except ModelUnusable as error:
            errors.append(error)
        else:
            return version
    raise errors[0]


def find_replaced(database: Database, model: ModelVersion) -> ModelVersion | None:
    """The model that was on duty before this one was promoted; None where there was none."""
    with database.read() as connection:
        promoted = find_events(connection, model.classifier, model.ref, (ModelChange.PROMOTED,))
        ref = promoted[0].figures.get("replaced") if promoted else None
        return find_model(connection, ref) if ref else None


def set_aside(database: Database, model: ModelVersion, why: str) -> None:
    """Keep on record that a model cannot be used; its role is for people to change. Once, not at every start.

    Raises:
        TransientError: The database is away.
    """
    with database.write() as connection:
        events = find_events(connection, model.classifier, model.ref)
        if not events or events[0].what is not ModelChange.SET_ASIDE:
            now = datetime.now(UTC)
            add_event(connection, ModelEvent(now, model.classifier, model.ref, ModelChange.SET_ASIDE, MEDD, why, {}))


def check_text(*texts: str) -> None:
    """Refuse what a database would not take.

    Raises:
        SettingsError: A text is no UTF-8 or holds a NUL.
    """
    for text in texts:
        if not is_storable(text):
            raise SettingsError(f"text in UTF-8 without NUL is needed. Received: {text!r}")


def read_version(folder: Path, *, verify: bool = True) -> ModelVersion:
    """The bundle in a folder, as the registry would know it.

    Raises:
        ModelUnusable: It is broken.
    """
    bundle = bundles.read(folder, verify=verify)
    digest = bundles.description_digest(folder)
    return ModelVersion(bundle.name, bundle.version, bundle.classifier, digest, folder.absolute())


def check(model: ModelVersion) -> None:
    """See that a registered bundle is whole and the one that was registered.

    Raises:
        ModelUnusable: It is not.
    """
    found = read_version(model.path)
    if (found.ref, found.digest) != (model.ref, model.digest):
        raise ModelUnusable(
            f"{model.path}: altered since {model.ref} was registered. Received: {found.ref}, sha256 {found.digest}"
        )


def _shipped(spec: ClassifierSpec, folder: Path) -> ModelVersion:
    # Two plugins may ship the same bundle: whose model it is says the one that is asked.
    return replace(read_version(folder, verify=False), classifier=spec.name, path=folder, role=Role.CHAMPION)
