from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from medd.errors import SettingsError
from medd.imaging.pixels import load
from medd.imaging.preprocess import PreprocessSpec
from medd.learn import manifest
from medd.learn.augment import Augmentation
from medd.learn.dataset import Part, ahead, batches, decode
from medd.learn.options import TrainOptions
from medd.learn.train import prepare

SPEC = PreprocessSpec(size=40, channels=3)
STILL = Augmentation(rotation_deg=0, shift=0, zoom=0, flip=False)
LABELS = ("NORMAL", "PNEUMONIA")


@pytest.fixture(scope="module")
def part(two_labels) -> Part:
    return decode(manifest.read(two_labels)[0], LABELS, SPEC, np.uint8)[0]


def test_the_unreadable_is_listed_and_left_out(two_labels):
    part, skipped = decode(manifest.read(two_labels)[0], LABELS, SPEC)
    assert [s.path.name for s in skipped] == ["IM-0001-9999.png"]
    assert len(part) == len(part.images) == len(part.truth) == 24
    assert [LABELS[t] for t in part.truth] == [s.label for s in part.samples]


def test_a_label_none_of_whose_images_can_be_read_is_an_error(tmp_path, draw):
    for number in range(6):
        draw(tmp_path / "NORMAL" / f"IM-{number:04}-0001.png", number)
        file = tmp_path / "PNEUMONIA" / f"person{number}_virus_1.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"no picture %d" % number)
    with pytest.raises(SettingsError, match=r"'PNEUMONIA': no image .* Received: 0"):
        prepare(tmp_path, TrainOptions(), Console(file=StringIO()))


def test_brightness_is_that_of_the_decoded_image(part):
    grey = load(part.samples[0].path)
    np.testing.assert_allclose(part.brightness[0], [grey.mean(), grey.std()], atol=1e-5)


def test_training_pixels_are_the_served_ones_rounded(two_labels, part):
    exact, _ = decode(part.samples, LABELS, SPEC)
    assert part.images.dtype == np.uint8
    np.testing.assert_allclose(part.inputs(), exact.inputs(), atol=0.5 / 255 + 1e-6)


def test_no_augmentation_changes_nothing(part):
    rng = np.random.default_rng(0)
    assert STILL.is_none
    np.testing.assert_array_equal(STILL.warp(part.images[0], rng), part.images[0])


def test_a_mirror_turns_left_and_right_only():
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    rng = np.random.default_rng(0)
    only_flip = STILL.model_copy(update={"flip": True})
    seen = {only_flip.warp(image, rng).tobytes() for _ in range(20)}
    assert seen == {image.tobytes(), image[:, ::-1].tobytes()}


@pytest.mark.parametrize(("name", "amount"), [("rotation_deg", 20), ("shift", 0.2), ("zoom", 0.3), ("shear", 0.2)])
def test_each_amount_moves_the_image(part, name, amount):
    moved = STILL.model_copy(update={name: amount}).warp(part.images[0], np.random.default_rng(1))
    assert moved.shape == part.images[0].shape
    assert not np.array_equal(moved, part.images[0])


def test_what_comes_in_at_the_edge_is_never_black():
    white = np.full((40, 40), 200, np.uint8)
    warped = [Augmentation(rotation_deg=45, shift=0.5).warp(white, np.random.default_rng(n)) for n in range(10)]
    assert min(w.min() for w in warped) == 200


def test_a_seed_gives_the_same_batches(part):
    def first(seed: int) -> bytes:
        stream = batches(part, part.truth, Augmentation(), 8, (seed,))
        return b"".join(next(stream)[0].tobytes() for _ in range(5))

    assert first(1) == first(1) != first(2)


def test_batches_go_on_after_the_last_image_and_leave_none_out(part):
    stream = batches(part, part.truth, STILL, 16, (0,))
    inputs, truth = zip(*(next(stream) for _ in range(6)), strict=True)  # 96 images: four times 24
    assert inputs[0].shape == (16, 40, 40, 3)
    assert truth[0].shape == (16, 1)
    seen = np.concatenate(inputs)
    assert all((seen == image).all(axis=(1, 2, 3)).sum() == 4 for image in part.inputs())


def test_a_batch_may_be_larger_than_the_part(part):
    assert next(batches(part, part.truth, STILL, 50, (0,)))[0].shape[0] == 50


def test_balanced_batches_show_each_label_equally_often(part):
    few = Part(part.samples[9:], part.images[9:], part.truth[9:], part.spec, part.brightness[9:])
    stream = batches(few, few.truth, STILL, 10, (0,), balanced=True)
    assert all(np.bincount(next(stream)[1][:, 0]).tolist() == [5, 5] for _ in range(8))


def test_batches_made_ahead_are_the_same_and_as_many(part):
    plain, early = (batches(part, part.truth, Augmentation(noise=0.1), 8, (1,)) for _ in range(2))
    made = list(ahead(early, 6))
    assert len(made) == 6
    for (inputs, truth), (expected, right) in zip(made, plain, strict=False):
        np.testing.assert_array_equal(inputs, expected)
        np.testing.assert_array_equal(truth, right)


@pytest.mark.parametrize(
    ("name", "amount"), [("gamma", 0.5), ("contrast", 0.4), ("brightness", 0.3), ("blur", 2), ("noise", 0.2)]
)
def test_each_amount_changes_the_greys(part, name, amount):
    changed = STILL.model_copy(update={name: amount})
    made = [changed.recolour(part.images[0], np.random.default_rng(n)) for n in range(8)]
    assert all(m.dtype == np.uint8 and m.shape == part.images[0].shape for m in made)
    assert not all(np.array_equal(m, part.images[0]) for m in made)


def test_no_samples_are_an_empty_part():
    assert decode([], ("B", "A"), SPEC)[0].inputs().shape == (0, 40, 40, 3)
