"""``medd models`` and ``medd rescore``."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from medd.cli.common import Config, Format, Home, parse_since, user_name, write_rows
from medd.errors import SettingsError

if TYPE_CHECKING:
    from medd.classify.desk import ModelDesk

app = typer.Typer(no_args_is_help=True)

Wanted = Annotated[
    str, typer.Argument(metavar="MODEL", help="NAME/VERSION, a bundle's folder, or its name in HOME/models.")
]
Why = Annotated[str, typer.Option(help="Kept with the change for ever.")]
Who = Annotated[str | None, typer.Option(help="Who does it.  [default: your user name]")]

_LIST = ("model", "role", "created_at", "threshold", "accuracy", "auroc", "path", "digest", "unusable")
_LIST_SHOWN = ("model", "role", "created_at", "accuracy", "auroc", "path", "unusable")
_EVENTS = ("at", "what", "model", "who", "why", "figures")


@app.command("list")
def list_models(
    style: Annotated[Format, typer.Option("--format", help="The form.")] = Format.TABLE,
    home: Home = None,
    config: Config = None,
) -> None:
    """Show the models that are known, their roles, and what was measured when they were made."""
    write_rows(_desk(home, config).rows(), _LIST, style, _LIST_SHOWN)


@app.command()
def show(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Only this one's history.")] = None,
    style: Annotated[Format, typer.Option("--format", help="The form.")] = Format.TABLE,
    home: Home = None,
    config: Config = None,
) -> None:
    """Show what was done to models, newest first: by whom, when and why, and the figures it was decided by."""
    from dataclasses import asdict

    from medd.registry.registry import check_text
    from medd.store.models import find_events

    check_text(model or "")
    desk = _desk(home, config)
    with desk.database.read() as connection:
        events = find_events(connection, desk.spec.name, model)
        if model is not None and not events:
            raise SettingsError(f"no model of this name and version is known. Received: {model}")
    rows: list[dict[str, Any]] = [asdict(event) | {"what": str(event.what)} for event in events]
    write_rows(rows, _EVENTS, style, _EVENTS[:5])


@app.command()
def register(model: Wanted, why: Why = "", who: Who = None, home: Home = None, config: Config = None) -> None:
    """Make a bundle known without using it."""
    found = _desk(home, config).find(model, who or user_name(), why)
    print(f"{found.ref} is known")


@app.command()
def promote(model: Wanted, why: Why = "", who: Who = None, home: Home = None, config: Config = None) -> None:
    """Put a model on duty, after a trial. A running daemon takes it between two batches."""
    print(f"{_desk(home, config).promote(model, who or user_name(), why).ref} is on duty")


@app.command()
def rollback(why: Why = "", who: Who = None, home: Home = None, config: Config = None) -> None:
    """Put the model on duty again that the present one replaced."""
    from medd.registry import changes

    desk = _desk(home, config)
    earlier = changes.rollback(desk.database, desk.spec.name, desk.manager, changes.Change(who or user_name(), why))
    print(f"{earlier.ref} is on duty")


@app.command()
def candidate(model: Wanted, why: Why = "", who: Who = None, home: Home = None, config: Config = None) -> None:
    """Let a model score in the shadow of the one on duty: recorded, never shown."""
    from medd.registry import changes

    desk = _desk(home, config)
    by = changes.Change(who or user_name(), why)
    found = desk.find(model, by.who, why)
    desk.try_out(found)
    changes.set_candidate(desk.database, found, by)
    print(f"{found.ref} scores in the shadow")


@app.command()
def withdraw(why: Why = "", who: Who = None, home: Home = None, config: Config = None) -> None:
    """Take the candidate out of the shadow."""
    from medd.registry import changes

    desk = _desk(home, config)
    found = changes.withdraw(desk.database, desk.spec.name, changes.Change(who or user_name(), why))
    print(f"{found.ref} is withdrawn")


def rescore(
    since: Annotated[str, typer.Option(help="Received since: 30m, 24h, 7d, or an ISO 8601 time; else all.")] = "",
    home: Home = None,
    config: Config = None,
) -> None:
    """Put history into the queue again for the model on duty, behind what comes in live. What it has scored stays."""
    from medd.queue.base import CLASSIFY
    from medd.queue.sql import SqlQueue

    moment = parse_since(since) if since else None
    desk = _desk(home, config)
    model = desk.champion()
    count = SqlQueue(desk.database).rescore(CLASSIFY, model.ref, moment)
    print(f"{count} back in the queue for {model.ref}")


def _desk(home: Any, config: Any) -> "ModelDesk":
    from medd import pipeline, settings

    return pipeline.open_models(settings.load(home, config))
