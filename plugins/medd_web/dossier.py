"""What is known of one model, ready to be shown: figures with their intervals, curves, training, card.

Bundles and evaluations are files that others may have written: what is not as it should be is left out.
"""

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medd.errors import ModelUnusable
from medd.hookspecs import ClassifierSpec
from medd.learn.curves import BINS, FILE
from medd.records import ModelVersion
from medd.registry import bundle as bundles
from medd.registry.bundle import Bundle
from medd_web import charts
from medd_web.charts import Chart, Curve, Measured, Series, wilson
from medd_web.context import plain

#: Figures in [0, 1] of which more is better, and those of which less is.
SHARES = {
    "accuracy": "accuracy",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "ppv": "PPV",
    "npv": "NPV",
}
ERRORS = {"brier": "Brier score", "ece": "calibration error"}
#: Files larger than this are not read: nothing that is shown is.
_MAX_BYTES = 1 << 20
_MAX_POINTS = 1000


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a model was measured at, once."""

    title: str
    #: On what, in a sentence.
    on: str
    threshold: float | None
    shares: list[Measured]
    errors: list[Measured]
    #: {tn, fp, fn, tp}, or nothing.
    confusion: Mapping[str, int]
    charts: list[Chart]


@dataclass(frozen=True, slots=True)
class Dossier:
    """One model."""

    model: ModelVersion
    #: None where it cannot be read; `unusable` says why.
    bundle: Bundle | None = None
    folder: Path | None = None
    unusable: str = ""
    evaluations: list[Evaluation] = field(default_factory=list)
    training: list[Chart] = field(default_factory=list)
    #: PNG files that the bundle holds, and nobody here draws better.
    plots: list[str] = field(default_factory=list)
    #: Text.
    card: str = ""

    @property
    def shares(self) -> dict[str, Measured]:
        """What was measured when it was made, by the names of `SHARES`."""
        evaluation = self.bundle.evaluation if self.bundle else {}
        return {name: measured(evaluation, name) for name in SHARES}


def open_bundle(model: ModelVersion, spec: ClassifierSpec) -> tuple[Bundle, Path]:
    """A model's bundle and its folder; where a plugin that ships it lies, the plugin knows best.

    Raises:
        ModelUnusable: It cannot be read.
    """
    try:
        return bundles.read(model.path, verify=False), model.path
    except ModelUnusable:
        if spec.bundle is None or (shipped := bundles.read(spec.bundle, verify=False)).ref != model.ref:
            raise
        return shipped, spec.bundle


def compile_dossier(model: ModelVersion, spec: ClassifierSpec, evaluations: Path, *, brief: bool = False) -> Dossier:
    """Put together what is known of a model.

    Args:
        model: The model.
        spec: Its classifier.
        evaluations: A folder of folders that ``medd evaluate --output`` wrote.
        brief: Leave out what takes reading more than its description.
    """
    try:
        bundle, folder = open_bundle(model, spec)
    except ModelUnusable as error:
        return Dossier(model, unusable=str(error))
    if brief:
        return Dossier(model, bundle, folder)
    about = spec.about if spec.bundle is not None and folder == spec.bundle else None
    drawn = [name for name in bundle.files if name.endswith(".png") and name not in ("accuracy.png", "loss.png")]
    return Dossier(
        model,
        bundle,
        folder,
        evaluations=list(_evaluations(bundle, folder, about, evaluations)),
        training=_history(folder),
        plots=drawn if "history.csv" in bundle.files else [one for one in bundle.files if one.endswith(".png")],
        card="\n".join(plain(line, 1000) for line in _text((about or folder) / "MODEL_CARD.md").splitlines()),
    )


def measured(figures: Mapping[str, Any], name: str) -> Measured:
    """A figure with its interval, where they are numbers."""
    spans = figures.get("ci")
    low, high = (spans.get(name) if isinstance(spans, dict) else None) or (None, None)
    return Measured(
        (SHARES | ERRORS)[name], _share(figures.get(name)), _share(low), _share(high), _count(figures.get("n"))
    )


def draw_curves(curves: Mapping[str, Any], figures: Mapping[str, Any], name: str) -> list[Chart]:
    """ROC, precision over recall and reliability, as far as there are points of them.

    Args:
        curves: As `medd.learn.curves.curves` gives them.
        figures: As `medd.learn.evaluate.measure` gives them, for the point at the threshold.
        name: Of the model.
    """
    found: list[Chart] = []
    sensitivity, specificity, ppv = (_share(figures.get(one)) for one in ("sensitivity", "specificity", "ppv"))
    threshold = _share(figures.get("threshold"))
    at = f"threshold {threshold:.3g}" if threshold is not None else "threshold"
    if roc := _points(curves.get("roc")):
        marks = [(1 - specificity, sensitivity, at)] if sensitivity is not None and specificity is not None else []
        line = Curve(name, "s1", roc, marks)
        axes = "1 − specificity", "sensitivity"
        found.append(charts.unit_square(f"ROC{_and(figures, 'auroc')}", *axes, [line], diagonal="chance"))
    if recall := _points(curves.get("precision_recall")):
        marks = [(sensitivity, ppv, at)] if sensitivity is not None and ppv is not None else []
        line = Curve(name, "s1", recall, marks)
        share = recall[-1][1]  # at the lowest threshold everything is positive
        axes, title = ("recall (sensitivity)", "precision (PPV)"), f"Precision and recall{_and(figures, 'auprc')}"
        found.append(charts.unit_square(title, *axes, [line], level=share))
    if bins := _bins(curves.get("reliability")):
        points = [(score, hits / n) for score, hits, n in bins]
        spans = [(score, *wilson(hits, n)) for score, hits, n in bins]
        marks = [(x, y, f"{hits} of {n}") for (x, y), (_, hits, n) in zip(points, bins, strict=True)]
        line = Curve(name, "s1", points, marks, spans)
        axes = "probability of the finding", "share with the finding"
        found.append(charts.unit_square(f"Reliability{_and(figures, 'ece')}", *axes, [line], diagonal="calibrated"))
    return found


def _and(figures: Mapping[str, Any], name: str) -> str:
    """A figure behind the name of its curve, where it is known."""
    told = measured(figures, name)
    return f": {told.name} {told}" if told.value is not None else ""


def _evaluations(bundle: Bundle, folder: Path, about: Path | None, elsewhere: Path) -> Iterator[Evaluation]:
    own = _curves_of(folder, bundle.ref)
    told = list(_folders(about, bundle.ref)) if about else []
    if not own and told:  # what is shipped beside a bundle was measured on the same images: its curves belong there
        own = _curves_of(told[0], bundle.ref)
        told = told[1:]
    if bundle.evaluation:
        on = str(bundle.evaluation.get("measured_on", ""))
        yield _evaluation("When it was made", on, bundle.evaluation, own, bundle.ref)
    for place in [*told, *_folders(elsewhere, bundle.ref)]:
        figures = _json(place / "evaluation.json")
        mine = figures if figures.get("model") == bundle.ref else figures.get("against", {})
        on = f"{figures.get('data', '')}, {figures.get('split', 'all')}"
        yield _evaluation(place.name, on, mine, _curves_of(place, bundle.ref), bundle.ref)


def _evaluation(title: str, on: str, figures: Mapping[str, Any], curves: Mapping[str, Any], ref: str) -> Evaluation:
    cells = figures.get("confusion")
    n, patients = _count(figures.get("n")), _count(figures.get("patients"))
    counted = f"{n} images" + (f" of {patients} patients" if patients else "") if n else ""
    return Evaluation(
        title,
        ": ".join(part for part in (counted, on) if part),
        _share(figures.get("threshold")),
        [measured(figures, name) for name in SHARES],
        [measured(figures, name) for name in ERRORS],
        {name: count for name in ("tn", "fp", "fn", "tp") if (count := _count(cells.get(name))) is not None}
        if isinstance(cells, dict)
        else {},
        draw_curves(curves, figures, ref),
    )


def _folders(parent: Path, ref: str) -> Iterator[Path]:
    """Folders in `parent` that hold an evaluation of a model."""
    for file in sorted(parent.glob("*/evaluation.json")):
        told = _json(file)
        against = told.get("against")
        if ref in (told.get("model"), against.get("model") if isinstance(against, dict) else None):
            yield file.parent


def _curves_of(folder: Path, ref: str) -> Mapping[str, Any]:
    found = _json(folder / FILE).get(ref)
    return found if isinstance(found, dict) else {}


def _history(folder: Path) -> list[Chart]:
    try:
        rows = list(csv.DictReader(_text(folder / "history.csv").splitlines()))[:_MAX_POINTS]
        labels = [row["epoch"] for row in rows]
        every = math.ceil(len(rows) / 8) or 1
        ticks = [(place, label) for place, label in enumerate(labels) if place % every == 0]
        return [
            charts.lines(
                quantity.capitalize(),
                "epoch",
                [
                    Series("training", "s1", [float(row[quantity]) for row in rows]),
                    Series("validation", "s2", [float(row[f"val_{quantity}"]) for row in rows]),
                ],
                labels,
                ticks,
            )
            for quantity in ("accuracy", "loss")
            if rows
        ]
    except (KeyError, ValueError, TypeError, csv.Error):
        return []


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(_MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _json(file: Path) -> dict[str, Any]:
    try:
        told = json.loads(_text(file) or "{}")
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _share(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value <= 1 else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _points(told: Any) -> list[tuple[float, float]]:
    if not isinstance(told, list) or not 2 <= len(told) <= _MAX_POINTS:
        return []
    pairs = [(_share(one[0]), _share(one[1])) for one in told if isinstance(one, list) and len(one) == 2]
    points = [(x, y) for x, y in pairs if x is not None and y is not None]
    return points if len(points) == len(told) else []


def _bins(told: Any) -> Sequence[tuple[float, int, int]]:
    """(mean score, with the finding, images) of each tenth."""
    if not isinstance(told, list) or len(told) > BINS:
        return []
    found = []
    for one in told:
        if not isinstance(one, dict):
            return []
        score, hits, images = _share(one.get("score")), _count(one.get("found")), _count(one.get("images"))
        if score is None or hits is None or not images or hits > images:
            return []
        found.append((score, hits, images))
    return found
