"""The schema. ``migrations/`` builds the same one step by step; a test holds the two equal.

Words and rules that the database can hold are held by it: states by CHECK, "once" by UNIQUE.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.types import BigInteger, TypeDecorator, TypeEngine

from medd.records import DeliveryState, ModelChange, Role, Status

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

#: 64 bits on PostgreSQL; on SQLite only INTEGER is an alias of the row id.
Id = BigInteger().with_variant(Integer, "sqlite")


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time: TIMESTAMPTZ on PostgreSQL; on SQLite RFC 3339 text, which sorts as time does."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Text on SQLite, TIMESTAMP WITH TIME ZONE elsewhere."""
        return dialect.type_descriptor(String(27) if dialect.name == "sqlite" else DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Refuse a naive time rather than guess its zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time needs its zone. Received: {value!r}")
        value = value.astimezone(UTC)
        return value.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Always aware, always UTC."""
        if value is None:
            return None
        return (datetime.fromisoformat(value) if isinstance(value, str) else value).astimezone(UTC)


def _one_of(column: str, words: type[StrEnum]) -> str:
    return f"{column} IN ({', '.join(repr(str(word)) for word in words)})"


instance = Table(
    "instance",
    metadata,
    Column("id", Id, primary_key=True),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("size", BigInteger, nullable=False),
    Column("media_type", String(32), nullable=False),
    #: "dicom://AE@host" or "file:relative/path".
    Column("origin", Text, nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    Column("status", String(16), nullable=False),
    #: Why it is not assessed or failed; a word of `medd.records.Reason`.
    Column("reason", String(32)),
    #: One sentence more, free of patient data.
    Column("detail", Text),
    #: "name/version" of the model that refused it; NULL where none did.
    Column("refused_by", String(130)),
    Column("sop_class_uid", String(64), nullable=False, server_default=""),
    Column("sop_instance_uid", String(64), nullable=False, server_default=""),
    Column("series_instance_uid", String(64), nullable=False, server_default=""),
    Column("study_instance_uid", String(64), nullable=False, server_default=""),
    Column("patient_id", Text, nullable=False, server_default=""),
    Column("accession_number", Text, nullable=False, server_default=""),
    Column("modality", String(16), nullable=False, server_default=""),
    #: Where and of whom: what drift and the age check ask for.
    Column("manufacturer", Text, nullable=False, server_default=""),
    Column("station_name", Text, nullable=False, server_default=""),
    Column("patient_age", String(4), nullable=False, server_default=""),
    CheckConstraint(_one_of("status", Status), name="status"),
    # "Not assessed" always says why, and what is scored or waits has nothing to explain.
    CheckConstraint("(status IN ('not_assessed', 'failed')) = (reason IS NOT NULL)", name="reason"),
    Index(None, "received_at"),
    Index(None, "status", "received_at"),
    Index(None, "patient_id", "received_at"),
    Index(None, "study_instance_uid"),
    Index(None, "sop_instance_uid"),
)

job = Table(
    "job",
    metadata,
    Column("id", Id, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("instance_id", Id, ForeignKey(instance.c.id, ondelete="CASCADE"), nullable=False),
    Column("state", String(8), nullable=False),
    #: In which spool the bytes lie: only workers that can read it claim the job.
    Column("spool", String(32), nullable=False, server_default=""),
    #: Lower goes first: 0 for what comes in live.
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    #: Not before this moment: backoff. NULL is at once, whatever a clock says.
    Column("available_at", UtcDateTime),
    #: While running: who claimed it, the token of that claim, and until when the claim holds.
    Column("lease_owner", String(80)),
    Column("lease_token", String(32)),
    Column("lease_until", UtcDateTime),
    #: What went wrong last.
    Column("error", Text),
    UniqueConstraint("instance_id", "kind"),
    CheckConstraint("state IN ('pending', 'running', 'done', 'dead')", name="state"),
    CheckConstraint("(state = 'running') = (lease_token IS NOT NULL)", name="lease"),
    # Only what waits or runs is ever searched for: the indices stay as small as the queue.
    Index(
        "ix_job_pending",
        "kind",
        "spool",
        "priority",
        "id",
        sqlite_where=text("state = 'pending'"),
        postgresql_where=text("state = 'pending'"),
    ),
    Index(
        "ix_job_running",
        "kind",
        "lease_until",
        sqlite_where=text("state = 'running'"),
        postgresql_where=text("state = 'running'"),
    ),
    Index("ix_job_dead", "kind", "id", sqlite_where=text("state = 'dead'"), postgresql_where=text("state = 'dead'")),
)

model_version = Table(
    "model_version",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", String(64), nullable=False),
    Column("version", String(64), nullable=False),
    Column("classifier", String(64), nullable=False),
    #: SHA-256 of bundle.json, which holds the digests of its files.
    Column("digest", String(64), nullable=False),
    Column("path", Text, nullable=False),
    Column("role", String(16), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("name", "version"),
    CheckConstraint(_one_of("role", Role), name="role"),
    Index(
        "uq_model_version_champion",
        "classifier",
        unique=True,
        sqlite_where=text("role = 'champion'"),
        postgresql_where=text("role = 'champion'"),
    ),
    Index(
        "uq_model_version_candidate",
        "classifier",
        unique=True,
        sqlite_where=text("role = 'candidate'"),
        postgresql_where=text("role = 'candidate'"),
    ),
)

#: What was done to models, by whom and why. Nothing here is ever changed or deleted.
model_event = Table(
    "model_event",
    metadata,
    Column("id", Id, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("classifier", String(64), nullable=False),
    #: "name/version"; "" where a retraining was refused before there was one.
    Column("model", String(130), nullable=False),
    Column("what", String(16), nullable=False),
    Column("who", Text, nullable=False),
    Column("why", Text, nullable=False),
    #: The figures it was decided by.
    Column("figures", JSON, nullable=False),
    CheckConstraint(_one_of("what", ModelChange), name="what"),
    Index(None, "classifier", "id"),
)

#: What readers say the truth is. Rows are only added; of each reader the newest counts.
annotation = Table(
    "annotation",
    metadata,
    Column("id", Id, primary_key=True),
    Column("instance_id", Id, ForeignKey(instance.c.id, ondelete="CASCADE"), nullable=False),
    Column("label", String(64), nullable=False),
    Column("reader", String(64), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("comment", Text, nullable=False, server_default=""),
    Index(None, "instance_id", "reader", "id"),
)

prediction = Table(
    "prediction",
    metadata,
    Column("id", Id, primary_key=True),
    Column("instance_id", Id, ForeignKey(instance.c.id, ondelete="CASCADE"), nullable=False),
    #: "name/version".
    Column("model", String(130), nullable=False),
    Column("label", String(64), nullable=False),
    Column("positive", Boolean, nullable=False),
    Column("probability", Float(53), nullable=False),
    Column("probabilities", JSON, nullable=False),
    Column("threshold", Float(53), nullable=False),
    Column("preprocess_digest", String(16), nullable=False),
    Column("scored_at", UtcDateTime, nullable=False),
    #: The one that `medd results` shows.
    Column("current", Boolean, nullable=False),
    #: Made by a candidate beside the champion: nobody has been shown it.
    Column("shadow", Boolean, nullable=False, server_default=false()),
    #: Which of the labels count as findings.
    Column("findings", JSON, nullable=False, server_default="[]"),
    #: Words that say what to doubt about it.
    Column("flags", JSON, nullable=False, server_default="[]"),
    #: Of the decoded image, in [0, 1].
    Column("input_mean", Float(53)),
    Column("input_std", Float(53)),
    UniqueConstraint("instance_id", "model"),
    CheckConstraint("probability BETWEEN 0 AND 1", name="probability"),
    CheckConstraint("NOT (shadow AND current)", name="shadow"),
    Index(
        "uq_prediction_current",
        "instance_id",
        unique=True,
        sqlite_where=text("current"),
        postgresql_where=text("current"),
    ),
    Index(None, "label", "probability"),
    Index(None, "probability"),
)

#: What explains a prediction: a heat map, and what plugins add.
attachment = Table(
    "attachment",
    metadata,
    Column("instance_id", Id, nullable=False, primary_key=True),
    Column("model", String(130), nullable=False, primary_key=True),
    Column("name", String(64), nullable=False, primary_key=True),
    Column("media_type", String(64), nullable=False),
    Column("content", LargeBinary, nullable=False),
    ForeignKeyConstraint(
        ["instance_id", "model"],
        [prediction.c.instance_id, prediction.c.model],
        name="fk_attachment_prediction",
        ondelete="CASCADE",
    ),
)

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
    CheckConstraint(_one_of("state", DeliveryState), name="state"),
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

#: The reports that were made of each study, one after the other. Nothing here is ever changed or deleted.
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

#: A read-only view for people who come with SQL or pandas: the rows of `medd results --format json`.
RESULTS_VIEW = """
CREATE VIEW results AS
SELECT i.id AS instance_id, i.sop_instance_uid, i.series_instance_uid, i.study_instance_uid, i.patient_id,
       i.accession_number, i.origin, i.sha256, i.received_at, i.status, i.reason, p.model, p.label, p.positive,
       p.probability, p.probabilities, p.threshold, p.scored_at,
       i.sop_instance_uid <> '' AND EXISTS (
           SELECT 1 FROM instance AS other
           WHERE other.sop_instance_uid = i.sop_instance_uid AND other.id <> i.id
       ) AS conflict, p.flags
FROM instance AS i
LEFT JOIN prediction AS p ON p.instance_id = i.id AND p.current
"""

#: The view as a table, for queries; in a MetaData of its own, as nothing may ever create it as one.
results = Table(
    "results",
    MetaData(),
    Column("instance_id", Id),
    Column("sop_instance_uid", String),
    Column("series_instance_uid", String),
    Column("study_instance_uid", String),
    Column("patient_id", String),
    Column("accession_number", String),
    Column("origin", String),
    Column("sha256", String),
    Column("received_at", UtcDateTime),
    Column("status", String),
    Column("reason", String),
    Column("model", String),
    Column("label", String),
    Column("positive", Boolean),
    Column("probability", Float),
    Column("probabilities", JSON),
    Column("threshold", Float),
    Column("scored_at", UtcDateTime),
    Column("conflict", Boolean),
    Column("flags", JSON),
)
