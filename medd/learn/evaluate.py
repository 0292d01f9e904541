"""What a model is worth on images it has not seen, measured with the runtime that serves it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medd.classify.classifier import LoadedModel
from medd.learn import metrics
from medd.learn.dataset import Part

_BATCH = 64


def score(model: LoadedModel, part: Part) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Score a part.

    Returns:
        (N,) bool, whether a positive label is true, and (N,) float32, the summed probability of the positive labels.
    """
    bundle = model.bundle
    positive = [bundle.labels.index(label) for label in bundle.positive_labels]
    starts = range(0, len(part), _BATCH)
    scores = np.concatenate([model.predict(part.inputs(start, start + _BATCH)) for start in starts])
    return np.isin(part.truth, positive), np.minimum(scores[:, positive].sum(axis=1), 1)


def evaluate(model: LoadedModel, part: Part, *, resamples: int = 1000) -> dict[str, Any]:
    """Measure a model on a part at its threshold.

    Args:
        model: The model.
        part: The images.
        resamples: For the 95 % intervals by patient; 0 leaves them out.

    Returns:
        What ``medd evaluate --format json`` shows: n, patients, accuracy, auroc, sensitivity, specificity, brier, ece,
        threshold, confusion {tn, fp, fn, tp}, model, and with `resamples` ci {metric: [low, high]}.
    """
    truth, scores = score(model, part)
    threshold = model.bundle.threshold
    patients = [sample.patient for sample in part.samples]
    figures = metrics.figures(truth, scores, threshold)
    result: dict[str, Any] = {
        "n": len(part),
        "patients": len(set(patients)),
        **{name: round(value, 4) for name, value in figures.items()},
        "threshold": threshold,
        "confusion": metrics.confusion(truth, scores, threshold),
        "model": model.bundle.ref,
    }
    if resamples:
        ci = metrics.intervals(truth, scores, threshold, patients, resamples=resamples)
        result["ci"] = {name: [round(low, 4), round(high, 4)] for name, (low, high) in ci.items()}
    return result
