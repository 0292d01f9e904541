"""``medd backfill``."""

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from medd.cli.common import Config, Home
from medd.errors import SettingsError

if TYPE_CHECKING:
    from medd.ingest.query import Query


class Engine(StrEnum):
    """Who does the work."""

    LOCAL = "local"
    RAY = "ray"


def backfill(
    source: Annotated[
        str, typer.Argument(help="A folder or file, the URL of a bucket (s3://BUCKET/PREFIX), or the name of a PACS.")
    ],
    engine: Annotated[
        Engine, typer.Option(help="This host alone, or the hosts of a Ray cluster (extra: ray).")
    ] = Engine.LOCAL,
    address: Annotated[
        str, typer.Option(help="Ray: of a running cluster, HOST:PORT; else one is started on this host.")
    ] = "",
    decoders: Annotated[int, typer.Option(min=0, help="Ray: actors that read and decode; 0: one for each core.")] = 0,
    predictors: Annotated[
        int, typer.Option(min=0, help="Ray: actors with the model; 0: one for each GPU, or for each four cores.")
    ] = 0,
    dates: Annotated[str, typer.Option("--date", help="PACS: study date, YYYYMMDD or YYYYMMDD-YYYYMMDD.")] = "",
    modality: Annotated[
        list[str] | None, typer.Option(help="PACS: only such series; repeatable.  [default: CR, DX]")
    ] = None,
    home: Home = None,
    config: Config = None,
) -> None:
    """Score an archive, behind everything that comes in live; what was stopped goes on where it was.

    Results are not delivered. Exit code 1: something could not be read, or the run was stopped.
    """
    import os
    import signal

    from medd import settings, stuck, supervisor
    from medd.backfill.archive import run_archive
    from medd.backfill.progress import shown
    from medd.backfill.run import FileRun, Run, run_local
    from medd.backfill.source import open_files

    loaded = settings.load(home, config)
    found = open_files(source)
    query = None if found else _query(dates, modality)
    if found and (dates or modality):
        raise SettingsError(f"--date and --modality are for a PACS, and this is a folder or bucket. Received: {source}")
    if (engine is Engine.LOCAL or query) and (address or decoders or predictors):
        raise SettingsError("--address, --decoders and --predictors are for files with --engine ray")
    if engine is Engine.RAY and query:
        raise SettingsError("a PACS is asked by one host: --engine local")
    lock = supervisor.lock_stage(loaded, "backfill")
    if engine is Engine.LOCAL:
        os.nice(5)  # receiver, workers and readers on this host come first; Ray does so with its workers by itself
    stuck.watch(loaded.worker.stuck_s)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run = FileRun(loaded, found) if found else Run(loaded)
    stopped = False
    try:
        with shown(run.progress, run.look):
            if query:
                run_archive(run, source, query)
            elif engine is Engine.LOCAL and isinstance(run, FileRun):
                run_local(run)
            elif isinstance(run, FileRun):
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


def _query(dates: str, modality: list[str] | None) -> "Query":
    from medd.ingest.query import Query, parse_dates

    if not dates:
        raise SettingsError("no file or folder of this name, and of a PACS only so many days are asked for: --date")
    return Query(*parse_dates(dates), tuple(modality or ("CR", "DX")))
