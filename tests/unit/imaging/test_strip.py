"""Image files lose what they say beside the picture, and not a grey value."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from medd.dicom.jpeg import encode_orientation, exif_orientation, without_metadata
from medd.errors import InputError
from medd.imaging.pixels import load
from medd.imaging.strip import strip
from medd.records import MediaType

SECRET = b"SECRET"


@pytest.fixture
def picture() -> np.ndarray:
    rows, columns = np.mgrid[:80, :96]
    return (rows * 2 + columns).astype(np.uint8)


def encode(kind: str, picture: np.ndarray) -> bytes:
    return cv2.imencode(kind, picture)[1].tobytes()


def exif(orientation: int) -> bytes:
    """A directory of two entries: a text, and the orientation."""
    text = SECRET + b"-EXIF\0"
    entries = struct.pack("<HHII", 0x010E, 2, len(text), 38) + struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<I", 0) + text


def segment(code: int, body: bytes) -> bytes:
    return bytes((0xFF, code)) + struct.pack(">H", len(body) + 2) + body


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def bodies(png: bytes, wanted: bytes) -> list[bytes]:
    found, position = [], 8
    while position < len(png):
        length, kind = struct.unpack_from(">I4s", png, position)
        if kind == wanted:
            found.append(png[position + 8 : position + 8 + length])
        position += 12 + length
    return found


def same_picture(tmp_path, before: bytes, after: bytes) -> bool:
    (tmp_path / "before").write_bytes(before)
    (tmp_path / "after").write_bytes(after)
    one, two = load(tmp_path / "before"), load(tmp_path / "after")
    return one.shape == two.shape and bool((one == two).all())


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_jpeg_loses_its_segments_and_stays_turned(tmp_path, picture, orientation):
    plain = encode(".jpg", picture)
    added = segment(0xE1, b"Exif\0\0" + exif(orientation)) + segment(0xFE, SECRET) + segment(0xED, b"8BIM" + SECRET)
    added += segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + SECRET) + segment(0xE2, b"ICC_PROFILE\0\1\1" + SECRET)
    data = plain[:20] + added + plain[20:] + SECRET
    assert data.count(SECRET) == 6
    stripped, kind = strip(data, MediaType.JPEG)
    assert kind is MediaType.JPEG
    assert SECRET not in stripped
    assert same_picture(tmp_path, data, stripped)
    if orientation == 1:
        assert same_picture(tmp_path, plain, stripped)
        assert len(stripped) == len(plain)


def test_the_compressed_data_of_a_jpeg_are_untouched(picture):
    noise = np.random.default_rng(1).integers(0, 256, picture.shape, np.uint8)
    data = cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2])[1].tobytes()
    stripped, _ = strip(data, MediaType.JPEG)
    assert stripped[20:] == data[20:]


def test_a_colour_jpeg_by_adobe_keeps_what_tells_its_colours(tmp_path, picture):
    colour = encode(".jpg", cv2.merge([picture, picture, picture]))
    adobe = colour[:2] + segment(0xEE, b"Adobe\0\x64\0\0\0\0\1") + colour[20:]
    stripped, _ = strip(adobe, MediaType.JPEG)
    assert b"Adobe" in stripped
    assert same_picture(tmp_path, adobe, stripped)


def test_bytes_between_the_segments_of_a_jpeg_go(tmp_path, picture):
    plain = encode(".jpg", picture)
    tables = plain.index(b"\xff\xdb")
    data = plain[:tables] + SECRET + b"\xff\xff" + plain[tables:]
    assert same_picture(tmp_path, data, without_metadata(data))
    assert without_metadata(data) == without_metadata(plain)


def test_segments_that_no_picture_needs_go_and_those_of_colours_are_cut(picture):
    plain = encode(".jpg", picture)
    transform = segment(0xEE, b"Adobe\0\x64\0\0\0\0\1")
    long = segment(0xEE, b"Adobe\1\x64SECR\1" + SECRET)
    reserved = segment(0xF0, SECRET) + segment(0xC8, SECRET) + segment(0xE8, b"mrfx\1" + SECRET)
    stripped = without_metadata(plain[:20] + long + reserved + segment(0xEE, b"Adobe" + SECRET[:5]) + plain[20:])
    assert stripped == plain[:20] + transform + plain[20:]
    kept = segment(0xE8, b"mrfx\1")
    assert without_metadata(plain[:20] + kept + plain[20:]) == plain[:20] + kept + plain[20:]


def test_what_hides_in_the_chunks_of_a_png_goes(tmp_path, picture):
    plain = encode(".png", picture)
    assert strip(plain, MediaType.PNG)[0] == plain
    rows = zlib.decompress(b"".join(bodies(plain, b"IDAT")))
    hidden = {
        "in the end chunk": plain[:-12] + chunk(b"IEND", SECRET),
        "in a palette of grey": plain[:33] + chunk(b"PLTE", SECRET) + plain[33:],
        "behind the compressed rows": plain[:33] + chunk(b"IDAT", zlib.compress(rows) + SECRET) + plain[-12:],
        "below the last row": plain[:33] + chunk(b"IDAT", zlib.compress(rows + SECRET, 0)) + plain[-12:],
    }
    for where, data in hidden.items():
        assert SECRET in data, where
        stripped, _ = strip(data, MediaType.PNG)
        assert SECRET not in stripped, where
        assert SECRET not in zlib.decompress(b"".join(bodies(stripped, b"IDAT"))), where
        assert same_picture(tmp_path, plain, stripped), where


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_png_with_a_palette_becomes_one_without(tmp_path, picture, orientation):
    rows = b"".join(b"\0" + row.tobytes() for row in picture)
    header = struct.pack(">IIBBBBB", 96, 80, 8, 3, 0, 0, 0)
    palette = bytes(value for number in range(255) for value in (number,) * 3) + SECRET[:3]
    body = chunk(b"IHDR", header) + chunk(b"PLTE", palette) + chunk(b"eXIf", encode_orientation(orientation))
    data = b"\x89PNG\r\n\x1a\n" + body + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    stripped, _ = strip(data, MediaType.PNG)
    assert b"PLTE" not in stripped
    assert same_picture(tmp_path, data, stripped)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_png_loses_its_text_and_stays_turned(tmp_path, picture, bits, orientation):
    plain = encode(".png", picture if bits == 8 else picture.astype(np.uint16) * 257)
    added = (
        chunk(b"tEXt", b"Comment\0" + SECRET)
        + chunk(b"tIME", b"\x07\xe8\1\1\1\1\1")
        + chunk(b"eXIf", exif(orientation))
    )
    data = plain[:33] + added + plain[33:] + SECRET
    stripped, kind = strip(data, MediaType.PNG)
    assert kind is MediaType.PNG
    assert SECRET not in stripped
    assert b"tIME" not in stripped
    assert (b"eXIf" in stripped) == (orientation == 6)
    assert same_picture(tmp_path, data, stripped)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_becomes_a_png_of_the_same_pixels(tmp_path, picture, bits):
    data = encode(".tif", picture if bits == 8 else picture.astype(np.uint16) * 257) + SECRET
    stripped, kind = strip(data, MediaType.TIFF)
    assert kind is MediaType.PNG
    assert SECRET not in stripped
    assert same_picture(tmp_path, data, stripped)


def test_a_jpeg_that_is_cut_anywhere_is_refused(picture):
    data = encode(".jpg", picture)
    for end in range(len(data) - 1):
        with pytest.raises(ValueError, match="JPEG"):
            without_metadata(data[:end])


def test_what_is_damaged_is_refused(picture):
    for name, kind in ((".jpg", MediaType.JPEG), (".png", MediaType.PNG), (".tif", MediaType.TIFF)):
        for damaged in (b"", encode(name, picture)[:60]):
            with pytest.raises(InputError):
                strip(damaged, kind)


def test_an_orientation_is_read_in_both_byte_orders_and_nonsense_is_upright():
    assert exif_orientation(encode_orientation(6)) == 6
    big = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 8, 0, 0)
    assert exif_orientation(big) == 8
    assert exif_orientation(encode_orientation(9)) == 1
    assert exif_orientation(b"II*\0\xff\xff\xff\x7f") == 1
    assert exif_orientation(b"") == 1
