"""JPEG, PNG and TIFF files without what they say beside the picture; a test holds the pixels equal.

JPEG and PNG are cut apart and put together. A TIFF, whose tags may point anywhere, becomes a PNG of the same pixels; so
does a PNG whose compressed data hold more than its picture.
"""

import struct
import zlib

import cv2
import numpy as np

from medd.dicom.jpeg import encode_orientation, exif_orientation, without_metadata
from medd.errors import InputError
from medd.imaging import streams
from medd.records import MediaType, Reason


def strip(data: bytes, media_type: MediaType) -> tuple[bytes, MediaType]:
    """An image file without EXIF, comments, text, profiles, thumbnails and trailing bytes.

    The orientation stays, as it decides how `medd.imaging.pixels.load` turns the picture.

    Returns:
        The file, and what it is now.

    Raises:
        InputError: It is damaged, or none of the three.
    """
    try:
        if media_type is MediaType.JPEG:
            return without_metadata(data), MediaType.JPEG
        if media_type is MediaType.PNG:
            return _strip_png(data), MediaType.PNG
        return _tiff_as_png(data), MediaType.PNG
    except (ValueError, struct.error, cv2.error) as error:
        message = f"cannot be stripped of its metadata. Received: {type(error).__name__}"
        raise InputError(Reason.UNREADABLE, message) from error


_IHDR_LENGTH = 13
#: Bits, colours, compression, filter and interlacing of a picture without palette, in rows of whole bytes.
_PLAIN_PNG = frozenset(bytes((bits, colour, 0, 0, 0)) for bits in (8, 16) for colour in (0, 2, 4, 6))


def _strip_png(data: bytes) -> bytes:
    header, data = streams.png(data)  # leaves the critical chunks and eXIf
    if int.from_bytes(data[8:12], "big") != _IHDR_LENGTH:
        raise ValueError("a PNG stream with a damaged IHDR chunk")
    kept, compressed, position = [data[: 20 + _IHDR_LENGTH]], [], 20 + _IHDR_LENGTH
    is_turned = False
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if kind == b"IDAT":
            kept.append(data[position:end])
            compressed.append(data[position + 8 : end - 4])
        elif kind == b"eXIf" and not is_turned:
            orientation = exif_orientation(data[position + 8 : end - 4])
            if is_turned := orientation != 1:
                kept.append(_chunk(kind + encode_orientation(orientation)))
        position = end
    # 1 byte for each row says how it is filtered (section 7.2).
    expected = header.rows * (1 + header.columns * header.samples * header.bits // 8)
    if data[24:29] not in _PLAIN_PNG or not _holds(b"".join(compressed), expected):
        return _as_png(data)
    return b"".join([*kept, _chunk(b"IEND")])


def _chunk(body: bytes) -> bytes:
    return struct.pack(">I", len(body) - 4) + body + zlib.crc32(body).to_bytes(4, "big")


def _holds(compressed: bytes, expected: int) -> bool:
    """Whether a zlib stream inflates to this many bytes, and nothing stands behind it."""
    inflater = zlib.decompressobj()
    try:
        length = len(inflater.decompress(compressed, expected + 1))
    except zlib.error:
        return False
    return inflater.eof and not inflater.unused_data and length == expected


def _tiff_as_png(data: bytes) -> bytes:
    return _as_png(data, white_is_zero=streams.tiff(data).white_is_zero)


def _as_png(data: bytes, *, white_is_zero: bool = False) -> bytes:
    # As `medd.imaging.pixels` reads it: the orientation is applied, transparency dropped.
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)
    if picture is None or picture.dtype not in (np.uint8, np.uint16):
        raise ValueError("a picture of a kind not supported")
    if white_is_zero and picture.dtype == np.uint16:
        picture = np.iinfo(np.uint16).max - picture
    return cv2.imencode(".png", picture)[1].tobytes()
