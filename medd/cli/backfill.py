"""``medd backfill``."""

import sys
from enum import StrEnum
from typing import Annotated

import typer

from medd.cli.common import Config, Home
from medd.errors import SettingsError


class Engine(StrEnum):
    """Who does the work."""

    LOCAL = "local"
    RAY = "ray"


def backfill(
    source: Annotated[str, typer.Argument(help="A folder or file, or the URL of a bucket: s3://BUCKET/PREFIX.")],
    engine: Annotated[
        Engine, typer.Option(help="This host alone, or the hosts of a Ray cluster (extra: ray).")
    ] = Engine.LOCAL,
    address: Annotated[
        str, typer.Option(help="Of a running Ray cluster, HOST:PORT; else one is started on this host.")
    ] = "",
    decoders: Annotated[int, typer.Option(min=0, help="Ray: actors that read and decode; 0: one for each core.")] = 0,
    predictors: Annotated[
        int, typer.Option(min=0, help="Ray: actors with the model; 0: one for each GPU, or for each four cores.")
    ] = 0,
    home: Home = None,
    config: Config = None,
) -> None:
    """Score an archive, behind everything that comes in live; what was stopped goes on where it was.

    Results are not delivered. Exit code 1: a file could not be read, or the run was stopped.
    """
    import os
    import signal

    from medd import settings, stuck, supervisor
    from medd.backfill.progress import shown
    from medd.backfill.run import Run, run_local
    from medd.backfill.source import open_files

    loaded = settings.load(home, config)
    found = open_files(source)
    if found is None:
        raise SettingsError(f"no file or folder of this name. Received: {source}")
    if engine is Engine.LOCAL and (address or decoders or predictors):
        raise SettingsError("--address, --decoders and --predictors are for --engine ray")
    lock = supervisor.lock_stage(loaded, "backfill")
    if engine is Engine.LOCAL:
        os.nice(5)  # receiver, workers and readers on this host come first; Ray does so with its workers by itself
    stuck.watch(loaded.worker.stuck_s)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run = Run(loaded, found)
    stopped = False
    try:
        with shown(run.progress, run.look):
            if engine is Engine.LOCAL:
                run_local(run)
            else:
                from medd.backfill.cluster import run_ray

                run_ray(run, address, decoders, predictors)
    except KeyboardInterrupt:
        stopped = True
    finally:
        run.close()
        os.close(lock)
    for line in run.progress.failures:
        print(line, file=sys.stderr)
    print(f"{'stopped; the same command goes on: ' if stopped else ''}{run.progress.summary()}")
    raise typer.Exit(1 if stopped or run.progress.failed else 0)
