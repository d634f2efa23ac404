"""A constitution from its file, and which of its principles falls to what."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path

from palate.errors import DataError, RecipeError
from palate.randomness import permutation
from palate.recipe import Constitution, Principle, parse_recipe


def read_constitution(path: Path | str) -> Constitution:
    """The principles of a TOML file.

    Raises:
        DataError: it cannot be read.
        RecipeError: an unknown key (with the nearest one), or a principle that lacks something; names file and entry.
    """
    try:
        tree = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"no constitution: {error.strerror}", path=path) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"not valid TOML: {error}", path=path) from None
    return parse_recipe(Constitution, tree, where=str(path))


def revising(constitution: Constitution, path: Path | str) -> tuple[Principle, ...]:
    """Its principles that say how to criticise and revise.

    Raises:
        RecipeError: there is none.
    """
    found = tuple(principle for principle in constitution.principles if principle.revises)
    if not found:
        raise RecipeError(f"{path}: no principle has a critique and a revise: there is nothing to revise by")
    return found


def drawn(principles: Sequence[Principle], count: int, *key: int | str) -> list[Principle]:
    """So many of them, each once, by lot: all of them where there are no more (Bai et al. 2022, arXiv 2212.08073)."""
    return [principles[place] for place in permutation(len(principles), *key)[:count]]
