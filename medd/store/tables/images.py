"""What came in, what is to be done with it, and what models and readers said of it."""

from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.types import BigInteger

from medd.records import Status
from medd.store.tables.base import Id, UtcDateTime, metadata, one_of

instance = Table(
    "instance",
    metadata,
    Column("id", Id, primary_key=True),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("size", BigInteger, nullable=False),
    Column("media_type", String(32), nullable=False),
    #: "dicom://AE@host", "dicomweb://…", "upload://USER@host/NAME" or "file:relative/path".
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
    CheckConstraint(one_of("status", Status), name="status"),
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
    # How much a model has said since when.
    Index(None, "model", "shadow", "scored_at"),
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


#: Images whose bytes retention has taken from the spool; what was said of them stays. Sent again, one is kept anew.
purged = Table(
    "purged",
    metadata,
    Column("instance_id", Id, ForeignKey(instance.c.id, ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("at", UtcDateTime, nullable=False),
    #: In which spool the bytes lay.
    Column("spool", String(32), nullable=False),
    #: False from the decision until the file is deleted: until then it may still be there, and nobody may rely on it.
    Column("gone", Boolean, nullable=False),
    Index("ix_purged_going", "spool", sqlite_where=text("NOT gone"), postgresql_where=text("NOT gone")),
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
    Index(None, "at"),
)
