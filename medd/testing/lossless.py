"""JPEG Lossless (ISO 10918-1 process 14, selection value 1), which no library here writes."""

import struct

import numpy as np
from numpy.typing import NDArray

#: All codes have five bits: there are 17 categories, and not all bits of a code may be ones.
_CODE_BITS, _CATEGORIES = 5, 17


def encode_lossless(stored: NDArray[np.uint16], bits: int) -> bytes:
    """Encode (H, W) uint16 with `bits` bits as one stream, each sample predicted by its left neighbour."""
    rows, columns = stored.shape
    samples = stored.astype(np.int64)
    predicted = np.empty_like(samples)
    predicted[:, 1:] = samples[:, :-1]
    predicted[1:, 0] = samples[:-1, 0]
    predicted[0, 0] = 1 << (bits - 1)
    # Differences are taken modulo 2**16 (section H.1.2.1).
    difference = ((samples - predicted + 32768) % 65536 - 32768).ravel()
    category = np.zeros_like(difference)
    for power in range(16):
        category += np.abs(difference) >> power > 0
    extra = np.where(difference < 0, difference + (1 << category) - 1, difference)  # table H.2
    extra_bits = np.where(category == 16, 0, category)
    word, length = (category << extra_bits) | np.where(category == 16, 0, extra), _CODE_BITS + extra_bits
    ends = np.cumsum(length)
    place = ends.repeat(length) - 1 - np.arange(ends[-1])
    stream = (word.repeat(length) >> place & 1).astype(np.uint8)
    padding = np.ones(-len(stream) % 8, np.uint8)
    scan = np.packbits(np.concatenate([stream, padding])).tobytes().replace(b"\xff", b"\xff\x00")
    table = bytes([0]) + bytes(_CATEGORIES if n == _CODE_BITS else 0 for n in range(1, 17)) + bytes(range(_CATEGORIES))
    return b"".join(
        (
            b"\xff\xd8",
            _segment(0xC3, struct.pack(">BHHBBBB", bits, rows, columns, 1, 1, 0x11, 0)),
            _segment(0xC4, table),
            _segment(0xDA, bytes([1, 1, 0, 1, 0, 0])),
            scan,
            b"\xff\xd9",
        )
    )


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
