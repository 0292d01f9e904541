"""Model versions, their roles, and the history of what was done to them."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from medd.records import ModelChange, ModelEvent, ModelVersion, Role
from medd.store.tables import model_event, model_version


def lock_models(connection: Connection) -> None:
    """Let nobody else change a role until this transaction ends. On SQLite whoever writes is alone anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("LOCK TABLE model_version IN SHARE ROW EXCLUSIVE MODE"))


def find_model(connection: Connection, ref: str) -> ModelVersion | None:
    """The model version that results name so: "name/version"."""
    name, _, version = ref.partition("/")
    rows = model_version.select().where(model_version.c.name == name, model_version.c.version == version)
    row = connection.execute(rows).first()
    return None if row is None else _model(row)


def find_models(connection: Connection, classifier: str | None = None) -> list[ModelVersion]:
    """Every model version, of one classifier or of all, in the order in which they were registered."""
    rows = model_version.select().order_by(model_version.c.id)
    if classifier is not None:
        rows = rows.where(model_version.c.classifier == classifier)
    return [_model(row) for row in connection.execute(rows)]


def find_on_duty(connection: Connection, classifier: str) -> dict[Role, ModelVersion]:
    """The champion and the candidate of a classifier, where there is one."""
    used = model_version.c.role.in_((Role.CHAMPION, Role.CANDIDATE))
    rows = connection.execute(model_version.select().where(model_version.c.classifier == classifier, used))
    return {(found := _model(row)).role: found for row in rows}


def put_model(connection: Connection, model: ModelVersion, now: datetime) -> None:
    """Register a model version, or say anew where it lies; its role stays."""
    known = find_model(connection, model.ref)
    where = {"classifier": model.classifier, "digest": model.digest, "path": str(model.path)}
    if known is not None:
        connection.execute(_of(model).values(**where))
        return
    values = {"name": model.name, "version": model.version, "role": Role.RETIRED, "created_at": now}
    connection.execute(model_version.insert().values(**values, **where))


def set_role(connection: Connection, model: ModelVersion, role: Role) -> None:
    """Give a model version a role; whoever had that one for its classifier retires."""
    if role is not Role.RETIRED:
        holder = model_version.update().where(
            model_version.c.classifier == model.classifier, model_version.c.role == role
        )
        connection.execute(holder.values(role=Role.RETIRED))
    connection.execute(_of(model).values(role=role))


def _of(model: ModelVersion) -> sa.Update:
    return model_version.update().where(model_version.c.name == model.name, model_version.c.version == model.version)


def add_event(connection: Connection, event: ModelEvent) -> None:
    """Keep what was done, for ever."""
    values = {name: getattr(event, name) for name in ("at", "classifier", "model", "what", "who", "why")}
    connection.execute(model_event.insert().values(**values, figures=dict(event.figures)))


def find_events(
    connection: Connection, classifier: str, model: str | None = None, kinds: Sequence[ModelChange] = ()
) -> list[ModelEvent]:
    """What was done to the models of a classifier, newest first.

    Args:
        connection: The database.
        classifier: Whose.
        model: Only this one, "name/version".
        kinds: Only these; all of them when empty.
    """
    rows = model_event.select().where(model_event.c.classifier == classifier).order_by(model_event.c.id.desc())
    if model is not None:
        rows = rows.where(model_event.c.model == model)
    if kinds:
        rows = rows.where(model_event.c.what.in_(kinds))
    return [_event(row) for row in connection.execute(rows)]


def _model(row: Any) -> ModelVersion:
    return ModelVersion(row.name, row.version, row.classifier, row.digest, Path(row.path), Role(row.role))


def _event(row: Any) -> ModelEvent:
    return ModelEvent(row.at, row.classifier, row.model, ModelChange(row.what), row.who, row.why, row.figures)
