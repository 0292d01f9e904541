"""What the hosts of a Ray cluster do: one pool of actors reads and decodes, another has the model loaded.

An actor may be killed at any moment, and Ray does its task again on another host. Nothing is doubled by it: the door
takes the same bytes for the same image, and a result is committed with the end of its job, which only one can show the
token for.
"""

import os
import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medd import pipeline, plugins
from medd.backfill.door import Door, State, Taken, build_intake, in_threads, patiently
from medd.backfill.jobs import hold, live_waits
from medd.backfill.source import Entry, Source
from medd.classify.classifier import LoadedModel, load
from medd.classify.prepare import Order
from medd.classify.stage import ClassifyStage
from medd.errors import ModelUnusable, SettingsError
from medd.imaging.isolated import Isolated
from medd.imaging.preprocess import PreprocessSpec
from medd.queue.sql import SqlQueue
from medd.records import Job, MediaType
from medd.registry.registry import check, find_spec, line_of_duty
from medd.settings import Settings
from medd.store.database import Database
from medd.store.repository import locate
from medd.store.spool import Spool

#: A backfill waits for images that came in live as long as this before each of its batches; then it does one, so that
#: it comes to an end even where live images come without a pause, or nobody scores them.
LIVE_WAIT_S = 30.0
_LOOK_S = 0.5

#: A column of rows, as Ray hands them over.
Batch = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """What every actor is told."""

    settings: Settings
    source: Source
    #: Who holds the jobs, and the token of the run.
    owner: str
    token: str
    #: The id of the spool of the host that began; all others have to mount the same.
    spool: str
    #: The model of the whole run, "name/version", and what it is fed with.
    model: str
    spec: PreprocessSpec


class _Actor:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.database: Database = patiently(lambda: pipeline.open_database(plan.settings))
        self.spool = pipeline.open_spool(plan.settings)
        if self.spool.id != plan.spool:
            raise SettingsError(f"spool.path: {self.spool.root} is not the spool of the host that began the backfill")
        worker = plan.settings.worker
        outbox = pipeline.outbox_of(plan.settings, self.spool)
        self.queue = SqlQueue(self.database, plan.owner, worker.lease_s, worker.max_attempts, plan.spool, outbox)


class Decode(_Actor):
    """Takes files in, and decodes those that are to be scored, in a process of its own that it may lose."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._intake = build_intake(plan.settings, self.database)
        self._door = Door(plan.source, self._intake)
        worker = plan.settings.worker
        target = "medd.classify.prepare:prepare_file"
        self._decoder = Isolated(target, 1, worker.decode_timeout_s, worker.decode_memory_mib)

    def __call__(self, batch: Batch) -> Batch:
        """Rows of `key`, bytes, and `mark` → what became of each, and where it is to be scored, job and input."""
        self._let_live_images_pass()
        rows = zip(batch["key"], batch["mark"], strict=True)
        entries = [Entry(os.fsdecode(key), str(mark)) for key, mark in rows]
        taken = list(in_threads(lambda entry: patiently(lambda: self._door.take(entry)), entries))
        queued = [one.instance_id for one in taken if one.state is State.QUEUED]
        jobs = patiently(lambda: hold(self.queue, self.plan.token, queued)) if queued else []
        prepared = dict(zip((job.instance_id for job in jobs), self._prepare(jobs), strict=True))
        # The same bytes under two names are one job.
        work = {job.instance_id: pickle.dumps((job, prepared[job.instance_id])) for job in jobs}
        return {
            "taken": [pickle.dumps(one) for one in taken],
            "work": [work.pop(one.instance_id, b"") if one.state is State.QUEUED else b"" for one in taken],
        }

    def _prepare(self, jobs: Sequence[Job]) -> list[Any]:
        def find() -> Any:
            with self.database.read() as connection:
                return locate(connection, [job.instance_id for job in jobs])

        where = patiently(find) if jobs else {}
        orders = []
        for job in jobs:
            one = where[job.instance_id]
            media_type = MediaType(one.media_type)
            path = self.spool.path(one.sha256, media_type)
            orders.append(Order(path, one.sha256, media_type, one.patient_age, (self.plan.spec,)))
        return self._decoder.map(orders)

    def _let_live_images_pass(self) -> None:
        until = time.monotonic() + LIVE_WAIT_S
        while time.monotonic() < until and patiently(lambda: live_waits(self.database, self.plan.spool)):
            time.sleep(_LOOK_S)


class Predict(_Actor):
    """Has the model loaded; scores what was decoded, and commits it as a worker does."""

    def __init__(self, plan: Plan, threads: int) -> None:
        super().__init__(plan)
        manager = pipeline.load_plugins(plan.settings)
        model = load_model(plan.settings, self.database, plan.model, threads)
        self._inputs: dict[str, Any] = {}
        # No file is read here: of a spool in a bucket none has to be brought.
        self._stage = ClassifyStage(model, Spool(self.spool.root), self.queue, manager, self._hand_over)

    def __call__(self, batch: Batch) -> Batch:
        """Rows of `Decode` → the same, with the work done."""
        work: list[tuple[Job, Any]] = [pickle.loads(one) for one in batch["work"] if one]
        if work:
            patiently(lambda: self._score(work))
        return {"taken": batch["taken"]}

    def _score(self, work: Sequence[tuple[Job, Any]]) -> None:
        jobs = [job for job, _ in work]
        with self.database.read() as connection:
            where = locate(connection, [job.instance_id for job in jobs])
        self._inputs = {where[job.instance_id].sha256: made for job, made in work if job.instance_id in where}
        self._stage.handle(jobs)()

    def _hand_over(self, orders: Sequence[Order]) -> list[Any]:
        # The stage asks for the inputs of its jobs; they were made on another host.
        return [self._inputs[order.sha256] for order in orders]


def load_model(settings: Settings, database: Database, ref: str, threads: int) -> LoadedModel:
    """The model that a run began with: the one on duty, or one that was since.

    Raises:
        ModelUnusable: It is not here, or broken.
        PluginError: No plugin brings the classifier.
    """
    specs = plugins.classifiers(pipeline.load_plugins(settings))
    for version in line_of_duty(database, find_spec(settings.model.classifier, specs)):
        if version.ref == ref:
            check(version)
            return load(version.path, specs, threads=threads)
    raise ModelUnusable(f"{ref}: the model that this backfill began with is not known any more; start it again")


def read_taken(batch: Batch) -> list[Taken]:
    """What became of files, from the rows that `Predict` gives back."""
    return [pickle.loads(one) for one in batch["taken"]]
