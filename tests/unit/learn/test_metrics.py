import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from medd.learn import metrics

TRUTH = np.array([False, False, False, True, True, True, True, True])
SCORE = np.array([0.1, 0.4, 0.8, 0.3, 0.6, 0.7, 0.9, 1.0], np.float32)


def test_figures_of_a_small_table():
    figures = metrics.figures(TRUTH, SCORE, 0.5)
    assert tuple(figures) == metrics.METRICS
    assert metrics.confusion(TRUTH, SCORE, 0.5) == {"tn": 2, "fp": 1, "fn": 1, "tp": 4}
    assert figures["accuracy"] == pytest.approx(6 / 8)
    assert figures["sensitivity"] == pytest.approx(4 / 5)
    assert figures["specificity"] == pytest.approx(2 / 3)
    assert figures["auroc"] == pytest.approx(11 / 15)
    assert figures["ppv"] == pytest.approx(4 / 5)
    assert figures["npv"] == pytest.approx(2 / 3)
    assert figures["brier"] == pytest.approx(np.mean((SCORE - TRUTH) ** 2))


def test_figures_are_scikit_learns_with_ties_and_weights():
    rng = np.random.default_rng(0)
    for seed in range(5):
        truth = rng.random(200) < 0.6
        score = np.round(np.clip(0.3 * truth + 0.7 * rng.random(200), 0, 1), 1)
        weight = rng.integers(0, 3, 200).astype(float) if seed else np.ones(200)
        figures = metrics.figures(truth, score, 0.5, weight)
        assert figures["auroc"] == pytest.approx(roc_auc_score(truth, score, sample_weight=weight))
        assert figures["auprc"] == pytest.approx(average_precision_score(truth, score, sample_weight=weight))
        assert figures["brier"] == pytest.approx(brier_score_loss(truth, score, sample_weight=weight))


@pytest.mark.parametrize(("findings", "unknown"), [(True, {"specificity"}), (False, {"sensitivity"})])
def test_one_class_alone_leaves_open_what_needs_both(findings, unknown):
    unknown = unknown | {"auroc", "auprc", "ppv", "npv"}
    truth, score = np.full(4, findings), np.array([0.1, 0.6, 0.7, 0.9])
    figures = metrics.figures(truth, score, 0.5)
    assert {name for name, value in figures.items() if np.isnan(value)} == unknown
    intervals = metrics.intervals(truth, score, 0.5, list("abcd"), resamples=50)
    assert {name for name, (low, _) in intervals.items() if np.isnan(low)} == unknown


def test_no_image_at_all_leaves_everything_open():
    nothing = np.array([]), np.array([])
    assert np.isnan(list(metrics.figures(nothing[0].astype(bool), nothing[1], 0.5).values())).all()
    assert np.isnan(metrics.intervals(nothing[0].astype(bool), nothing[1], 0.5, [], resamples=2)["accuracy"]).all()


def test_a_score_on_the_threshold_is_positive():
    assert metrics.confusion(np.array([True]), np.array([0.5]), 0.5)["tp"] == 1


def test_a_weight_of_two_is_the_image_twice():
    weight = np.array([1, 2, 1, 0, 1, 1, 2, 1], float)
    twice = np.repeat(np.arange(8), weight.astype(int))
    assert metrics.figures(TRUTH, SCORE, 0.5, weight) == pytest.approx(metrics.figures(TRUTH[twice], SCORE[twice], 0.5))


def test_a_calibrated_score_has_no_calibration_error():
    truth = np.array([True, False, False, False] * 10)
    assert metrics.figures(truth, np.full(40, 0.25), 0.5)["ece"] == pytest.approx(0)


def test_intervals_hold_the_figure_and_narrow_with_more_patients():
    rng = np.random.default_rng(0)
    truth = rng.random(400) < 0.6
    score = np.clip(0.3 * truth + 0.7 * rng.random(400), 0, 1)
    widths = []
    for per_patient in (1, 20):
        patients = [str(n // per_patient) for n in range(400)]
        low, high = metrics.intervals(truth, score, 0.5, patients, resamples=200)["auroc"]
        assert low < metrics.figures(truth, score, 0.5)["auroc"] < high
        widths.append(high - low)
    copies = metrics.intervals(np.repeat(truth, 9), np.repeat(score, 9), 0.5, [str(n // 9) for n in range(3600)],
                               resamples=200)["auroc"]  # fmt: skip
    # Nine copies of each patient's image say nothing new.
    assert copies[1] - copies[0] == pytest.approx(widths[0], rel=0.01)


def test_a_draw_without_either_class_is_left_out():
    intervals = metrics.intervals(np.array([True, False]), np.array([0.9, 0.1]), 0.5, ["a", "b"], resamples=20)
    assert intervals["auroc"] == (1, 1)


def test_one_patient_has_no_interval():
    assert np.isnan(list(metrics.intervals(TRUTH, SCORE, 0.5, ["x"] * 8, resamples=20).values())).all()


def test_where_all_decisions_are_alike_the_interval_is_the_exact_one_for_the_patients():
    truth, score = np.repeat([True, False], 6), np.repeat([0.9, 0.8], 6)  # every finding is found, and all else too
    patients = [*"aabbcd", *"eefghi"]
    found = metrics.intervals(truth, score, 0.5, patients, resamples=20)
    assert found["sensitivity"] == pytest.approx((binomtest(4, 4).proportion_ci().low, 1))
    assert found["specificity"] == pytest.approx((0, binomtest(0, 5).proportion_ci().high))
    assert 0 < found["accuracy"][0] < found["accuracy"][1] < 1
    assert found["auroc"] == (1, 1)
    # Of the one patient with findings a part is found: nothing tells how unsure that is.
    alone = metrics.intervals(truth[:8], np.arange(8) / 8, 0.5, [*"aaaaaaef"], resamples=20)["sensitivity"]
    assert np.isnan(alone).all()


@pytest.mark.parametrize("goal", [0.5, 0.8, 0.9, 0.95, 1.0])
def test_the_threshold_is_the_highest_that_reaches_the_goal(goal):
    rng = np.random.default_rng(0)
    truth = rng.random(200) < 0.7
    score = rng.random(200).astype(np.float32)
    threshold = metrics.threshold_for(truth, score, goal)
    assert metrics.figures(truth, score, threshold)["sensitivity"] >= goal
    assert metrics.figures(truth, score, threshold + 1e-4)["sensitivity"] < goal


@pytest.mark.parametrize(("goal", "missed"), [(0.9, 1), (0.8, 2), (0.95, 0)])
def test_of_ten_findings_as_many_are_missed_as_may_be(goal, missed):
    score = np.arange(1, 11) / 16
    threshold = metrics.threshold_for(np.ones(10, bool), score, goal)
    assert np.count_nonzero(score < threshold) == missed


def test_the_goal_of_one_finds_every_finding():
    assert metrics.threshold_for(TRUTH, SCORE, 1.0) == 0.3
