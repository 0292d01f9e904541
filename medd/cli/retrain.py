"""``medd retrain``."""

import os
from pathlib import Path
from typing import Annotated

import typer

from medd.cli.common import Config, Home, user_name
from medd.errors import SettingsError


def retrain(
    data: Annotated[
        Path | None,
        typer.Argument(metavar="[DATA]", help="The base data, as for medd train.  [default: retrain.data]"),
    ] = None,
    if_changed: Annotated[
        bool, typer.Option("--if-changed", help="Do nothing when data and annotations are those of the last run.")
    ] = False,
    min_labels: Annotated[
        int | None, typer.Option(min=0, help="Fewer new labels are refused.  [default: retrain.min_labels]")
    ] = None,
    leave_out: Annotated[
        bool, typer.Option("--leave-out", help="Leave contradicted images and those of tested patients out.")
    ] = False,
    recipe: Annotated[
        Path | None, typer.Option(help="TOML file, as for medd train.  [default: how the champion was trained]")
    ] = None,
    outliers: Annotated[Path | None, typer.Option(help="As for medd train.  [default: retrain.outliers]")] = None,
    why: Annotated[str, typer.Option(help="Kept with the outcome for ever.")] = "",
    who: Annotated[str | None, typer.Option(help="Who does it.  [default: your user name]")] = None,
    home: Home = None,
    config: Config = None,
) -> None:
    """Learn from base data and annotations; promote what beats the model on duty on its own test part.

    Exit code 0: promoted, or nothing to do; 1: refused, and the model on duty stays.
    """
    from rich.console import Console

    from medd import pipeline, settings, supervisor
    from medd.learn.retrain import Request
    from medd.learn.retrain import retrain as learn

    loaded = settings.load(home, config)
    if data is None and not loaded.retrain.data:
        raise SettingsError("DATA: name the base data, or set retrain.data")
    if outliers is None and loaded.retrain.outliers:
        outliers = loaded.under_home(Path(loaded.retrain.outliers))
    request = Request(
        data=data or loaded.under_home(Path(loaded.retrain.data)),
        who=who or user_name(),
        why=why,
        min_labels=loaded.retrain.min_labels if min_labels is None else min_labels,
        if_changed=if_changed,
        leave_out=leave_out,
        recipe=recipe,
        outliers=outliers,
    )
    supervisor.lock_stage(loaded, "retrain")
    os.nice(10)  # the images that come in meanwhile go first
    outcome = learn(pipeline.open_models(loaded), pipeline.open_spool(loaded), request, Console(stderr=True))
    name = f"{outcome.model}: " if outcome.model else ""
    verdict = {True: "promoted", False: "refused", None: "nothing to do"}[outcome.promoted]
    print(f"{name}{verdict}: {outcome.reason}")
    raise typer.Exit(1 if outcome.promoted is False else 0)
