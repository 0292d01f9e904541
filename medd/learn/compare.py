"""Two models on the same images: is one better, or was it luck?

Paired tests, as both see every image: what is hard for one is mostly hard for the other, and a difference shows that
two separate intervals would hide.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Comparison:
    """Model A beside model B. Differences are A - B; what the images cannot tell is None."""

    #: Images.
    n: int
    #: Share of right decisions, each at its model's own threshold; in [0, 1].
    accuracy_a: float
    accuracy_b: float
    accuracy_difference: float
    #: Images on which one decides rightly and the other wrongly.
    only_a_right: int
    only_b_right: int
    #: Exact McNemar test, two-sided: how likely such a split of the disagreements is between equally good models.
    mcnemar_p: float
    #: None where a class is missing.
    auroc_a: float | None
    auroc_b: float | None
    auroc_difference: float | None
    #: 95 % interval of the difference (DeLong); None with fewer than two patients of either class.
    auroc_interval: tuple[float, float] | None
    #: DeLong's test, two-sided.
    delong_p: float | None


def compare(
    truth: NDArray[np.bool_],
    score_a: NDArray[np.floating],
    score_b: NDArray[np.floating],
    threshold_a: float,
    threshold_b: float,
    *,
    patients: Sequence[str] | None = None,
) -> Comparison:
    """Compare two models, image by image.

    McNemar's test (McNemar 1947, "Note on the sampling error of the difference between correlated proportions") counts
    every image as independent; with many images of few patients its p is too small.

    Args:
        truth: (N,) whether the finding is there.
        score_a: (N,) probability of the finding, in [0, 1], by model A.
        score_b: (N,) the same by model B.
        threshold_a: Of model A, in [0, 1]; positive is ``score >= threshold``.
        threshold_b: Of model B.
        patients: (N,) whose image it is: the variance of the AUROC is then that of Obuchowski 1997, which allows for
            several images of a patient. Without it every image counts as a patient of its own.

    Raises:
        ValueError: There is no image, or the arrays differ in length.
    """
    from scipy.stats import binomtest

    if not len(truth) or not len(truth) == len(score_a) == len(score_b):
        raise ValueError(f"as many scores as images, and at least one. Received: {len(score_a)}, {len(score_b)}")
    right_a = (score_a >= threshold_a) == truth
    right_b = (score_b >= threshold_b) == truth
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    aurocs: tuple[float | None, float | None] = (None, None)
    difference = interval = delong_p = None
    if truth.any() and not truth.all():
        areas, covariance = delong(truth, np.stack([score_a, score_b]), patients)
        aurocs = float(areas[0]), float(areas[1])
        difference = aurocs[0] - aurocs[1]
        if np.isfinite(covariance).all():
            interval, delong_p = _normal_test(difference, covariance)
    return Comparison(
        n=len(truth),
        accuracy_a=float(right_a.mean()),
        accuracy_b=float(right_b.mean()),
        accuracy_difference=(only_a - only_b) / len(truth),
        only_a_right=only_a,
        only_b_right=only_b,
        mcnemar_p=float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0,
        auroc_a=aurocs[0],
        auroc_b=aurocs[1],
        auroc_difference=difference,
        auroc_interval=interval,
        delong_p=delong_p,
    )


def delong(
    truth: NDArray[np.bool_], scores: NDArray[np.floating], patients: Sequence[str] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute areas under ROC curves and their covariance.

    DeLong, DeLong & Clarke-Pearson 1988, "Comparing the areas under two or more correlated receiver operating
    characteristic curves", by midranks in O(N log N): Sun & Xu 2014, "Fast implementation of DeLong's algorithm",
    IEEE Signal Processing Letters 21(11), algorithm 2. With `patients` the placements are first summed by patient:
    Obuchowski 1997, "Nonparametric analysis of clustered ROC curve data", Biometrics 53, eq. 6; with one image for
    each patient that is DeLong's.

    Args:
        truth: (N,) whether the finding is there; both classes must be.
        scores: (models, N), any monotone scale.
        patients: (N,) whose image it is; each image a patient of its own when None.

    Returns:
        (models,) areas in [0, 1], and their (models, models) covariance, NaN with fewer than two patients of a class.
    """
    from scipy.stats import rankdata

    scores = np.asarray(scores, np.float64)
    n_positive, n_negative = int(truth.sum()), int((~truth).sum())
    overall = rankdata(scores, axis=1)
    # Placement of an image: the share of the other class that it stands on the right side of, ties counting half.
    placement = np.empty_like(scores)
    placement[:, truth] = (overall[:, truth] - rankdata(scores[:, truth], axis=1)) / n_negative
    placement[:, ~truth] = 1 - (overall[:, ~truth] - rankdata(scores[:, ~truth], axis=1)) / n_positive
    areas = placement[:, truth].mean(axis=1)

    whose = np.arange(len(truth)) if patients is None else np.unique(np.asarray(patients), return_inverse=True)[1]
    deviation = placement - areas[:, np.newaxis]
    positive, negative = (
        np.stack([np.bincount(whose, row * side, minlength=whose.max() + 1) for row in deviation]) / count
        for side, count in ((truth, n_positive), (~truth, n_negative))
    )
    with_positive, with_negative = len(np.unique(whose[truth])), len(np.unique(whose[~truth]))
    if min(with_positive, with_negative) < 2:
        return areas, np.full((len(scores), len(scores)), np.nan)
    both = positive @ negative.T
    total = whose.max() + 1
    covariance = (
        positive @ positive.T * with_positive / (with_positive - 1)
        + negative @ negative.T * with_negative / (with_negative - 1)
        + (both + both.T) * total / (total - 1)
    )
    return areas, covariance


def _normal_test(difference: float, covariance: NDArray[np.float64]) -> tuple[tuple[float, float], float]:
    """95 % interval and two-sided p of a difference of two areas, which is normal when N is large."""
    from scipy.stats import norm

    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    deviation = math.sqrt(max(variance, 0))  # two models of equal order differ by rounding alone
    if deviation < 1e-12:
        return (difference, difference), 1.0 if abs(difference) < 1e-12 else 0.0
    reach = float(norm.ppf(0.975)) * deviation
    return (difference - reach, difference + reach), float(2 * norm.sf(abs(difference) / deviation))
