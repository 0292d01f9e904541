"""Figures for Prometheus: ``/metrics``. No patient, no UID, no name of a person is ever in them."""

import hmac
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from medd import __version__
from medd.errors import MeddError, ModelUnusable, TransientError
from medd.records import Role
from medd.registry import bundle as bundles
from medd.store.activity import Latency
from medd.store.agreement import find_words
from medd.store.database import SCHEMA
from medd_web.auth import identify
from medd_web.context import Context, get_context
from medd_web.watch import Remembered, Watch, get_watch

router = APIRouter()

#: Days over which readers' agreement and drift are measured.
AGREEMENT_DAYS, DRIFT_DAYS = 30, 7
_PERCENTILES = (("50", "p50"), ("95", "p95"), ("99", "p99"))


class Collector:
    """Asks the database when Prometheus asks us; of what costs more, what was found a while ago is told again."""

    def __init__(self, context: Context, watch: Watch) -> None:
        self._context, self._watch = context, watch
        self._agreement = Remembered(self._ask_agreement, 300.0)

    def describe(self) -> list[Metric]:
        """Nothing: without it, registering would ask the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every figure; those that need a database that is away are left out, and `medd_database_up` is 0."""
        started = time.perf_counter()
        yield _gauge("medd_build_info", "What runs here.", [({"version": __version__, "schema": SCHEMA}, 1)])
        parts: tuple[Callable[[], Iterator[Metric]], ...] = (self._now, self._counts, self._models)
        found, up = [], 1
        for part in parts:
            try:
                found += list(part())
            except TransientError:
                up = 0
            except MeddError:  # a model's bundle cannot be read: its figures are missing, and the pages say why
                continue
        yield _gauge("medd_database_up", "Whether the database answers.", [({}, up)])
        yield from found
        yield from self._disks()
        yield _gauge("medd_collect_seconds", "How long these figures took.", [({}, time.perf_counter() - started)])

    def _now(self) -> Iterator[Metric]:
        now = self._watch.now.get()
        queue = now.queue
        states = {"pending": queue.pending, "rescore": queue.again, "running": queue.running, "dead": queue.dead}
        yield _gauge("medd_queue_jobs", "Images to be scored, by where they stand.", _by("state", states))
        yield _gauge("medd_queue_oldest_seconds", "How long the first image has waited.", [({}, queue.oldest_s)])
        deliveries: list[tuple[dict[str, str], float]] = []
        overdue, last = [], []
        for one in now.outgoing:
            for state in ("pending", "failing", "running", "dead"):
                deliveries.append(({"destination": one.name, "state": state}, getattr(one, state)))
            overdue.append(({"destination": one.name}, one.overdue_s))
            if one.last_sent_at:
                last.append(({"destination": one.name}, one.last_sent_at.timestamp()))
        yield _gauge("medd_deliveries", "Studies to be delivered; failing ones are pending as well.", deliveries)
        yield _gauge("medd_delivery_overdue_seconds", "How long the first study is overdue.", overdue)
        yield _gauge("medd_delivery_last_timestamp_seconds", "When a destination last acknowledged.", last)
        latencies = [*_percentiles("scored", now.scoring), *_percentiles("delivered", now.delivery)]
        yield _gauge("medd_latency_seconds", "From received to scored and to delivered, in the last hour.", latencies)
        alive = dict.fromkeys(("receive", "work", "deliver", *(one.stage for one in now.processes)), 0)
        for one_process in now.processes:
            alive[one_process.stage] += one_process.is_alive
        yield _gauge("medd_processes", "Processes that give signs of life.", _by("stage", alive))
        silent = [
            ({"stage": one.stage, "node": one.node, "number": str(one.number)}, one.silent_s) for one in now.processes
        ]
        yield _gauge("medd_process_silent_seconds", "Since a process's last sign of life.", silent)

    def _counts(self) -> Iterator[Metric]:
        counts = self._watch.counts.get()
        yield _counter("medd_images_received_total", "Images received.", _those(counts, "received"))
        finished = _those(counts, "finished", "status", "reason")
        yield _counter("medd_images_finished_total", "Images received, by what became of them, and why.", finished)
        used = [model for model in self._watch.models.get() if model.role is not Role.RETIRED]
        none: dict[tuple[str, ...], int] = {("delivered", one): 0 for one in self._watch.destinations}
        none |= {("predicted", model.ref, str(model.role is Role.CANDIDATE).lower()): 0 for model in used}
        predicted = _those(none | counts, "predicted", "model", "shadow")
        yield _counter("medd_predictions_total", "Predictions made.", predicted)
        delivered = _those(none | counts, "delivered", "destination")
        yield _counter("medd_delivered_objects_total", "Objects that destinations acknowledged.", delivered)
        yield _counter("medd_annotations_total", "What readers said.", _those(counts, "said"))

    def _models(self) -> Iterator[Metric]:
        used = [model for model in self._watch.models.get() if model.role is not Role.RETIRED]
        told = [({"classifier": one.classifier, "model": one.ref, "role": str(one.role)}, 1) for one in used]
        yield _gauge("medd_model_info", "Which models are used, and for what.", told)
        shares, counts, devices = [], [], []
        for ref, (agreed, said) in self._agreement.get().items():
            counts.append(({"model": ref}, said))
            if said:
                shares.append(({"model": ref}, agreed / said))
        yield _gauge("medd_reader_agreement_ratio", "Share of readers' words of 30 days that say the same.", shares)
        yield _gauge("medd_reader_words", "Readers' words of 30 days.", counts)
        for model in used:
            if model.role is Role.CHAMPION and model.classifier == self._context.settings.model.classifier:
                rows = [row for row in self._watch.drift(model, DRIFT_DAYS) if row["day"] == "all"]
                marked = sum(bool(row["marked"]) for row in rows)
                devices = [({"state": "marked"}, marked), ({"state": "steady"}, len(rows) - marked)]
        yield _gauge("medd_drift_devices", "Devices of the last 7 days, as `medd drift` marks them.", devices)

    def _ask_agreement(self) -> dict[str, tuple[int, int]]:
        since = datetime.now(UTC) - timedelta(days=AGREEMENT_DAYS)
        found = {}
        for model in self._watch.models.get():
            if model.role is Role.RETIRED:
                continue
            try:
                bundle = bundles.read(model.path, verify=False)
            except ModelUnusable:
                continue
            with self._context.database.read() as connection:
                words = find_words(connection, model.ref, bundle.labels, bundle.positive_labels, since)
            found[model.ref] = sum(one.agreed for one in words), sum(one.n for one in words)
        return found

    def _disks(self) -> Iterator[Metric]:
        try:
            disks = self._watch.disks()
        except OSError:
            return
        free, total = {one.name: one.free for one in disks}, {one.name: one.total for one in disks}
        yield _gauge("medd_disk_free_bytes", "Room that is left.", _by("volume", free))
        yield _gauge("medd_disk_size_bytes", "Room that there is.", _by("volume", total))


Samples = Sequence[tuple[dict[str, str], float]]


def _those(counts: Mapping[tuple[str, ...], int], kind: str, *labels: str) -> Samples:
    """The counts of a kind; their keys go on with the values of these labels."""
    return [(dict(zip(labels, key[1:], strict=True)), count) for key, count in counts.items() if key[0] == kind]


def _by(label: str, values: Mapping[str, float]) -> Samples:
    return [({label: name}, value) for name, value in values.items()]


def _percentiles(step: str, measured: Latency | None) -> Samples:
    if measured is None:
        return []
    return [({"step": step, "percentile": name}, getattr(measured, key)) for name, key in _PERCENTILES]


def _gauge(name: str, says: str, samples: Samples) -> Metric:
    return _fill(GaugeMetricFamily(name, says, labels=list(samples[0][0]) if samples else []), samples)


def _counter(name: str, says: str, samples: Samples) -> Metric:
    return _fill(CounterMetricFamily(name, says, labels=list(samples[0][0]) if samples else []), samples)


def _fill(family: Any, samples: Samples) -> Metric:
    for labels, value in samples:
        family.add_metric(list(labels.values()), value)
    metric: Metric = family
    return metric


def _may(request: Request, context: Annotated[Context, Depends(get_context)]) -> None:
    """Whoever may see the pages, and who shows the token of ``web.metrics_token_file``.

    Prometheus needs no right to see studies, and gets none by that token.
    """
    if _has_token(request, context) or identify(request) is not None:  # the first needs no database
        return
    raise HTTPException(401, "a token is needed", {"WWW-Authenticate": "Bearer"})


def _has_token(request: Request, context: Context) -> bool:
    named = context.settings.web.metrics_token_file
    kind, _, shown = request.headers.get("authorization", "").partition(" ")
    if not named or kind.lower() != "bearer":
        return False
    file = context.settings.under_home(Path(named))
    try:
        token = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise HTTPException(503, "web.metrics_token_file cannot be read") from error
    return bool(token) and hmac.compare_digest(shown.strip().encode(), token.encode())


@router.get("/metrics", dependencies=[Depends(_may)])
def metrics(request: Request) -> Response:
    """The figures, in the form that is asked for."""
    state = request.app.state
    if not hasattr(state, "registry"):
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Collector(get_context(request), get_watch(request)))
        ProcessCollector(registry=registry)  # of this process: memory, processor time, open files
        state.registry = registry
    encode, kind = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(state.registry), media_type=kind)
