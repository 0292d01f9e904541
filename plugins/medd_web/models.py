"""The models: who is on duty, what each was measured at, what readers say, which devices drift; and changing that."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, HTTPException, Path, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from medd.errors import MeddError, ModelUnusable, TransientError
from medd.learn.curves import curves
from medd.records import ModelChange, ModelEvent, ModelVersion, Role
from medd.registry import changes
from medd.registry.changes import Change
from medd.registry.registry import find_replaced
from medd.store.agreement import Pair, Words, compare_models, find_scores_with_words, find_words
from medd.store.models import find_events, find_model
from medd_web import audit, charts
from medd_web.auth import User, administrator, reader
from medd_web.charts import Chart, Measured, wilson
from medd_web.context import Context, get_context, page
from medd_web.dossier import SHARES, Dossier, compile_dossier, draw_curves, open_bundle
from medd_web.watch import get_watch

router = APIRouter()

#: Weeks over which readers' agreement is shown.
WEEKS = 12
#: Readers' words that curves are drawn from: fewer say nothing, and the newest of many are enough.
FEWEST_WORDS, MOST_WORDS = 30, 10_000
#: Events shown, unless all are asked for.
EVENTS = 30
DRIFT_DAYS = (1, 7, 30)
#: What was done, in words.
CHANGES: dict[str, str] = {
    ModelChange.REGISTERED: "became known",
    ModelChange.SET_CANDIDATE: "put into the shadow",
    ModelChange.WITHDRAWN: "taken out of the shadow",
    ModelChange.PROMOTED: "put on duty",
    ModelChange.ROLLED_BACK: "put on duty again",
    ModelChange.REFUSED: "refused",
    ModelChange.SET_ASIDE: "set aside",
}
#: What a change answers, by the word in the address that it leads to.
DONE = {
    "promote": "It is on duty. Workers take it between two batches; what was scored before stays under the old name.",
    "rollback": "The model from before is on duty again. Workers take it between two batches.",
    "candidate": "It scores in the shadow: recorded, and shown to nobody.",
    "withdraw": "It is out of the shadow.",
}

Name = Annotated[str, Path(max_length=64, pattern=r"^[a-z0-9][a-z0-9_-]*$")]
Version = Annotated[str, Path(max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Reason = Annotated[str, Form(min_length=1, max_length=500)]


@dataclass(frozen=True, slots=True)
class Agreement:
    """What readers say against what models say."""

    chart: Chart
    #: Model, and all words about it.
    sums: list[tuple[str, Words]]


@dataclass(frozen=True, slots=True)
class Shadow:
    """A candidate beside the champion."""

    since: datetime
    pair: Pair


@router.get("/models")
def models(
    request: Request,
    user: Annotated[User, Depends(reader)],
    done: Annotated[str, Query(max_length=16)] = "",
    events: Annotated[str, Query(pattern="^(|all)$")] = "",
) -> HTMLResponse:
    """All models."""
    return _overview(request, user, told=DONE.get(done, ""), every=events == "all")


def _overview(
    request: Request, user: User, *, told: str = "", fault: str = "", every: bool = False, status: int = 200
) -> HTMLResponse:
    context = get_context(request)
    desk, evaluations = context.models, context.settings.home / "evaluations"
    try:
        known = desk.known()
    except ModelUnusable as error:  # none is on duty, and none is shipped
        known, fault = [], fault or str(error)
    dossiers = [compile_dossier(model, desk.spec, evaluations, brief=True) for model in known]
    used = {one.model.role: one for one in dossiers if one.model.role is not Role.RETIRED}
    with context.database.read() as connection:
        history = find_events(connection, desk.spec.name)
    champion, candidate = used.get(Role.CHAMPION), used.get(Role.CANDIDATE)
    processes = [one for one in get_watch(request).now.get().processes if one.stage == "work" and one.is_alive]
    shown = {
        "classifier": desk.spec.name,
        "dossiers": dossiers,
        "champion": champion,
        "candidate": candidate,
        "replaced": find_replaced(desk.database, champion.model) if champion else None,
        "on_duty": _newest(history, champion, (ModelChange.PROMOTED, ModelChange.ROLLED_BACK)),
        "in_shadow": _newest(history, candidate, (ModelChange.SET_CANDIDATE,)),
        "shadow": _shadow(context, champion, candidate, history),
        "loaded": [one.doing.split(", ")[0] for one in processes],
        "agreement": _agreement(context, [one for one in (champion, candidate) if one]),
        "history": history if every else history[:EVENTS],
        "more": 0 if every else max(0, len(history) - EVENTS),
        "names": SHARES,
        "weeks": WEEKS,
        "changes": CHANGES,
        "flat": _flat,
        "days": DRIFT_DAYS,
        "may": user.may("administrator"),
        "told": told,
        "fault": fault,
    }
    return page(request, "models.html", status=status, **shown)


def _newest(events: Sequence[ModelEvent], of: Dossier | None, kinds: Sequence[ModelChange]) -> ModelEvent | None:
    return next((one for one in events if of and one.model == of.model.ref and one.what in kinds), None)


def _shadow(
    context: Context, champion: Dossier | None, candidate: Dossier | None, events: Sequence[ModelEvent]
) -> Shadow | None:
    began = _newest(events, candidate, (ModelChange.SET_CANDIDATE,))
    if champion is None or candidate is None or candidate.bundle is None or began is None:
        return None
    with context.database.read() as connection:
        refs = champion.model.ref, candidate.model.ref
        labels, findings = candidate.bundle.labels, candidate.bundle.positive_labels
        return Shadow(began.at, compare_models(connection, *refs, labels, findings, began.at))


def _agreement(context: Context, dossiers: Sequence[Dossier]) -> Agreement | None:
    """How many of readers' words say what the models say, week by week; None where there are none."""
    today = datetime.now(UTC).date()
    monday = today - timedelta(days=today.weekday())
    weeks = [monday - timedelta(weeks=n) for n in range(WEEKS - 1, -1, -1)]
    since = datetime(weeks[0].year, weeks[0].month, weeks[0].day, tzinfo=UTC)
    lines, sums = [], []
    for css, one in zip(("s1", "s2"), dossiers, strict=False):
        if one.bundle is None:
            continue
        with context.database.read() as connection:
            words = find_words(connection, one.model.ref, one.bundle.labels, one.bundle.positive_labels, since)
        if words:
            lines.append((one.model.ref, css, _by_week(weeks, words)))
            counts = {name: sum(getattr(each, name) for each in words) for name in ("tp", "fp", "fn", "tn")}
            sums.append((one.model.ref, Words(weeks[0], **counts)))
    return Agreement(charts.shares_over_time("Readers who say what the model says", lines), sums) if lines else None


def _by_week(weeks: Sequence[date], words: Sequence[Words]) -> list[Measured]:
    told = []
    for monday in weeks:
        inside = [one for one in words if monday <= one.day < monday + timedelta(weeks=1)]
        n, agreed = sum(one.n for one in inside), sum(one.agreed for one in inside)
        low, high = wilson(agreed, n)
        name = f"{monday:%d %b}"
        told.append(Measured(name, agreed / n, low, high, n) if n else Measured(name, None, n=0))
    return told


@router.get("/models/drift")
def drift(
    request: Request,
    context: Annotated[Context, Depends(get_context)],
    _user: Annotated[User, Depends(reader)],
    days: Annotated[int, Query(ge=1, le=30)] = 7,
) -> HTMLResponse:
    """What `medd drift` finds for the model on duty, device by device."""
    champion = next((one for one in context.models.known() if one.role is Role.CHAMPION), None)
    rows = get_watch(request).drift(champion, days) if champion else []
    devices = [(name, list(of_device)) for name, of_device in groupby(rows, key=lambda row: str(row["device"]))]
    return page(request, "models_drift.html", devices=devices, days=days, champion=champion)


@router.get("/models/{name}/{version}")
def model(
    request: Request,
    context: Annotated[Context, Depends(get_context)],
    user: Annotated[User, Depends(reader)],
    name: Name,
    version: Version,
) -> HTMLResponse:
    """One model."""
    found = _find(context, f"{name}/{version}")
    dossier = compile_dossier(found, context.models.spec, context.settings.home / "evaluations")
    with context.database.read() as connection:
        events = find_events(connection, found.classifier, found.ref)
    shown: dict[str, Any] = {
        "dossier": dossier,
        "intervals": [charts.intervals("Figures", one.shares) for one in dossier.evaluations],
        "agreement": _agreement(context, [dossier]),
        "weeks": WEEKS,
        "by_readers": _by_readers(context, dossier),
        "history": events,
        "changes": CHANGES,
        "flat": _flat,
        "recipe": list(_flat(dossier.bundle.training)) if dossier.bundle else [],
        "may": user.may("administrator"),
    }
    return page(request, "model.html", **shown)


def _by_readers(context: Context, dossier: Dossier) -> tuple[int, list[Chart]]:
    """Curves with readers' words of the last weeks for the truth, and how many words they are made of."""
    if dossier.bundle is None:
        return 0, []
    since = datetime.now(UTC) - timedelta(weeks=WEEKS)
    labels, findings = dossier.bundle.labels, dossier.bundle.positive_labels
    with context.database.read() as connection:
        said = find_scores_with_words(connection, dossier.model.ref, labels, findings, since, MOST_WORDS)
    if len(said) < FEWEST_WORDS:
        return len(said), []
    truth, scores = [there for there, _ in said], [score for _, score in said]
    return len(said), draw_curves(curves(truth, scores), {}, "by readers' words")


def _flat(told: Any, name: str = "") -> Sequence[tuple[str, str]]:
    """Nested tables by their dotted names."""
    if isinstance(told, dict):
        return [pair for key, value in told.items() for pair in _flat(value, f"{name}.{key}" if name else str(key))]
    return [(name, ", ".join(map(str, told)) if isinstance(told, list) else str(told))]


@router.get("/models/{name}/{version}/plot/{file}")
def plot(
    context: Annotated[Context, Depends(get_context)],
    _user: Annotated[User, Depends(reader)],
    name: Name,
    version: Version,
    file: Annotated[str, Path(max_length=100, pattern=r"^[A-Za-z0-9_-]+\.png$")],
) -> Response:
    """A picture that the bundle holds, byte for byte the one that it was made with."""
    bundle, folder = open_bundle(_find(context, f"{name}/{version}"), context.models.spec)
    digest = bundle.files.get(file)
    try:
        content = (folder / file).read_bytes() if digest else b""
    except OSError:
        content = b""
    if not content.startswith(b"\x89PNG") or hashlib.sha256(content).hexdigest() != digest:
        raise HTTPException(404, "there is no such picture")
    return Response(content, media_type="image/png")


def _find(context: Context, ref: str) -> ModelVersion:
    context.models.known()  # the shipped one is known from now on
    with context.database.read() as connection:
        found = find_model(connection, ref)
    if found is None or found.classifier != context.models.spec.name:
        raise HTTPException(404, "no model of this name and version is known")
    return found


# -- changing what is on duty --------------------------------------------------------------------------------------


def _change(request: Request, user: User, what: str, why: str, do: Callable[[], object]) -> Response:
    """Do it, on record; where it is refused, the page says why."""
    try:
        with audit.attempt(get_context(request), request, user, audit.Action.MODEL_CHANGED, f"{what}: {why}"):
            do()
    except TransientError:
        raise
    except MeddError as error:
        return _overview(request, user, fault=str(error), status=409)
    return RedirectResponse(f"/models?done={what.split()[0]}", 303)


@router.post("/models/promote")
def promote(
    request: Request,
    context: Annotated[Context, Depends(get_context)],
    user: Annotated[User, Depends(administrator)],
    model: Annotated[str, Form(max_length=130)],
    why: Reason,
) -> Response:
    """Put a model on duty after a trial: `medd models promote`."""
    found = _find(context, model)
    return _change(
        request, user, f"promote {found.ref}", why, lambda: context.models.promote(found.ref, user.name, why)
    )


@router.post("/models/rollback")
def rollback(
    request: Request,
    context: Annotated[Context, Depends(get_context)],
    user: Annotated[User, Depends(administrator)],
    why: Reason,
) -> Response:
    """Put the model on duty again that the present one replaced: `medd models rollback`."""
    desk = context.models

    def do() -> None:
        changes.rollback(desk.database, desk.spec.name, desk.manager, Change(user.name, why))

    return _change(request, user, "rollback", why, do)


@router.post("/models/candidate")
def candidate(
    request: Request,
    context: Annotated[Context, Depends(get_context)],
    user: Annotated[User, Depends(administrator)],
    model: Annotated[str, Form(max_length=130)],
    why: Reason,
) -> Response:
    """Let a model score in the shadow: `medd models candidate`."""
    found = _find(context, model)

    def do() -> None:
        context.models.try_out(found)
        changes.set_candidate(context.models.database, found, Change(user.name, why))

    return _change(request, user, f"candidate {found.ref}", why, do)


@router.post("/models/withdraw")
def withdraw(
    request: Request,
    context: Annotated[Context, Depends(get_context)],
    user: Annotated[User, Depends(administrator)],
    why: Reason,
) -> Response:
    """Take the candidate out of the shadow: `medd models withdraw`."""
    desk = context.models

    def do() -> None:
        changes.withdraw(desk.database, desk.spec.name, Change(user.name, why))

    return _change(request, user, "withdraw", why, do)
