"""When a candidate may replace the champion."""

import numpy as np
import pytest

from medd.learn import gate
from medd.learn.compare import Comparison, compare

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


def objection(found: Comparison, refused: int = 0, refused_before: int = 0) -> str | None:
    """The first images are refused by the champion, and so many others by the candidate."""
    places = np.arange(found.n)
    before = places < refused_before
    return gate.objection(found, (places >= refused_before) & (places < refused_before + refused), before)


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


@pytest.mark.parametrize(
    ("refused", "before", "allowed"),
    [(0, 0, True), (5, 0, True), (6, 0, False), (10, 10, True), (0, 30, True), (30, 10, False)],
)
def test_better_candidate_that_judges_surely_fewer_images_is_refused(refused, before, allowed):
    told = objection(judged(0.4, 0.8), refused, before)
    assert (told is None) is allowed
    assert told is None or told.startswith("judges fewer images than the model on duty: refused ")
