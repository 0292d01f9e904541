"""From stored values to what a viewer shows: the grayscale pipeline of PS3.4 section N.2, PS3.3 section C.11.

Modality LUT → VOI LUT or window → inversion → [0, 1], 1 being white. An image of up to 16 bits has at most 65,536
different cells, so the pipeline runs once over those and the pixels are looked up: 4 ms instead of 75 ms for a film of
2048 × 2048.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.multival import MultiValue

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Levels:
    """An image with all its grey values, for a viewer that chooses the window itself."""

    #: (H, W) uint8 or uint16: the level of each pixel.
    pixels: NDArray[Any]
    #: (levels,) uint8: how the object asks each level to be shown, 255 = white.
    shown: NDArray[np.uint8]
    #: What a level stands for, after the Modality LUT: low + step × level.
    low: float
    step: float
    #: Whether large values are dark: MONOCHROME1.
    inverse: bool
    #: Center and width of the windows that the object has, and where it has none of what is nearest to `shown`.
    windows: tuple[tuple[float, float], ...]


def display(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.float32]:
    """Show one grey frame as the object asks for.

    Args:
        stored: (H, W) as decoded, native byte order: (u)int8, (u)int16 whose bits above Bits Stored (0028,0101) may
            hold anything; (u)int32 or float.
        dataset: Its Image Pixel, Modality LUT, VOI LUT and Presentation LUT attributes.

    Returns:
        (H, W) float32 in [0, 1], 1 = white.

    Raises:
        ValueError: The attributes are unusable or give something that is no number.
    """
    if stored.dtype.kind == "f" or stored.dtype.itemsize > 2:
        everything = np.ones(stored.shape, bool)
        return _show(stored.astype(np.float64), lambda: everything, dataset)

    size = 8 * stored.dtype.itemsize
    cells = np.ascontiguousarray(stored).view(f"u{stored.dtype.itemsize}")
    table = _show(
        _values_of_cells(size, int(dataset.BitsStored), signed=dataset.PixelRepresentation == 1),
        lambda: cv2.calcHist([cells], [0], None, [1 << size], [0, 1 << size]).ravel() > 0,
        dataset,
    )
    image: NDArray[np.float32] = cv2.LUT(cells, table)
    return image


def levels(stored: NDArray[Any], dataset: Dataset) -> Levels:
    """One grey frame with all its values; the arguments are those of `display`, and so is what is raised."""
    if stored.dtype.kind == "f" or stored.dtype.itemsize > 2:
        values: NDArray[Any] = stored.astype(np.float64)
        seen = np.ones(values.shape, bool)
    else:
        size = 8 * stored.dtype.itemsize
        cells = np.ascontiguousarray(stored).view(f"u{stored.dtype.itemsize}")
        values = _values_of_cells(size, int(dataset.BitsStored), signed=dataset.PixelRepresentation == 1)
        seen = cv2.calcHist([cells], [0], None, [1 << size], [0, 1 << size]).ravel() > 0
    with np.errstate(all="ignore"):
        modality = _modality(values, dataset)
        _check_finite(modality)
        low, high = float(modality[seen].min()), float(modality[seen].max())
        whole = high - low < 1 << 16 and bool((np.rint(modality[seen]) == modality[seen]).all())
        step = 1.0 if whole or high == low else (high - low) / 0xFFFF
        count = round((high - low) / step) + 1
        places = np.clip(np.rint((modality - low) / step), 0, count - 1).astype(np.uint8 if count <= 256 else np.uint16)
        shown = _voi(low + step * np.arange(count), dataset)
        if shown is None:
            padded = _padding(values, dataset)
            shown = _full_range(low + step * np.arange(count), _within(modality[seen & ~padded], low, step, count))
        _check_finite(shown)
    greys = np.rint(np.clip(shown, 0, 1) * 255).astype(np.uint8)
    inverse = _is_inverse(dataset)
    pixels = places if places.shape == stored.shape else cv2.LUT(cells, places)
    windows = _windows(dataset) or (_window_like(greys, low, step),)
    return Levels(pixels, 255 - greys if inverse else greys, low, step, inverse, windows)


def picture_levels(picture: NDArray[Any], white: int) -> Levels:
    """A picture that goes from black to white as `Levels`: (H, W) uint8 or uint16 in [0, white]."""
    shown = np.rint(np.arange(white + 1) * (255 / white)).astype(np.uint8)
    return Levels(picture, shown, 0.0, 1.0, False, ((white / 2, float(white)),))


def _within(values: NDArray[Any], low: float, step: float, count: int) -> Mask:
    """Which of `count` levels lie between the smallest and the largest of some values: (count,) bool."""
    if not values.size:
        return np.zeros(count, bool)
    first, last = (round((float(end) - low) / step) for end in (values.min(), values.max()))
    places = np.arange(count)
    return (places >= first) & (places <= last)


def _windows(dataset: Dataset) -> tuple[tuple[float, float], ...]:
    """The windows of an object that shows itself by them: (0028,1050), (0028,1051)."""
    if dataset.get("VOILUTSequence") or str(dataset.get("VOILUTFunction") or "LINEAR").upper() == "SIGMOID":
        return ()
    centers, widths = dataset.get("WindowCenter"), dataset.get("WindowWidth")
    if centers is None or widths is None:
        return ()
    pairs = zip(_numbers(centers), _numbers(widths), strict=False)
    return tuple((center, width) for center, width in pairs if np.isfinite(center + width) and width >= 1)


def _window_like(greys: NDArray[np.uint8], low: float, step: float) -> tuple[float, float]:
    """Center and width of the window that comes nearest to a rising table of greys."""
    first, last = np.searchsorted(greys, 1), np.searchsorted(greys, 255)
    width = max(int(last) - int(first), 1) * step
    return low + float(first) * step + width / 2, width


def _values_of_cells(size: int, stored_bits: int, *, signed: bool) -> NDArray[np.int64]:
    """The stored value of every cell of `size` bits (PS3.5 section 8.1.1): (2**size,) int64.

    What lies above the stored bits, old overlays for one, does not count.
    """
    if not 1 <= stored_bits <= size:
        raise ValueError(f"Bits Stored (0028,0101) {stored_bits} in cells of {size} bits")
    values = np.arange(1 << size, dtype=np.int64) & ((1 << stored_bits) - 1)
    if signed:
        values -= (values >> (stored_bits - 1)) << stored_bits
    return values


def _show(values: NDArray[Any], seen: Callable[[], Mask], dataset: Dataset) -> NDArray[np.float32]:
    """The whole pipeline over stored values of any shape.

    Args:
        values: (...) stored values.
        seen: Tells which of them occur in the image: (...) bool. Asked only where it matters.
        dataset: The attributes.

    Returns:
        (...) float32 in [0, 1].
    """
    with np.errstate(all="ignore"):  # an overflow shows up as a value that is not finite, below
        modality = _modality(values, dataset)
        shown = _voi(modality, dataset)
        if shown is None:
            shown = _full_range(modality, seen() & ~_padding(values, dataset))
    _check_finite(modality)  # before the window too, which would clip an infinity to white
    _check_finite(shown)
    if _is_inverse(dataset):
        shown = 1.0 - shown
    return np.clip(shown, 0.0, 1.0).astype(np.float32)


def _check_finite(values: NDArray[Any]) -> None:
    if not np.isfinite(values).all():
        raise ValueError("pixel, rescale or window values (0028,1050–1053) that give no finite grey value")


def _is_inverse(dataset: Dataset) -> bool:
    # A DX object says both (PS3.3 section C.8.11.3.1.2), a CR only the first: it is one inversion all the same.
    inverse = dataset.PhotometricInterpretation == "MONOCHROME1" or dataset.get("PresentationLUTShape") == "INVERSE"
    return bool(inverse)


def _modality(values: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """Modality LUT (PS3.3 section C.11.1): the table (0028,3000), else slope (0028,1053) and intercept (0028,1052)."""
    if dataset.get("ModalityLUTSequence"):
        return _lookup(values, dataset.ModalityLUTSequence[0], dataset)[0]
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if slope is None or intercept is None:
        return values
    return values * float(slope) + float(intercept)


def _voi(modality: NDArray[Any], dataset: Dataset) -> NDArray[np.float64] | None:
    """VOI LUT (PS3.3 section C.11.2): the first table of (0028,3010), else the first window.

    Returns:
        (...) float64, the output range mapped to [0, 1]; None when the object has neither. A window narrower than the
        Standard allows (devices write 0 for "none") is no window.
    """
    if dataset.get("VOILUTSequence"):
        shown, bits = _lookup(modality, dataset.VOILUTSequence[0], dataset)
        return shown / float((1 << bits) - 1)
    center, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    if center is None or width is None:
        return None
    if not (np.isfinite(center) and np.isfinite(width)):
        raise ValueError(f"window (0028,1050–1051) {center}, {width}")
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise ValueError(f"VOI LUT Function (0028,1056) {function!r}")
    if width < 1 if function == "LINEAR" else width <= 0:
        return None
    if function == "SIGMOID":  # section C.11.2.1.3.1
        return np.asarray(1.0 / (1.0 + np.exp(-4.0 * (modality - center) / width)), np.float64)
    if function == "LINEAR":  # section C.11.2.1.2.1; LINEAR_EXACT, section C.11.2.1.3.2, leaves both as they are
        center, width = center - 0.5, width - 1.0
    if width == 0:
        return np.asarray(modality > center, np.float64)
    return np.asarray(np.clip((modality - center) / width + 0.5, 0.0, 1.0), np.float64)


def _full_range(modality: NDArray[Any], counted: Mask) -> NDArray[np.float64]:
    """Without VOI LUT and window: the smallest value of the image is 0, the largest 1, padding left out.

    The Standard leaves it to the viewer (PS3.3 section C.11.2.1.2.1). This is the window over all there is: nothing is
    clipped, and a film whose values fill an eighth of Bits Stored is not shown black.
    """
    inside = modality[counted]
    low, high = (float(inside.min()), float(inside.max())) if inside.size else (0.0, 0.0)
    if low == high:
        return np.zeros(modality.shape)
    return np.clip((modality - low) / (high - low), 0.0, 1.0)


def _padding(values: NDArray[Any], dataset: Dataset) -> Mask:
    """Which values are Pixel Padding (0028,0120), up to its Range Limit (0028,0121): PS3.3 section C.7.5.1.1.2."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(values.shape, bool)
    limit = dataset.get("PixelPaddingRangeLimit")
    ends = [int(value), int(value if limit is None else limit)]
    if dataset.get("PixelRepresentation") == 1:  # devices write the signed value as unsigned
        ends = [end - (1 << 16) if end >= 1 << 15 else end for end in ends]
    return (values >= min(ends)) & (values <= max(ends))


def _lookup(values: NDArray[Any], item: Dataset, dataset: Dataset) -> tuple[NDArray[np.int64], int]:
    """Apply one LUT (PS3.3 sections C.11.1.1 and C.11.2.1.1).

    pydicom's own takes the width of the index from the width of the entries, so an 8-bit LUT of 4096 entries fails.

    Args:
        values: (...) values to be mapped.
        item: LUT Descriptor (0028,3002) and LUT Data (0028,3006).
        dataset: The object, for its byte order.

    Returns:
        (...) int64 and the number of bits of an entry.
    """
    entries, first, bits = (int(number) for number in item.LUTDescriptor)
    entries = entries % (1 << 16) or 1 << 16  # 65536 does not fit and is written 0; SS makes large numbers negative
    data = item.LUTData
    if isinstance(data, bytes):
        order = "<" if dataset.original_encoding[1] is not False else ">"
        packed = bits <= 8 and len(data) < 2 * entries
        table = np.frombuffer(data, np.uint8 if packed else f"{order}u2")[:entries].astype(np.int64)
    else:
        table = np.atleast_1d(np.asarray(data, np.int64))[:entries]
    if len(table) < entries or not 8 <= bits <= 16:
        raise ValueError(f"LUT Descriptor (0028,3002) {entries}, {first}, {bits} for {len(table)} entries")
    index = np.clip(np.rint(values) - first, 0, entries - 1).astype(np.int64)
    return table[index], bits


def _numbers(value: Any) -> list[float]:
    """One or many numbers; nan for what is none."""
    return [_number(one) for one in (value if isinstance(value, MultiValue) else [value])]


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def _first(value: Any) -> float | None:
    """The first of one or many numbers; None when there is none."""
    first = value[0] if isinstance(value, MultiValue) else value
    return None if first in (None, "") else float(first)
