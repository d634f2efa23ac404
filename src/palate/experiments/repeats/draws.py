"""What is repeated: one recipe, or several that follow each other, and the draws of their randomness.

    seed-3            everything is drawn by seed 3
    seed-3-sampling   the same, but for the responses, which are drawn anew

A recipe of several names what an earlier one made as `{NAME}`, its directory: `model = "{sft}"`. Where a draw gives a
part the recipe that seed 3 gave it, because nothing before it or in it has that source, it is not run again.

Left out: sources of randomness that no recipe has a seed for, such as which prompts are held out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from palate import recipe as recipes
from palate.commands import STAGES, Stage
from palate.errors import RecipeError
from palate.experiments.methods import divided, filled_with, named, stage_named
from palate.experiments.repeats.pipelines import PIPELINES
from palate.recipe import CardRecipe, Section, WinRateRecipe, parse_recipe, read_tree

ABOUT = {
    "order": "the order of data and prompts, and bootstraps",
    "initial": "weights drawn to begin with",
    "sampling": "responses",
    "labelers": "which labelers are learned from",
    "evaluation": "responses and items of measuring",
}
"""Sources of randomness, in the order of tables."""

ANEW = 1_000_000
"""What is added to a seed where one source is drawn anew; nobody repeats so often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One draw of all randomness.

    Attributes:
        seed: of every source.
        anew: but this one; empty if none.
    """

    seed: int
    anew: str = ""

    def __str__(self) -> str:
        """The name of its directories."""
        return f"seed-{self.seed}" + (f"-{self.anew}" if self.anew else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A recipe with a name.

    Attributes:
        tree: what its file and the command line say; texts may hold `{seed}` and the names of earlier parts.
        source: where it comes from, for errors.
        follows: names of the earlier parts that its texts name.
        of_seed: a text of it names the seed.
    """

    name: str
    stage: Stage
    tree: Mapping[str, Any]
    source: str
    follows: frozenset[str] = frozenset()
    of_seed: bool = False

    @property
    def kind(self) -> type[Section]:
        """Of its recipe."""
        found: type[Section] = getattr(recipes, self.stage.recipe)
        return found

    @property
    def train(self) -> Callable[[Any, Any], None]:
        """The stage's loop, of (recipe, run)."""
        found: Callable[[Any, Any], None] = getattr(import_module(self.stage.module), self.stage.function)
        return found

    @property
    def is_pipeline(self) -> bool:
        """It runs several stages, or an agent: all of its randomness is one source."""
        return self.stage in PIPELINES.values()

    @property
    def sources(self) -> dict[str, tuple[str, ...]]:
        """The sources of randomness that it has and does not fix, each with its key."""
        fields = self.kind.model_fields
        if self.is_pipeline:
            found: dict[str, tuple[str, ...]] = {}
        elif "seeds" not in fields:
            found = {"evaluation" if self.kind in (WinRateRecipe, CardRecipe) else "sampling": ("seed",)}
        else:
            section: type[Section] = type(fields["seeds"].default)
            found = {name: ("seeds", name) for name in section.model_fields}
        if not self.tree.get("draw_labelers"):
            found.pop("labelers", None)
        fixed = self.tree.get("seeds", {})
        return {name: key for name, key in found.items() if name not in fixed}

    def recipe(self, draw: Draw, earlier: Mapping[str, Path]) -> Any:
        """As it is run in a draw.

        Args:
            earlier: directories of the parts before it, by name.

        Raises:
            RecipeError: an unknown key or a bad value.
        """
        words = {"seed": str(draw.seed)} | {name: str(path) for name, path in earlier.items()}
        tree: dict[str, Any] = filled_with(self.tree, words) | {"seed": draw.seed}
        if draw.anew in self.sources:
            *section, key = self.sources[draw.anew]
            other = {key: ANEW + draw.seed}
            tree |= {section[0]: {**tree.get(section[0], {}), **other}} if section else other
        return parse_recipe(self.kind, tree, where=self.source)


def read_parts(arguments: Sequence[str], overrides: Sequence[str] = ()) -> list[Part]:
    """The parts of a command line, in its order.

    Args:
        arguments: ``FILE`` or ``NAME=FILE``; without a name it is the file's.
        overrides: ``KEY=VALUE`` for every part, or ``NAME:KEY=VALUE`` for one.

    Raises:
        RecipeError: a recipe that cannot be read, two of one name, or one that names what does not come before it.
    """
    each = [named(argument) for argument in arguments]
    names = [name for name, _ in each]
    if twice := [name for name in names if names.count(name) > 1 or name == "seed"]:
        raise RecipeError(f"two recipes are called {twice[0]!r}, or one is called seed: name each, as NAME=FILE")
    given = divided(overrides, names, beside=())
    parts: list[Part] = []
    for name, path in each:
        tree = read_tree(path, given[name])
        called, before = _names_in(tree), {earlier.name for earlier in parts}
        if strange := sorted((called & set(names)) - before):
            raise RecipeError(f"{path}: {{{strange[0]}}} does not come before it; put its recipe first")
        parts.append(
            Part(
                name=name,
                stage=PIPELINES.get(_stage_in(tree, path)) or stage_named(tree, path, among=offered()),
                tree=tree,
                source=str(path),
                follows=frozenset(called & before),
                of_seed="seed" in called,
            )
        )
    return parts


def offered() -> list[str]:
    """What a recipe may call its stage."""
    return [*(each.name.replace("-", "_") for each in STAGES), *PIPELINES]


def _stage_in(tree: Mapping[str, Any], path: Path) -> str:
    """What the recipe says, or what its file is called."""
    return str(tree.get("stage") or path.stem)


def sources_of(parts: Sequence[Part]) -> list[str]:
    """All that can be drawn apart, in the order of tables."""
    return [name for name in ABOUT if any(name in part.sources for part in parts)]


def directory_of(parts: Sequence[Part], number: int, draw: Draw, out: Path) -> tuple[Path, Any]:
    """Where the part of this number is run in a draw, and its recipe; where another draw runs the same, that one's."""
    earlier = {part.name: directory_of(parts, place, draw, out)[0] for place, part in enumerate(parts[:number])}
    part = parts[number]
    recipe = part.recipe(draw, earlier)
    if draw.anew:
        usual, same = directory_of(parts, number, Draw(seed=draw.seed), out)
        if recipe == same:
            return usual, same
    return out / part.name / str(draw), recipe


def _names_in(tree: Any) -> set[str]:
    """What stands in braces in the texts of a tree of plain values."""
    if isinstance(tree, Mapping):
        return {name for value in tree.values() for name in _names_in(value)}
    if isinstance(tree, list | tuple):
        return {name for value in tree for name in _names_in(value)}
    return set(re.findall(r"\{([^{}]*)\}", tree)) if isinstance(tree, str) else set()
