"""Studies: the worklist, and one study with its images."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request, Response
from pydantic import BaseModel, Field, TypeAdapter

from medd.records import Status
from medd.store.repository import ResultFilter, find_results
from medd.store.studies import After, WorklistFilter, find_study, find_worklist
from medd.store.urgency import Place, label_of, place_of
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
from medd_web.api.results import Result
from medd_web.api.schema import listed, missing
from medd_web.auth import User, reader
from medd_web.context import Context, get_context

router = APIRouter(tags=["studies"])

_Rank = Annotated[float, Field(allow_inf_nan=False)]
# The moment by which the first page told what is overdue, the part of the list, and the place in it.
_Place: TypeAdapter[tuple[Any, ...]] = TypeAdapter(
    tuple[Instant, Literal["overdue", "read"], Instant, RowId]
    | tuple[Instant, Literal["fresh"], Literal[0, 1, 2], _Rank, Instant, RowId]
)
_READ = {"no": False, "yes": True, "any": None}


class Study(BaseModel):
    """One study. Without a score it is not normal: it is waiting, failed or not assessed."""

    study: str = Field(description="Study Instance UID; the SHA-256 of an image file, which is a study of its own.")
    study_instance_uid: str = Field(examples=["1.2.826.0.1.3680043.8.498.15"])
    patient_id: str = Field(examples=["P-0017"])
    accession_number: str = Field(examples=["A-2026-0017"])
    origin: str = Field(description="Of the image that decides.", examples=["dicom://CR1@10.1.2.3"])
    received_at: Moment = Field(description="The first image.")
    last_received_at: Moment = Field(description="The last image.")
    waiting_since: Moment = Field(description="The first image that was not there when the study was last read.")
    changed_at: Moment
    images: int
    pending: int = Field(description="Images that wait for the model.")
    scored: int
    failed: int
    not_assessed: int
    status: Status
    place: Place = Field(
        description="Why it stands where it stands: waiting for too long, a finding, not judged completely, below the "
        "threshold, or read."
    )
    instance_id: int = Field(description="The image that decides.", examples=[17])
    label: str | None = Field(
        description="Null where there is neither a finding nor a judgement of the whole study.", examples=["PNEUMONIA"]
    )
    positive: bool | None
    probability: float | None = Field(examples=[0.93])
    threshold: float | None = Field(examples=[0.48])
    model: str | None = Field(examples=["pneumonia/1"])
    reason: str | None = Field(description="Why it is not assessed, or failed.", examples=["lateral_view"])
    read_at: Moment | None
    read_by: str | None


class StudyWithImages(Study):
    """One study with its images, the newest first."""

    results: list[Result]


class Studies(Page[Study]):
    """One page of the worklist, most urgent first."""


class StudyQuery(Listing):
    """The filters of the worklist."""

    since: Since = None
    status: Status | None = Field(None, description="Only this status.")
    text: Word = Field(
        "", description="The beginning of a Patient ID or Accession Number, or a whole Study Instance UID."
    )
    origin: Word = Field("", description="Only from here, such as `dicom://CR1@10.1.2.3`.")
    read: Literal["no", "yes", "any"] = Field("no", description="Whether somebody has read it.")


@router.get("/studies", response_model=Studies, responses=listed(Study), summary="The worklist, most urgent first")
def list_studies(
    request: Request,
    response: Response,
    wanted: Annotated[StudyQuery, Query()],
    context: Annotated[Context, Depends(get_context)],
    user: Annotated[User, Depends(reader)],
) -> Any:
    """The worklist. What is overdue on the first page is so on all pages that follow it."""
    since, max_wait = moment_of(wanted.since), context.settings.worklist.max_wait
    fits = WorklistFilter(since, wanted.status, wanted.text, wanted.origin, _READ[wanted.read])
    first = datetime.now(UTC)

    def fetch(place: tuple[Any, ...] | None, limit: int) -> list[dict[str, Any]]:
        now, after = (place[0], After(place[1], place[2:])) if place else (first, None)
        with context.database.read() as connection:
            rows = find_worklist(connection, fits, now, max_wait, limit, after=after)
        return [row | {"now": now, "label": label_of(row)} for row in rows]

    def behind(row: Any) -> tuple[Any, ...]:
        after = After.of(row)
        return (row["now"], after.part, *after.values)

    audit.record(context, request, user, audit.Action.STUDIES_LISTED, detail=asked(request))
    return answer(request, response, wanted, Study, Source(fetch, behind, _Place, settled(since)))


@router.get("/studies/{study}", response_model=StudyWithImages, responses=missing(), summary="One study and its images")
def show_study(
    request: Request,
    study: Annotated[Word, Path(description="Study Instance UID, or the SHA-256 of an image file.")],
    context: Annotated[Context, Depends(get_context)],
    user: Annotated[User, Depends(reader)],
) -> Any:
    """One study with its images."""
    with context.database.read() as connection:
        row = find_study(connection, study)
        if row is None:
            raise HTTPException(404, "no such study")
        uid = row["study_instance_uid"]
        images = ResultFilter(study=uid) if uid else ResultFilter(instance_id=row["instance_id"])
        results = list(find_results(connection, images))
    audit.record(context, request, user, audit.Action.CASE_SEEN, study=study)
    place = place_of(row, datetime.now(UTC), context.settings.worklist.max_wait)
    return row | {"place": place, "label": label_of(row), "results": results}
