"""The figures of a two-way decision (finding or none), and how sure they are."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Those that get an interval.
METRICS = ("accuracy", "auroc", "sensitivity", "specificity", "brier", "ece")


def confusion(truth: NDArray[np.bool_], score: NDArray[np.floating], threshold: float) -> dict[str, int]:
    """Count {tn, fp, fn, tp}, positive being ``score >= threshold``.

    Args:
        truth: (N,) whether the finding is there.
        score: (N,) probability of the finding, in [0, 1].
        threshold: In [0, 1].
    """
    from sklearn.metrics import confusion_matrix

    cells = confusion_matrix(truth, score >= threshold, labels=[False, True]).ravel()
    return dict(zip(("tn", "fp", "fn", "tp"), map(int, cells), strict=True))


def figures(
    truth: NDArray[np.bool_],
    score: NDArray[np.floating],
    threshold: float,
    weight: NDArray[np.floating] | None = None,
) -> dict[str, float]:
    """Compute every one of `METRICS`. Both classes must be there.

    Args:
        truth: (N,) whether the finding is there.
        score: (N,) probability of the finding, in [0, 1].
        threshold: In [0, 1].
        weight: (N,) how often each image counts; once when None.
    """
    from sklearn.metrics import roc_auc_score

    weight = np.ones(len(score)) if weight is None else weight
    positive = score >= threshold
    return {
        "accuracy": float(np.average(positive == truth, weights=weight)),
        "auroc": float(roc_auc_score(truth, score, sample_weight=weight)),
        "sensitivity": float(np.average(positive[truth], weights=weight[truth])),
        "specificity": float(np.average(~positive[~truth], weights=weight[~truth])),
        "brier": float(np.average((score - truth) ** 2, weights=weight)),
        "ece": _calibration_error(truth, score, weight),
    }


def _calibration_error(
    truth: NDArray[np.bool_], score: NDArray[np.floating], weight: NDArray[np.floating], bins: int = 15
) -> float:
    """Expected calibration error: Guo et al. 2017, "On Calibration of Modern Neural Networks", eq. 3.

    The mean over equal bins of the score of |share of findings - mean score|, weighted by the bin's images.
    """
    which = np.minimum((score * bins).astype(int), bins - 1)
    gap = np.bincount(which, weight * (truth - score), minlength=bins)
    return float(np.abs(gap).sum() / weight.sum())


def intervals(
    truth: NDArray[np.bool_],
    score: NDArray[np.floating],
    threshold: float,
    patients: Sequence[str],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """95 % intervals by the percentile bootstrap (Efron 1979), drawing patients: images of one are not independent.

    Args:
        truth: (N,) whether the finding is there.
        score: (N,) probability of the finding, in [0, 1].
        threshold: In [0, 1].
        patients: (N,) whose image it is.
        resamples: How many draws.
        seed: Of the draws.
    """
    _, whose = np.unique(np.asarray(patients), return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        times = np.bincount(rng.integers(0, whose.max() + 1, whose.max() + 1), minlength=whose.max() + 1)
        weight = times[whose].astype(float)
        if weight[truth].any() and weight[~truth].any():
            drawn.append(list(figures(truth, score, threshold, weight).values()))
    low, high = np.percentile(np.array(drawn), [2.5, 97.5], axis=0)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(METRICS)}


def threshold_for(truth: NDArray[np.bool_], score: NDArray[np.floating], sensitivity: float) -> float:
    """Choose the highest threshold, in steps of 0.0001, at which at least this share of the findings is positive."""
    found = np.sort(score[truth])
    may_miss = int((1 - sensitivity) * len(found))
    return math.floor(float(found[may_miss]) * 10_000) / 10_000
