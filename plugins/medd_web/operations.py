"""The operations page: what comes in and goes out, what waits, what was given up, who lives; and a hand to help."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from medd.dicom.peers import find_peer, known_peers, tls_context
from medd.errors import MeddError
from medd.queue.base import CLASSIFY
from medd.queue.sql import SqlQueue
from medd.records import Status
from medd.store.activity import Bucket, Step
from medd.store.outbox import Deliveries, list_dead_deliveries
from medd.store.repository import list_dead
from medd_web import audit, charts, words
from medd_web.auth import User, operator, reader
from medd_web.buckets import address_of
from medd_web.charts import Chart, Series
from medd_web.context import Context, get_context, page
from medd_web.health import get_health, worst
from medd_web.lately import Lately
from medd_web.watch import SPANS, Watch, get_watch

router = APIRouter()

#: What was given up is one event of the audit trail in so many seconds, as the page asks every five.
_LISTED = Lately(600)
#: Dead jobs and deliveries shown; the rest is counted.
SHOWN = 50
#: A peer has so long for each step of an association, seconds.
ECHO_S = 5.0
#: Peers called at one time, by all who press the button.
_CALLS = threading.BoundedSemaphore(3)
#: What a bar is made of, from below, and its class.
_COLOURS = (
    (Status.SCORED, "scored"),
    (Status.NOT_ASSESSED, "unassessed"),
    (Status.FAILED, "failed"),
    (Status.PENDING, "waiting"),
)


@dataclass(frozen=True, slots=True)
class Rate:
    """One line of the table of rates."""

    name: str
    per_minute: float
    hour: int
    day: int


def _rates(watch: Watch) -> list[Rate]:
    minutes, hours = watch.rates(Step.MINUTE), watch.rates(Step.HOUR)[-24:]
    lately = minutes[-6:-1]  # the last five that are over
    told = ("Received", "received"), ("Scored", "judged"), ("Not assessed", "not_assessed"), ("Failed", "failed")
    return [
        Rate(
            name,
            sum(getattr(one, what) for one in lately) / max(1, len(lately)),
            sum(getattr(one, what) for one in minutes),
            sum(getattr(one, what) for one in hours),
        )
        for name, what in (*told, ("Objects delivered", "delivered"))
    ]


def _label(step: Step, start: datetime) -> str:
    if step is Step.DAY:
        return f"{start:%d %b}"
    near = start.astimezone()
    return f"{near:%H:%M}" if step is Step.MINUTE else f"{near:%a %H:%M}"


def _ticks(step: Step, buckets: Sequence[Bucket]) -> list[tuple[int, str]]:
    every = {Step.MINUTE: 15, Step.HOUR: 12, Step.DAY: 5}[step]
    places = [
        place
        for place, one in enumerate(buckets)
        if (one.start.astimezone().minute if step is Step.MINUTE else one.start.astimezone().hour) % every == 0
    ]
    if step is Step.DAY:
        places = list(range(len(buckets) - 1, -1, -every))[::-1]
    return [(place, _label(step, buckets[place].start)) for place in places]


def _images_chart(step: Step, buckets: Sequence[Bucket]) -> Chart:
    series = [
        Series(words.STATUSES[status][0].lower(), css, [getattr(one, status) for one in buckets])
        for status, css in _COLOURS
    ]
    labels = [_label(step, one.start) for one in buckets]
    title = "Images received, by where they stand now"
    return charts.stacked_bars(title, "images", labels, series, _ticks(step, buckets), _axis(step))


def _work_chart(step: Step, buckets: Sequence[Bucket]) -> Chart:
    series = [
        Series("scored", "s1", [one.judged for one in buckets]),
        Series("objects delivered", "s2", [one.delivered for one in buckets]),
    ]
    labels = [_label(step, one.start) for one in buckets]
    return charts.lines("Work done", _axis(step), series, labels=labels, ticks=_ticks(step, buckets), from_zero=True)


def _axis(step: Step) -> str:
    return {Step.MINUTE: "each minute", Step.HOUR: "each hour", Step.DAY: "each day (UTC)"}[step]


def _now(request: Request, user: User, step: Step) -> dict[str, Any]:
    """What changes by itself."""
    context, watch = get_context(request), get_watch(request)
    now, buckets = watch.now.get(), watch.rates(step)
    checks = get_health(request).checks.get()
    with context.database.read() as connection:
        jobs = list(list_dead(connection, SHOWN))
        deliveries = list(list_dead_deliveries(connection, SHOWN))
    who = (context.settings.home, user.name, address_of(request))
    if (jobs or deliveries) and who not in _LISTED:
        audit.record(context, request, user, audit.Action.STUDIES_LISTED, detail="/operations")
        _LISTED.add(who)
    return {
        "now": now,
        "step": step,
        "steps": [(one, SPANS[one]) for one in Step],
        "rates": _rates(watch),
        "charts": [_images_chart(step, buckets), _work_chart(step, buckets)],
        "checks": checks,
        "state": worst(checks),
        "jobs": jobs,
        "deliveries": deliveries,
        "named": set(watch.destinations),
        "may": user.may("operator"),
        "words": words,
    }


@router.get("/operations")
def operations(
    request: Request, user: Annotated[User, Depends(reader)], step: Annotated[Step, Query()] = Step.HOUR
) -> HTMLResponse:
    """The whole page."""
    context = get_context(request)
    shown = {
        "peers": list(known_peers(context.settings).values()),
        "versions": get_watch(request).versions(),
        **_now(request, user, step),
    }
    return page(request, "operations.html", **shown)


@router.get("/operations/now")
def now(
    request: Request, user: Annotated[User, Depends(reader)], step: Annotated[Step, Query()] = Step.HOUR
) -> HTMLResponse:
    """The part of it that changes by itself."""
    return page(request, "operations_now.html", **_now(request, user, step))


@router.post("/operations/retry")
def retry(
    request: Request,
    context: Annotated[Context, Depends(get_context)],
    user: Annotated[User, Depends(operator)],
    what: Annotated[str, Form(pattern="^(jobs|deliveries)$")],
    id: Annotated[int | None, Form(ge=1, lt=1 << 63)] = None,
    destination: Annotated[str, Form(max_length=64)] = "",
) -> Response:
    """Bring back what was given up: one, all that score, or all to a destination."""
    which = str(id) if id else f"all to {destination}" if destination else "all"
    audit.record(context, request, user, audit.Action.WORK_RETRIED, detail=f"{what}: {which}")
    ids = None if id is None else [id]
    if what == "jobs":
        back = SqlQueue(context.database).revive(CLASSIFY, ids)
    else:
        back = Deliveries(context.database).revive(ids, destination or None)
    watch = get_watch(request)
    watch.now.forget()
    if request.headers.get("hx-request"):
        shown = _now(request, user, _step_of(request))
        return page(request, "operations_now.html", **shown, done=f"{back} back in the queue")
    return RedirectResponse("/operations", 303)


def _step_of(request: Request) -> Step:
    chosen = request.query_params.get("step", "")
    return Step(chosen) if chosen in list(Step) else Step.HOUR


@router.post("/operations/echo")
def echo(
    request: Request,
    context: Annotated[Context, Depends(get_context)],
    _user: Annotated[User, Depends(operator)],
    peer: Annotated[str, Form(max_length=64)],
) -> HTMLResponse:
    """Call a peer by C-ECHO, and say what came of it."""
    found = find_peer(context.settings, peer)
    if not _CALLS.acquire(blocking=False):
        raise HTTPException(429, "three peers are being called already; try again in a moment")
    try:
        from medd.dicom import network  # pynetdicom takes a moment to load

        hurried = found.model_copy(update={"timeout_s": min(found.timeout_s, ECHO_S)})
        started = time.perf_counter()
        error = ""
        try:
            network.echo(hurried, context.settings.listener.ae_title, tls_context(found, context.settings.home))
        except MeddError as failure:
            error = str(failure)
        took = (time.perf_counter() - started) * 1000
    finally:
        _CALLS.release()
    return page(request, "operations_echo.html", error=error, ms=round(took))
