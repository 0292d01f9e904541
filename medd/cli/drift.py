"""``medd drift``."""

from contextlib import closing
from typing import Annotated

import typer

from medd.cli.common import Config, Format, Home, parse_since, write_rows
from medd.errors import ModelUnusable

_SHOWN = (
    "device day images not_assessed state score_psi score input_mean_psi input_mean input_std_psi input_std".split()
)


def drift(
    since: Annotated[str, typer.Option(help="Received since: 30m, 24h, 7d, or an ISO 8601 time.")] = "7d",
    model: Annotated[str | None, typer.Option(help="NAME/VERSION or a bundle's folder; else the one on duty.")] = None,
    threshold: Annotated[
        float, typer.Option(min=0, help="Mark a device above this population stability index.")
    ] = 0.25,
    min_images: Annotated[int, typer.Option(min=1, help="Fewer images are not compared.")] = 30,
    style: Annotated[Format, typer.Option("--format", help="The form.")] = Format.TABLE,
    home: Home = None,
    config: Config = None,
) -> None:
    """Compare what each device sends, and how it scores, with the images that the model was measured on, day by day.

    Marked devices come first. Days are UTC; "all" is the whole time asked for.
    """
    from medd import pipeline, plugins, settings
    from medd.learn.drift import COLUMNS, compare
    from medd.registry import bundle as bundles
    from medd.registry import registry
    from medd.registry.find import find_folder
    from medd.store.devices import find_sightings

    moment = parse_since(since)
    known = settings.load(home, config)
    specs = plugins.classifiers(pipeline.load_plugins(known))
    with closing(pipeline.open_existing_database(known)) as database:
        if model is None:
            folder = registry.champion_folder(database, registry.find_spec(known.model.classifier, specs))
        else:
            folder = find_folder(model, specs, known.models_dir)
        bundle = bundles.read(folder, verify=False)
        if bundle.reference is None:
            raise ModelUnusable(f"{bundle.ref}: its bundle has nothing to compare with; `medd train` writes it today")
        with database.read() as connection:
            seen = find_sightings(connection, bundle.ref, moment)
            rows = list(compare(seen, bundle.reference, threshold=threshold, min_images=min_images))
    write_rows(rows, COLUMNS, style, _SHOWN)
    if style is Format.TABLE:
        marked = list(dict.fromkeys(row["device"] for row in rows if row["marked"]))
        devices = {row["device"] for row in rows}
        compared = f"compared with {bundle.reference.score.images} held-out images of {bundle.ref}"
        typer.echo(f"{len(marked)} of {len(devices)} devices drifted, {compared}" + "".join(f"\n! {d}" for d in marked))
