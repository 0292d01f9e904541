"""``medd results`` and ``medd worklist``."""

from typing import Annotated

import typer

from medd.cli.common import Config, Format, Home, parse_since, write_rows
from medd.records import Status

_SHOWN = ("received_at status label probability reason patient_id study_instance_uid origin model").split()
_WORKLIST = (
    "received_at study_instance_uid patient_id accession_number origin images status label positive "
    "probability threshold reason model"
).split()
_WORKLIST_SHOWN = ("status label probability reason patient_id accession_number images received_at origin").split()


def results(
    since: Annotated[str, typer.Option(help="Received since: 30m, 24h, 7d, or an ISO 8601 time.")] = "",
    label: Annotated[str | None, typer.Option(help="Only this label.")] = None,
    min_probability: Annotated[float | None, typer.Option(min=0, max=1, help="At least this probability.")] = None,
    patient: Annotated[str | None, typer.Option(help="Only this Patient ID.")] = None,
    study: Annotated[str | None, typer.Option(help="Only this Study Instance UID.")] = None,
    status: Annotated[Status | None, typer.Option(help="Only this status.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many, the newest.")] = None,
    style: Annotated[Format, typer.Option("--format", help="The form.")] = Format.TABLE,
    home: Home = None,
    config: Config = None,
) -> None:
    """Show what was received and what the model said of it, newest first."""
    from medd import pipeline, settings
    from medd.store.repository import RESULT_COLUMNS, ResultFilter, find_results

    moment = parse_since(since) if since else None
    wanted = ResultFilter(moment, label, min_probability, patient, study, status, limit)
    database = pipeline.open_existing_database(settings.load(home, config))
    with database.read() as connection:
        write_rows(find_results(connection, wanted), RESULT_COLUMNS, style, _SHOWN)


def worklist(
    since: Annotated[str, typer.Option(help="Received since: 30m, 24h, 7d, or an ISO 8601 time.")] = "24h",
    limit: Annotated[int, typer.Option(min=1, help="At most so many studies.")] = 100,
    style: Annotated[Format, typer.Option("--format", help="The form.")] = Format.TABLE,
    home: Home = None,
    config: Config = None,
) -> None:
    """Show the studies, most urgent first: findings, then what nobody judged, then what scored below the threshold."""
    from medd import DISCLAIMER, pipeline, settings
    from medd.store.repository import find_worklist

    moment = parse_since(since)
    database = pipeline.open_existing_database(settings.load(home, config))
    with database.read() as connection:
        write_rows(find_worklist(connection, moment, limit), _WORKLIST, style, _WORKLIST_SHOWN)
    if style is Format.TABLE:
        print(DISCLAIMER)
