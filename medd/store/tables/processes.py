"""The processes that work on this database."""

from sqlalchemy import Column, Integer, String, Table

from medd.store.tables.base import UtcDateTime, metadata

#: One row for each process of a daemon, on whichever host; gone when it ends in order.
process = Table(
    "process",
    metadata,
    #: Of the home folder, as it is called in leases: outlives restarts.
    Column("node", String(64), primary_key=True),
    #: "receive", "work", "deliver", or a service of a plugin.
    Column("stage", String(64), primary_key=True),
    #: Which one of several of a stage.
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("version", String(64), nullable=False),
    #: What it works with, such as the model that a worker has loaded.
    Column("doing", String(400), nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    #: Its last sign of life.
    Column("beat_at", UtcDateTime, nullable=False),
)
