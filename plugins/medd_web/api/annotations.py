"""Annotations: what readers say the truth is."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from medd.records import UNSURE
from medd.registry import annotate
from medd.store.annotations import list_annotations
from medd.store.studies import find_study
from medd_web import audit
from medd_web.api.listing import Listing, Moment, Page, RowId, Source, Word, answer, asked
from medd_web.api.lookup import Key, find_one, study_of
from medd_web.api.schema import listed, missing
from medd_web.auth import User, reader
from medd_web.context import Context, get_context

router = APIRouter(tags=["annotations"])

_Place = TypeAdapter(tuple[RowId])


class AnnotationRow(BaseModel):
    """What one reader said of one image. Rows are only added: of each reader the newest counts."""

    id: int = Field(examples=[3])
    at: Moment
    instance_id: int = Field(examples=[17])
    sop_instance_uid: str = Field(examples=["1.2.826.0.1.3680043.8.498.17"])
    sha256: str = Field(examples=["9f86d081884c7d65…"])
    label: str = Field(
        description='A label of the model; "?" of who cannot tell; empty where it was taken back.',
        examples=["PNEUMONIA"],
    )
    reader: str = Field(examples=["anna"])
    comment: str
    counts: bool = Field(description="Whether it is the reader's last word, and one to learn from.")
    contradicted: bool = Field(description="Whether readers disagree on the image.")


class Annotations(Page[AnnotationRow]):
    """One page of annotations, newest first."""


class AnnotationQuery(Listing):
    """The filters of `medd annotations`."""

    contradicted: bool = Field(False, description="Only where readers disagree.")


class Saying(BaseModel):
    """What is to be said of an image, by whoever asks."""

    model_config = ConfigDict(extra="forbid")

    uid: Word = Field(min_length=1, description="Instance id, SHA-256 in hex, or SOP Instance UID.", examples=["17"])
    label: Word = Field(
        min_length=1,
        description=f'A label of the model on duty, in any case; "{UNSURE}" where you cannot tell.',
        examples=["NORMAL"],
    )
    comment: Word = Field("", description="A sentence more.", examples=["a nipple shadow"])
    images: int | None = Field(
        None,
        ge=1,
        lt=1 << 31,
        description="How many images of the study you saw, as `images` of the study told. Where it has others by now, "
        "what you say is kept, and the study is not marked as read.",
        examples=[1],
    )


class Said(BaseModel):
    """What became of it."""

    instance_id: int = Field(examples=[17])
    reader: str = Field(description="In whose name.", examples=["anna"])
    new: bool = Field(description="False where the reader had said so already.")
    read: bool = Field(description="Whether the study counts as read now.")


@router.get("/annotations", response_model=Annotations, responses=listed(AnnotationRow), summary="What readers said")
def show_annotations(
    request: Request,
    response: Response,
    wanted: Annotated[AnnotationQuery, Query()],
    context: Annotated[Context, Depends(get_context)],
    user: Annotated[User, Depends(reader)],
) -> Any:
    """What readers said, newest first, and where they contradict each other: `medd annotations`."""

    def fetch(place: tuple[int] | None, limit: int) -> list[dict[str, Any]]:
        before = place[0] if place else None
        with context.database.read() as connection:
            found = list_annotations(connection, contradicted=wanted.contradicted, before=before, limit=limit)
            return list(found)

    audit.record(context, request, user, audit.Action.EXPORTED, detail=asked(request))
    return answer(request, response, wanted, AnnotationRow, Source(fetch, lambda row: (row["id"],), _Place))


@router.post(
    "/annotations",
    status_code=201,
    response_model=Said,
    responses=missing(
        s400="The label is none of the model on duty, or the body is no text.",
        s409="Several instances have this UID, or no model is on duty.",
    ),
    summary="Say what an image shows",
)
def say(
    request: Request,
    said: Saying,
    context: Annotated[Context, Depends(get_context)],
    user: Annotated[User, Depends(reader)],
) -> Any:
    """Say in your own name what the truth of an image is; its study counts as read. Of your words the last counts."""
    with context.database.read() as connection:
        instance_id = find_one(connection, said.uid)
        study = study_of(connection, instance_id)
    one = annotate.Said(str(instance_id), said.label, user.name, said.comment)
    labels = annotate.labels_on_duty(context.database, context.models.spec)
    told: dict[str, Any] = {"study": study, "instance": instance_id, "detail": said.label}
    with context.write() as connection:
        new = annotate.annotate_in(connection, labels, [one], said.images)
        if new:
            audit.record_in(connection, request, user, audit.Action.ANNOTATED, **told)
        row = find_study(connection, study)
    is_read = row is not None and row["read_at"] is not None
    return {"instance_id": instance_id, "reader": user.name, "new": bool(new), "read": is_read}


@router.delete("/annotations/{key}", status_code=204, responses=missing(), summary="Take back what you said")
def take_back(
    request: Request,
    key: Key,
    context: Annotated[Context, Depends(get_context)],
    user: Annotated[User, Depends(reader)],
) -> None:
    """Take back what you said of an image; it stays in the history, and nothing is learned from it."""
    with context.database.read() as connection:
        instance_id = find_one(connection, key)
        study = study_of(connection, instance_id)
    told: dict[str, Any] = {"study": study, "instance": instance_id, "detail": "withdrawn"}
    with context.write() as connection:
        if not annotate.withdraw_in(connection, str(instance_id), user.name):
            raise HTTPException(404, "you say nothing of this image")
        audit.record_in(connection, request, user, audit.Action.ANNOTATED, **told)
