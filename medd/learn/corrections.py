"""Base data and what readers said of images, put together for a training that can be compared with the champion's.

The test part of the champion's split is locked: the same images, of the same patients, whoever else joins. A reader's
word goes before the base label, on every side: a wrong label judges no model rightly. Images that are not in the base
data come from the spool and go to training or validation, by patient.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medd.dicom.part10 import HEAD_BYTES, media_type_of, split_file
from medd.errors import InputError, SettingsError
from medd.imaging.pixels import load
from medd.learn.manifest import Sample, Skipped, patient_in_name
from medd.records import MediaType
from medd.registry.bundle import file_digest
from medd.store.annotations import Truth
from medd.store.spool import Spool

#: Of 100 new patients so many go to validation: the proportion of the shares that `medd train` deals by.
_VAL_PERCENT = 18

# The sides, that of a new patient last, in the order in which one is believed of an image that may be of several.
_CAUTION = ("test", "train", "val", "")


@dataclass(frozen=True, slots=True)
class Merged:
    """What a retraining learns from."""

    #: Each on its side; the test part is the champion's.
    samples: list[Sample]
    #: What is left out, and why.
    skipped: list[Skipped]
    #: Instances whose readers contradict each other.
    contradicted: list[int]
    #: Images outside the locked test part, of patients who are in it.
    overlapping: list[str]
    #: Base images whose label a reader changed, in training and validation, and in the locked test part.
    corrected: int
    corrected_test: int
    #: Images that came from the spool.
    added: int
    #: Base images that the champion's split does not know.
    new_base: int
    #: What readers said of the images that are learned from or measured on.
    truths: list[Truth]

    @property
    def problems(self) -> list[str]:
        """What speaks against learning from it, in sentences without names."""
        found = []
        if self.contradicted:
            shown = ", ".join(map(str, self.contradicted[:5])) + (", …" if len(self.contradicted) > 5 else "")
            found.append(
                f"contradicting labels: readers disagree about {len(self.contradicted)} images; "
                f"see medd annotations --contradicted. Received: instances {shown}"
            )
        if self.overlapping:
            found.append(
                f"patient overlap: {len(self.overlapping)} images for training are of patients in the locked test "
                f"part. Received: {', '.join(self.overlapping[:5])}{', …' if len(self.overlapping) > 5 else ''}"
            )
        return found


def merge(
    base: Sequence[Sample],
    truths: Sequence[Truth],
    sides: Mapping[str, str],
    spool: Spool,
    *,
    leave_out: bool = False,
) -> Merged:
    """Put base data and annotations together.

    Args:
        base: The base data, as `medd.learn.manifest.read` lists them.
        truths: What readers say.
        sides: The champion's split: the first 16 hex digits of an image's SHA-256 → its side.
        spool: Where the annotated images lie.
        leave_out: Leave out what would be a problem: contradicted images, and those of locked patients.

    Raises:
        SettingsError: The champion's test part is not in the base data.
    """
    _check_locked(base, sides)
    contradicted = [truth.instance_id for truth in truths if truth.is_contradicted]
    said = {truth.sha256: truth for truth in truths if not truth.is_contradicted}
    disputed = {truth.sha256 for truth in truths if truth.is_contradicted} if leave_out else set()
    digests = _instance_digests(base, truths)

    samples, skipped, corrected = [], [], {"train": 0, "val": 0, "test": 0}
    truth_of: dict[Path, Truth] = {}
    side_of_patient = {s.patient: side for s in base if (side := sides.get(s.sha256[:16]))}
    side_of_patient |= {s.patient: "test" for s in base if sides.get(s.sha256[:16]) == "test"}
    for sample, digest in zip(base, digests, strict=True):
        stated = sides.get(sample.sha256[:16])
        # A new image of a locked patient may neither join the test part nor be trained on: see `overlapping`.
        side = stated or _for_training(side_of_patient.get(sample.patient) or _deal(sample.patient))
        if digest in disputed and side != "test":
            skipped.append(Skipped(sample.path, "readers disagree about it"))
            continue
        # New to the champion; or it could not be read then either, and is nothing to count or to refuse for.
        if stated is None and (why := _unreadable(sample.path)):
            skipped.append(Skipped(sample.path, why))
            continue
        label = sample.label
        if digest in said:
            truth_of[sample.path] = said[digest]
            label = said[digest].label
        corrected[side] += label != sample.label
        samples.append(replace(sample, label=label, split=side))

    known = set(digests)
    others = [truth for truth in said.values() if truth.sha256 not in known]
    added, missing = _from_spool(others, sides, side_of_patient, _patients_by_name(base), spool)
    skipped += missing
    samples += [sample for sample, _ in added]
    truth_of |= {sample.path: truth for sample, truth in added}
    # A copy may have united a patient of train with one of val since.
    learned_from = {s.patient for s in samples if s.split == "train"}
    samples = [replace(s, split="train") if s.split == "val" and s.patient in learned_from else s for s in samples]

    of_base = {s.path for s in base}
    locked = {s.patient for s in samples if s.split == "test"}
    overlapping = [s for s in samples if s.split != "test" and s.patient in locked]
    if leave_out:
        skipped += [Skipped(s.path, "its patient is in the locked test part") for s in overlapping]
        samples = [s for s in samples if s.split == "test" or s.patient not in locked]
    return Merged(
        samples=samples,
        skipped=skipped,
        contradicted=[] if leave_out else contradicted,
        overlapping=[] if leave_out else sorted(s.sha256[:16] for s in overlapping),
        corrected=corrected["train"] + corrected["val"],
        corrected_test=corrected["test"],
        added=sum(s.path not in of_base for s in samples),
        new_base=sum(s.path in of_base and s.sha256[:16] not in sides for s in samples),
        truths=list({t.instance_id: t for s in samples if (t := truth_of.get(s.path))}.values()),
    )


def _check_locked(base: Iterable[Sample], sides: Mapping[str, str]) -> None:
    locked = {digest for digest, side in sides.items() if side == "test"}
    if not locked:
        raise SettingsError("the model on duty keeps no split of its data: nothing to measure another one on")
    lost = locked - {sample.sha256[:16] for sample in base}
    if lost:
        raise SettingsError(
            "DATA is not what the model on duty was tested on: images of its test part are missing. "
            f"Received: {len(lost)} of {len(locked)} missing"
        )


def _patients_by_name(base: Iterable[Sample]) -> dict[str, set[str]]:
    """Whom of the base data a name may mean: every name that is known for a patient, also before copies united two."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for sample in base:
        for name in (sample.patient, *sample.aliases):
            found[name].add(sample.patient)
    return found


def _from_spool(
    truths: Iterable[Truth],
    sides: Mapping[str, str],
    side_of_patient: Mapping[str, str],
    by_name: Mapping[str, set[str]],
    spool: Spool,
) -> tuple[list[tuple[Sample, Truth]], list[Skipped]]:
    found, skipped = [], []
    for truth in truths:
        path = spool.path(truth.sha256, truth.media_type)
        if not spool.has(path):
            skipped.append(Skipped(path, "an annotated image that is not in this spool"))
            continue
        if why := _unreadable(path):
            skipped.append(Skipped(path, why))
            continue
        told = [known for known in (truth.patient_id, patient_in_name(truth.file_name)) if known]
        names = told or [truth.sha256]
        meant = set[str]().union(*(by_name.get(known, ()) for known in names))
        # Where it may be several, it is the locked one: rather an image less than one that the test part knows.
        order = sorted(meant, key=lambda one: (_CAUTION.index(side_of_patient.get(one, "")), one))
        patient = order[0] if order else names[0]
        digest = file_digest(path) if truth.media_type == MediaType.DICOM else truth.sha256
        side = sides.get(digest[:16]) or side_of_patient.get(patient) or _deal(patient)
        sample = Sample(path, truth.label, patient, digest, _for_training(side), is_named=bool(told))
        found.append((sample, truth))
    return found, skipped


def _unreadable(path: Path) -> str:
    """Why the image cannot be read; "" where it can."""
    try:
        load(path)
    except InputError as error:
        return str(error)
    return ""


def _for_training(side: str) -> str:
    return "train" if side == "test" else side


def _deal(patient: str) -> str:
    """Train or val, always the same for a patient, whoever else is there."""
    return "val" if int(hashlib.sha256(patient.encode()).hexdigest(), 16) % 100 < _VAL_PERCENT else "train"


def _instance_digests(base: Sequence[Sample], truths: Sequence[Truth]) -> list[str]:
    """What the database calls each base image: of DICOM the digest of its dataset, of others that of the file."""
    if not any(truth.media_type == MediaType.DICOM for truth in truths):
        return [sample.sha256 for sample in base]
    return [_dataset_digest(sample.path) or sample.sha256 for sample in base]


def _dataset_digest(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        if media_type_of(head) != MediaType.DICOM:
            return None
        try:
            file.seek(split_file(head)[0])
        except InputError:
            return None
        return hashlib.file_digest(file, "sha256").hexdigest()
