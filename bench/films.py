"""Films of every transfer syntax, and their decoders alone. `stages.py` has both called in processes of their own."""

import hashlib
import shutil
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from pydicom import dcmread, uid
from pydicom.encaps import encapsulate, get_frame

from medd.classify.prepare import Order, prepare_file
from medd.classify.prepare import _verify as verify  # noqa: F401  # what stages.py measures by itself
from medd.dicom.part10 import split_file
from medd.imaging.preprocess import PreprocessSpec
from medd.records import MediaType
from medd.testing.films import dicom_radiograph

#: Transfer syntax and Bits Stored, by what people call it.
FILMS = {
    "uncompressed": (uid.ExplicitVRLittleEndian, 16),
    "RLE": (uid.RLELossless, 16),
    "JPEG baseline, 8 bits": (uid.JPEGBaseline8Bit, 8),
    "JPEG lossless": (uid.JPEGLosslessSV1, 16),
    "JPEG-LS": (uid.JPEGLSLossless, 16),
    "JPEG 2000": (uid.JPEG2000Lossless, 16),
    "HTJ2K": (uid.HTJ2KLossless, 16),
}


ROOT = Path(__file__).parents[1]


def make(folder: Path, size: int, only: str = "") -> dict[str, Path]:
    """A film of each transfer syntax that can be encoded here: HTJ2K needs `ojph_compress` of OpenJPH."""
    made = {}
    for number, (name, (syntax, bits)) in enumerate(FILMS.items()):
        if only not in ("", name):
            continue
        path = folder / f"film-{number}.dcm"
        if syntax == uid.HTJ2KLossless:
            if shutil.which("ojph_compress"):
                _write_htj2k(path, size, bits)
                made[name] = path
            continue
        dicom_radiograph(1, size=size, bits=bits, transfer_syntax=syntax).save_as(path, enforce_file_format=True)
        made[name] = path
    return made


def _write_htj2k(path: Path, size: int, bits: int) -> None:
    film = dicom_radiograph(1, size=size, bits=bits)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        plain, packed = Path(folder) / "film.pgm", Path(folder) / "film.j2c"
        values = np.frombuffer(film.PixelData, "<u2")
        plain.write_bytes(b"P5 %d %d %d\n" % (size, size, 2**bits - 1) + values.astype(">u2").tobytes())
        call = ["ojph_compress", "-i", str(plain), "-o", str(packed), "-reversible", "true"]
        subprocess.run(call, check=True, stdout=subprocess.DEVNULL)
        film.PixelData = encapsulate([packed.read_bytes()])
    film["PixelData"].VR = "OB"
    film["PixelData"].is_undefined_length = True
    film.file_meta.TransferSyntaxUID = uid.HTJ2KLossless
    film.save_as(path, enforce_file_format=True)


def order(path: Path, spec: PreprocessSpec) -> Order:
    """What a worker asks its decoders for."""
    data = path.read_bytes()
    digest = hashlib.sha256(data[split_file(data)[0] :]).hexdigest()
    return Order(path, digest, MediaType.DICOM, "", (spec,))


@cache
def _decoder(path: Path):
    """The decoder that medd uses, on the compressed frame in memory; of an uncompressed film a copy of its pixels."""
    import jpeg_ls
    import libjpeg
    import openjpeg
    import rle

    film = dcmread(path)
    syntax, cells = film.file_meta.TransferSyntaxUID, film.Rows * film.Columns
    if not syntax.is_encapsulated:
        return lambda: np.frombuffer(film.PixelData, "<u2").copy()
    frame = get_frame(film.PixelData, 0, number_of_frames=1)
    grey = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
    return {
        uid.RLELossless: lambda: rle.rle.decode_frame(frame, cells, film.BitsAllocated, "<"),
        uid.JPEGBaseline8Bit: lambda: cv2.imdecode(np.frombuffer(frame, np.uint8), grey),
        uid.JPEGLosslessSV1: lambda: libjpeg.decode_pixel_data(
            frame, version=2, photometric_interpretation="MONOCHROME2"
        ),
        uid.JPEGLSLossless: lambda: jpeg_ls.decode_pixel_data(frame),
        uid.JPEG2000Lossless: lambda: openjpeg.decode_pixel_data(frame, version=2),
        uid.HTJ2KLossless: lambda: openjpeg.decode_pixel_data(frame, version=2),
    }[syntax]


def alone(path: Path) -> float:
    """The decoder alone; returns seconds of CPU."""
    decode = _decoder(path)
    began = time.process_time()
    decode()
    return time.process_time() - began


def whole(one: Order) -> float:
    """The whole road from the file to the network's input; returns seconds of CPU."""
    began = time.process_time()
    prepare_file(one)
    return time.process_time() - began
