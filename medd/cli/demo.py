"""``medd demo``."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer


def demo(
    home: Annotated[
        Path | None, typer.Option("--home", help="The home folder; else a new temporary one.", show_default=False)
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="How many sample images.")] = 12,
) -> None:
    """Show the whole journey on sample studies: start, send by C-STORE and by folder, score, list, stop."""
    from medd import demo as journey

    raise typer.Exit(journey.run(home or Path(tempfile.mkdtemp(prefix="medd-demo-")), images))
