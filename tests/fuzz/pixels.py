"""Damaged pixels and codestreams of every syntax, decoded as the worker and the viewer do: in a process with limits."""

import hashlib
import random
import traceback

import cv2
import numpy as np

from medd.classify.prepare import Order, prepare_file
from medd.dicom.part10 import media_type_of, split_file
from medd.errors import Casualty, InputError, MeddError, TransientError
from medd.imaging.isolated import Isolated
from medd.imaging.preprocess import PreprocessSpec
from medd.records import MediaType
from medd_web.decoding import make
from tests.fuzz.craft import SCORED, file, film, picture
from tests.fuzz.elements import WORDS, vary
from tests.fuzz.objects import odd_objects
from tests.fuzz.target import Broken, Outcome, Target, outcome_of, signature_of

SPEC = PreprocessSpec(size=32)
TIMEOUT_S, MEMORY_MIB = 20.0, 1024
_BROKEN = "broken: "


def decode(order: Order) -> str:
    """What both roads make of a file, told in a word; for a process of its own.

    Raises:
        MeddError: Of the worker's road.
    """
    try:
        return _decode_both(order)
    except MeddError:
        raise
    except Exception as error:  # what came out is wrong, or another error than ours
        return f"{_BROKEN}{signature_of(error)}\n{traceback.format_exc()}"


def _decode_both(order: Order) -> str:
    try:
        levels = len(make(("levels", order.path, order.media_type)))
    except InputError:
        levels = 0
    [one] = prepare_file(order)
    image = one.pixels
    low, high = image.min(), image.max()
    # OpenCV's mean of ones may be a rounding more than one.
    if image.shape != SPEC.input_shape or not np.isfinite(image).all() or low < 0 or high > 1 + 1e-6:
        raise Broken(f"{image.shape}, {image.dtype} from {low} to {high}")
    if not levels:
        raise Broken("scored, but nothing for the viewer")
    return "decoded"


class Pixels(Target):
    DICTIONARY = WORDS
    REFRESH = 100_000

    def seeds(self) -> list[bytes]:
        objects = [data for _, expected, data in odd_objects() if expected == SCORED and len(data) < 100_000]
        pictures = [(".jpg", picture(8, "u1"), ()), (".png", picture(16), ()), (".tiff", picture(16), ())]
        pictures.append((".jpg", picture(8, "u1"), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)))
        pictures += [(".png", np.dstack([picture(8, "u1")] * 3), ()), (".tiff", picture(8, "u1"), ())]
        return objects + [cv2.imencode(kind, grey, options)[1].tobytes() for kind, grey, options in pictures]

    def open(self) -> None:
        self._decoders = Isolated("tests.fuzz.pixels:decode", 1, TIMEOUT_S, MEMORY_MIB)
        self._decoders.start()
        self._file = self.folder / "film"
        self._sound = file(film())

    def close(self) -> None:
        self._decoders.close()

    def change(self, rng: random.Random, data: bytes, other: bytes) -> bytes:
        return vary(rng, data, other)

    def run(self, data: bytes) -> Outcome:
        kind = media_type_of(data)
        try:
            offset = split_file(data)[0] if kind == MediaType.DICOM else 0
        except InputError as error:
            return Outcome("refused at the door", outcome_of(error).detail)
        result = self._decode(data, offset, kind)
        if isinstance(result, str):
            if result.startswith(_BROKEN):
                raise Broken(result.removeprefix(_BROKEN))
            return Outcome(result)
        if isinstance(result, Casualty):
            self.check()  # it has cost nothing but its image
            return Outcome(f"Casualty: {result}", is_kept=True)
        if isinstance(result, TransientError):
            raise Broken(f"neither decoded nor refused: {result}")
        return outcome_of(result)

    def _decode(self, data: bytes, offset: int, kind: MediaType) -> "str | Exception":
        self._file.write_bytes(data)
        digest = hashlib.sha256(data[offset:]).hexdigest()
        told: str | Exception = self._decoders.call(Order(self._file, digest, kind, "005Y", (SPEC,)))
        return told

    def check(self) -> None:
        offset, _ = split_file(self._sound)
        result = self._decode(self._sound, offset, MediaType.DICOM)
        if result != "decoded":
            raise Broken(f"a sound film is not decoded any more: {result}")


TARGET = Pixels
