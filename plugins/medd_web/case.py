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
from medd.store.studies import After, WorklistFilter, find_study, find_worklist, mark_read, mark_unread
from medd.store.trail import Case, find_case, find_steps
from medd.store.urgency import place_of
from medd_web import words
from medd_web.actions import Action
from medd_web.audit import record_in
from medd_web.auth import User, reader
from medd_web.context import Context, get_context, page
from medd_web.dossier import measured
from medd_web.header import describe
from medd_web.picture import find_image, note
from medd_web.worklist import Wanted, wanted

router = APIRouter()

#: Images of a study that a page has room for.
MAX_IMAGES = 60
#: Other studies of a patient that are listed; of more of them the ID is none of one patient.
MAX_OTHERS = 50

Reader = Annotated[User, Depends(reader)]
Asked = Annotated[Wanted, Depends(wanted)]
Key = Annotated[str, Query(min_length=1, max_length=200)]
#: How many images of the study the page showed: what came since was not seen by whoever says that it is read.
Seen = Annotated[int | None, Form(ge=1, lt=1 << 31)]


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


def _look_up(
    request: Request, user: User, case: Case, image_id: int | None, asked: Wanted, seen: int | None = None
) -> dict[str, Any]:
    """What the page shows, or its side, which says where the page has `seen` fewer images than there are."""
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
    labels, bundle = _labels(context), next((_bundle(context, ref) for ref in refs if ref), None)
    return {
        "row": row,
        "images": images,
        "more_images": len(case.instance_ids) - len(images),
        # Not the count of the row, which may be newer than the images.
        "seen": len(case.instance_ids) if seen is None else seen,
        "late": case.instance_ids[-1] if seen not in (None, len(case.instance_ids)) else None,
        "image": image,
        "said": said,
        "mine": next((one["label"] for one in said if one["reader"] == user.name), ""),
        "choices": choices(image.prediction, labels),
        "unsure": UNSURE,
        "finding": finding_of(image.prediction, {}).label if image.prediction else "",
        "others": others,
        "max_others": MAX_OTHERS,
        "sendings": sendings,
        "bundle": bundle,
        "auroc": measured(bundle.evaluation, "auroc").value if bundle else None,
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
def case(
    request: Request, user: Reader, study: Key, asked: Asked, image: int | None = None, late: bool = False
) -> Response:
    """The page of a study; also by what names one of its images. `late`: it was not marked as read."""
    context = get_context(request)
    found = _find(context, study)
    if found.study != study:
        return RedirectResponse(f"{asked.case(found.study)}&image={found.instance_ids[0]}", 303)
    values = _look_up(request, user, found, image, asked)
    shown = values["image"]
    note(context, request, user, shown.study, shown.id, again=True)
    facts = []
    if shown.media_type is MediaType.DICOM:
        facts = describe(context.bring(shown))
    return page(request, "case.html", **values, facts=facts, is_late=late)


@router.get("/case/side")
def side(
    request: Request, user: Reader, study: Key, asked: Asked, image: int | None = None, seen: int | None = None
) -> HTMLResponse:
    """What may change while a case is open."""
    context = get_context(request)
    values = _look_up(request, user, _find(context, study), image, asked, seen)
    note(context, request, user, values["image"].study, values["image"].id)
    return page(request, "case_side.html", **values)


@router.get("/case/trail")
def trail(request: Request, user: Reader, study: Key) -> HTMLResponse:
    """Every step of a case: the rows of `medd explain`."""
    context = get_context(request)
    found = _find(context, study)
    note(context, request, user, found.study)
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
    seen: Seen = None,
) -> Response:
    """Keep what a reader says of an image; by that the study is read, unless it has images that were not seen."""
    context = get_context(request)
    shown = find_image(context, image)
    said = taking.Said(str(image), label, user.name, comment.strip())
    labels = taking.labels_on_duty(context.database, _spec(context))
    with context.write() as connection:
        if taking.annotate_in(connection, labels, [said], seen):
            record_in(connection, request, user, Action.ANNOTATED, study=shown.study, instance=image, detail=label)
    return _after(request, user, asked, shown, seen)


@router.post("/case/undo")
def undo(
    request: Request,
    user: Reader,
    asked: Asked,
    image: Annotated[int, Form(ge=1, lt=1 << 63)],
    seen: Seen = None,
) -> Response:
    """Take back what a reader said of an image."""
    context = get_context(request)
    shown = find_image(context, image)
    told: dict[str, Any] = {"study": shown.study, "instance": image, "detail": "taken back"}
    with context.write() as connection:
        if taking.withdraw_in(connection, str(image), user.name):
            record_in(connection, request, user, Action.ANNOTATED, **told)
    return _after(request, user, asked, shown, seen)


@router.post("/case/read")
def read(
    request: Request,
    user: Reader,
    asked: Asked,
    study: Annotated[str, Form(max_length=200)],
    unread: Annotated[bool, Form()] = False,
    seen: Seen = None,
) -> Response:
    """Mark a study as read and go on to the most urgent one that waits; or mark it as unread and stay.

    Where an image came since the page was shown, it is not marked as read, and the image is shown.
    """
    context = get_context(request)
    key = _find(context, study).study
    with context.write() as connection:
        if unread:
            is_changed = mark_unread(connection, key)
        else:
            is_changed = mark_read(connection, key, user.name, datetime.now(UTC), seen)
        if is_changed:
            record_in(connection, request, user, Action.STUDY_READ, study=key, detail="unread" if unread else "")
        row = find_study(connection, key)
    if unread:
        return RedirectResponse(asked.case(key), 303)
    if row is not None and row["read_at"] is None:
        return RedirectResponse(f"{asked.case(key)}&image={_find(context, key).instance_ids[-1]}&late=1", 303)
    return _go_to(context, asked, key, after=False)


@router.get("/case/next")
def skip(request: Request, user: Reader, asked: Asked, study: Key) -> Response:
    """Go on to the study that stands after this one, which stays where it is."""
    return _go_to(get_context(request), asked, study, after=True)


def _go_to(context: Context, asked: Wanted, study: str, *, after: bool) -> Response:
    now = datetime.now(UTC)
    which = asked.filter
    unread = WorklistFilter(which.since, which.status, which.text, which.origin, read=False)
    with context.database.read() as connection:
        row = find_study(connection, study) if after else None
        behind = None
        if row is not None and row["read_at"] is None:
            behind = After.of(row | {"place": place_of(row, now, context.settings.worklist.max_wait)})
        rows = find_worklist(connection, unread, now, context.settings.worklist.max_wait, 2, after=behind)
    following = next((row["study"] for row in rows if row["study"] != study), None)
    return RedirectResponse(asked.case(following) if following else f"/{asked.query}", 303)


def _after(request: Request, user: User, asked: Wanted, image: CaseImage, seen: int | None) -> Response:
    found = _find(get_context(request), image.study)
    if "hx-request" not in request.headers:
        late = "&late=1" if seen not in (None, len(found.instance_ids)) else ""
        return RedirectResponse(f"{asked.case(image.study)}&image={image.id}{late}", 303)
    return page(request, "case_side.html", **_look_up(request, user, found, image.id, asked, seen))
