"""The page that explains the interfaces, made from the OpenAPI document; no script, nothing from elsewhere."""

import json
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse

from medd_web.auth import User, reader
from medd_web.context import page

router = APIRouter()

_REF = "#/components/schemas/"


@dataclass(frozen=True, slots=True)
class Field:
    """A parameter, or a member of an object."""

    name: str
    #: "query", "path", "body", or "" for a member.
    where: str
    type: str
    is_required: bool
    text: str
    example: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    summary: str
    text: str
    fields: tuple[Field, ...]
    #: Status, what it means, what comes.
    answers: tuple[tuple[str, str, str], ...]
    curl: str


def operations_of(document: dict[str, Any], url: str) -> dict[str, list[Operation]]:
    """Every operation of an OpenAPI document, by its first tag.

    Args:
        document: The document.
        url: Of this server, for the examples.
    """
    found: dict[str, list[Operation]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            tag = (operation.get("tags") or ["other"])[0]
            found.setdefault(tag, []).append(_operation(document, path, method, operation, url))
    return found


def objects_of(document: dict[str, Any]) -> dict[str, tuple[str, tuple[Field, ...]]]:
    """What the schemas are made of: name → description and members."""
    schemas = document.get("components", {}).get("schemas", {})
    return {
        name: (schema.get("description", ""), _members(schema, ""))
        for name, schema in sorted(schemas.items())
        if "properties" in schema
    }


def _operation(document: dict[str, Any], path: str, method: str, operation: dict[str, Any], url: str) -> Operation:
    fields = [
        _field(
            one["name"], one["in"], one["schema"], one.get("description", ""), is_required=one.get("required", False)
        )
        for one in operation.get("parameters", ())
    ]
    body = operation.get("requestBody", {}).get("content", {})
    schema = _resolve(document, body["application/json"]["schema"]) if "application/json" in body else {}
    fields += _members(schema, "body")
    answers = tuple(
        (status, answer.get("description", ""), ", ".join(answer.get("content", {})))
        for status, answer in sorted(operation.get("responses", {}).items())
    )
    command = ["curl", "-H", '"Authorization: Bearer $TOKEN"']
    if method != "get":
        command += ["-X", method.upper()]
    if schema:
        example = {
            name: _example(one) for name, one in schema["properties"].items() if name in schema.get("required", ())
        }
        command += ["-H", '"Content-Type: application/json"', "-d", f"'{json.dumps(example)}'"]
    elif body:
        command += ["-H", f"'Content-Type: {next(reversed(body))}'", "--data-binary", "@film.dcm"]
    command.append(f"'{url}{path}'" if "{" in path else f"{url}{path}")
    return Operation(
        method.upper(), path, operation.get("summary", ""), operation.get("description", ""), tuple(fields), answers,
        " ".join(command),
    )  # fmt: skip


def _members(schema: dict[str, Any], where: str) -> tuple[Field, ...]:
    required = schema.get("required", ())
    return tuple(
        _field(name, where, one, one.get("description", ""), is_required=name in required)
        for name, one in schema.get("properties", {}).items()
    )


def _field(name: str, where: str, schema: dict[str, Any], text: str, *, is_required: bool) -> Field:
    example = _example(schema)
    shown = "" if example is None else example if isinstance(example, str) else json.dumps(example)
    kind = type_of(schema)
    kind = kind.removesuffix(" or null") if where else kind  # what is left out is null
    return Field(name, where, kind, is_required, text or schema.get("description", ""), shown)


def _example(schema: dict[str, Any]) -> Any:
    examples = schema.get("examples") or [one for part in schema.get("anyOf", ()) for one in part.get("examples", ())]
    return examples[0] if examples else None


def type_of(schema: dict[str, Any]) -> str:
    """A schema in words."""
    if "$ref" in schema:
        return str(schema["$ref"].removeprefix(_REF))
    if "anyOf" in schema:
        return " or ".join(type_of(one) for one in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        return " | ".join(map(json.dumps, schema.get("enum", [schema.get("const")])))
    if schema.get("type") == "array":
        return f"list of {type_of(schema.get('items', {}))}"
    words = str(schema.get("format") or schema.get("type") or "anything")
    low, high = schema.get("minimum"), schema.get("maximum")
    return words if low is None or high is None else f"{words}, {low} to {high}"


def _resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    found: dict[str, Any] = document["components"]["schemas"][schema["$ref"].removeprefix(_REF)]
    return found


@router.get("/docs", include_in_schema=False)
def show_reference(request: Request, _user: Annotated[User, Depends(reader)]) -> HTMLResponse:
    """What can be asked, and how."""
    document = request.app.openapi()
    url = str(request.base_url).rstrip("/")
    return page(request, "api.html", groups=operations_of(document, url), objects=objects_of(document))
