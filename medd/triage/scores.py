"""Scores with the sensitivity and specificity that were measured of a model.

The binormal model of ROC analysis (Green & Swets 1966) with equal variances: on a scale of their own, scores of studies
without a finding follow N(0, 1) and of those with one N(μ, 1). With the threshold t,

    specificity = Φ(t)        sensitivity = Φ(μ - t)        AUROC = Φ(μ / √2)

Only the order of scores and the side of the threshold matter to a worklist, so the scale is bent into [0, 1] by a
logistic curve with the threshold at 0.5.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Any, Self

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from medd.errors import SettingsError

THRESHOLD = 0.5
#: Nothing is surer than this: a share of 1 would lie at infinity.
_EDGE = 1e-9
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Scores:
    """How scores of studies with and without a finding are distributed; both figures in [0, 1]."""

    sensitivity: float
    specificity: float

    @classmethod
    def of(cls, evaluation: Mapping[str, Any], ref: str) -> Self:
        """As a bundle's own evaluation has it.

        Raises:
            SettingsError: It has not.
        """
        sensitivity, specificity = evaluation.get("sensitivity"), evaluation.get("specificity")
        if not isinstance(sensitivity, int | float) or not isinstance(specificity, int | float):
            told = "its bundle tells no sensitivity and specificity; say --sensitivity and --specificity"
            raise SettingsError(f"{ref}: {told}")
        return cls(sensitivity, specificity)

    @staticmethod
    def refused(evaluation: Mapping[str, Any]) -> float:
        """Which share of images a bundle's model refused when it was evaluated, in [0, 1]."""
        refused, judged = evaluation.get("refused") or 0, evaluation.get("n") or 0
        return float(refused / (refused + judged)) if refused else 0.0

    @property
    def _cut(self) -> float:
        return _quantile(self.specificity)

    @property
    def _shift(self) -> float:
        return self._cut + _quantile(self.sensitivity)

    @property
    def auroc(self) -> float:
        """The area under the ROC curve that follows."""
        return _NORMAL.cdf(self._shift / sqrt(2))

    def draw(self, rng: Generator, truth: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Probabilities in [0, 1] for studies, (N,) as `truth`, which says whether each has a finding."""
        own_scale = rng.standard_normal(len(truth)) + self._shift * truth
        return np.asarray(1 / (1 + np.exp(self._cut - own_scale)))


def _quantile(share: float) -> float:
    return _NORMAL.inv_cdf(min(max(share, _EDGE), 1 - _EDGE))
