"""Lists: page by page, as JSON or CSV.

A page ends where the next begins: its link carries the place of its last row in the order, not how many rows came
before. So whatever comes in while somebody goes through the pages, no row is left out or comes twice.
"""

import base64
import binascii
import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from fastapi import HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, TypeAdapter, WithJsonSchema
from pydantic_core import ValidationError

from medd.errors import SettingsError
from medd.records import is_storable
from medd.rows import csv_cells, parse_since, plain
from medd_web.api.negotiate import choose

#: Rows on a page where nobody says how many, and at most.
PAGE, MOST = 100, 1000
JSON, CSV = "application/json", "text/csv"
_FORMS = {"json": JSON, "csv": CSV}


def _storable(text: str) -> str:
    if not is_storable(text):
        raise ValueError("text in UTF-8 without NUL is needed")
    return text


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError("no time between the years 1 and 9999") from None


#: What a database takes.
Word = Annotated[str, Field(max_length=256), AfterValidator(_storable)]
#: The number of a row.
RowId = Annotated[int, Field(ge=1, lt=1 << 63, examples=[17])]
#: A time as `medd results --format json` writes it.
Moment = Annotated[
    datetime,
    PlainSerializer(plain, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-01-02T03:04:05.678Z"]}),
]
#: A place in time within the order of a list.
Instant = Annotated[datetime, AfterValidator(_in_utc)]
#: 30m, 24h, 7d, or an ISO 8601 time.
Since = Annotated[
    str | None,
    Field(
        default=None,
        max_length=40,
        description="Received since: `30m`, `24h` or `7d` ago, or an ISO 8601 time (UTC where it names no zone).",
        examples=["24h"],
    ),
]

Row = TypeVar("Row", bound=BaseModel)


class Page(BaseModel, Generic[Row]):
    """One page of a list."""

    items: list[Row]
    next: str | None = Field(
        description="Where the next page is, with the same filters; null on the last one. Also in the header `Link`.",
        examples=["/api/v1/results?limit=100&cursor=WyIyMDI2LTAxLTAyVDAzOjA0OjA1LjY3OFoiLDE3XQ"],
    )


class Listing(BaseModel):
    """What every list can be asked. An unknown filter is an error: nobody is given more than was asked for."""

    model_config = ConfigDict(extra="forbid")

    limit: int | None = Field(
        default=None,
        ge=1,
        le=MOST,
        description=f"At most so many rows; {PAGE} where it is left out, but a CSV is then the whole list.",
    )
    cursor: str | None = Field(
        default=None, max_length=400, description="From the link to the next page; it says nothing to anybody else."
    )
    format: Literal["json", "csv"] | None = Field(default=None, description="Goes before the header `Accept`.")


@dataclass(frozen=True)
class Source:
    """Where the rows of a list come from.

    Attributes:
        fetch: Gives at most so many rows behind a place, or from the beginning.
        place_of: The place of a row in the order, as JSON has it.
        place: What a place is made of, to check one that comes from outside.
        settled: Filters that are to stay what they mean now: "24h" moves on while somebody turns pages.
    """

    fetch: Callable[[Any, int], Sequence[Mapping[str, Any]]]
    place_of: Callable[[Mapping[str, Any]], Sequence[Any]]
    place: TypeAdapter[Any]
    settled: Mapping[str, str] = field(default_factory=dict)


def moment_of(since: str | None) -> datetime | None:
    """The moment that a filter names.

    Raises:
        HTTPException: It is none (422).
    """
    try:
        return parse_since(since, "since") if since else None
    except SettingsError as error:
        raise HTTPException(422, str(error)) from None


def settled(since: datetime | None) -> dict[str, str]:
    """The moment as a filter that stays."""
    return {"since": since.isoformat()} if since else {}


def asked(request: Request) -> str:
    """What was asked, for the audit trail."""
    filters = "&".join(f"{name}={value}" for name, value in request.query_params.items() if name != "cursor")
    return f"{request.url.path}?{filters}" if filters else request.url.path


def answer(
    request: Request, response: Response, wanted: Listing, row: type[BaseModel], source: Source
) -> dict[str, Any] | Response:
    """A page of JSON, or CSV.

    Args:
        request: The request.
        response: Where the header goes that names the next page.
        wanted: What was asked.
        row: What a row looks like.
        source: The rows.

    Raises:
        HTTPException: The cursor is none of ours (422), or no form suits (406).
    """
    place = _read_cursor(wanted.cursor, source.place)
    form = _FORMS[wanted.format] if wanted.format else choose(request.headers.get("accept", ""), (JSON, CSV))
    if form is None:
        raise HTTPException(406, f"{JSON} or {CSV} can be had")
    if form == CSV and wanted.limit is None:
        return _csv(row, request, _all_pages(source, place))
    size = wanted.limit or PAGE
    rows = source.fetch(place, size + 1)
    following = _link(request, source, rows[size - 1]) if len(rows) > size else None
    link = {"Link": f'<{following}>; rel="next"'} if following else {}
    if form == CSV:
        return _csv(row, request, iter([rows[:size]]), link)
    response.headers.update(link)
    return {"items": rows[:size], "next": following}


def _all_pages(source: Source, place: Any) -> Iterator[Sequence[Mapping[str, Any]]]:
    # Each page is a question of its own: who reads slowly holds no transaction open.
    while rows := source.fetch(place, MOST):
        yield rows
        if len(rows) < MOST:
            return
        place = source.place.validate_python(source.place_of(rows[-1]))


def _csv(
    row: type[BaseModel],
    request: Request,
    pages: Iterator[Sequence[Mapping[str, Any]]],
    headers: Mapping[str, str] | None = None,
) -> Response:
    columns = tuple(row.model_fields)
    first = next(pages, ())  # while an error can still be told

    def lines() -> Iterator[str]:
        yield _lines([columns, *(csv_cells(one, columns) for one in first)])
        for rows in pages:
            yield _lines(csv_cells(one, columns) for one in rows)

    name = request.url.path.rstrip("/").rpartition("/")[2]
    shown = {"Content-Disposition": f'attachment; filename="{name}.csv"', **(headers or {})}
    return StreamingResponse(lines(), media_type="text/csv; charset=utf-8; header=present", headers=shown)


def _lines(rows: Iterable[Iterable[Any]]) -> str:
    out = io.StringIO(newline="")
    csv.writer(out).writerows(rows)
    return out.getvalue()


def _link(request: Request, source: Source, last: Mapping[str, Any]) -> str:
    place = source.place.dump_json(source.place.validate_python(source.place_of(last)))
    cursor = base64.urlsafe_b64encode(place).decode().rstrip("=")
    url = request.url.include_query_params(**source.settled, cursor=cursor)
    return f"{url.path}?{url.query}"


def _read_cursor(cursor: str | None, place: TypeAdapter[Any]) -> Any:
    if cursor is None:
        return None
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        return place.validate_json(text, strict=True)
    except (binascii.Error, ValueError, ValidationError):
        raise HTTPException(422, "cursor: none of this list; take the link to the next page as it is") from None
