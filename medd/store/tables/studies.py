"""The studies, as the worklist shows them: a row for each, kept in the transaction of whatever changes it."""

from sqlalchemy import Boolean, Column, Computed, Float, Index, Integer, String, Table, Text, text

from medd.store.tables.base import Id, UtcDateTime, metadata

#: Sorted by code points on both databases: what begins with some letters is then a range of the index.
_Prefixed = Text().with_variant(Text(collation="C"), "postgresql")

_UNREAD = text("read_at IS NULL")
_READ = text("read_at IS NOT NULL")

#: What follows from `instance` and the current `prediction`, and who has read it. `medd.store.studies` keeps it.
study = Table(
    "study",
    metadata,
    #: Study Instance UID, or the SHA-256 of an image file, which is a study of its own.
    Column("study", String(64), primary_key=True),
    Column("study_instance_uid", String(64), nullable=False),
    #: Of the image that decides, as all that describes a study here.
    Column("patient_id", _Prefixed, nullable=False),
    Column("accession_number", _Prefixed, nullable=False),
    Column("origin", Text, nullable=False),
    #: The first image, and the last one.
    Column("received_at", UtcDateTime, nullable=False),
    Column("last_received_at", UtcDateTime, nullable=False),
    #: The first image that was not there when the study was last read.
    Column("waiting_since", UtcDateTime, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    #: How many images there are, and how many in each status.
    Column("images", Integer, Computed("pending + scored + failed + not_assessed", persisted=True)),
    Column("pending", Integer, nullable=False),
    Column("scored", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("not_assessed", Integer, nullable=False),
    Column(
        "status",
        String(16),
        Computed(
            "CASE WHEN pending > 0 THEN 'pending' WHEN failed > 0 THEN 'failed'"
            " WHEN scored > 0 THEN 'scored' ELSE 'not_assessed' END",
            persisted=True,
        ),
    ),
    #: 0 a finding, 1 not judged completely, 2 below the threshold.
    Column(
        "band",
        Integer,
        Computed(
            "CASE WHEN positive THEN 0 WHEN pending > 0 OR failed > 0 OR scored = 0 THEN 1 ELSE 2 END", persisted=True
        ),
    ),
    #: The order within a band, lowest first: the surest, and last what has no probability.
    Column("rank", Float(53), Computed("coalesce(-probability, 1)", persisted=True)),
    #: The image that decides: a finding before anything else, then the highest probability, then what came first.
    #: No foreign key: it would be looked up for every image that comes in.
    Column("instance_id", Id, nullable=False),
    Column("label", String(64)),
    Column("positive", Boolean),
    Column("probability", Float(53)),
    Column("threshold", Float(53)),
    Column("model", String(130)),
    #: Why the status is "failed" or "not_assessed".
    Column("reason", String(32)),
    #: NULL while nobody has read it; a late image makes it so again.
    Column("read_at", UtcDateTime),
    Column("read_by", String(64)),
    # The order of the worklist; what it is filtered by stands in it too, so that no row is fetched in vain.
    Index(
        "ix_study_unread",
        "band",
        "rank",
        "waiting_since",
        "instance_id",
        "status",
        "last_received_at",
        sqlite_where=_UNREAD,
        postgresql_where=_UNREAD,
    ),
    Index(
        "ix_study_waiting",
        "waiting_since",
        "instance_id",
        "status",
        "last_received_at",
        sqlite_where=_UNREAD,
        postgresql_where=_UNREAD,
    ),
    Index("ix_study_read", "read_at", sqlite_where=_READ, postgresql_where=_READ),
    Index(None, "patient_id"),
    Index(None, "accession_number"),
    Index(None, "changed_at"),
)
