"""The picture with its predicted label, as the article's figure 4 shows it."""

import cv2
import numpy as np
from numpy.typing import NDArray

from medd import DISCLAIMER
from medd.records import Prediction

WIDTH = 768
_BAND = 76
#: How much of the hottest spot is colour.
_HEAT_SHARE = 0.55
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FINDING, _NO_FINDING, _GREY = (80, 170, 255), (230, 230, 230), (170, 170, 170)  # BGR


def draw(image: NDArray[np.float32], prediction: Prediction) -> NDArray[np.uint8]:
    """Draw an image with what speaks for a finding in colour, and the label, its probability and the model beneath.

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
    for attachment in prediction.attachments:
        if attachment.name == "heat" and prediction.positive:
            picture[:height] = _warm(picture[:height], attachment.content)
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


def _warm(picture: NDArray[np.uint8], content: bytes) -> NDArray[np.uint8]:
    """Lay a heat map over a picture: the hotter, the more colour; where nothing speaks for a finding, the film itself.

    Args:
        picture: (H, W, 3) uint8.
        content: The heat map as a grey PNG of any size.
    """
    small = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)
    heat = cv2.resize(small, (picture.shape[1], picture.shape[0]), interpolation=cv2.INTER_CUBIC)
    share = (heat.astype(np.float32) / 255)[..., np.newaxis] * _HEAT_SHARE
    colours = cv2.applyColorMap(heat, cv2.COLORMAP_INFERNO)
    return np.asarray(picture * (1 - share) + colours * share, np.uint8)
