"""The golden arrays: what each attribute of the grayscale pipeline does, by the formulas of PS3.3 section C.11."""

import math
import subprocess

import cv2
import numpy as np
import pydicom
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from medd.errors import InputError, NotAssessable
from medd.imaging.pixels import load
from medd.records import Reason


def ramp(dtype, low: int, high: int) -> np.ndarray:
    """(64, 64) from `low` to `high`, each value of 8 bits 16 times."""
    return np.linspace(low, high, 4096).round().astype(dtype).reshape(64, 64)


def linear(value: float, center: float, width: float) -> float:
    """PS3.3 section C.11.2.1.2.1, output 0 to 1."""
    if value <= center - 0.5 - (width - 1) / 2:
        return 0.0
    if value > center - 0.5 + (width - 1) / 2:
        return 1.0
    return (value - (center - 0.5)) / (width - 1) + 0.5


def linear_exact(value: float, center: float, width: float) -> float:
    """PS3.3 section C.11.2.1.3.2, output 0 to 1."""
    if value <= center - width / 2:
        return 0.0
    if value > center + width / 2:
        return 1.0
    return (value - center) / width + 0.5


def sigmoid(value: float, center: float, width: float) -> float:
    """PS3.3 section C.11.2.1.3.1, output 0 to 1."""
    return 1 / (1 + math.exp(-4 * (value - center) / width))


def each(function, stored: np.ndarray, *arguments: float) -> np.ndarray:
    return np.array([function(float(value), *arguments) for value in stored.ravel()]).reshape(stored.shape)


def lut(first: int, bits: int, data: list[int] | bytes, entries: int | None = None, signed: bool = False) -> Dataset:
    """One item of a Modality or VOI LUT Sequence."""
    item = Dataset()
    count = len(data) if entries is None else entries
    item.add_new("LUTDescriptor", "SS" if signed else "US", [count, first, bits])
    item.add_new("LUTData", "OW" if isinstance(data, bytes) else "US", data)
    return item


@pytest.mark.parametrize(
    ("stored", "bits", "center", "width"),
    [
        (ramp(np.uint8, 0, 255), 8, 128, 200),
        (ramp(np.uint16, 0, 4095), 12, 2048, 3000),
        (ramp(np.uint16, 0, 65535), 16, 30000, 20000),
        (ramp(np.int8, -128, 127), 8, -10, 100),
        (ramp(np.int16, -2048, 2047), 12, 100, 1000),
        (ramp(np.int16, -32768, 32767), 16, -400, 1500),
    ],
    ids=["8 bit", "12 bit", "16 bit", "8 bit signed", "12 bit signed", "16 bit signed"],
)
def test_a_window_maps_every_depth_as_the_standard_says(write_film, stored, bits, center, width):
    image = load(write_film(stored, BitsStored=bits, WindowCenter=center, WindowWidth=width))
    assert image.dtype == np.float32
    assert_allclose(image, each(linear, stored, center, width), atol=1e-6)


def test_a_few_golden_values_of_a_12_bit_window(write_film):
    stored = np.zeros((64, 64), np.uint16)
    stored[0, :7] = 0, 1000, 1001, 2000, 2999, 3000, 4095
    image = load(write_film(stored, BitsStored=12, WindowCenter=2000, WindowWidth=2000))
    # (x - 1999.5) / 1999 + 0.5
    assert_allclose(image[0, :7], [0, 0, 0.000500, 0.500250, 1.0, 1.0, 1.0], atol=1e-6)


def test_monochrome1_is_inverted_after_the_window(write_film):
    stored = ramp(np.uint16, 0, 4095)
    attributes = {"BitsStored": 12, "WindowCenter": 1000, "WindowWidth": 1500}
    upright = load(write_film(stored, **attributes))
    inverted = load(write_film(stored, PhotometricInterpretation="MONOCHROME1", **attributes))
    assert_allclose(inverted, 1 - upright, atol=1e-6)
    assert inverted[0, 0] == 1.0


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_presentation_lut_shape_inverse_inverts_once(write_film, kind):
    stored = ramp(np.uint8, 0, 255)
    image = load(write_film(stored, PhotometricInterpretation=kind, PresentationLUTShape="INVERSE"))
    assert_allclose(image, 1 - stored / 255, atol=1e-6)


def test_of_several_windows_the_first_counts(write_film):
    stored = ramp(np.uint16, 0, 4095)
    image = load(write_film(stored, BitsStored=12, WindowCenter=[500, 3000], WindowWidth=[800, 100]))
    assert_allclose(image, each(linear, stored, 500, 800), atol=1e-6)


@pytest.mark.parametrize(("name", "function"), [("LINEAR_EXACT", linear_exact), ("SIGMOID", sigmoid)])
def test_the_other_voi_functions(write_film, name, function):
    stored = ramp(np.uint16, 0, 4095)
    image = load(write_film(stored, BitsStored=12, WindowCenter=1800, WindowWidth=1200, VOILUTFunction=name))
    assert_allclose(image, each(function, stored, 1800, 1200), atol=1e-6)


def test_a_window_of_width_one_is_a_step(write_film):
    stored = ramp(np.uint8, 0, 255)
    image = load(write_film(stored, WindowCenter=128, WindowWidth=1))
    assert_array_equal(image, stored > 127.5)


def test_rescale_comes_before_the_window(write_film):
    stored = ramp(np.uint16, 0, 4095)
    image = load(
        write_film(stored, BitsStored=12, RescaleSlope=2, RescaleIntercept=-1024, WindowCenter=40, WindowWidth=400)
    )
    assert_allclose(image, each(linear, stored * 2.0 - 1024, 40, 400), atol=1e-6)


def test_a_negative_slope_turns_black_and_white(write_film):
    stored = ramp(np.uint8, 0, 255)
    image = load(write_film(stored, RescaleSlope=-1, RescaleIntercept=255))
    assert_allclose(image, 1 - stored / 255, atol=1e-6)


@pytest.mark.parametrize("window", [{"WindowWidth": 0}, {"WindowWidth": 0.5}, {"WindowWidth": -1}])
def test_a_window_narrower_than_the_standard_allows_is_no_window(write_film, window):
    stored = ramp(np.uint8, 10, 200)
    assert_allclose(load(write_film(stored, WindowCenter=0, **window)), (stored - 10.0) / 190, atol=1e-6)


@pytest.mark.parametrize("as_words", [False, True], ids=["US", "OW"])
def test_a_voi_lut_clamps_below_and_above_and_wins_over_a_window(write_film, as_words):
    stored = ramp(np.uint8, 0, 255)
    entries = [0, 100, 300, 700, 1023]
    data = np.array(entries, "<u2").tobytes() if as_words else entries
    item = lut(50, 10, data, entries=5)
    image = load(write_film(stored, VOILUTSequence=[item], WindowCenter=10, WindowWidth=10))
    expected = np.array(entries)[np.clip(stored.astype(int) - 50, 0, 4)] / 1023
    assert_allclose(image, expected, atol=1e-6)


def test_a_voi_lut_in_big_endian(write_film):
    stored = ramp(np.uint8, 0, 255)
    entries = np.arange(0, 4096, 16)
    item = lut(0, 12, entries.astype(">u2").tobytes(), entries=256)
    image = load(write_film(stored, ExplicitVRBigEndian, VOILUTSequence=[item]))
    assert_allclose(image, entries[stored] / 4095, atol=1e-6)


@pytest.mark.parametrize("packed", [False, True], ids=["a word each", "packed"])
def test_a_voi_lut_of_8_bits_with_more_than_256_entries(write_film, packed):
    stored = ramp(np.uint16, 0, 4095)
    entries = (np.arange(4096) // 16).astype(np.uint8 if packed else "<u2")
    image = load(write_film(stored, BitsStored=12, VOILUTSequence=[lut(0, 8, entries.tobytes(), entries=4096)]))
    assert_allclose(image, (stored // 16) / 255, atol=1e-6)


def test_a_voi_lut_of_65536_entries_is_written_as_0(write_film):
    stored = ramp(np.uint16, 0, 65535)
    entries = np.arange(65536, dtype="<u2")[::-1]
    image = load(write_film(stored, VOILUTSequence=[lut(0, 16, entries.tobytes(), entries=0)]))
    assert_allclose(image, 1 - stored / 65535, atol=1e-6)


def test_a_voi_lut_after_rescale_starts_below_zero(write_film):
    stored = ramp(np.int16, -1024, 1023)
    entries = list(range(0, 2048, 2))
    item = lut(-512, 11, entries, signed=True)
    image = load(write_film(stored, BitsStored=12, RescaleSlope=1, RescaleIntercept=0, VOILUTSequence=[item]))
    assert_allclose(image, np.array(entries)[np.clip(stored.astype(int) + 512, 0, 1023)] / 2047, atol=1e-6)


def test_a_modality_lut_comes_before_the_window(write_film):
    stored = ramp(np.uint8, 0, 255)
    optical = [int(1000 * math.log1p(n)) for n in range(200)]
    image = load(write_film(stored, ModalityLUTSequence=[lut(20, 16, optical)], WindowCenter=3000, WindowWidth=2500))
    modality = np.array(optical)[np.clip(stored.astype(int) - 20, 0, 199)]
    assert_allclose(image, each(linear, modality, 3000, 2500), atol=1e-6)


def test_a_lut_in_implicit_vr_reads_its_first_value_as_signed(write_film):
    stored = ramp(np.int16, -100, 100)
    entries = list(range(256))
    image = load(write_film(stored, ImplicitVRLittleEndian, VOILUTSequence=[lut(-50, 8, entries, signed=True)]))
    assert_allclose(image, np.clip(stored.astype(int) + 50, 0, 255) / 255, atol=1e-6)


def test_without_voi_the_image_spans_from_its_smallest_to_its_largest_value(write_film):
    stored = ramp(np.uint16, 300, 900)
    image = load(write_film(stored, BitsStored=12, RescaleSlope=0.5, RescaleIntercept=10))
    assert_allclose(image, (stored - 300.0) / 600, atol=1e-6)


@pytest.mark.parametrize("stored_as_unsigned", [False, True])
def test_padding_does_not_count_in_the_full_range(write_film, stored_as_unsigned):
    stored = ramp(np.int16, 0, 1000)
    stored[:, :8] = -2000
    value = 65536 - 2000 if stored_as_unsigned else -2000
    dataset = {"RescaleSlope": 1, "RescaleIntercept": 0}
    path = write_film(stored, **dataset)
    readable = pydicom.dcmread(path)
    readable.add_new("PixelPaddingValue", "US" if stored_as_unsigned else "SS", value)
    readable.save_as(path)
    low, high = float(stored[:, 8:].min()), float(stored[:, 8:].max())
    assert_allclose(load(path), np.clip((stored - low) / (high - low), 0, 1), atol=1e-6)


def test_a_range_of_padding_does_not_count_in_the_full_range(write_film):
    stored = ramp(np.uint16, 0, 4095)
    image = load(write_film(stored, BitsStored=12, PixelPaddingValue=4000, PixelPaddingRangeLimit=4095))
    assert_allclose(image, np.clip(stored / 3999, 0, 1), atol=1e-6)


def test_nothing_but_padding_is_blank(write_film):
    stored = np.full((64, 64), 7, np.uint16)
    with pytest.raises(NotAssessable) as caught:
        load(write_film(stored, PixelPaddingValue=7))
    assert caught.value.reason == Reason.BLANK_IMAGE


def test_the_bits_above_bits_stored_do_not_count(write_film):
    """Old devices keep overlays up there (retired, PS3.5 section 8.1.2)."""
    stored = ramp(np.uint16, 0, 4095)
    overlay = np.zeros_like(stored)
    overlay[10:20, 10:20] = 0xA000
    clean = load(write_film(stored, BitsStored=12))
    assert_array_equal(load(write_film(stored | overlay, BitsStored=12)), clean)


def test_the_sign_is_the_highest_stored_bit(write_film):
    stored = ramp(np.int16, -2048, 2047)
    clean = load(write_film(stored, BitsStored=12, WindowCenter=0, WindowWidth=1000))
    # The same 12 bits with zeros above them instead of copies of the sign.
    cut = (stored.view(np.uint16) & 0x0FFF).view(np.int16)
    assert_array_equal(load(write_film(cut, BitsStored=12, WindowCenter=0, WindowWidth=1000)), clean)


def naive(path) -> np.ndarray:
    """The slow road: pydicom's own steps, one after the other, over all pixels."""
    dataset = pydicom.dcmread(path)
    modality = apply_modality_lut(dataset.pixel_array, dataset)
    if "VOILUTSequence" in dataset:
        depth = dataset.VOILUTSequence[0].LUTDescriptor[2]
        shown = apply_voi_lut(modality.astype(np.int32), dataset) / (2**depth - 1)
    elif "WindowCenter" in dataset:
        shift = 2 ** (dataset.BitsStored - 1) if dataset.PixelRepresentation else 0
        ends = np.array([-shift, 2**dataset.BitsStored - 1 - shift], float)
        low, high = ends * dataset.get("RescaleSlope", 1) + dataset.get("RescaleIntercept", 0)
        shown = (apply_voi_lut(modality, dataset) - low) / (high - low)
    else:
        shown = (modality - float(modality.min())) / float(modality.max() - float(modality.min()))
    return 1 - shown if dataset.PhotometricInterpretation == "MONOCHROME1" else shown


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("bits", "signed"), [(8, False), (12, False), (12, True), (16, False), (16, True)])
@pytest.mark.parametrize("rescaled", [{}, {"RescaleSlope": 1.5, "RescaleIntercept": -37.25}], ids=["", "rescaled"])
@pytest.mark.parametrize(
    "voi",
    [
        {},
        {"WindowCenter": 55.5, "WindowWidth": 97},
        {"WindowCenter": 55.5, "WindowWidth": 97, "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": 55.5, "WindowWidth": 97, "VOILUTFunction": "SIGMOID"},
        {"VOILUTSequence": [lut(20, 12, [n * n for n in range(64)])]},
    ],
    ids=["none", "linear", "exact", "sigmoid", "lut"],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")
def test_looking_up_equals_computing_every_pixel(write_film, kind, bits, signed, rescaled, voi):
    if rescaled and "VOILUTSequence" in voi:
        rescaled = {"RescaleSlope": 2, "RescaleIntercept": -37}  # a table is looked up by whole numbers
    size = 8 if bits == 8 else 16
    rng = np.random.default_rng(bits)
    stored = rng.integers(0, 1 << bits, (64, 80)) - (1 << (bits - 1) if signed else 0)
    stored = stored.astype(f"{'i' if signed else 'u'}{size // 8}")
    path = write_film(stored, BitsStored=bits, PhotometricInterpretation=kind, **rescaled, **voi)
    assert_allclose(load(path), naive(path), atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "keyword", "vr"), [(np.float32, "FloatPixelData", "OF"), (np.float64, "DoubleFloatPixelData", "OD")]
)
def test_float_pixel_data_is_shown_over_its_full_range(write_film, dtype, keyword, vr):
    stored = np.linspace(-3, 5, 4096).reshape(64, 64).astype(dtype)
    path = write_film(np.zeros((64, 64), np.uint16), BitsAllocated=8 * stored.itemsize)
    dataset = pydicom.dcmread(path)
    del dataset.PixelData, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
    dataset.add_new(keyword, vr, stored.tobytes())
    dataset.save_as(path)
    assert_allclose(load(path), (stored + 3) / 8, atol=1e-6)


def test_32_bit_pixel_data_is_shown_over_its_full_range(write_film):
    stored = np.linspace(5, 4_000_000_000, 4096).astype(np.uint32).reshape(64, 64)
    assert_allclose(load(write_film(stored)), (stored - 5.0) / 3_999_999_995, atol=1e-6)


@pytest.mark.parametrize("text", ["nan   ", "inf   ", "-inf  ", "1e999 "])
@pytest.mark.parametrize("attribute", ["RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth"])
def test_a_number_that_is_none_is_unreadable(write_film, text, attribute):
    attributes = {"RescaleSlope": 1, "RescaleIntercept": 0, "WindowCenter": 100, "WindowWidth": 100}
    path = write_film(ramp(np.uint8, 0, 255), **{**attributes, attribute: "777777"})
    path.write_bytes(path.read_bytes().replace(b"777777", text.encode()))
    with pytest.raises(InputError, match=r"film\.dcm: .* Received: ") as caught:
        load(path)
    assert caught.value.reason == Reason.UNREADABLE


@pytest.mark.parametrize(
    "attributes",
    [
        {"VOILUTFunction": "CUBIC", "WindowCenter": 1, "WindowWidth": 9},
        {"VOILUTSequence": [lut(0, 12, [1, 2, 3], entries=200)]},
        {"VOILUTSequence": [lut(0, 24, [1, 2, 3])]},
        {"BitsStored": 6, "HighBit": 7},
    ],
    ids=["VOI function", "short LUT", "24-bit LUT", "high bit"],
)
def test_attributes_that_the_standard_does_not_know_are_unreadable(write_film, attributes):
    with pytest.raises(InputError) as caught:
        load(write_film(ramp(np.uint8, 0, 255), **attributes))
    assert caught.value.reason == Reason.UNREADABLE


@pytest.mark.peers
@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("option", "voi"),
    [
        (["+Wi", "1"], {"WindowCenter": [1500, 9], "WindowWidth": [1800, 9]}),
        (["+Wi", "1"], {"WindowCenter": 1500, "WindowWidth": 900, "VOILUTFunction": "SIGMOID"}),
        (["+Wl", "1"], {"VOILUTSequence": [lut(500, 16, [n * 30 for n in range(2000)])]}),
        (["+Wm"], {}),
    ],
    ids=["window", "sigmoid", "lut", "full range"],
)
def test_dcmtk_shows_the_same(write_film, tmp_path, dcmtk, kind, option, voi):
    stored = ramp(np.uint16, 100, 3900)
    rescale = {"RescaleSlope": 1, "RescaleIntercept": 0, "RescaleType": "US"}
    path = write_film(stored, BitsStored=12, PhotometricInterpretation=kind, **rescale, **voi)
    shown = tmp_path / "shown.pgm"
    subprocess.run([dcmtk("dcm2pnm"), *option, "+op", path, shown], check=True, capture_output=True)
    theirs = cv2.imread(str(shown), cv2.IMREAD_UNCHANGED)
    assert np.abs(load(path) * 255 - theirs).max() <= 1.01
