"""Whether medd works: for load balancers, container runtimes and monitoring. Told to anybody, so it tells no names.

``/health`` makes the checks and answers 503 where one fails. ``/health/live`` says that this process answers, and asks
nobody: a runtime that restarts us while the database is away would help nobody.
"""

import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TookTooLong
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import anyio
import anyio.to_thread
import sqlalchemy as sa
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from medd import pipeline
from medd.errors import MeddError, PeerBusy, PeerRefused
from medd.records import ModelChange, Role
from medd.settings import PeerSettings
from medd.store.models import find_events, find_on_duty
from medd.store.spool import FAIL_FREE_GIB, WARN_FREE_GIB, WARN_FREE_SHARE
from medd_web.context import Context, get_context
from medd_web.watch import Now, Remembered, Watch, get_watch

router = APIRouter()

#: Every check has so long, seconds; a monitor waits no longer.
LIMIT_S = 5.0
#: Who asks at one time; the others wait for them, and all are told the same.
ASKERS = 4
#: An association takes its time: the port is asked no more often, seconds.
PORT_S = 15.0
_GIB = 1 << 30


class State(StrEnum):
    """How it stands."""

    OK = "ok"
    #: It works; somebody should look before it does not.
    WARN = "warn"
    #: It does not.
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: State
    #: What was found: words and numbers of our own, no name, path or address.
    found: str


class Health:
    """Makes the checks, however long one of them hangs.

    Args:
        context: What they look at.
        watch: Where they ask.
    """

    def __init__(self, context: Context, watch: Watch) -> None:
        self._context, self._watch = context, watch
        self._port = Remembered(self._ask_port, PORT_S)
        self._tasks: dict[str, Callable[[], list[Check]]] = {
            "database": self._ask_database,
            "spool": lambda: [self._try_spool()],
            "port": self._port.get,
        }
        self._askers = anyio.CapacityLimiter(ASKERS)
        self._threads = ThreadPoolExecutor(len(self._tasks), thread_name_prefix="health")
        self._running: dict[str, Future[list[Check]]] = {}
        #: All of them, remembered for a moment: whoever asks, however often, costs little.
        self.checks = Remembered(self._look, 2.0)

    async def get(self) -> list[Check]:
        """What was found, by threads that serve nothing else: pages that wait for a database hold none of them."""
        return await anyio.to_thread.run_sync(self.checks.get, limiter=self._askers)

    def _look(self) -> list[Check]:
        hanging = set(self._running)  # neither asked nor waited for twice
        for name in self._tasks.keys() - hanging:
            self._running[name] = self._threads.submit(self._tasks[name])
        until, found = time.monotonic() + LIMIT_S, []
        for name in self._tasks:
            running = self._running[name]
            try:
                found += running.result(0 if name in hanging else max(0.0, until - time.monotonic()))
            except TookTooLong:
                found.append(Check(name, State.FAIL, f"no answer within {LIMIT_S:.0f} s"))
                continue
            except MeddError:  # its words may name hosts and folders; the log has them
                found.append(Check(name, State.FAIL, "away"))
            except Exception:  # a check that stumbles has found something too
                found.append(Check(name, State.FAIL, "cannot be looked at"))
            del self._running[name]
        return found

    # -- what is looked at

    def _ask_database(self) -> list[Check]:
        started = time.perf_counter()
        with self._context.database.read() as connection:
            connection.execute(sa.text("SELECT 1"))
        took = (time.perf_counter() - started) * 1000
        now = self._watch.now.get()
        found = [Check("database", State.OK, f"answers in {took:.0f} ms")]
        return [*found, self._judge_queue(now), *self._judge_processes(now), self._judge_model(now)]

    def _judge_queue(self, now: Now) -> Check:
        waits, oldest, limit = now.queue, now.queue.oldest_s, self._context.settings.web.max_queue_age_s
        found = f"{waits.pending} waiting, the first for {oldest:.0f} s"
        dead = waits.dead + sum(one.dead for one in now.outgoing)
        if oldest > limit:
            return Check("queue", State.FAIL, f"{found}, longer than {limit:.0f} s")
        if dead:
            return Check("queue", State.WARN, f"{found}; {dead} given up")
        return Check("queue", State.OK, found)

    def _judge_processes(self, now: Now) -> Iterator[Check]:
        needed = ["receive", "work", *(["deliver"] if self._context.settings.destination else [])]
        for stage in needed:
            of_stage = [one for one in now.processes if one.stage == stage]
            alive = sum(one.is_alive for one in of_stage)
            found = f"{alive} alive"
            if silent := len(of_stage) - alive:
                found += f", {silent} silent"
            yield Check(stage, State.FAIL if not alive else State.WARN if silent else State.OK, found)

    def _judge_model(self, now: Now) -> Check:
        classifier = self._context.settings.model.classifier
        with self._context.database.read() as connection:
            champion = find_on_duty(connection, classifier).get(Role.CHAMPION)
            events = find_events(connection, classifier, champion.ref) if champion else []
        if champion is None:
            return Check("model", State.FAIL, "none is on duty")
        loaded = [one.doing.split(", ")[0] for one in now.processes if one.stage == "work" and one.is_alive]
        if events and events[0].what is ModelChange.SET_ASIDE:
            return Check("model", State.WARN, "the one on duty cannot be used; the one before goes on")
        if not loaded:
            return Check("model", State.FAIL, "no worker has one loaded")
        if behind := sum(ref != champion.ref for ref in loaded):
            return Check("model", State.OK, f"{behind} of {len(loaded)} workers take it with their next images")
        return Check("model", State.OK, "loaded")

    def _try_spool(self) -> Check:
        bucket = self._context.spool.bucket
        probe = self._context.spool.root / "incoming" / f".probe-{secrets.token_hex(8)}"
        try:
            if bucket is not None and bucket.size("spool-id") is None:
                return Check("spool", State.FAIL, "its bucket was emptied")
            probe.touch()
            probe.unlink()
            disks = self._watch.disks()
        except OSError:
            return Check(
                "spool", State.FAIL, "cannot be written" if bucket is None else "or its bucket cannot be reached"
            )
        least = min(disks, key=lambda disk: disk.free)
        found = f"can be written, {least.free / _GIB:.1f} GiB free ({least.share_free:.0%})"
        if least.free < FAIL_FREE_GIB * _GIB:
            return Check("spool", State.FAIL, found)
        if least.free < WARN_FREE_GIB * _GIB or least.share_free < WARN_FREE_SHARE:
            return Check("spool", State.WARN, found)
        return Check("spool", State.OK, found)

    def _ask_port(self) -> list[Check]:
        """Call our own port, where it is this home that serves it and the settings say which it is."""
        node = pipeline.node_id(self._context.settings)
        processes = self._watch.now.get().processes
        listener = self._context.settings.listener
        if not listener.port or not any(
            one.stage == "receive" and one.node == node and one.is_alive for one in processes
        ):
            return []
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listener.host, listener.host)
        try:
            if listener.tls.certificate or listener.allowed_hosts:  # then not everybody may ask it, perhaps not we
                with socket.create_connection((host, listener.port), timeout=LIMIT_S / 2):
                    return [Check("port", State.OK, "takes connections")]
            me = PeerSettings(
                name="listener", host=host, port=listener.port, ae_title=listener.ae_title, timeout_s=LIMIT_S / 2
            )
            from medd.dicom import network  # pynetdicom takes a moment to load

            network.echo(me, listener.ae_title)
        except PeerRefused:  # by the rules of the settings: it lives
            return [Check("port", State.OK, "answers")]
        except PeerBusy:  # it lives; senders try again, as we do
            return [Check("port", State.WARN, "busy: as many associations are open as it takes")]
        except (MeddError, OSError, ValueError):
            return [Check("port", State.FAIL, "does not answer C-ECHO")]
        return [Check("port", State.OK, "answers C-ECHO")]


_made = threading.Lock()


def get_health(request: Request) -> Health:
    """The one of this application."""
    state, watch = request.app.state, get_watch(request)
    with _made:
        if not hasattr(state, "health"):
            state.health = Health(get_context(request), watch)
    health: Health = state.health
    return health


def worst(checks: list[Check]) -> State:
    """How it stands all in all."""
    return max((one.state for one in checks), key=list(State).index, default=State.OK)


@router.get("/health")
async def health(request: Request) -> JSONResponse:
    """Make the checks: 200 where none fails, else 503."""
    checks = await get_health(request).get()
    state = worst(checks)
    told: dict[str, Any] = {"status": state, "checks": [asdict(one) for one in checks]}
    return JSONResponse(told, 503 if state is State.FAIL else 200)


# Not a thread's work: it answers when all threads wait for a database.
@router.get("/health/live")
async def live() -> JSONResponse:
    """Say that this process answers."""
    return JSONResponse({"status": State.OK})
