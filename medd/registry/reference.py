"""What a model saw and said of its own held-out images: what later images are compared with. Kept in the bundle."""

from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field, model_validator

from medd.errors import ModelUnusable

#: Bins of a distribution: the reference's tenths, as is usual for the population stability index.
BINS = 10


class Distribution(BaseModel):
    """How one quantity is distributed, in bins that hold equal shares as far as equal values allow."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Borders between the bins, rising; bin k holds edges[k - 1] ≤ x < edges[k], the outer two are open.
    edges: tuple[float, ...] = Field(min_length=1)
    #: Images in each bin; one more than edges.
    counts: tuple[int, ...]
    mean: float
    #: Standard deviation, of the population.
    std: float = Field(ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.counts) != len(self.edges) + 1 or min(self.counts) < 0 or not sum(self.counts):
            raise ValueError("one count for each bin is needed, and one of them above 0")
        if not all(low < high for low, high in pairwise(self.edges)):
            raise ValueError("edges must rise")
        return self

    @property
    def images(self) -> int:
        """How many images it was measured on."""
        return sum(self.counts)


class Reference(BaseModel):
    """The distributions of a bundle's held-out images, as its serving network scored them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Probability of a finding, in [0, 1].
    score: Distribution
    #: Mean of the decoded image, in [0, 1].
    input_mean: Distribution
    #: Its standard deviation.
    input_std: Distribution


def distribution(values: ArrayLike) -> Distribution:
    """Measure a distribution.

    Args:
        values: (N,) finite numbers, at least one.
    """
    found = np.asarray(values, np.float64)
    edges = np.unique(np.quantile(found, np.arange(1, BINS) / BINS))
    counts = np.bincount(np.searchsorted(edges, found, side="right"), minlength=len(edges) + 1)
    return Distribution(
        edges=tuple(edges.tolist()), counts=tuple(counts.tolist()), mean=float(found.mean()), std=float(found.std())
    )


def reference(scores: ArrayLike, means: ArrayLike, stds: ArrayLike) -> Reference:
    """What to compare later images with.

    Args:
        scores: (N,) probability of a finding of the held-out images, validation and test, not augmented, as served.
        means: (N,) mean of each decoded image, in [0, 1].
        stds: (N,) its standard deviation.

    Raises:
        ModelUnusable: There are no images, or not all numbers are finite.
    """
    table = np.array([scores, means, stds], np.float64)
    if not table.size or not np.isfinite(table).all():
        raise ModelUnusable(f"drift: a reference needs images and finite numbers. Received: {table.shape[1]} images")
    return Reference(score=distribution(scores), input_mean=distribution(means), input_std=distribution(stds))
