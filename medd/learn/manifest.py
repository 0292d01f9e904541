"""Which image carries which label, whose it is, and on which side of the split it stands.

DATA is one of

- a folder with one folder for each label;
- a folder with ``train/``, ``val/``, ``test/``, each with one folder for each label;
- a CSV with the columns ``path`` (relative to the CSV), ``label``, and optionally ``patient`` and ``split``.

A patient stands on one side only, and so do byte-identical copies: patients who share one count as the same patient, as
do two of whom one is also called by the other's name. Where nothing says whose an image is, its file's name does.
"""

import csv
import hashlib
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from medd.dicom.headers import inspect_file
from medd.errors import InputError, SettingsError
from medd.registry.bundle import file_digest
from medd.rows import read_csv

#: The sides, and the share of the images that each takes where DATA does not say.
SHARES = {"train": 0.70, "val": 0.15, "test": 0.15}

# The names that Kermany et al. 2018 gave their files; both runs of normals count from 1, so "NORMAL2-" is kept. And
# those of NIH ChestX-ray14 (Wang et al. 2017): 30,805 patients, of eight digits; no date begins with three zeros.
_KNOWN_NAMES = re.compile(r"(person\d+)_(?:bacteria|virus)_\d+|((?:NORMAL2-)?IM-\d+)-\d+|(000\d{5})_\d{3}(?!\d)")


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of the data."""

    path: Path
    label: str
    #: Whom it shows. Never logged.
    patient: str
    #: SHA-256 of the file, in hex.
    sha256: str
    #: "train", "val" or "test"; "" until it is divided.
    split: str = ""
    #: Other names by which the patient is known: before copies united two, in the header, in the file's name. Never
    #: logged.
    aliases: frozenset[str] = frozenset()
    #: Whether anything tells whom it shows; else the file's name counts as a patient.
    is_named: bool = True


@dataclass(frozen=True, slots=True)
class Skipped:
    """One file that is left out, and why."""

    path: Path
    why: str


def _names_of(path: Path) -> list[str]:
    """Every name that an image file tells of its patient, the header's first."""
    names = [patient_in_name(path.stem)]
    with suppress(InputError):  # a damaged file is listed when its pixels are read
        names.insert(0, inspect_file(path).patient_id)
    return [name for name in names if name]


def patient_in_name(stem: str) -> str:
    """The patient that a file's name tells, without its extension; "" where it tells none."""
    known = _KNOWN_NAMES.match(stem)
    return str(known[known.lastindex or 0]) if known else ""


def read(data: Path, *, least_labels: int = 2) -> tuple[list[Sample], list[Skipped]]:
    """List the images of DATA, sorted by path, with the sides it states.

    Identical copies under different labels are skipped, as nobody can learn from them, and files that cannot be read.

    Raises:
        SettingsError: DATA is none of the forms above, or fewer than `least_labels` labels have images.
    """
    if data.is_dir():
        rows = list(_folder_rows(data))
    elif data.suffix.lower() == ".csv" and data.is_file():
        rows = list(_csv_rows(data))
    else:
        raise SettingsError(f"DATA is a folder with one folder for each label, or a CSV. Received: {data}")
    rows.sort(key=lambda row: row[0].as_posix())
    samples, skipped = [], []
    for path, label, patient, split in rows:
        try:
            names, sha256 = _names_of(path), file_digest(path)
        except OSError as error:
            skipped.append(Skipped(path, error.strerror or str(error)))
            continue
        # Where nothing tells, a file's stem is its patient; but 1.png of train/ and of test/ need not be the same one.
        whose = patient or (names[0] if names else PurePath(split, path.stem).as_posix())
        is_named = bool(patient or names)
        samples.append(Sample(path, label, whose, sha256, split, frozenset(names) - {whose}, is_named))

    labels_of: defaultdict[str, set[str]] = defaultdict(set)
    for sample in samples:
        labels_of[sample.sha256].add(sample.label)
    skipped += [
        Skipped(s.path, f"the same image is under {sorted(labels_of[s.sha256])}")
        for s in samples
        if len(labels_of[s.sha256]) > 1
    ]
    samples = _unite([s for s in samples if len(labels_of[s.sha256]) == 1])
    found = len({s.label for s in samples})
    if found < least_labels:
        wanted = "at least two labels" if least_labels > 1 else "a label"
        raise SettingsError(f"{data}: images of {wanted} are needed. Received: {len(samples)} of {found}")
    return samples, skipped


def _folder_rows(data: Path) -> Iterable[tuple[Path, str, str, str]]:
    """(path, label, "", split) for each file below the label folders."""
    folders = _subfolders(data)
    if {f.name for f in folders} & {"train", "test"}:
        if odd := [f.name for f in folders if f.name not in SHARES]:
            raise SettingsError(f"{data}: beside train/ and test/ only val/ is understood. Received: {odd}")
        sides = [(side.name, label) for side in folders for label in _subfolders(side)]
    else:
        sides = [("", label) for label in folders]
    for split, folder in sides:
        files = files_of(folder)
        if not files:
            raise SettingsError(f"{folder}: a label without images. Received: an empty folder")
        for path in files:
            yield path, folder.name, "", split


def files_of(where: Path) -> list[Path]:
    """A file; or those of a folder and of its folders, but for hidden files, sorted; none where nothing is."""
    if where.is_file():
        return [where]
    return sorted(path for path in where.rglob("*") if path.is_file() and not path.name.startswith("."))


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _csv_rows(table: Path) -> Iterable[tuple[Path, str, str, str]]:
    """(path, label, patient, split) for each row."""
    for line, row in read_csv(table, ("path", "label")):
        path, label, split = table.parent / row["path"], row["label"].strip(), row.get("split", "").strip()
        if not _is_file(path):
            raise SettingsError(f"{table}, line {line}: no such file. Received: {row['path']}")
        if not label or split not in ("", *SHARES):
            raise SettingsError(
                f"{table}, line {line}: a label, and train, val, test or nothing as split, are needed. "
                f"Received: {label!r}, {split!r}"
            )
        yield path, label, row.get("patient", "").strip(), split


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long for one, a folder that may not be looked into
        return False


def unnamed(samples: Sequence[Sample]) -> str:
    """How many images do not say whose they are, as a sentence; "" where all do."""
    count = sum(not sample.is_named for sample in samples)
    told = f"{count} of {len(samples)} images do not say whose they are: the name of each file counts as a patient"
    return told if count else ""


def _unite(samples: Sequence[Sample]) -> list[Sample]:
    """Give patients who share an image or a name one name, the first in order; the others stay as aliases."""
    parent = {s.patient: s.patient for s in samples}

    def root(patient: str) -> str:
        while parent[patient] != patient:
            patient = parent[patient]
        return patient

    def unite(one: str, other: str) -> None:
        low, high = sorted((root(one), root(other)))
        parent[high] = low

    first: dict[str, str] = {}
    called: defaultdict[str, set[str]] = defaultdict(set)
    for sample in samples:
        unite(sample.patient, first.setdefault(sample.sha256, sample.patient))
        for alias in sample.aliases & parent.keys():
            called[alias].add(sample.patient)
    # What several are called, as "ANON", tells nobody apart.
    shared = [(name, min(who)) for name, who in called.items() if len({root(one) for one in who}) == 1]
    for name, patient in shared:
        unite(name, patient)
    roots = [root(s.patient) for s in samples]
    return [
        replace(s, patient=whose, aliases=(s.aliases | {s.patient}) - {whose})
        for s, whose in zip(samples, roots, strict=True)
    ]


def divide(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """Put every sample on a side: by patient, the labels in equal shares.

    Sides that DATA states stand. Those it lacks (all, or val/ beside train/ and test/) are taken from what is free:
    the samples without a side, and those of "train".

    Raises:
        SettingsError: A patient stands on two sides, or a label has too few patients to be on each side.
    """
    missing = [side for side in ("val", "test") if not any(s.split == side for s in samples)]
    sides = ["train", *missing]
    free = {"", "train"} if missing else {""}

    by_patient: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_patient[sample.patient].append(sample)
    side_of: dict[str, str] = {}
    strata: defaultdict[str, list[str]] = defaultdict(list)
    for patient, theirs in by_patient.items():
        stated = {s.split for s in theirs} - free
        if len(stated) > 1 or (stated and stated != {"train"} and any(s.split == "train" for s in theirs)):
            example = ", ".join(sorted(str(s.path) for s in theirs)[:2])
            raise SettingsError(
                "the same patient, or a copy of the same image, is on two sides; name the training folder alone to "
                f"have it split by patient, or say who is who in a CSV. Received: {example}, …"
            )
        if stated:
            side_of[patient] = stated.pop()
        else:
            # A patient with several labels counts for the one seen most.
            strata[Counter(sorted(s.label for s in theirs)).most_common(1)[0][0]].append(patient)

    for label in sorted(strata):
        patients = sorted(strata[label])
        random.Random(f"{seed}/{label}").shuffle(patients)
        side_of |= _deal(patients, {p: len(by_patient[p]) for p in patients}, sides)
    divided = [replace(s, split=side_of[s.patient]) for s in samples]
    check(divided, {s.label for s in samples})
    return divided


def _deal(patients: Sequence[str], images: dict[str, int], sides: Sequence[str]) -> dict[str, str]:
    """Deal patients to sides so that the images come out in the shares: each to the side that lacks most."""
    whole = sum(SHARES[side] for side in sides)
    total = sum(images.values())
    lacks = {side: SHARES[side] / whole * total for side in sides}
    dealt = {}
    for number, patient in enumerate(patients):
        # The first ones go round, so that a small label is on every side.
        side = sides[number] if number < len(sides) else max(sides, key=lacks.__getitem__)
        dealt[patient] = side
        lacks[side] -= images[patient]
    return dealt


def check(samples: Sequence[Sample], labels: Iterable[str]) -> None:
    """See that every label is on every side, also one none of whose images can be read.

    Raises:
        SettingsError: One is not.
    """
    found = Counter((s.split, s.label) for s in samples)
    for label in sorted(labels):
        for side in SHARES:
            if not found[side, label]:
                patients = len({s.patient for s in samples if s.label == label})
                raise SettingsError(
                    f"label {label!r}: no image for the {side} part; at least three patients are needed. "
                    f"Received: {patients}"
                )


def digest(samples: Iterable[Sample]) -> str:
    """SHA-256, in hex, over what stands where: the same for the same images in another folder."""
    lines = sorted(f"{s.sha256}\t{s.label}\t{s.patient}\t{s.split}\n" for s in samples)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def write(path: Path, samples: Sequence[Sample]) -> None:
    """Write the split as CSV, without names: the image by its digest's first 16 digits, the patient by a number."""
    numbers = {patient: number for number, patient in enumerate(sorted({s.patient for s in samples}))}
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("sha256", "label", "patient", "split"))
        rows.writerows((s.sha256[:16], s.label, numbers[s.patient], s.split) for s in samples)
