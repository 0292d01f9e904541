"""``medd doctor``."""

from typing import Annotated

import typer

from medd.cli.common import Config, Format, Home, write_rows

_COLUMNS = ("state", "name", "found", "advice")


def doctor(
    style: Annotated[Format, typer.Option("--format", help="The form.")] = Format.TABLE,
    home: Home = None,
    config: Config = None,
) -> None:
    """Check whatever the daemon needs: decoders, peers, disk, clock, certificates, model, database and more.

    One line each: OK, WARN or FAIL, what was found, and what to do. Exit code 0: nothing fails; 1: something does.
    """
    from dataclasses import asdict

    from medd import settings
    from medd.doctor import State, examine

    failed = 0
    rows = []
    for finding in examine(settings.load(home, config)):
        failed += finding.state is State.FAIL
        if style is Format.TABLE:  # at once, as a peer may take its time; and one line, however long
            advice = f" -> {finding.advice}" if finding.advice else ""
            line = " ".join(f"{finding.found}{advice}".split())
            print(f"{finding.state:4}  {finding.name:32}  {line}", flush=True)
        rows.append(asdict(finding))
    if style is not Format.TABLE:
        write_rows(rows, _COLUMNS, style, _COLUMNS)
    raise typer.Exit(1 if failed else 0)
