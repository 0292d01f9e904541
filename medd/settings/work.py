"""What is done with images, by whom, and where it is kept for how long."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from medd.settings.base import Section


class DatabaseSettings(Section):
    """``[database]``: where rows live."""

    #: SQLAlchemy URL; a relative SQLite path is relative to the home folder.
    url: str = "sqlite:///medd.db"


class SpoolSettings(Section):
    """``[spool]``: where the bytes of every instance lie."""

    #: Relative to the home folder, or absolute. Hosts that share it share their work.
    path: Path = Path("spool")
    #: A bucket that hosts share instead, ``s3://bucket/folder``: the bytes are kept there, and `path` is this host's
    #: cache of it. Empty: none.
    bucket: str = Field(default="", pattern=r"^($|[a-z0-9]+://.+)")
    #: Where the bucket is served, ``https://host:port``; empty: by Amazon.
    endpoint: str = Field(default="", pattern=r"^($|https?://.+)")
    #: How much of the bucket this host keeps, MiB.
    cache_mib: int = Field(default=10_240, ge=64)
    #: While less is free on its disk, MiB, images are refused for the time being (0xA700); 0 sets no limit.
    min_free_mib: int = Field(default=512, ge=0)
    #: While more images wait to be scored, further ones are refused for the time being; 0 sets no limit.
    max_waiting: int = Field(default=0, ge=0)


class WorkerSettings(Section):
    """``[worker]``: who scores."""

    #: Worker processes.
    processes: int = Field(default=1, ge=1)
    #: Processes that decode, and threads of the network, of each worker; 0 takes every core.
    threads: int = Field(default=0, ge=0)
    #: Seconds that decoding one image may take; what takes longer twice has failed.
    decode_timeout_s: float = Field(default=60, ge=1, le=86_400)
    #: Memory that decoding one image may take, MiB.
    decode_memory_mib: int = Field(default=4096, ge=512)
    #: Images scored together when that many wait; one alone never waits for more.
    batch_size: int = Field(default=32, ge=1)
    #: Seconds after which the work of a worker that fell silent goes to another.
    lease_s: float = Field(default=60, gt=1, le=300)
    #: Tries before a job is dead.
    max_attempts: int = Field(default=5, ge=1)
    #: Seconds after which a process of the daemon is replaced in which a batch, a plugin's hook or a destination's next
    #: object does not end; what it had in hand is tried again. Well above every time-out and the longest batch.
    stuck_s: float = Field(default=900, ge=10, le=86_400)
    #: Seconds between looks at an empty queue.
    poll_s: float = Field(default=0.2, gt=0, le=86_400)


class ModelSettings(Section):
    """``[model]``: which classifier is used."""

    #: A classifier that a plugin brings; which of its versions is on duty stands in the database.
    classifier: str = "pneumonia"


class RetrainSettings(Section):
    """``[retrain]``: what `medd retrain` learns from."""

    #: The base data, in any form that `medd train` takes; relative to the home folder, or absolute. Empty: none.
    data: str = ""
    #: Images that the candidate's gate must refuse, as `medd train --outliers` takes them. Empty: none.
    outliers: str = ""
    #: Fewer new labels than this are not worth a training.
    min_labels: int = Field(default=20, ge=0)


class RetentionSettings(Section):
    """``[retention]``: how long what is done with is kept; 0 keeps it for ever. See `medd purge`."""

    #: Days after its last image when the images of a study are deleted from the spool. What was said of them stays.
    days: float = Field(default=0, ge=0, le=100_000)
    #: While more lies in the spool, MiB, the images of the oldest studies are deleted, but none of the last day.
    max_spool_mib: int = Field(default=0, ge=0)
    #: Days after its last image when all that is known of a study is deleted: images, results, reports.
    results_days: float = Field(default=0, ge=0, le=100_000)


class LogSettings(Section):
    """``[log]``: what is told of the work."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    #: "text" for people, "json" for log collectors.
    format: Literal["text", "json"] = "text"
