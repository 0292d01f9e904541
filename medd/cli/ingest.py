"""``medd ingest``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from medd.cli.common import Config, Home, open_made_database


def ingest(
    paths: Annotated[list[Path], typer.Argument(help="Files, or folders with all that is below them.")],
    priority: Annotated[
        int, typer.Option(min=-1000, max=1000, help="Lower goes first; what comes in live has 0, a backlog wants more.")
    ] = 0,
    home: Home = None,
    config: Config = None,
) -> None:
    """Put files into the queue, by the same door as C-STORE and the watched folders. The files stay where they are."""
    from rich.progress import track

    from medd import pipeline, settings
    from medd.ingest.files import receive_paths

    loaded = settings.load(home, config)
    intake = pipeline.build_intake(loaded, open_made_database(home, loaded))
    counts = {"received": 0, "already there": 0, "not assessed": 0, "failed": 0}
    outcomes = track(receive_paths(paths, intake, priority), "ingest", disable=not sys.stderr.isatty(), transient=True)
    for path, outcome in outcomes:
        if isinstance(outcome, str):
            counts["failed"] += 1
            print(f"{path}: {outcome}", file=sys.stderr)
        elif outcome.reason is not None:
            counts["not assessed"] += 1
            print(
                f"{path}: not assessed, {outcome.reason}{f': {outcome.detail}' if outcome.detail else ''}",
                file=sys.stderr,
            )
        else:
            counts["received" if outcome.new else "already there"] += 1
    print(", ".join(f"{count} {name}" for name, count in counts.items() if count) or "no files found")
    raise typer.Exit(1 if counts["failed"] or not any(counts.values()) else 0)
