"""JPEG streams without what they say beside the picture: comments, EXIF, thumbnails. Nothing is recompressed.

The same code serves JPEG files and the JPEG, JPEG-LS and JPEG 2000 frames inside DICOM objects.
"""

import re
import struct

# In entropy-coded data a marker's 0xFF is followed by 0x00 (JPEG) or by less than 0x80 (JPEG-LS), or is a restart.
_MARKER = re.compile(rb"\xff+[\xc0-\xcf\xd9-\xfe]")
_END, _COMMENT = 0xD9, 0xFE
_APP0, _APP1, _APP8, _APP14, _APP15 = 0xE0, 0xE1, 0xE8, 0xEE, 0xEF
_ORIENTATION = 0x0112
#: JFIF 1.01, pixels square, no thumbnail: that it is there decides how three components are read.
_JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"


def without_metadata(data: bytes) -> bytes:
    """A JPEG (ISO 10918-1 annex B) or JPEG-LS stream with the segments alone that its picture needs.

    Kept are what decides its colours (that there is a JFIF header, Adobe's APP14, JPEG-LS's APP8) and how it is turned
    (Orientation, of all that EXIF holds). What stands behind the end-of-image marker goes, too.

    Raises:
        ValueError: It is no such stream, or is cut off.
    """
    if data[:2] != b"\xff\xd8":
        raise ValueError(f"no JPEG stream: {data[:4]!r}")
    kept, position, turned = [b"\xff\xd8"], 2, b""
    while marker := _MARKER.search(data, position):
        code = data[marker.end() - 1]
        if code == _END:
            return b"".join([*kept, data[position : marker.start()], b"\xff\xd9"])
        length = int.from_bytes(data[marker.end() : marker.end() + 2], "big")
        end = marker.end() + length
        if length < 2 or end > len(data):
            break
        body = data[marker.end() + 2 : end]
        kept.append(data[position : marker.start()])  # entropy-coded data of the scan before; nothing elsewhere
        position = end
        if code == _APP0 and body.startswith(b"JFIF\0"):
            kept.append(_JFIF)
        elif code == _APP1 and body.startswith(b"Exif\0\0") and not turned:
            orientation = exif_orientation(body[6:])
            if orientation != 1:
                turned = b"Exif\0\0" + encode_orientation(orientation)
                kept.append(b"\xff\xe1" + struct.pack(">H", len(turned) + 2) + turned)
        elif (
            (code == _APP14 and body.startswith(b"Adobe"))
            or (code == _APP8 and body.startswith(b"mrfx"))
            or not (_APP0 <= code <= _APP15 or code == _COMMENT)
        ):
            kept.append(data[marker.start() : end])
    raise ValueError("a JPEG stream that is cut off before its end-of-image marker")


def exif_orientation(tiff: bytes) -> int:
    """The Orientation (1 to 8) that the first directory of an EXIF block states; 1 where it states none."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, directory)
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, value = struct.unpack_from(order + "H6xH", tiff, entry)
            if tag == _ORIENTATION:
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def encode_orientation(orientation: int) -> bytes:
    """An EXIF block that states the orientation and nothing else."""
    return b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, _ORIENTATION, 3, 1, orientation, 0, 0)


_J2K_START, _J2K_TILE_PART, _J2K_COMMENT = b"\xff\x4f\xff\x51", 0xFF90, 0xFF64


def without_comments_2000(data: bytes) -> bytes:
    """A JPEG 2000 codestream (ISO 15444-1 annex A) without its wrapper and without the comments of its main header.

    Raises:
        ValueError: It is none.
    """
    start = data.find(_J2K_START)
    if start < 0:
        raise ValueError(f"no JPEG 2000 codestream: {data[:4]!r}")
    kept, position = [data[start : start + 2]], start + 2
    while position + 4 <= len(data):
        marker, length = struct.unpack_from(">HH", data, position)
        if marker == _J2K_TILE_PART:
            return b"".join([*kept, data[position:]])
        if marker != _J2K_COMMENT:
            kept.append(data[position : position + 2 + length])
        position += 2 + length
    raise ValueError("a JPEG 2000 codestream that is cut off in its header")
