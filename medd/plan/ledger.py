"""What the database is asked for each film: a row when it comes in, a claim, a result."""

import itertools
import secrets
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pluggy

from medd import hookspecs, plugins
from medd.classify.classifier import Input, LoadedModel
from medd.classify.stage import ClassifyStage
from medd.queue.base import CLASSIFY
from medd.queue.sql import SqlQueue
from medd.records import MediaType, Status
from medd.store.database import Database
from medd.store.inserts import InstanceInserter
from medd.store.spool import Spool

if TYPE_CHECKING:
    from medd.settings import Settings

#: The root of UIDs made up for examples, pydicom's own.
_ROOT = "1.2.826.0.1.3680043.8.498"


class Ledger:
    """Does for made-up films what the receiver and the worker do in the database, and tells how long that took.

    Args:
        database: Where; its schema is there.
        settings: Of the worker and the spool.
        model: Whose results are committed.
        film: What every film is taken to look like.
    """

    def __init__(self, database: Database, settings: "Settings", model: LoadedModel, film: Input) -> None:
        self.database = database
        self._token, self._numbers = secrets.randbelow(10**9), itertools.count(1)
        # A spool of its own: no job of anybody else is claimed.
        self._spool = secrets.token_hex(16)
        self._inserter = InstanceInserter(database, CLASSIFY, self._spool)
        self._queue = SqlQueue(database, "plan", settings.worker.lease_s, spool=self._spool)
        manager = pluggy.PluginManager(plugins.GROUP)  # without any plugin: none may hear of a finding that is made up
        manager.add_hookspecs(hookspecs)
        self._stage = ClassifyStage(
            model, Spool(settings.home), self._queue, manager, lambda orders: [[film] for _ in orders]
        )

    def insert(self, count: int) -> float:
        """Take films in, in one transaction; returns seconds."""
        rows = [self._row(next(self._numbers)) for _ in range(count)]
        began = time.perf_counter()
        self._inserter.add(rows)
        return time.perf_counter() - began

    def score(self, count: int) -> float:
        """Claim films that were taken in and commit their results; returns seconds, without those of the network."""
        began = time.perf_counter()
        jobs = self._queue.claim(CLASSIFY, count)
        claimed = time.perf_counter()
        commit = self._stage.handle(jobs)
        handled = time.perf_counter()
        commit()
        return claimed - began + time.perf_counter() - handled

    def close(self) -> None:
        """Close the connections."""
        self._inserter.close()
        self.database.close()

    def _row(self, number: int) -> dict[str, object]:
        serial = f"{self._token}.{number}"
        return {
            "sha256": secrets.token_hex(32),
            "size": 8 << 20,
            "media_type": MediaType.DICOM,
            "origin": "dicom://MEDD_PLAN@127.0.0.1",
            "received_at": datetime.now(UTC),
            "status": Status.PENDING,
            "reason": None,
            "detail": None,
            "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.1",
            "sop_instance_uid": f"{_ROOT}.1.{serial}",
            "series_instance_uid": f"{_ROOT}.2.{serial}",
            "study_instance_uid": f"{_ROOT}.3.{serial}",
            "patient_id": f"SYN-{serial}",
            "accession_number": f"A{number}",
            "modality": "DX",
            "manufacturer": "medd",
            "station_name": "PLAN",
            "patient_age": "040Y",
        }
