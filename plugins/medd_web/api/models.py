"""Models: which there are, what was measured of one, and which is on duty."""

from contextlib import suppress
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from medd.classify.desk import describe
from medd.errors import ModelUnusable, SettingsError
from medd.records import ModelVersion, Role
from medd.registry import bundle as bundles
from medd.registry import changes
from medd.store.models import find_events, find_model
from medd_web import audit
from medd_web.api.listing import Listing, Moment, Page, Source, Word, answer
from medd_web.api.schema import NO_TEXT, listed, missing, problems
from medd_web.auth import User, administrator, reader
from medd_web.context import Context, get_context

router = APIRouter(tags=["models"])

_Place = TypeAdapter(tuple[Word])
_OF_BUNDLE = {"labels", "positive_labels", "intended_use", "licence", "evaluation", "training"}
Name = Annotated[str, Path(max_length=64, pattern=r"^[a-z0-9][a-z0-9_-]*$", examples=["pneumonia"])]
Version = Annotated[str, Path(max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", examples=["1"])]


class Model(BaseModel):
    """One model version. The keys are those of `medd models list --format json`, but for its path."""

    model: str = Field(description="`name/version`.", examples=["pneumonia/1"])
    role: Role = Field(description="The champion is on duty; the candidate is tried in its shadow.")
    created_at: Moment | None
    threshold: float | None = Field(examples=[0.48])
    accuracy: float | None = Field(description="As measured when it was made.", examples=[0.93])
    auroc: float | None = Field(examples=[0.97])
    digest: str = Field(description="SHA-256 of its description.")
    unusable: str | None = Field(description="What is wrong with its bundle; null where it is whole.")


class Event(BaseModel):
    """Something that was done to a model."""

    at: Moment
    what: str = Field(examples=["promoted"])
    model: str = Field(examples=["pneumonia/1"])
    who: str = Field(examples=["anna"])
    why: str
    figures: dict[str, Any] = Field(description="What it was decided by.")


class ModelWithEvaluation(Model):
    """One model version with what it is for and what was measured, and what was done to it, newest first."""

    labels: list[str] = Field([], examples=[["NORMAL", "PNEUMONIA"]])
    positive_labels: list[str] = Field([], examples=[["PNEUMONIA"]])
    intended_use: str = ""
    licence: str = ""
    evaluation: dict[str, Any] = Field({}, description="Metrics, intervals, and the data they were measured on.")
    training: dict[str, Any] = {}
    events: list[Event]


class Models(Page[Model]):
    """One page of models, in the order in which they became known."""


class Reasoned(BaseModel):
    """Why it is done; kept for ever."""

    model_config = ConfigDict(extra="forbid")

    why: Word = Field(min_length=1, examples=["better on the films of our new room"])


class OnDuty(BaseModel):
    """Which model is on duty now."""

    model: str = Field(examples=["pneumonia/2"])


@router.get("/models", response_model=Models, responses=listed(Model), summary="The models and their roles")
def list_models(
    request: Request,
    response: Response,
    wanted: Annotated[Listing, Query()],
    context: Annotated[Context, Depends(get_context)],
    _user: Annotated[User, Depends(reader)],
) -> Any:
    """The models that are known, their roles, and what was measured when they were made: `medd models list`."""
    known = context.models.known()

    def fetch(place: tuple[str] | None, limit: int) -> list[dict[str, Any]]:
        refs = [model.ref for model in known]
        start = refs.index(place[0]) + 1 if place and place[0] in refs else len(refs) if place else 0
        return [describe(model) for model in known[start : start + limit]]

    return answer(request, response, wanted, Model, Source(fetch, lambda row: (row["model"],), _Place))


@router.get(
    "/models/{name}/{version}",
    response_model=ModelWithEvaluation,
    responses=missing(),
    summary="One model and its evaluation",
)
def show_model(
    name: Name,
    version: Version,
    context: Annotated[Context, Depends(get_context)],
    _user: Annotated[User, Depends(reader)],
) -> Any:
    """One model with what it is for, what was measured of it, and what was done to it."""
    model = _find(context, f"{name}/{version}")
    with context.database.read() as connection:
        events = find_events(connection, model.classifier, model.ref)
    row: dict[str, Any] = describe(model) | {"events": [asdict(event) for event in events]}
    with suppress(ModelUnusable):
        row |= bundles.read(model.path, verify=False).model_dump(include=_OF_BUNDLE)
    return row


@router.post(
    "/models/{name}/{version}/promote",
    response_model=OnDuty,
    responses=missing(s400=NO_TEXT, s409="A plugin objects, or the bundle cannot be used."),
    summary="Put a model on duty",
)
def promote(
    request: Request,
    name: Name,
    version: Version,
    said: Reasoned,
    context: Annotated[Context, Depends(get_context)],
    user: Annotated[User, Depends(administrator)],
) -> Any:
    """Put a model on duty after a trial; workers take it between two batches. `medd models promote`."""
    model = _find(context, f"{name}/{version}")
    detail = f"promote {model.ref}: {said.why}"
    with audit.attempt(context, request, user, audit.Action.MODEL_CHANGED, detail):
        return {"model": context.models.promote(model.ref, user.name, said.why).ref}


@router.post(
    "/models/rollback",
    response_model=OnDuty,
    responses=problems(s400=NO_TEXT, s409="There is nothing to go back to, or it cannot be used."),
    summary="Put the model on duty again that the present one replaced",
)
def rollback(
    request: Request,
    said: Reasoned,
    context: Annotated[Context, Depends(get_context)],
    user: Annotated[User, Depends(administrator)],
) -> Any:
    """Put the model on duty again that the present one replaced: `medd models rollback`."""
    desk = context.models
    change = changes.Change(user.name, said.why)
    try:
        with audit.attempt(context, request, user, audit.Action.MODEL_CHANGED, f"rollback: {said.why}"):
            back = changes.rollback(desk.database, desk.spec.name, desk.manager, change)
    except SettingsError as error:
        raise HTTPException(409, str(error)) from None
    return {"model": back.ref}


def _find(context: Context, ref: str) -> ModelVersion:
    # Only what is known: the desk would take a folder's name as well.
    context.models.known()
    with context.database.read() as connection:
        model = find_model(connection, ref)
    if model is None or model.classifier != context.models.spec.name:
        raise HTTPException(404, "no model of this name and version is known")
    return model
