"""Images with what readers said of them, de-identified, as a folder that `medd train` reads.

::

    FOLDER/README.txt        what was done, and what was not
    FOLDER/manifest.csv      path, label, patient (a pseudonym)
    FOLDER/LABEL/<hash>.dcm  named by a keyed hash

A second run adds what is new, moves what readers have relabelled, and cleans anew what was cleaned by other rules.
Nothing in it tells an original's name or time.
"""

import csv
import json
import os
import re
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path, PurePath

from medd import DISCLAIMER, __version__
from medd.dicom.deidentify import PROFILE, TABLE, deidentify_file
from medd.dicom.pseudonyms import Pseudonyms
from medd.errors import InputError, NotAssessable, SettingsError, TransientError
from medd.imaging.pixels import load
from medd.imaging.strip import strip
from medd.learn.manifest import patient_in_name
from medd.records import MediaType, Reason
from medd.rows import read_csv
from medd.store.annotations import Truth, find_truths, list_annotations
from medd.store.database import Database
from medd.store.spool import Spool

MANIFEST, README = "manifest.csv", "README.txt"
#: Says that a folder is an export, by which key its names were made, and by which rules and options its files. Hidden:
#: readers of folders pass it over.
_MARK = ".medd-export.json"
#: Raise the number with every change of what `deidentify_file` and `strip` take out: what was exported before is then
#: cleaned anew.
_CLEANING = f"2 {TABLE}"
#: What a run that was killed leaves of a file that it was writing: `_write`.
_PART = re.compile(r"\.(?P<name>.+)-[0-9a-f]{8}")
_COLUMNS = ("path", "label", "patient")
#: Every file's time: those of the originals, and the order in which they were received, are nobody's business.
_MOMENT = 946_684_800  # 2000-01-01 UTC
_SUFFIX = {MediaType.DICOM: ".dcm", MediaType.JPEG: ".jpg", MediaType.PNG: ".png", MediaType.TIFF: ".png"}

_README = """\
Images with labels by readers, exported by medd {version}. {disclaimer}

To train on them:  medd train {manifest}   (not the folder alone: the manifest says which images are of one patient)

What was done
- DICOM objects: {profile} (PS3.15 section E.2, table E.1-1, {table}; option codes: none). Attributes unknown to the
  Standard, private attributes, overlays, also those in unused bits of the pixels, curves and free text are removed;
  dates and times are removed or emptied; UIDs are replaced by keyed hashes, the same for the same; name and ID of the
  patient are the pseudonym of {manifest}. Comments inside compressed frames are removed.
- JPEG and PNG files: EXIF, comments, text, colour profiles and thumbnails are removed; the pixels are as they were.
  TIFF files are PNG files of the same pixels.
- Files are named by keyed hashes, and all carry the same time. The key has not left the home folder of medd.

What was NOT done
- PIXEL DATA WERE NOT EXAMINED. Text burnt into the pixels (names, dates, numbers), faces, jewellery and implants that
  identify somebody are still there. Left out is only what says of itself that text is burnt in (0028,0301).
- Equipment (manufacturer, model), technique, view and body part are kept.
Look at the images before you give them to anybody, and have it approved by whoever answers for data protection.
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which annotated images; what is empty does not restrict."""

    #: Annotated at this time or later.
    since: datetime | None = None
    labels: Collection[str] = ()
    #: Only what these readers say; others count as if they had said nothing.
    readers: Collection[str] = ()
    #: Take Secondary Captures also when they do not say that no text is burnt in.
    secondary_captures: bool = False


@dataclass(slots=True)
class Outcome:
    """What an export did."""

    new: int = 0
    #: Exported before, under another label.
    moved: int = 0
    known: int = 0
    #: Exported before, and contradicted by a reader since: taken back.
    withdrawn: int = 0
    #: Exported before, by other rules or options: cleaned anew.
    renewed: int = 0
    #: Instance id → why, of those that are left out on purpose.
    left_out: dict[int, str] = field(default_factory=dict)
    #: Instance id → why, of those that could not be exported.
    failed: dict[int, str] = field(default_factory=dict)


def export(
    database: Database,
    spool: Spool,
    folder: Path,
    pseudonyms: Pseudonyms,
    wanted: Wanted,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Bring a folder up to what readers say.

    Args:
        database: Where the annotations are.
        spool: Where the images are.
        folder: Made where it is missing; otherwise empty, or an export of this home.
        pseudonyms: Of this home.
        wanted: Which images.
        report: Told after each image how many are done, of how many.

    Raises:
        SettingsError: The folder is neither empty nor an export made by this key, or cannot be written.
        TransientError: The database or the spool's disk is away.
    """
    outcome = Outcome()

    def name_of(truth: Truth) -> str:
        return pseudonyms.image(truth.sha256) + _SUFFIX[MediaType(truth.media_type)]

    with _writing(folder):
        is_stale = _open(folder, pseudonyms, wanted.secondary_captures)
        rows = _read_manifest(folder)
        with database.read() as connection:
            annotated = {name_of(truth): truth for truth in find_truths(connection)}
        _sweep(folder, annotated.keys() | rows.keys(), rows)
        for name in rows.keys() - annotated.keys():  # every reader has taken back what was said
            label, _ = rows.pop(name)
            (folder / label / name).unlink(missing_ok=True)
            outcome.withdrawn += 1
        truths = _choose(database, wanted, lambda truth: name_of(truth) in rows)
        try:
            if is_stale:
                _renew(annotated, spool, folder, pseudonyms, wanted.secondary_captures, rows, outcome)
                _write_mark(folder, pseudonyms, _CLEANING, wanted.secondary_captures)
            for number, truth in enumerate(truths, 1):
                _export_one(truth, name_of(truth), spool, folder, pseudonyms, wanted, rows, outcome)
                report(number, len(truths))
        finally:  # also when it is stopped half-way: what is there is listed
            _write_manifest(folder, rows)
    return outcome


def _choose(database: Database, wanted: Wanted, is_exported: Callable[[Truth], bool]) -> list[Truth]:
    """What readers say of the images that are asked for, and of those that an earlier run exported."""
    readers, labels = set(wanted.readers), set(wanted.labels)
    with database.read() as connection:
        truths = find_truths(connection)
        recent = {
            row["instance_id"]
            for row in (list_annotations(connection) if wanted.since is not None else ())
            if row["counts"] and row["at"] >= wanted.since and (not readers or row["reader"] in readers)
        }
    chosen = []
    for truth in truths:
        said = {reader: label for reader, label in truth.labels.items() if not readers or reader in readers}
        is_asked = (wanted.since is None or truth.instance_id in recent) and (not labels or labels & {*said.values()})
        if said and (is_asked or is_exported(truth)):
            chosen.append(replace(truth, labels=said))
    return chosen


def _renew(
    annotated: Mapping[str, Truth],
    spool: Spool,
    folder: Path,
    pseudonyms: Pseudonyms,
    secondary_captures: bool,
    rows: dict[str, tuple[str, str]],
    outcome: Outcome,
) -> None:
    """Clean anew all that is there, whatever this run is about; what cannot be, is taken back."""
    for name, (label, _) in list(rows.items()):
        there, truth = folder / label / name, annotated.get(name)
        if not there.is_file():
            continue
        patient = pseudonyms.patient(_identity(truth)) if truth else ""
        data = _try_clean(truth, spool, pseudonyms, patient, secondary_captures, outcome) if truth else None
        if data is None:
            there.unlink()
            del rows[name]
            outcome.withdrawn += 1
        else:
            _write(there, data)
            rows[name] = label, patient
            outcome.renewed += 1


def _export_one(
    truth: Truth,
    name: str,
    spool: Spool,
    folder: Path,
    pseudonyms: Pseudonyms,
    wanted: Wanted,
    rows: dict[str, tuple[str, str]],
    outcome: Outcome,
) -> None:
    earlier = rows.get(name)
    there = folder / earlier[0] / name if earlier else None
    if truth.is_contradicted:
        outcome.left_out[truth.instance_id] = "readers disagree about it"
        if there is not None:
            there.unlink(missing_ok=True)
            del rows[name]
            outcome.withdrawn += 1
        return
    label, patient = _folder_name(truth.label), pseudonyms.patient(_identity(truth))
    target = folder / label / name
    # The file says whose it is, too.
    if there is not None and there.is_file() and earlier is not None and earlier[1] == patient:
        if there != target:
            target.parent.mkdir(exist_ok=True)
            there.rename(target)
            outcome.moved += 1
        else:
            outcome.known += 1
    else:
        data = _try_clean(truth, spool, pseudonyms, patient, wanted.secondary_captures, outcome)
        if there is not None and (data is None or there != target):
            there.unlink(missing_ok=True)
            del rows[name]
            outcome.withdrawn += data is None
        if data is None:
            return
        target.parent.mkdir(exist_ok=True)
        _write(target, data)
        outcome.new += 1
    rows[name] = label, patient


def _try_clean(
    truth: Truth, spool: Spool, pseudonyms: Pseudonyms, patient: str, secondary_captures: bool, outcome: Outcome
) -> bytes | None:
    """The image as it is exported; None where it is not, which the outcome explains."""
    try:
        return _clean(truth, spool, pseudonyms, patient, secondary_captures)
    except NotAssessable as refusal:
        outcome.left_out[truth.instance_id] = str(refusal)
    except InputError as error:
        outcome.failed[truth.instance_id] = str(error)
    return None


def _clean(truth: Truth, spool: Spool, pseudonyms: Pseudonyms, patient: str, secondary_captures: bool) -> bytes:
    path = spool.path(truth.sha256, truth.media_type)
    if not spool.has(path):
        raise InputError(Reason.UNREADABLE, "its bytes are not in this spool")
    load(path)  # what cannot be read can teach nobody, and might be anything
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TransientError(f"spool: {error.strerror}") from error
    if truth.media_type == MediaType.DICOM:
        return deidentify_file(data, pseudonyms, patient, secondary_captures=secondary_captures)
    return strip(data, MediaType(truth.media_type))[0]


def _identity(truth: Truth) -> str:
    """Whom an image shows, by what is known: the header, the file's name, else nobody but itself."""
    if truth.patient_id:
        return truth.patient_id
    return patient_in_name(truth.file_name) or truth.sha256


def _folder_name(label: str) -> str:
    if not label or label.startswith(".") or set(label) & set("/\\\0"):
        raise SettingsError(f"a label that can name no folder. Received: {label!r}")
    return label


# -- the folder ----------------------------------------------------------------------------------------------------


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SettingsError(f"{folder}: cannot be written. Received: {error.strerror or error}") from error


def _open(folder: Path, pseudonyms: Pseudonyms, secondary_captures: bool) -> bool:
    """Make the folder, or look whose it is.

    Returns:
        Whether what is there was cleaned by other rules, or by a run that was asked to be less strict.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / _MARK
    is_stale = False
    if mark.is_file():
        try:
            found = json.loads(mark.read_text())
            key = found["key"]
        except (ValueError, KeyError, TypeError) as error:
            raise SettingsError(f"{mark}: damaged. Take another folder") from error
        if key != pseudonyms.fingerprint:
            raise SettingsError(f"{folder}: exported with another key, so its names are others. Take another folder")
        took_captures = found.get("secondary_captures", True)  # the first versions did not write it down
        is_stale = found.get("cleaning") != _CLEANING or (took_captures and not secondary_captures)
    elif any(folder.iterdir()):
        raise SettingsError(f"{folder}: neither empty nor an export of medd. Take another folder")
    profile = f"{PROFILE[2]} ({PROFILE[0]}, {PROFILE[1]})"
    readme = _README.format(version=__version__, disclaimer=DISCLAIMER, manifest=MANIFEST, profile=profile, table=TABLE)
    # Until all is cleaned anew, the next run has to do it as well.
    _write_mark(folder, pseudonyms, "" if is_stale else _CLEANING, secondary_captures)
    _write(folder / README, readme.encode())
    return is_stale


def _write_mark(folder: Path, pseudonyms: Pseudonyms, cleaning: str, secondary_captures: bool) -> None:
    said = {
        "format": 1,
        "key": pseudonyms.fingerprint,
        "cleaning": cleaning,
        "secondary_captures": secondary_captures,
    }
    _write(folder / _MARK, (json.dumps(said) + "\n").encode())


def _sweep(folder: Path, names: Set[str], rows: Mapping[str, tuple[str, str]]) -> None:
    """Remove what a run that was killed wrote and could not list any more; nothing that medd did not write.

    Args:
        folder: The export.
        names: Of all files that an export of this home can have written.
        rows: Those that are listed.
    """
    for path in (*folder.glob("*"), *folder.glob("*/*")):
        part = _PART.fullmatch(path.name)
        name = part["name"] if part else path.name
        is_listed = path.parent == folder or (name in rows and path.parent.name == rows[name][0])
        is_ours = name in names if path.parent != folder else name in (MANIFEST, README, _MARK)
        if is_ours and (part or not is_listed) and path.is_file() and not path.is_symlink():
            path.unlink()


def _read_manifest(folder: Path) -> dict[str, tuple[str, str]]:
    """File name → label and patient, of what an earlier run exported."""
    table = folder / MANIFEST
    if not table.is_file():
        return {}
    rows = read_csv(table, _COLUMNS, exact=True)
    return {PurePath(row["path"]).name: (_folder_name(row["label"]), row["patient"]) for _, row in rows}


def _write_manifest(folder: Path, rows: dict[str, tuple[str, str]]) -> None:
    # By path, which is by hash: the order of the rows tells nothing.
    lines = sorted((f"{label}/{name}", label, patient) for name, (label, patient) in rows.items())
    part = folder / f".{MANIFEST}-{secrets.token_hex(4)}"
    with part.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(_COLUMNS)
        table.writerows(lines)
    _publish(part, folder / MANIFEST)


def _write(target: Path, data: bytes) -> None:
    part = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
    part.write_bytes(data)
    _publish(part, target)


def _publish(part: Path, target: Path) -> None:
    """Whole or not at all, whenever it is stopped."""
    os.utime(part, (_MOMENT, _MOMENT))
    part.replace(target)
