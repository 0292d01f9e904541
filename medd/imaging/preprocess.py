"""From a decoded radiograph to the network's input: the one road, for training and for classifying alike."""

import hashlib
import json
from math import sqrt
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field


class PreprocessSpec(BaseModel):
    """How an image becomes the network's input. Saved in the bundle; its digest is on every prediction."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Version of this code: raised whenever the same spec would give other bytes.
    version: Literal[1] = 1
    #: Side of the square input, pixels.
    size: int = Field(default=150, ge=8, le=2048)
    #: 1 (grey) or 3 (grey repeated, for networks that expect colour).
    channels: Literal[1, 3] = 3
    #: "stretch" ignores the aspect ratio, as the article does; "pad" keeps it and fills with black.
    fit: Literal["stretch", "pad"] = "stretch"
    #: Equalise the histogram of the fitted image: what is left is the order of the greys, not the film or the exposure.
    equalise: bool = False
    #: Output = (x - mean) / scale for x in [0, 1].
    mean: float = 0.0
    scale: float = Field(default=1.0, gt=0)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(size, size, channels)."""
        return (self.size, self.size, self.channels)

    @property
    def digest(self) -> str:
        """The first 16 hex digits of the SHA-256 over the spec's canonical JSON."""
        values = self.model_dump()
        if not self.equalise:
            del values["equalise"]  # specs are older than this field
        canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def fit(image: NDArray[np.float32], spec: PreprocessSpec) -> NDArray[np.float32]:
    """Bring an image to the size of `spec`, without normalisation: what training keeps in memory and augments.

    Args:
        image: (H, W) float32 in [0, 1].
        spec: The target.

    Returns:
        (size, size) float32 in [0, 1].
    """
    height, width = image.shape
    size = spec.size
    if spec.fit == "pad":
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        image = np.pad(image, ((top, side - height - top), (left, side - width - left)))
        height = width = side
    if height >= size and width >= size:
        image = _shrink(image, size)
    else:
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
    if spec.equalise:
        image = cv2.equalizeHist(np.rint(image * 255).astype(np.uint8)).astype(np.float32) / np.float32(255)
    return image


def _shrink(image: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """INTER_AREA averages what it drops, so that fine structure does not alias: (H, W) → (size, size) float32.

    OpenCV waits for each sum before it adds the next pixel of a row. Four rows as four channels have four sums under
    way: the same bits in half the time. Where a side is a whole multiple, OpenCV has another, faster way of its own.
    """
    height, width = image.shape
    if (height, width) == (size, size):
        return image
    if min(height, width) >= 4 * size and height % size and width % size:
        whole = height - height % 4
        rows = cv2.merge([image[first:whole:4] for first in range(4)])
        rows = cv2.resize(rows, (size, whole // 4), interpolation=cv2.INTER_AREA)
        rest = [
            cv2.resize(image[row : row + 1], (size, 1), interpolation=cv2.INTER_AREA) for row in range(whole, height)
        ]
        image = np.concatenate([rows.transpose(0, 2, 1).reshape(whole, size), *rest])
    shrunk: NDArray[np.float32] = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    return shrunk


def normalise(image: NDArray[np.float32], spec: PreprocessSpec) -> NDArray[np.float32]:
    """Turn fitted images into the network's input.

    Args:
        image: (..., size, size) float32 in [0, 1].
        spec: The target.

    Returns:
        (..., size, size, channels) float32.
    """
    scaled = (image - np.float32(spec.mean)) / np.float32(spec.scale)
    return np.repeat(scaled[..., np.newaxis], spec.channels, axis=-1)


def preprocess(image: NDArray[np.float32], spec: PreprocessSpec) -> NDArray[np.float32]:
    """`fit`, then `normalise`: (H, W) float32 in [0, 1] → (size, size, channels) float32."""
    return normalise(fit(image, spec), spec)


def brightness(image: NDArray[np.float32]) -> tuple[float, float]:
    """Mean and standard deviation of a decoded image, (H, W) float32 in [0, 1]: what drift is told by."""
    # What `cv2.meanStdDev` does, in half the time.
    mean = float(cv2.mean(image)[0])
    variance = cv2.norm(image, cv2.NORM_L2SQR) / image.size - mean * mean
    return mean, sqrt(max(0.0, variance))
