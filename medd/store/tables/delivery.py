"""What goes out, and what we fetch."""

from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from medd.records import DeliveryState
from medd.store.tables.base import Id, UtcDateTime, metadata, one_of

#: The outbox: one row for each study and destination. A late image raises the revision and sends it once more.
delivery = Table(
    "delivery",
    metadata,
    Column("id", Id, primary_key=True),
    #: Study Instance UID, or the SHA-256 of an image file, which is a study of its own.
    Column("study", String(64), nullable=False),
    #: The name of a destination.
    Column("destination", String(64), nullable=False),
    #: In which spool the bytes lie: only deliverers that can read it claim it.
    Column("spool", String(32), nullable=False, server_default=""),
    Column("revision", Integer, nullable=False),
    Column("state", String(8), nullable=False),
    #: Not before: the study is to be quiet, a destination to come back.
    Column("available_at", UtcDateTime, nullable=False),
    #: It is sent then, whatever of the study still comes or waits.
    Column("due_by", UtcDateTime, nullable=False),
    #: Tries since it last worked, and since when none does.
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("failing_since", UtcDateTime),
    Column("lease_owner", String(80)),
    Column("lease_token", String(32)),
    Column("lease_until", UtcDateTime),
    #: What went wrong last.
    Column("error", Text),
    UniqueConstraint("study", "destination"),
    CheckConstraint(one_of("state", DeliveryState), name="state"),
    CheckConstraint("(state = 'running') = (lease_token IS NOT NULL)", name="lease"),
    Index(
        "ix_delivery_pending",
        "destination",
        "spool",
        "available_at",
        sqlite_where=text("state = 'pending'"),
        postgresql_where=text("state = 'pending'"),
    ),
    Index(
        "ix_delivery_running",
        "lease_until",
        sqlite_where=text("state = 'running'"),
        postgresql_where=text("state = 'running'"),
    ),
    Index("ix_delivery_dead", "id", sqlite_where=text("state = 'dead'"), postgresql_where=text("state = 'dead'")),
)

#: The reports that were made of each study, one after the other. None is ever changed, and none deleted
#: but with all that is known of its study (`medd.store.retention`).
report = Table(
    "report",
    metadata,
    Column("study", String(64), nullable=False, primary_key=True),
    #: 1, 2, …: each names the one before it.
    Column("number", Integer, nullable=False, primary_key=True, autoincrement=False),
    #: SHA-256 of what it says; the same results make no second report.
    Column("digest", String(64), nullable=False),
    Column("sop_instance_uid", String(64), nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
)

#: What each destination has acknowledged.
sent = Table(
    "sent",
    metadata,
    Column("destination", String(64), nullable=False, primary_key=True),
    #: SOP Instance UID, or the name that the destination gave it.
    Column("object", String(128), nullable=False, primary_key=True),
    Column("sop_class_uid", String(64), nullable=False, server_default=""),
    Column("study", String(64), nullable=False),
    Column("number", Integer, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    #: What the destination answered.
    Column("answer", Text, nullable=False),
    #: Whether it has taken responsibility for keeping it (storage commitment); NULL where it was not asked, or not yet.
    Column("committed", Boolean),
    Index(None, "study"),
    Index(None, "destination", "at"),
)

#: Storage commitment (PS3.4 Annex J), asked of peers and asked by them.
commitment = Table(
    "commitment",
    metadata,
    Column("id", Id, primary_key=True),
    Column("transaction_uid", String(64), nullable=False, unique=True),
    #: "asked": by us, of a destination; "offered": to a peer that asked us.
    Column("direction", String(8), nullable=False),
    #: The destination's name, or the AE title of the peer that asked.
    Column("peer", String(64), nullable=False),
    #: "waiting" for an answer, or to give one; "done"; "dead": nobody answered, or the peer could not be told.
    Column("state", String(8), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("available_at", UtcDateTime, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    #: [[SOP Class UID, SOP Instance UID], …]
    Column("objects", JSON, nullable=False),
    #: What went wrong last.
    Column("error", Text),
    CheckConstraint("direction IN ('asked', 'offered')", name="direction"),
    CheckConstraint("state IN ('waiting', 'done', 'dead')", name="state"),
    Index(
        "ix_commitment_waiting",
        "available_at",
        sqlite_where=text("state = 'waiting'"),
        postgresql_where=text("state = 'waiting'"),
    ),
)

#: Studies that were fetched from a peer or a DICOMweb server: none is fetched twice, unless it has grown.
pulled = Table(
    "pulled",
    metadata,
    Column("source", String(64), nullable=False, primary_key=True),
    Column("study_instance_uid", String(64), nullable=False, primary_key=True),
    #: Which series were asked for: their modalities, sorted, with commas between them.
    Column("modalities", Text, nullable=False, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    #: Images received, and images that the peer could not give.
    Column("images", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    #: Images that the peer said the study has, of whatever modality; where it did not say, those it listed by series.
    Column("listed", Integer, nullable=False),
    #: Whether all of it came; what did not is asked for again.
    Column("complete", Boolean, nullable=False),
    Column("error", Text),
)
