"""`medd train`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from medd.cli.common import Config, Home


def train(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="A folder per label; or train/, val/, test/ of such; or a CSV (path, label, patient, split).",
        ),
    ],
    network: Annotated[str | None, typer.Option(help="Classifier to train.  [default: paper]")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs.  [default: 20]")] = None,
    steps_per_epoch: Annotated[
        int | None, typer.Option(help="Batches in an epoch; more than the data hold repeats them.  [default: 326]")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images in a batch.  [default: 16]")] = None,
    seed: Annotated[int | None, typer.Option(help="Of split, weights, order and augmentation.  [default: 0]")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the optimizer.  [default: 0.001]")] = None,
    dropout: Annotated[float | None, typer.Option(help="Rate before the last layer.  [default: 0.5]")] = None,
    head: Annotated[str | None, typer.Option(help="sigmoid or softmax, for two labels.  [default: sigmoid]")] = None,
    precision: Annotated[
        str | None, typer.Option(help="What to compute in while learning: float32 or bfloat16.  [default: float32]")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without a lower validation loss.  [default: never]")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Side of the network's input, pixels.  [default: 150]")] = None,
    channels: Annotated[int | None, typer.Option(help="1 or 3 of the same grey.  [default: 3]")] = None,
    rotation: Annotated[float | None, typer.Option(help="Augmentation, ± degrees.  [default: 10]")] = None,
    shift: Annotated[float | None, typer.Option(help="Augmentation, ± part of the side.  [default: 0.1]")] = None,
    zoom: Annotated[float | None, typer.Option(help="Augmentation, ± part of the size.  [default: 0.2]")] = None,
    flip: Annotated[bool | None, typer.Option(help="Augmentation, left to right.  [default: flip]")] = None,
    negative: Annotated[str | None, typer.Option(help="The label that is no finding.  [default: NORMAL]")] = None,
    sensitivity: Annotated[
        float | None, typer.Option(help="What the threshold must reach on validation.  [default: 0.95]")
    ] = None,
    outliers: Annotated[
        Path | None,
        typer.Option(help="Image, or folder of images, of a kind that the gate must refuse."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model.  [default: the network's]")] = None,
    version: Annotated[str | None, typer.Option(help="Its version.  [default: the time]")] = None,
    recipe: Annotated[Path | None, typer.Option(help="TOML file of these options; the command line wins.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the bundle.  [default: HOME/models/NAME-VERSION]")
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(metavar="N|all", help="GPUs that share each batch; several hosts by TF_CONFIG.  [default: one]"),
    ] = None,
    tensorboard: Annotated[Path | None, typer.Option(help="Folder for TensorBoard's event files.")] = None,
    home: Home = None,
    config: Config = None,
) -> None:
    """Train a network on labelled radiographs and write its bundle."""
    import os

    from medd import pipeline, plugins, settings
    from medd.learn import team as teams
    from medd.learn import train as learn
    from medd.learn.options import read_options

    given: dict[str, Any] = {
        "network": network,
        "epochs": epochs,
        "steps_per_epoch": steps_per_epoch,
        "batch_size": batch_size,
        "seed": seed,
        "dropout": dropout,
        "head": head,
        "precision": precision,
        "patience": patience,
        "negative": negative,
        "sensitivity": sensitivity,
        "outliers": outliers,
        "name": name,
        "version": version,
        "optimizer": {"learning_rate": learning_rate},
        "preprocess": {"size": size, "channels": channels},
        "augmentation": {"rotation_deg": rotation, "shift": shift, "zoom": zoom, "flip": flip},
    }
    known = settings.load(home, config)
    options = read_options(recipe, given)
    folder = output or known.models_dir / f"{options.bundle_name}-{options.version}"
    specs = plugins.classifiers(pipeline.load_plugins(known))
    learn.require_extra()
    if os.environ.get("TF_CONFIG"):
        typer.echo("waits for all hosts of TF_CONFIG", err=True)
    team = teams.assemble(devices or "")
    if team and not team.is_first:
        learn.follow(data, options, specs, team)
        typer.echo("trained along; the first host has written the bundle")
        return
    made = learn.train(data, folder, options, specs, tensorboard=tensorboard, team=team)
    measured = made.evaluation
    typer.echo(f"{made.ref}: {folder}")
    for metric in ("accuracy", "auroc", "sensitivity", "specificity"):
        low, high = measured["ci"][metric]
        typer.echo(f"{metric:12} {measured[metric]:.3f}  (95 % {low:.3f} to {high:.3f})")
    typer.echo(f"measured on {measured['n']} images of {measured['patients']} patients, threshold {made.threshold}")
