"""Retention: images whose bytes were taken from the spool."""

import sqlalchemy as sa
from alembic import op

from medd.store.tables import Id, UtcDateTime

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "purged",
        sa.Column("instance_id", Id, autoincrement=False, nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("spool", sa.String(length=32), nullable=False),
        sa.Column("gone", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instance.id"], name=op.f("fk_purged_instance_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("instance_id", name=op.f("pk_purged")),
    )
    going = sa.text("NOT gone")
    op.create_index("ix_purged_going", "purged", ["spool"], sqlite_where=going, postgresql_where=going)


def downgrade() -> None:
    op.drop_table("purged")
