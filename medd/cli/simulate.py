"""``medd simulate``."""

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medd.cli.common import Config, Format, Home, parse_since, write_rows
from medd.errors import SettingsError
from medd.triage import Reading

if TYPE_CHECKING:
    from medd.settings import Settings
    from medd.triage.cases import Case
    from medd.triage.scores import Scores

_FIGURES = ("mean_min", "p95_min", "max_min")
_SHOWN = ("studies", "order", "n", *_FIGURES)


def simulate(
    since: Annotated[
        str, typer.Option(help="Replay what came since: 24h, 7d, or an ISO 8601 time.  [default: draw studies]")
    ] = "",
    rate: Annotated[str, typer.Option(help="Studies an hour: a number, or 24 with commas, for each hour.")] = "12",
    days: Annotated[int, typer.Option(min=1, max=3660, help="For so many days studies come.")] = 7,
    prevalence: Annotated[float, typer.Option(min=0, max=1, help="Share of studies with a finding.")] = 0.1,
    model: Annotated[
        str | None, typer.Option(help="Whose scores: NAME/VERSION or a bundle's folder; else the classifier's own.")
    ] = None,
    sensitivity: Annotated[float | None, typer.Option(min=0, max=1, help="Instead of the model's.")] = None,
    specificity: Annotated[float | None, typer.Option(min=0, max=1, help="Instead of the model's.")] = None,
    readers: Annotated[str, typer.Option(help="How many read: a number, or 24 with commas, for each hour.")] = "1",
    reading_min: Annotated[float, typer.Option(min=0.001, help="Mean minutes that a study takes.")] = 4.0,
    reading: Annotated[Reading, typer.Option(help="How they are distributed.")] = Reading.LOGNORMAL,
    max_wait_min: Annotated[
        float | None, typer.Option(min=0, help="The cap on waiting; 0: none.  [default: worklist.max_wait_min]")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=10_000, help="Repeated so often, each with its own chance.")] = 20,
    style: Annotated[Format, typer.Option("--format", help="The form.")] = Format.TABLE,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw how long studies wait: a PNG.")] = None,
    home: Home = None,
    config: Config = None,
) -> None:
    """Compare the worklist with first come, first served: how long studies wait until a reader opens them.

    Studies are drawn at random, or replayed as they came. Minutes, each with its 95 % interval over the seeds.
    """
    from medd import settings
    from medd.learn import extra
    from medd.triage import compare, plot

    if output:
        extra.require("matplotlib")
    known = settings.load(home, config)
    cap_min = known.worklist.max_wait_min if max_wait_min is None else max_wait_min
    at_desk = tuple(int(number) for number in _hours("--readers", readers, whole=True))
    desk = compare.Desk(at_desk, reading_min * 60, reading, cap_min * 60 or None)
    if since:
        studies, told = _recorded(known, since)
    else:
        scores, refused = _scores(known, model, sensitivity, specificity)
        studies, told = _drawn(_hours("--rate", rate), days, prevalence, scores, refused)
    each = [studies(seed) for seed in range(seeds)]
    runs = [compare.run(cases, desk, seed) for seed, cases in enumerate(each)]
    rows = list(compare.rows(runs))
    load = mean(desk.load(cases) for cases in each)
    if load >= 1:
        typer.echo(f"medd: readers fall behind: more work comes than they can do (load {load:.2f})", err=True)
    if output:
        try:
            plot.waits(output, runs, desk.max_wait_s)
        except OSError as error:
            raise SettingsError(f"{output}: {error.strerror}") from error
    if style is not Format.TABLE:
        write_rows(rows, compare.COLUMNS, style, ())
        return
    cap = f"cap {cap_min:g} min" if cap_min else "no cap"
    typer.echo(f"{told}; load {load:.2f}, {cap}, {seeds} {'runs' if seeds > 1 else 'run'}")
    write_rows(map(_shown, rows), (), style, _SHOWN)


def _recorded(known: "Settings", since: str) -> tuple[Callable[[int], Sequence["Case"]], str]:
    from medd import pipeline
    from medd.triage.cases import replay

    moment = parse_since(since)
    with closing(pipeline.open_existing_database(known)) as database, database.read() as connection:
        came = replay(connection, moment)
    if not came:
        raise SettingsError(f"--since: nothing has come since. Received: {since!r}")
    return lambda seed: came, f"{len(came)} studies as they came"


def _drawn(
    rates: tuple[float, ...], days: int, prevalence: float, scores: "Scores", refused: float
) -> tuple[Callable[[int], Sequence["Case"]], str]:
    from medd.triage.cases import Source

    source = Source(rates, days, prevalence, scores, refused)
    if not source.draw(0):
        raise SettingsError(f"--rate: too few for a single study in {days} days. Received: {sum(rates) / 24:g} an hour")
    told = (
        f"{sum(rates) / 24:g} studies an hour for {days} {'day' if days == 1 else 'days'}, "
        f"{prevalence:.1%} with a finding; "
        f"sensitivity {scores.sensitivity:.3f}, specificity {scores.specificity:.3f}, {refused:.1%} refused"
    )
    return source.draw, told


def _scores(
    known: "Settings", model: str | None, sensitivity: float | None, specificity: float | None
) -> tuple["Scores", float]:
    from medd import pipeline, plugins
    from medd.registry import bundle as bundles
    from medd.registry.find import find_folder, shipped
    from medd.triage.scores import Scores

    if sensitivity is not None and specificity is not None and model is None:
        return Scores(sensitivity, specificity), 0.0
    specs = plugins.classifiers(pipeline.load_plugins(known))
    folder = find_folder(model, specs, known.models_dir) if model else shipped(known.model.classifier, specs)
    bundle = bundles.read(folder, verify=False)
    told = {"sensitivity": sensitivity, "specificity": specificity}
    said = bundle.evaluation | {name: value for name, value in told.items() if value is not None}
    return Scores.of(said, bundle.ref), Scores.refused(said)


def _hours(option: str, text: str, *, whole: bool = False) -> tuple[float, ...]:
    """A number for each hour of the day: 24 of them, or one for all."""
    try:
        numbers = tuple(float(number) for number in text.split(","))
    except ValueError:
        numbers = ()
    fits = len(numbers) in (1, 24) and all(0 <= number < 1e6 for number in numbers) and any(numbers)
    if not fits or (whole and any(number % 1 for number in numbers)):
        kind = "a whole number" if whole else "a number"
        raise SettingsError(f"{option}: {kind}, or 24 with commas between, not all of them 0. Received: {text!r}")
    return numbers * 24 if len(numbers) == 1 else numbers


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {"studies": row["studies"], "order": row["order"], "n": f"{row['n']:g}"}
    for name in _FIGURES:
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        shown[name] = _minutes(row[name]) + (f" ({_minutes(low)} – {_minutes(high)})" if low is not None else "")
    return shown


def _minutes(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f}"  # no -0.0
