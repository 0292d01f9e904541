"""A corpus of inputs that are broken, or sound but nothing for a chest model."""

from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset

from medd.records import Reason
from medd.testing.films import dicom_radiograph, jpeg_radiograph

SIDE = 384


def bad_inputs(folder: Path) -> dict[str, Path]:
    """Write one of each bad input into `folder`, which is made where it is missing.

    Returns:
        Name → path, in the order of `EXPECTED_REASONS`, which says what medd has to make of each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, (_, make) in _CORPUS.items():
        path = folder / name
        if make is None:
            path.mkdir(exist_ok=True)
        else:
            path.unlink(missing_ok=True)
            path.write_bytes(make())
        paths[name] = path
    paths["no_permission.dcm"].chmod(0)
    return paths


def _film(**attributes: object) -> Dataset:
    return dicom_radiograph(7, size=SIDE, **attributes)  # type: ignore[arg-type]


def _file(ds: Dataset) -> bytes:
    stream = BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _other(sop_class: uid.UID, modality: str) -> Dataset:
    """An object of another class, of the same patient and study, without an image."""
    ds = _film()
    for element in [e for e in ds if e.tag.group in (0x0018, 0x0028, 0x2050, 0x7FE0)]:
        del ds[element.tag]
    for keyword in ("ImageType", "PatientOrientation", "ImageLaterality", "ImageComments", "AnatomicRegionSequence"):
        del ds[keyword]
    for keyword in ("PresentationIntentType", "ViewCodeSequence", "AcquisitionContextSequence"):
        del ds[keyword]
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop_class
    ds.SOPInstanceUID = uid.generate_uid(entropy_srcs=["medd.testing.broken", sop_class])
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.Modality = modality
    return ds


def _truncated_header() -> bytes:
    data = _file(_film())
    # In the middle of the name of the protocol, well behind the file meta information.
    return data[: data.index(b"CHEST AP") + 3]


def _truncated_pixels() -> bytes:
    data = _file(_film())
    return data[: len(data) // 2]


def _float_pixels() -> bytes:
    # No Digital X-Ray may have them (PS3.3 C.7.6.24 is for parametric maps), but they can be read.
    ds = _film(BitsAllocated=32, BitsStored=None, HighBit=None, PixelRepresentation=None)
    ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = 0.5, 1, "LINEAR_EXACT"
    values = np.frombuffer(ds.PixelData, "<u2").astype("<f4") / 4095
    del ds.PixelData
    ds.FloatPixelData = values.tobytes()
    return _file(ds)


def _one_pixel() -> bytes:
    return _file(_film(Rows=1, Columns=1, PixelData=b"\x10\x00"))


def _blank() -> bytes:
    return _file(_film(PixelData=np.full((SIDE, SIDE), 700, "<u2").tobytes()))


def _photograph() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """A meadow under a blue sky with a red ball: (SIDE, SIDE, 3) uint8, RGB."""
    y = np.linspace(0, 1, SIDE)[:, None, None]
    sky, grass = np.array([90, 150, 230]), np.array([60, 140, 40])
    picture = np.broadcast_to(np.where(y < 0.55, sky + 60 * y, grass + 30 * y), (SIDE, SIDE, 3)).astype(np.uint8)
    return np.asarray(cv2.circle(picture.copy(), (SIDE // 2, SIDE // 2), SIDE // 6, (210, 30, 30), -1), dtype=np.uint8)


def _colour_dicom() -> bytes:
    ds = _film(bits=8)
    ds.SamplesPerPixel, ds.PlanarConfiguration, ds.PhotometricInterpretation = 3, 0, "RGB"
    ds.PixelData = _photograph().tobytes()
    return _file(ds)


def _colour_jpeg() -> bytes:
    _, encoded = cv2.imencode(".jpg", _photograph()[:, :, ::-1])
    return encoded.tobytes()


def _multi_frame() -> bytes:
    ds = _film(NumberOfFrames=3)
    ds.PixelData = ds.PixelData * 3
    return _file(ds)


def _huge_dicom() -> bytes:
    # Rows (0028,0010) are 16 bits wide: 65,535 is all an object can declare.
    return _file(_film(Rows=65535, Columns=65535, PixelData=bytes(1024)))


def _huge_jpeg() -> bytes:
    data = bytearray(jpeg_radiograph(7, size=SIDE))
    frame = data.index(b"\xff\xc0")  # SOF0: marker, length, precision, then height and width
    data[frame + 5 : frame + 9] = (65500).to_bytes(2, "big") * 2
    return bytes(data)


def _half_jpeg() -> bytes:
    data = jpeg_radiograph(7, size=SIDE)
    return data[: len(data) // 2]


def _ct() -> bytes:
    ds = _film(ImageOrientationPatient=[1, 0, 0, 0, 1, 0], ImagePositionPatient=[0, 0, 0], SliceThickness=5)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = uid.CTImageStorage
    ds.Modality = "CT"
    del ds.ViewCodeSequence, ds.PresentationIntentType
    ds.FrameOfReferenceUID = uid.generate_uid(entropy_srcs=["medd.testing.broken", "frame"])
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.RescaleIntercept, ds.RescaleType = -1024, "HU"
    return _file(ds)


def _report() -> bytes:
    ds = _other(uid.ComprehensiveSRStorage, "SR")
    ds.CompletionFlag, ds.VerificationFlag = "COMPLETE", "UNVERIFIED"
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    title = Dataset()
    title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning = "18748-4", "LN", "Diagnostic imaging report"
    ds.ConceptNameCodeSequence = [title]
    ds.ContentSequence = []
    return _file(ds)


def _pdf() -> bytes:
    ds = _other(uid.EncapsulatedPDFStorage, "DOC")
    ds.MIMETypeOfEncapsulatedDocument, ds.DocumentTitle, ds.BurnedInAnnotation = "application/pdf", "Letter", "YES"
    ds.EncapsulatedDocument = b"%PDF-1.4\n%%EOF\n\n"
    return _file(ds)


def _presentation_state() -> bytes:
    ds = _other(uid.GrayscaleSoftcopyPresentationStateStorage, "PR")
    ds.ContentLabel, ds.ContentDescription = "MARKS", ""
    ds.PresentationCreationDate, ds.PresentationCreationTime = "20240101", "120000"
    ds.ReferencedSeriesSequence = []
    ds.PresentationLUTShape = "IDENTITY"
    return _file(ds)


def _derived() -> bytes:
    ds = _film(modality="CR", bits=8, ImageType=["DERIVED", "SECONDARY"], ConversionType="WSD")
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = uid.SecondaryCaptureImageStorage
    return _file(ds)


def _bare_dataset() -> bytes:
    data = _file(_film(transfer_syntax=uid.ImplicitVRLittleEndian))
    # The preamble, then group 0002, whose first element holds the length of the rest (PS3.10 section 7.1).
    return data[144 + int.from_bytes(data[140:144], "little") :]


#: File name → what medd has to make of it, and how it is made; no maker makes a folder.
_CORPUS: dict[str, tuple[Reason | None, Callable[[], bytes] | None]] = {
    # Damaged
    "truncated_header.dcm": (Reason.UNREADABLE, _truncated_header),
    "truncated_pixels.dcm": (Reason.UNREADABLE, _truncated_pixels),
    "text.dcm": (Reason.UNREADABLE, lambda: b"Dear colleague, please find the film attached.\n" * 20),
    "zero_bytes.dcm": (Reason.UNREADABLE, lambda: b""),
    "half.jpg": (Reason.UNREADABLE, _half_jpeg),
    # Pixels that no chest film has
    "one_pixel.dcm": (Reason.TOO_SMALL, _one_pixel),
    "blank.dcm": (Reason.BLANK_IMAGE, _blank),
    "huge.dcm": (Reason.TOO_LARGE, _huge_dicom),
    "huge.jpg": (Reason.TOO_LARGE, _huge_jpeg),
    "no_pixels.dcm": (Reason.NOT_AN_IMAGE, lambda: _file(_film(PixelData=None))),
    "colour.dcm": (Reason.COLOUR_IMAGE, _colour_dicom),
    "colour.jpg": (Reason.COLOUR_IMAGE, _colour_jpeg),
    "multi_frame.dcm": (Reason.MULTI_FRAME, _multi_frame),
    # Sound, but not a frontal chest film
    "lateral.dcm": (
        Reason.LATERAL_VIEW,
        lambda: _file(_film(ViewPosition="LL", SeriesDescription="CHEST LAT", PatientOrientation=["A", "F"])),
    ),
    "hand.dcm": (Reason.NOT_CHEST, lambda: _file(_film(BodyPartExamined="HAND", SeriesDescription="HAND AP"))),
    "knee.dcm": (Reason.NOT_CHEST, lambda: _file(_film(BodyPartExamined="KNEE", SeriesDescription="KNEE AP"))),
    "ct.dcm": (Reason.NOT_A_RADIOGRAPH, _ct),
    "derived.dcm": (Reason.DERIVED_IMAGE, _derived),
    "report.dcm": (Reason.REPORT_OBJECT, _report),
    "presentation_state.dcm": (Reason.REPORT_OBJECT, _presentation_state),
    "pdf.dcm": (Reason.NOT_AN_IMAGE, _pdf),
    # Odd, but sound: to be scored
    "float_pixels.dcm": (None, _float_pixels),
    "no_preamble.dcm": (None, lambda: _file(_film())[132:]),
    "bare_dataset.dcm": (None, _bare_dataset),
    # No input at all, and one that only root can read: nothing may stop or crash over them
    "folder.dcm": (None, None),
    "no_permission.dcm": (None, lambda: _file(_film(patient_id="SYN-LOCKED"))),
}

#: File name → the `Reason` medd has to record; None where the film is sound, or where there is no input to judge.
EXPECTED_REASONS: Mapping[str, Reason | None] = MappingProxyType(
    {name: reason for name, (reason, _) in _CORPUS.items()}
)
