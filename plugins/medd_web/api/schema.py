"""What the OpenAPI document says besides what FastAPI finds out by itself."""

from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.routing import compile_path

from medd_web.problems import answer

PROBLEM = "application/problem+json"
#: Why a request with a body may be answered with 400.
NO_TEXT = "The body is no text."

_Responses = dict[int | str, dict[str, Any]]


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["about:blank"])
    title: str = Field(description="The status in words.", examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    detail: str = Field(description="One sentence for people.", examples=["query.limit: Input should be less than …"])


def problems(**why: str) -> _Responses:
    """The ways in which a request may fail, by status: ``problems(s404="there is none")``."""
    every = {
        "401": "Who asks has not logged in, or the token is none of ours.",
        "403": "The role is too low, or another site sent the request.",
        "413": "The request is too large.",
        "421": "This host is not known by that name.",
        "422": "A parameter or the body is not what it has to be.",
        "429": "Too many requests; `Retry-After` says when there may be more.",
        "503": "The database is away; `Retry-After` says when to try again.",
    }
    every |= {status.removeprefix("s"): text for status, text in why.items()}
    return {int(status): {"description": text, "model": Problem} for status, text in sorted(every.items())}


def missing(**more: str) -> _Responses:
    """As `problems`, of what is named in the path."""
    return problems(**{"s404": "There is none.", "s409": "Several have this UID.", **more})


def listed(row: type[BaseModel]) -> _Responses:
    """As `problems`, of a list: what it looks like as CSV, and its link to the next page."""
    link = {"description": 'The next page: `<…>; rel="next"`; absent on the last.', "schema": {"type": "string"}}
    header = ",".join(row.model_fields)
    csv = {"text/csv": {"schema": {"type": "string"}, "example": f"{header}\r\n"}}
    ok = {"description": "A page as JSON, or the list as CSV.", "headers": {"Link": link}, "content": csv}
    return {200: ok, **problems(s406="Neither JSON nor CSV is accepted.")}


def describe(app: FastAPI) -> None:
    """Let an application's OpenAPI document say in which form problems are told, and a wrong method which is right."""
    app.add_exception_handler(405, _wrong_method)
    made_by_fastapi = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _with_problems(made_by_fastapi())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _wrong_method(request: Request, error: Exception) -> Response:
    # The framework names the methods of the first route of a path only.
    headers = dict(getattr(error, "headers", None) or {})
    for path, operations in request.app.openapi()["paths"].items():
        if compile_path(path)[0].match(request.url.path):
            headers["Allow"] = ", ".join(sorted(method.upper() for method in operations))
            break
    return answer(request, 405, "this cannot be done here", headers)


def _with_problems(document: dict[str, Any]) -> dict[str, Any]:
    for operations in document["paths"].values():
        for operation in operations.values():
            for status, response in operation.get("responses", {}).items():
                if status >= "4" and "application/json" in response.get("content", {}):
                    response["content"] = {PROBLEM: response["content"].pop("application/json")}
    for unused in ("HTTPValidationError", "ValidationError"):
        document.get("components", {}).get("schemas", {}).pop(unused, None)
    return document
