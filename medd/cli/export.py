"""``medd export``."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from medd.cli.common import Config, Home, parse_since


def export(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Empty, or an earlier export of this home.")],
    since: Annotated[str | None, typer.Option(help="Annotated since: 24h, 7d, or an ISO 8601 time.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Only this label; may be repeated.")] = None,
    reader: Annotated[list[str] | None, typer.Option(help="Only what this reader says; may be repeated.")] = None,
    secondary_captures: Annotated[
        bool,
        typer.Option("--secondary-captures", help="Also those that do not say that no text is burnt in. Look at them!"),
    ] = False,
    home: Home = None,
    config: Config = None,
) -> None:
    """Write annotated images, de-identified, as a training set.

    DICOM by the Basic Application Level Confidentiality Profile (PS3.15 Annex E), other images without metadata. Pixels
    are not examined for burnt-in text. A second run adds what is new. Train on it: medd train FOLDER/manifest.csv
    """
    from rich.console import Console
    from rich.progress import Progress

    from medd import pipeline, settings, supervisor
    from medd.dicom.pseudonyms import load_pseudonyms
    from medd.learn.export import Wanted
    from medd.learn.export import export as write

    loaded = settings.load(home, config)
    wanted = Wanted(parse_since(since) if since else None, label or (), reader or (), secondary_captures)
    database, spool = pipeline.open_existing_database(loaded), pipeline.open_spool(loaded)
    console = Console(stderr=True)
    lock = supervisor.lock_stage(loaded, "export")  # two at once would each write its own manifest
    try:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("exporting", total=None)
            outcome = write(
                database,
                spool,
                folder,
                load_pseudonyms(loaded.home),
                wanted,
                lambda done, total: progress.update(task, completed=done, total=total),
            )
    finally:
        os.close(lock)
    for verdict, which in (("left out", outcome.left_out), ("failed", outcome.failed)):
        for instance_id, why in which.items():
            print(f"instance {instance_id}: {verdict}: {why}", file=sys.stderr)
    print(
        f"{outcome.new} new, {outcome.known} there already, {outcome.moved} relabelled, {outcome.withdrawn} withdrawn, "
        f"{len(outcome.left_out)} left out, {len(outcome.failed)} failed"
    )
    if outcome.renewed:
        print(f"{outcome.renewed} cleaned anew: other rules or options held when they were exported")
    print("Pixel data were not examined for burnt-in text: look at the images before you pass them on.")
    raise typer.Exit(1 if outcome.failed else 0)
