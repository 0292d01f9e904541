"""What one film costs in each stage on this machine, by the real code: a receiver, decoders, the model, a database.

Everything is done in a scratch folder on the disk of the home, on a SQLite database of its own.
"""

import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medd.errors import SettingsError, TransientError
from medd.plan.costs import Costs
from medd.plan.ledger import Ledger

if TYPE_CHECKING:
    from medd.classify.classifier import Input, LoadedModel
    from medd.load.images import Image
    from medd.settings import Settings
    from medd.store.database import Database

#: Associations at one time where the receiver's rate is measured.
_SENDERS = 4
_READY_S = 60
#: `medd` without the plugins that are installed: what they are told of films is true.
_BARE = "from importlib import metadata; metadata.entry_points = lambda **_: (); from medd.cli.main import main; main()"


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured."""

    #: Films sent by one sender, and again by several.
    films: int = 16
    #: Seconds for each of the measurements that repeat one thing.
    repeat_s: float = 2.0


def measure(
    settings: "Settings", size: int, transfer_syntax: str, effort: Effort = Effort(), folder: Path | None = None
) -> Costs:
    """Measure what films of one size and transfer syntax cost.

    Args:
        settings: Of the home, the worker and the classifier.
        size: Side of the square film, pixels.
        transfer_syntax: As `medd load` calls it.
        effort: How much is measured.
        folder: The model's bundle; None for the one that the classifier ships.

    Raises:
        MeddError: Something that is needed for it cannot be used.
    """
    from medd import pipeline
    from medd.load.images import Images, Mix

    model, _ = pipeline.load_model(settings, folder)
    cores = _cores(settings.worker.threads)
    images = list(Images(Mix(size, transfer_syntax)).make(2 * effort.films + 1))
    with _scratch(settings.home) as scratch:
        home = Path(scratch)
        with _receiver(home) as (address, pid):
            _send(address, images[:1])
            before = _cpu_s(pid)
            ones = _send(address, images[1 : effort.films + 1])
            began = time.perf_counter()
            with ThreadPoolExecutor(_SENDERS) as senders:
                list(senders.map(lambda n: _send(address, images[effort.films + 1 + n :: _SENDERS]), range(_SENDERS)))
            rate = effort.films / (time.perf_counter() - began)
            receive_cpu_s = (_cpu_s(pid) - before) / (2 * effort.films)
        files = sorted((home / "spool").glob("??/*.dcm"))
        decoded = _decode(files, model, settings, cores, effort)
        singles, full = _predict(model, decoded.made, settings.worker.batch_size, effort)
        ledger = Ledger(_fresh(home / "rows.db"), settings, model, decoded.made[0])
        with closing(ledger):
            empty = _bytes(ledger.database)
            insert_s = [ledger.insert(1) for _ in range(8 * settings.worker.batch_size)]
            commit_full_s = [ledger.score(settings.worker.batch_size) for _ in range(8)]
            row_bytes = (_bytes(ledger.database) - empty) / len(insert_s)
            commit_one_s = []
            for _ in range(20):
                ledger.insert(1)
                commit_one_s.append(ledger.score(1))
        film_bytes = statistics.mean(file.stat().st_size for file in files)
    return Costs(
        machine=f"{_processor()}, {platform.system()} {platform.release()}",
        cores=cores,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        model=model.bundle.ref,
        size=size,
        transfer_syntax=transfer_syntax,
        film_bytes=film_bytes,
        row_bytes=row_bytes,
        receive_one_s=statistics.mean(ones),
        receive_rate=rate,
        receive_cpu_s=receive_cpu_s,
        decode_one_s=statistics.mean(decoded.one_s),
        decode_s=decoded.all_s * cores,
        decode_scv=statistics.pvariance(decoded.one_s) / statistics.mean(decoded.one_s) ** 2,
        predict_one_s=singles,
        predict_s=full * cores / settings.worker.batch_size,
        commit_one_s=statistics.median(commit_one_s),
        commit_s=statistics.median(commit_full_s) / settings.worker.batch_size,
        insert_s=statistics.median(insert_s),
        batch_size=settings.worker.batch_size,
        poll_s=settings.worker.poll_s,
    )


def _cores(threads: int) -> int:
    """Cores that a worker of so many threads keeps busy; 0 threads: all that this process may use."""
    available = len(os.sched_getaffinity(0))
    return min(threads or available, available)


def _scratch(home: Path) -> tempfile.TemporaryDirectory[str]:
    """On the disk of the home, which need not be there yet and is not made: it may be somebody else's to make."""
    try:
        folder = next(path for path in (home, *home.parents) if path.is_dir())
        return tempfile.TemporaryDirectory(prefix="plan-", dir=folder)
    except OSError as error:
        raise SettingsError(f"home: {home}: no room for a scratch folder there. Received: {error.strerror}") from error


def _fresh(file: Path) -> "Database":
    from medd.store.database import Database, check_schema

    database = Database(f"sqlite:///{file}")
    check_schema(database)
    return database


def _bytes(database: "Database") -> int:
    """What the pages of a SQLite database hold."""
    with database.read() as connection:
        pages, size = (
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in ("page_count", "page_size")
        )
    return int(pages) * int(size)


# -- receive -------------------------------------------------------------------------------------------------------


@contextmanager
def _receiver(home: Path) -> "Iterator[tuple[tuple[str, int], int]]":
    """A receiver in a process of its own: where it listens, and its process id."""
    (home / "medd.toml").write_text('[listener]\nport = 0\n[log]\nlevel = "ERROR"\n')
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MEDD_")}
    command = [sys.executable, "-c", _BARE, "serve", "--only", "receive", "--home", str(home)]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            ready = re.match(r"ready: DICOM \S+@(\S+):(\d+)", process.stdout.readline())
            if ready is None:
                raise TransientError("the receiver to be measured does not start")
            yield (ready[1], int(ready[2])), process.pid
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_READY_S)
            process.kill()


def _send(address: tuple[str, int], images: "Sequence[Image]") -> list[float]:
    """How long each took from its first byte to its answer, seconds."""
    from medd.load.scu import Association

    contexts = sorted({(image.sop_class_uid, image.transfer_syntax_uid) for image in images})
    association = Association(address, "MEDD", "MEDD_PLAN", contexts)
    took = []
    for image in images:
        began = time.perf_counter()
        status = association.store(
            image.sop_class_uid, image.transfer_syntax_uid, image.sop_instance_uid, image.dataset
        )
        if status:
            raise TransientError(f"the receiver to be measured refuses a film. Received: {status:#06x}")
        took.append(time.perf_counter() - began)
    association.release()
    return took


def _cpu_s(pid: int) -> float:
    """User and system time of a process so far, proc_pid_stat(5), seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _processor() -> str:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return platform.machine()


# -- decode and predict --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Decoded:
    one_s: list[float]
    #: For a film, with all cores at work.
    all_s: float
    made: "list[Input]"


def _decode(files: Sequence[Path], model: "LoadedModel", settings: "Settings", cores: int, effort: Effort) -> _Decoded:
    from medd.classify.classifier import Input
    from medd.classify.prepare import Order
    from medd.imaging.isolated import Isolated
    from medd.records import MediaType

    spec = model.bundle.preprocess
    orders = [Order(file, file.stem, MediaType.DICOM, "", (spec,)) for file in files]
    wanted = settings.worker
    decoders = Isolated("medd.classify.prepare:prepare_file", cores, wanted.decode_timeout_s, wanted.decode_memory_mib)
    try:
        decoders.start()
        made = decoders.map((orders * cores)[: 2 * cores])  # every process has begun
        for one in made:
            if isinstance(one, Exception):
                raise one
        turn = iter(orders * 1000)
        one_s = _repeat(lambda: decoders.call(next(turn)), effort.repeat_s)
        each = sum(one_s) / len(one_s) / cores
        count = max(2 * cores, min(len(orders), int(effort.repeat_s / each)))
        batch = (orders * (count // len(orders) + 1))[:count]
        began = time.perf_counter()
        decoders.map(batch)
        all_s = (time.perf_counter() - began) / count
    finally:
        decoders.close()
    return _Decoded(one_s, all_s, [one[0] for one in made if isinstance(one[0], Input)])


def _predict(model: "LoadedModel", inputs: "Sequence[Input]", batch: int, effort: Effort) -> tuple[float, float]:
    """Seconds for one film and for a full batch."""
    full = (list(inputs) * batch)[:batch]
    ids = list(range(batch))
    model.judge(full, ids)
    singles = _repeat(lambda: model.judge(full[:1], ids[:1]), effort.repeat_s / 2)
    return statistics.median(singles), statistics.median(_repeat(lambda: model.judge(full, ids), effort.repeat_s))


def _repeat(call: Callable[[], Any], seconds: float) -> list[float]:
    """How long each call took, three at least, seconds."""
    took: list[float] = []
    end = time.perf_counter() + seconds
    while len(took) < 3 or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return took
