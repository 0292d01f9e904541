"""What a model is worth on images it has not seen, measured with the runtime that serves it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medd.classify.classifier import LoadedModel
from medd.hookspecs import Metric
from medd.learn import metrics
from medd.learn.dataset import Part

_BATCH = 64


@dataclass(frozen=True, slots=True)
class Scored:
    """What a model says of the N images of a part.

    Attributes:
        truth: (N,) whether the finding is there, by the model's labels.
        scores: (N,) the summed probability of the positive labels, in [0, 1].
        refused: (N,) whether serving would not judge the image, as it is unlike those of the training.
        novelty: (N,) how unlike; None where the model cannot tell.
    """

    truth: NDArray[np.bool_]
    scores: NDArray[np.float32]
    refused: NDArray[np.bool_]
    novelty: NDArray[np.float32] | None


def score(model: LoadedModel, part: Part) -> Scored:
    """Score a part, which has images."""
    bundle = model.bundle
    positive = [bundle.labels.index(label) for label in bundle.positive_labels]
    told = [model.explain(part.inputs(start, start + _BATCH)) for start in range(0, len(part), _BATCH)]
    novelties = [one.novelty for one in told if one.novelty is not None]
    return Scored(
        truth=np.isin(part.truth, positive),
        scores=np.minimum(np.concatenate([one.probabilities for one in told])[:, positive].sum(axis=1), 1),
        refused=np.concatenate([model.refused(one) for one in told]),
        novelty=np.concatenate(novelties) if novelties else None,
    )


def evaluate(model: LoadedModel, part: Part, *, resamples: int = 1000) -> dict[str, Any]:
    """Measure a model on a part at its threshold; returns what `figures_of` gives."""
    return figures_of(model, part, score(model, part), resamples=resamples)


def figures_of(model: LoadedModel, part: Part, scored: Scored, *, resamples: int = 1000) -> dict[str, Any]:
    """Put the figures of a scored part together.

    Args:
        model: The model.
        part: The images.
        scored: What the model says of them.
        resamples: For the 95 % intervals by patient; 0 leaves them out.

    Returns:
        What `measure` gives, and model.
    """
    patients = [sample.patient for sample in part.samples]
    figures = measure(scored.truth, scored.scores, model.bundle.threshold, patients, resamples=resamples)
    return figures | {"model": model.bundle.ref}


def measure(
    truth: NDArray[np.bool_],
    scores: NDArray[np.floating],
    threshold: float,
    patients: Sequence[str],
    *,
    resamples: int = 1000,
    more: Sequence[Metric] = (),
) -> dict[str, Any]:
    """Put the figures of some images together as JSON has them; what the images cannot tell is None.

    Args:
        truth: (N,) whether the finding is there.
        scores: (N,) probability of the finding, in [0, 1].
        threshold: In [0, 1].
        patients: (N,) whose image it is.
        resamples: For the 95 % intervals by patient; 0 leaves them out.
        more: What plugins add.

    Returns:
        n, patients, every one of `medd.learn.metrics.METRICS` and of `more`, threshold, confusion {tn, fp, fn, tp},
        and with `resamples` ci {metric: [low, high]}.
    """
    figures = metrics.figures(truth, scores, threshold, more=more)
    result: dict[str, Any] = {
        "n": len(truth),
        "patients": len(set(patients)),
        **{name: _rounded(value) for name, value in figures.items()},
        "threshold": threshold,
        "confusion": metrics.confusion(truth, scores, threshold),
    }
    if resamples:
        ci = metrics.intervals(truth, scores, threshold, patients, resamples=resamples, more=more)
        result["ci"] = {
            name: [_rounded(low), _rounded(high)] if math.isfinite(low) else None for name, (low, high) in ci.items()
        }
    return result


def _rounded(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
