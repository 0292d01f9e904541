"""Pixel data lose what is no picture, and no bit of the picture."""

import numpy as np
import pytest
from pydicom import Dataset, uid
from pydicom.encaps import encapsulate, generate_fragments, get_frame
from pydicom.pixels.encoders.base import get_encoder

from medd.dicom.frames import clean_pixels
from medd.testing import dicom_radiograph

SECRET = b"SECRET^EVA"
NATIVE = [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian]


def film(syntax: str = uid.ExplicitVRLittleEndian, size: int = 64, **attributes) -> Dataset:
    return dicom_radiograph(1, size=size, transfer_syntax=syntax, **attributes)


def frame_of(dataset: Dataset) -> bytes:
    return get_frame(dataset.PixelData, 0, number_of_frames=1)


def compressed(pixels: np.ndarray, syntax: str, stored: int, **attributes) -> Dataset:
    """A film of these pixels, whose encoder knew of no spare bits."""
    dataset = film()
    dataset.BitsStored, dataset.HighBit, dataset.file_meta.TransferSyntaxUID = stored, stored - 1, uid.UID(syntax)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    frame = get_encoder(syntax).encode(
        pixels,
        rows=64,
        columns=64,
        number_of_frames=1,
        samples_per_pixel=dataset.SamplesPerPixel,
        bits_allocated=dataset.BitsAllocated,
        bits_stored=dataset.BitsAllocated,
        pixel_representation=dataset.PixelRepresentation,
        photometric_interpretation=dataset.PhotometricInterpretation,
        planar_configuration=0,
    )
    dataset.PixelData = encapsulate([frame])
    return dataset


def with_overlay(dataset: Dataset) -> np.ndarray:
    """Its pixels, with an annotation in the highest bit, where old devices put it."""
    pixels = dataset.pixel_array.astype(np.uint16)
    pixels[10:20, 10:40] |= 0x8000
    return pixels


@pytest.mark.parametrize("syntax", NATIVE)
def test_overlays_in_the_bits_above_the_picture_go(syntax):
    dataset = film(syntax)
    before, order = dataset.PixelData, ">" if syntax == uid.ExplicitVRBigEndian else "<"
    dataset.PixelData = with_overlay(dataset).astype(f"{order}u2").tobytes()
    assert dataset.PixelData != before
    clean_pixels(dataset, syntax)
    assert dataset.PixelData == before


def test_numbers_with_a_sign_keep_it():
    dataset = film(PixelRepresentation=1)
    dataset.PixelData = np.full((64, 64), -5, "<i2").tobytes()
    before = dataset.PixelData
    dataset.PixelData = (np.frombuffer(before, "<u2") & 0x0FFF).tobytes()
    clean_pixels(dataset, uid.ExplicitVRLittleEndian)
    assert dataset.PixelData == before


@pytest.mark.parametrize("attributes", [{"HighBit": 13}, {"BitsAllocated": 32, "Rows": 32}])
def test_unused_bits_that_are_not_above_the_picture_are_refused(attributes):
    with pytest.raises(ValueError, match="bits"):
        clean_pixels(film(**attributes), uid.ExplicitVRLittleEndian)


@pytest.mark.parametrize(("rows", "bits", "pad"), [(64, 12, 0), (65, 8, 1)])
def test_what_stands_behind_the_last_pixel_goes(rows, bits, pad):
    dataset = film(size=(rows, 65), bits=bits)
    length = rows * 65 * (2 if bits > 8 else 1)
    before = dataset.PixelData[:length]
    dataset.PixelData = before + SECRET + b"\0" * pad
    clean_pixels(dataset, uid.ExplicitVRLittleEndian)
    assert dataset.PixelData == before + b"\0" * pad


def test_the_last_of_an_odd_number_of_swapped_bytes_is_found():
    dataset = film(uid.ExplicitVRBigEndian, size=(65, 65), bits=8)
    picture = bytearray(dataset.PixelData[: 65 * 65] + b"\0")
    picture[0::2], picture[1::2] = picture[1::2], picture[0::2]
    dataset.PixelData = bytes(picture[:-2]) + b"S" + bytes(picture[-1:]) + SECRET
    dataset["PixelData"].VR = "OW"
    clean_pixels(dataset, uid.ExplicitVRBigEndian)
    assert dataset.PixelData == bytes(picture)


def test_too_little_is_refused():
    dataset = film()
    dataset.PixelData = dataset.PixelData[:-2]
    with pytest.raises(ValueError, match="by the stated size"):
        clean_pixels(dataset, uid.ExplicitVRLittleEndian)


def test_an_image_has_one_picture_and_no_table_of_offsets():
    dataset = film()
    dataset.FloatPixelData = dataset.ExtendedOffsetTable = SECRET
    clean_pixels(dataset, uid.ExplicitVRLittleEndian)
    assert "PixelData" in dataset
    assert "FloatPixelData" not in dataset
    assert "ExtendedOffsetTable" not in dataset


def test_an_object_without_picture_is_refused():
    with pytest.raises(ValueError, match="without pixel data"):
        clean_pixels(Dataset(), uid.ExplicitVRLittleEndian)


def test_an_rle_frame_holds_its_segments_alone():
    dataset = film(uid.RLELossless)
    before = dataset.pixel_array
    frame = frame_of(dataset)
    dataset.PixelData = encapsulate([frame + b"\x80" * 20])  # which says: nothing follows
    clean_pixels(dataset, uid.RLELossless)
    assert b"\x80" * 20 not in dataset.PixelData
    assert (dataset.pixel_array == before).all()
    assert len(list(generate_fragments(dataset.PixelData[12:]))) == 1


def test_overlays_above_an_rle_picture_go():
    before = film().pixel_array
    dataset = compressed(with_overlay(film()), uid.RLELossless, 12)
    clean_pixels(dataset, uid.RLELossless)
    dataset.BitsStored, dataset.HighBit = 16, 15
    assert (dataset.pixel_array == before).all()


def test_an_rle_picture_of_8_bits_in_16_and_one_in_colour_stay_as_they_were():
    grey = film().pixel_array & 0xFF
    dataset = compressed(grey, uid.RLELossless, 8)
    clean_pixels(dataset, uid.RLELossless)
    assert (dataset.pixel_array == grey).all()
    colour = np.dstack([grey, grey // 2, grey // 3]).astype(np.uint8)
    rgb = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0, "BitsAllocated": 8}
    dataset = compressed(colour, uid.RLELossless, 8, **rgb)
    clean_pixels(dataset, uid.RLELossless)
    assert (dataset.pixel_array == colour).all()


@pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.JPEGLSLossless])
def test_overlays_above_a_compressed_picture_are_refused(syntax):
    clean_pixels(compressed(film().pixel_array, syntax, 12), syntax)
    with pytest.raises(ValueError, match="bits above the 12"):
        clean_pixels(compressed(with_overlay(film()), syntax, 12), syntax)


@pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.JPEGLSLossless, uid.RLELossless])
def test_a_compressed_picture_with_a_sign_is_no_overlay(syntax):
    pixels = film().pixel_array.astype(np.int16) - 2048
    dataset = compressed(pixels, syntax, 12, PixelRepresentation=1)
    clean_pixels(dataset, syntax)
    assert (dataset.pixel_array == pixels).all()


def test_fragments_that_are_no_frame_are_refused_or_taken_apart():
    dataset = film(uid.RLELossless)
    dataset.PixelData = encapsulate([frame_of(dataset), SECRET], has_bot=False)
    with pytest.raises(ValueError, match="fragments"):
        clean_pixels(dataset, uid.RLELossless)
    dataset = film(uid.JPEGBaseline8Bit, bits=8)
    dataset.PixelData = encapsulate([frame_of(dataset), SECRET])
    with pytest.raises(ValueError, match="1 frames declared, 2 there"):
        clean_pixels(dataset, uid.JPEGBaseline8Bit)
    dataset.PixelData = encapsulate([frame_of(film(uid.JPEGBaseline8Bit, bits=8)), SECRET], has_bot=False)
    clean_pixels(dataset, uid.JPEGBaseline8Bit)
    assert SECRET not in dataset.PixelData
    assert len(list(generate_fragments(dataset.PixelData[12:]))) == 1


def test_frames_that_nobody_knows_are_refused():
    dataset = film(uid.JPEGBaseline8Bit, bits=8)
    with pytest.raises(ValueError, match="MPEG2"):
        clean_pixels(dataset, uid.MPEG2MPML)
