"""Results: what was received, image by image, and what the model said of it."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field, TypeAdapter

from medd.records import Status
from medd.store.outbox import study_key
from medd.store.repository import ResultFilter, find_results
from medd_web import audit
from medd_web.api.listing import (
    Instant,
    Listing,
    Moment,
    Page,
    RowId,
    Since,
    Source,
    Word,
    answer,
    asked,
    moment_of,
    settled,
)
from medd_web.api.lookup import Key, find_one
from medd_web.api.schema import listed, missing
from medd_web.auth import User, reader
from medd_web.context import Context, get_context

router = APIRouter(tags=["results"])

_Place = TypeAdapter(tuple[Instant, RowId])


class Result(BaseModel):
    """One image. The keys are those of `medd results --format json`. Without a score it is not normal."""

    instance_id: int = Field(description="Row id in this database.", examples=[17])
    sop_instance_uid: str = Field(description="Empty for JPEG, PNG, TIFF.", examples=["1.2.826.0.1.3680043.8.498.17"])
    series_instance_uid: str = Field(examples=["1.2.826.0.1.3680043.8.498.16"])
    study_instance_uid: str = Field(examples=["1.2.826.0.1.3680043.8.498.15"])
    patient_id: str = Field(examples=["P-0017"])
    accession_number: str = Field(examples=["A-2026-0017"])
    origin: str = Field(
        description="`dicom://AE@host`, `dicomweb://USER@host`, `upload://USER@host/FILE` or `file:relative/path`.",
        examples=["dicom://CR1@10.1.2.3"],
    )
    sha256: str = Field(description="Of the dataset's bytes (DICOM) or of the file.", examples=["9f86d081884c7d65…"])
    received_at: Moment
    status: Status = Field(description="Only `scored` has a score; `not_assessed` and `failed` say why in `reason`.")
    reason: str | None = Field(description="Why it is not assessed, or failed.", examples=["lateral_view"])
    model: str | None = Field(description="`name/version`.", examples=["pneumonia/1"])
    label: str | None = Field(description="What is shown to people.", examples=["PNEUMONIA"])
    positive: bool | None = Field(description="Whether `probability` reached `threshold`.")
    probability: float | None = Field(description="Of the positive class, in [0, 1].", examples=[0.93])
    probabilities: dict[str, float] | None = Field(
        description="Of each label.", examples=[{"NORMAL": 0.07, "PNEUMONIA": 0.93}]
    )
    threshold: float | None = Field(description="Of the model, in [0, 1].", examples=[0.48])
    scored_at: Moment | None
    conflict: bool = Field(description="Another instance has the same SOP Instance UID and other bytes.")
    flags: list[str] | None = Field(description="What to doubt about the score.", examples=[["age_outside_training"]])


class Results(Page[Result]):
    """One page of results, newest first."""


class ResultQuery(Listing):
    """The filters of `medd results`."""

    since: Since = None
    label: Word | None = Field(None, description="Only this label.", examples=["PNEUMONIA"])
    min_probability: float | None = Field(None, ge=0, le=1, description="At least this probability.")
    patient: Word | None = Field(None, description="Only this Patient ID.")
    study: Word | None = Field(None, description="Only this Study Instance UID.")
    status: Status | None = Field(None, description="Only this status.")


@router.get("/results", response_model=Results, responses=listed(Result), summary="What was received, newest first")
def list_results(
    request: Request,
    response: Response,
    wanted: Annotated[ResultQuery, Query()],
    context: Annotated[Context, Depends(get_context)],
    user: Annotated[User, Depends(reader)],
) -> Any:
    """What was received and what the model said of it, newest first: `medd results`."""
    since = moment_of(wanted.since)

    def fetch(after: tuple[Any, int] | None, limit: int) -> list[dict[str, Any]]:
        fits = ResultFilter(
            since, wanted.label, wanted.min_probability, wanted.patient, wanted.study, wanted.status, limit, after
        )
        with context.database.read() as connection:
            return list(find_results(connection, fits))

    audit.record(context, request, user, audit.Action.EXPORTED, detail=asked(request))
    source = Source(fetch, lambda row: (row["received_at"], row["instance_id"]), _Place, settled(since))
    return answer(request, response, wanted, Result, source)


@router.get("/results/{key}", response_model=Result, responses=missing(), summary="One image")
def show_result(
    request: Request,
    key: Key,
    context: Annotated[Context, Depends(get_context)],
    user: Annotated[User, Depends(reader)],
) -> Any:
    """One image, by its instance id, SHA-256 or SOP Instance UID."""
    with context.database.read() as connection:
        instance_id = find_one(connection, key)
        [row] = find_results(connection, ResultFilter(instance_id=instance_id))
    study = study_key(row["study_instance_uid"], row["sha256"])
    audit.record(context, request, user, audit.Action.CASE_SEEN, study=study, instance=instance_id)
    return row
