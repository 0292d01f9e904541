"""Jobs: what waits, what died of what, and another try."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from medd.queue.base import CLASSIFY, DELIVER
from medd.queue.sql import SqlQueue
from medd.store.outbox import Deliveries, count_deliveries, list_dead_deliveries
from medd.store.repository import list_dead
from medd_web import audit
from medd_web.api.listing import Listing, Page, RowId, Source, answer, asked
from medd_web.api.schema import NO_TEXT, listed, problems
from medd_web.auth import User, operator, reader
from medd_web.context import Context, get_context

router = APIRouter(tags=["jobs"])

Kind = Literal["classify", "deliver"]
_Place = TypeAdapter(tuple[Kind, RowId])


class DeadJob(BaseModel):
    """An image that could not be scored, or a study that could not be delivered, and why."""

    kind: Kind
    id: int = Field(description="Of the job or the delivery.", examples=[5])
    instance_id: int | None = Field(None, description="Of an image that could not be scored.", examples=[17])
    sop_instance_uid: str | None = Field(None, examples=["1.2.826.0.1.3680043.8.498.17"])
    study: str | None = Field(None, description="Of a study that could not be delivered.")
    destination: str | None = Field(None, examples=["pacs"])
    attempts: int
    error: str | None = Field(description="What went wrong last.", examples=["the worker died or fell silent"])


class DeadJobs(Page[DeadJob]):
    """One page of what is dead: images first, then deliveries, each the newest first."""


class DeadQuery(Listing):
    """The filters of the list."""

    kind: Kind | None = Field(None, description="Only images (`classify`) or only deliveries (`deliver`).")


class Count(BaseModel):
    """How many jobs of a kind are in a state."""

    kind: Kind
    state: Literal["pending", "running", "done", "dead"]
    jobs: int = Field(examples=[12])


class Retry(BaseModel):
    """What is to be tried again; all that is dead where nothing is named."""

    model_config = ConfigDict(extra="forbid")

    instances: list[RowId] | None = Field(None, max_length=1000, description="Instance ids.")
    deliveries: list[RowId] | None = Field(None, max_length=1000, description="Ids of deliveries.")


class Back(BaseModel):
    """How many wait again."""

    back: int = Field(examples=[2])


@router.get("/jobs", response_model=DeadJobs, responses=listed(DeadJob), summary="What died, and of what")
def list_jobs(
    request: Request,
    response: Response,
    wanted: Annotated[DeadQuery, Query()],
    context: Annotated[Context, Depends(get_context)],
    user: Annotated[User, Depends(reader)],
) -> Any:
    """Dead jobs and deliveries, and why they died: `medd queue list`."""

    def fetch(place: tuple[Kind, int] | None, limit: int) -> list[dict[str, Any]]:
        kind, before = place or (CLASSIFY, None)
        rows: list[dict[str, Any]] = []
        with context.database.read() as connection:
            if kind == CLASSIFY:
                if wanted.kind != DELIVER:
                    rows += list_dead(connection, limit, before)
                before = None
            if wanted.kind != CLASSIFY and len(rows) < limit:
                deliveries = list_dead_deliveries(connection, limit - len(rows), before)
                rows += ({"kind": DELIVER, **row} for row in deliveries)
        return rows

    audit.record(context, request, user, audit.Action.STUDIES_LISTED, detail=asked(request))
    return answer(request, response, wanted, DeadJob, Source(fetch, lambda row: (row["kind"], row["id"]), _Place))


@router.get("/jobs/counts", response_model=list[Count], responses=problems(), summary="How much waits")
def count_jobs(context: Annotated[Context, Depends(get_context)], _user: Annotated[User, Depends(reader)]) -> Any:
    """How many jobs wait, run, are done, are dead: images to score, studies to deliver. `medd queue status`."""
    with context.database.read() as connection:
        deliveries = count_deliveries(connection)
    jobs = SqlQueue(context.database).counts(CLASSIFY)
    rows = [{"kind": CLASSIFY, "state": str(state), "jobs": count} for state, count in jobs.items()]
    return rows + [{"kind": DELIVER, "state": str(state), "jobs": count} for state, count in deliveries.items()]


@router.post("/jobs/retry", response_model=Back, responses=problems(s400=NO_TEXT), summary="Try again what died")
def retry(
    request: Request,
    wanted: Retry,
    context: Annotated[Context, Depends(get_context)],
    user: Annotated[User, Depends(operator)],
) -> Any:
    """Bring dead jobs and deliveries back into the queue: `medd queue retry`."""
    audit.record(context, request, user, audit.Action.WORK_RETRIED, detail=wanted.model_dump_json(exclude_none=True))
    every = wanted.instances is None and wanted.deliveries is None
    back = 0
    if every or wanted.instances is not None:
        back += SqlQueue(context.database).revive(CLASSIFY, wanted.instances)
    if every or wanted.deliveries is not None:
        back += Deliveries(context.database).revive(wanted.deliveries)
    return {"back": back}
