"""The picture of a result as a Secondary Capture: what any viewer shows, without knowing anything of ours."""

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from medd import DISCLAIMER, __version__
from medd.dicom.derived import begin, code_item, derive_uid, dicom_date, dicom_time, finish, plain, reference_item
from medd.dicom.findings import shows_heat
from medd.dicom.source import lenient, local_time, raw_value
from medd.records import ImageResult, Prediction

#: Lossy compression leaves its marks in what is made of an image (PS3.3 section C.7.6.1.1.5).
_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")


def secondary_capture(
    source: Dataset, image: ImageResult, prediction: Prediction, pixels: NDArray[np.uint8], description: str
) -> Dataset:
    """Make a Secondary Capture Image of a picture that says what a model said (PS3.3 section A.8.1).

    Args:
        source: Header of the image.
        image: Which image.
        prediction: What was said.
        pixels: (H, W, 3) uint8 RGB, with label, probability and disclaimer burnt in.
        description: What was said, in a line.
    """
    with lenient():
        uid = object_uid("sc", source, image, prediction, description)
        made = begin("sc", SecondaryCaptureImageStorage, uid, source, prediction.scored_at)
        at = local_time(prediction.scored_at, source)
        made.ContentDate = made.DateOfSecondaryCapture = dicom_date(at)
        made.ContentTime = made.TimeOfSecondaryCapture = dicom_time(at)
        made.ConversionType = "WSD"
        made.ImageType = ["DERIVED", "SECONDARY"]
        made.InstanceNumber = instance_number(source)
        made.BodyPartExamined = "CHEST"  # no paired part, so that it has no (0020,0060) Laterality either
        made.PatientOrientation = _orientation(source)
        made.BurnedInAnnotation = "YES"
        shown = "Heat map and result" if shows_heat(prediction) else "Result"
        made.DerivationDescription = plain(f"{shown} of {prediction.model} over the image. {DISCLAIMER}")
        made.ImageComments = plain(f"{description}. {DISCLAIMER}")
        item = reference_item(source)
        purpose = ("121322", "DCM", "Source image for image processing operation")
        item.PurposeOfReferenceCodeSequence = [code_item(*purpose)]
        made.SourceImageSequence = [item]
        if source.get("LossyImageCompression") == "01":
            for keyword in _LOSSY:
                if keyword in source:
                    setattr(made, keyword, source.get(keyword))
        _set_pixels(made, pixels)
        return finish(made, source)


def object_uid(kind: str, source: Dataset, image: ImageResult, prediction: Prediction, text: str) -> str:
    """The UID of what was made of one image and one prediction; whatever changes in what it says gives another.

    Args:
        kind: "sc" or "gsps".
        source: Header of the image.
        image: Which image.
        prediction: What was said.
        text: In which words: they change with the codes too. What else is ours changes with the version.
    """
    said = (prediction.model, repr(prediction.probability), repr(prediction.threshold), prediction.label, text)
    made = (prediction.scored_at.isoformat(), __version__)
    return derive_uid(kind, str(source.SOPInstanceUID), image.sha256, *said, *made)


def instance_number(source: Dataset) -> int:
    """(0020,0013) of the source: its place in the report may change when another image comes in late."""
    stated = raw_value(source, "InstanceNumber")
    return int(stated) if stated.isdigit() and len(stated) < 10 else 1


def _orientation(source: Dataset) -> list[str]:
    """(0020,0020) Patient Orientation, as the picture lies as the image does; empty where nothing usable is said."""
    values = [part.strip() for part in raw_value(source, "PatientOrientation").decode("ascii", "replace").split("\\")]
    usable = len(values) == 2 and all(value and set(value) <= set("APRLHF") for value in values)
    return values if usable else []


def _set_pixels(made: Dataset, pixels: NDArray[np.uint8]) -> None:
    """Image Pixel (PS3.3 section C.7.6.3): interleaved RGB, 8 bits."""
    made.Rows, made.Columns = pixels.shape[:2]
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PlanarConfiguration = 3, "RGB", 0
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    data = np.ascontiguousarray(pixels).tobytes()
    made.PixelData = data + b"\0" * (len(data) % 2)
    made["PixelData"].VR = "OB"
