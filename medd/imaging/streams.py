"""What a compressed image says of itself, read without decoding it: its size, and whether it is all there.

Decoders fill what is missing with grey and say so, if at all, on stderr. A chest that is half grey must not be judged,
and a header of a few bytes must not make a decoder reserve gigabytes; so both are looked at before.
"""

import re
import struct
import zlib
from typing import NamedTuple


class StreamHeader(NamedTuple):
    """The size of an image as its own stream states it."""

    rows: int
    columns: int
    #: Colour components, transparency included.
    samples: int
    #: Bits per component.
    bits: int
    #: Pictures in the file.
    pages: int = 1
    #: TIFF only: low values are white.
    white_is_zero: bool = False


# In entropy-coded data a marker's 0xFF is followed by 0x00 (JPEG) or by less than 0x80 (JPEG-LS), or is a restart.
_JPEG_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
_JPEG_END = 0xD9
# Start of frame of every process: all of 0xC0–0xCF but DHT, JPG and DAC; and JPEG-LS.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}


def jpeg(data: bytes) -> StreamHeader:
    """Walk a JPEG (ISO 10918-1 annex B) or JPEG-LS (ISO 14495-1 annex C) stream to its end.

    Raises:
        ValueError: It is none, or the end-of-image marker is missing: the stream is cut.
    """
    if data[:2] != b"\xff\xd8":
        raise ValueError(f"no JPEG stream: {data[:4]!r}")
    header, position = None, 2
    while marker := _JPEG_MARKER.search(data, position):
        position, code = marker.end(), data[marker.end() - 1]
        if code == _JPEG_END:
            if header is None:
                break
            return header
        (length,) = struct.unpack_from(">H", data, position)
        if code in _JPEG_FRAMES:
            bits, rows, columns, samples = struct.unpack_from(">BHHB", data, position + 2)
            header = StreamHeader(rows, columns, samples, bits)
        position += length
    raise ValueError("a JPEG stream that is cut off before its end-of-image marker")


_J2K_START, _J2K_TILE_PART, _J2K_END = b"\xff\x4f\xff\x51", 0xFF90, b"\xff\xd9"


def jpeg2000(data: bytes) -> StreamHeader:
    """Walk a JPEG 2000 or HTJ2K codestream (ISO 15444-1 annex A) from tile-part to tile-part to its end.

    Raises:
        ValueError: It is none, or the end-of-codestream marker is not where it must be: the stream is cut.
    """
    start = data.find(_J2K_START)  # not always at 0: some devices send it inside a JP2 file
    if start < 0:
        raise ValueError(f"no JPEG 2000 codestream: {data[:4]!r}")
    right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
    samples, depth = struct.unpack_from(">HB", data, start + 40)
    position = start + 2
    while data[position : position + 2] != _J2K_END:
        if position + 12 > len(data):
            raise ValueError("a JPEG 2000 codestream that is cut off before its end marker")
        marker, length = struct.unpack_from(">HH", data, position)
        if marker == _J2K_TILE_PART:
            (length,) = struct.unpack_from(">I", data, position + 6)
            # 0 means: up to the end of the codestream.
            position = position + length if length else max(data.rfind(_J2K_END), position + 12)
        else:
            position += 2 + length
    return StreamHeader(bottom - top, right - left, samples, (depth & 0x7F) + 1)


_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Transparency is ignored; eXIf holds the orientation. All other chunks that may be left out are left out, because
# libpng prints its remarks on them (a colour profile it dislikes) to stderr.
_PNG_KEPT = frozenset((b"IHDR", b"PLTE", b"IDAT", b"IEND", b"eXIf"))
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def png(data: bytes) -> tuple[StreamHeader, bytes]:
    """Walk the chunks of a PNG file (ISO 15948) to its end and check each one that matters.

    Returns:
        The header, and the same picture without the chunks that do not matter.

    Raises:
        ValueError: It is none, is cut, or a checksum is wrong.
    """
    if data[:8] != _PNG_SIGNATURE or data[12:16] != b"IHDR":
        raise ValueError(f"no PNG stream: {data[:8]!r}")
    columns, rows, bits, colour = struct.unpack_from(">IIBB", data, 16)
    kept, position, kind = [_PNG_SIGNATURE], 8, b""
    while kind != b"IEND":
        if position + 12 > len(data):
            raise ValueError("a PNG stream that is cut off before its end chunk")
        length, kind = struct.unpack_from(">I4s", data, position)
        chunk = data[position : position + 12 + length]
        position += 12 + length
        if kind in _PNG_KEPT:
            if chunk[-4:] != zlib.crc32(chunk[4:-4]).to_bytes(4, "big"):
                raise ValueError(f"a PNG stream with a damaged {kind.decode()} chunk")
            kept.append(chunk)
    return StreamHeader(rows, columns, _PNG_SAMPLES.get(colour, 0), bits), b"".join(kept)


_TIFF_COLUMNS, _TIFF_ROWS, _TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_SAMPLES = 256, 257, 258, 262, 277


def tiff(data: bytes) -> StreamHeader:
    """Read the first image file directory of a TIFF file (TIFF 6.0 section 2). Its strips are left to libtiff.

    Raises:
        ValueError: It is none, or states no size.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        raise ValueError(f"no TIFF file: {data[:4]!r}")
    (directory,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, directory)
    tags = {}
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from(order + "HHI", data, entry)
        # Values of up to 4 bytes stand in the entry itself, more (the bits of red, green, blue) elsewhere.
        at = entry + 8 if number <= 2 else struct.unpack_from(order + "I", data, entry + 8)[0]
        if tag in (_TIFF_COLUMNS, _TIFF_ROWS, _TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_SAMPLES):
            tags[tag] = struct.unpack_from(order + ("I" if kind == 4 else "H"), data, at)[0]
    (following,) = struct.unpack_from(order + "I", data, directory + 2 + 12 * count)
    if _TIFF_ROWS not in tags or _TIFF_COLUMNS not in tags:
        raise ValueError("a TIFF file without a size")
    return StreamHeader(
        rows=tags[_TIFF_ROWS],
        columns=tags[_TIFF_COLUMNS],
        samples=tags.get(_TIFF_SAMPLES, 1),
        bits=tags.get(_TIFF_BITS, 1),
        pages=2 if following else 1,
        white_is_zero=tags.get(_TIFF_PHOTOMETRIC) == 0,
    )
