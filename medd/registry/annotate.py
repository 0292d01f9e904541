"""Taking in what readers say of images, in the words of the model on duty."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection

from medd.errors import SettingsError
from medd.hookspecs import ClassifierSpec
from medd.records import UNSURE, WITHDRAWN, Annotation
from medd.registry import bundle as bundles
from medd.registry.registry import check_text, find_usable
from medd.rows import read_csv
from medd.store import annotations
from medd.store.database import Database
from medd.store.studies import follow_annotations


@dataclass(frozen=True, slots=True)
class Said:
    """What a reader says, as it was handed in."""

    #: SOP Instance UID, SHA-256 or instance id.
    uid: str
    #: A label of the model on duty, whatever its case; or `UNSURE`.
    label: str
    reader: str
    comment: str = ""
    #: Where it stands, for messages: "FILE, line 3: ", or nothing.
    where: str = ""


def read_file(table: Path, reader: str, comment: str = "") -> list[Said]:
    """Read a CSV with the columns uid and label, and optionally reader and comment.

    Args:
        table: The file.
        reader: Of the rows that name none.
        comment: Of the rows that have none.

    Raises:
        SettingsError: It cannot be read, or lacks a column.
    """
    return [
        Said(
            row["uid"].strip(),
            row["label"].strip(),
            row.get("reader", "").strip() or reader,
            row.get("comment", "").strip() or comment,
            f"{table}, line {line}: ",
        )
        for line, row in read_csv(table, ("uid", "label"))
    ]


def annotate(database: Database, spec: ClassifierSpec, said: Sequence[Said]) -> int:
    """Keep what readers say, all of it or nothing; what they said already is left alone.

    By that they have read the images' studies.

    Returns:
        How many annotations are new.

    Raises:
        SettingsError: An instance is not there or named ambiguously, a label is none of the model on duty,
            or a text is none that a database takes.
        ModelUnusable: No model is on duty, so that there are no labels.
        TransientError: The database is away.
    """
    labels = labels_on_duty(database, spec)
    with database.write() as connection:
        return annotate_in(connection, labels, said)


def annotate_in(connection: Connection, labels: Sequence[str], said: Sequence[Said], images: int | None = None) -> int:
    """As `annotate`, in the caller's transaction; nothing else may follow in it but what tells of it.

    Args:
        connection: Of the transaction; it is to be rolled back where this raises.
        labels: Of the model on duty.
        said: What readers say.
        images: How many images of the study were seen: where there are others by now, it is not marked as read.
    """
    now, new = datetime.now(UTC), []
    for one in said:
        try:
            _check(one.reader, one.uid, one.label, one.comment)
            instance_id = annotations.find_instance(connection, one.uid)
            label = _known(one.label, labels)
        except SettingsError as error:
            raise SettingsError(f"{one.where}{error}") from None
        made = Annotation(instance_id, label, one.reader, now, one.comment)
        if annotations.annotate(connection, made):
            new.append(made)
    follow_annotations(connection, new, images)
    return len(new)


def withdraw(database: Database, uid: str, reader: str, comment: str = "") -> bool:
    """Take back what a reader says of an instance; it stays in the history and is learned from no more.

    A study of which nobody says anything any more waits to be read again.

    Returns:
        False when the reader says nothing of it.

    Raises:
        SettingsError: The instance is not there or named ambiguously, or a text is none that a database takes.
        TransientError: The database is away.
    """
    with database.write() as connection:
        return withdraw_in(connection, uid, reader, comment)


def withdraw_in(connection: Connection, uid: str, reader: str, comment: str = "") -> bool:
    """As `withdraw`, in the caller's transaction; nothing else may follow in it but what tells of it."""
    _check(reader, uid, comment)
    instance_id = annotations.find_instance(connection, uid)
    said = Annotation(instance_id, WITHDRAWN, reader, datetime.now(UTC), comment)
    withdrawn = annotations.annotate(connection, said)
    if withdrawn:
        follow_annotations(connection, [said])
    return withdrawn


def labels_on_duty(database: Database, spec: ClassifierSpec) -> tuple[str, ...]:
    """What a reader may say an image shows: the labels of the model on duty.

    Raises:
        ModelUnusable: No model is on duty.
        TransientError: The database is away.
    """
    return bundles.read(find_usable(database, spec).path, verify=False).labels


def _check(reader: str, *texts: str) -> None:
    check_text(reader, *texts)
    if not 1 <= len(reader) <= 64:
        raise SettingsError(f"a reader's name has 1 to 64 characters. Received: {reader!r}")


def _known(label: str, labels: Sequence[str]) -> str:
    """The label as the model writes it, whatever its case."""
    if label == UNSURE:
        return UNSURE
    for known in labels:
        if known.casefold() == label.casefold():
            return known
    raise SettingsError(f"no label of the model on duty, which has {', '.join(labels)}. Received: {label!r}")
