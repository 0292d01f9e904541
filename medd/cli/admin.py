"""``medd plugins``, ``medd config`` and ``medd db``."""

from pathlib import Path
from typing import Annotated

import typer

from medd.cli.common import Config, Format, Home, write_rows

config = typer.Typer(no_args_is_help=True)
db = typer.Typer(no_args_is_help=True)


def plugins(
    style: Annotated[Format, typer.Option("--format", help="The form.")] = Format.TABLE,
    home: Home = None,
    config: Config = None,
) -> None:
    """Show the plugins, the hooks they implement and the classifiers they bring."""
    from medd import pipeline, settings
    from medd.plugins import describe

    columns = ("plugin", "hooks", "classifiers")
    write_rows(describe(pipeline.load_plugins(settings.load(home, config))), columns, style, columns)


@config.command()
def show(
    style: Annotated[Format, typer.Option("--format", help="The form.")] = Format.TABLE,
    home: Home = None,
    config: Config = None,
) -> None:
    """Show the settings in force, wherever they come from."""
    from medd import settings

    rows = [{"key": key, "value": value} for key, value in settings.flatten(settings.load(home, config)).items()]
    write_rows(rows, ("key", "value"), style, ("key", "value"))


@config.command()
def check(home: Home = None, config: Config = None) -> None:
    """Check settings and plugins, and start nothing."""
    from medd import pipeline, settings
    from medd.plugins import classifiers
    from medd.registry.registry import find_spec

    loaded = settings.load(home, config)
    find_spec(loaded.model.classifier, classifiers(pipeline.load_plugins(loaded)))
    print("settings and plugins are good")


@db.command()
def upgrade(home: Home = None, config: Config = None) -> None:
    """Bring the database's schema up to this version of medd."""
    from medd import pipeline, settings
    from medd.store import database

    loaded = settings.load(home, config)
    pipeline.make_home(loaded)
    opened = database.Database(loaded.database_url)
    database.upgrade(opened)
    print(f"schema {database.current_schema(opened)}")


@db.command("check")
def check_db(home: Home = None, config: Config = None) -> None:
    """Check that the database's schema fits this version of medd."""
    from medd import pipeline, settings
    from medd.store import database

    opened = pipeline.open_existing_database(settings.load(home, config))
    print(f"schema {database.current_schema(opened)}")


@db.command()
def backup(
    file: Annotated[Path, typer.Argument(help="The copy; what was there is replaced when the new one is complete.")],
    home: Home = None,
    config: Config = None,
) -> None:
    """Copy a SQLite database while the daemon runs. Copy the spool after it, not before: see docs/operations.md."""
    from medd import pipeline, settings
    from medd.store.backup import back_up

    size = back_up(pipeline.open_existing_database(settings.load(home, config)), file.absolute())
    print(f"{file}: {size / (1 << 20):.1f} MiB")
