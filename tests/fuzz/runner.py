"""The loop: inputs made, tried and judged, in a process of its own that may die of one."""

import contextlib
import hashlib
import json
import logging
import mmap
import os
import random
import resource
import shutil
import signal
import struct
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

from tests.fuzz.mutate import MAX_BYTES
from tests.fuzz.target import Broken, Outcome, Target, shape, signature_of

#: What the process that holds a target may allocate, MiB.
MEMORY_MIB = 3072
#: Inputs between two looks whether the target still does its work.
CHECK_EVERY = 200
#: Wall-clock seconds without a sign after which the process counts as hung.
SILENCE_S = 120.0
#: Inputs that brought out something new, of which others are made.
_POOL = 1000
#: Inputs of a kind that are kept where outcomes are allowed, but better looked at.
_KEPT = 20
_LENGTH = struct.Struct("<Q")


class TooSlow(BaseException):
    """One input took more processor time than it may; no `except Exception` is to swallow it."""


@dataclass
class Report:
    """What a run tried and found."""

    target: str
    seed: int
    inputs: int = 0
    seconds: float = 0.0
    #: By kind of outcome, how many inputs.
    outcomes: dict[str, int] = field(default_factory=dict)
    #: How many different outcomes there were, message and all.
    details: int = 0
    #: Signature → the file that brings it out.
    findings: dict[str, str] = field(default_factory=dict)
    #: Resident memory after a thousand inputs, and at the end, MiB.
    first_mib: float = 0.0
    last_mib: float = 0.0

    def __str__(self) -> str:
        rate = self.inputs / self.seconds if self.seconds else 0
        lines = [
            f"{self.target}: {self.inputs} inputs in {self.seconds:.0f} s, {rate:.0f}/s, seed {self.seed}, "
            f"{self.details} different outcomes, {self.first_mib:.0f} → {self.last_mib:.0f} MiB, "
            f"{len(self.findings)} findings"
        ]
        lines += [f"  {count:9d}  {kind}" for kind, count in Counter(self.outcomes).most_common()]
        lines += [f"  FOUND {signature}\n        {file}" for signature, file in self.findings.items()]
        return "\n".join(lines)


def fuzz(
    kind: type[Target],
    *,
    seed: int = 1,
    seconds: float = 0.0,
    inputs: int = 0,
    build: Path,
    scratch: Path | None = None,
    shown: "Connection[Any, Any] | None" = None,
) -> Report:
    """Try inputs until the time is over, or so many were tried; in this process.

    Args:
        kind: The target.
        seed: The same seed tries the same inputs, as far as what comes of them is the same.
        seconds: How long; 0 sets no end.
        inputs: How many; 0 sets no end.
        build: Where findings are written: build/fuzz/TARGET.
        scratch: Where targets work.
        shown: Told of the report about once a second.
    """
    name = name_of(kind)
    folder = build / name
    folder.mkdir(parents=True, exist_ok=True)
    rng, report = random.Random(f"{name}/{seed}"), Report(name, seed)
    current = _Current(folder / f"current-{os.getpid()}")
    seeds: list[bytes] = []
    known: set[Outcome] = set()
    began = told = time.monotonic()

    def is_over() -> bool:
        return bool((inputs and report.inputs >= inputs) or (seconds and time.monotonic() - began >= seconds))

    with _quiet() as complaints:
        while not is_over():
            with opened(kind, scratch) as target:
                if not seeds:
                    seeds = [data[:MAX_BYTES] for data in target.seeds()]
                    todo, pool = rng.sample(seeds, len(seeds)), list[bytes]()
                    began = told = time.monotonic()  # what it took to begin is no fuzzing
                for _ in range(target.REFRESH):
                    if is_over():
                        break
                    if todo and report.inputs % 2 == 0:  # not all at first: a short run is to see damage too
                        data = todo.pop()
                    else:  # of what brought out something new, which may be past doing anything, not too much
                        one = rng.choice(pool if pool and rng.random() < 0.5 else seeds)
                        data = target.change(rng, one, rng.choice(seeds))[:MAX_BYTES]
                    current.note(data)
                    report.inputs += 1
                    outcome = _try(target, data, report, folder, complaints, report.inputs % CHECK_EVERY == 0)
                    if outcome not in known:
                        known.add(outcome)
                        if len(pool) < _POOL:
                            pool.append(data)
                    count = report.outcomes[outcome.kind] = report.outcomes.get(outcome.kind, 0) + 1
                    if outcome.is_kept and count <= _KEPT:
                        _write(folder / "kept" / f"{hashlib.sha256(data).hexdigest()[:12]}", data, outcome.kind)
                    if time.monotonic() - told > 1:
                        told = time.monotonic()
                        _measure(report, began, len(known))
                        if shown is not None:
                            shown.send(report)
                with _judged(target, b"", report, folder, complaints, "at the end"):
                    target.check()
    current.remove()
    _measure(report, began, len(known))
    return report


def name_of(kind: type[Target]) -> str:
    """How the command line calls a target."""
    return kind.__module__.rpartition(".")[2]


@contextlib.contextmanager
def opened(kind: type[Target], scratch: Path | None = None) -> Iterator[Target]:
    """A target, opened in an empty folder."""
    with tempfile.TemporaryDirectory(prefix="medd-fuzz-", dir=scratch, ignore_cleanup_errors=True) as place:
        target = kind(Path(place))
        target.open()
        try:
            yield target
        finally:
            target.close()


def _try(
    target: Target, data: bytes, report: Report, folder: Path, complaints: "_Complaints", with_check: bool
) -> Outcome:
    outcome = Outcome("FOUND")
    with _judged(target, data, report, folder, complaints):
        outcome = target.run(data)
    if with_check:
        with _judged(target, data, report, folder, complaints, "afterwards"):
            target.check()
    return outcome


@contextlib.contextmanager
def _judged(
    target: Target, data: bytes, report: Report, folder: Path, complaints: "_Complaints", when: str = ""
) -> Iterator[None]:
    """Whatever is raised within, or logged with a traceback, is a finding."""
    complaints.found.clear()
    signal.setitimer(signal.ITIMER_PROF, target.LIMIT_S)
    try:
        yield
        signal.setitimer(signal.ITIMER_PROF, 0)
        if complaints.found:
            raise Broken(complaints.found[0])
    except (Exception, TooSlow) as error:
        signal.setitimer(signal.ITIMER_PROF, 0)
        _keep(report, folder, data, error, when)


def _keep(report: Report, folder: Path, data: bytes, error: BaseException, when: str) -> None:
    signature = f"{when} {signature_of(error)}".strip()
    if signature in report.findings:
        return
    file = folder / hashlib.sha256(signature.encode()).hexdigest()[:12]
    story = "".join(traceback.format_exception(error))
    _write(
        file, data, f"target {report.target}, seed {report.seed}, input {report.inputs} {when}\n{signature}\n\n{story}"
    )
    report.findings[signature] = str(file)


def _write(file: Path, data: bytes, text: str) -> None:
    """An input, and beside it what it does."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    file.with_suffix(".txt").write_text(text, errors="backslashreplace")


class _Complaints(logging.Handler):
    """Keeps what is logged with a traceback: a fault that was caught is one all the same."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            where = signature_of(record.exc_info[1])
            story = "".join(traceback.format_exception(record.exc_info[1]))
            self.found.append(f"logged: {record.getMessage()}: {where}\n{story}")


@contextlib.contextmanager
def _quiet() -> Iterator[_Complaints]:
    """Nothing of medd's log is shown; tracebacks in it are kept. An input that takes too long is interrupted."""

    def too_slow(_signal: int, _frame: FrameType | None) -> None:
        raise TooSlow("more processor time than an input may take")

    complaints, root = _Complaints(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = [complaints]
    before = signal.signal(signal.SIGPROF, too_slow)
    try:
        yield complaints
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        root.handlers[:] = handlers
        root.setLevel(level)


class _Current:
    """The input in work, in a file that outlives this process."""

    def __init__(self, file: Path) -> None:
        self.file = file
        with file.open("wb") as made:
            made.truncate(_LENGTH.size + MAX_BYTES)
        with file.open("r+b") as opened_:
            self._map = mmap.mmap(opened_.fileno(), 0)

    def note(self, data: bytes) -> None:
        self._map[: _LENGTH.size] = _LENGTH.pack(len(data))
        self._map[_LENGTH.size : _LENGTH.size + len(data)] = data

    def remove(self) -> None:
        self._map.close()
        self.file.unlink()


def _measure(report: Report, began: float, details: int) -> None:
    report.seconds, report.details = time.monotonic() - began, details
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    report.last_mib = pages * resource.getpagesize() / (1 << 20)
    if not report.first_mib and report.inputs > 1000:
        report.first_mib = report.last_mib


# A process of its own


def supervised(
    kind: type[Target], *, seed: int, seconds: float, build: Path, scratch: Path | None = None
) -> list[Report]:
    """As `fuzz`, in a process of its own, with limits; where an input ends it, another goes on with the next seed."""
    name, deadline, reports = name_of(kind), time.monotonic() + seconds, list[Report]()
    context = get_context("spawn")
    while (left := deadline - time.monotonic()) > 0 and len(reports) < 100:
        last, end = Report(name, seed + len(reports)), ""
        ours, theirs = context.Pipe()
        child = context.Process(target=_work, args=(kind, last.seed, left, build, scratch, theirs), name=f"fuzz {name}")
        child.start()
        theirs.close()
        try:
            while ours.poll(SILENCE_S):
                word = ours.recv()
                if isinstance(word, str):
                    end = word
                    break
                last = word
            else:
                end = "hangs"
                child.kill()
            child.join(60)
        except EOFError:
            child.join(60)
            end = f"ends the process, exit code {child.exitcode}"
        child.kill()
        if end:
            last.findings[shape(end.splitlines()[-1])] = _rescue(build / name, child.pid, f"seed {last.seed}: {end}")
        reports.append(last)
    return reports


def _rescue(folder: Path, pid: int | None, story: str) -> str:
    """Keep the input over which a process ended."""
    current = folder / f"current-{pid}"
    if not current.exists():
        return story
    content = current.read_bytes()
    data = content[_LENGTH.size :][: _LENGTH.unpack_from(content)[0]]
    kept = folder / hashlib.sha256(data).hexdigest()[:12]
    _write(kept, data, story)
    current.unlink()
    return str(kept)


def _work(
    kind: type[Target], seed: int, seconds: float, build: Path, scratch: Path | None, told: "Connection[Any, Any]"
) -> None:
    """Tell of the report again and again; and at last of the error that ended it, "" for none."""
    limit = MEMORY_MIB << 20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Path(os.devnull).open("w") as nowhere:  # decoders remark on each damaged image; see --replay
        os.dup2(nowhere.fileno(), 2)
    try:
        told.send(fuzz(kind, seed=seed, seconds=seconds, build=build, scratch=scratch, shown=told))
        told.send("")
    except BaseException:
        told.send(traceback.format_exc())
        raise


def replay(kind: type[Target], file: Path) -> str:
    """One input once more; what it raises is raised."""
    with opened(kind) as target:
        outcome = target.run(file.read_bytes())
        target.check()
    return f"{outcome.kind}: {outcome.detail}"


def merge(reports: list[Report]) -> Report:
    """One report of several runs of a target."""
    whole = reports[0]
    for one in reports[1:]:
        whole.inputs += one.inputs
        whole.seconds += one.seconds
        whole.outcomes = dict(Counter(whole.outcomes) + Counter(one.outcomes))
        whole.findings |= one.findings
        whole.details, whole.last_mib = max(whole.details, one.details), one.last_mib
    return whole


def save(report: Report, build: Path) -> None:
    """Write a report as build/fuzz/TARGET/report.json."""
    text = json.dumps(asdict(report), indent=1)
    (build / report.target / "report.json").write_text(text)


def clear(build: Path, name: str) -> None:
    """Forget what an earlier run of a target found."""
    shutil.rmtree(build / name, ignore_errors=True)
