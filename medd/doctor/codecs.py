"""Whether pixels can be decoded: every transfer syntax is tried on a film whose pixels are known."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydicom.uid import UID

from medd.dicom import samples
from medd.doctor.finding import Finding, State
from medd.errors import MeddError
from medd.imaging.pixels import load
from medd.ingest.listener import supported_transfer_syntaxes
from medd.settings import Settings


def check_decoders(_settings: Settings) -> Iterator[Finding]:
    """Decode the sample of each transfer syntax by the road that images take."""
    with tempfile.TemporaryDirectory() as folder:
        for syntax, sample in samples.SAMPLES.items():
            name, kind = f"decoder {syntax}", UID(syntax).name
            wrong = _try(syntax, Path(folder) / "sample.dcm")
            if wrong:
                yield Finding(State.FAIL, name, f"{kind}: {wrong}", f"pip install --force-reinstall {sample.package}")
            else:
                yield Finding(State.OK, name, f"{kind}: decodes to the known pixels")
    accepted = frozenset[str]().union(*supported_transfer_syntaxes().values())
    others = len(accepted - samples.SAMPLES.keys())
    if others:
        # They hold no still radiograph in practice; refusing them would lose an image that a person could look at.
        found = (
            f"{others} more are accepted and kept without one (video, JPIP, JPEG XL, …): such images are not assessed"
        )
        yield Finding(State.OK, "decoder others", found)


def _try(syntax: str, path: Path) -> str:
    """What is wrong with the decoder of a transfer syntax; "" where nothing is."""
    path.write_bytes(samples.encode(syntax))
    try:
        image = load(path)
    except MeddError as error:
        return str(error)
    if image.shape != (samples.SIDE, samples.SIDE):
        return f"{image.shape} pixels, {(samples.SIDE, samples.SIDE)} expected"
    furthest = float(np.abs(image - samples.expected()).max())
    return f"pixels differ by up to {furthest:.1%}" if furthest > samples.TOLERANCE else ""
