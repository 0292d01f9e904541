"""`medd evaluate`: all that is to be said of a model on some data, and of two models side by side."""

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medd.learn import groups, plots
from medd.learn.assess import Assessed, Material, seen
from medd.learn.compare import compare
from medd.learn.curves import write_curves


def report(data: Path, split: str, material: Material, folders: Sequence[Path], resamples: int) -> dict[str, Any]:
    """Put everything together, as ``medd evaluate --format json`` shows it.

    Args:
        data: DATA.
        split: Which side of it was taken.
        material: The images, with what one or two models say of them.
        folders: The models' bundles.
        resamples: For the intervals; 0 leaves them out.

    Returns:
        What `describe` gives for the first model, with data, split and skipped (files that could not be read); with a
        second one its description as against, and comparison (the first one being A).
    """
    first = describe(material.results[0], data, material, folders[0], resamples)
    told = {"data": data.name, "split": split, "skipped": len(material.skipped)} | first
    if len(material.results) > 1:
        told["against"] = describe(material.results[1], data, material, folders[1], resamples)
        told["comparison"] = _comparison(material)
    return told


def describe(one: Assessed, data: Path, material: Material, folder: Path, resamples: int) -> dict[str, Any]:
    """The figures of one model on what it assesses.

    Returns:
        What `medd.learn.evaluate.measure` gives; model; not_assessed, how many images it refuses, and
        not_assessed_reasons; where there are any, ungated, the figures as if it refused none that can be scored; seen,
        on which side of the model's own split the images stand; groups {grouping: {value: figures}}.
    """
    assessed, samples = one.assessed, material.samples
    scored = np.isfinite(one.scores)
    told = one.measure(samples, assessed, resamples)
    told |= {
        "model": one.model.bundle.ref,
        "not_assessed": int((~assessed).sum()),
        "not_assessed_reasons": dict(sorted(Counter(reason for reason in one.reasons if reason).items())),
        "seen": seen(samples, folder),
    }
    if not assessed.all():
        told["ungated"] = one.measure(samples, scored, resamples)
    told["groups"] = {
        name: {
            value: one.measure(samples, assessed & (np.array(values) == value), resamples) for value in _order(values)
        }
        for name, values in groups.group(data, samples, material.headers).items()
    }
    return told


def _order(values: Sequence[str]) -> list[str]:
    """Different values in the order to show them: numbers by size ("6–17" after "2–5"), what is not stated last."""

    def key(value: str) -> tuple[bool, float, str]:
        number = value.rstrip("+").partition("–")[0]
        return value == groups.UNKNOWN, float(number) if number.replace(".", "", 1).isdigit() else np.inf, value

    return sorted(set(values), key=key)


def _comparison(material: Material) -> dict[str, Any] | None:
    """Both models on what both assess; None where that is nothing."""
    a, b = material.results
    both = a.assessed & b.assessed
    if not both.any():
        return None
    patients = [sample.patient for sample, chosen in zip(material.samples, both, strict=True) if chosen]
    found = compare(
        a.truth[both],
        a.scores[both],
        b.scores[both],
        a.model.bundle.threshold,
        b.model.bundle.threshold,
        patients=patients,
    )
    return {"a": a.model.bundle.ref, "b": b.model.bundle.ref} | asdict(found)


def _described(told: dict[str, Any]) -> list[dict[str, Any]]:
    return [told, told["against"]] if "against" in told else [told]


def rows(told: dict[str, Any], material: Material) -> list[dict[str, Any]]:
    """The report as a table: a row for all images, and one for each sub-group; then the same of the second model."""
    made, names = [], material.metrics
    for one in _described(told):
        every = [(name, "", part) for name, part in (("all", one), ("ungated", one.get("ungated"))) if part]
        every += [(name, value, part) for name, values in one["groups"].items() for value, part in values.items()]
        for name, value, part in every:
            row = {"model": one["model"], "group": name, "value": value, "n": part["n"], "patients": part["patients"]}
            for metric in names:
                row[metric] = part[metric]
                row[f"{metric}_low"], row[f"{metric}_high"] = part.get("ci", {}).get(metric) or (None, None)
            made.append(row)
    return made


def write(folder: Path, told: dict[str, Any], material: Material) -> None:
    """Write ``evaluation.json``, ``curves.json``, ``groups.csv``, ``scores.csv`` and what plots the images allow."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps(told, indent=2) + "\n")
    table = rows(told, material)
    with (folder / "groups.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, table[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    with (folder / "scores.csv").open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(("path", "label", "finding", "model", "probability", "positive", "not_assessed"))
        for one in material.results:
            for sample, truth, score, reason in zip(material.samples, one.truth, one.scores, one.reasons, strict=True):
                positive = "" if np.isnan(score) else int(score >= one.model.bundle.threshold)
                probability = "" if np.isnan(score) else f"{score:.6f}"
                cells = (sample.path, sample.label, int(truth), one.model.bundle.ref, probability, positive, reason)
                lines.writerow(cells)
    scored = [
        plots.Scored(figures["model"], one.truth[one.assessed], one.scores[one.assessed], figures)
        for one, figures in zip(material.results, _described(told), strict=True)
    ]
    write_curves(folder, {one.name: (one.truth, one.scores) for one in scored})
    _draw(folder, scored)


def _draw(folder: Path, curves: "Sequence[plots.Scored]") -> None:
    if all(_both(one.truth) for one in curves):
        plots.roc(folder / "roc.png", curves)
        plots.precision_recall(folder / "precision_recall.png", curves)
    if all(len(one.truth) for one in curves):
        plots.reliability(folder / "reliability.png", curves)
        plots.confusion(folder / "confusion.png", curves)


def _both(truth: NDArray[np.bool_]) -> bool:
    return bool(truth.any() and not truth.all())
