"""`medd evaluate`."""

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from medd.cli.common import Config, Format, Home, write_rows
from medd.errors import SettingsError


class Side(StrEnum):
    """Which side of DATA."""

    TEST = "test"
    VAL = "val"
    TRAIN = "train"
    ALL = "all"


def evaluate(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="A folder per label; or train/, val/, test/ of such; or a CSV (path, label, patient, split, …).",
        ),
    ],
    model: Annotated[
        str | None, typer.Option(help="NAME/VERSION or a bundle's folder; else the classifier's own.")
    ] = None,
    against: Annotated[str | None, typer.Option(help="A second model, compared with the first image by image.")] = None,
    split: Annotated[
        Side | None,
        typer.Option(
            help="The part of DATA, or else of the model's own split.  [default: test where DATA says, else all]"
        ),
    ] = None,
    negative: Annotated[str | None, typer.Option(help="DATA's label for no finding.  [default: the model's]")] = None,
    style: Annotated[Format, typer.Option("--format", help="The form.")] = Format.TABLE,
    output: Annotated[Path | None, typer.Option(help="Also write figures, scores and plots into this folder.")] = None,
    resamples: Annotated[int, typer.Option(min=0, help="Bootstrap draws for the intervals; 0: none.")] = 1000,
    home: Home = None,
    config: Config = None,
) -> None:
    """Measure a model on labelled images it has not seen. Exit code 1 when a file could not be read."""
    from medd import pipeline, plugins, settings
    from medd.classify import classifier
    from medd.learn import assess, extra, manifest, report
    from medd.registry.find import find_folder, shipped

    extra.require("sklearn", "scipy", "matplotlib")
    known = settings.load(home, config)
    manager = pipeline.load_plugins(known)
    specs = plugins.classifiers(manager)
    folders = [find_folder(model, specs, known.models_dir) if model else shipped(known.model.classifier, specs)]
    if against:
        folders.append(find_folder(against, specs, known.models_dir))
    models = [classifier.load(folder, specs, threads=known.worker.threads) for folder in folders]

    samples, skipped = manifest.read(data, least_labels=1)
    chosen, side = assess.choose(samples, split, folders[0])
    material = assess.assess(chosen, models, manager, negative, progress=True)
    material.skipped[:0] = skipped
    if unnamed := manifest.unnamed(material.samples):
        print(f"medd: {unnamed}; name them in a CSV", file=sys.stderr)
    for file in material.skipped:
        print(f"skipped {file.path}: {file.why}", file=sys.stderr)
    told = report.report(data, side, material, folders, resamples)
    for one in [told, told["against"]] if against else [told]:
        if trained := one["seen"]["train"] + one["seen"]["val"]:
            print(
                f"medd: {trained} of these images took part in the training of {one['model']}: its figures on them "
                "say little of new ones",
                file=sys.stderr,
            )
    if output:
        try:
            report.write(output, told, material)
        except OSError as error:
            raise SettingsError(f"{error.filename}: {error.strerror}") from error
    _show(told, report.rows(told, material), material.metrics, style)
    raise typer.Exit(1 if material.skipped else 0)


def _show(told: dict[str, Any], rows: list[dict[str, Any]], names: Sequence[str], style: Format) -> None:
    if style is Format.JSON:
        print(json.dumps(told, indent=2))
        return
    if style is not Format.TABLE:
        write_rows(rows, list(rows[0]), style, ())
        return
    part = "all" if told["split"] == "all" else f"the {told['split']} part"
    print(f"{told['model']} on {part} of {told['data']}: {told['n']} images of {told['patients']} patients")
    if told["not_assessed"]:
        reasons = ", ".join(f"{reason} {count}" for reason, count in told["not_assessed_reasons"].items())
        print(f"not assessed: {told['not_assessed']} more ({reasons}); the figures are of those assessed")
    write_rows(_metrics(told, names), (), style, ("metric", "value", "low", "high"))
    print("threshold {threshold:.4g}: {confusion[tp]} found, {confusion[fn]} missed, {confusion[tn]} rightly clear, "
          "{confusion[fp]} false alarms".format(**told))  # fmt: skip
    if len(rows) > 1:
        print()
        write_rows(rows, (), style, ("model", "group", "value", "n", *names))
    if told.get("comparison"):
        print(_sentence(told["comparison"]))


def _metrics(told: dict[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
    intervals = told.get("ci", {})
    return [
        {"metric": name, "value": told[name]} | dict(zip(("low", "high"), intervals.get(name) or (), strict=False))
        for name in names
    ]


def _sentence(found: dict[str, Any]) -> str:
    text = (
        f"{found['a']} against {found['b']} on the {found['n']} images that both assess: accuracy "
        f"{found['accuracy_a']:.3f} against {found['accuracy_b']:.3f}, right alone {found['only_a_right']} against "
        f"{found['only_b_right']} (McNemar p {found['mcnemar_p']:.2g})"
    )
    if found["auroc_difference"] is not None:
        text += f"; AUROC {found['auroc_a']:.3f} against {found['auroc_b']:.3f}"
    if found["auroc_interval"] is not None:
        low, high = found["auroc_interval"]
        text += f", difference {found['auroc_difference']:+.4f} ({low:+.4f} to {high:+.4f}"
        text += f", DeLong p {found['delong_p']:.2g})"
    return text
