"""The worklist: a row for each study, made here of what is there; annotated studies are read."""

import sqlalchemy as sa
from alembic import op

from medd.store.tables import Id, UtcDateTime

revision = "0004"
down_revision = "0003"

_PREFIXED = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_STATUS = (
    "CASE WHEN pending > 0 THEN 'pending' WHEN failed > 0 THEN 'failed'"
    " WHEN scored > 0 THEN 'scored' ELSE 'not_assessed' END"
)
_BAND = "CASE WHEN positive THEN 0 WHEN pending > 0 OR failed > 0 OR scored = 0 THEN 1 ELSE 2 END"

_KEY = "CASE WHEN i.study_instance_uid = '' THEN i.sha256 ELSE i.study_instance_uid END"
_FILL = f"""
WITH image AS (
    SELECT i.id, {_KEY} AS study, i.study_instance_uid, i.patient_id, i.accession_number, i.origin, i.received_at,
           i.status, i.reason, p.label, p.positive, p.probability, p.threshold, p.model
    FROM instance AS i LEFT JOIN prediction AS p ON p.instance_id = i.id AND p.current
), ranked AS (
    SELECT image.*,
           row_number() OVER (
               PARTITION BY study ORDER BY CASE WHEN positive THEN 0 ELSE 1 END, probability DESC NULLS LAST, id
           ) AS nth,
           max(CASE status WHEN 'failed' THEN reason END) OVER (PARTITION BY study) AS reason_of_failed,
           sum(CASE status WHEN 'pending' THEN 1 ELSE 0 END) OVER (PARTITION BY study) AS pending,
           sum(CASE status WHEN 'scored' THEN 1 ELSE 0 END) OVER (PARTITION BY study) AS scored,
           sum(CASE status WHEN 'failed' THEN 1 ELSE 0 END) OVER (PARTITION BY study) AS failed,
           sum(CASE status WHEN 'not_assessed' THEN 1 ELSE 0 END) OVER (PARTITION BY study) AS not_assessed,
           min(received_at) OVER (PARTITION BY study) AS first_received_at,
           max(received_at) OVER (PARTITION BY study) AS last_received_at
    FROM image
)
INSERT INTO study (study, study_instance_uid, patient_id, accession_number, origin, received_at, last_received_at,
                   waiting_since, changed_at, pending, scored, failed, not_assessed, instance_id, label, positive,
                   probability, threshold, model, reason)
SELECT study, study_instance_uid, patient_id, accession_number, origin, first_received_at, last_received_at,
       first_received_at, last_received_at, pending, scored, failed, not_assessed, id, label, positive,
       probability, threshold, model, CASE WHEN pending > 0 THEN NULL ELSE coalesce(reason_of_failed, reason) END
FROM ranked WHERE nth = 1
"""
# The first word that a reader said once all of the study's images were there.
_READ = f"""
UPDATE study SET read_at = word.at, read_by = word.reader
FROM (
    SELECT {_KEY} AS study, a.at, a.reader, s.last_received_at,
           row_number() OVER (PARTITION BY {_KEY} ORDER BY a.at, a.id) AS nth
    FROM annotation AS a JOIN instance AS i ON i.id = a.instance_id JOIN study AS s ON s.study = {_KEY}
    WHERE a.at >= s.last_received_at
) AS word
WHERE word.study = study.study AND word.nth = 1
"""


def _where(condition: str) -> dict[str, sa.TextClause]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def upgrade() -> None:
    op.create_table(
        "study",
        sa.Column("study", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("patient_id", _PREFIXED, nullable=False),
        sa.Column("accession_number", _PREFIXED, nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("received_at", UtcDateTime(), nullable=False),
        sa.Column("last_received_at", UtcDateTime(), nullable=False),
        sa.Column("waiting_since", UtcDateTime(), nullable=False),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.Column("images", sa.Integer(), sa.Computed("pending + scored + failed + not_assessed", persisted=True)),
        sa.Column("pending", sa.Integer(), nullable=False),
        sa.Column("scored", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("not_assessed", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=16), sa.Computed(_STATUS, persisted=True)),
        sa.Column("band", sa.Integer(), sa.Computed(_BAND, persisted=True)),
        sa.Column("rank", sa.Float(precision=53), sa.Computed("coalesce(-probability, 1)", persisted=True)),
        sa.Column("instance_id", Id, nullable=False),
        sa.Column("label", sa.String(length=64)),
        sa.Column("positive", sa.Boolean()),
        sa.Column("probability", sa.Float(precision=53)),
        sa.Column("threshold", sa.Float(precision=53)),
        sa.Column("model", sa.String(length=130)),
        sa.Column("reason", sa.String(length=32)),
        sa.Column("read_at", UtcDateTime()),
        sa.Column("read_by", sa.String(length=64)),
        sa.PrimaryKeyConstraint("study", name=op.f("pk_study")),
    )
    op.execute(_FILL)
    op.execute(_READ)
    order = ["waiting_since", "instance_id", "status", "last_received_at"]
    op.create_index("ix_study_unread", "study", ["band", "rank", *order], **_where("read_at IS NULL"))
    op.create_index("ix_study_waiting", "study", order, **_where("read_at IS NULL"))
    op.create_index("ix_study_read", "study", ["read_at"], **_where("read_at IS NOT NULL"))
    for column in ("patient_id", "accession_number", "changed_at"):
        op.create_index(op.f(f"ix_study_{column}"), "study", [column])


def downgrade() -> None:
    op.drop_table("study")
