"""What is compared: recipes by name, each as it is run with one seed, and whether comparing them means anything.

A method is a recipe of any stage that ends in a policy, or of best-of-n, which trains nothing. `{seed}` in a text of a
recipe stands for the run's seed, so that each seed may start from models of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from palate import recipe
from palate.commands import STAGES, Stage
from palate.errors import RecipeError
from palate.recipe import BestOfNRecipe, CompareRecipe, Section, parse_recipe, read_tree
from palate.run.lineage import flatten

EVALUATION = "eval"
"""The name that keys of the evaluation go by on the command line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A recipe with a name.

    Attributes:
        tree: what its file and the command line say; texts may hold `{seed}`.
        source: where it comes from, for errors.
    """

    name: str
    stage: Stage
    tree: Mapping[str, Any]
    source: str

    def recipe(self, seed: int) -> Any:
        """As it is run with this seed.

        Raises:
            RecipeError: an unknown key or a bad value.
        """
        return parse_recipe(_kind(self.stage), filled(self.tree, seed) | {"seed": seed}, where=self.source)

    @property
    def trains(self) -> bool:
        """Best of n does not."""
        return self.stage.makes_policy

    @property
    def train(self) -> Callable[[Any, Any], None]:
        """The stage's loop, of (recipe, run)."""
        found: Callable[[Any, Any], None] = getattr(import_module(self.stage.module), self.stage.function)
        return found


def read_comparison(
    arguments: Sequence[str], evaluation: Path, overrides: Sequence[str] = (), *, allow_different: Sequence[str] = ()
) -> tuple[list[Method], CompareRecipe]:
    """What a command line compares, and by what.

    Raises:
        RecipeError: something is wrong with a recipe, or they cannot be compared.
    """
    methods = read_methods(arguments, overrides)
    measured_by = read_evaluation(evaluation, overrides, [method.name for method in methods])
    check_alike(methods, measured_by, allow_different)
    return methods, measured_by


def read_methods(arguments: Sequence[str], overrides: Sequence[str] = ()) -> list[Method]:
    """The methods of a command line.

    Args:
        arguments: ``FILE`` or ``NAME=FILE``; without a name it is the file's.
        overrides: ``KEY=VALUE`` for every method, or ``NAME:KEY=VALUE`` for one.

    Raises:
        RecipeError: a recipe that cannot be read, of no such stage, or two of one name.
    """
    each = [named(argument) for argument in arguments]
    names = [name for name, _ in each]
    if twice := [name for name in names if names.count(name) > 1 or name == EVALUATION]:
        raise RecipeError(f"two recipes are called {twice[0]!r}: name each, as NAME=FILE")
    given = divided(overrides, names)
    found = []
    for name, path in each:
        tree = read_tree(path, given[name])
        found.append(Method(name=name, stage=_stage(tree, path), tree=tree, source=str(path)))
    return found


def read_evaluation(path: Path, overrides: Sequence[str], names: Sequence[str]) -> CompareRecipe:
    """What all are measured by; a recipe of `palate eval` will do, each policy then takes the place of its model.

    Raises:
        RecipeError: an unknown key or a bad value.
    """
    return evaluation_of(read_tree(path, divided(overrides, names)[EVALUATION]), where=str(path))


def evaluation_of(tree: Mapping[str, Any], *, where: str) -> CompareRecipe:
    """The same from what a file says.

    Args:
        where: it comes from, for errors.
    """
    said = {key: value for key, value in tree.items() if key not in ("model", "chat_template")}
    if said.get("stage") == "win_rate":
        del said["stage"]
    found = parse_recipe(CompareRecipe, said, where=where)
    if "{seed}" in found.prompts.model_dump_json():
        raise RecipeError(f"{where}: prompts must be the same for every seed; leave {{seed}} out of them")
    return found


def filled(tree: Any, seed: int) -> Any:
    """A tree of plain values with the seed in its texts."""
    return filled_with(tree, {"seed": str(seed)})


def filled_with(tree: Any, words: Mapping[str, str]) -> Any:
    """A tree of plain values in whose texts each `{name}` has given way to its word."""
    if isinstance(tree, Mapping):
        return {key: filled_with(value, words) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [filled_with(value, words) for value in tree]
    if isinstance(tree, str):
        for name, word in words.items():
            tree = tree.replace(f"{{{name}}}", word)
    return tree


def divided(
    overrides: Sequence[str], names: Sequence[str], *, beside: Sequence[str] = (EVALUATION,)
) -> dict[str, list[str]]:
    """What is set in each of the named recipes, and in what stands beside them under a name of its own.

    Raises:
        RecipeError: a name that nothing has.
    """
    found: dict[str, list[str]] = {name: [] for name in [*names, *beside]}
    for override in overrides:
        key = override.partition("=")[0]
        name, colon, _ = key.rpartition(":")
        if not colon:
            for method in names:
                found[method].append(override)
        elif name in found:
            found[name].append(override.removeprefix(f"{name}:"))
        else:
            raise RecipeError(f"--set {override}: no recipe is called {name!r}; there are {', '.join(found)}")
    return found


def named(argument: str) -> tuple[str, Path]:
    """The name and the file of ``[NAME=]FILE``.

    Raises:
        RecipeError: a name that no directory can have.
    """
    name, equals, text = argument.rpartition("=")
    path = Path(text)
    if not equals:
        name = path.parent.name if path.name == "recipe.toml" and path.parent.name else path.stem
    if not name or name.startswith(".") or set(name) & set('/\\:{}"'):
        raise RecipeError(f"{argument}: a recipe's name becomes a directory; {name!r} cannot")
    return name, path


def _kind(stage: Stage) -> type[Section]:
    found: type[Section] = getattr(recipe, stage.recipe)
    return found


def _stage(tree: Mapping[str, Any], path: Path) -> Stage:
    """The same, of something that can be compared.

    Raises:
        RecipeError: it is not known, or makes nothing that could be.
    """
    comparable = {key: each for key, each in _stages().items() if each.makes_policy or _kind(each) is BestOfNRecipe}
    stage = stage_named(tree, path, among=comparable)
    if stage not in comparable.values():
        key = next(key for key, each in _stages().items() if each is stage)
        raise RecipeError(f"{path}: {key} makes no policy to compare; {', '.join(comparable)} do")
    return stage


def stage_named(tree: Mapping[str, Any], path: Path, *, among: Collection[str] | None = None) -> Stage:
    """The stage that a recipe names or, if it does not, that its file is called after.

    Args:
        among: what is offered where it is not known; all, if left out.

    Raises:
        RecipeError: it is not known.
    """
    known = _stages()
    called = [key for key in known if path.stem.replace("-", "_").startswith(key)]
    key = tree.get("stage") or max(called, key=len, default="")
    if key not in known:
        said = f"{key!r} is no stage" if key else "it does not say of which stage it is"
        raise RecipeError(f'{path}: {said}; write stage = "..." into it, one of {", ".join(among or known)}')
    return known[key]


def _stages() -> dict[str, Stage]:
    """Every stage by what its recipes call it."""
    return {_kind(stage).model_fields["stage"].default: stage for stage in STAGES}


def _model(recipe: Any) -> str:
    return str(recipe.model)


def _prompts(recipe: Any) -> str | None:
    found = getattr(recipe, "prompts", None)
    return None if found is None else json.dumps(found.model_dump(exclude_defaults=True))


def rewards_of(recipe: Any) -> str | None:
    """The terms of its reward, as one text; None if it has no reward, or could have one and has none."""
    terms = getattr(recipe, "rewards", None)
    return json.dumps([term.model_dump(exclude_defaults=True) for term in terms]) if terms else None


def _temperature(recipe: Any) -> str | None:
    sampling = getattr(recipe, "sampling", None)
    found = getattr(recipe, "temperature", None) if sampling is None else sampling.temperature
    return None if found is None else f"{found:g}"


UNLIKE: dict[str, Callable[[Any], str | None]] = {
    "model": _model,
    "prompts": _prompts,
    "rewards": rewards_of,
    "temperature": _temperature,
}
"""What must be the same in all recipes that have it, or the difference between methods is not the methods'."""


def check_alike(methods: Sequence[Method], evaluation: CompareRecipe, allowed: Sequence[str]) -> None:
    """Refuse to compare what cannot be compared.

    Raises:
        RecipeError: names what differs, and how to have it so.
    """
    for what, why in unlike(methods, evaluation).items():
        if what not in allowed:
            raise RecipeError(f"{why}; make them alike, or say --allow-different {what}")


def unlike(methods: Sequence[Method], evaluation: CompareRecipe) -> dict[str, str]:
    """Those of `UNLIKE` that differ, each with a sentence that says between whom."""
    recipes: dict[str, Any] = {method.name: method.recipe(0) for method in methods}
    found = {}
    for what, value_of in UNLIKE.items():
        seen = {name: value for name, each in recipes.items() if (value := value_of(each)) is not None}
        if what == "prompts":  # best of n is drawn for the prompts that all are measured on
            seen = {method.name: seen[method.name] for method in methods if method.trains and method.name in seen}
        if what == "temperature":
            seen[EVALUATION] = f"{evaluation.sampling.temperature:g}"
        first = next(iter(seen), "")
        other = next((name for name in seen if seen[name] != seen[first]), None)
        if other is not None:
            found[what] = (
                f"{what}: {first} has {seen[first]}, {other} has {seen[other]}, so their difference would not be that "
                "of the methods"
            )
    return found


def differing_keys(methods: Sequence[Method]) -> list[tuple[str, list[str]]]:
    """Keys in which the recipes differ, with each method's value; a dash where it has no such key.

    A key that only some stages know is there if a recipe sets it.
    """
    flat = [dict(flatten(method.recipe(0).model_dump(mode="json"))) for method in methods]
    said = {key for method in methods for key, _ in flatten(method.tree)}
    rows = []
    for key in dict.fromkeys(key for each in flat for key in each):
        values = [each[key] for each in flat if key in each]
        differ = any(value != values[0] for value in values) or (len(values) < len(flat) and key in said)
        if differ and key != "seed":
            rows.append((key, [_shown(each.get(key, "–")) for each in flat]))
    return rows


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
