"""From a decoded radiograph to the network's input: the one road, for training and for classifying alike."""

import hashlib
import json
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
    if (height, width) != (size, size):
        # INTER_AREA averages what it drops: fine structure does not alias, whatever the film's size.
        shrink = height >= size and width >= size
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR)
    if spec.equalise:
        image = cv2.equalizeHist(np.rint(image * 255).astype(np.uint8)).astype(np.float32) / np.float32(255)
    return image


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
    mean, std = cv2.meanStdDev(image)
    return float(mean[0, 0]), float(std[0, 0])
