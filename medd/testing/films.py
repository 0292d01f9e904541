"""Synthetic radiographs as the files a hospital has: DX and CR objects, and JPEG pictures."""

import zlib
from collections.abc import Iterator
from datetime import date, timedelta
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from medd.dicom.part10 import encode_file_meta
from medd.testing.lossless import encode_lossless
from medd.testing.phantom import radiograph

Size = int | tuple[int, int]

#: Variants of one film, made one after the other, are drawn once. The arrays are not to be written to.
_drawn = lru_cache(maxsize=2)(radiograph)

SOP_CLASSES = {"DX": uid.DigitalXRayImageStorageForPresentation, "CR": uid.ComputedRadiographyImageStorage}
_GIRLS = ("ANNA", "CLARA", "EMMA", "IDA", "LINA", "MARIE", "NORA", "THEA")
_BOYS = ("BEN", "DAVID", "FELIX", "JONAS", "LEO", "OSKAR", "PAUL", "TOM")
#: SNOMED CT codes of the frontal views, PS3.16 CID 4010.
_VIEW_CODES = {"AP": ("399348003", "antero-posterior projection"), "PA": ("399132005", "postero-anterior projection")}


def dicom_radiograph(
    seed: int,
    *,
    opacity: bool = False,
    size: Size = 1024,
    modality: Literal["DX", "CR"] = "DX",
    bits: int = 12,
    transfer_syntax: str = uid.ExplicitVRLittleEndian,
    photometric: Literal["MONOCHROME1", "MONOCHROME2"] = "MONOCHROME2",
    view: Literal["AP", "PA"] = "AP",
    patient_name: str = "",
    patient_id: str = "",
    **attributes: Any,
) -> Dataset:
    """Make a chest film as Digital X-Ray Image For Presentation or Computed Radiography Image (PS3.3 A.26, A.2).

    UIDs come from the arguments: the same call gives the same object, another call another SOP Instance UID. One seed
    is one patient with one study.

    Args:
        seed: Chooses the child and the film, as in `radiograph`.
        opacity: Whether the lungs hold consolidations.
        size: Side of the square film, or (rows, columns), pixels.
        modality: The kind of object.
        bits: Bits Stored, 8 to 16; the whole range is used.
        transfer_syntax: Uncompressed, deflated, RLE, JPEG Lossless, JPEG-LS, JPEG 2000, or JPEG Baseline for 8 bits.
        photometric: MONOCHROME1 stores the film inverted.
        view: View Position.
        patient_name: As DICOM writes it; empty for a made-up name.
        patient_id: Empty for one made from the seed.
        attributes: Further attributes by keyword, set last; None removes one.

    Returns:
        A dataset with file meta information, ready for ``save_as(path, enforce_file_format=True)``.
    """
    if not 8 <= bits <= 16:
        raise ValueError(f"bits must be 8 to 16. Received: {bits}")
    # The arguments that make this object another than its siblings of the same seed.
    variant = (opacity, size, modality, bits, transfer_syntax, photometric, view, patient_name, patient_id)
    ds = Dataset()
    _patient_and_study(ds, seed, patient_name, patient_id)
    _series_and_equipment(ds, seed, modality, view)
    ds.SOPClassUID = SOP_CLASSES[modality]
    ds.SOPInstanceUID = _uid("instance", seed, *variant, *sorted(attributes.items()))
    _image(ds, photometric)
    if modality == "DX":
        _dx(ds, view)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = UID(transfer_syntax)
    _set_pixels(ds, _drawn(seed, size=size, opacity=opacity), bits)
    for keyword, value in attributes.items():
        if value is None:
            del ds[keyword]
        else:
            setattr(ds, keyword, value)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    return ds


def jpeg_radiograph(seed: int, *, opacity: bool = False, size: Size = 1024, quality: int = 92) -> bytes:
    """Make a chest film as the bytes of a grey JPEG file."""
    return _jpeg(_quantise(_drawn(seed, size=size, opacity=opacity), 8), quality)


def write_samples(folder: Path, n: int = 8, seed: int = 0, *, size: Size = 1024) -> list[Path]:
    """Write a mixed set of films, as several machines would send them: DX, CR in both polarities, JPEG.

    Every second film has an opacity; its name says so ("0003-opacity-cr12.dcm").

    Args:
        folder: Made where it is missing.
        n: How many files.
        seed: Of the first film; the next has the next seed.
        size: As in `radiograph`.

    Returns:
        The files in the order of their names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(n):
        # The shift by i // 4 gives every kind of file both kinds of lung.
        opacity = (i + i // 4) % 2 == 1
        kind, suffix = (("dx16", "dcm"), ("cr12", "dcm"), ("film", "jpg"), ("cr16", "dcm"))[i % 4]
        path = folder / f"{i + 1:04d}-{'opacity' if opacity else 'clear'}-{kind}.{suffix}"
        if kind == "film":
            path.write_bytes(jpeg_radiograph(seed + i, opacity=opacity, size=size))
        elif kind == "dx16":
            ds = dicom_radiograph(seed + i, opacity=opacity, size=size, bits=16)
            ds.save_as(path, enforce_file_format=True)
        else:
            bits = int(kind[2:])
            ds = dicom_radiograph(
                seed + i, opacity=opacity, size=size, modality="CR", bits=bits, photometric="MONOCHROME1"
            )
            ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def cheap_series(
    n: int,
    *,
    rows: int = 256,
    columns: int = 256,
    bits: int = 12,
    seed: int = 0,
    images_per_study: int = 1,
    part10: bool = True,
    transfer_syntax: str = uid.ExplicitVRLittleEndian,
) -> Iterator[bytes]:
    """Make many distinct DX objects quickly, for load tests: one film, patched.

    Each has its own SOP Instance UID, each study its own UIDs, patient and accession number; the first eight pixels
    hold the image's number, so that no two have the same pixels (compressed ones all have).

    Args:
        n: How many.
        rows: Rows, pixels.
        columns: Columns, pixels; at least 8.
        bits: Bits Stored, 8 to 16.
        seed: Chooses the film; series of different seeds share no UID.
        images_per_study: Images that follow one another in one study, all in one series.
        part10: Yield files (PS3.10); otherwise bare datasets, as C-STORE carries them.
        transfer_syntax: As in `dicom_radiograph`.

    Yields:
        The bytes of one object.
    """
    # Of fixed length, so that a value is replaced in place: root, what it is, the seed, the number.
    marks = {name: serial_uid(kind, seed, 10**12 - 1) for kind, name in enumerate(("instance", "study", "series"), 1)}
    patient, accession = "SYN-999999999999", "A999999999999999"
    deflated = transfer_syntax == uid.DeflatedExplicitVRLittleEndian
    template = dicom_radiograph(
        seed,
        size=(rows, columns),
        bits=bits,
        transfer_syntax=uid.ExplicitVRLittleEndian if deflated else transfer_syntax,
        patient_id=patient,
        AccessionNumber=accession,
        SOPInstanceUID=marks["instance"],
        StudyInstanceUID=marks["study"],
        SeriesInstanceUID=marks["series"],
    )
    stream = BytesIO()
    template.save_as(stream, enforce_file_format=True)
    data = bytearray(stream.getvalue())
    # The preamble, then group 0002, whose first element holds the length of the rest (PS3.10 section 7.1).
    meta = 144 + int.from_bytes(data[140:144], "little")
    if deflated and part10:
        data[:meta] = head = encode_file_meta(template.SOPClassUID, marks["instance"], transfer_syntax)
        meta = len(head)
    if not part10:
        del data[:meta]
        meta = 0
    instance_at = _find_all(data, marks["instance"])
    study_at, series_at = _find_all(data, marks["study"]), _find_all(data, marks["series"])
    patient_at, accession_at = _find_all(data, patient), _find_all(data, accession)
    step = 1 if bits == 8 else 2
    compressed = template.file_meta.TransferSyntaxUID.is_encapsulated
    pixels_at = len(data) - len(template.PixelData)

    def patch(places: list[int], value: str) -> None:
        for place in places:
            data[place : place + len(value)] = value.encode()

    for i in range(n):
        study, place = divmod(i, images_per_study)
        if place == 0:
            patch(study_at, serial_uid(2, seed, study))
            patch(series_at, serial_uid(3, seed, study))
            patch(patient_at, f"SYN-{study:012d}")
            patch(accession_at, f"A{study:015d}")
        patch(instance_at, serial_uid(1, seed, i))
        if not compressed:
            data[pixels_at : pixels_at + 8 * step : step] = i.to_bytes(8, "little")
        yield bytes(data[:meta]) + _deflate(data[meta:]) if deflated else bytes(data)


def _deflate(data: bytes | bytearray) -> bytes:
    """PS3.5 section A.5: raw deflate, padded to an even length."""
    packer = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    packed = packer.compress(data) + packer.flush()
    return packed + b"\0" * (len(packed) % 2)


def _find_all(data: bytearray, text: str) -> list[int]:
    places, mark = [], text.encode()
    place = data.find(mark)
    while place >= 0:
        places.append(place)
        place = data.find(mark, place + 1)
    return places


def serial_uid(kind: int, seed: int, number: int) -> str:
    """A UID of always 59 characters, as `cheap_series` gives them: kind 1 is an instance, 2 a study, 3 a series."""
    return f"{uid.PYDICOM_ROOT_UID}{kind}{seed % 10**19:019d}{number:013d}"


def _uid(*sources: object) -> UID:
    return uid.generate_uid(entropy_srcs=["medd.testing", *map(repr, sources)])


def _code(value: str, meaning: str, scheme: str = "SCT") -> Dataset:
    """One item of a code sequence (PS3.3 section 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _patient_and_study(ds: Dataset, seed: int, name: str, patient_id: str) -> None:
    rng = np.random.default_rng((seed, 10))
    girl = bool(rng.integers(2))
    taken = date(2024, 1, 1) + timedelta(days=seed % 366)
    age_days = int(rng.integers(370, 6 * 365 - 10))
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName = name or f"SYNTHETIC^{rng.choice(_GIRLS if girl else _BOYS)}"
    ds.PatientID = patient_id or f"SYN-{seed:04d}"
    ds.PatientBirthDate = (taken - timedelta(days=age_days)).strftime("%Y%m%d")
    ds.PatientSex = "F" if girl else "M"
    ds.PatientAge = f"{int(age_days / 365.25):03d}Y"
    ds.StudyInstanceUID = _uid("study", seed)
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = taken.strftime("%Y%m%d")
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = f"{8 + seed % 10:02d}{seed % 60:02d}00"
    ds.ReferringPhysicianName = ""
    ds.StudyID = str(seed % 10**9)
    ds.AccessionNumber = f"SYN{seed % 10**12:06d}"
    ds.StudyDescription = "CHEST"


def _series_and_equipment(ds: Dataset, seed: int, modality: str, view: str) -> None:
    ds.Modality = modality
    ds.SeriesInstanceUID = _uid("series", seed, modality)
    ds.SeriesNumber = 1
    ds.SeriesDescription = ds.ProtocolName = f"CHEST {view}"
    ds.BodyPartExamined = "CHEST"
    ds.ViewPosition = view
    ds.Manufacturer = "medd"
    ds.ManufacturerModelName = "Synthetic film"
    ds.InstitutionName = "Nowhere"
    ds.StationName = "SYNTHETIC"
    ds.SoftwareVersions = "1"
    ds.DeviceSerialNumber = "0"


def _image(ds: Dataset, photometric: str) -> None:
    ds.InstanceNumber = 1
    ds.ImageType = ["ORIGINAL", "PRIMARY", ""]
    ds.PatientOrientation = ["L", "F"]
    ds.ImageComments = "Synthetic film, no patient"
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = photometric
    ds.PixelRepresentation = 0
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"
    ds.KVP = "60"


def _dx(ds: Dataset, view: str) -> None:
    """What Digital X-Ray asks for beyond Computed Radiography (PS3.3 C.8.11)."""
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.PixelIntensityRelationship = "LOG"
    # 1: more radiation gives a lower value (bone white in MONOCHROME2) is -1 (PS3.3 C.8.11.3.1.2).
    inverted = ds.PhotometricInterpretation == "MONOCHROME1"
    ds.PixelIntensityRelationshipSign = 1 if inverted else -1
    ds.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
    ds.ImageLaterality = "U"
    ds.AnatomicRegionSequence = [_code("51185008", "Chest")]
    code = _code(*_VIEW_CODES[view])
    code.ViewModifierCodeSequence = []
    ds.ViewCodeSequence = [code]
    ds.PositionerType = "NONE"
    ds.DetectorType = "SCINTILLATOR"
    ds.DetectorID = ""
    ds.AcquisitionContextSequence = []


def _quantise(image: NDArray[np.float32], bits: int) -> NDArray[np.uint16]:
    """(H, W) float32 in [0, 1] → (H, W) uint16 in [0, 2**bits - 1]."""
    return np.asarray(image * (2**bits - 1) + 0.5).astype(np.uint16)


def _jpeg(stored: NDArray[np.uint16], quality: int) -> bytes:
    _, encoded = cv2.imencode(".jpg", stored.astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return encoded.tobytes()


def _set_pixels(ds: Dataset, image: NDArray[np.float32], bits: int) -> None:
    """Store (H, W) float32 in [0, 1] as Bits Stored `bits`, in the dataset's transfer syntax."""
    stored = _quantise(image, bits)
    if ds.PhotometricInterpretation == "MONOCHROME1":
        stored = 2**bits - 1 - stored
    ds.Rows, ds.Columns = stored.shape
    spacing = round(300 / min(stored.shape), 4)
    ds.ImagerPixelSpacing = ds.PixelSpacing = [spacing, spacing]
    ds.BitsAllocated = 8 if bits == 8 else 16
    ds.BitsStored, ds.HighBit = bits, bits - 1
    ds.WindowCenter, ds.WindowWidth = 2 ** (bits - 1), 2**bits
    syntax = ds.file_meta.TransferSyntaxUID
    if syntax == uid.JPEGBaseline8Bit:
        if bits != 8:
            raise ValueError(f"JPEG Baseline holds 8 bits. Received: {bits}")
        fragment = _jpeg(stored, 92)
        ds.PixelData = encapsulate([fragment])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
        ds.LossyImageCompression, ds.LossyImageCompressionMethod = "01", "ISO_10918_1"
        ds.LossyImageCompressionRatio = round(stored.size / len(fragment), 2)
        return
    if syntax == uid.JPEGLosslessSV1:
        ds.PixelData = encapsulate([encode_lossless(stored, bits)])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
        return
    order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
    data = stored.astype(np.uint8 if bits == 8 else f"{order}u2").tobytes()
    # PS3.5 section 7.1.1: values have an even length.
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OB" if bits == 8 else "OW"
    if syntax.is_encapsulated:
        ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        ds.compress(syntax, generate_instance_uid=False)
