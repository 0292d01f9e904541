"""What readers say the truth is. Rows are only added; of each reader the newest counts.

A reader who withdraws or cannot tell says so by a row too, and by that says nothing that anybody could learn from.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from medd.errors import SettingsError
from medd.records import UNSURE, WITHDRAWN, Annotation
from medd.store.tables import annotation, instance

_NO_TRUTH = (WITHDRAWN, UNSURE)


@dataclass(frozen=True, slots=True)
class Truth:
    """One instance with what its readers say of it now."""

    instance_id: int
    sha256: str
    media_type: str
    #: "dicom://AE@host", "dicomweb://…", "upload://USER@host/NAME" or "file:relative/path".
    origin: str
    #: Never logged.
    patient_id: str
    #: Reader → label.
    labels: dict[str, str]
    #: Row id of the newest annotation that counts.
    newest: int

    @property
    def is_contradicted(self) -> bool:
        """Whether two readers disagree."""
        return len(set(self.labels.values())) > 1

    @property
    def label(self) -> str:
        """What all readers say; of a contradicted one, what the first by name says."""
        return self.labels[min(self.labels)]

    @property
    def file_name(self) -> str:
        """The name of the file that it came as, without its ending; "" of what came by DICOM."""
        kind, _, rest = self.origin.partition(":")
        return PurePath(rest).stem if kind in ("file", "upload") else ""


def find_instances(connection: Connection, key: str) -> list[int]:
    """The instances that a SOP Instance UID, a SHA-256 in hex, or an instance id names: one, none, or several."""
    if re.fullmatch(r"[0-9a-fA-F]{64}", key):
        where = instance.c.sha256 == key.lower()
    elif re.fullmatch(r"[0-9]{1,18}", key):
        where = instance.c.id == int(key)
    elif key:
        where = instance.c.sop_instance_uid == key
    else:
        return []
    return list(connection.scalars(sa.select(instance.c.id).where(where).order_by(instance.c.id)))


def find_instance(connection: Connection, key: str) -> int:
    """As `find_instances`, of the only one.

    Raises:
        SettingsError: There is none, or more than one.
    """
    if not key:
        raise SettingsError("no instance is named. Received: ''")
    found = find_instances(connection, key)
    if not found:
        raise SettingsError(f"no instance of this UID, SHA-256 or id. Received: {key}")
    if len(found) > 1:
        ids = ", ".join(map(str, found))
        raise SettingsError(f"{key}: several instances have this UID; name one by its id. Received: {ids}")
    return found[0]


def annotate(connection: Connection, said: Annotation) -> bool:
    """Keep what a reader says; returns False when the reader says so already, or withdraws nothing."""
    theirs = (annotation.c.instance_id == said.instance_id) & (annotation.c.reader == said.reader)
    newest = sa.select(annotation.c.label).where(theirs).order_by(annotation.c.id.desc()).limit(1)
    if (connection.scalar(newest) or WITHDRAWN) == said.label:
        return False
    values = {name: getattr(said, name) for name in ("instance_id", "label", "reader", "at", "comment")}
    connection.execute(annotation.insert().values(**values))
    return True


def find_truths(connection: Connection) -> list[Truth]:
    """Every instance of which a reader says what it shows, in the order of their ids.

    What was withdrawn, and who cannot tell, is left out: it teaches nothing and contradicts nobody.
    """
    i = instance.c
    rows = connection.execute(
        sa.select(i.id, i.sha256, i.media_type, i.origin, i.patient_id, annotation.c.reader, annotation.c.label)
        .add_columns(annotation.c.id.label("row"))
        .join_from(annotation, instance)
        .where(annotation.c.id.in_(_newest()), annotation.c.label.not_in(_NO_TRUTH))
        .order_by(i.id, annotation.c.id)
    )
    found: dict[int, Truth] = {}
    for id_, sha256, media_type, origin, patient_id, reader, label, row in rows:
        earlier = found.get(id_)
        labels = (earlier.labels if earlier else {}) | {reader: label}
        found[id_] = Truth(id_, sha256, media_type, origin, patient_id, labels, row)
    return list(found.values())


def _newest() -> sa.Select[tuple[int]]:
    """Of each reader of each instance the last word, be it a truth or none."""
    return sa.select(sa.func.max(annotation.c.id)).group_by(annotation.c.instance_id, annotation.c.reader)


#: The columns of `medd annotations`.
COLUMNS = tuple("id at instance_id sop_instance_uid sha256 label reader comment counts contradicted".split())


def list_annotations(
    connection: Connection, *, contradicted: bool = False, before: int | None = None, limit: int | None = None
) -> Iterator[dict[str, Any]]:
    """Every annotation, newest first, saying whether it still counts and whether another reader contradicts it.

    The label of one that withdraws is empty, that of who cannot tell "?"; neither counts.

    Args:
        connection: Where to ask.
        contradicted: Only of instances on which readers disagree.
        before: Only those before this one, by its id.
        limit: At most so many.
    """
    a, truth = annotation.c, annotation.alias("truth")
    labels = sa.select(sa.func.count(truth.c.label.distinct())).where(
        truth.c.instance_id == a.instance_id, truth.c.label.not_in(_NO_TRUTH), ~_has_later(truth)
    )
    disputed = labels.scalar_subquery() > 1
    counts = a.label.not_in(_NO_TRUTH) & ~_has_later(annotation)
    rows = sa.select(annotation, instance.c.sop_instance_uid, instance.c.sha256).add_columns(
        counts.label("counts"), disputed.label("contradicted")
    )
    rows = rows.join_from(annotation, instance).order_by(a.id.desc()).limit(limit)
    if contradicted:
        rows = rows.where(disputed)
    if before is not None:
        rows = rows.where(a.id < before)
    for row in connection.execute(rows):
        yield {name: row._mapping[name] for name in COLUMNS}


def _has_later(of: sa.FromClause) -> sa.Exists:
    """Whether the reader has said something else of the instance since."""
    later = annotation.alias()
    again = (later.c.instance_id == of.c.instance_id) & (later.c.reader == of.c.reader) & (later.c.id > of.c.id)
    return sa.exists().where(again)
