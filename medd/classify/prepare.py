"""From a file in the spool to the inputs of networks: what a decoder process does with one image."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2

from medd.classify.classifier import Input, prepare
from medd.dicom.headers import age_in_years
from medd.dicom.part10 import HEAD_BYTES, split_file
from medd.errors import InputError, TransientError
from medd.imaging.pixels import load
from medd.imaging.preprocess import PreprocessSpec
from medd.records import MediaType

# There is a process for each core already.
cv2.setNumThreads(1)


@dataclass(frozen=True, slots=True)
class Order:
    """One image that is to be prepared."""

    path: Path
    #: What its bytes were when they were received, in hex.
    sha256: str
    media_type: MediaType
    #: Age String (PS3.5 section 6.2, VR AS).
    patient_age: str
    #: One input is made for each.
    specs: tuple[PreprocessSpec, ...]


def prepare_file(order: Order) -> list[Input | TransientError]:
    """The image as the input of each of the specs, decoded once; where one after the first cannot be made, why.

    Raises:
        InputError: It cannot be decoded, or is nothing to be judged.
        TransientError: The file is missing or damaged.
    """
    _verify(order)
    image = load(order.path, order.media_type)
    age = age_in_years(order.patient_age)
    champion, *candidates = order.specs
    inputs: list[Input | TransientError] = [prepare(image, champion, age)]
    for spec in candidates:
        try:
            inputs.append(inputs[0] if spec == champion else prepare(image, spec, age))
        # What numpy and OpenCV raise where a candidate's own spec asks too much; the champion's work stands.
        except (ValueError, MemoryError, cv2.error) as error:
            inputs.append(TransientError(f"its input cannot be made: {type(error).__name__}"))
    return inputs


def _verify(order: Order) -> None:
    """Hold a file against the digest it was received with: on a failing disk they differ."""
    path = order.path
    try:
        with path.open("rb") as file:
            if order.media_type == MediaType.DICOM:
                file.seek(split_file(file.read(HEAD_BYTES))[0])
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except InputError:
        found = ""
    except OSError as error:
        raise TransientError(f"spool: {path.name}: {error.strerror}") from error
    if found != order.sha256:
        # The same image sent again mends it.
        raise TransientError(f"spool: {path.name} is not what was received: it is damaged")
