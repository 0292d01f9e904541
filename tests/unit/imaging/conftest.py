"""Small films as DICOM files, built attribute by attribute."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ComputedRadiographyImageStorage, ExplicitVRLittleEndian

WriteFilm = Callable[..., Path]


def film_dataset(stored: np.ndarray, syntax: str = ExplicitVRLittleEndian, **attributes) -> Dataset:
    """A CR image of `stored`; `attributes` are added or, where None, left out."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = "2.25.1"
    dataset.Modality = "CR"
    dataset.SamplesPerPixel = 1 if stored.ndim == 2 else 3
    if stored.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = "MONOCHROME2" if stored.ndim == 2 else "RGB"
    dataset.Rows, dataset.Columns = stored.shape[:2]
    dataset.BitsAllocated = dataset.BitsStored = 8 * stored.dtype.itemsize
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    little = UID(syntax).is_little_endian
    cells = stored.astype(stored.dtype.newbyteorder("<" if little else ">")).tobytes()
    if not little and stored.dtype.itemsize == 1:  # PS3.5 section A.3: OW is swapped whole
        cells = np.frombuffer(cells, "u2").byteswap().tobytes()
    dataset.add_new("PixelData", "OW", cells)
    for name, value in attributes.items():
        if value is None:
            del dataset[name]
        else:
            setattr(dataset, name, value)
    dataset.HighBit = attributes.get("HighBit", max(dataset.BitsStored - 1, 0))
    return dataset


@pytest.fixture
def write_film(tmp_path) -> WriteFilm:
    """Write a film as film.dcm: `write_film(stored, syntax, **attributes)` → its path."""

    def write(stored: np.ndarray, syntax: str = ExplicitVRLittleEndian, **attributes) -> Path:
        dataset, path = film_dataset(stored, syntax, **attributes), tmp_path / "film.dcm"
        uid = UID(syntax)
        pydicom.dcmwrite(
            path,
            dataset,
            implicit_vr=uid.is_implicit_VR,
            little_endian=uid.is_little_endian,
            enforce_file_format=True,
        )
        return path

    return write


@pytest.fixture
def dcmtk() -> Callable[[str], str]:
    """The path of a DCMTK program."""

    def find(program: str) -> str:
        found = shutil.which(program)
        if found is None:
            if os.environ.get("MEDD_REQUIRE_PEERS") == "1":
                raise RuntimeError(f"{program} is not installed, and MEDD_REQUIRE_PEERS=1")
            pytest.skip(f"{program} (DCMTK) is not installed")
        return found

    return find
