"""Back into the PACS: which labels are findings, the outbox, reports, what was acknowledged and what was fetched."""

import sqlalchemy as sa
from alembic import op

from medd.store.tables import Id, UtcDateTime

revision = "0003"
down_revision = "0002"

_TABLES = ("commitment", "pulled", "sent", "report", "delivery")


def _where(condition: str) -> dict[str, sa.TextClause]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def upgrade() -> None:
    op.add_column("prediction", sa.Column("findings", sa.JSON(), server_default="[]", nullable=False))
    op.create_table(
        "commitment",
        sa.Column("id", Id, nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("direction", sa.String(length=8), nullable=False),
        sa.Column("peer", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("available_at", UtcDateTime(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("objects", sa.JSON(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint("direction IN ('asked', 'offered')", name=op.f("ck_commitment_direction")),
        sa.CheckConstraint("state IN ('waiting', 'done', 'dead')", name=op.f("ck_commitment_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_commitment")),
        sa.UniqueConstraint("transaction_uid", name=op.f("uq_commitment_transaction_uid")),
    )
    op.create_index("ix_commitment_waiting", "commitment", ["available_at"], **_where("state = 'waiting'"))
    op.create_table(
        "delivery",
        sa.Column("id", Id, nullable=False),
        sa.Column("study", sa.String(length=64), nullable=False),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("spool", sa.String(length=32), server_default="", nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("available_at", UtcDateTime(), nullable=False),
        sa.Column("due_by", UtcDateTime(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failing_since", UtcDateTime(), nullable=True),
        sa.Column("lease_owner", sa.String(length=80), nullable=True),
        sa.Column("lease_token", sa.String(length=32), nullable=True),
        sa.Column("lease_until", UtcDateTime(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint("(state = 'running') = (lease_token IS NOT NULL)", name=op.f("ck_delivery_lease")),
        sa.CheckConstraint("state IN ('pending', 'running', 'done', 'dead')", name=op.f("ck_delivery_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery")),
        sa.UniqueConstraint("study", "destination", name=op.f("uq_delivery_study_destination")),
    )
    op.create_index("ix_delivery_dead", "delivery", ["id"], **_where("state = 'dead'"))
    pending = ["destination", "spool", "available_at"]
    op.create_index("ix_delivery_pending", "delivery", pending, **_where("state = 'pending'"))
    op.create_index("ix_delivery_running", "delivery", ["lease_until"], **_where("state = 'running'"))
    op.create_table(
        "pulled",
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("modalities", sa.Text(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("listed", sa.Integer(), nullable=False),
        sa.Column("complete", sa.Boolean(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("source", "study_instance_uid", "modalities", name=op.f("pk_pulled")),
    )
    op.create_table(
        "report",
        sa.Column("study", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("study", "number", name=op.f("pk_report")),
        sa.UniqueConstraint("sop_instance_uid", name=op.f("uq_report_sop_instance_uid")),
    )
    op.create_table(
        "sent",
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("object", sa.String(length=128), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), server_default="", nullable=False),
        sa.Column("study", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("committed", sa.Boolean(), nullable=True),
        sa.PrimaryKeyConstraint("destination", "object", name=op.f("pk_sent")),
    )
    op.create_index(op.f("ix_sent_study"), "sent", ["study"])


def downgrade() -> None:
    for table in _TABLES:
        op.drop_table(table)
    op.drop_column("prediction", "findings")
