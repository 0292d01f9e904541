"""JPEG streams without what they say beside the picture: comments, EXIF, thumbnails. Nothing is recompressed.

The same code serves JPEG files and the JPEG, JPEG-LS and JPEG 2000 frames inside DICOM objects.
"""

import re
import struct

# In entropy-coded data a marker's 0xFF is followed by 0x00 (JPEG) or by less than 0x80 (JPEG-LS), or is a restart.
_MARKER = re.compile(rb"\xff+[\xc0-\xcf\xd9-\xfe]")
_END, _SCAN = 0xD9, 0xDA
_APP0, _APP1, _APP8, _APP14 = 0xE0, 0xE1, 0xE8, 0xEE
#: Frames, tables, scans, and JPEG-LS's frame and parameters. Neither APPn nor COM, nor what is reserved: JPG, JPGn.
_NEEDED = (frozenset(range(0xC0, 0xE0)) - {0xC8, _END}) | {0xF7, 0xF8}
#: "Adobe", version, two words of flags, transform; libjpeg reads no further.
_ADOBE_LENGTH = 12
#: "mrfx", transform; CharLS passes over one of another length.
_MRFX_LENGTH = 5
_ORIENTATION = 0x0112
#: JFIF 1.01, pixels square, no thumbnail: that it is there decides how three components are read.
_JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"


def without_metadata(data: bytes) -> bytes:
    """A JPEG (ISO 10918-1 annex B) or JPEG-LS stream with the segments alone that its picture needs.

    Kept are what decides its colours (that there is a JFIF header, the transforms that Adobe's APP14 and JPEG-LS's APP8
    name) and how it is turned (Orientation, of all that EXIF holds). What stands between two segments, where no scan's
    data can be, and behind the end-of-image marker goes, too.

    Raises:
        ValueError: It is no such stream, or is cut off.
    """
    if data[:2] != b"\xff\xd8":
        raise ValueError(f"no JPEG stream: {data[:4]!r}")
    kept, position, turned, in_scan = [b"\xff\xd8"], 2, b"", False
    while marker := _MARKER.search(data, position):
        code = data[marker.end() - 1]
        if in_scan:  # what comes before are entropy-coded data
            kept.append(data[position : marker.start()])
        if code == _END:
            return b"".join([*kept, b"\xff\xd9"])
        length = int.from_bytes(data[marker.end() : marker.end() + 2], "big")
        end = marker.end() + length
        if length < 2 or end > len(data):
            break
        body = data[marker.end() + 2 : end]
        position, in_scan = end, code == _SCAN
        if code == _APP0 and body.startswith(b"JFIF\0"):
            kept.append(_JFIF)
        elif code == _APP1 and body.startswith(b"Exif\0\0") and not turned:
            orientation = exif_orientation(body[6:])
            if orientation != 1:
                turned = b"Exif\0\0" + encode_orientation(orientation)
                kept.append(_segment(code, turned))
        elif code == _APP14 and body.startswith(b"Adobe") and len(body) >= _ADOBE_LENGTH:
            kept.append(_segment(code, b"Adobe\0\x64\0\0\0\0" + body[_ADOBE_LENGTH - 1 : _ADOBE_LENGTH]))
        elif (code == _APP8 and body.startswith(b"mrfx") and len(body) == _MRFX_LENGTH) or code in _NEEDED:
            kept.append(_segment(code, body))
    raise ValueError("a JPEG stream that is cut off before its end-of-image marker")


def _segment(code: int, body: bytes) -> bytes:
    return bytes((0xFF, code)) + struct.pack(">H", len(body) + 2) + body


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


_J2K_START, _J2K_END = b"\xff\x4f\xff\x51", b"\xff\xd9"
_J2K_TILE_PART, _J2K_DATA, _J2K_LENGTHS = 0xFF90, 0xFF93, 0xFF55
#: What parts 1, 2 and 15 of ISO 15444 know in headers: whatever else there is says nothing that a decoder reads.
_J2K_NEEDED = frozenset(
    (*range(0xFF50, 0xFF54), *range(_J2K_LENGTHS, 0xFF5A), *range(0xFF5C, 0xFF62), 0xFF63, *range(0xFF72, 0xFF7A))
)


def without_comments_2000(data: bytes) -> bytes:
    """A JPEG 2000 codestream (ISO 15444-1 annex A) without its wrapper and without the comments of its headers.

    The packets of its tile-parts stay as they are. What stands behind the end-of-codestream marker goes, too.

    Raises:
        ValueError: It is none, or is cut off.
    """
    start = data.find(_J2K_START)  # not always at 0: some devices send it inside a JP2 file
    if start < 0:
        raise ValueError(f"no JPEG 2000 codestream: {data[:4]!r}")
    try:
        header, position = _j2k_header(data, start + 2)
        parts, has_shrunk = [], False
        while data[position : position + 2] != _J2K_END:
            part, end = _j2k_tile_part(data, position)
            has_shrunk |= len(part) < end - position
            parts.append(part)
            position = end
    except struct.error:
        raise ValueError("a JPEG 2000 codestream that is cut off before its end marker") from None
    # The lengths of the tile-parts, which a decoder can do without, are no longer true.
    kept = [segment for marker, segment in header if not (has_shrunk and marker == _J2K_LENGTHS)]
    return b"".join([_J2K_START[:2], *kept, *parts, _J2K_END])


def _j2k_header(data: bytes, position: int) -> tuple[list[tuple[int, bytes]], int]:
    """The segments that a decoder needs up to the next tile-part or its data, by marker; and where that begins."""
    kept = []
    while (marker := struct.unpack_from(">H", data, position)[0]) not in (_J2K_TILE_PART, _J2K_DATA):
        (length,) = struct.unpack_from(">H", data, position + 2)
        end = position + 2 + length
        if length < 2 or end > len(data):
            raise ValueError("a JPEG 2000 codestream that is cut off in a header")
        if marker in _J2K_NEEDED:
            kept.append((marker, data[position:end]))
        position = end
    return kept, position


def _j2k_tile_part(data: bytes, position: int) -> tuple[bytes, int]:
    """A tile-part whose header says no more than a decoder needs, and where it ended before."""
    marker, size, tile, length, *numbers = struct.unpack_from(">HHHIBB", data, position)
    if (marker, size) != (_J2K_TILE_PART, 10):
        raise ValueError(f"a JPEG 2000 codestream with a marker 0x{marker:04X} where a tile-part is to begin")
    header, begin = _j2k_header(data, position + 12)
    if data[begin : begin + 2] != _J2K_DATA.to_bytes(2, "big"):
        raise ValueError("a JPEG 2000 codestream with a tile-part without data")
    # 0 means: up to the end of the codestream. In packets no marker of the end can stand (section B.10.1).
    end = position + length if length else data.find(_J2K_END, begin)
    if not begin + 2 <= end <= len(data) - 2:
        raise ValueError("a JPEG 2000 codestream that is cut off before its end marker")
    body = b"".join(segment for _, segment in header) + data[begin:end]
    return struct.pack(">HHHIBB", marker, size, tile, length and 12 + len(body), *numbers) + body, end
