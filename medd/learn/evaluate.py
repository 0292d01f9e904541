"""What a model is worth on images it has not seen, measured with the runtime that serves it."""

import math
from collections.abc import Sequence
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
        What `measure` gives, and model.
    """
    truth, scores = score(model, part)
    patients = [sample.patient for sample in part.samples]
    figures = measure(truth, scores, model.bundle.threshold, patients, resamples=resamples)
    return figures | {"model": model.bundle.ref}


def measure(
    truth: NDArray[np.bool_],
    scores: NDArray[np.floating],
    threshold: float,
    patients: Sequence[str],
    *,
    resamples: int = 1000,
) -> dict[str, Any]:
    """Put the figures of some images together as JSON has them; what the images cannot tell is None.

    Args:
        truth: (N,) whether the finding is there.
        scores: (N,) probability of the finding, in [0, 1].
        threshold: In [0, 1].
        patients: (N,) whose image it is.
        resamples: For the 95 % intervals by patient; 0 leaves them out.

    Returns:
        n, patients, every one of `medd.learn.metrics.METRICS`, threshold, confusion {tn, fp, fn, tp}, and with
        `resamples` ci {metric: [low, high]}.
    """
    figures = metrics.figures(truth, scores, threshold)
    result: dict[str, Any] = {
        "n": len(truth),
        "patients": len(set(patients)),
        **{name: _rounded(value) for name, value in figures.items()},
        "threshold": threshold,
        "confusion": metrics.confusion(truth, scores, threshold),
    }
    if resamples:
        ci = metrics.intervals(truth, scores, threshold, patients, resamples=resamples)
        result["ci"] = {
            name: [_rounded(low), _rounded(high)] if math.isfinite(low) else None for name, (low, high) in ci.items()
        }
    return result


def _rounded(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
