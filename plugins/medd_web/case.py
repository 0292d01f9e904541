"""One study: its images, what a model says of them and how it came to that, and what readers say."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from medd import plugins
from medd.dicom.findings import finding_of
from medd.errors import ModelUnusable, SettingsError
from medd.hookspecs import ClassifierSpec
from medd.records import UNSURE, MediaType, Prediction
from medd.registry import annotate as taking
from medd.registry import bundle as bundles
from medd.registry.bundle import Bundle
from medd.registry.registry import champion, find_spec
from medd.store import cases
from medd.store.cases import CaseImage
from medd.store.models import find_model
from medd.store.studies import WorklistFilter, find_study, find_worklist, mark_read, mark_unread
from medd.store.trail import Case, find_case, find_steps
from medd_web import words
from medd_web.actions import Action
from medd_web.audit import record
from medd_web.auth import User, reader
from medd_web.context import Context, get_context, page
from medd_web.header import describe
from medd_web.picture import find_image, note
from medd_web.worklist import Wanted, max_wait, wanted

router = APIRouter()

#: Images of a study that a page has room for, and other studies of a patient.
MAX_IMAGES, MAX_OTHERS = 60, 20
#: Studies of the worklist among which the one after this is looked for.
AHEAD = 500

Reader = Annotated[User, Depends(reader)]
Asked = Annotated[Wanted, Depends(wanted)]
Key = Annotated[str, Query(min_length=1, max_length=200)]


@dataclass(frozen=True, slots=True)
class Choices:
    """What a reader may say of an image."""

    #: What the model says, in its labels; "" where it says nothing that could be agreed with.
    agree: str
    #: The one other label; "" where there are several.
    disagree: str
    #: All other labels.
    others: tuple[str, ...]


def choices(prediction: Prediction | None, labels: Sequence[str]) -> Choices:
    """What a reader may say of an image, in the labels of the model on duty."""
    agree = prediction.label if prediction is not None and prediction.label in labels else ""
    others = tuple(label for label in labels if label != agree)
    return Choices(agree, others[0] if agree and len(others) == 1 else "", others)


# -- what is shown -------------------------------------------------------------------------------------------------


def _find(context: Context, key: str) -> Case:
    try:
        with context.database.read() as connection:
            return find_case(connection, key)
    except SettingsError as error:
        raise HTTPException(404, "there is no such study") from error


def _look_up(request: Request, user: User, case: Case, image_id: int | None, asked: Wanted) -> dict[str, Any]:
    """What the page shows, or its side."""
    context = get_context(request)
    now = datetime.now(UTC)
    with context.database.read() as connection:
        row = find_study(connection, case.study)
        if row is None:
            raise HTTPException(404, "there is no such study")
        wanted_id = image_id if image_id in case.instance_ids else row["instance_id"]
        images = cases.find_images(connection, sorted(case.instance_ids, key=lambda id_: id_ != wanted_id)[:MAX_IMAGES])
        image = next((one for one in images if one.id == wanted_id), images[0])
        said = cases.find_said(connection, image.id)
        others = cases.find_others(connection, case.study, row["patient_id"], MAX_OTHERS)
        sendings = cases.find_sendings(connection, [case.study]).get(case.study, [])
    refs = {image.prediction.model if image.prediction else image.refused_by}
    labels = _labels(context)
    return {
        "row": row,
        "images": images,
        "more_images": len(case.instance_ids) - len(images),
        "image": image,
        "said": said,
        "mine": next((one["label"] for one in said if one["reader"] == user.name), ""),
        "choices": choices(image.prediction, labels),
        "unsure": UNSURE,
        "finding": finding_of(image.prediction, {}).label if image.prediction else "",
        "others": others,
        "sendings": sendings,
        "bundle": next((_bundle(context, ref) for ref in refs if ref), None),
        "asked": asked,
        "now": now,
        "words": words,
    }


def _spec(context: Context) -> ClassifierSpec:
    return find_spec(context.settings.model.classifier, plugins.classifiers(context.manager))


def _labels(context: Context) -> tuple[str, ...]:
    """The labels of the model on duty; () where there is none."""
    try:
        on_duty = champion(context.database, _spec(context))
        return _read_bundle(on_duty.path, on_duty.digest).labels
    except ModelUnusable:
        return ()


def _bundle(context: Context, ref: str) -> Bundle | None:
    """The model that judged an image; None where its bundle is not on this host."""
    with context.database.read() as connection:
        model = find_model(connection, ref)
    try:
        return _read_bundle(model.path, model.digest) if model else None
    except ModelUnusable:
        return None


@lru_cache(maxsize=16)
def _read_bundle(path: Path, digest: str) -> Bundle:
    return bundles.read(path, verify=False)


@router.get("/case")
def case(request: Request, user: Reader, study: Key, asked: Asked, image: int | None = None) -> Response:
    """The page of a study; also by what names one of its images."""
    context = get_context(request)
    found = _find(context, study)
    if found.study != study:
        return RedirectResponse(f"{asked.case(found.study)}&image={found.instance_ids[0]}", 303)
    values = _look_up(request, user, found, image, asked)
    shown = values["image"]
    note(context, request, user, shown, again=True)
    facts = []
    if shown.media_type is MediaType.DICOM:
        facts = describe(context.spool.path(shown.sha256, shown.media_type))
    return page(request, "case.html", **values, facts=facts)


@router.get("/case/side")
def side(request: Request, user: Reader, study: Key, asked: Asked, image: int | None = None) -> HTMLResponse:
    """What may change while a case is open."""
    found = _find(get_context(request), study)
    return page(request, "case_side.html", **_look_up(request, user, found, image, asked))


@router.get("/case/trail")
def trail(request: Request, user: Reader, study: Key) -> HTMLResponse:
    """Every step of a case: the rows of `medd explain`."""
    context = get_context(request)
    found = _find(context, study)
    with context.database.read() as connection:
        steps = find_steps(connection, found)
    numbers = {id_: number for number, id_ in enumerate(found.instance_ids, 1)}
    return page(request, "case_trail.html", steps=steps, numbers=numbers)


# -- what readers do -----------------------------------------------------------------------------------------------


@router.post("/case/say")
def say(
    request: Request,
    user: Reader,
    asked: Asked,
    image: Annotated[int, Form(ge=1, lt=1 << 63)],
    label: Annotated[str, Form(max_length=64)],
    comment: Annotated[str, Form(max_length=500)] = "",
) -> Response:
    """Keep what a reader says of an image."""
    context = get_context(request)
    shown = find_image(context, image)
    said = taking.Said(str(image), label, user.name, comment.strip())
    taking.annotate(context.database, _spec(context), [said])
    record(context, request, user, Action.ANNOTATED, study=shown.study, instance=image, detail=label)
    return _after(request, user, asked, shown)


@router.post("/case/undo")
def undo(
    request: Request,
    user: Reader,
    asked: Asked,
    image: Annotated[int, Form(ge=1, lt=1 << 63)],
) -> Response:
    """Take back what a reader said of an image."""
    context = get_context(request)
    shown = find_image(context, image)
    taking.withdraw(context.database, str(image), user.name)
    record(context, request, user, Action.ANNOTATED, study=shown.study, instance=image, detail="taken back")
    return _after(request, user, asked, shown)


@router.post("/case/read")
def read(
    request: Request,
    user: Reader,
    asked: Asked,
    study: Annotated[str, Form(max_length=200)],
    unread: Annotated[bool, Form()] = False,
) -> Response:
    """Mark a study as read and go on to the most urgent one that waits; or mark it as unread and stay."""
    context = get_context(request)
    found = _find(context, study)
    with context.database.write() as connection:
        if unread:
            mark_unread(connection, found.study)
        else:
            mark_read(connection, found.study, user.name, datetime.now(UTC))
    record(context, request, user, Action.STUDY_READ, study=study, detail="unread" if unread else "")
    if unread:
        return RedirectResponse(asked.case(study), 303)
    return _go_to(context, asked, study, after=False)


@router.get("/case/next")
def skip(request: Request, user: Reader, asked: Asked, study: Key) -> Response:
    """Go on to the study that stands after this one, which stays where it is."""
    return _go_to(get_context(request), asked, study, after=True)


def _go_to(context: Context, asked: Wanted, study: str, *, after: bool) -> Response:
    now = datetime.now(UTC)
    which = asked.filter
    unread = WorklistFilter(which.since, which.status, which.text, which.origin, read=False)
    with context.database.read() as connection:
        rows = find_worklist(connection, unread, now, max_wait(context), AHEAD if after else 2)
    keys = [row["study"] for row in rows]
    if after and study in keys:
        keys = keys[keys.index(study) + 1 :]
    following = next((key for key in keys if key != study), None)
    return RedirectResponse(asked.case(following) if following else f"/{asked.query}", 303)


def _after(request: Request, user: User, asked: Wanted, image: CaseImage) -> Response:
    if "hx-request" not in request.headers:
        return RedirectResponse(f"{asked.case(image.study)}&image={image.id}", 303)
    found = _find(get_context(request), image.study)
    return page(request, "case_side.html", **_look_up(request, user, found, image.id, asked))
