"""Base data and what readers said of images, put together."""

import hashlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from medd.errors import SettingsError
from medd.learn.corrections import Merged, merge
from medd.learn.manifest import Sample
from medd.records import MediaType
from medd.store.annotations import Truth
from medd.store.spool import Spool
from medd.testing import cheap_series


class Desk:
    """Base data of twelve images of six patients, two of them locked, and a spool."""

    def __init__(self, folder: Path) -> None:
        self.spool = Spool(folder / "spool")
        self.spool.prepare()
        self.base: list[Sample] = []
        self.sides: dict[str, str] = {}
        for number in range(12):
            label = "NORMAL" if number % 2 else "PNEUMONIA"
            path = folder / f"{number}.png"
            path.write_bytes(f"image {number}".encode())
            sample = Sample(path, label, f"P{number // 2}", hashlib.sha256(path.read_bytes()).hexdigest())
            self.base.append(sample)
            self.sides[sample.sha256[:16]] = {0: "test", 1: "test", 2: "val"}.get(number // 2, "train")
        self.truths: list[Truth] = []

    def say(self, sha256: str, patient: str = "", media: MediaType = MediaType.PNG, **labels: str) -> None:
        number = len(self.truths) + 1
        origin = "dicom://CR1@10.0.0.1" if media is MediaType.DICOM else "file:film.png"
        self.truths.append(Truth(number, sha256, media, origin, patient, labels, number))

    def put(self, what: str) -> str:
        """An image in the spool, another one for each `what`."""
        pixels = np.random.default_rng([*what.encode()]).integers(0, 256, (64, 64), np.uint8)
        return self.put_bytes(cv2.imencode(".png", pixels)[1].tobytes())

    def put_bytes(self, content: bytes) -> str:
        sha256 = hashlib.sha256(content).hexdigest()
        self.spool.path(sha256, MediaType.PNG).write_bytes(content)
        return sha256

    def merge(self, **options: bool) -> Merged:
        return merge(self.base, self.truths, self.sides, self.spool, **options)

    def label(self, merged: Merged, number: int) -> str:
        return next(s.label for s in merged.samples if s.sha256 == self.base[number].sha256)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_base_data_keep_the_sides_of_the_champion(desk):
    merged = desk.merge()
    assert {s.sha256[:16]: s.split for s in merged.samples} == desk.sides
    assert merged.problems == []


def test_readers_word_replaces_the_base_label_on_every_side(desk):
    desk.say(desk.base[0].sha256, anna="NORMAL")  # locked
    desk.say(desk.base[11].sha256, anna="PNEUMONIA")
    desk.say(desk.base[10].sha256, anna="PNEUMONIA")  # as it was
    merged = desk.merge()
    assert [desk.label(merged, number) for number in (0, 11, 10)] == ["NORMAL", "PNEUMONIA", "PNEUMONIA"]
    assert (merged.corrected, merged.corrected_test, merged.added) == (1, 1, 0)
    assert {s.sha256[:16]: s.split for s in merged.samples} == desk.sides


def test_correction_finds_a_dicom_file_of_the_base_by_its_dataset(desk, tmp_path):
    [film] = cheap_series(1, rows=64, columns=64)
    [dataset] = cheap_series(1, rows=64, columns=64, part10=False)
    path = tmp_path / "film.dcm"
    path.write_bytes(film)
    desk.base.append(Sample(path, "NORMAL", "P9", hashlib.sha256(film).hexdigest()))
    desk.say(hashlib.sha256(dataset).hexdigest(), media=MediaType.DICOM, anna="PNEUMONIA")
    merged = desk.merge()
    assert desk.label(merged, 12) == "PNEUMONIA"
    assert (merged.corrected, merged.added, merged.new_base) == (1, 0, 1)


def test_other_images_come_from_the_spool_and_never_into_the_locked_part(desk):
    for number in range(60):
        desk.say(desk.put(f"new {number}"), f"new patient {number // 2}", anna="NORMAL")
    merged = desk.merge()
    new = [s for s in merged.samples if s.patient.startswith("new")]
    assert merged.added == len(new) == 60
    sides = {s.patient: {t.split for t in new if t.patient == s.patient} for s in new}
    assert all(len(side) == 1 for side in sides.values()), "a patient stands on one side"
    assert set.union(*sides.values()) == {"train", "val"}
    again = desk.merge()
    assert again.samples == merged.samples


def test_new_image_of_a_known_patient_joins_that_patients_side(desk):
    desk.say(desk.put("once more"), "P2", anna="NORMAL")
    merged = desk.merge()
    assert [s.split for s in merged.samples if s.patient == "P2"] == ["val"] * 3
    assert merged.problems == []


def test_patient_of_train_and_val_whom_a_copy_united_goes_to_train(desk):
    for number in (10, 11):  # P5 of train is P2 of val
        desk.base[number] = replace(desk.base[number], patient="P2")
    merged = desk.merge()
    assert [s.split for s in merged.samples if s.patient == "P2"] == ["train"] * 4
    assert merged.problems == []
    for number in (10, 11):  # and of one who is locked it is an overlap
        desk.base[number] = replace(desk.base[number], patient="P0")
    assert desk.merge().problems[0].startswith("patient overlap: 2 images")


def test_image_of_a_locked_patient_is_an_overlap_and_may_be_left_out(desk):
    sha256 = desk.put("once more")
    desk.say(sha256, "P0", anna="NORMAL")
    merged = desk.merge()
    [problem] = merged.problems
    assert problem.startswith("patient overlap: 1 images for training are of patients in the locked test part")
    assert "P0" not in problem
    left = desk.merge(leave_out=True)
    assert left.problems == []
    assert sha256 not in {s.sha256 for s in left.samples}
    assert (merged.added, left.added) == (1, 0)
    assert len([s for s in left.samples if s.split == "test"]) == 4


def test_image_of_a_locked_patient_is_an_overlap_under_every_name_that_is_known(desk):
    both = {0: "before the union", 1: "HEADER"}
    for number, alias in both.items():
        desk.base[number] = replace(desk.base[number], aliases=frozenset({alias}))
    for alias in both.values():
        desk.say(desk.put(f"of {alias}"), alias, anna="NORMAL")
    [problem] = desk.merge().problems
    assert problem.startswith("patient overlap: 2 images")
    assert [s.patient for s in desk.merge(leave_out=True).samples if s.split == "test"] == ["P0"] * 2 + ["P1"] * 2


def test_name_that_may_mean_a_locked_patient_and_another_means_the_locked_one(desk):
    for number in (0, 10):
        desk.base[number] = replace(desk.base[number], aliases=frozenset({"ANON"}))
    desk.say(desk.put("once more"), "ANON", anna="NORMAL")
    assert desk.merge().problems[0].startswith("patient overlap: 1 images")


def test_new_base_image_of_a_locked_patient_is_an_overlap_too(desk, tmp_path, draw):
    path = draw(tmp_path / "new.png", 1)
    desk.base.append(Sample(path, "NORMAL", "P1", hashlib.sha256(path.read_bytes()).hexdigest()))
    merged = desk.merge()
    assert (len(merged.problems), merged.new_base) == (1, 1)
    left = desk.merge(leave_out=True)
    assert (left.problems, left.new_base) == ([], 0)


def test_base_file_that_is_no_image_is_skipped_and_no_overlap(desk, tmp_path):
    (tmp_path / "new.png").write_bytes(b"no image")
    desk.base.append(Sample(tmp_path / "new.png", "NORMAL", "P1", hashlib.sha256(b"no image").hexdigest()))
    merged = desk.merge()
    assert (merged.problems, merged.new_base, len(merged.skipped)) == ([], 0, 1)


def test_readers_who_contradict_each_other_are_named_by_instance_and_may_be_left_out(desk):
    desk.say(desk.base[8].sha256, anna="NORMAL", ben="PNEUMONIA")
    [problem] = desk.merge().problems
    assert problem.startswith("contradicting labels: readers disagree about 1 images")
    assert problem.endswith("Received: instances 1")
    left = desk.merge(leave_out=True)
    assert left.problems == []
    assert desk.base[8].sha256 not in {s.sha256 for s in left.samples}


def test_readers_who_agree_are_one_word(desk):
    desk.say(desk.base[8].sha256, anna="NORMAL", ben="NORMAL")
    merged = desk.merge()
    assert merged.problems == []
    assert desk.label(merged, 8) == "NORMAL"


def test_annotated_image_that_is_not_in_this_spool_is_left_out(desk):
    desk.say("ab" * 32, anna="NORMAL")
    merged = desk.merge()
    assert [skipped.why for skipped in merged.skipped] == ["an annotated image that is not in this spool"]


def test_spool_image_that_cannot_be_read_is_skipped_and_is_no_overlap(desk):
    desk.say(desk.put_bytes(b"no image"), "P0", anna="NORMAL")
    merged = desk.merge()
    assert (merged.problems, merged.added, merged.truths, len(merged.skipped)) == ([], 0, [], 1)


def test_only_what_was_said_of_images_that_are_used_counts(desk):
    desk.say(desk.base[0].sha256, anna="PNEUMONIA")  # locked
    desk.say(desk.base[11].sha256, anna="PNEUMONIA")
    desk.say(desk.base[10].sha256, anna="NORMAL", ben="PNEUMONIA")
    desk.say("ab" * 32, anna="NORMAL")  # not in this spool
    desk.say(desk.put("new"), anna="NORMAL")
    desk.say(desk.put("of a locked patient"), "P0", anna="NORMAL")
    assert [truth.instance_id for truth in desk.merge(leave_out=True).truths] == [1, 2, 5]


def test_data_without_the_champions_test_part_are_refused(desk):
    desk.base = desk.base[1:]
    with pytest.raises(SettingsError, match=r"test part are missing\. Received: 1 of 4 missing"):
        desk.merge()
    desk.sides = {}
    with pytest.raises(SettingsError, match="keeps no split"):
        desk.merge()
