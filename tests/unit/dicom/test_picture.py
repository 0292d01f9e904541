from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset

from medd import DISCLAIMER
from medd.dicom.picture import object_uid, secondary_capture
from medd.dicom.source import read_source
from tests.studies import film, image, prediction

PIXELS = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)


def make(tmp_path: Path, pixels: Any = PIXELS, **attributes: Any) -> Dataset:
    said = prediction()
    one = image(tmp_path, film(**attributes), said)
    return secondary_capture(read_source(one.path), one, said, pixels, "PNEUMONIA p = 0.931")


def test_pixels_are_rgb_as_given(tmp_path):
    made = make(tmp_path)
    assert (made.Rows, made.Columns, made.PhotometricInterpretation) == (5, 7, "RGB")
    assert (made.BitsAllocated, made.PlanarConfiguration) == (8, 0)
    np.testing.assert_array_equal(made.pixel_array, PIXELS)


def test_picture_says_that_it_is_derived_from_which_image_and_burnt_in(tmp_path):
    source = film()
    made = make(tmp_path)
    assert list(made.ImageType) == ["DERIVED", "SECONDARY"]
    assert made.BurnedInAnnotation == "YES"
    assert made.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert made.SourceImageSequence[0].ReferencedSOPClassUID == source.SOPClassUID
    assert made.DerivationDescription.startswith("Heat map and result of pneumonia/1")
    assert made.ImageComments.endswith(DISCLAIMER)


@pytest.mark.parametrize(
    ("stated", "expected"), [(["L", "F"], ["L", "F"]), (["L"], None), (["X", "F"], None), (["LA", "FP"], ["LA", "FP"])]
)
def test_orientation_is_that_of_the_image_where_it_says_one(tmp_path, stated, expected):
    found = make(tmp_path, PatientOrientation=stated).PatientOrientation
    assert (list(found) if found else None) == expected


@pytest.mark.parametrize(("stated", "expected"), [(7, 7), (None, 1), (-3, 1)])
def test_number_is_that_of_the_image(tmp_path, stated, expected):
    assert make(tmp_path, InstanceNumber=stated).InstanceNumber == expected


def test_lossy_compression_of_the_image_stays_on_record(tmp_path):
    lossy = {"LossyImageCompressionRatio": "12.5", "LossyImageCompressionMethod": "ISO_10918_1"}
    made = make(tmp_path, LossyImageCompression="01", **lossy)
    assert (made.LossyImageCompression, made.LossyImageCompressionRatio) == ("01", 12.5)
    assert "LossyImageCompression" not in make(tmp_path)


@pytest.mark.parametrize("said", [prediction(probability=0.12), prediction(attachments=())])
def test_picture_without_a_heat_map_speaks_of_none(tmp_path, said):
    one = image(tmp_path, film(), said)
    made = secondary_capture(read_source(one.path), one, said, PIXELS, "PNEUMONIA")
    assert made.DerivationDescription.startswith("Result of pneumonia/1")
    assert "heat" not in made.SeriesDescription


def test_a_chest_has_no_side(tmp_path):
    made = make(tmp_path)
    assert made.BodyPartExamined == "CHEST"
    assert "Laterality" not in made


def test_other_words_or_another_version_are_another_picture(tmp_path, monkeypatch):
    said = prediction()
    one = image(tmp_path, film(), said)
    source = read_source(one.path)
    first, second = (object_uid("sc", source, one, said, text) for text in ("PNEUMONIA", "BACTERIA"))
    monkeypatch.setattr("medd.dicom.picture.__version__", "99")
    assert len({first, second, object_uid("sc", source, one, said, "PNEUMONIA")}) == 3
