"""The view for people who come with SQL, or pandas."""

from sqlalchemy import JSON, Boolean, Column, Float, MetaData, String, Table

from medd.store.tables.base import Id, UtcDateTime

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
