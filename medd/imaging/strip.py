"""JPEG, PNG and TIFF files without what they say beside the picture; a test holds the pixels equal.

JPEG and PNG are cut apart and put together, never recompressed. A TIFF, whose tags may point anywhere, becomes a PNG of
the same pixels.
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

    The orientation stays, as it decides how `medd.imaging.load` turns the picture.

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


def _strip_png(data: bytes) -> bytes:
    _, data = streams.png(data)  # leaves the critical chunks and eXIf
    kept, position = [data[:8]], 8
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if kind != b"eXIf":
            kept.append(data[position:end])
        elif (orientation := exif_orientation(data[position + 8 : end - 4])) != 1:
            body = kind + encode_orientation(orientation)
            kept.append(struct.pack(">I", len(body) - 4) + body + zlib.crc32(body).to_bytes(4, "big"))
        position = end
    return b"".join(kept)


def _tiff_as_png(data: bytes) -> bytes:
    header = streams.tiff(data)
    # As `medd.imaging.pixels` reads it: the orientation is applied, transparency dropped.
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)
    if picture is None or picture.dtype not in (np.uint8, np.uint16):
        raise ValueError("a TIFF of a kind not supported")
    if header.white_is_zero and picture.dtype == np.uint16:
        picture = np.iinfo(np.uint16).max - picture
    return cv2.imencode(".png", picture)[1].tobytes()
