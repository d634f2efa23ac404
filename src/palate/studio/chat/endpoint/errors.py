"""Errors as OpenAI's protocol has them: their shape, their codes, and their words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from palate.errors import ForbiddenError, NotFoundError, PalateError, TooManyError
from palate.studio.web.access import SignInNeeded


class ApiError(Exception):
    """An error in OpenAI's shape."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
        self.headers: dict[str, str] = {}

    @classmethod
    def of(cls, error: Exception) -> Self | None:
        """What another error is called here; None for a bug."""
        match error:
            case SignInNeeded():
                message = "Incorrect API key provided: it is missing or was revoked. Make one on the page Tokens."
                return cls(401, message, code="invalid_api_key")
            case NotFoundError():
                return cls(404, str(error), code="model_not_found", param="model")
            case ForbiddenError():
                return cls(403, str(error))
            case TooManyError():
                return cls(429, str(error), code="rate_limit_exceeded")._later(error.retry_after)
            case RequestValidationError():
                return cls(400, **_invalid(error))
            case PalateError():
                return cls(400, str(error))
        return None

    @classmethod
    def unknown(cls, name: str) -> Self:
        """A parameter that the protocol does not have."""
        return cls(400, f"Unknown parameter: '{name}'.", code="unknown_parameter", param=name)

    @classmethod
    def unsupported(cls, name: str) -> Self:
        """One that it has, asked for something that is not done here."""
        message = f"Unsupported parameter: '{name}' is not supported here: leave it out."
        return cls(400, message, code="unsupported_parameter", param=name)

    def response(self) -> JSONResponse:
        """As it is sent."""
        return JSONResponse(self.body(), status_code=self.status, headers=self.headers)

    def body(self) -> dict[str, Any]:
        """``{"error": {...}}``."""
        kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(
            self.status, "server_error" if self.status >= 500 else "invalid_request_error"
        )
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def _later(self, seconds: float) -> Self:
        self.headers["Retry-After"] = str(max(int(seconds), 1))
        return self


_EXPECTED = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a decimal",
    "float_parsing": "a decimal",
    "bool_type": "a boolean",
    "bool_parsing": "a boolean",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
"""What a field should have been, by pydantic's name of the error."""

_BOUNDS = {
    "greater_than": (">", "gt", "below minimum", "below_min_value"),
    "greater_than_equal": (">=", "ge", "below minimum", "below_min_value"),
    "less_than": ("<", "lt", "above maximum", "above_max_value"),
    "less_than_equal": ("<=", "le", "above maximum", "above_max_value"),
}


def _invalid(error: RequestValidationError) -> dict[str, Any]:
    """Message, code and parameter for what pydantic found first, in the branch of a union that got farthest."""
    found = [(_path(each, error.body), each) for each in error.errors()]
    if found[0][1]["type"] == "json_invalid" or not isinstance(error.body, Mapping):
        return {"message": "We could not parse the JSON body of your request: expected a JSON object."}
    field = found[0][0][:1]
    deepest = max(len(path) for path, _ in found if path[:1] == field)
    first = next(path for path, _ in found if path[:1] == field and len(path) == deepest)
    problems = [each for path, each in found if path == first]
    return _in_words(_name(first), problems)


def _in_words(name: str, problems: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One field's errors; there are several where it may be of several types, and one that is of one tells more."""
    problem = next((each for each in problems if each["type"] not in _EXPECTED), problems[0])
    kind, given, context = str(problem["type"]), problem.get("input"), problem.get("ctx", {})
    code: str | None = "invalid_value"
    if kind == "missing":
        message, code = f"Missing required parameter: '{name}'.", "missing_required_parameter"
    elif kind == "extra_forbidden":
        message, code = f"Unknown parameter: '{name}'.", "unknown_parameter"
    elif kind in _EXPECTED:
        expected = " or ".join(dict.fromkeys(_EXPECTED[each["type"]] for each in problems if each["type"] in _EXPECTED))
        message = f"Invalid type for '{name}': expected {expected}, but got {_kind_of(given)} instead."
        code = "invalid_type"
    elif kind in _BOUNDS:
        sign, bound, side, suffix = _BOUNDS[kind]
        number = "integer" if isinstance(given, int) else "decimal"
        message = f"Invalid '{name}': {number} {side} value. Expected a value {sign} {context[bound]:g}, "
        message, code = message + f"but got {given} instead.", f"{number}_{suffix}"
    elif kind == "literal_error":
        supported = str(context["expected"]).replace(" or ", ", and ")
        message = f"Invalid value: '{given}'. Supported values are: {supported}."
    elif kind in {"too_short", "string_too_short"}:
        thing = "array" if kind == "too_short" else "string"
        message = f"Invalid '{name}': empty {thing}. Expected {_a(thing)} with minimum length {context['min_length']}, "
        message, code = message + f"but got an empty {thing} instead.", f"empty_{thing}"
    elif kind == "too_long":
        message = f"Invalid '{name}': array too long. Expected an array with maximum length {context['max_length']}, "
        message += f"but got an array with length {context['actual_length']} instead."
        code = "array_above_max_length"
    else:
        said = str(problem["msg"]).removeprefix("Value error, ")
        message = f"Invalid '{name}': {said[:1].lower()}{said[1:]}."
    return {"message": message, "code": code, "param": name}


def _path(problem: Mapping[str, Any], body: Any) -> tuple[str | int, ...]:
    """Where in the request it is; pydantic also names the branches of unions, which nobody has sent."""
    path: list[str | int] = []
    *steps, last = problem["loc"][1:] or [""]
    for step in (*steps, last):
        is_missing = step == last and problem["type"] == "missing"
        if isinstance(body, Mapping) and (step in body or is_missing):
            body = body.get(step)
        elif isinstance(body, list) and isinstance(step, int) and step < len(body):
            body = body[step]
        else:
            continue
        path.append(step)
    return tuple(path)


def _name(path: Sequence[str | int]) -> str:
    """("messages", 0, "content") -> "messages[0].content"."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


def _kind_of(value: Any) -> str:
    """What JSON calls it."""
    kinds = {bool: "a boolean", int: "an integer", float: "a decimal", str: "a string", list: "an array"}
    return "null" if value is None else kinds.get(type(value), "an object")


def _a(thing: str) -> str:
    return f"an {thing}" if thing[0] in "aeio" else f"a {thing}"
