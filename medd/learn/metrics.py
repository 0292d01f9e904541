"""The figures of a two-way decision (finding or none), and how sure they are."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medd.hookspecs import Metric
from medd.registry.bundle import Calibration

#: Those of `figures`, each of which gets an interval.
METRICS = ("accuracy", "auroc", "auprc", "sensitivity", "specificity", "ppv", "npv", "brier", "ece")
#: Draws that are computed at once: bounds the memory.
_DRAWS = 100


def confusion(truth: NDArray[np.bool_], score: NDArray[np.floating], threshold: float) -> dict[str, int]:
    """Count {tn, fp, fn, tp}, positive being ``score >= threshold``.

    Args:
        truth: (N,) whether the finding is there.
        score: (N,) probability of the finding, in [0, 1].
        threshold: In [0, 1].
    """
    positive = score >= threshold
    cells = {"tn": ~truth & ~positive, "fp": ~truth & positive, "fn": truth & ~positive, "tp": truth & positive}
    return {name: int(cell.sum()) for name, cell in cells.items()}


def figures(
    truth: NDArray[np.bool_],
    score: NDArray[np.floating],
    threshold: float,
    weight: NDArray[np.floating] | None = None,
    more: Sequence[Metric] = (),
) -> dict[str, float]:
    """Compute every one of `METRICS` and of `more`; NaN is what these images cannot tell, as one class has no AUROC.

    Args:
        truth: (N,) whether the finding is there.
        score: (N,) probability of the finding, in [0, 1].
        threshold: In [0, 1].
        weight: (N,) how often each image counts; once when None.
        more: What plugins add.
    """
    weights = np.ones((1, len(score))) if weight is None else np.asarray(weight, float)[np.newaxis]
    return {name: float(values[0]) for name, values in _weighted(truth, score, threshold, weights, more).items()}


def _weighted(
    truth: NDArray[np.bool_],
    score: NDArray[np.floating],
    threshold: float,
    weights: NDArray[np.float64],
    more: Sequence[Metric],
) -> dict[str, NDArray[np.float64]]:
    """Compute `METRICS` and `more` for many weightings at once; scikit-learn, which the tests compare, takes one.

    Args:
        truth: (N,).
        score: (N,).
        threshold: In [0, 1].
        weights: (draws, N).
        more: Asked for each draw.

    Returns:
        (draws,) for each metric.
    """
    if not len(score):
        return {name: np.full(len(weights), np.nan) for name in (*METRICS, *(one.name for one in more))}
    positive, both = score >= threshold, truth.any() and not truth.all()
    order = np.argsort(score)[::-1]
    first = np.flatnonzero(np.diff(score[order], prepend=np.inf))  # where each run of equal scores begins
    found = np.add.reduceat((weights * truth)[:, order], first, axis=1)
    clear = np.add.reduceat((weights * ~truth)[:, order], first, axis=1)
    tp, fp = found.cumsum(axis=1), clear.cumsum(axis=1)  # at the threshold of each different score
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "accuracy": _share(weights, positive == truth),
            # A pair of a finding and a clear image counts when the finding scores higher, a half when equal.
            "auroc": (clear * (tp - found / 2)).sum(axis=1) / (tp[:, -1] * fp[:, -1]),
            # Average precision, without interpolation: the mean over the findings of the precision at their score.
            "auprc": (found * np.nan_to_num(tp / (tp + fp))).sum(axis=1) / np.where(fp[:, -1], tp[:, -1], np.nan),
            "sensitivity": _share(weights, positive, truth),
            "specificity": _share(weights, ~positive, ~truth),
            # Of one class alone both are 0 or 1 whatever the model.
            "ppv": _share(weights, truth, positive) if both else np.full(len(weights), np.nan),
            "npv": _share(weights, ~truth, ~positive) if both else np.full(len(weights), np.nan),
            "brier": weights @ (score - truth) ** 2 / weights.sum(axis=1),
            "ece": _calibration_error(truth, score, weights),
            **{
                one.name: np.array(
                    [float(one.compute(truth, score, threshold=threshold, sample_weight=w)) for w in weights]
                )
                for one in more
            },
        }


def _share(
    weights: NDArray[np.float64], which: NDArray[np.bool_], among: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """(draws, N) weights → (draws,) share of `which` among `among`."""
    if among is not None:
        weights, which = weights[:, among], which[among]
    return np.asarray(weights @ which / weights.sum(axis=1))


def _calibration_error(
    truth: NDArray[np.bool_], score: NDArray[np.floating], weights: NDArray[np.float64], bins: int = 15
) -> NDArray[np.float64]:
    """Expected calibration error: Guo et al. 2017, "On Calibration of Modern Neural Networks", eq. 3.

    The mean over equal bins of the score of |share of findings - mean score|, weighted by the bin's images.
    """
    in_bin = np.minimum((score * bins).astype(int), bins - 1)[:, np.newaxis] == np.arange(bins)
    gap = (weights * (truth - score)) @ in_bin
    return np.asarray(np.abs(gap).sum(axis=1) / weights.sum(axis=1))


def intervals(
    truth: NDArray[np.bool_],
    score: NDArray[np.floating],
    threshold: float,
    patients: Sequence[str],
    *,
    resamples: int = 1000,
    seed: int = 0,
    more: Sequence[Metric] = (),
) -> dict[str, tuple[float, float]]:
    """95 % intervals by the percentile bootstrap (Efron 1979), drawing patients: images of one are not independent.

    A draw that cannot tell a metric (no image of a class) is left out of that metric; NaN where none can, and for one
    patient. Where all decisions are right, or all wrong, no draw differs: then the bound is the exact one for as many
    patients (C. J. Clopper and E. S. Pearson, "The use of confidence or fiducial limits illustrated in the case of the
    binomial", Biometrika 26, 1934).

    Args:
        truth: (N,) whether the finding is there.
        score: (N,) probability of the finding, in [0, 1].
        threshold: In [0, 1].
        patients: (N,) whose image it is.
        resamples: How many draws, at least 1.
        seed: Of the draws.
        more: What plugins add.
    """
    names = (*METRICS, *(one.name for one in more))
    if len(set(patients)) < 2:
        return dict.fromkeys(names, (math.nan, math.nan))
    _, whose = np.unique(np.asarray(patients), return_inverse=True)
    number = whose.max() + 1
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
    for start in range(0, resamples, _DRAWS):
        count = min(_DRAWS, resamples - start)
        times = np.stack([np.bincount(rng.integers(0, number, number), minlength=number) for _ in range(count)])
        for name, values in _weighted(truth, score, threshold, times[:, whose].astype(float), more).items():
            drawn[name].append(values)
    found = {name: _interval(np.concatenate(values)) for name, values in drawn.items()}
    everybody, positive = np.ones_like(truth), score >= threshold
    among = {"accuracy": everybody, "sensitivity": truth, "specificity": ~truth, "ppv": positive, "npv": ~positive}
    for name, which in among.items():
        if found[name][0] == found[name][1]:
            found[name] = _exact(found[name][0], len(np.unique(whose[which])))
    return found


def _exact(share: float, patients: int) -> tuple[float, float]:
    """The 95 % interval where all of some patients are alike; NaN where a share is neither 0 nor 1."""
    bound = 0.025 ** (1 / patients)
    return {0.0: (0.0, 1 - bound), 1.0: (bound, 1.0)}.get(share, (math.nan, math.nan))


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (math.nan, math.nan)
    return float(low), float(high)


def threshold_for(truth: NDArray[np.bool_], score: NDArray[np.floating], sensitivity: float) -> float:
    """Choose the highest threshold, in steps of 0.0001, at which at least this share of the findings is positive."""
    found = np.sort(score[truth])
    may_miss = math.floor((1 - sensitivity) * len(found) + 1e-9)  # (1 - 0.9) * 10 is a little less than 1
    return math.floor(float(found[may_miss]) * 10_000) / 10_000


def calibrate(truth: NDArray[np.bool_], score: NDArray[np.floating], prevalence: float) -> Calibration:
    """Fit Platt's line to the log-odds of a score (Platt 1999, with his softened targets).

    Args:
        truth: (N,) whether the finding is there.
        score: (N,) probability of the finding, in [0, 1].
        prevalence: Share of findings among the images for which the result is to hold: findings and others are weighed
            accordingly, however many of each there are here.
    """
    from scipy.optimize import minimize

    p = np.clip(score.astype(np.float64), 1e-7, 1 - 1e-7)
    logit = np.log(p / (1 - p))
    found, others = int(truth.sum()), int((~truth).sum())
    target = np.where(truth, (found + 1) / (found + 2), 1 / (others + 2))
    weight = np.where(truth, prevalence / max(found, 1), (1 - prevalence) / max(others, 1))

    def loss(line: NDArray[np.float64]) -> float:
        z = np.exp(line[0]) * logit + line[1]  # the slope stays positive: a higher score is never less likely
        return float((weight * (np.logaddexp(0, z) - target * z)).sum())

    # A score that tells nothing, or everything, has no best slope: it is kept within a factor of twenty.
    bounds = [(-math.log(20), math.log(20)), (None, None)]
    options = {"xatol": 1e-6, "fatol": 1e-10}
    slope, intercept = minimize(loss, np.zeros(2), method="Nelder-Mead", bounds=bounds, options=options).x
    return Calibration(slope=round(float(np.exp(slope)), 6), intercept=round(float(intercept), 6))
