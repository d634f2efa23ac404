"""The API described: as OpenAPI for programs, and as a page for people. Both are made from the routes themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute

from palate.feedback.store.tables import ROLES
from palate.studio.web.access import ANYONE, CHATTERS, COOKIE, allow, roles_of
from palate.studio.web.rendering import page

router = APIRouter()

ABOUT = """Everything that can be done on the pages of Palate Studio can be done by program.

Send a token as `Authorization: Bearer palate_...`; a token can do what its owner can. A browser's session cookie works
too, with the header `X-CSRF-Token` for everything that changes something. Errors are `{"error": "one clear line"}`.
Times are seconds since 1970, ids are opaque."""

ERRORS = {
    401: "Nobody is signed in, or the token was revoked.",
    403: "The role does not allow it.",
    404: "It is not there, or not yours.",
    409: "It is no longer, or not yet, possible.",
    413: "Too large.",
    422: "Not what was asked for; the error names the field.",
}

_METHODS = ("get", "post", "put", "patch", "delete")
_SECURITY: list[dict[str, list[str]]] = [{"token": []}, {"cookie": []}]


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI description, made once."""
    described: dict[str, Any] | None = getattr(app.state, "description", None)
    if described is None:
        described = app.state.description = _described(app)
    return described


@router.get("/api/openapi.json", tags=["about"], summary="This description")
@allow(CHATTERS)
def openapi(request: Request) -> dict[str, Any]:
    """OpenAPI 3.1."""
    return describe(request.app)


@router.get("/api-docs", include_in_schema=False)
@allow(CHATTERS)
def docs_page(request: Request) -> HTMLResponse:
    """The same for people."""
    described = describe(request.app)
    return page(
        request, "web/api_docs.html",
        groups=_groups(described), errors=ERRORS, address=str(request.base_url).rstrip("/"),
        roles=ROLES,
    )  # fmt: skip


def _described(app: FastAPI) -> dict[str, Any]:
    found = app.openapi()
    found["info"]["description"] = ABOUT
    parts = found.setdefault("components", {})
    parts["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "Made on the page Tokens."},
        "cookie": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "A browser's session."},
    }
    schemas = parts.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Error"] = {
        "type": "object",
        "properties": {"error": {"type": "string", "description": "One clear line."}},
        "required": ["error"],
    }
    routes = {(route.path_format, method.lower()): route for route in _routes(app) for method in route.methods or ()}
    for path, method, operation in _operations(found):
        _complete(operation, path, method, roles_of(routes[path, method]))
    return found


def _routes(app: FastAPI) -> Iterator[APIRoute]:
    for included in app.state.routers:
        for route in included.routes:
            if isinstance(route, APIRoute) and route.include_in_schema:
                yield route


def _complete(operation: dict[str, Any], path: str, method: str, roles: frozenset[str]) -> None:
    """Who may call it, and how it says no."""
    is_open = roles == ANYONE
    operation["security"] = [] if is_open else _SECURITY
    operation["x-roles"] = [] if is_open else [role for role in ROLES if role in roles]
    wanted = {401, 403} if not is_open else set[int]()
    wanted |= {404} if "{" in path else set()
    wanted |= {409} if method != "get" else set()
    wanted |= {413} if "requestBody" in operation else set()
    wanted |= {422} if "requestBody" in operation or operation.get("parameters") else set()
    operation["responses"].pop("422", None)
    # the protocol under /v1 has errors of its own
    content = (
        {} if path.startswith("/v1/") else {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    )
    for status in sorted(wanted):
        operation["responses"][str(status)] = {"description": ERRORS[status]} | (
            {"content": content} if content else {}
        )


def _operations(described: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in described["paths"].items():
        for method in _METHODS:
            if method in item:
                yield path, method, item[method]


def _groups(described: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Operations by tag, as the page shows them."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for path, method, operation in _operations(described):
        tag = operation.get("tags", ["other"])[0]
        groups.setdefault(tag, []).append(_shown(described, path, method, operation))
    return dict(sorted(groups.items()))


def _shown(described: Mapping[str, Any], path: str, method: str, operation: Mapping[str, Any]) -> dict[str, Any]:
    parameters = [
        (each["name"], each["in"], _type(each.get("schema", {})), each.get("description", ""), each.get("required"))
        for each in operation.get("parameters", [])
    ]
    body = operation.get("requestBody", {}).get("content", {})
    answers: list[dict[str, Any]] = [each for status, each in operation["responses"].items() if status.startswith("2")]
    answer = answers[0].get("content", {}).get("application/json", {}) if answers else {}
    return {
        "id": operation["operationId"],
        "method": method.upper(),
        "path": path,
        "summary": operation.get("summary", ""),
        "description": operation.get("description", ""),
        "roles": operation["x-roles"],
        "parameters": parameters,
        "body_type": next(iter(body), ""),
        "body": _fields(described, _first(body).get("schema", {})),
        "answer": _fields(described, answer.get("schema", {})),
    }  # fmt: skip


def _first(content: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The one form that a body has."""
    return next(iter(content.values()), {})


def _fields(described: Mapping[str, Any], schema: Mapping[str, Any]) -> list[tuple[str, str, str, bool]]:
    """(name, type, description, required) of an object, or of the objects of a list."""
    if schema.get("type") == "array":
        return _fields(described, schema["items"])
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return _fields(described, described["components"]["schemas"][name])
    if "anyOf" in schema:
        return [field for each in schema["anyOf"] for field in _fields(described, each)]
    required = schema.get("required", [])
    return [
        (name, _type(each), each.get("description", ""), name in required)
        for name, each in schema.get("properties", {}).items()
    ]


def _type(schema: Mapping[str, Any]) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[1]
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(each) for each in schema["anyOf"]))
    if "enum" in schema:
        return " | ".join(f'"{value}"' for value in schema["enum"])
    if "const" in schema:
        return f'"{schema["const"]}"'
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("type", "anything"))
