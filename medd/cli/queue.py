"""``medd queue``."""

from typing import Annotated

import typer

from medd.cli.common import Config, Format, Home, write_rows

app = typer.Typer(no_args_is_help=True)

_DEAD = ("id", "kind", "instance_id", "sop_instance_uid", "attempts", "error")


@app.command()
def status(
    style: Annotated[Format, typer.Option("--format", help="The form.")] = Format.TABLE,
    home: Home = None,
    config: Config = None,
) -> None:
    """Show how many jobs wait, run, are done, are dead."""
    from medd import pipeline, settings
    from medd.queue.base import CLASSIFY
    from medd.queue.sql import SqlQueue

    database = pipeline.open_existing_database(settings.load(home, config))
    counts = SqlQueue(database).counts(CLASSIFY)
    rows = [{"kind": CLASSIFY, "state": str(state), "jobs": count} for state, count in counts.items()]
    write_rows(rows, ("kind", "state", "jobs"), style, ("kind", "state", "jobs"))


@app.command("list")
def list_dead(
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    style: Annotated[Format, typer.Option("--format", help="The form.")] = Format.TABLE,
    home: Home = None,
    config: Config = None,
) -> None:
    """Show the dead jobs and why they died."""
    from medd import pipeline, settings
    from medd.store import repository

    database = pipeline.open_existing_database(settings.load(home, config))
    with database.read() as connection:
        write_rows(repository.list_dead(connection, limit), _DEAD, style, _DEAD)


@app.command()
def retry(
    instances: Annotated[list[int] | None, typer.Argument(help="Instance ids; all dead jobs without any.")] = None,
    home: Home = None,
    config: Config = None,
) -> None:
    """Bring dead jobs back into the queue."""
    from medd import pipeline, settings
    from medd.queue.base import CLASSIFY
    from medd.queue.sql import SqlQueue

    database = pipeline.open_existing_database(settings.load(home, config))
    count = SqlQueue(database).revive(CLASSIFY, instances)
    print(f"{count} back in the queue")
