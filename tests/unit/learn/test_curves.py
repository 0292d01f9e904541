import json
from itertools import pairwise

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve

from medd.learn.curves import POINTS, curves, write_curves


def made(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Truth and scores, many of them equal."""
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.4
    return truth, np.round(np.clip(rng.normal(0.4 + 0.2 * truth, 0.2), 0, 1), 2)


def area(points: list[list[float]]) -> float:
    return sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(points))


def test_the_roc_is_that_of_scikit_learn_but_for_points_on_a_line():
    truth, scores = made(400)
    points = curves(truth, scores)["roc"]
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert {(x, y) for x, y in points} <= {(round(x, 4), round(y, 4)) for x, y in zip(false, true, strict=True)}
    assert area(points) == pytest.approx(roc_auc_score(truth, scores), abs=1e-3)
    assert points[0] == [0, 0]
    assert points[-1] == [1, 1]


def test_precision_over_recall_is_that_of_scikit_learn():
    truth, scores = made(300)
    precision, recall, _ = precision_recall_curve(truth, scores)
    ours = curves(truth, scores)["precision_recall"]
    # Theirs ends in a point that no threshold has.
    np.testing.assert_allclose(np.array(ours)[::-1], np.stack([recall, precision], axis=1)[:-1], atol=1e-4)


def test_a_long_curve_is_thinned_and_keeps_its_ends_and_its_area():
    rng = np.random.default_rng(1)
    truth = rng.random(20_000) < 0.5
    scores = np.clip(rng.normal(0.4 + 0.2 * truth, 0.15), 0, 1)
    told = curves(truth, scores)
    assert len(told["roc"]) == len(told["precision_recall"]) == POINTS
    assert (told["roc"][0], told["roc"][-1]) == ([0, 0], [1, 1])
    assert area(told["roc"]) == pytest.approx(roc_auc_score(truth, scores), abs=2e-3)


def test_reliability_counts_every_image_once():
    truth, scores = made(500)
    bins = curves(truth, scores)["reliability"]
    assert sum(one["images"] for one in bins) == 500
    assert sum(one["found"] for one in bins) == truth.sum()
    assert all(low["score"] < high["score"] for low, high in pairwise(bins))
    assert curves([True], [1.0])["reliability"] == [{"score": 1.0, "images": 1, "found": 1}]


@pytest.mark.parametrize("truth", [[], [True, True], [False]])
def test_one_class_alone_has_no_curves(truth):
    told = curves(truth, [0.5] * len(truth))
    assert (told["roc"], told["precision_recall"]) == ([], [])
    assert sum(one["images"] for one in told["reliability"]) == len(truth)


def test_curves_are_kept_by_the_model(tmp_path):
    write_curves(tmp_path, {"net/1": made(50), "net/2": made(50, seed=1)})
    kept = json.loads((tmp_path / "curves.json").read_text())
    assert list(kept) == ["net/1", "net/2"]
    assert kept["net/1"] == json.loads(json.dumps(curves(*made(50))))
