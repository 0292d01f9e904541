"""The first schema: instances, jobs, models, predictions, and the view ``results``."""

import sqlalchemy as sa
from alembic import op

from medd.store.tables import Id, UtcDateTime

revision = "0001"
down_revision = None

RESULTS_VIEW = """
CREATE VIEW results AS
SELECT i.id AS instance_id, i.sop_instance_uid, i.series_instance_uid, i.study_instance_uid, i.patient_id,
       i.accession_number, i.origin, i.sha256, i.received_at, i.status, i.reason, p.model, p.label, p.positive,
       p.probability, p.probabilities, p.threshold, p.scored_at,
       i.sop_instance_uid <> '' AND EXISTS (
           SELECT 1 FROM instance AS other
           WHERE other.sop_instance_uid = i.sop_instance_uid AND other.id <> i.id
       ) AS conflict
FROM instance AS i
LEFT JOIN prediction AS p ON p.instance_id = i.id AND p.current
"""


def upgrade() -> None:
    op.create_table(
        "instance",
        sa.Column("id", Id, nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("media_type", sa.String(length=32), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("received_at", UtcDateTime(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("sop_class_uid", sa.String(length=64), server_default="", nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), server_default="", nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), server_default="", nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), server_default="", nullable=False),
        sa.Column("patient_id", sa.Text(), server_default="", nullable=False),
        sa.Column("accession_number", sa.Text(), server_default="", nullable=False),
        sa.Column("modality", sa.String(length=16), server_default="", nullable=False),
        sa.CheckConstraint(
            "(status IN ('not_assessed', 'failed')) = (reason IS NOT NULL)", name=op.f("ck_instance_reason")
        ),
        sa.CheckConstraint(
            "status IN ('pending', 'scored', 'not_assessed', 'failed')", name=op.f("ck_instance_status")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instance")),
        sa.UniqueConstraint("sha256", name=op.f("uq_instance_sha256")),
    )
    op.create_index(op.f("ix_instance_patient_id_received_at"), "instance", ["patient_id", "received_at"], unique=False)
    op.create_index(op.f("ix_instance_received_at"), "instance", ["received_at"], unique=False)
    op.create_index(op.f("ix_instance_sop_instance_uid"), "instance", ["sop_instance_uid"], unique=False)
    op.create_index(op.f("ix_instance_status_received_at"), "instance", ["status", "received_at"], unique=False)
    op.create_index(op.f("ix_instance_study_instance_uid"), "instance", ["study_instance_uid"], unique=False)
    op.create_table(
        "model_version",
        sa.Column("id", Id, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("classifier", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("role IN ('champion', 'retired')", name=op.f("ck_model_version_role")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_version")),
        sa.UniqueConstraint("name", "version", name=op.f("uq_model_version_name_version")),
    )
    op.create_index(
        "uq_model_version_champion",
        "model_version",
        ["classifier"],
        unique=True,
        sqlite_where=sa.text("role = 'champion'"),
        postgresql_where=sa.text("role = 'champion'"),
    )
    op.create_table(
        "job",
        sa.Column("id", Id, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("instance_id", Id, nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("spool", sa.String(length=32), server_default="", nullable=False),
        sa.Column("priority", sa.Integer(), server_default="0", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("available_at", UtcDateTime(), nullable=True),
        sa.Column("lease_owner", sa.String(length=80), nullable=True),
        sa.Column("lease_token", sa.String(length=32), nullable=True),
        sa.Column("lease_until", UtcDateTime(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint("(state = 'running') = (lease_token IS NOT NULL)", name=op.f("ck_job_lease")),
        sa.CheckConstraint("state IN ('pending', 'running', 'done', 'dead')", name=op.f("ck_job_state")),
        sa.ForeignKeyConstraint(["instance_id"], ["instance.id"], name=op.f("fk_job_instance_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
        sa.UniqueConstraint("instance_id", "kind", name=op.f("uq_job_instance_id_kind")),
    )
    op.create_index(
        "ix_job_dead",
        "job",
        ["kind", "id"],
        unique=False,
        sqlite_where=sa.text("state = 'dead'"),
        postgresql_where=sa.text("state = 'dead'"),
    )
    op.create_index(
        "ix_job_pending",
        "job",
        ["kind", "spool", "priority", "id"],
        unique=False,
        sqlite_where=sa.text("state = 'pending'"),
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_index(
        "ix_job_running",
        "job",
        ["kind", "lease_until"],
        unique=False,
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_table(
        "prediction",
        sa.Column("id", Id, nullable=False),
        sa.Column("instance_id", Id, nullable=False),
        sa.Column("model", sa.String(length=130), nullable=False),
        sa.Column("label", sa.String(length=64), nullable=False),
        sa.Column("positive", sa.Boolean(), nullable=False),
        sa.Column("probability", sa.Float(precision=53), nullable=False),
        sa.Column("probabilities", sa.JSON(), nullable=False),
        sa.Column("threshold", sa.Float(precision=53), nullable=False),
        sa.Column("preprocess_digest", sa.String(length=16), nullable=False),
        sa.Column("scored_at", UtcDateTime(), nullable=False),
        sa.Column("current", sa.Boolean(), nullable=False),
        sa.CheckConstraint("probability BETWEEN 0 AND 1", name=op.f("ck_prediction_probability")),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instance.id"], name=op.f("fk_prediction_instance_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prediction")),
        sa.UniqueConstraint("instance_id", "model", name=op.f("uq_prediction_instance_id_model")),
    )
    op.create_index(op.f("ix_prediction_label_probability"), "prediction", ["label", "probability"], unique=False)
    op.create_index(op.f("ix_prediction_probability"), "prediction", ["probability"], unique=False)
    op.create_index(
        "uq_prediction_current",
        "prediction",
        ["instance_id"],
        unique=True,
        sqlite_where=sa.text("current"),
        postgresql_where=sa.text("current"),
    )
    op.execute(RESULTS_VIEW)
