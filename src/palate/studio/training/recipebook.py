"""The recipes an admin may start by name: TOML files of the workspace, short, without data or models.

A recipe here says how to train. On what and from which model is filled in when a job is started (`plans`), and the
result is checked like any recipe. A file is named by its stem and found by listing the folder, so that a name from a
browser never becomes a path. `palate init` writes a starter set, sized for a laptop. `palate studio` adds starters that
came later, each once: what people have changed stays as it is, and what they have deleted stays away.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import Field

from palate import disk
from palate import recipe as recipes
from palate.commands import STAGES
from palate.errors import ConflictError, NotFoundError, RecipeError
from palate.recipe import Section, Verifier, parse_recipe

STARTERS = Path(__file__).parent / "recipes"

PAGES: Mapping[str, str] = {
    "pretrain": "/runs/file?what=pretrain&recipe=",
    "rounds": "/runs/rounds?recipe=",
    "agent": "/runs/agent?recipe=",
}
"""Where commands are started whose form is not that of the others, by command; a recipe's name follows."""

GIVEN_FILE = ".starters"
"""Names of the starters that a workspace was given, one a line."""

FIRST_STARTERS = ("best_of_n", "dpo", "ppo", "reward", "sample", "sft", "win_rate")
"""What a workspace was given that has no such list."""

_SIZES: Mapping[str, Mapping[str, object]] = {
    "smollm2-135m": {},
    "tiny": {"frozen_layers": 1, "max_new_tokens": 8, "steps": 4, "prompts_per_step": 4, "n": 4, "epochs": 2},
}
"""What differs from the starter set for a model we know; for another one no layers are frozen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedRecipe:
    """A recipe of the workspace.

    Attributes:
        command: of the command line; empty where the file cannot be used.
        about: what the comment at its beginning says.
        problem: why it cannot be used.
    """

    name: str
    command: str
    about: str
    text: str
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A job to be.

    Attributes:
        command: of the command line (`sft`, `best-of-n`), or `score`.
        recipe: with everything filled in, as TOML.
        then: what is to be done with the result; see `outcomes`.
    """

    name: str
    command: str
    recipe: str
    then: dict[str, Any]
    round_number: int | None = None


class ComparisonRecipe(Section):
    """What a comparing job reads, all its recipes in one; it is written by the app alone."""

    stage: Literal["compare"] = "compare"
    seeds: int = Field(ge=1, description="Runs of each method.")
    allow_different: tuple[str, ...] = Field((), description="In what the methods may differ although it confounds.")
    evaluation: dict[str, Any] = Field(description="What all are measured by.")
    methods: dict[str, dict[str, Any]] = Field(min_length=1, description="Recipes by name.")


class ScoreRecipe(Section):
    """What a scoring job reads; it is written by the app alone."""

    stage: Literal["score"] = "score"
    seed: int = Field(0, ge=0, description="Of no effect: scoring draws nothing.")
    models: tuple[str, ...] = Field(min_length=1, description="Reward models.")
    data: str = Field(description="A file of candidates.")
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="Matrix products.")


class FileRecipe(Section):
    """What a job reads that filters or mines a file; it is written by the app alone."""

    stage: Literal["filter", "mine"] = Field(description="What is done with it.")
    kind: str = Field("", description="Of what is mined.")
    path: str = Field(description="Where it is.")
    format: str = Field("auto", description="As in recipes, and so are the following.")
    fields: Mapping[str, str] = Field({}, description="What columns hold.")
    tags: tuple[str, ...] = Field((), description="Columns that are kept as tags.")
    ignore: tuple[str, ...] = Field((), description="Columns that are left out although they may matter.")
    verdicts: Mapping[str, str] = Field({}, description="What judgements mean.")


class CoverageRecipe(Section):
    """What a job reads that holds prompts against what a reward model learned from; it is written by the app alone."""

    stage: Literal["coverage"] = "coverage"
    reward: str = Field(description="The reward model's run.")
    prompts: str = Field(description="A file of prompts.")
    seed: int = Field(0, ge=0, description="Of parts and intervals.")


class AgentRuns(Section):
    """What a job reads that runs an agent with several seeds; it is written by the app alone."""

    stage: Literal["agents"] = "agents"
    seeds: int = Field(ge=1, description="Runs of each kind.")
    alone: bool = Field(False, description="Without the controls.")
    agent: dict[str, Any] = Field(description="Its recipe.")


@cache
def on_clusters() -> frozenset[str]:
    """Commands that `palate cluster` divides among machines."""
    return frozenset(each.name for each in STAGES if each.divides and "cluster" in _fields(each.recipe))


def _fields(recipe: str) -> Mapping[str, Any]:
    kind: type[Section] = getattr(recipes, recipe)
    return kind.model_fields


@cache
def kinds() -> dict[str, tuple[str, type[Section]]]:
    """The command and the recipe of every stage, and of what runs several, by the name that recipes use."""
    found = [(stage.name, getattr(recipes, stage.recipe)) for stage in STAGES if not stage.command]
    found += [("rounds", recipes.RoundsRecipe), ("agent", recipes.AgentRecipe)]
    return {kind.model_fields["stage"].default: (command, kind) for command, kind in found}


def write_starters(directory: Path, model: str, *, given: Sequence[str] = ()) -> list[str]:
    """Put starters into a workspace's folder, and constitutions, that it was not given before; what is there stays.

    Args:
        given: those that it was, if it has no list of them.

    Returns:
        Names of those that were written.
    """
    record = directory / GIVEN_FILE
    known = set(record.read_text(encoding="utf-8").split() if record.exists() else given)
    starters = {path.relative_to(STARTERS).with_suffix("").as_posix(): path for path in STARTERS.rglob("*.toml")}
    new = [name for name in sorted(starters) if name not in known and not (directory / f"{name}.toml").exists()]
    for name in new:
        (directory / name).parent.mkdir(exist_ok=True)
        disk.write_text(directory / f"{name}.toml", _sized(starters[name].read_text(encoding="utf-8"), model))
    disk.write_text(record, "".join(f"{name}\n" for name in sorted(known | starters.keys())))
    return new


def listing(directory: Path) -> list[NamedRecipe]:
    """Every recipe of a folder, by name; those that cannot be used say why."""
    return [_read(path) for path in sorted(directory.glob("*.toml"))]


def named(directory: Path, name: str) -> NamedRecipe:
    """One that can be used.

    Raises:
        NotFoundError: there is none of that name.
        RecipeError: it cannot be used as it is.
    """
    found = next((recipe for recipe in listing(directory) if recipe.name == name), None)
    if found is None:
        raise NotFoundError("there is no recipe of that name in the workspace's recipes folder")
    if found.problem:
        raise RecipeError(f"{name}.toml: {found.problem}")
    return found


def first_of(directory: Path, command: str) -> NamedRecipe:
    """The first recipe for a command, for where nobody was asked which.

    Raises:
        NotFoundError: there is none.
    """
    usable = [recipe for recipe in listing(directory) if recipe.command == command]
    if not usable:
        raise NotFoundError(f"the workspace's recipes folder has no recipe for `palate {command}`")
    return usable[0]


def fill(recipe: NamedRecipe, values: Mapping[str, Any]) -> str:
    """The recipe with these values; a section keeps what they do not name.

    Raises:
        RecipeError: the result is not a recipe of its stage.
    """
    tree = tree_of(recipe)
    for key, value in values.items():
        tree[key] = tree.get(key, {}) | value if isinstance(value, dict) else value
    _, kind = kinds()[tree["stage"]]
    parse_recipe(kind, tree, where=f"{recipe.name}.toml")
    return tomli_w.dumps(tree)


def tree_of(recipe: NamedRecipe) -> dict[str, Any]:
    """What the file says."""
    return tomllib.loads(recipe.text)


def asks_elsewhere(tree: Mapping[str, Any]) -> bool:
    """Whether its model is asked behind an endpoint, and so none of the workspace's takes its place.

    Raises:
        ConflictError: it does not say what the model is called there.
    """
    if "endpoint" in tree and "model" not in tree:
        raise ConflictError("the recipe names an endpoint and not what the model is called there: add model = ...")
    return "endpoint" in tree


def stage_of(recipe: NamedRecipe) -> str:
    """The name that the file has for its stage, such as ``best_of_n``."""
    return str(tree_of(recipe)["stage"])


def extra_rewards(recipe: NamedRecipe) -> Sequence[dict[str, Any]]:
    """The terms of its reward that are no models."""
    return [term for term in tree_of(recipe).get("rewards", []) if not term.get("model")]


def checks_answers(recipe: NamedRecipe) -> bool:
    """Whether its reward checks answers, so that it needs no model of rewards."""
    return any("verifier" in term for term in extra_rewards(recipe))


def tags_checked(recipe: NamedRecipe) -> set[str]:
    """Tags of prompts that hold what its reward checks answers against."""
    verifiers = [Verifier.model_validate(term["verifier"]) for term in extra_rewards(recipe) if "verifier" in term]
    return {tag for each in verifiers if (tag := each.tag or _OWN_TAGS.get(each.kind, ""))}


_OWN_TAGS = {"number": "answer", "tests": "tests"}
"""Where a verifier looks if it names no tag."""


def _read(path: Path) -> NamedRecipe:
    try:
        text = path.read_text(encoding="utf-8")
        stage = tomllib.loads(text).get("stage")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        return NamedRecipe(name=path.stem, command="", about="", text="", problem=f"cannot be read: {error}")
    lines = re.match(r"(?:#.*\n)*", text)
    about = " ".join(line.lstrip("# ") for line in lines[0].splitlines()) if lines else ""
    if stage not in kinds():
        problem = f"say which stage it is for: stage = one of {', '.join(kinds())}"
        return NamedRecipe(name=path.stem, command="", about=about, text=text, problem=problem)
    return NamedRecipe(name=path.stem, command=kinds()[stage][0], about=about, text=text)


def _sized(text: str, model: str) -> str:
    """A starter recipe for a model: other numbers where we know better, no frozen layers where we do not know it."""
    if model not in _SIZES:
        return re.sub(r"^frozen_layers = .*\n", "", text, flags=re.MULTILINE)
    for key, value in _SIZES[model].items():
        text = re.sub(rf"^{key} = [^\s#]+( *#.*)?$", f"{key} = {value}", text, flags=re.MULTILINE)
    return text
