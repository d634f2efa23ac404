"""JSON that has the shape it was asked to have: a subset of JSON Schema (draft 2020-12).

Understood: ``type``, ``enum``, ``const``, ``properties``, ``required``, ``additionalProperties``, ``items``,
``minItems``, ``maxItems``, ``uniqueItems``, ``minLength``, ``maxLength``, ``minimum``, ``maximum``,
``exclusiveMinimum``, ``exclusiveMaximum``, ``anyOf``, ``allOf``, ``oneOf``, ``not``, and true or false in a schema's
place. Titles, descriptions, examples, defaults and comments check nothing. Any other word is an error and not ignored:
a schema that is half understood would pay for what is half right. Left out with it: ``$ref``, and ``pattern``, whose
expressions may take for ever; the verifier of patterns bounds them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from palate.errors import RecipeError
from palate.records import Prompt
from palate.rewards.verifiers.verdict import Verdict, known, unverifiable

_FENCED = re.compile(r"\A```(?:json)?[ \t]*\n(.*)\n```\Z", flags=re.S | re.I)
_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "number": lambda value: _is_number(value),
    "integer": lambda value: _is_number(value) and value == int(value),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}
_SILENT = {"title", "description", "examples", "default", "$comment", "$schema", "$id"}
_BOUNDS: Mapping[str, tuple[str, Callable[[Any], Any], Callable[[Any, Any], bool]]] = {
    "minItems": ("array", len, lambda value, bound: value >= bound),
    "maxItems": ("array", len, lambda value, bound: value <= bound),
    "minLength": ("string", len, lambda value, bound: value >= bound),
    "maxLength": ("string", len, lambda value, bound: value <= bound),
    "minimum": ("number", lambda value: value, lambda value, bound: value >= bound),
    "maximum": ("number", lambda value: value, lambda value, bound: value <= bound),
    "exclusiveMinimum": ("number", lambda value: value, lambda value, bound: value > bound),
    "exclusiveMaximum": ("number", lambda value: value, lambda value, bound: value < bound),
}
_OF_SEVERAL = ("anyOf", "allOf", "oneOf")
_OF_ONE = ("items", "additionalProperties", "not")
_PLAIN: Mapping[str, type | tuple[type, ...]] = {
    "type": (str, list),
    "enum": list,
    "required": list,
    "uniqueItems": bool,
    "const": object,
}


def verify_json(response: str, schema: Any) -> Verdict:
    """1 if the response is JSON, alone or as one fenced block, that fits a schema which `check_schema` let pass."""
    text = response.strip()
    fenced = _FENCED.match(text)
    try:
        value = json.loads(fenced[1] if fenced else text, parse_constant=_finite, parse_float=_finite)
        wrong = next(problems(value, schema), "")
    except (ValueError, RecursionError) as error:
        return Verdict(0.0, f"no JSON: {error}")
    return Verdict(float(not wrong), wrong or "fits")


def schema_of(prompt: Prompt, tag: str) -> Any:
    """The one that comes with a prompt.

    Raises:
        RewardError: the prompt has no such tag, or it holds no schema that is understood.
    """
    try:
        check_schema(schema := json.loads(known(prompt, tag)), tag)
    except (ValueError, RecipeError) as error:
        raise unverifiable(prompt, f"has no schema in its tag {tag!r}: {error}") from None
    return schema


def check_schema(schema: Any, where: str = "json_schema") -> None:
    """Raises:
    RecipeError: it has a word that is not understood, or one that cannot have this value.
    """
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise RecipeError(f"{where}: a schema is a table, true or false, not {schema!r}")
    for word, said in schema.items():
        here = f"{where}.{word}"
        if word in _OF_ONE:
            check_schema(said, here)
        elif word in _OF_SEVERAL and isinstance(said, list) and said:
            for number, each in enumerate(said):
                check_schema(each, f"{here}.{number}")
        elif word == "properties" and isinstance(said, dict):
            for name, each in said.items():
                check_schema(each, f"{here}.{name}")
        elif not (word in _SILENT or (word in _PLAIN and isinstance(said, _PLAIN[word])) or _is_bound(word, said)):
            raise RecipeError(
                f"{here} = {said!r}: not among what is understood of JSON Schema (docs/guides/verifiers.md)"
            )
    unknown = set(_listed(schema.get("type", []))) - _TYPES.keys()
    if unknown:
        raise RecipeError(f"{where}.type: no such type: {', '.join(map(repr, unknown))}")


def problems(value: Any, schema: Any, path: str = "$") -> Iterator[str]:
    """What does not fit, each with its place."""
    if isinstance(schema, bool):
        yield from () if schema else (f"{path} may not be there",)
        return
    types = _listed(schema.get("type", list(_TYPES)))
    if not any(_TYPES[name](value) for name in types):
        yield f"{path} is no {' or '.join(types)}"
    if "enum" in schema and not any(same(value, each) for each in schema["enum"]):
        yield f"{path} is none of {json.dumps(schema['enum'], default=str)}"
    if "const" in schema and not same(value, schema["const"]):
        yield f"{path} is not {json.dumps(schema['const'], default=str)}"
    for word, (kind, measure, holds) in _BOUNDS.items():
        if word in schema and _TYPES[kind](value) and not holds(measure(value), schema[word]):
            yield f"{path} breaks {word} = {schema[word]}"
    if isinstance(value, dict):
        yield from _of_object(value, schema, path)
    if isinstance(value, list):
        if schema.get("uniqueItems") and any(same(a, b) for n, a in enumerate(value) for b in value[:n]):
            yield f"{path} has an item twice"
        for number, item in enumerate(value):
            yield from problems(item, schema.get("items", True), f"{path}[{number}]")
    yield from _combined(value, schema, path)


def _of_object(value: Mapping[str, Any], schema: Mapping[str, Any], path: str) -> Iterator[str]:
    yield from (f"{path}.{name} is missing" for name in schema.get("required", []) if name not in value)
    known = schema.get("properties", {})
    for name, item in value.items():
        yield from problems(item, known.get(name, schema.get("additionalProperties", True)), f"{path}.{name}")


def _combined(value: Any, schema: Mapping[str, Any], path: str) -> Iterator[str]:
    fits = {
        word: sum(next(problems(value, each, path), None) is None for each in schema[word])
        for word in _OF_SEVERAL
        if word in schema
    }
    for word, count in fits.items():
        right = {"anyOf": count > 0, "allOf": count == len(schema[word]), "oneOf": count == 1}[word]
        if not right:
            yield f"{path} fits {count} of {len(schema[word])} of {word}"
    if "not" in schema and next(problems(value, schema["not"], path), None) is None:
        yield f"{path} fits what it must not"


def same(a: Any, b: Any) -> bool:
    """Equal as JSON: 1 is 1.0, and true is not 1."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    return bool(a == b)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_bound(word: str, said: Any) -> bool:
    return word in _BOUNDS and _is_number(said)


def _listed(types: str | Sequence[str]) -> list[str]:
    return [types] if isinstance(types, str) else list(types)


def _finite(text: str) -> float:
    """Raises:
    ValueError: it is no number, or none that there is room for.
    """
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is no number")
    return number
