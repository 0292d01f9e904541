from datetime import UTC, datetime

import numpy as np
import pytest

from medd.classify.classifier import LoadedModel, Scores, prepare
from medd.imaging.preprocess import PreprocessSpec
from medd.registry.bundle import Bundle, Calibration


class _Says:
    def __init__(self, rows: np.ndarray, heat: np.ndarray | None = None) -> None:
        self.rows, self.heat = rows.astype(np.float32), heat

    def predict(self, batch: np.ndarray) -> np.ndarray:
        return self.rows[: len(batch)]

    def explain(self, batch: np.ndarray) -> Scores:
        return Scores(self.predict(batch), None, self.heat)


def bundle(**values) -> Bundle:
    known = {
        "name": "m",
        "version": "1",
        "classifier": "m",
        "labels": ("NO", "A", "B"),
        "positive_labels": ("A", "B"),
        "threshold": 0.5,
        "preprocess": PreprocessSpec(size=8, channels=1),
        "created_at": datetime.now(UTC),
        "files": {},
    }
    return Bundle(**known | values)


@pytest.mark.parametrize("slope", [0.05, 0.3, 0.7, 1, 3, 20])
@pytest.mark.parametrize("intercept", [-2, 0, 2])
def test_calibration_keeps_the_order_of_the_surest_scores_too(slope, intercept):
    logits = np.linspace(-40, 40, 161)
    finding = 1 / (1 + np.exp(-logits))
    rows = np.stack([1 / (1 + np.exp(logits)), finding * 0.25, finding * 0.75], axis=1)
    calibration = Calibration(slope=slope, intercept=intercept)
    scores = LoadedModel(bundle(calibration=calibration), _Says(rows)).predict(np.zeros((161, 8, 8, 1), np.float32))
    shown = scores[:, 1:].sum(axis=1)
    assert (np.diff(shown) >= -1e-6).all()
    np.testing.assert_allclose(shown, calibration.apply(finding), atol=1e-6)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(scores[40:, 1] * 3, scores[40:, 2], rtol=1e-5, atol=1e-9)


def test_certainty_without_a_rest_is_calibrated_as_well():
    rows = np.array([[1, 0, 0], [0, 1, 0]])
    model = LoadedModel(bundle(calibration=Calibration(slope=0.5)), _Says(rows))
    scores = model.predict(np.zeros((2, 8, 8, 1), np.float32))
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)
    assert 0 < scores[0, 1] == scores[0, 2] < 1e-3
    assert scores[1, 1] > 0.999
    assert scores[1, 2] == 0


@pytest.mark.parametrize(("fit", "attached"), [("stretch", 1), ("pad", 0)])
def test_a_heat_map_that_would_point_aside_is_not_attached(fit, attached):
    spec = PreprocessSpec(size=8, channels=1, fit=fit)
    model = LoadedModel(bundle(preprocess=spec), _Says(np.array([[0, 1, 0]]), np.ones((1, 2, 2), np.float32)))
    (made,) = model.judge([prepare(np.zeros((8, 16), np.float32), spec)], [1])
    assert len(made.attachments) == attached


def test_a_prediction_says_which_of_its_labels_are_findings():
    made = LoadedModel(bundle(), _Says(np.array([[1, 0, 0]]))).interpret(np.array([0.8, 0.05, 0.15]), 1)
    assert (made.label, made.findings) == ("NO", ("A", "B"))
