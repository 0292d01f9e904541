"""The last step to the network: its size, its range, and that it is the same bytes each time."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from pydantic import ValidationError

from medd.imaging.preprocess import PreprocessSpec, brightness, fit, normalise, preprocess


def film(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(rows * columns).random((rows, columns), np.float32)


def test_shrinking_by_a_whole_number_takes_the_mean_of_each_block():
    image = film(300, 300)
    blocks = image.reshape(150, 2, 150, 2).mean(axis=(1, 3))
    assert_allclose(fit(image, PreprocessSpec(size=150)), blocks, atol=1e-6)


@pytest.mark.parametrize("shape", [(601, 602), (603, 1001), (1024, 640), (600, 601), (2048, 2048)])
def test_a_film_is_shrunk_to_the_bit_as_opencv_does_it_in_one_go(shape):
    image = film(*shape)
    at_once = cv2.resize(image, (150, 150), interpolation=cv2.INTER_AREA)
    assert_array_equal(fit(image, PreprocessSpec(size=150)), at_once)


def test_brightness_is_mean_and_standard_deviation():
    for image in (film(300, 200), np.full((100, 100), 0.7, np.float32)):
        assert_allclose(brightness(image), (image.mean(dtype=float), image.std(dtype=float)), atol=1e-7)


def test_stretching_ignores_the_aspect_ratio():
    image = np.repeat(np.linspace(0, 1, 400, dtype=np.float32)[np.newaxis], 100, axis=0)
    fitted = fit(image, PreprocessSpec(size=100))
    assert_allclose(fitted, np.repeat(fitted[:1], 100, axis=0))
    assert_allclose(fitted[0], image[0].reshape(100, 4).mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("shape", [(100, 60), (60, 100), (101, 60), (100, 99)])
def test_padding_keeps_the_aspect_ratio_and_adds_black_on_both_sides(shape):
    side = max(shape)
    fitted = fit(np.ones(shape, np.float32), PreprocessSpec(size=side, fit="pad"))
    assert fitted.shape == (side, side)
    assert fitted.sum() == shape[0] * shape[1]
    top, left = (side - shape[0]) // 2, (side - shape[1]) // 2
    assert fitted[top : top + shape[0], left : left + shape[1]].min() == 1


def test_an_image_of_the_right_size_is_left_alone():
    image = film(150, 150)
    assert_array_equal(fit(image, PreprocessSpec()), image)


def test_normalising_subtracts_the_mean_divides_by_the_scale_and_repeats_the_grey():
    image = film(4, 150 * 150).reshape(4, 150, 150)
    spec = PreprocessSpec(mean=0.5, scale=0.25)
    prepared = normalise(image, spec)
    assert prepared.shape == (4, *spec.input_shape) == (4, 150, 150, 3)
    assert prepared.dtype == np.float32
    for channel in range(3):
        assert_allclose(prepared[..., channel], (image - 0.5) / 0.25, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 300),
    columns=st.integers(1, 300),
    size=st.integers(8, 200),
    mode=st.sampled_from(["stretch", "pad"]),
)
def test_every_size_comes_out_square_between_0_and_1_and_the_same_each_time(rows, columns, size, mode):
    spec = PreprocessSpec(size=size, fit=mode, channels=1)
    image = film(rows, columns)
    prepared = preprocess(image, spec)
    assert prepared.shape == spec.input_shape
    assert prepared.dtype == np.float32
    assert prepared.min() >= 0
    assert prepared.max() <= 1 + 1e-6
    assert prepared.tobytes() == preprocess(image.copy(), spec).tobytes()


def test_the_digest_tells_specs_apart_and_is_written_in_bundles():
    assert PreprocessSpec().digest == PreprocessSpec(scale=1).digest
    changed = [{"size": 151}, {"channels": 1}, {"fit": "pad"}, {"mean": 0.1}, {"scale": 2}]
    assert len({PreprocessSpec(**change).digest for change in changed} | {PreprocessSpec().digest}) == 6
    assert PreprocessSpec().digest == "bb96d13e643d289d"


@pytest.mark.parametrize("wrong", [{"size": 0}, {"channels": 2}, {"scale": 0}, {"fit": "crop"}, {"colour": 1}])
def test_a_spec_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValidationError):
        PreprocessSpec(**wrong)
