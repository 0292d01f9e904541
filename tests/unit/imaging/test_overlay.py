import numpy as np
import pytest

from medd import DISCLAIMER
from medd.classify import oneoff
from medd.imaging.overlay import capture
from tests.studies import CODES, prediction

FILM = np.full((160, 128), 0.5, np.float32)


@pytest.mark.parametrize(("probability", "comparison"), [(0.931, "at or above"), (0.12, "BELOW")])
def test_overlay_says_the_probability_of_the_finding_and_never_that_of_normal(monkeypatch, probability, comparison):
    written: list[str] = []

    def record(image, prediction, lines):
        written.extend(lines)
        return capture(image, prediction, lines)

    monkeypatch.setattr(oneoff, "capture", record)
    oneoff.draw(FILM, prediction(probability=probability), CODES)
    assert written == [
        f"PNEUMONIA   p = {probability:.3f}, {comparison} threshold 0.485",
        "Model pneumonia/1",
        DISCLAIMER,
    ]


def test_overlay_is_the_picture_that_a_pacs_is_sent_in_the_order_of_opencv():
    said = prediction()
    lines = ["PNEUMONIA   p = 0.931, at or above threshold 0.485", "Model pneumonia/1", DISCLAIMER]
    np.testing.assert_array_equal(oneoff.draw(FILM, said, CODES)[..., ::-1], capture(FILM, said, lines))
