from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, uid
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from medd.dicom.presentation import presentation_state
from medd.dicom.source import read_source
from tests.studies import film, image, prediction

LINES = ("PNEUMONIA p = 0.931, at or above threshold 0.485", "Model pneumonia/1", "Research use only.")


def make(tmp_path: Path, **attributes: Any) -> Dataset | None:
    said = prediction()
    one = image(tmp_path, film(**attributes), said)
    return presentation_state(read_source(one.path), one, said, LINES)


def made_of(tmp_path: Path, **attributes: Any) -> Dataset:
    made = make(tmp_path, **attributes)
    assert made is not None
    return made


def test_text_stands_in_the_lower_part_of_the_image_line_by_line(tmp_path):
    source = film()
    made = made_of(tmp_path)
    [annotation] = made.GraphicAnnotationSequence
    assert [text.UnformattedTextValue for text in annotation.TextObjectSequence] == list(LINES)
    tops = [text.BoundingBoxTopLeftHandCorner[1] for text in annotation.TextObjectSequence]
    assert tops == sorted(tops)
    assert tops[0] > 0.8
    assert annotation.ReferencedImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    [series] = made.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == source.SeriesInstanceUID


@pytest.mark.parametrize(("photometric", "shape"), [("MONOCHROME1", "INVERSE"), ("MONOCHROME2", "IDENTITY")])
@pytest.mark.parametrize("modality", ["CR", "DX"])
def test_polarity_is_that_of_the_image(tmp_path, photometric, shape, modality):
    assert made_of(tmp_path, photometric=photometric, modality=modality).PresentationLUTShape == shape


def test_first_window_is_the_one_shown(tmp_path):
    made = made_of(tmp_path, WindowCenter=[100.5, 7], WindowWidth=[200, 9], VOILUTFunction="SIGMOID")
    [voi] = made.SoftcopyVOILUTSequence
    assert (voi.WindowCenter, voi.WindowWidth, voi.VOILUTFunction) == (100.5, 200, "SIGMOID")


def raw(tmp_path: Path, **values: bytes) -> Dataset:
    """As `made_of`, with values that pydicom would not write."""
    said = prediction()
    one = image(tmp_path, film(), said)
    source = read_source(one.path)
    for keyword, data in values.items():
        tag = Tag(keyword)
        source[tag] = RawDataElement(tag, "DS", len(data), data, 0, False, True)
    made = presentation_state(source, one, said, LINES)
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("center", "width"),
    [(b"\\40", b"\\80"), (b"nan\\40", b"9\\80"), (b"1\\40", b"inf\\80"), (b"1\\40", b"0\\80"), (b"40 \\7", b" 80\\9")],
)
def test_first_usable_window_is_the_one_shown_center_and_width_of_one_place(tmp_path, center, width):
    [voi] = raw(tmp_path, WindowCenter=center, WindowWidth=width).SoftcopyVOILUTSequence
    assert (voi.WindowCenter, voi.WindowWidth) == (40, 80)


@pytest.mark.parametrize("ratio", [b"nan\\1", b"inf\\1", b"1e300\\1", b"1_0\\1", b"\\1"])
def test_ratio_that_is_none_is_taken_for_square(tmp_path, ratio):
    bare = {"PixelSpacing": b"nan\\1", "ImagerPixelSpacing": b""}
    [area] = raw(tmp_path, PixelAspectRatio=ratio, **bare).DisplayedAreaSelectionSequence
    assert list(area.PresentationPixelAspectRatio) == [1, 1]


def test_rescaling_that_is_no_number_is_left_out(tmp_path):
    assert "RescaleSlope" not in raw(tmp_path, RescaleSlope=b"nan", RescaleIntercept=b"0")


def test_line_longer_than_a_description_is_not_cut_before_the_comparison(tmp_path):
    assert made_of(tmp_path).ContentDescription == "Result of a model, research use only"


@pytest.mark.parametrize("window", [{"WindowWidth": 0}, {"WindowCenter": None}, {"WindowWidth": ""}])
def test_window_that_is_none_is_left_out(tmp_path, window):
    assert "SoftcopyVOILUTSequence" not in made_of(tmp_path, **window)


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_voi_table_is_copied_from_every_encoding(tmp_path, syntax):
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [4, 0, 16])
    data = [1, 2, 770, 65535]
    table.add_new("LUTData", "US", data)
    made = made_of(tmp_path, VOILUTSequence=[table], transfer_syntax=syntax)
    [copied] = made.SoftcopyVOILUTSequence[0].VOILUTSequence
    assert list(copied.LUTDescriptor) == [4, 0, 16]
    assert copied.LUTData == b"".join(one.to_bytes(2, "little") for one in data)


def test_rescaling_is_copied(tmp_path):
    made = made_of(tmp_path, RescaleSlope="2", RescaleIntercept="-1024", RescaleType=None)
    assert (made.RescaleSlope, made.RescaleIntercept, made.RescaleType) == (2, -1024, "US")


def test_all_of_the_image_is_displayed(tmp_path):
    [area] = made_of(tmp_path).DisplayedAreaSelectionSequence
    assert list(area.DisplayedAreaTopLeftHandCorner) == [1, 1]
    assert list(area.DisplayedAreaBottomRightHandCorner) == [128, 160]
    assert len(area.PresentationPixelSpacing) == 2
    [bare] = made_of(tmp_path, PixelSpacing=None, ImagerPixelSpacing=None).DisplayedAreaSelectionSequence
    assert list(bare.PresentationPixelAspectRatio) == [1, 1]


@pytest.mark.parametrize(
    "attributes",
    [
        {"NumberOfFrames": 2},
        {"PhotometricInterpretation": "PALETTE COLOR"},
        {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3},
    ],
)
def test_what_is_no_single_grey_frame_has_none(tmp_path, attributes):
    assert make(tmp_path, **attributes) is None
