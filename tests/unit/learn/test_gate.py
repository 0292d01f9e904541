"""When a candidate may replace the champion."""

import numpy as np
import pytest

from medd.learn.compare import Comparison, compare
from medd.learn.gate import objection

pytest.importorskip("scipy")


def judged(noise_a: float, noise_b: float, n: int = 400, seed: int = 0) -> Comparison:
    """Two models whose scores are the truth and so much noise."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % 2 == 0
    scores = [np.clip(truth + rng.normal(0, noise, n), 0, 1) for noise in (noise_a, noise_b)]
    return compare(truth, *scores, 0.5, 0.5)


def made(accuracy: float, p: float, auroc: float | None, delong_p: float | None) -> Comparison:
    """A comparison with these differences, candidate less champion."""
    return Comparison(
        100, 0.9 + accuracy, 0.9, accuracy, 0, 0, p,
        None if auroc is None else 0.9 + auroc, 0.9, auroc, None, delong_p,
    )  # fmt: skip


def test_better_candidate_goes_on_duty():
    assert objection(judged(0.4, 0.8)) is None


def test_worse_candidate_is_a_regression_with_its_figures():
    told = objection(judged(0.8, 0.4))
    assert told is not None
    assert told.startswith("regression: accuracy 0.8")
    assert "McNemar p = " in told
    assert "DeLong p = " in told
    assert told.endswith("on 400 images")


def test_the_same_model_again_is_no_gain():
    truth = np.arange(100) % 2 == 0
    scores = np.random.default_rng(0).random(100)
    told = objection(compare(truth, scores, scores, 0.5, 0.5))
    assert told is not None
    assert told.startswith("no better than the model on duty")


@pytest.mark.parametrize(
    ("found", "allowed"),
    [
        (made(0.01, 0.5, 0.0, 1.0), True),  # a little better in one, as good in the other
        (made(0.0, 1.0, 0.01, 0.5), True),
        (made(0.01, 0.5, -0.01, 0.5), False),  # better in one, worse in the other, both by chance
        (made(-0.01, 0.5, 0.05, 0.001), True),  # surely better in one, worse in the other by chance
        (made(-0.05, 0.01, 0.05, 0.001), False),  # surely worse in one
        (made(0.05, 0.001, -0.05, 0.01), False),
        (made(0.0, 1.0, 0.0, 1.0), False),
        (made(0.01, 0.5, None, None), True),  # a test part with one class alone
        (made(0.01, 0.5, 0.01, None), True),
    ],
)
def test_what_is_no_gain_is_refused(found, allowed):
    assert (objection(found) is None) is allowed
