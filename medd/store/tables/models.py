"""The models, and what was done to them."""

from sqlalchemy import JSON, CheckConstraint, Column, Index, String, Table, Text, UniqueConstraint, text

from medd.records import ModelChange, Role
from medd.store.tables.base import Id, UtcDateTime, metadata, one_of

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
    CheckConstraint(one_of("role", Role), name="role"),
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
    CheckConstraint(one_of("what", ModelChange), name="what"),
    Index(None, "classifier", "id"),
)
