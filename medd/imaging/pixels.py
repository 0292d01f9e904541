"""From a file to the picture a radiologist sees: (H, W) float32 in [0, 1], air black and bone white.

Training and classifying take this same road; whoever changes a grey value here changes what every model has learnt.
"""

import logging
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSTransferSyntaxes,
    RLELossless,
)

from medd.dicom.part10 import DEFLATED, media_type_of, split_file
from medd.errors import InputError, NotAssessable, TransientError
from medd.imaging import streams
from medd.imaging.grayscale import Levels, display, levels, picture_levels
from medd.records import MediaType, Reason

Image = NDArray[np.float32]

#: Rows × Columns. The largest detectors have 20 megapixels; a float32 of 100 takes 400 MB.
MAX_PIXELS = 100_000_000
#: Bytes of a file, or of a deflated object once inflated: 16 bits for each of the most pixels, and room for the rest.
MAX_BYTES = 256 << 20
#: Pixels on the shorter side. Less is an icon.
MIN_SIDE = 64
#: The range of [0, 1] that a picture must span: about two of 256 grey levels. Less is an exposure of nothing.
MIN_RANGE = 2 / 256
#: Mean absolute difference between two colour channels, in [0, 1]. Rounding in a grey JPEG stays below 1/255, and a
#: coloured marker on a hundredth of a film below 0.01; of the colour samples that pydicom ships most are above 0.04.
MAX_COLOUR = 0.02

_PYDICOM_LOG = logging.getLogger("pydicom")
_PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_GREY = ("MONOCHROME1", "MONOCHROME2")


def load(path: Path, media_type: MediaType | None = None) -> Image:
    """Read one radiograph as it is displayed.

    DICOM goes through the Modality LUT, the VOI LUT or window, then the inversion of MONOCHROME1
    (`medd.imaging.grayscale`). JPEG, PNG and TIFF are taken as grey from black to white, turned as their orientation
    tag says; transparency is ignored. Colour whose channels are equal, or nearly so, counts as grey.

    Args:
        path: The file.
        media_type: How it is encoded, where that is known; otherwise its first bytes tell.

    Returns:
        (H, W) float32 in [0, 1], 1 = white.

    Raises:
        NotAssessable: Sound, but no single grey picture of a size that a radiograph can have.
        InputError: Damaged, cut, or of an encoding that nobody here decodes.
        TransientError: The file is not there, or cannot be read now.
    """
    data = _read(path)
    with _explained(path):
        image = _show(_decode(data, media_type))
    low, high, _, _ = cv2.minMaxLoc(image)
    if high - low < MIN_RANGE:
        message = f"{path.name}: shows nothing. Received: grey values from {low:.3f} to {high:.3f}"
        raise NotAssessable(Reason.BLANK_IMAGE, message)
    return image


def load_levels(path: Path, media_type: MediaType | None = None, max_pixels: int = MAX_PIXELS) -> Levels:
    """Read one radiograph with all its grey values, for a viewer that chooses the window itself.

    What `Levels.shown` makes of it is what `load` gives, in 256 greys.

    Args:
        path: The file.
        media_type: As for `load`.
        max_pixels: More than this is refused before it is decoded.

    Raises:
        NotAssessable: As `load`, but for a blank image, which can be looked at.
        InputError: As `load`.
        TransientError: As `load`.
    """
    data = _read(path)
    with _explained(path):
        decoded = _decode(data, media_type, max_pixels)
        if decoded.dataset is not None:
            return levels(decoded.pixels, decoded.dataset)
        if decoded.pixels.ndim == 3:
            return picture_levels(np.rint(_show(decoded) * 255).astype(np.uint8), 255)
        return picture_levels(decoded.pixels, decoded.white)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What goes wrong within, in our own errors and with the file's name."""
    try:
        with _quiet():
            yield
    except NotAssessable as refusal:
        raise NotAssessable(refusal.reason, f"{path.name}: {refusal}") from None
    except TransientError:
        raise
    except MemoryError as error:
        raise TransientError(f"{path.name}: not enough memory to decode it") from error
    except Exception as error:  # damaged bytes bring out anything: struct.error, KeyError, zlib.error, …
        found = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(Reason.UNREADABLE, f"{path.name}: cannot be decoded. Received: {found}") from error


# -- files ---------------------------------------------------------------------------------------------------------


def _read(path: Path) -> bytes:
    """All bytes of a file that is not absurdly large."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise NotAssessable(Reason.TOO_LARGE, f"{path.name}: more than {MAX_BYTES} bytes. Received: {size}")
        return path.read_bytes()
    except OSError as error:  # the spool's disk may come back
        raise TransientError(f"{path.name}: cannot be read. Received: {error.strerror or error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the decoders remark: what matters is raised, and the rest is no concern of the operator.

    These settings belong to the process. Of two threads the later may leave it quiet for longer, which harms nothing.
    """
    level, log_level = cv2.utils.logging.getLogLevel(), _PYDICOM_LOG.level
    cv2.utils.logging.setLogLevel(0)
    _PYDICOM_LOG.setLevel(logging.CRITICAL)  # it logs each decoder's failure with a traceback, then raises as well
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        cv2.utils.logging.setLogLevel(level)
        _PYDICOM_LOG.setLevel(log_level)


def _check_size(rows: int, columns: int, max_pixels: int) -> None:
    """Refuse, before anything is decoded, what cannot be a radiograph."""
    if rows <= 0 or columns <= 0:
        raise ValueError(f"an image of {columns}×{rows} pixels")
    if rows * columns > max_pixels:
        message = f"more than {max_pixels} pixels. Received: {columns}×{rows}"
        raise NotAssessable(Reason.TOO_LARGE, message)
    if min(rows, columns) < MIN_SIDE:
        message = f"fewer than {MIN_SIDE} pixels on a side. Received: {columns}×{rows}"
        raise NotAssessable(Reason.TOO_SMALL, message)


# -- JPEG, PNG, TIFF -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Decoded:
    """Pixels, and what is to be known to show them."""

    #: (H, W) or (H, W, 3), native byte order.
    pixels: NDArray[Any]
    #: How to show (H, W) pixels; None where they go from black to white.
    dataset: Dataset | None = None
    #: The largest value; where there is no dataset.
    white: int = 0
    #: OpenCV's name for the order of three channels.
    to_grey: int = cv2.COLOR_RGB2GRAY


def _show(decoded: _Decoded) -> Image:
    if decoded.dataset is not None:
        return display(decoded.pixels, decoded.dataset)
    if decoded.pixels.ndim == 3:
        return _grey(decoded.pixels, decoded.white, decoded.to_grey)
    return _scale(decoded.pixels, decoded.white)


def _decode(data: bytes, media_type: MediaType | None, max_pixels: int = MAX_PIXELS) -> _Decoded:
    media_type = media_type or media_type_of(data)
    if media_type is MediaType.DICOM:
        return _decode_dicom(data, max_pixels)
    if media_type is MediaType.JPEG:
        header = streams.jpeg(data)
    elif media_type is MediaType.PNG:
        header, data = streams.png(data)
    else:
        header = streams.tiff(data)
    _check_size(header.rows, header.columns, max_pixels)
    if header.pages > 1:
        raise NotAssessable(Reason.MULTI_FRAME, "one picture is expected. Received: several pages")
    # Without ANYDEPTH 16 bits become 8; without ANYCOLOR colour becomes grey unseen. Both drop transparency.
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)
    if picture is None or picture.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{media_type} of {header.samples} × {header.bits} bits, damaged or of a kind not supported")
    white = np.iinfo(picture.dtype).max
    if header.white_is_zero and picture.dtype == np.uint16:  # OpenCV inverts 8 bits by itself
        picture = white - picture
    return _Decoded(picture, white=int(white), to_grey=cv2.COLOR_BGR2GRAY)


def _scale(picture: NDArray[Any], white: int) -> Image:
    image: Image = np.divide(picture, np.float32(white), dtype=np.float32)
    return image


def _grey(picture: NDArray[Any], white: int, to_grey: int) -> Image:
    """Make grey what was only stored as colour.

    Args:
        picture: (H, W, 3) uint8 or uint16 in [0, white].
        white: The largest value.
        to_grey: OpenCV's name for the order of its channels.

    Returns:
        (H, W) float32 in [0, 1]: the luma of ITU-R BT.601, which of three equal values is that value.

    Raises:
        NotAssessable: It is a picture in colour.
    """
    channels = cv2.split(picture)
    colour = max(cv2.mean(cv2.absdiff(*pair))[0] for pair in combinations(channels, 2)) / white
    if colour > MAX_COLOUR:
        message = f"a radiograph is grey. Received: colour channels that differ by {colour:.0%} on average"
        raise NotAssessable(Reason.COLOUR_IMAGE, message)
    return _scale(cv2.cvtColor(picture, to_grey), white)


# -- DICOM ---------------------------------------------------------------------------------------------------------


def _decode_dicom(data: bytes, max_pixels: int) -> _Decoded:
    _check_inflated_size(data)
    dataset = dcmread(BytesIO(data), force=True)
    keyword = next((name for name in _PIXEL_KEYWORDS if name in dataset), None)
    if keyword is None:
        if "SOPClassUID" not in dataset or _breaks_off(dataset):
            raise ValueError(f"no DICOM object, or one that breaks off, of {len(data)} bytes")
        raise NotAssessable(Reason.NOT_AN_IMAGE, "an image is expected. Received: an object without pixel data")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise NotAssessable(Reason.MULTI_FRAME, f"one frame is expected. Received: {frames}")
    _check_size(int(dataset.Rows), int(dataset.Columns), max_pixels)
    for name in ("SamplesPerPixel", "BitsAllocated"):
        # One with several values is a list, and a list times the number of pixels fills the memory.
        if not isinstance(dataset.get(name, 0), int):
            raise ValueError(f"{name}: one whole number expected")

    kind = dataset.PhotometricInterpretation
    stored, shown_as = _decode_frame(dataset, keyword)
    if kind == "PALETTE COLOR":
        painted = apply_color_lut(stored, dataset)
        return _Decoded(painted, white=int(np.iinfo(painted.dtype).max))
    if shown_as in _GREY and stored.ndim == 2:
        return _Decoded(stored, dataset)
    if shown_as == "RGB" and stored.ndim == 3 and stored.dtype in (np.uint8, np.uint16):
        return _Decoded(stored, white=(1 << int(dataset.BitsStored)) - 1)
    raise ValueError(f"Photometric Interpretation (0028,0004) {kind!r} of {stored.dtype} samples")


def _breaks_off(dataset: Dataset) -> bool:
    """Whether the last element is shorter than it says: pydicom takes what is there and does not mind."""
    last = dataset.get_item(max(dataset.keys()))
    return isinstance(last, RawDataElement) and last.value is not None and len(last.value) < last.length


def _check_inflated_size(data: bytes) -> None:
    """Refuse a deflated object (PS3.5 section A.5) that would fill the memory: pydicom inflates without limit."""
    offset, syntax = split_file(data)
    if syntax not in DEFLATED:
        return
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflater.decompress(data[offset:], MAX_BYTES)
    if inflater.unconsumed_tail:
        message = f"more than {MAX_BYTES} bytes when inflated. Received: {len(data)} bytes, deflated"
        raise NotAssessable(Reason.TOO_LARGE, message)


def _decode_frame(dataset: Dataset, keyword: str) -> tuple[NDArray[Any], str]:
    """Decode the only frame.

    The decoder of each transfer syntax is named, so that the grey values do not hang on what else is installed.

    Returns:
        (H, W) as stored or (H, W, 3) RGB, native byte order; and its photometric interpretation by now.
    """
    syntax = _transfer_syntax(dataset)
    if not syntax.is_encapsulated:
        return _native_frame(dataset, keyword, syntax)
    header = None
    if syntax != RLELossless:
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        header = streams.jpeg2000(frame) if syntax in JPEG2000TransferSyntaxes else streams.jpeg(frame)
        declared = (dataset.Rows, dataset.Columns, dataset.SamplesPerPixel)
        if header[:3] != declared:
            raise ValueError(f"rows, columns, samples {declared} declared, {tuple(header[:3])} in the compressed frame")
        if (
            syntax in (JPEGBaseline8Bit, JPEGExtended12Bit)
            and (header.samples, header.bits) == (1, 8)
            and dataset.BitsStored <= 8
        ):
            # Seven times as fast as pylibjpeg. Both round their DCT as they may: one pixel in 30 differs, by 1 of 255.
            flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
            grey = cv2.imdecode(np.frombuffer(frame, np.uint8), flags)
            if grey is None:
                raise ValueError("a damaged JPEG stream")
            _check_values(grey, header, dataset)
            return grey, dataset.PhotometricInterpretation
    plugin = "pyjpegls" if syntax in JPEGLSTransferSyntaxes else "pylibjpeg"  # 4 times as fast, the same values
    try:
        # What a stream holds is looked at as it is; RLE is the cells, whose bits above Bits Stored say nothing.
        spare: dict[str, Any] = {"correct_unused_bits": header is None}
        pixels, properties = get_decoder(syntax).as_array(dataset, index=0, decoding_plugin=plugin, **spare)
    except BaseException as error:
        # A codec in Rust (RLE) that runs beyond its buffer stops itself, and what it raises is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"a damaged frame: {error}") from error
    if header:
        _check_values(pixels, header, dataset)
    return pixels, str(properties["photometric_interpretation"])


def _check_values(pixels: NDArray[Any], header: streams.StreamHeader, dataset: Dataset) -> None:
    """Refuse values beyond Bits Stored, of which `display` would take the lower bits. A stream has no other bits."""
    bits = dataset.BitsStored
    # Signed ones may be stored with their sign extended, or not.
    if header.bits > bits and (int(pixels.max()) >> bits or int(pixels.min()) < -(1 << bits - 1)):
        found = f"values from {pixels.min()} to {pixels.max()} in the compressed frame, of {header.bits} bits"
        raise ValueError(f"Bits Stored (0028,0101) {bits}, and {found}")


def _native_frame(dataset: Dataset, keyword: str, syntax: UID) -> tuple[NDArray[Any], str]:
    expected = get_expected_length(dataset)
    excess = len(dataset[keyword].value) - expected
    # Less is refused by pydicom. Some devices pad to a block; but more than a row too much, and the size is not true.
    if excess > 1 and excess > expected // dataset.Rows:
        raise ValueError(f"{expected} bytes of pixel data by the stated size, {expected + excess} there")
    stored_bits = dataset.get("BitsStored")
    if stored_bits is not None and dataset.get("HighBit", stored_bits - 1) != stored_bits - 1:  # PS3.5 section 8.1.1
        raise ValueError(f"High Bit (0028,0102) {dataset.HighBit} with Bits Stored (0028,0101) {stored_bits}")
    # `display` looks no higher than Bits Stored, which spares two copies of 8 MB. It takes no more than 16 bits.
    spare: dict[str, Any] = {}
    grey = dataset.PhotometricInterpretation in _GREY
    if grey and dataset.BitsAllocated in (8, 16) and syntax.is_little_endian:
        spare = {"view_only": True, "correct_unused_bits": False}
    pixels, properties = get_decoder(syntax).as_array(dataset, index=0, **spare)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False), str(properties["photometric_interpretation"])


def _transfer_syntax(dataset: Dataset) -> UID:
    """(0002,0010) Transfer Syntax UID; of a dataset without meta group, what it was read as."""
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit = dataset.original_encoding[0]
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    return UID(dataset.file_meta.TransferSyntaxUID)
