"""What is sent: sound films by the series, and broken or foreign ones among them."""

import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom import uid

from medd.dicom.part10 import EXPLICIT_VR_LITTLE_ENDIAN, split_file
from medd.testing.broken import EXPECTED_REASONS, bad_inputs
from medd.testing.films import SOP_CLASSES, cheap_series, serial_uid

#: What people call the transfer syntaxes.
SYNTAXES = {
    "implicit": uid.ImplicitVRLittleEndian,
    "explicit": uid.ExplicitVRLittleEndian,
    "big-endian": uid.ExplicitVRBigEndian,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
    "rle": uid.RLELossless,
    "jpeg": uid.JPEGBaseline8Bit,
    "jpeg-lossless": uid.JPEGLosslessSV1,
    "jpeg-ls": uid.JPEGLSLossless,
    "j2k": uid.JPEG2000Lossless,
}


@dataclass(frozen=True, slots=True)
class Image:
    """One object, ready to be sent."""

    number: int
    #: What is wrong with it, by the name of `medd.testing.bad_inputs`; "" for a sound film.
    bad: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    #: The bare dataset, as C-STORE carries it.
    dataset: bytes


@dataclass(frozen=True, slots=True)
class Mix:
    """What the images are like."""

    size: int = 256
    transfer_syntax: str = "explicit"
    images_per_study: int = 1
    #: The share of bad ones, 0 to 1.
    bad: float = 0.0
    #: The same seed gives the same bytes.
    seed: int = 0


class Images:
    """An endless series of images.

    Attributes:
        contexts: SOP class and transfer syntax of all that may come.
    """

    def __init__(self, mix: Mix) -> None:
        self._mix = mix
        self._bad = _bad_objects() if mix.bad else []
        self._class = str(SOP_CLASSES["DX"])
        self._syntax = str(SYNTAXES[mix.transfer_syntax])
        pairs = {(one.sop_class_uid, one.transfer_syntax_uid) for one in self._bad}
        self.contexts = sorted(pairs | {(self._class, self._syntax)})

    def make(self, count: int) -> Iterator[Image]:
        """The first `count` images of the series."""
        mix, chance = self._mix, random.Random(self._mix.seed)
        films = cheap_series(
            count,
            rows=mix.size,
            columns=mix.size,
            bits=8 if mix.transfer_syntax == "jpeg" else 12,
            seed=mix.seed,
            images_per_study=mix.images_per_study,
            part10=False,
            transfer_syntax=self._syntax,
        )
        for number, dataset in enumerate(films):
            if mix.bad and chance.random() < mix.bad:
                yield self._spoil(number, chance.choice(self._bad))
            else:
                yield Image(number, "", self._class, serial_uid(1, mix.seed, number), self._syntax, dataset)

    def _spoil(self, number: int, one: Image) -> Image:
        mine = _unique(one.sop_instance_uid, 8, self._mix.seed, number)
        dataset = one.dataset.replace(one.sop_instance_uid.encode(), mine.encode())
        study = _element(dataset, b"\x20\x00\x0d\x00UI")
        if study:
            dataset = dataset.replace(study.encode(), _unique(study, 9, self._mix.seed, number).encode())
        return Image(number, one.bad, one.sop_class_uid, mine, one.transfer_syntax_uid, dataset)


def _bad_objects() -> list[Image]:
    """Of each kind that C-STORE can carry, one."""
    found = []
    with tempfile.TemporaryDirectory(prefix="medd-load-") as folder:
        for name, path in bad_inputs(Path(folder)).items():
            if EXPECTED_REASONS[name] is None or path.suffix != ".dcm":
                continue
            data = path.read_bytes()
            if data[128:132] != b"DICM":
                continue
            offset, syntax = split_file(data)
            # The UIDs of the file meta group: the dataset's own may be cut off.
            class_uid, instance_uid = (_element(data, tag) for tag in (b"\x02\x00\x02\x00UI", b"\x02\x00\x03\x00UI"))
            dataset = data[offset : len(data) - (len(data) - offset) % 2]  # C-STORE carries an even number of bytes
            found.append(Image(0, name.removesuffix(".dcm"), class_uid, instance_uid, syntax, dataset))
    return [one for one in found if one.transfer_syntax_uid == EXPLICIT_VR_LITTLE_ENDIAN]


def _element(data: bytes, tag: bytes) -> str:
    at = data.find(tag)
    if at < 0:
        return ""
    length = int.from_bytes(data[at + 6 : at + 8], "little")
    return data[at + 8 : at + 8 + length].decode("ascii", "replace").rstrip("\0")


def _unique(old: str, kind: int, seed: int, number: int) -> str:
    """A UID of the same length, so that it can be put in the place of the old one."""
    digits = f"{kind}{seed % 10**12:012d}{number:0{max(1, len(old) - len(uid.PYDICOM_ROOT_UID) - 13)}d}"
    return f"{uid.PYDICOM_ROOT_UID}{digits}"
