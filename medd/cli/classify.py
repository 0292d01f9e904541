"""``medd classify``."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from medd.cli.common import Config, Format, Home, write_rows
from medd.errors import SettingsError, TransientError

_SHOWN = ("path", "status", "label", "probability", "threshold", "reason", "model")


def classify(
    paths: Annotated[list[Path], typer.Argument(help="Files, or folders with all that is below them.")],
    style: Annotated[Format, typer.Option("--format", help="The form.")] = Format.TABLE,
    output: Annotated[Path | None, typer.Option(help="Write there instead of the screen.")] = None,
    overlay: Annotated[Path | None, typer.Option(help="Write each picture with its label into this folder.")] = None,
    model: Annotated[Path | None, typer.Option(help="A bundle's folder; else the classifier's own.")] = None,
    home: Home = None,
    config: Config = None,
) -> None:
    """Score files at once: no daemon, no database. Exit code 1 when a file could not be read."""
    import cv2
    from rich.progress import track

    from medd import DISCLAIMER, pipeline, plugins, settings
    from medd.classify.oneoff import COLUMNS, classify_files, draw
    from medd.deliver.objects import codes_of
    from medd.ingest.watch import files_below

    loaded, manager = pipeline.load_model(settings.load(home, config), model)
    try:
        files = [file for path in paths for file in (files_below(path) if path.is_dir() else (path,))]
        if overlay:
            overlay.mkdir(parents=True, exist_ok=True)
        out = output.open("w", newline="", encoding="utf-8") if output else sys.stdout
    except OSError as error:
        raise SettingsError(f"{error.filename}: {error.strerror}") from error
    if not files:
        raise SettingsError(f"no files found in {', '.join(map(str, paths))}")
    rows, failed, codes = [], False, codes_of(plugins.classifiers(manager))
    scored = classify_files(files, loaded, manager, keep_images=overlay is not None)
    judged = track(scored, "classify", len(files), disable=not sys.stderr.isatty())
    for number, one in enumerate(judged):
        rows.append(one.row())
        failed |= one.failed
        if one.prediction is None:
            print(f"{one.path}: {one.reason}{f': {one.detail}' if one.detail else ''}", file=sys.stderr)
        elif overlay and one.image is not None:
            target = overlay / f"{number:04d}-{one.path.stem}.png"
            if not cv2.imwrite(str(target), draw(one.image, one.prediction, codes)):
                raise TransientError(f"{target}: cannot be written")
    with out if output else nullcontext(out):
        write_rows(rows, COLUMNS, style, _SHOWN, out)
        if style is Format.TABLE:
            print(DISCLAIMER, file=out)
    raise typer.Exit(1 if failed else 0)
