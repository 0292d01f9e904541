"""What the viewer is given of an image, made in a process of its own (`medd.imaging.isolated`)."""

import json
import struct
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from medd.imaging.grayscale import Levels
from medd.imaging.pixels import load_levels
from medd.records import MediaType

#: Larger images are not shown: of a film of 20 megapixels, the largest detectors have, twice as much.
MAX_PIXELS = 40_000_000
#: Longer side of a thumbnail, pixels.
THUMBNAIL = 96


def make(order: tuple[str, Path, MediaType]) -> bytes:
    """What is asked for, of a file.

    Args:
        order: "levels" or "thumbnail"; the file; what it is.

    Returns:
        All pixels in the form of `pack`, or a small PNG.

    Raises:
        InputError: It cannot be decoded, or is too large.
    """
    what, path, media_type = order
    made = load_levels(path, media_type, MAX_PIXELS)
    return pack(made) if what == "levels" else shrink(made)


def pack(made: Levels) -> bytes:
    """An image in the form that viewer.js reads.

    Three blocks, each padded to a multiple of 4 bytes: its description as JSON, preceded by the length of all that
    comes before the pixels and that of the JSON (uint32, little endian); the table of greys; the pixels, row by row,
    uint8 or uint16 little endian.
    """
    rows, columns = made.pixels.shape
    about = {
        "columns": columns,
        "rows": rows,
        "bytes": made.pixels.dtype.itemsize,
        "levels": len(made.shown),
        "low": made.low,
        "step": made.step,
        "inverse": made.inverse,
        "windows": made.windows[:8],
    }
    text = json.dumps(about).encode()
    described = _padded(struct.pack("<II", 0, len(text)) + text)
    head = described + _padded(made.shown.tobytes())
    pixels = np.ascontiguousarray(made.pixels, made.pixels.dtype.newbyteorder("<"))
    return b"".join((struct.pack("<I", len(head)), head[4:], pixels.data))


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def shrink(made: Levels) -> bytes:
    """A small PNG of an image as it asks to be shown."""
    grey: NDArray[np.uint8] = made.shown[made.pixels]
    zoom = THUMBNAIL / max(grey.shape)
    size = max(1, round(grey.shape[1] * zoom)), max(1, round(grey.shape[0] * zoom))
    _, encoded = cv2.imencode(".png", cv2.resize(grey, size, interpolation=cv2.INTER_AREA))
    return encoded.tobytes()
