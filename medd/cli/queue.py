"""``medd queue``."""

from typing import Annotated

import typer

from medd.cli.common import Config, Format, Home, write_rows

app = typer.Typer(no_args_is_help=True)

_DEAD = ("kind", "id", "instance_id", "sop_instance_uid", "study", "destination", "attempts", "error")


@app.command()
def status(
    style: Annotated[Format, typer.Option("--format", help="The form.")] = Format.TABLE,
    home: Home = None,
    config: Config = None,
) -> None:
    """Show how many jobs wait, run, are done, are dead: images to score, studies to deliver."""
    from medd import pipeline, settings
    from medd.queue.base import CLASSIFY, DELIVER
    from medd.queue.sql import SqlQueue
    from medd.store.outbox import count_deliveries

    database = pipeline.open_existing_database(settings.load(home, config))
    rows = [
        {"kind": CLASSIFY, "state": str(state), "jobs": count}
        for state, count in SqlQueue(database).counts(CLASSIFY).items()
    ]
    with database.read() as connection:
        deliveries = count_deliveries(connection)
    rows += [{"kind": DELIVER, "state": str(state), "jobs": count} for state, count in deliveries.items()]
    write_rows(rows, ("kind", "state", "jobs"), style, ("kind", "state", "jobs"))


@app.command("list")
def list_dead(
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    style: Annotated[Format, typer.Option("--format", help="The form.")] = Format.TABLE,
    home: Home = None,
    config: Config = None,
) -> None:
    """Show the dead jobs and deliveries, and why they died."""
    from itertools import chain

    from medd import pipeline, settings
    from medd.queue.base import DELIVER
    from medd.store import outbox, repository

    database = pipeline.open_existing_database(settings.load(home, config))
    with database.read() as connection:
        deliveries = ({"kind": DELIVER, **row} for row in outbox.list_dead_deliveries(connection, limit))
        write_rows(chain(repository.list_dead(connection, limit), deliveries), _DEAD, style, _DEAD)


@app.command()
def retry(
    instances: Annotated[list[int] | None, typer.Argument(help="Instance ids; all that is dead without any.")] = None,
    delivery: Annotated[list[int] | None, typer.Option(help="A delivery's id; repeat it for more.")] = None,
    home: Home = None,
    config: Config = None,
) -> None:
    """Bring dead jobs and deliveries back into the queue."""
    from medd import pipeline, settings
    from medd.queue.base import CLASSIFY
    from medd.queue.sql import SqlQueue
    from medd.store.outbox import Deliveries

    database = pipeline.open_existing_database(settings.load(home, config))
    every = not instances and not delivery
    count = SqlQueue(database).revive(CLASSIFY, instances or None) if instances or every else 0
    count += Deliveries(database).revive(delivery or None) if delivery or every else 0
    print(f"{count} back in the queue")
