"""Images in memory, and what training makes of them.

Every file is decoded once, by `medd.imaging`, as in serving. The parts that judge a model stay float32, bit for bit
what serving computes; the training part, which is warped anyway, is kept as uint8 and takes a quarter of the memory.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from rich.console import Console

from medd.errors import InputError, SettingsError
from medd.imaging.pixels import load
from medd.imaging.preprocess import PreprocessSpec, brightness, fit, normalise
from medd.learn.augment import Augmentation
from medd.learn.manifest import Sample, Skipped, files_of


@dataclass(frozen=True, slots=True)
class Part:
    """One side of the split."""

    samples: list[Sample]
    #: (N, size, size), fitted but not normalised: float32 in [0, 1], or uint8 in [0, 255].
    images: NDArray[Any]
    #: (N,) int32: index of the label.
    truth: NDArray[np.int32]
    spec: PreprocessSpec
    #: (N, 2) mean and standard deviation of each decoded image, in [0, 1].
    brightness: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.samples)

    def inputs(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Images start … stop as the network's input, (n, size, size, channels) float32.

        Of a float32 part, byte for byte what `medd.imaging.preprocess.preprocess` makes of each file.
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

    def one(sample: Sample) -> tuple[NDArray[Any], tuple[float, float]] | Skipped:
        try:
            decoded = load(sample.path)
        except InputError as error:
            return Skipped(sample.path, str(error))
        image = fit(decoded, spec)
        return image if dtype == np.float32 else np.rint(image * 255).astype(dtype), brightness(decoded)

    images = np.empty((len(samples), spec.size, spec.size), dtype)
    kept: list[Sample] = []
    skipped: list[Skipped] = []
    measured: list[tuple[float, float]] = []
    with ThreadPoolExecutor() as pool:  # the decoders let go of the interpreter lock
        for sample, result in zip(samples, pool.map(one, samples), strict=True):
            if isinstance(result, Skipped):
                skipped.append(result)
            else:
                images[len(kept)], told = result
                kept.append(sample)
                measured.append(told)
    truth = np.array([labels.index(s.label) for s in kept], np.int32)
    return Part(kept, images[: len(kept)], truth, spec, np.array(measured).reshape(-1, 2)), skipped


def decode_outliers(where: Path, spec: PreprocessSpec, console: Console) -> Part:
    """Decode the images that a recipe names as `outliers`, uint8; what cannot be read is skipped, and told.

    Raises:
        SettingsError: There is none.
    """
    part, skipped = decode([Sample(path, "", "", "") for path in files_of(where)], ("",), spec, np.uint8)
    for file in skipped:
        console.print(f"skipped outlier {file.path}: {file.why}", highlight=False, markup=False, soft_wrap=True)
    if not len(part):
        raise SettingsError(f"outliers: an image that can be read is needed. Received: {where}")
    return part


def batches(
    part: Part,
    targets: NDArray[np.int32],
    augmentation: Augmentation,
    batch_size: int,
    seed: Sequence[int],
    *,
    balanced: bool = False,
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int32]]]:
    """Shuffled, augmented batches without end: after the last image the part starts again in another order.

    Args:
        part: The images, uint8.
        targets: (N,) what the network is to say of each.
        augmentation: What is done to each image.
        batch_size: Images in a batch.
        seed: Of order and augmentation.
        balanced: Every label of the part equally often, however many images it has; else every image.

    Yields:
        (batch_size, size, size, channels) float32 inputs and (batch_size, 1) int32 targets.
    """
    rng = np.random.default_rng(seed)
    everything = np.arange(len(part))
    pools = [everything[part.truth == label] for label in np.unique(part.truth)] if balanced else [everything]
    orders = [_order_without_end(pool, rng) for pool in pools]
    turn = 0
    while True:
        chosen = np.empty(batch_size, np.intp)
        for place in range(batch_size):
            chosen[place] = next(orders[turn % len(orders)])
            turn += 1
        images = part.images[chosen]
        if not augmentation.is_none:
            images = np.stack([augmentation.apply(image, rng) for image in images])
        yield normalise(_unit(images), part.spec), targets[chosen, np.newaxis]


def _order_without_end(pool: NDArray[np.intp], rng: np.random.Generator) -> Iterator[np.intp]:
    while True:
        yield from rng.permutation(pool)


def ahead(
    stream: Iterator[tuple[NDArray[np.float32], NDArray[np.int32]]], count: int, depth: int = 4
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int32]]]:
    """Give the first `count` batches of a stream, made by another thread while the network works on those before."""
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as maker:
        waiting = deque(maker.submit(next, stream) for _ in range(min(depth, count)))
        for number in range(count):
            batch = waiting.popleft().result()
            if number + depth < count:
                waiting.append(maker.submit(next, stream))
            yield batch


def _unit(images: NDArray[Any]) -> NDArray[np.float32]:
    """Uint8 in [0, 255] → float32 in [0, 1]; float32 as it is."""
    return images.astype(np.float32) / np.float32(255) if images.dtype == np.uint8 else images
