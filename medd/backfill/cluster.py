"""A backfill on Ray Data: reading, decoding and scoring on all hosts of a cluster, results in the same tables.

What a run could not finish, such as images whose decoder died, waits in the queue; a worker of this host does it in the
end.
"""

import logging
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

from medd import pipeline, plugins
from medd.backfill.jobs import release
from medd.backfill.run import FileRun, drain, working
from medd.errors import MeddError, SettingsError, TransientError
from medd.queue.base import CLASSIFY
from medd.queue.sql import SqlQueue
from medd.ray_cluster import MISSING, joined
from medd.registry.registry import find_spec, line_of_duty

if TYPE_CHECKING:
    from medd.backfill.actors import Plan
    from medd.backfill.door import Taken
    from medd.backfill.source import Entry

log = logging.getLogger(__name__)

#: Rows of one task: small, so that little is done again when a host dies.
TASK_ROWS = 32
#: What is decoded goes on to the model in portions of about this size.
BLOCK_BYTES = 4 << 20
#: Memory for what lies between the pools, where the cluster is started here.
OBJECT_STORE_BYTES = 256 << 20
#: Of a core, for each actor. When a host dies, its actors must find room on those that are left.
_CPU_SHARE, _GPU_SHARE = 0.25, 0.5


def run_ray(run: FileRun, address: str = "", decoders: int = 0, predictors: int = 0) -> None:
    """Take in and score an archive on a Ray cluster.

    Args:
        run: The run.
        address: Of the cluster, "host:port"; empty starts one on this host.
        decoders: Actors that read and decode; 0 takes one for each core.
        predictors: Actors with the model; 0 takes one for each GPU, without any one for each four cores.

    Raises:
        SettingsError: Ray is not installed, or there is no cluster at the address.
        TransientError: The work broke off; what was done stays, and the next run goes on.
    """
    from medd.backfill.actors import Plan, load_model

    settings, database = run.settings, run.database
    queue = SqlQueue(database, f"{pipeline.node_id(settings)}:backfill", settings.worker.lease_s)
    queue.recover(CLASSIFY, own=True)
    specs = plugins.classifiers(pipeline.load_plugins(settings))
    ref = line_of_duty(database, find_spec(settings.model.classifier, specs))[0].ref
    spec = load_model(settings, database, ref, 1).bundle.preprocess
    plan = Plan(settings, run.source, queue.owner, secrets.token_hex(16), run.spool, ref, spec)
    blocks = list(_blocks(run.wanted()))
    run.progress.total = sum(map(len, blocks)) + run.progress.counts.total()
    if blocks:
        with joined(address, OBJECT_STORE_BYTES), _holding(queue, plan.token):
            run.by_queue = False  # what an actor gives back is judged
            for taken in _results(blocks, plan, decoders, predictors):
                run.note(taken)
    run.by_queue = True
    with working(settings):
        drain(run)


@contextmanager
def _holding(queue: SqlQueue, token: str) -> Iterator[None]:
    """The heartbeat of all jobs of the run: they change hosts, and this process outlives them all."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(queue.lease_s / 4):
            try:
                queue.extend([token])
            except TransientError as error:
                log.warning("no heartbeat: %s", error, extra={"event": "backfill.waiting"})

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        release(queue, token)


def _blocks(entries: "Iterator[Entry]") -> Iterator[Any]:
    """Files as tables, each the work of one task."""
    try:
        import pyarrow
    except ImportError as error:
        raise SettingsError(f"{MISSING}. Received: {error}") from error
    while some := list(islice(entries, TASK_ROWS)):
        # A file's name may be no UTF-8.
        columns = {"key": [os.fsencode(entry.key) for entry in some], "mark": [entry.mark for entry in some]}
        yield pyarrow.table(columns)


def _results(blocks: list[Any], plan: "Plan", decoders: int, predictors: int) -> Iterator[list["Taken"]]:
    """What became of the files, batch by batch as they are done.

    Raises:
        MeddError: What an actor met.
        TransientError: Ray gave up.
    """
    import ray
    import ray.data
    import ray.exceptions

    from medd.backfill.actors import Decode, Predict, read_taken

    found = ray.cluster_resources()
    cores, gpus = int(found.get("CPU", 1)), int(found.get("GPU", 0))
    decoders = decoders or max(1, cores)
    predictors = predictors or gpus or max(1, cores // 4)
    threads = plan.settings.worker.threads or max(1, cores // 4 // predictors)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it raises is told once, by us
    # Ray holds back tasks whose blocks might fill its memory, and takes each for as large as it may become.
    context.target_max_block_size = BLOCK_BYTES
    # A host that dies takes results along that are made again: the order of what comes is nothing.
    context.execution_options.preserve_order = False
    share: dict[str, Any] = {"num_cpus": _CPU_SHARE}
    data = ray.data.from_arrow(blocks).map_batches(
        Decode,
        fn_constructor_args=(plan,),
        batch_size=plan.settings.worker.batch_size,
        compute=ray.data.ActorPoolStrategy(size=decoders),
        **share,
    )
    data = data.map_batches(
        Predict,
        fn_constructor_args=(plan, threads),
        batch_size=plan.settings.worker.batch_size,
        compute=ray.data.ActorPoolStrategy(size=predictors),
        **(share | ({"num_gpus": _GPU_SHARE} if gpus else {})),
    )
    try:
        for batch in data.iter_batches(batch_size=None, prefetch_batches=1):
            yield read_taken(batch)
    except ray.exceptions.RayError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, MeddError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if cause is not None:
            raise cause from error
        lines = str(error).strip().splitlines()
        raise TransientError(f"ray: {lines[-1] if lines else type(error).__name__}") from error
