"""``medd serve``."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from medd.cli.common import Config, Home
from medd.errors import SettingsError


def serve(
    home: Home = None,
    config: Config = None,
    only: Annotated[str, typer.Option(help="Only these parts, separated by commas: receive, work, deliver, web.")] = "",
) -> None:
    """Run the daemon: receive images, score them, store the results, deliver them, show them to readers."""
    from medd import logs, pipeline, settings, supervisor

    loaded = settings.load(home, config)
    logs.configure(loaded.log.level, loaded.log.format)
    services = pipeline.find_services(loaded)
    parts = (*pipeline.STAGES, *services)
    standard = [name for name in pipeline.STAGES if name != "deliver" or pipeline.has_deliverer(loaded)]
    standard += [name for name, service in services.items() if service.is_wanted(loaded)]
    stages = [name.strip() for name in only.split(",")] if only else standard
    if unknown := set(stages) - set(parts):
        raise SettingsError(f"--only: {', '.join(parts)} expected. Received: {', '.join(sorted(unknown))}")
    ordered = [name for name in parts if name in stages]
    if len(ordered) == 1 and (ordered != ["work"] or loaded.worker.processes == 1):
        raise typer.Exit(supervisor.run_stage(loaded, ordered[0], 0, supervised=False))

    def command(stage: str, index: int) -> Sequence[str]:
        options = ["--home", str(loaded.home)] + (["--config", str(config.absolute())] if config else [])
        return [sys.executable, "-m", "medd", "stage", stage, "--index", str(index), *options]

    raise typer.Exit(supervisor.serve(loaded, ordered, command))


def stage(
    name: str,
    index: Annotated[int, typer.Option()] = 0,
    home: Home = None,
    config: Config = None,
) -> None:
    """Run one part of the daemon under its supervisor."""
    from medd import logs, settings, supervisor

    loaded = settings.load(home, config)
    logs.configure(loaded.log.level, loaded.log.format)
    raise typer.Exit(supervisor.run_stage(loaded, name, index, supervised=True))
