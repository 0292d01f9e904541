"""Pixel data that hold their picture and nothing else: no bits above it, no bytes behind it, no comments within it.

The picture stays as it was, to the bit, and so does the transfer syntax. RLE frames are encoded anew, JPEG, JPEG-LS and
JPEG 2000 frames are not.
"""

import numpy as np
from pydicom import Dataset
from pydicom.encaps import encapsulate, generate_fragmented_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.encoders.base import get_encoder
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import (
    UID,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
    RLETransferSyntaxes,
)

from medd.dicom.jpeg import without_comments_2000, without_metadata

#: An image has one of them.
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def clean_pixels(dataset: Dataset, syntax: UID) -> None:
    """Take out of the pixel data, in place, what is no picture: devices write names there, too.

    Raises:
        ValueError: They are damaged, or of a kind of which nobody here knows what else they hold.
    """
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):  # as the frames move
        if keyword in dataset:
            delattr(dataset, keyword)
    keywords = [keyword for keyword in PIXELS if keyword in dataset]
    for keyword in keywords[1:]:
        delattr(dataset, keyword)
    if not keywords:
        raise ValueError("an object without pixel data")
    if syntax.is_encapsulated:
        dataset.PixelData = encapsulate(_clean_frames(dataset, syntax))
        _check_spare_bits(dataset, syntax)
    else:
        dataset[keywords[0]].value = _clean_native(dataset, keywords[0], syntax)


# -- native --------------------------------------------------------------------------------------------------------


def _clean_native(dataset: Dataset, keyword: str, syntax: UID) -> bytes:
    element = dataset[keyword]
    length = get_expected_length(dataset)
    if len(element.value) < length:
        raise ValueError(f"{length} bytes of pixel data by the stated size, {len(element.value)} there")
    value = bytearray(element.value[:length]).ljust(length + length % 2, b"\0")
    if length % 2 and element.VR == "OW" and not syntax.is_little_endian:  # single bytes, swapped in pairs
        value[-2:] = b"\0" + element.value[length : length + 1]
    # Older devices draw annotations into the bits above the picture: embedded overlays (PS3.5-2004 section 8.1.2).
    return _without_spare_bits(dataset, bytes(value), syntax) if keyword == "PixelData" else bytes(value)


def _without_spare_bits(dataset: Dataset, value: bytes, syntax: UID) -> bytes:
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    if stored == allocated:
        return value
    _check_high_bit(dataset)
    if allocated not in (8, 16):
        raise ValueError(f"{stored} of {allocated} bits")
    kind = f"{'<' if syntax.is_little_endian else '>'}{'i' if dataset.PixelRepresentation else 'u'}{allocated // 8}"
    pixels = np.frombuffer(value, kind).copy()
    # Up and down again: of numbers with a sign the highest bit of the picture fills those above it.
    np.left_shift(pixels, allocated - stored, out=pixels)
    np.right_shift(pixels, allocated - stored, out=pixels)
    return pixels.tobytes()


def _check_high_bit(dataset: Dataset) -> None:
    """Refuse bits below the picture, which the Standard does not allow any more (PS3.5 section 8.1.1)."""
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    if stored > allocated or (stored < allocated and int(dataset.get("HighBit", stored - 1)) != stored - 1):
        raise ValueError(f"{stored} of {allocated} bits, the highest is {dataset.get('HighBit')}")


# -- encapsulated --------------------------------------------------------------------------------------------------


def _clean_frames(dataset: Dataset, syntax: UID) -> list[bytes]:
    """Each frame as one fragment."""
    count = int(dataset.get("NumberOfFrames") or 1)
    frames = list(generate_fragmented_frames(dataset.PixelData, number_of_frames=count))
    if len(frames) != count:
        raise ValueError(f"{count} frames declared, {len(frames)} there")
    if syntax in RLETransferSyntaxes:
        if any(len(fragments) != 1 for fragments in frames):  # PS3.5 section A.4.2
            raise ValueError("RLE frames of several fragments")
        _check_high_bit(dataset)
        return [_encode_rle(dataset, index) for index in range(count)]
    if syntax in JPEGTransferSyntaxes or syntax in JPEGLSTransferSyntaxes:
        clean = without_metadata
    elif syntax in JPEG2000TransferSyntaxes:
        clean = without_comments_2000
    else:
        raise ValueError(f"frames of {syntax.name}")
    return [clean(b"".join(fragments)) for fragments in frames]


def _encode_rle(dataset: Dataset, index: int) -> bytes:
    # Decoded and encoded again, as bytes fit between and behind the segments; pydicom clears the spare bits, too.
    pixels, _ = get_decoder(RLELossless).as_array(dataset, index=index, raw=True, decoding_plugin="pylibjpeg")
    return get_encoder(RLELossless).encode(
        pixels,
        rows=dataset.Rows,
        columns=dataset.Columns,
        number_of_frames=1,
        samples_per_pixel=dataset.SamplesPerPixel,
        bits_allocated=dataset.BitsAllocated,
        bits_stored=dataset.BitsAllocated,  # of Bits Stored the encoder would make the size of a sample
        pixel_representation=dataset.PixelRepresentation,
        photometric_interpretation=dataset.PhotometricInterpretation,
        planar_configuration=0,
    )


def _check_spare_bits(dataset: Dataset, syntax: UID) -> None:
    """Refuse what is drawn above a JPEG picture: it cannot be taken out without compressing the frame anew."""
    stored = int(dataset.BitsStored)
    if stored >= int(dataset.BitsAllocated) or syntax in RLETransferSyntaxes:
        return
    for index in range(int(dataset.get("NumberOfFrames") or 1)):
        pixels, _ = get_decoder(syntax).as_array(dataset, index=index, raw=True)
        bits = 8 * pixels.itemsize
        if bits <= stored:
            continue
        spare = pixels.view(f"u{pixels.itemsize}") >> stored
        is_negative = (pixels >> (stored - 1) & 1).astype(bool) & bool(dataset.PixelRepresentation)
        if (spare != np.where(is_negative, (1 << bits - stored) - 1, 0)).any():
            raise ValueError(f"a compressed frame with bits above the {stored} of the picture")
