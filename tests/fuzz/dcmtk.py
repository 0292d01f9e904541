"""Odd objects made by DCMTK, where it is installed."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pydicom import Dataset

from tests.fuzz.craft import SCORED, UNREADABLE, file, of_bits

#: Name → DCMTK's program, its options, bits of the film, and what is to come of it.
_DCMTK: dict[str, tuple[str, list[str], int, str]] = {
    "JPEG Baseline": ("dcmcjpeg", ["+eb"], 8, SCORED),
    "JPEG Baseline, four fragments": ("dcmcjpeg", ["+eb", "+ff", "+fs", "1"], 8, SCORED),
    "JPEG Baseline without offset table": ("dcmcjpeg", ["+eb", "-ot"], 8, SCORED),
    "JPEG Extended of 12 bits": ("dcmcjpeg", ["+ee"], 12, SCORED),
    "JPEG Spectral Selection": ("dcmcjpeg", ["+es"], 8, UNREADABLE),
    "JPEG Progressive": ("dcmcjpeg", ["+ep"], 8, UNREADABLE),
    "JPEG Lossless": ("dcmcjpeg", ["+el"], 12, SCORED),
    "JPEG Lossless SV1": ("dcmcjpeg", ["+e1"], 16, SCORED),
    "JPEG-LS": ("dcmcjpls", ["+el"], 12, SCORED),
    "JPEG-LS, nearly lossless": ("dcmcjpls", ["+en"], 12, SCORED),
    "RLE": ("dcmcrle", [], 12, SCORED),
    "big endian": ("dcmconv", ["+tb"], 12, SCORED),
    "implicit": ("dcmconv", ["+ti"], 12, SCORED),
    "deflated": ("dcmconv", ["+td"], 12, SCORED),
    "no file meta": ("dcmconv", ["-F"], 12, SCORED),
    "sequences without lengths": ("dcmconv", ["-e"], 12, SCORED),
    "padded": ("dcmconv", ["+p", "2048", "64"], 12, SCORED),
}


def by_dcmtk() -> Iterator[tuple[str, str, bytes]]:
    """As `odd_objects`."""
    with tempfile.TemporaryDirectory(prefix="medd-odd-") as folder:
        for name, (program, options, bits, expected) in _DCMTK.items():
            if found := shutil.which(program):
                yield f"DCMTK: {name}", expected, _convert(Path(folder), [found, *options], bits)


def _convert(folder: Path, command: list[str], bits: int) -> bytes:
    made = of_bits(8, 8, "u1") if bits == 8 else of_bits(16, bits, "<u2")
    made.ReferencedImageSequence = [Dataset()]
    made.ReferencedImageSequence[0].ReferencedSOPInstanceUID = "2.25.9"
    before, after = folder / "before.dcm", folder / "after.dcm"
    before.write_bytes(file(made))
    subprocess.run([*command, str(before), str(after)], check=True, capture_output=True, timeout=60)
    return after.read_bytes()
