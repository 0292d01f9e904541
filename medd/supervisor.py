"""``medd serve``: one process per stage, started again when one dies, and stopped together.

Each child holds one end of a pipe: when the supervisor dies, however it dies, the children see the pipe end and stop.
The lock of a stage is inherited by its children, so that no second daemon works in this home while one of them lives.
"""

import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Protocol

from medd import pipeline, plugins, stuck
from medd.errors import SettingsError
from medd.settings import Settings
from medd.store.database import Database
from medd.store.processes import Pulse

log = logging.getLogger(__name__)

#: How long a daemon that was killed may take to leave before we give up on the home folder, seconds.
LOCK_WAIT_S = 15.0
#: How long children may take to finish what they have in hand, seconds.
STOP_S = 30.0
#: A child that lived this long was no failed start, seconds.
STEADY_S = 60.0
MAX_RESTART_DELAY_S = 30.0


class _Child:
    """One stage's process."""

    def __init__(self, arguments: Sequence[str], name: str, lock: int, *, is_service: bool) -> None:
        self._arguments, self.name, self._lock = arguments, name, lock
        self.announcement, self.is_service = "", is_service
        self._failures = 0
        self.ready = threading.Event()
        self.was_ready = False
        self.restart_at = 0.0
        self.start()

    def start(self) -> None:
        self._started = time.monotonic()
        self.ready.clear()
        self.process = subprocess.Popen(
            self._arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=(self._lock,),
            start_new_session=True,  # Ctrl-C is for the supervisor, which tells the children in order
        )
        assert self.process.stdout is not None
        threading.Thread(target=self._listen, args=(self.process.stdout,), daemon=True).start()

    def _listen(self, output: IO[str]) -> None:
        for line in output:
            if line.startswith("ready:"):
                self.announcement = line.strip()
                self.was_ready = True
                if (
                    self.is_service
                ):  # the ready line of the daemon is the receiver's; where this one is must be told too
                    log.info("%s is %s", self.name, self.announcement, extra={"event": "service.ready"})
                self.ready.set()

    def plan_restart(self) -> float:
        """After a death: seconds until the next start."""
        steady = time.monotonic() - self._started > STEADY_S
        self._failures = 1 if steady else self._failures + 1
        delay = min(MAX_RESTART_DELAY_S, 0.1 * 2.0 ** (self._failures - 1))
        self.restart_at = time.monotonic() + delay
        return delay


def lock_stage(settings: Settings, stage: str) -> int:
    """Take the lock of a stage in this home; it is held until the last process that inherited it ends.

    Raises:
        SettingsError: Another daemon serves the stage here.
    """
    pipeline.make_home(settings)
    folder = settings.home / "run"
    try:
        folder.mkdir(exist_ok=True)
        file = os.open(folder / f"{stage}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise SettingsError(f"home: {folder} cannot be written. Received: {error.strerror}") from error
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(file)
                raise SettingsError(f"home: another medd already serves {stage!r} in {settings.home}") from None
            time.sleep(0.1)


def serve(settings: Settings, stages: Sequence[str], command: Callable[[str, int], Sequence[str]]) -> int:
    """Run the stages until a signal ends them.

    Args:
        settings: The settings.
        stages: Which of `medd.pipeline.STAGES` and of the services that plugins bring.
        command: Builds the command line of a child from its stage and index.

    Returns:
        An exit code.

    Raises:
        MeddError: The settings, a plugin, the database or the model cannot be used; nothing was started.
    """
    _check(settings, stages)
    stop = _stop_on_signals()
    locks = {stage: lock_stage(settings, stage) for stage in stages}
    children = [
        _Child(command(stage, index), f"{stage}-{index}", locks[stage], is_service=stage not in pipeline.STAGES)
        for stage in stages
        for index in range(settings.worker.processes if stage == "work" else 1)
    ]
    announced = False
    code = 0
    while not stop.wait(0.1 if not announced else 0.5):
        # Images are taken in as soon as the receiver is ready; the model may still be loading.
        if not announced and children[0].ready.is_set():
            announced = True
            print(children[0].announcement, flush=True)
        for child in children:
            died = child.process.poll()
            if died is None:
                continue
            # A service waits until its settings are mended: images are received, scored and delivered without it.
            if not child.was_ready and died == 2 and not child.is_service:
                code = 2  # its settings are wrong; it has said so
                stop.set()
            elif child.restart_at == 0.0:
                delay = child.plan_restart()
                fields = {"event": "stage.died", "reason": died}
                log.error("%s died, starts again in %.1f s", child.name, delay, extra=fields)
            elif time.monotonic() >= child.restart_at:
                child.restart_at = 0.0
                child.start()
    _stop_children(children)
    return code


def _check(settings: Settings, stages: Sequence[str]) -> None:
    """Find what is wrong before any process is started."""
    database = pipeline.open_database(settings)
    manager = pipeline.load_plugins(settings)
    specs = plugins.classifiers(manager)
    if "work" in stages:
        from medd.registry.registry import find_spec, find_usable

        find_usable(database, find_spec(settings.model.classifier, specs))
    if "deliver" in stages:
        from medd.deliver.build import build_destinations

        build_destinations(settings, plugins.destinations(manager))
    pipeline.open_spool(settings)  # made once, before all parts open it at the same moment
    database.close()


def _stop_children(children: Sequence[_Child]) -> None:
    for child in children:
        if child.process.poll() is None:
            child.process.terminate()
    deadline = time.monotonic() + STOP_S
    for child in children:
        try:
            child.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.error("%s does not stop and is killed", child.name, extra={"event": "stage.killed"})
            child.process.kill()


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def run_stage(settings: Settings, stage: str, index: int, *, supervised: bool) -> int:
    """Run one stage in this process until a signal, or the end of the supervisor, ends it.

    Raises:
        MeddError: Something of it cannot be built.
    """
    stop = _stop_on_signals()
    if supervised:
        threading.Thread(target=_wait_for_orphanage, args=(stop,), daemon=True).start()
    else:
        lock_stage(settings, stage)
    stuck.watch(settings.worker.stuck_s)
    if stage == "receive":
        receiver = pipeline.build_receiver(settings)
        folders = ", ".join(str(Path(settings.under_home(inbox.path))) for inbox in settings.inbox)
        try:
            receiver.start()
            with _pulse(settings, stage, index, receiver.is_alive, lambda: receiver.address):
                print(f"ready: DICOM {receiver.address}, folder {folders}", flush=True)
                while not stop.wait(1) and receiver.is_alive():
                    pass
        finally:  # also when nobody is left to read that line: threads of ours would outlive the main one
            receiver.stop()
    elif stage == "work":
        worker = pipeline.build_worker(settings, index)
        name = f"worker {index} with {settings.model.classifier}"
        _run_until(stop, worker, name, partial(_pulse, settings, stage, index, doing=worker.doing))
    elif stage == "deliver":
        names = ", ".join(table.label for table in settings.destination) or "storage commitment only"
        deliverer = pipeline.build_deliverer(settings)
        _run_until(stop, deliverer, f"deliverer to {names}", partial(_pulse, settings, stage, index))
    else:
        service = pipeline.build_service(settings, stage)
        _run_until(stop, service, service.name, partial(_pulse, settings, stage, index))
    # Without a signal it was a thread that ended, by a fault: the supervisor, or the service manager, starts us again.
    return 0 if stop.is_set() else 1


class _Loop(Protocol):
    """What runs until it is told to stop."""

    def run(self) -> None: ...

    def stop(self) -> None: ...


def _pulse(
    settings: Settings, stage: str, index: int, is_alive: Callable[[], bool], doing: Callable[[], str] = lambda: ""
) -> Pulse:
    node = pipeline.node_id(settings)
    return Pulse(Database(settings.database_url), node, stage, index, is_alive=is_alive, doing=doing)


def _run_until(stop: threading.Event, loop: _Loop, name: str, pulse: Callable[[Callable[[], bool]], Pulse]) -> None:
    thread = threading.Thread(target=loop.run, name=name)
    thread.start()
    try:
        with pulse(thread.is_alive):
            print(f"ready: {name}", flush=True)
            while not stop.wait(1) and thread.is_alive():
                pass
    finally:
        loop.stop()
        thread.join()


def _wait_for_orphanage(stop: threading.Event) -> None:
    sys.stdin.read()
    stop.set()
