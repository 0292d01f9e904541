"""``medd pull``."""

import sys
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medd.cli.common import Config, Format, Home, write_rows
from medd.errors import MeddError, SettingsError

if TYPE_CHECKING:
    from medd.ingest.pull import Outcome

_SHOWN = "study_date modalities state images failed accession_number patient_id study_instance_uid error".split()


def pull(
    name: Annotated[str, typer.Option("--from", metavar="NAME", help="A peer, destination or DICOMweb server.")],
    dates: Annotated[str, typer.Option("--date", help="Study date: YYYYMMDD or YYYYMMDD-YYYYMMDD.")] = "",
    days: Annotated[int | None, typer.Option(min=1, help="Instead: so many days back, today included.")] = None,
    modality: Annotated[list[str] | None, typer.Option(help="Only such series; repeatable.  [default: CR, DX]")] = None,
    patient: Annotated[str, typer.Option(help="Only this Patient ID.")] = "",
    accession: Annotated[str, typer.Option(help="Only this Accession Number.")] = "",
    study: Annotated[str, typer.Option(metavar="UID", help="Only this Study Instance UID.")] = "",
    limit: Annotated[int, typer.Option(min=0, help="Studies at most, the newest; 0 sets no limit.")] = 0,
    rate: Annotated[float, typer.Option(min=0, help="Studies a minute at most; 0 sets no limit.")] = 0,
    again: Annotated[bool, typer.Option("--again", help="Fetch also what was fetched before.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be fetched, and fetch nothing.")] = False,
    style: Annotated[Format, typer.Option("--format", help="The form.")] = Format.TABLE,
    home: Home = None,
    config: Config = None,
) -> None:
    """Fetch studies from an archive, each once: what was stopped goes on, what failed is asked for again."""
    from medd import pipeline, settings
    from medd.ingest.pull import COLUMNS, Limits, Pull, State, as_row, open_source
    from medd.ingest.query import Query, last_days, parse_dates

    if dates and days:
        raise SettingsError("--date or --days, not both")
    if not (dates or days or patient or accession or study or limit):
        raise SettingsError("all of an archive is too much: --date, --days, --patient, --accession, --study or --limit")
    first, last = parse_dates(dates) if dates else last_days(days) if days else (None, None)
    query = Query(first, last, tuple(modality or ("CR", "DX")), patient, accession, study)
    loaded = settings.load(home, config)
    database = pipeline.open_database(loaded)
    source = open_source(loaded, name, pipeline.build_intake(loaded, database), database)
    run = Pull(source, database, query, Limits(limit, rate), again=again)
    studies = run.find()
    counts: Counter[str] = Counter()
    ended: list[MeddError] = []

    def rows() -> Iterator[dict[str, Any]]:
        outcomes = run.preview(studies) if dry_run else _shown(run.run(studies), limit or len(studies))
        try:
            for outcome in outcomes:
                counts[outcome.state] += 1
                counts["images"] += outcome.images or 0
                yield as_row(outcome)
        except MeddError as error:  # what came before is still to be shown
            ended.append(error)

    write_rows(rows(), COLUMNS, style, _SHOWN)
    done = f"{counts[State.WANTED]} to be fetched" if dry_run else f"{counts[State.FETCHED]} studies fetched"
    done += "" if dry_run else f" with {counts['images']} images, {counts[State.FAILED]} failed"
    print(f"{done}, {run.known} known already", file=sys.stderr)
    if ended:
        raise ended[0]
    raise typer.Exit(1 if counts[State.FAILED] else 0)


def _shown(outcomes: "Iterator[Outcome]", total: int) -> "Iterator[Outcome]":
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(outcomes, "pull", total, console=console, disable=not sys.stderr.isatty(), transient=True)
