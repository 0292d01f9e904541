"""``medd reconcile``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from medd.cli.common import Config, Home, parse_since, write_rows
from medd.cli.common import Format as RowsFormat
from medd.cli.load import Form

_COLUMNS = ("check", "looked_at", "found", "mended", "left")


def reconcile(
    journal: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of medd load: what was answered 0x0000 has to be here.")
    ] = None,
    mend: Annotated[bool, typer.Option("--mend", help="Mend what can be mended.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read every file and hold it against its digest.")] = False,
    told_since: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="What was received since has to be told of to every destination.  [default: since each is known]",
        ),
    ] = "",
    young_s: Annotated[float, typer.Option(min=0, help="A file so young may be on its way, and needs no row.")] = 600.0,
    style: Annotated[Form, typer.Option("--format", help="The form.")] = Form.TABLE,
    home: Home = None,
    config: Config = None,
) -> None:
    """Hold database and spool against each other: each row has its file, each image its job, result and deliveries.

    Safe beside a running daemon. Exit code 0: all is as it should be, or was mended; 1: something is not.
    """
    from medd import pipeline, settings
    from medd.reconcile import Scope
    from medd.reconcile import reconcile as run

    loaded = settings.load(home, config)
    database = pipeline.open_existing_database(loaded)
    spool = pipeline.open_spool(loaded)
    intake = pipeline.build_intake(loaded, database) if mend else None
    scope = Scope(
        database,
        spool,
        pipeline.outbox_of(loaded, spool),
        intake,
        verify=verify,
        young_s=young_s,
        lease_s=max(loaded.worker.lease_s, loaded.deliver.lease_s) + 60,
        told_since=parse_since(told_since, "--told-since") if told_since else None,
    )
    rows, left = [], 0
    for check in run(scope, journal):
        numbers = {name: getattr(check, name) for name in _COLUMNS[1:]}
        rows.append({"check": check.name, **numbers, "examples": check.examples})
        left += check.left
    if style is Form.JSON:
        print(json.dumps({"clean": left == 0, "left": left, "checks": rows}, indent=2))
    else:
        write_rows(rows, _COLUMNS, RowsFormat.TABLE, _COLUMNS)
        for row in rows:
            for example in row["examples"]:
                print(f"{row['check']}: {example}")
    raise typer.Exit(1 if left else 0)
