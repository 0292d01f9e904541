"""Images in memory, and what training makes of them.

Every file is decoded once, by `medd.imaging`, as in serving. The parts that judge a model stay float32, bit for bit
what serving computes; the training part, which is warped anyway, is kept as uint8 and takes a quarter of the memory.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import DTypeLike, NDArray
from pydantic import BaseModel, ConfigDict, Field

from medd.errors import InputError
from medd.imaging import PreprocessSpec, fit, load, normalise
from medd.learn.manifest import Sample, Skipped


@dataclass(frozen=True, slots=True)
class Part:
    """One side of the split."""

    samples: list[Sample]
    #: (N, size, size), fitted but not normalised: float32 in [0, 1], or uint8 in [0, 255].
    images: NDArray[Any]
    #: (N,) int32: index of the label.
    truth: NDArray[np.int32]
    spec: PreprocessSpec

    def __len__(self) -> int:
        return len(self.samples)

    def inputs(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Images start … stop as the network's input, (n, size, size, channels) float32.

        Of a float32 part, byte for byte what `medd.imaging.preprocess` makes of each file.
        """
        return normalise(_unit(self.images[start:stop]), self.spec)


def decode(
    samples: Sequence[Sample], labels: Sequence[str], spec: PreprocessSpec, dtype: DTypeLike = np.float32
) -> tuple[Part, list[Skipped]]:
    """Decode and fit images, in the order of `samples`; what cannot be read is skipped.

    Args:
        samples: The files.
        labels: In the order of the network's outputs.
        spec: How to fit.
        dtype: np.float32, exactly as served, or np.uint8, rounded.
    """

    def one(sample: Sample) -> NDArray[Any] | Skipped:
        try:
            image = fit(load(sample.path), spec)
        except InputError as error:
            return Skipped(sample.path, str(error))
        return image if dtype == np.float32 else np.rint(image * 255).astype(dtype)

    images = np.empty((len(samples), spec.size, spec.size), dtype)
    kept: list[Sample] = []
    skipped: list[Skipped] = []
    with ThreadPoolExecutor() as pool:  # the decoders let go of the interpreter lock
        for sample, result in zip(samples, pool.map(one, samples), strict=True):
            if isinstance(result, Skipped):
                skipped.append(result)
            else:
                images[len(kept)] = result
                kept.append(sample)
    truth = np.array([labels.index(s.label) for s in kept], np.int32)
    return Part(kept, images[: len(kept)], truth, spec), skipped


class Augmentation(BaseModel):
    """How far training may move an image. All zero and False: not at all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Rotation by up to ± this many degrees.
    rotation_deg: float = Field(default=10, ge=0, le=180)
    #: Shift by up to ± this part of the side, in x and in y.
    shift: float = Field(default=0.1, ge=0, lt=1)
    #: Scale between 1 - zoom and 1 + zoom, in x and in y independently (as Keras' ImageDataGenerator does).
    zoom: float = Field(default=0.2, ge=0, lt=1)
    #: Mirror every other image, left to right.
    flip: bool = True

    @property
    def is_none(self) -> bool:
        """Whether it leaves every image as it is."""
        return not (self.rotation_deg or self.shift or self.zoom or self.flip)

    def warp(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Move an image by one random affine map about its centre; edge pixels fill what comes in.

        Args:
            image: (size, size) uint8.
            rng: Draws six numbers, whatever the amounts.

        Returns:
            (size, size) uint8.
        """
        angle, shift_x, shift_y, zoom_x, zoom_y, mirror = rng.uniform(-1, 1, 6)
        turn = np.deg2rad(angle * self.rotation_deg)
        scale_x, scale_y = 1 + zoom_x * self.zoom, 1 + zoom_y * self.zoom
        if self.flip and mirror < 0:
            scale_x = -scale_x
        # WARP_INVERSE_MAP: the matrix takes a pixel of the result to its place in the source.
        linear = np.array(
            [[np.cos(turn) * scale_x, -np.sin(turn) * scale_y], [np.sin(turn) * scale_x, np.cos(turn) * scale_y]]
        )
        size = image.shape[0]
        centre = np.full(2, (size - 1) / 2)
        offset = centre - linear @ centre + np.array([shift_x, shift_y]) * self.shift * size
        matrix = np.column_stack([linear, offset])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        warped = cv2.warpAffine(image, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(warped, np.uint8)


def batches(
    part: Part, augmentation: Augmentation, batch_size: int, seed: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int32]]]:
    """Shuffled, augmented batches without end: after the last image the part starts again in another order.

    Yields:
        (batch_size, size, size, channels) float32 inputs and (batch_size, 1) int32 label indices.
    """
    rng = np.random.default_rng(seed)
    order = np.empty(0, np.intp)
    while True:
        while len(order) < batch_size:
            order = np.concatenate([order, rng.permutation(len(part))])
        chosen, order = order[:batch_size], order[batch_size:]
        images = part.images[chosen]
        if not augmentation.is_none:
            images = np.stack([augmentation.warp(image, rng) for image in images])
        yield normalise(_unit(images), part.spec), part.truth[chosen, np.newaxis]


def _unit(images: NDArray[Any]) -> NDArray[np.float32]:
    """Uint8 in [0, 255] → float32 in [0, 1]; float32 as it is."""
    return images.astype(np.float32) / np.float32(255) if images.dtype == np.uint8 else images
