"""``medd results`` and ``medd worklist``."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from medd.cli.common import Config, Format, Home, parse_since, write_rows
from medd.records import Status

_SHOWN = ("received_at status label probability reason patient_id study_instance_uid origin model").split()
_WORKLIST = (
    "received_at study_instance_uid patient_id accession_number origin images status label positive "
    "probability threshold reason model place"
).split()
_WORKLIST_SHOWN = (
    "place status label probability reason patient_id accession_number images received_at origin"
).split()
#: The keys of a row in JSON, in an order that people may rely on.
_WORKLIST_KEYS = (
    "study_instance_uid patient_id accession_number received_at images status reason label positive probability "
    "threshold model origin place"
).split()


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
    show_all: Annotated[bool, typer.Option("--all", help="Also those that were read, after the others.")] = False,
    style: Annotated[Format, typer.Option("--format", help="The form.")] = Format.TABLE,
    home: Home = None,
    config: Config = None,
) -> None:
    """Show the studies that nobody has read, most urgent first.

    What waits longer than worklist.max_wait_min goes first; then findings, then what nobody judged, then what scored
    below the threshold. The column place says why a study stands where it stands.
    """
    from medd import DISCLAIMER, pipeline, settings
    from medd.store.studies import WorklistFilter, find_worklist
    from medd.store.urgency import label_of

    wanted = WorklistFilter(parse_since(since), read=None if show_all else False)
    loaded = settings.load(home, config)
    database = pipeline.open_existing_database(loaded)
    with database.read() as connection:
        found = find_worklist(connection, wanted, datetime.now(UTC), loaded.worklist.max_wait, limit)
    rows = ({name: row[name] for name in _WORKLIST_KEYS} | {"label": label_of(row)} for row in found)
    write_rows(rows, _WORKLIST, style, _WORKLIST_SHOWN)
    if style is Format.TABLE:
        print(DISCLAIMER)
