"""The X-rays of the training benchmarks, divided by patient, in the form that each side wants."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medd.learn import manifest
from medd.learn.manifest import Sample

DATA = Path(__file__).parents[1] / "../shared/data/chest_xray/train"
NEGATIVE = "NORMAL"
#: The normals' two runs of numbering, by the beginning of the file's name; what begins with neither is no normal.
RUNS = {"IM-": "NORMAL2-IM-", "NORMAL2-IM-": "IM-"}


@dataclass(frozen=True)
class Material:
    """One division of the data."""

    #: For medd: path, label, patient, split.
    table: Path
    #: For Keras: a folder for each label, of links to the files of the training side.
    folder: Path
    #: Files of the test side, and whether a finding is true.
    test: list[tuple[str, bool]]
    #: Images of the training side.
    images: int


def material(data: Path, folder: Path, seed: int, learned_run: str = "", small: bool = False) -> Material:
    """Divide the data by patient and lay them out.

    Args:
        data: A folder for each label, or whatever else medd reads.
        folder: Where to; must not exist.
        seed: Of the division.
        learned_run: Where it is a key of `RUNS`, the normals of the other run are all in the test side, and of this run
            none is.
        small: Leave a handful in the other two sides: for speed, which they do not matter to.
    """
    samples = manifest.divide(manifest.read(data)[0], seed)
    if learned_run:
        samples = shift(samples, RUNS[learned_run])
    if small:
        samples = spare(samples, 8)
    links = folder / "train"
    for number, sample in enumerate(s for s in samples if s.split == "train"):
        link = links / sample.label / f"{number}{sample.path.suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(sample.path.resolve())
    table = folder / "samples.csv"
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "label", "patient", "split"))
        rows.writerows((s.path.resolve(), s.label, s.patient, s.split) for s in samples)
    test = [(str(s.path.resolve()), s.label != NEGATIVE) for s in samples if s.split == "test"]
    return Material(table, links, test, sum(s.split == "train" for s in samples))


def shift(samples: Sequence[Sample], tested_run: str) -> list[Sample]:
    """All normals of one run to the test side, those of the other away from it; who is in both runs is left out."""
    tested = {s.patient for s in samples if s.label == NEGATIVE and s.path.name.startswith(tested_run)}
    moved = []
    for sample in samples:
        if sample.label != NEGATIVE:
            moved.append(sample)
        elif sample.path.name.startswith(tested_run):
            moved.append(replace(sample, split="test"))
        elif sample.patient not in tested:
            moved.append(replace(sample, split="train" if sample.split == "test" else sample.split))
    return moved


def spare(samples: Sequence[Sample], count: int) -> list[Sample]:
    """At most so many of each label stay in validation and test; whole patients go to training instead."""
    kept: dict[tuple[str, str], set[str]] = {}
    held: dict[tuple[str, str], int] = {}
    result = []
    for sample in samples:
        key = (sample.split, sample.label)
        patients = kept.setdefault(key, set())
        if sample.split != "train" and held.get(key, 0) < count:
            patients.add(sample.patient)
        if sample.patient in patients:
            held[key] = held.get(key, 0) + 1
        result.append(sample if sample.patient in patients else replace(sample, split="train"))
    return result
