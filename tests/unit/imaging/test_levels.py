"""What a viewer is given shows, by its table, what the models were shown; and holds every grey value besides."""

import cv2
import numpy as np
import pydicom
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from medd.dicom.samples import SAMPLES, encode
from medd.errors import InputError, NotAssessable, TransientError
from medd.imaging.pixels import load, load_levels
from medd.records import Reason
from medd.testing import dicom_radiograph, jpeg_radiograph
from tests.unit.imaging.test_grayscale import lut, ramp

WINDOW = {"WindowCenter": 1000, "WindowWidth": 500}


def check_same(path) -> None:
    """Half a grey of 256 is what rounding may cost; with more values than 65,536, another thousandth."""
    given = load_levels(path)
    assert_allclose(given.shown[given.pixels] / 255, load(path), atol=0.5 / 255 + 1e-3)


@pytest.mark.parametrize(
    ("stored", "attributes"),
    [
        (ramp("u1", 0, 255), {}),
        (ramp("u2", 0, 4095), {"BitsStored": 12} | WINDOW),
        (ramp("u2", 0, 4095), {"BitsStored": 12, "PhotometricInterpretation": "MONOCHROME1"} | WINDOW),
        (ramp("u2", 0, 65535), {}),
        (ramp("u2", 300, 700), {"PresentationLUTShape": "INVERSE"}),
        (ramp("i2", -1000, 3000), WINDOW),
        (ramp("i2", -1000, 3000), {"RescaleSlope": 2, "RescaleIntercept": -1024} | WINDOW),
        (ramp("u2", 0, 4095), {"RescaleSlope": 0.3, "RescaleIntercept": 7.5}),
        (ramp("u2", 0, 4095), {"RescaleSlope": -1, "RescaleIntercept": 4095}),
        (ramp("u2", 0, 65535), {"RescaleSlope": 100, "RescaleIntercept": 0}),
        (ramp("u4", 0, 4_000_000_000), {}),
        (ramp("u2", 0, 4095), {"VOILUTFunction": "SIGMOID"} | WINDOW),
        (ramp("u2", 0, 4095), {"VOILUTFunction": "LINEAR_EXACT"} | WINDOW),
        (ramp("u2", 0, 255), {"VOILUTSequence": [lut(0, 8, [(n * n) // 255 for n in range(256)])]}),
        (ramp("u2", 0, 255), {"ModalityLUTSequence": [lut(0, 16, [n * n for n in range(256)])]}),
        (np.where(ramp("u2", 0, 99) < 50, 0, ramp("u2", 1000, 2000)).astype("u2"), {"PixelPaddingValue": 0}),
    ],
)
def test_the_table_shows_what_the_models_were_shown(write_film, stored, attributes):
    check_same(write_film(stored, **attributes))


@pytest.mark.parametrize("syntax", SAMPLES)
def test_every_transfer_syntax_can_be_looked_at(tmp_path, syntax):
    path = tmp_path / "film.dcm"
    path.write_bytes(encode(syntax))
    check_same(path)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_films_of_either_polarity_and_any_depth_can_be_looked_at(tmp_path, bits, photometric):
    path = tmp_path / "film.dcm"
    dicom_radiograph(1, size=96, bits=bits, photometric=photometric).save_as(path, enforce_file_format=True)
    check_same(path)
    given = load_levels(path)
    assert given.inverse is (photometric == "MONOCHROME1")
    assert given.pixels.dtype == ("u1" if bits == 8 else "u2")
    assert given.windows == ((2.0 ** (bits - 1), 2.0**bits),)


def test_values_beyond_the_window_are_still_there(write_film):
    stored = ramp("u2", 100, 4095)
    given = load_levels(write_film(stored, BitsStored=12, WindowCenter=[1000, 2000], WindowWidth=[50, 0]))
    assert_array_equal(given.low + given.step * given.pixels, stored)
    assert given.windows == ((1000.0, 50.0),), "a width of 0 is no window"


@pytest.mark.parametrize(
    ("centers", "widths"),
    [(["", "1000"], ["50"]), (["1000"], ["", "50"]), (["1000", "1"], ["50", "1e999"]), (["1000", "nan"], ["50", "50"])],
)
def test_what_is_no_window_is_left_out(write_film, centers, widths):
    path = write_film(ramp("u2", 0, 4095), BitsStored=12)
    dataset = pydicom.dcmread(path)
    for tag, values in ((0x00281050, centers), (0x00281051, widths)):
        text = "\\".join(values).encode()
        dataset[tag] = RawDataElement(Tag(tag), "DS", len(text), text, 0, False, True)
    dataset.save_as(path)
    check_same(path)
    assert load_levels(path).windows[0][1] > 0
    assert np.isfinite(load_levels(path).windows).all()


def test_values_are_those_after_the_modality_lut(write_film):
    stored = ramp("u2", 0, 4095)
    given = load_levels(write_film(stored, RescaleSlope=0.5, RescaleIntercept=-1000))
    assert_allclose(given.low + given.step * given.pixels, stored * 0.5 - 1000, atol=0.02)
    [(center, width)] = given.windows
    assert center == pytest.approx(23.75, abs=5)
    assert width == pytest.approx(2047.5, abs=10)


def test_a_blank_film_and_a_lateral_one_can_be_looked_at(write_film):
    blank = write_film(np.full((64, 64), 7, "u2"))
    with pytest.raises(NotAssessable):
        load(blank)
    given = load_levels(blank)
    assert (given.low, given.step, len(given.shown)) == (7.0, 1.0, 1)


def test_pictures_can_be_looked_at(tmp_path):
    film = tmp_path / "film.jpg"
    film.write_bytes(jpeg_radiograph(1, size=96))
    check_same(film)
    deep = ramp("u2", 0, 65535)
    for name, picture in (("a.png", deep), ("b.tif", deep), ("c.png", np.repeat(ramp("u1", 0, 255)[..., None], 3, 2))):
        cv2.imwrite(str(tmp_path / name), picture)
        check_same(tmp_path / name)
    assert load_levels(tmp_path / "a.png").pixels.dtype == "u2"


def test_what_cannot_be_looked_at_says_why(write_film, tmp_path):
    film = write_film(ramp("u2", 0, 4095))
    with pytest.raises(NotAssessable, match=r"film\.dcm: more than 4000 pixels\. Received: 64×64") as refused:
        load_levels(film, max_pixels=4000)
    assert refused.value.reason is Reason.TOO_LARGE
    film.write_bytes(film.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"film\.dcm: cannot be decoded"):
        load_levels(film)
    with pytest.raises(TransientError):
        load_levels(tmp_path / "nowhere.dcm")
    (tmp_path / "colour.png").write_bytes(
        cv2.imencode(".png", np.random.default_rng(1).integers(0, 255, (64, 64, 3), "u1"))[1].tobytes()
    )
    with pytest.raises(NotAssessable, match="a radiograph is grey"):
        load_levels(tmp_path / "colour.png")
