"""Pictures of a training run, and of what a model is worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Of the first and the second model: told apart by the colour-blind too (Okabe & Ito 2008).
COLOURS = ("#0072B2", "#D55E00")
_NAMES = {"auroc": "AUROC", "auprc": "AUPRC", "ece": "ECE", "brier": "Brier"}
_BINS = 10


@dataclass(frozen=True, slots=True)
class Scored:
    """A model's scores, to be drawn."""

    #: "name/version".
    name: str
    #: (N,) whether the finding is there.
    truth: NDArray[np.bool_]
    #: (N,) probability of the finding, in [0, 1].
    scores: NDArray[np.float64]
    #: As `medd.learn.evaluate.measure` gives them.
    figures: Mapping[str, Any]

    def label(self, *metrics: str) -> str:
        """The model with some of its figures and their intervals, a line for each."""
        lines = [self.name]
        for metric in metrics:
            interval = self.figures.get("ci", {}).get(metric)
            span = f" ({interval[0]:.3f} – {interval[1]:.3f})" if interval else ""
            lines.append(f"{_NAMES[metric]} {self.figures[metric]:.3f}{span}")
        return "\n".join(lines)


def history(path: Path, values: Mapping[str, Sequence[float]], quantity: str) -> None:
    """Draw one quantity over the epochs, training beside validation, as the article's figures do.

    Args:
        path: The PNG to write.
        values: Keras' history: quantity and "val_" + quantity, one value for each epoch.
        quantity: "accuracy" or "loss".
    """
    figure = new_figure(6, 4, dpi=80)
    axes = figure.add_subplot()
    epochs = range(1, len(values[quantity]) + 1)
    axes.plot(epochs, values[quantity], label="training")
    axes.plot(epochs, values[f"val_{quantity}"], label="validation")
    axes.set(xlabel="epoch", ylabel=quantity)
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)


def new_figure(width: float, height: float, dpi: int = 120) -> Any:
    """An empty matplotlib Figure of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=dpi, layout="constrained")


def save(figure: Any, path: Path) -> None:
    """Write a figure as PNG: the same figure gives the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # needs no display, and changes no global state

    FigureCanvasAgg(figure).print_png(path, metadata={"Software": None})


def roc(path: Path, curves: Sequence[Scored]) -> None:
    """Draw ROC curves, with the operating point of each model; both classes must be there."""
    from sklearn.metrics import roc_curve

    figure = new_figure(5, 5)
    axes = figure.add_subplot(aspect="equal")
    axes.plot([0, 1], [0, 1], color="0.6", lw=1, ls="--", label="chance")
    for curve, colour in zip(curves, COLOURS, strict=False):
        false, true, _ = roc_curve(curve.truth, curve.scores)
        axes.plot(false, true, color=colour, lw=1.8, label=curve.label("auroc"))
        told = curve.figures
        mark = f"threshold {told['threshold']:.3g}"
        axes.plot(1 - told["specificity"], told["sensitivity"], "o", color=colour, mec="white", ms=8, label=mark)
    axes.set(xlabel="1 − specificity", ylabel="sensitivity", title=_title("ROC", curves))
    _unit_square(axes)
    axes.legend(loc="lower right", fontsize=8, framealpha=0.9)
    save(figure, path)


def precision_recall(path: Path, curves: Sequence[Scored]) -> None:
    """Draw precision (PPV) over recall (sensitivity); both classes must be there."""
    from sklearn.metrics import precision_recall_curve

    figure = new_figure(5, 5)
    axes = figure.add_subplot(aspect="equal")
    share = float(curves[0].truth.mean())
    axes.axhline(share, color="0.6", lw=1, ls="--", label=f"chance: {share:.0%} have the finding")
    for curve, colour in zip(curves, COLOURS, strict=False):
        precision, recall, _ = precision_recall_curve(curve.truth, curve.scores)
        axes.plot(recall, precision, color=colour, lw=1.8, drawstyle="steps-post", label=curve.label("auprc"))
        told = curve.figures
        if told["ppv"] is not None:
            mark = f"threshold {told['threshold']:.3g}"
            axes.plot(told["sensitivity"], told["ppv"], "o", color=colour, mec="white", ms=8, label=mark)
    axes.set(xlabel="recall (sensitivity)", ylabel="precision (PPV)", title=_title("Precision and recall", curves))
    _unit_square(axes)
    axes.legend(loc="lower left", fontsize=8, framealpha=0.9)
    save(figure, path)


def reliability(path: Path, curves: Sequence[Scored]) -> None:
    """Draw how often the finding is there among images of a like score; and beneath, how many images there are."""
    from scipy.stats import beta

    figure = new_figure(5, 6)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    above.plot([0, 1], [0, 1], color="0.6", lw=1, ls="--", label="calibrated")
    edges = np.linspace(0, 1, _BINS + 1)
    for number, (curve, colour) in enumerate(zip(curves, COLOURS, strict=False)):
        which = np.minimum((curve.scores * _BINS).astype(int), _BINS - 1)
        images = np.bincount(which, minlength=_BINS)
        filled = np.flatnonzero(images)
        found = np.bincount(which, curve.truth, minlength=_BINS)[filled]
        score = np.bincount(which, curve.scores, minlength=_BINS)[filled] / images[filled]
        share = found / images[filled]
        # Jeffreys' interval (Brown, Cai & DasGupta 2001): of a bin with few images nearly nothing is known.
        low, high = beta.ppf([[0.025], [0.975]], found + 0.5, images[filled] - found + 0.5)
        reach = np.maximum(0, [share - low, high - share])
        label = curve.label("ece", "brier")
        above.errorbar(
            score, share, reach, fmt="o-", color=colour, lw=1.5, ms=4, elinewidth=0.8, capsize=2, label=label
        )
        width = 1 / _BINS / len(curves)
        below.bar(edges[:-1] + number * width, images, width, align="edge", color=colour, alpha=0.7, ec="white")
    above.set(ylabel="share with the finding", title=_title("Reliability", curves))
    _unit_square(above)
    above.legend(loc="upper left", fontsize=8, framealpha=0.9)
    below.set(xlabel="probability of the finding", ylabel="images")
    below.grid(alpha=0.3)
    save(figure, path)


def confusion(path: Path, curves: Sequence[Scored]) -> None:
    """Draw a table of truth and decision for each model: counts, and the share of their row."""
    figure = new_figure(4.2 * len(curves), 4)
    for axes, curve in zip(np.atleast_1d(figure.subplots(1, len(curves))), curves, strict=True):
        cells = curve.figures["confusion"]
        counts = np.array([[cells["tn"], cells["fp"]], [cells["fn"], cells["tp"]]])
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts):
            share = shares[row, column]
            colour = "white" if share > 0.5 else "black"
            axes.text(column, row, f"{count}\n{share:.1%}", ha="center", va="center", color=colour, fontsize=13)
        names = ("no finding", "finding")
        axes.set_xticks((0, 1), names)
        axes.set_yticks((0, 1), names, rotation=90, va="center")
        title = f"{curve.name}, threshold {curve.figures['threshold']:.3g}"
        axes.set(xlabel="decided", ylabel="true", title=title)
    save(figure, path)


def _title(what: str, curves: Sequence[Scored]) -> str:
    told = curves[0].figures
    return f"{what}: {told['n']} images of {told['patients']} patients"


def _unit_square(axes: Any) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.grid(alpha=0.3)
