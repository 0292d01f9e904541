"""What the worker does with its jobs: decode → preprocess → predict → record. One bad image fails alone."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pluggy

from medd import plugins, stuck
from medd.classify.classifier import Input, LoadedModel
from medd.classify.duty import Duty
from medd.classify.prepare import Order
from medd.errors import Casualty, InputError, ModelUnusable, TransientError
from medd.imaging.preprocess import PreprocessSpec
from medd.queue.base import RESCORE_PRIORITY, JobState
from medd.queue.sql import SqlQueue
from medd.records import Job, MediaType, Prediction, Reason
from medd.store.repository import Location, locate, record_predictions, record_shadow, set_not_assessed
from medd.store.spool import Spool
from medd.store.tally import refresh

log = logging.getLogger(__name__)

#: What one image became on its way: the network's input, or why there is none.
Prepared = Input | InputError | TransientError
#: What one job became: a prediction, a refusal for good, or a failure that may pass.
Outcome = Prediction | InputError | TransientError


class ClassifyStage:
    """Scores instances.

    Args:
        model: The model on duty.
        spool: Where the bytes lie.
        queue: Where the jobs come from and are acknowledged.
        manager: Told of every prediction.
        decode: Maps orders to what `medd.classify.prepare.prepare_file` makes of each, or the error in its place.
        duty: Asked before each batch which model is on duty by now, and whether one is in its shadow.
    """

    def __init__(
        self,
        model: LoadedModel,
        spool: Spool,
        queue: SqlQueue,
        manager: pluggy.PluginManager,
        decode: Callable[[Sequence[Order]], list[Any]],
        duty: Duty | None = None,
    ) -> None:
        self._model, self._spool, self._queue, self._manager = model, spool, queue, manager
        self._decode, self._duty = decode, duty

    def handle(self, jobs: Sequence[Job]) -> Callable[[], None]:
        """Score the jobs' images; returns the function that commits the results.

        Raises:
            TransientError: The database or the bucket is away.
        """
        shadow = self._take_models()
        with self._queue.database.read() as connection:
            found = locate(connection, [job.instance_id for job in jobs])
        # The same decoded image for both models; what the champion says is committed before the other is asked.
        specs = [model.bundle.preprocess for model in (self._model, shadow) if model is not None]
        both = self._prepare([found.get(job.instance_id) for job in jobs], specs)
        outcomes = self._predict(self._model, jobs, [one[0] for one in both])

        ref = self._model.bundle.ref

        def commit() -> None:
            self._commit(ref, jobs, outcomes)
            if shadow is not None:
                self._score_shadow(shadow, jobs, both)

        return commit

    def _take_models(self) -> LoadedModel | None:
        """Take over who is on duty by now; returns the candidate, where there is one."""
        if self._duty is None:
            return None
        self._duty.look()
        self._model = self._duty.champion
        return self._duty.candidate

    def _score_shadow(self, candidate: LoadedModel, jobs: Sequence[Job], both: Sequence[list[Prepared]]) -> None:
        """Record what the candidate says of the images; whatever goes wrong with it goes no further."""
        assert self._duty is not None
        # What cannot be read at all is no fault of the candidate.
        places = [place for place, (first, _) in enumerate(both) if isinstance(first, Input)]
        try:
            with self._duty.asking_candidate(), stuck.bounded("the candidate"):
                outcomes = self._predict(candidate, [jobs[one] for one in places], [both[one][1] for one in places])
            with self._queue.database.write() as connection:
                record_shadow(connection, [one for one in outcomes if isinstance(one, Prediction)])
        except TransientError as error:
            log.warning("a shadow is lost: %s", error, extra={"event": "worker.waiting"})
        except Exception as error:  # a candidate is on trial: it may fail in any way, and the champion's work stands
            self._duty.candidate_failed(error)
        else:
            failures = [one for one in outcomes if isinstance(one, TransientError)]
            if failures:
                self._duty.candidate_failed(failures[0])
            else:
                self._duty.candidate_worked()

    def _prepare(self, places: Sequence[Location | None], specs: Sequence[PreprocessSpec]) -> list[list[Prepared]]:
        """Each image as the input of each of `specs`, decoded once."""
        orders = []
        for where in places:
            if where is not None:
                media_type = MediaType(where.media_type)
                path = self._spool.path(where.sha256, media_type)
                orders.append(Order(path, where.sha256, media_type, where.patient_age, tuple(specs)))
        made = iter(self._decode_brought(orders))
        gone: Prepared = TransientError("the instance's row is gone")
        answers: list[Any] = [gone if where is None else next(made) for where in places]
        return [one if isinstance(one, list) else [one] * len(specs) for one in answers]

    def _decode_brought(self, orders: Sequence[Order]) -> Iterator[Any]:
        failures = self._spool.bring_all([order.path for order in orders])
        if any(failure is not None and not isinstance(failure, FileNotFoundError) for failure in failures):
            try:
                self._spool.check_bucket()
            except OSError as error:
                raise TransientError(f"spool: {error.strerror}") from error
            failures = self._spool.bring_all([order.path for order in orders])  # it may have come back just now
        made = iter(self._decode([order for order, failure in zip(orders, failures, strict=True) if failure is None]))
        for order, failure in zip(orders, failures, strict=True):
            one = next(made) if failure is None else TransientError(f"spool: {order.path.name}: {failure.strerror}")
            if isinstance(one, TransientError):
                self._spool.forget(order.path)
            yield one

    def _predict(self, model: LoadedModel, jobs: Sequence[Job], prepared: Sequence[Prepared]) -> list[Outcome]:
        outcomes: list[Outcome] = [one if isinstance(one, Exception) else TransientError("") for one in prepared]
        good = [place for place, one in enumerate(prepared) if isinstance(one, Input)]
        if not good:
            return outcomes
        inputs = [one for one in prepared if isinstance(one, Input)]
        judged = self._judge(model, inputs, [jobs[place].instance_id for place in good])
        for place, one, outcome in zip(good, inputs, judged, strict=True):
            if isinstance(outcome, Prediction) and model is self._model:  # nobody is shown a shadow
                outcome = plugins.explain(self._manager, one.pixels, outcome, model.classifier)
            outcomes[place] = outcome
        return outcomes

    def _judge(self, model: LoadedModel, inputs: Sequence[Input], instance_ids: Sequence[int]) -> Sequence[Outcome]:
        """What the model says of each image; where it fails on the batch, each image is tried alone."""
        try:
            return model.judge(inputs, instance_ids)
        except ModelUnusable as error:
            if len(inputs) > 1:
                alone = range(len(inputs))
                return [self._judge(model, inputs[n : n + 1], instance_ids[n : n + 1])[0] for n in alone]
            return [TransientError(str(error))]

    def _commit(self, ref: str, jobs: Sequence[Job], outcomes: Sequence[Outcome]) -> None:
        settled: list[tuple[Job, Prediction | InputError]] = [
            (job, outcome)
            for job, outcome in zip(jobs, outcomes, strict=True)
            if not isinstance(outcome, TransientError)
        ]
        recorded: list[Prediction] = []
        if settled:
            with self._queue.database.write() as connection:
                ours = self._queue.finish(connection, [job for job, _ in settled])
                settled = [(job, outcome) for job, outcome in settled if job.id in ours]
                recorded = [outcome for _, outcome in settled if isinstance(outcome, Prediction)]
                record_predictions(connection, recorded)
                for job, outcome in settled:
                    if isinstance(outcome, InputError):
                        # Every other refusal comes from decoding, before a model is asked.
                        refused_by = ref if outcome.reason is Reason.UNFAMILIAR else None
                        set_not_assessed(connection, job.instance_id, outcome.reason, str(outcome), refused_by)
                refresh(connection, [job.instance_id for job, _ in settled])
                # In the same transaction: what is scored will be told. History that is scored again is not: years of
                # it would flood whoever reads the PACS.
                # What was claimed as history may have come in live meanwhile.
                live = [job.instance_id for job, _ in settled if ours[job.id] < RESCORE_PRIORITY]
                self._queue.outbox.open(connection, live)
        for job, outcome in settled:
            fields = {"event": "instance.scored", "instance": job.instance_id, "job": job.id}
            if isinstance(outcome, InputError):
                fields |= {"event": "instance.not_assessed", "reason": outcome.reason}
                log.info("not assessed: %s", outcome, extra=fields)
            else:
                log.info("scored", extra=fields | {"model": outcome.model})
        for prediction in recorded:
            plugins.tell(self._manager, "prediction_recorded", prediction=prediction)
        for job, result in zip(jobs, outcomes, strict=True):
            if isinstance(result, TransientError):
                self._retry(job, result)

    def doing(self) -> str:
        """The model on duty, and the candidate in its shadow: "name/version" or "name/version, name/version"."""
        candidate = self._duty.candidate if self._duty is not None else None
        return ", ".join(model.bundle.ref for model in (self._model, candidate) if model is not None)

    def bury(self, instance_ids: Sequence[int]) -> None:
        """Tell of jobs that were given up because whoever worked on them died."""
        for instance_id in instance_ids:
            self._tell_dead(instance_id, "its worker died each time")

    def _tell_dead(self, instance_id: int, reason: str) -> None:
        log.error("given up: %s", reason, extra={"event": "job.dead", "instance": instance_id})
        plugins.tell(self._manager, "job_buried", instance_id=instance_id, reason=reason)

    def _retry(self, job: Job, error: TransientError) -> None:
        # What ended its decoder twice will do so again, and whoever waits for it waits longer each time.
        state = self._queue.retry(job, str(error), last=isinstance(error, Casualty) and job.attempts > 1)
        fields = {"event": "job.retry", "instance": job.instance_id, "job": job.id}
        if state is JobState.DEAD:
            self._tell_dead(job.instance_id, str(error))
        else:
            log.warning("will be tried again: %s", error, extra=fields)
