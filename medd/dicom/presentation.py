"""A result as a Grayscale Softcopy Presentation State: the words over the image itself, to be switched on and off."""

import math
import re
import struct
from collections.abc import Sequence

from pydicom import Dataset
from pydicom.dataelem import DataElement
from pydicom.uid import GrayscaleSoftcopyPresentationStateStorage

from medd.dicom.derived import begin, dicom_date, dicom_time, finish, plain, reference_item
from medd.dicom.picture import instance_number, object_uid
from medd.dicom.source import lenient, local_time, raw_value
from medd.records import ImageResult, Prediction

_LAYER = "MEDD"
#: Not the result itself: VR LO has 64 characters, and a line cut off before "BELOW threshold" says another thing.
_DESCRIPTION = "Result of a model, research use only"
#: Where the lowest line of text ends, and how high a line is, as shares of the displayed area.
_BOTTOM, _LINE = 0.98, 0.035
#: VR DS and IS.
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def presentation_state(
    source: Dataset, image: ImageResult, prediction: Prediction, lines: Sequence[str]
) -> Dataset | None:
    """Make a GSPS that shows an image as it was sent, with text at its lower edge (PS3.3 section A.33.1).

    Args:
        source: Header of the image.
        image: Which image.
        prediction: What was said.
        lines: The text.

    Returns:
        None where the image is no single grey frame.
    """
    kind = raw_value(source, "PhotometricInterpretation")
    single = raw_value(source, "NumberOfFrames") in (b"", b"1")
    with lenient():
        if kind not in (b"MONOCHROME1", b"MONOCHROME2") or not single or source.get("SamplesPerPixel") != 1:
            return None
        if not (source.get("Rows") and source.get("Columns") and source.get("SeriesInstanceUID")):
            return None
        uid = object_uid("gsps", source, image, prediction, "\n".join(lines))
        made = begin("gsps", GrayscaleSoftcopyPresentationStateStorage, uid, source, prediction.scored_at)
        at = local_time(prediction.scored_at, source)
        made.PresentationCreationDate, made.PresentationCreationTime = dicom_date(at), dicom_time(at)
        made.BodyPartExamined = "CHEST"  # no paired part, so that it has no (0020,0060) Laterality either
        made.InstanceNumber = instance_number(source)
        made.ContentLabel, made.ContentDescription = "MEDD", _DESCRIPTION
        made.ContentCreatorName = ""
        series = Dataset()
        series.SeriesInstanceUID = source.SeriesInstanceUID
        series.ReferencedImageSequence = [reference_item(source)]
        made.ReferencedSeriesSequence = [series]
        made.DisplayedAreaSelectionSequence = [_displayed_area(source)]
        made.GraphicAnnotationSequence = [_annotation(source, lines)]
        layer = Dataset()
        layer.GraphicLayer, layer.GraphicLayerOrder = _LAYER, 1
        layer.GraphicLayerDescription = _DESCRIPTION
        made.GraphicLayerSequence = [layer]
        _set_modality_lut(made, source)
        _set_voi(made, source)
        # It takes the place of the image's own, MONOCHROME1 included (PS3.3 section C.11.6.1).
        inverse = kind == b"MONOCHROME1" or raw_value(source, "PresentationLUTShape") == b"INVERSE"
        made.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
        return finish(made, source)


def _displayed_area(source: Dataset) -> Dataset:
    """All of the image (PS3.3 section C.10.4)."""
    area = Dataset()
    area.ReferencedImageSequence = [reference_item(source)]
    area.DisplayedAreaTopLeftHandCorner = [1, 1]
    area.DisplayedAreaBottomRightHandCorner = [int(source.Columns), int(source.Rows)]
    area.PresentationSizeMode = "SCALE TO FIT"
    spacing = numbers(source, "PixelSpacing") or numbers(source, "ImagerPixelSpacing")
    if len(spacing) == 2 and min(spacing) > 0:
        area.PresentationPixelSpacing = [f"{one:.10g}" for one in spacing]
    else:
        ratio = [int(one) for one in numbers(source, "PixelAspectRatio")]
        usable = len(ratio) == 2 and 0 < min(ratio) <= max(ratio) < 1 << 31
        area.PresentationPixelAspectRatio = ratio if usable else [1, 1]
    return area


def _annotation(source: Dataset, lines: Sequence[str]) -> Dataset:
    """A text object for each line (PS3.3 section C.10.5): viewers differ in what they do with a line break."""
    annotation = Dataset()
    annotation.ReferencedImageSequence = [reference_item(source)]
    annotation.GraphicLayer = _LAYER
    annotation.TextObjectSequence = []
    for place, line in enumerate(lines):
        top = _BOTTOM - _LINE * (len(lines) - place)
        text = Dataset()
        text.BoundingBoxAnnotationUnits = "DISPLAY"
        text.UnformattedTextValue = plain(line)
        text.BoundingBoxTopLeftHandCorner = [0.02, round(top, 4)]
        text.BoundingBoxBottomRightHandCorner = [0.98, round(top + _LINE, 4)]
        text.BoundingBoxTextHorizontalJustification = "LEFT"
        annotation.TextObjectSequence.append(text)
    return annotation


# -- grayscale, as the source has it -------------------------------------------------------------------------------


def decimals(source: Dataset, keyword: str) -> list[str]:
    """The values of a DS or IS attribute, each in its place as it was written; "" where one is no finite number."""
    parts = [part.strip() for part in raw_value(source, keyword).decode("ascii", "replace").split("\\")]
    return [part if _NUMBER.fullmatch(part) and math.isfinite(float(part)) else "" for part in parts]


def numbers(source: Dataset, keyword: str) -> list[float]:
    """The values of a DS or IS attribute; [] where it is absent, or one of them is no finite number."""
    found = decimals(source, keyword)
    return [float(part) for part in found] if all(found) else []


def _set_modality_lut(made: Dataset, source: Dataset) -> None:
    """PS3.3 section C.11.1."""
    if table := _table(source, "ModalityLUTSequence"):
        table.ModalityLUTType = str(source.ModalityLUTSequence[0].get("ModalityLUTType") or "US")
        made.ModalityLUTSequence = [table]
        return
    slope, intercept = decimals(source, "RescaleSlope"), decimals(source, "RescaleIntercept")
    if slope[0] and intercept[0]:
        made.RescaleSlope, made.RescaleIntercept = slope[0], intercept[0]
        made.RescaleType = plain(str(source.get("RescaleType") or "US"), 16)


def _set_voi(made: Dataset, source: Dataset) -> None:
    """The first table or usable window of the image, which viewers begin with (PS3.3 sections C.11.2 and C.11.8)."""
    item = Dataset()
    item.ReferencedImageSequence = [reference_item(source)]
    if table := _table(source, "VOILUTSequence"):
        item.VOILUTSequence = [table]
        made.SoftcopyVOILUTSequence = [item]
        return
    function = raw_value(source, "VOILUTFunction").decode("ascii", "replace") or "LINEAR"
    windows = zip(decimals(source, "WindowCenter"), decimals(source, "WindowWidth"), strict=False)
    for center, width in windows:
        # Devices write a width of 0 for "none".
        if center and width and float(width) > 0 and not (function == "LINEAR" and float(width) < 1):
            item.WindowCenter, item.WindowWidth = center, width
            break
    else:
        return
    if function in ("LINEAR_EXACT", "SIGMOID"):
        item.VOILUTFunction = function
    made.SoftcopyVOILUTSequence = [item]


def _table(source: Dataset, keyword: str) -> Dataset | None:
    """The first table of a LUT sequence, its numbers in little endian; None where there is none that is usable."""
    found = source.get(keyword)
    if not found or "LUTDescriptor" not in found[0] or "LUTData" not in found[0]:
        return None
    descriptor, data = [int(one) for one in found[0].LUTDescriptor], found[0].LUTData
    if len(descriptor) != 3:
        return None
    if not isinstance(data, bytes):
        data = struct.pack(f"<{len(data)}H", *(int(one) & 0xFFFF for one in data))
    elif source.original_encoding[1] is False:
        data = b"".join(data[i : i + 2][::-1] for i in range(0, len(data), 2))
    table = Dataset()
    # The first mapped value may be negative, and the number of entries beyond what SS holds: one VR for all three.
    signed = descriptor[1] < 0
    wanted = [((one + 0x8000) & 0xFFFF) - 0x8000 if signed else one & 0xFFFF for one in descriptor]
    table.add(DataElement(0x00283002, "SS" if signed else "US", wanted))
    table.add(DataElement(0x00283006, "OW", data))
    return table
