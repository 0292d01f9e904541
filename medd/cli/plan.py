"""``medd plan``."""

import json
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medd.cli.common import Config, Home
from medd.cli.load import Form, Syntax

if TYPE_CHECKING:
    from medd.plan.capacity import Demand, Plan
    from medd.plan.costs import Costs


def plan(
    films_per_day: Annotated[float, typer.Option(min=0.001, max=1e9, help="Films a day, on the mean.")] = 1000,
    size: Annotated[int, typer.Option(min=64, max=8192, help="Side of the square film, pixels.")] = 2048,
    transfer_syntax: Annotated[Syntax, typer.Option(help="How they are encoded.")] = Syntax.EXPLICIT,
    cores: Annotated[int, typer.Option(min=0, max=4096, help="Cores of a host; 0: as many as measured.")] = 0,
    hosts: Annotated[int, typer.Option(min=0, max=10_000, help="So many hosts; 0: as few as keep --wait-s.")] = 0,
    peak_factor: Annotated[float, typer.Option(min=1, max=24, help="The busiest hour against the day's mean.")] = 3.0,
    wait_s: Annotated[
        float, typer.Option(min=0.001, help="From first byte to result, for 95 of 100 films in the busiest hour.")
    ] = 60.0,
    keep_days: Annotated[float, typer.Option(min=0, help="How long images are kept.")] = 365.0,
    costs: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What --measure wrote, for its films, instead of measuring now.")
    ] = None,
    measure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write down what a film costs, for --costs.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The bundle to measure; else the classifier's own.")
    ] = None,
    style: Annotated[Form, typer.Option("--format", help="The form.")] = Form.TABLE,
    home: Home = None,
    config: Config = None,
) -> None:
    """Tell how many hosts so many films a day need, how long they wait, and what is full first.

    What a film costs is measured on this machine, which should have nothing else to do, within half a minute. With
    --hosts, exit code 1: they cannot keep up, or not within --wait-s.
    """
    from medd import settings
    from medd.plan import costs as kept
    from medd.plan.capacity import Demand, assess, choose
    from medd.plan.measure import measure as take

    one = kept.read(costs) if costs else take(settings.load(home, config), size, transfer_syntax, folder=model)
    if measure:
        kept.write(one, measure)
    demand = Demand(films_per_day, peak_factor, wait_s)
    found = assess(one, demand, cores or one.cores, hosts) if hosts else choose(one, demand, cores or one.cores)
    report = _report(one, demand, found, keep_days)
    print(json.dumps(report, indent=2) if style is Form.JSON else _table(report))
    raise typer.Exit(0 if found.p95_s <= wait_s else 1)


def _report(costs: "Costs", demand: "Demand", found: "Plan", keep_days: float) -> dict[str, Any]:
    day_gib = demand.films_per_day * (costs.film_bytes + costs.row_bytes) / (1 << 30)
    return {
        "measured": costs.model_dump(),
        "films_per_day": demand.films_per_day,
        "films_per_s_at_peak": demand.rate,
        "hosts": found.hosts,
        "cores": found.cores,
        "mean_s": _finite(found.mean_s),
        "p95_s": _finite(found.p95_s),
        "wait_s": demand.wait_s,
        "saturates_at_films_per_s": found.saturates_at,
        "saturates_at_films_per_day": found.saturates_at / demand.rate * demand.films_per_day,
        "bound": found.bound,
        "cores_busy": found.cores_busy,
        "films_per_batch": found.batch,
        "disk_gib_per_day": day_gib,
        "disk_gib_kept": day_gib * keep_days,
        "keep_days": keep_days,
        "stages": [
            {
                "stage": stage.name,
                "ms_per_film": 1000 * stage.cost_s if stage.cost_s < inf else None,
                "utilisation": _finite(stage.utilisation),
                "wait_mean_ms": _finite(stage.wait_mean_s, 1000),
                "wait_p95_ms": _finite(stage.wait_p95_s, 1000),
            }
            for stage in found.stages
        ],
    }


def _finite(value: float | None, unit: float = 1) -> float | None:
    """JSON has no infinity: what has no end is null."""
    return None if value is None or value == inf else value * unit


def _table(report: dict[str, Any]) -> str:
    costs = report["measured"]
    ends = report["mean_s"] is not None
    full = f"{report['saturates_at_films_per_s']:.3g} films a second, {report['saturates_at_films_per_day']:,.0f}"
    days = report["keep_days"]
    many = "host" if report["hosts"] == 1 else "hosts"
    lines = [
        ("measured", f"{costs['machine']}, {costs['cores']} cores, {costs['measured_at']}"),
        ("films", f"{costs['size']}×{costs['size']}, {costs['transfer_syntax']}, {costs['model']}"),
        ("demand", f"{report['films_per_day']:,.6g} a day, {report['films_per_s_at_peak']:.3g} a second at the peak"),
        (
            "hosts",
            f"{report['hosts']:,} {many} of {report['cores']} cores, {report['cores_busy']:.0%} busy at the peak",
        ),
        ("to the result", f"{report['mean_s']:.2f} s, 95 of 100 within {report['p95_s']:.2f} s" if ends else "no end"),
        ("saturates at", f"{full} a day: the {report['bound']} is full first"),
        ("disk", f"{report['disk_gib_per_day']:,.1f} GiB a day, {report['disk_gib_kept']:,.0f} GiB in {days:g} days"),
    ]
    width = max(len(name) for name, _ in lines)
    text = [f"{name:{width}}  {value}" for name, value in lines]
    text += ["", f"{'stage':10}{'ms a film':>12}{'used':>8}{'mean wait, ms':>16}{'95 % within, ms':>18}"]
    for row in report["stages"]:
        waits = ("no end",) * 2 if row["utilisation"] is None or row["utilisation"] >= 1 else _waits(row)
        if row["stage"] in ("decode", "predict", "commit"):
            waits = ("", "")
        used = "over" if row["utilisation"] is None else f"{row['utilisation']:.0%}"
        cost = "" if row["ms_per_film"] is None else f"{row['ms_per_film']:.2f}"
        text.append(f"{row['stage']:10}{cost:>12}{used:>8}{waits[0]:>16}{waits[1]:>18}".rstrip())
    return "\n".join(text)


def _waits(row: dict[str, Any]) -> tuple[str, str]:
    return f"{row['wait_mean_ms'] or 0:.1f}", f"{row['wait_p95_ms'] or 0:.1f}"
