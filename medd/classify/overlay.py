"""The picture with its predicted label, as the article's figure 4 shows it."""

import cv2
import numpy as np
from numpy.typing import NDArray

from medd import DISCLAIMER
from medd.records import Prediction

WIDTH = 768
_BAND = 76
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FINDING, _NO_FINDING, _GREY = (80, 170, 255), (230, 230, 230), (170, 170, 170)  # BGR


def draw(image: NDArray[np.float32], prediction: Prediction) -> NDArray[np.uint8]:
    """Draw an image with the label, its probability, the model and the disclaimer beneath.

    Args:
        image: (H, W) float32 in [0, 1].
        prediction: What the model said of it.

    Returns:
        (height, `WIDTH`, 3) uint8, BGR as OpenCV has it.
    """
    height = max(1, round(image.shape[0] * WIDTH / image.shape[1]))
    shrink = image.shape[1] > WIDTH
    resized = cv2.resize(image, (WIDTH, height), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_CUBIC)
    grey = np.clip(resized * 255, 0, 255).astype(np.uint8)
    picture = np.zeros((height + _BAND, WIDTH, 3), np.uint8)
    picture[:height] = grey[..., np.newaxis]
    comparison = "at or above" if prediction.positive else "below"
    headline = f"{prediction.label}   p = {prediction.probability:.3f}"
    model = f"{comparison} the threshold {prediction.threshold:.3f} of {prediction.model}"
    colour = _FINDING if prediction.positive else _NO_FINDING
    for text, row, size, tint in (
        (headline, 26, 0.75, colour),
        (model, 48, 0.48, _GREY),
        (DISCLAIMER, 68, 0.45, _GREY),
    ):
        cv2.putText(picture, text, (12, height + row), _FONT, size, tint, 1, cv2.LINE_AA)
    return picture
