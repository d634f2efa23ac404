"""A recipe from its file: TOML, overrides, and errors that name the nearest key."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from palate.errors import RecipeError
from palate.recipe.sections import Section

RecipeT = TypeVar("RecipeT", bound=Section)


def load_recipe(kind: type[RecipeT], path: Path | str, overrides: Sequence[str] = ()) -> RecipeT:
    """Read a recipe and apply ``a.b=value`` overrides.

    Raises:
        RecipeError: a missing file, broken TOML, an unknown key (with the nearest one) or a bad value.
    """
    return parse_recipe(kind, read_tree(path, overrides), where=str(path))


def read_tree(path: Path | str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What a recipe's file says, with ``a.b=value`` overrides; not validated yet.

    Raises:
        RecipeError: a missing file, broken TOML, or an override that does not fit.
    """
    path = Path(path)
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe; `recipes/` has one for every method") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: not valid TOML: {error}") from None
    for override in overrides:
        _apply(tree, override)
    return tree


def parse_recipe(kind: type[RecipeT], tree: Mapping[str, Any], *, where: str = "recipe") -> RecipeT:
    """Validate a tree of plain values; every problem is one line of the error."""
    try:
        return kind.model_validate(dict(tree))
    except ValidationError as error:
        found = error.errors()
        # an entry with a mistake is no entry to pydantic, which then misses it in its list as well
        places = [problem["loc"] for problem in found]
        lines = [
            f"{where}: {_explain(kind, problem)}"
            for problem in found
            if problem["type"] != "too_short" or not any(_is_inside(place, problem["loc"]) for place in places)
        ]
        raise RecipeError("\n".join(lines)) from None


def _is_inside(place: Sequence[str | int], outer: Sequence[str | int]) -> bool:
    return len(place) > len(outer) and tuple(place[: len(outer)]) == tuple(outer)


def parse_settings(kind: type[RecipeT], overrides: Sequence[str]) -> RecipeT:
    """Defaults, and what ``a.b=value`` puts in their place.

    Raises:
        RecipeError: an unknown key (with the nearest one) or a bad value.
    """
    tree: dict[str, Any] = {}
    for override in overrides:
        _apply(tree, override)
    return parse_recipe(kind, tree, where="--set")


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise RecipeError(f"--set {override}: write it as key=value, for example --set optimizer.learning_rate=1e-5")
    *parents, last = key.strip().split(".")
    node: Any = tree
    for part in parents:
        node = node[int(part)] if isinstance(node, list) and part.isdigit() else node.setdefault(part, {})
        if not isinstance(node, dict | list):
            raise RecipeError(f"--set {override}: {part} is not a section")
    value = _toml_value(text.strip())
    if isinstance(node, list):
        raise RecipeError(f"--set {override}: name a key inside entry number 0, 1, ... of {parents[-1]}")
    node[last] = value


def _toml_value(text: str) -> Any:
    """A TOML value if it reads as one, else the text itself, so that strings need no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(kind: type[Section], problem: Any) -> str:
    location = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _keys_at(kind, problem["loc"][:-1])
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"unknown key {location!r}; {hint}"
    if problem["type"] == "missing":
        return f"{location!r} is required"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{location!r}: {message}" if location else message


def _keys_at(kind: Any, location: Sequence[str | int]) -> list[str]:
    """Names of the fields of the section that ``location`` points into."""
    for part in location:
        if isinstance(part, str):
            kind = _section_of(kind.model_fields[part].annotation)
    return list(kind.model_fields)


def _section_of(annotation: Any) -> Any:
    """The Section inside ``Section | None`` or ``tuple[Section, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next(section for part in get_args(annotation) if (section := _section_of(part)) is not None)
