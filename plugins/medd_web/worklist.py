"""The worklist: which studies wait to be read, the most urgent first, and why each stands where it stands."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, Response

from medd.records import Status
from medd.store.cases import find_sendings
from medd.store.studies import WorklistFilter, count_worklist, find_worklist, signature
from medd_web import words
from medd_web.actions import Action
from medd_web.audit import record
from medd_web.auth import User, reader
from medd_web.buckets import address_of
from medd_web.context import Context, get_context, page
from medd_web.events import digest
from medd_web.lately import Lately

router = APIRouter()

#: Studies on a page.
PAGE = 50
#: Counted no further: beyond it the list says "more than".
COUNTED = 1000
#: How far back a list may begin: parameter, words, hours.
SINCE: dict[str, tuple[str, float]] = {
    "": ("any time", 0),
    "1h": ("1 hour", 1),
    "8h": ("8 hours", 8),
    "24h": ("24 hours", 24),
    "7d": ("7 days", 168),
    "30d": ("30 days", 720),
}
#: A list that somebody keeps looking at is one event of the audit trail in so many seconds: each is a commit, for which
#: a receiver of images may have to wait.
_LISTED = Lately(600)
READ: dict[str, bool | None] = {"": False, "read": True, "all": None}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a reader wants to see, as the page's address says it."""

    q: str = ""
    status: str = ""
    since: str = ""
    read: str = ""
    origin: str = ""
    page: int = 1

    @property
    def filter(self) -> WorklistFilter:
        """The same for the database."""
        hours = SINCE[self.since][1]
        since = datetime.now(UTC) - timedelta(hours=hours) if hours else None
        status = Status(self.status) if self.status else None
        return WorklistFilter(since, status, self.q, self.origin, READ[self.read])

    @property
    def query(self) -> str:
        """The same as part of an address: "" or "?q=…"; without the page."""
        values = {name: getattr(self, name) for name in ("q", "status", "since", "read", "origin")}
        stated = urlencode({name: value for name, value in values.items() if value})
        return f"?{stated}" if stated else ""

    def turned(self, to: int) -> str:
        """The address of another page."""
        return f"/{self.query}{'&' if self.query else '?'}page={to}" if to > 1 else f"/{self.query}"

    def only_from(self, origin: str) -> str:
        """The address of this list with what came from one place alone."""
        return f"/{replace(self, origin=origin).query}"

    def case(self, study: str) -> str:
        """The address of a case, which knows what list it was opened from."""
        return f"/case?{urlencode({'study': study})}{self.query.replace('?', '&')}"

    @property
    def is_restricted(self) -> bool:
        """Whether some studies are left out besides those that were read."""
        return replace(self, page=1) != Wanted(read=self.read)


def wanted(
    q: Annotated[str, Query(max_length=200)] = "",
    status: str = "",
    since: str = "",
    read: str = "",
    origin: Annotated[str, Query(max_length=2000)] = "",
    page: Annotated[int, Query(ge=1, le=100_000)] = 1,
) -> Wanted:
    """What the address says; a word that is not known does not restrict."""
    return Wanted(
        q.strip(),
        status if status in list(Status) else "",
        since if since in SINCE else "",
        read if read in READ else "",
        origin,
        page,
    )


def look_up(context: Context, asked: Wanted) -> dict[str, Any]:
    """What the table shows."""
    now, cap = datetime.now(UTC), context.settings.worklist.max_wait
    with context.database.read() as connection:
        seen = digest(signature(connection))
        found = find_worklist(connection, asked.filter, now, cap, PAGE + 1, (asked.page - 1) * PAGE)
        count = count_worklist(connection, asked.filter, COUNTED + 1)
        rows = found[:PAGE]
        sendings = find_sendings(connection, [row["study"] for row in rows])
    rest = asked.query.replace("?", "&")
    for row in rows:
        row["priority"] = words.priority(row, now)
        row["sendings"] = sendings.get(row["study"], [])
        row["case"] = f"/case?study={quote(row['study'], safe='')}{rest}"  # as `Wanted.case`, made once
    origins = {row["origin"]: asked.only_from(row["origin"]) for row in rows}
    first = (asked.page - 1) * PAGE
    return {
        "rows": rows,
        "origins": origins,
        "asked": asked,
        "now": now,
        "signature": seen,
        "count": count,
        "counted": COUNTED,
        "first": first + 1 if rows else 0,
        "last": first + len(rows),
        "has_more": len(found) > PAGE,
        "words": words,
    }


Asked = Annotated[Wanted, Depends(wanted)]
Reader = Annotated[User, Depends(reader)]


@router.get("/")
def worklist(request: Request, user: Reader, asked: Asked) -> HTMLResponse:
    """The page."""
    context = get_context(request)
    _note(context, request, user, asked)
    return page(
        request,
        "worklist.html",
        **look_up(context, asked),
        statuses=words.STATUSES,
        spans={name: said for name, (said, _) in SINCE.items()},
        cap=context.settings.worklist.max_wait,
    )


@router.get("/worklist/rows")
def rows(request: Request, user: Reader, asked: Asked) -> Response:
    """The table alone, for a page that is open."""
    context = get_context(request)
    _note(context, request, user, asked)
    return page(request, "worklist_table.html", **look_up(context, asked))


def _note(context: Context, request: Request, user: User, asked: Wanted) -> None:
    """Keep that somebody looks at a list."""
    listed = (context.settings.home, user.name, address_of(request), asked.query)
    if listed not in _LISTED:
        record(context, request, user, Action.STUDIES_LISTED, detail=asked.query)
        _LISTED.add(listed)
