"""``medd explain``."""

from typing import Annotated

import typer

from medd.cli.common import Config, Format, Home, write_rows

_COLUMNS = ("at", "what", "instance_id", "told", "facts")


def explain(
    uid: Annotated[str, typer.Argument(metavar="UID", help="Study or SOP Instance UID; or SHA-256, or instance id.")],
    style: Annotated[Format, typer.Option("--format", help="The form.")] = Format.TABLE,
    home: Home = None,
    config: Config = None,
) -> None:
    """Show every step of a case: received from whom, scored by which model, delivered to whom, and their answer.

    A study is shown with all its images, an image with what became of its study.
    """
    from dataclasses import asdict

    from medd import DISCLAIMER, pipeline, settings
    from medd.store.trail import find_case, find_steps

    database = pipeline.open_existing_database(settings.load(home, config))
    with database.read() as connection:
        steps = find_steps(connection, find_case(connection, uid))
    write_rows((asdict(step) for step in steps), _COLUMNS, style, _COLUMNS[:4])
    if style is Format.TABLE:
        print(DISCLAIMER)
