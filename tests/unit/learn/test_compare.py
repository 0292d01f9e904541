from math import comb

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medd.learn.compare import compare, delong

Pair = tuple[np.ndarray, np.ndarray, np.ndarray]


def pair(n: int = 300, seed: int = 0, gain_a: float = 1.2, gain_b: float = 0.8, digits: int = 2) -> Pair:
    """Truth and two models' scores that share most of their noise; rounded, so that there are ties."""
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.6
    shared = rng.normal(size=n)
    raw = [truth * gain + shared + 0.6 * rng.normal(size=n) for gain in (gain_a, gain_b)]
    a, b = (np.round(1 / (1 + np.exp(-x)), digits) for x in raw)
    return truth, a, b


def brute_force_covariance(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """DeLong 1988 as it is written: every positive against every negative."""
    found, clear = scores[:, truth], scores[:, ~truth]
    wins = (found[:, :, None] > clear[:, None, :]) + 0.5 * (found[:, :, None] == clear[:, None, :])
    return np.cov(wins.mean(axis=2)) / truth.sum() + np.cov(wins.mean(axis=1)) / (~truth).sum()


def test_the_fast_form_is_delongs_own_with_ties():
    truth, a, b = pair(digits=1)
    areas, covariance = delong(truth, np.stack([a, b]))
    assert areas == pytest.approx([roc_auc_score(truth, a), roc_auc_score(truth, b)])
    np.testing.assert_allclose(covariance, brute_force_covariance(truth, np.stack([a, b])), rtol=1e-9)


def test_the_interval_is_the_bootstraps():
    truth, a, b = pair(400)
    low, high = compare(truth, a, b, 0.5, 0.5).auroc_interval
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(800):
        which = rng.integers(0, len(truth), len(truth))
        drawn.append(roc_auc_score(truth[which], a[which]) - roc_auc_score(truth[which], b[which]))
    expected = np.percentile(drawn, [2.5, 97.5])
    assert [low, high] == pytest.approx(expected, abs=0.15 * (expected[1] - expected[0]))


def test_equal_models_differ_significantly_in_one_draw_of_twenty():
    p = [compare(*pair(120, seed, 1, 1), 0.5, 0.5).delong_p for seed in range(300)]
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.03)


def test_the_better_model_is_seen_to_be_better():
    found = compare(*pair(600, 0, 2.0, 0.5), 0.7, 0.6)
    assert found.auroc_difference == pytest.approx(found.auroc_a - found.auroc_b)
    assert found.auroc_interval[0] > 0
    assert found.delong_p < 1e-6
    assert found.accuracy_difference == pytest.approx(found.accuracy_a - found.accuracy_b)
    assert found.mcnemar_p < 1e-3


def test_swapping_the_models_swaps_the_signs():
    truth, a, b = pair()
    forth, back = compare(truth, a, b, 0.6, 0.5), compare(truth, b, a, 0.5, 0.6)
    assert (forth.only_a_right, forth.only_b_right) == (back.only_b_right, back.only_a_right)
    assert forth.accuracy_difference == -back.accuracy_difference
    assert forth.auroc_interval == pytest.approx((-back.auroc_interval[1], -back.auroc_interval[0]))
    assert (forth.mcnemar_p, forth.delong_p) == pytest.approx((back.mcnemar_p, back.delong_p))


def test_accuracy_is_compared_by_the_exact_binomial_over_the_disagreements():
    # Eleven disagreements among a hundred images, nine for A: P(X <= 2) twice, X ~ B(11, 1/2).
    truth = np.ones(100, bool)
    a, b = np.full(100, 0.9), np.full(100, 0.9)
    b[:9], a[9:11] = 0.1, 0.1
    found = compare(truth, a, b, 0.5, 0.5)
    assert (found.n, found.only_a_right, found.only_b_right) == (100, 9, 2)
    assert found.mcnemar_p == pytest.approx(2 * sum(comb(11, k) for k in range(3)) / 2**11)


def test_each_model_decides_at_its_own_threshold():
    truth = np.array([True, False])
    found = compare(truth, np.array([0.3, 0.1]), np.array([0.9, 0.6]), 0.2, 0.7)
    assert (found.accuracy_a, found.accuracy_b) == (1, 1)


def test_a_model_is_not_better_than_itself():
    truth, a, _ = pair()
    found = compare(truth, a, a, 0.5, 0.5)
    assert (found.auroc_difference, found.auroc_interval, found.delong_p, found.mcnemar_p) == (0, (0, 0), 1, 1)


def test_copies_of_a_patients_images_say_nothing_new():
    truth, a, b = pair()
    whose = [str(n) for n in range(len(truth))]
    once = compare(truth, a, b, 0.5, 0.5, patients=whose)
    assert once.auroc_interval == pytest.approx(compare(truth, a, b, 0.5, 0.5).auroc_interval)
    thrice = compare(*(np.repeat(x, 3) for x in (truth, a, b)), 0.5, 0.5, patients=np.repeat(whose, 3).tolist())
    assert thrice.auroc_interval == pytest.approx(once.auroc_interval)
    assert thrice.delong_p == pytest.approx(once.delong_p)


def test_patients_with_both_classes_are_allowed_for():
    # Each patient has a healthy and an ill image whose scores move together: the difference within patients is stable.
    rng = np.random.default_rng(0)
    of_patient = np.repeat(rng.normal(size=200), 2)
    truth = np.tile([True, False], 200)
    score = of_patient + 0.5 * truth + 0.1 * rng.normal(size=400)
    whose = np.repeat(np.arange(200), 2).astype(str).tolist()
    _, clustered = delong(truth, score[None], whose)
    drawn = []
    for _ in range(500):
        which = (2 * rng.integers(0, 200, 200)[:, None] + [0, 1]).ravel()
        drawn.append(roc_auc_score(truth[which], score[which]))
    assert clustered[0, 0] ** 0.5 == pytest.approx(np.std(drawn), rel=0.15)
    assert clustered[0, 0] < 0.5 * delong(truth, score[None])[1][0, 0]


@pytest.mark.parametrize("findings", [True, False])
def test_one_class_alone_has_an_accuracy_and_no_auroc(findings):
    truth = np.full(4, findings)
    found = compare(truth, np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.9, 0.9, 0.1, 0.9]), 0.5, 0.5)
    assert found.accuracy_a == 0.5
    assert (found.auroc_a, found.auroc_difference, found.auroc_interval, found.delong_p) == (None,) * 4


def test_one_image_of_a_class_has_an_auroc_and_no_interval():
    found = compare(np.array([True, False, False]), np.array([0.9, 0.1, 0.2]), np.array([0.1, 0.5, 0.0]), 0.5, 0.5)
    assert (found.auroc_a, found.auroc_b) == (1, 0.5)
    assert (found.auroc_interval, found.delong_p) == (None, None)


def test_no_image_or_arrays_that_differ_are_an_error():
    with pytest.raises(ValueError, match="as many scores"):
        compare(np.array([], bool), np.array([]), np.array([]), 0.5, 0.5)
    with pytest.raises(ValueError, match="as many scores"):
        compare(np.array([True]), np.array([0.5, 0.5]), np.array([0.5]), 0.5, 0.5)
