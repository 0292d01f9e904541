"""The closed loop: annotations, candidates and what was done to models; what drift and flags ask for."""

import sqlalchemy as sa
from alembic import op

from medd.store.tables import Id, UtcDateTime

revision = "0002"
down_revision = "0001"

RESULTS = """
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
_ROLE = "role IN ('champion', 'candidate', 'retired')"


def upgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    if sqlite:  # it refuses to rename a table while a view looks at any
        op.execute("DROP VIEW results")
    op.add_column("instance", sa.Column("manufacturer", sa.Text(), server_default="", nullable=False))
    op.add_column("instance", sa.Column("station_name", sa.Text(), server_default="", nullable=False))
    op.add_column("instance", sa.Column("patient_age", sa.String(length=4), server_default="", nullable=False))
    op.add_column("instance", sa.Column("refused_by", sa.String(length=130), nullable=True))
    op.add_column("prediction", sa.Column("flags", sa.JSON(), server_default="[]", nullable=False))
    op.add_column("prediction", sa.Column("input_mean", sa.Float(precision=53), nullable=True))
    op.add_column("prediction", sa.Column("input_std", sa.Float(precision=53), nullable=True))
    # In SQL, as SQLite takes a CHECK only together with its column, and Alembic gives it apart.
    op.execute(
        f"ALTER TABLE prediction ADD COLUMN shadow BOOLEAN DEFAULT {0 if sqlite else 'false'} NOT NULL"
        " CONSTRAINT ck_prediction_shadow CHECK (NOT (shadow AND current))"
    )
    _widen_role(sqlite)
    op.create_index(
        "uq_model_version_candidate",
        "model_version",
        ["classifier"],
        unique=True,
        sqlite_where=sa.text("role = 'candidate'"),
        postgresql_where=sa.text("role = 'candidate'"),
    )
    op.create_table(
        "model_event",
        sa.Column("id", Id, nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("classifier", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=130), nullable=False),
        sa.Column("what", sa.String(length=16), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.CheckConstraint(
            "what IN ('registered', 'set_candidate', 'withdrawn', 'promoted', 'rolled_back', 'refused', 'set_aside')",
            name=op.f("ck_model_event_what"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_event")),
    )
    op.create_index(op.f("ix_model_event_classifier_id"), "model_event", ["classifier", "id"], unique=False)
    op.create_table(
        "annotation",
        sa.Column("id", Id, nullable=False),
        sa.Column("instance_id", Id, nullable=False),
        sa.Column("label", sa.String(length=64), nullable=False),
        sa.Column("reader", sa.String(length=64), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("comment", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instance.id"], name=op.f("fk_annotation_instance_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_annotation")),
    )
    op.create_index(
        op.f("ix_annotation_instance_id_reader_id"), "annotation", ["instance_id", "reader", "id"], unique=False
    )
    op.create_table(
        "attachment",
        sa.Column("instance_id", Id, autoincrement=False, nullable=False),
        sa.Column("model", sa.String(length=130), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("media_type", sa.String(length=64), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["instance_id", "model"],
            ["prediction.instance_id", "prediction.model"],
            name=op.f("fk_attachment_prediction"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("instance_id", "model", "name", name=op.f("pk_attachment")),
    )
    # Replaced where the database can: the rights that people were given on the view stay.
    op.execute(f"CREATE {'' if sqlite else 'OR REPLACE '}VIEW results AS{RESULTS}")


def _widen_role(sqlite: bool) -> None:
    if not sqlite:
        op.drop_constraint("ck_model_version_role", "model_version", type_="check")
        op.create_check_constraint(op.f("ck_model_version_role"), "model_version", _ROLE)
        return
    op.create_table(
        "model_version_wider",
        sa.Column("id", Id, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("classifier", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint(_ROLE, name=op.f("ck_model_version_role")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_version")),
        sa.UniqueConstraint("name", "version", name=op.f("uq_model_version_name_version")),
    )
    columns = "id, name, version, classifier, digest, path, role, created_at"
    op.execute(f"INSERT INTO model_version_wider ({columns}) SELECT {columns} FROM model_version")
    op.drop_table("model_version")
    # Else the rename reads every view there is, and people's own ones look at `results`, which is away just now.
    op.execute("PRAGMA legacy_alter_table = ON")
    op.rename_table("model_version_wider", "model_version")
    op.execute("PRAGMA legacy_alter_table = OFF")
    op.create_index(
        "uq_model_version_champion",
        "model_version",
        ["classifier"],
        unique=True,
        sqlite_where=sa.text("role = 'champion'"),
    )
