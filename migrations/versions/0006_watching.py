"""For those who watch: the processes, and the indices of what happened when."""

import sqlalchemy as sa
from alembic import op

from medd.store.tables import UtcDateTime

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "process",
        sa.Column("node", sa.String(length=64), nullable=False),
        sa.Column("stage", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("doing", sa.String(length=400), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("beat_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("node", "stage", "number", name=op.f("pk_process")),
    )
    op.create_index(op.f("ix_prediction_model_shadow_scored_at"), "prediction", ["model", "shadow", "scored_at"])
    op.create_index(op.f("ix_sent_destination_at"), "sent", ["destination", "at"])
    op.create_index(op.f("ix_annotation_at"), "annotation", ["at"])


def downgrade() -> None:
    op.drop_index(op.f("ix_annotation_at"), "annotation")
    op.drop_index(op.f("ix_sent_destination_at"), "sent")
    op.drop_index(op.f("ix_prediction_model_shadow_scored_at"), "prediction")
    op.drop_table("process")
