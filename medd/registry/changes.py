"""What people do to models: register, try in the shadow, promote, roll back. Every change with who, when and why.

::

    register ─▶ retired ──set_candidate──▶ candidate
                   ▲  ▲                     │   │
                   │  └──────withdraw───────┘   │
                   │                            ▼
                   └──replaced, rolled back── champion ◀──promote, roll back

A bundle is immutable: its digest is checked at each step, and a name and version stand for the same bytes for ever.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pluggy
from sqlalchemy import Connection

from medd import plugins
from medd.errors import GateRefused, ModelUnusable, SettingsError
from medd.hookspecs import ClassifierSpec
from medd.records import ModelChange, ModelEvent, ModelVersion, Role
from medd.registry.registry import check, check_text, find_replaced, read_version
from medd.store.database import Database
from medd.store.models import add_event, find_model, find_on_duty, lock_models, put_model, set_role


@dataclass(frozen=True, slots=True)
class Change:
    """By whom and why something is done; kept with the model for ever."""

    who: str
    why: str = ""
    #: The figures it was decided by, as JSON has them.
    figures: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_text(self.who, self.why)


def register(database: Database, folder: Path, specs: Sequence[ClassifierSpec], change: Change) -> ModelVersion:
    """Make a bundle known. It is not used until it is promoted or set as candidate.

    Raises:
        ModelUnusable: It is broken, or other bytes are known under its name and version.
        SettingsError: No plugin brings its classifier.
        TransientError: The database is away.
    """
    found = read_version(folder)
    if found.classifier not in [spec.name for spec in specs]:
        raise SettingsError(f"{found.ref}: no plugin brings its classifier. Received: {found.classifier!r}")
    with database.write() as connection:
        lock_models(connection)
        known = find_model(connection, found.ref)
        if known is not None and known.digest != found.digest:
            raise ModelUnusable(
                f"{found.ref}: a bundle is immutable, and another one of this name and version is known already, "
                f"in {known.path}. Received: {folder}"
            )
        if known is None or known.path != found.path:
            put_model(connection, found, datetime.now(UTC))
        if known is None:
            _record(connection, found, ModelChange.REGISTERED, change)
    return found


def set_candidate(database: Database, model: ModelVersion, change: Change) -> None:
    """Let a model score in the shadow: what it says is recorded and never shown. An earlier candidate is withdrawn.

    Raises:
        ModelUnusable: It is broken, or not what was registered.
        SettingsError: It is on duty.
        TransientError: The database is away.
    """
    check(model)
    with database.write() as connection:
        lock_models(connection)
        on_duty = find_on_duty(connection, model.classifier)
        if _is(on_duty.get(Role.CHAMPION), model):
            raise SettingsError(f"{model.ref}: is on duty already")
        earlier = on_duty.get(Role.CANDIDATE)
        if _is(earlier, model):
            return
        if earlier is not None:
            _record(connection, earlier, ModelChange.WITHDRAWN, Change(change.who, f"{model.ref} takes its place"))
        set_role(connection, model, Role.CANDIDATE)
        _record(connection, model, ModelChange.SET_CANDIDATE, change)


def withdraw(database: Database, classifier: str, change: Change) -> ModelVersion:
    """Take the candidate out of the shadow; returns it.

    Raises:
        SettingsError: There is none.
        TransientError: The database is away.
    """
    with database.write() as connection:
        lock_models(connection)
        candidate = find_on_duty(connection, classifier).get(Role.CANDIDATE)
        if candidate is None:
            raise SettingsError(f"classifier {classifier!r} has no candidate")
        set_role(connection, candidate, Role.RETIRED)
        _record(connection, candidate, ModelChange.WITHDRAWN, change)
        return candidate


def promote(
    database: Database,
    model: ModelVersion,
    manager: pluggy.PluginManager,
    change: Change,
    *,
    expected: str | None = None,
) -> None:
    """Put a model on duty, unless a plugin objects. Running workers take it between two batches.

    Args:
        database: Where.
        model: The model.
        manager: The plugins.
        change: By whom and why.
        expected: "name/version" of the only champion that it may replace.

    Raises:
        GateRefused: A plugin objects, or another champion is on duty than `expected`; that is kept on record.
        ModelUnusable: It is broken, or not what was registered.
        TransientError: The database is away.
    """
    check(model)
    with database.read() as connection:
        on_duty = find_on_duty(connection, model.classifier).get(Role.CHAMPION)
    if _is(on_duty, model):
        return
    if objections := plugins.review(manager, model, on_duty):
        why = "; ".join(objection.reason for objection in objections)
        refuse(database, model.classifier, model.ref, Change(change.who, why, change.figures))
        raise GateRefused(f"{model.ref}: refused: {why}")
    try:
        _put_on_duty(database, model, ModelChange.PROMOTED, change, expected)
    except GateRefused as error:
        refuse(database, model.classifier, model.ref, Change(change.who, str(error), change.figures))
        raise
    plugins.tell(manager, "model_promoted", model=model)


def rollback(database: Database, classifier: str, manager: pluggy.PluginManager, change: Change) -> ModelVersion:
    """Put the model on duty again that the champion replaced; returns it.

    Raises:
        SettingsError: The champion replaced none.
        GateRefused: Somebody has changed the champion meanwhile.
        ModelUnusable: That one is broken by now.
        TransientError: The database is away.
    """
    with database.read() as connection:
        on_duty = find_on_duty(connection, classifier).get(Role.CHAMPION)
    earlier = find_replaced(database, on_duty) if on_duty else None
    if earlier is None:
        raise SettingsError(f"classifier {classifier!r}: nothing to go back to; the model on duty replaced none")
    check(earlier)
    _put_on_duty(database, earlier, ModelChange.ROLLED_BACK, change, expected=on_duty.ref if on_duty else None)
    plugins.tell(manager, "model_promoted", model=earlier)
    return earlier


def refuse(database: Database, classifier: str, ref: str, change: Change) -> None:
    """Keep on record that a model was not promoted, and why.

    Args:
        database: Where.
        classifier: Whose model it is.
        ref: "name/version"; "" where a retraining was refused before there was one.
        change: By whom and why.

    Raises:
        TransientError: The database is away.
    """
    now = datetime.now(UTC)
    with database.write() as connection:
        event = ModelEvent(now, classifier, ref, ModelChange.REFUSED, change.who, change.why, change.figures)
        add_event(connection, event)


def _put_on_duty(
    database: Database, model: ModelVersion, what: ModelChange, change: Change, expected: str | None = None
) -> None:
    with database.write() as connection:
        lock_models(connection)
        replaced = find_on_duty(connection, model.classifier).get(Role.CHAMPION)
        if _is(replaced, model):  # somebody else was faster: on record it must not replace itself
            return
        if expected is not None and (replaced is None or replaced.ref != expected):
            on_duty = replaced.ref if replaced else "none"
            raise GateRefused(f"{model.ref}: was to replace {expected}, which is not on duty. Received: {on_duty}")
        set_role(connection, model, Role.CHAMPION)
        figures = {**change.figures, "replaced": replaced.ref if replaced else None}
        _record(connection, model, what, Change(change.who, change.why, figures))


def _is(one: ModelVersion | None, other: ModelVersion) -> bool:
    return one is not None and one.ref == other.ref


def _record(connection: Connection, model: ModelVersion, what: ModelChange, change: Change) -> None:
    now = datetime.now(UTC)
    event = ModelEvent(now, model.classifier, model.ref, what, change.who, change.why, change.figures)
    add_event(connection, event)
