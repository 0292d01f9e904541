"""`medd sweep`."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from medd.cli.backfill import Engine
from medd.cli.common import Config, Format, Home, write_rows
from medd.errors import SettingsError


def sweep(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="A folder per label; or train/, val/, test/ of such; or a CSV (path, label, patient, split).",
        ),
    ],
    epochs: Annotated[
        str | None, typer.Option(help="Table 2: epochs, at the recipe's steps (326).  [default: 5,10,20,25]")
    ] = None,
    steps_per_epoch: Annotated[
        str | None, typer.Option(help="Table 3: steps, at the recipe's epochs (20).  [default: 100,200,326]")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Of weights and order.  [default: 0,1,2; of a search: 0]")] = None,
    network: Annotated[str | None, typer.Option(help="Classifier to train.  [default: paper]")] = None,
    recipe: Annotated[Path | None, typer.Option(help="TOML file with the rest, as of medd train.")] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Instead of the tables: search the recipe until so many are tried.")
    ] = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            help="What to search: learning_rate=1e-4:1e-2:log, dropout=0.2:0.6, batch_size=16,32. Repeatable."
        ),
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="SQLAlchemy URL of the search.  [default: search.db in the output folder]")
    ] = None,
    engine: Annotated[
        Engine, typer.Option(help="This host alone, or the hosts of a Ray cluster (extra: ray).")
    ] = Engine.LOCAL,
    address: Annotated[
        str, typer.Option(help="Of a running Ray cluster, HOST:PORT; else one is started on this host.")
    ] = "",
    cores: Annotated[int, typer.Option(min=0, help="Ray: cores of each training; 0: as many as this host has.")] = 0,
    output: Annotated[
        Path | None, typer.Option(help="Folder; a sweep that was stopped goes on there.  [default: HOME/sweep]")
    ] = None,
    home: Home = None,
    config: Config = None,
) -> None:
    """Repeat the article's study over epochs and steps, or search for better hyper-parameters."""
    from medd import pipeline, plugins, settings
    from medd.learn.options import read_options
    from medd.ray_cluster import joined

    if bool(search) != bool(trials):
        raise SettingsError("a search needs both --trials and --search")
    on_ray = engine is Engine.RAY
    if (address or cores) and not on_ray:
        raise SettingsError("--address and --cores are for --engine ray")
    work = joined(address) if on_ray else nullcontext()
    known = settings.load(home, config)
    folder = output or known.home / "sweep"
    specs = plugins.classifiers(pipeline.load_plugins(known))
    if search and trials:
        from medd.learn import search as learn

        one = {"epochs": _single("--epochs", epochs), "steps_per_epoch": _single("--steps-per-epoch", steps_per_epoch)}
        options = read_options(recipe, {"network": network, **one})
        with work:
            study = learn.search(
                data,
                folder,
                [learn.parse(text) for text in search],
                trials,
                _numbers("--seeds", seeds or "0", least=0),
                options,
                specs,
                storage=storage or "",
                on_ray=on_ray,
                cores=cores,
            )
        rows: list[dict[str, Any]] = learn.rows(study)
        write_rows(rows, (), Format.TABLE, list(rows[0]))
        typer.echo(f"measured on the validation part; also in {folder / 'trials.csv'}")
        return

    from medd.learn import sweep as study_of
    from medd.learn import tables

    options = read_options(recipe, {"network": network})
    plan = study_of.Plan(
        epochs=_numbers("--epochs", epochs or "5,10,20,25"),
        steps=_numbers("--steps-per-epoch", steps_per_epoch or "100,200,326"),
        seeds=_numbers("--seeds", seeds or "0,1,2", least=0),
        steps_of_table_2=options.steps_per_epoch,
        epochs_of_table_3=options.epochs,
    )
    with work:
        study_so_far = study_of.sweep(data, folder, plan, options, specs, on_ray=on_ray, cores=cores)
    tables.write(folder, study_so_far)
    typer.echo((folder / "sweep.md").read_text(encoding="utf-8"))
    typer.echo(f"also in {folder}")


def _numbers(option: str, text: str, least: int = 1) -> tuple[int, ...]:
    try:
        numbers = tuple(dict.fromkeys(int(number) for number in text.split(",")))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < least:
        raise SettingsError(f"{option}: whole numbers with commas between, {least} or more. Received: {text!r}")
    return numbers


def _single(option: str, text: str | None) -> int | None:
    if text is None:
        return None
    numbers = _numbers(option, text)
    if len(numbers) > 1:
        raise SettingsError(f"{option}: one number in a search; to search it, say --search. Received: {text!r}")
    return numbers[0]
