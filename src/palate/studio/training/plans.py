"""From "train this recipe on what we have" to a job: data out of the log, models and paths into the recipe.

`preview` says what a job would learn from and what it would not, before anything is started; `plan` writes the data and
fills in the recipe. Paths in recipes are relative to the workspace, where jobs run, so that it can be moved.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from palate.corpus.splits import large_enough
from palate.errors import ConflictError, DataError, NotFoundError
from palate.feedback.export import datasets
from palate.feedback.export.datasets import Collected, Dataset, Kind
from palate.feedback.store import rounds
from palate.feedback.store.tables import Job, Model, PromptRow, ResponseRow, Round
from palate.recipe import Holdout, RewardRecipe, parse_recipe
from palate.records import Candidates, Prompt
from palate.studio.training import earlier_runs, recipebook
from palate.studio.training.earlier_runs import Made
from palate.studio.training.recipebook import NamedRecipe, Plan, ScoreRecipe
from palate.studio.web.workspace import Workspace

DATA: Mapping[str, Kind] = {
    "sft": "demonstrations",
    "reward": "rankings",
    "dpo": "rankings",
    "kto": "thumbs",
    "ppo": "prompts",
    "reinforce": "prompts",
    "judge": "candidates",
    "revise": "prompts",
    "best-of-n": "evaluation prompts",
    "eval": "evaluation prompts",
}
"""What each command learns from or answers; prompts are sampled for a batch, not for their own sake."""

HEADS_FILE = "heads.json"
"""Beside the weights of a reward model of several heads."""

REWARDED = frozenset({"ppo", "reinforce", "best-of-n", "eval"})
"""Commands that need a reward model, unless their reward checks answers."""

ALSO: Mapping[str, str] = {"sft": "demonstrations", "reward": "rankings", "dpo": "rankings"}
"""Commands that can learn from what earlier runs have made, and what of it."""

TRAINING = frozenset({"sft", "dpo", "kto", "ppo", "reinforce", "reward"})
"""Commands that make a model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What somebody chose in the form.

    Attributes:
        model_id: trained from, sampled from, or in question.
        reward_ids: reward models.
        baseline_id: what a win rate is against.
        heads: of a reward model to be; None leaves what the recipe says.
        aggregation: one reward from several models, or from the heads of one.
        also_ids: earlier runs, what they have made is learned from too.
    """

    recipe: str
    model_id: str
    reward_ids: tuple[str, ...] = ()
    baseline_id: str | None = None
    seed: int = 0
    heads: int | None = None
    aggregation: str = "mean"
    also_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a job would use.

    Attributes:
        weights: of labelers who count more or less than one.
        also: what earlier runs have made that can be learned from too.
        problem: why it cannot start yet.
    """

    kind: str
    count: int
    people: int
    left_out: Mapping[str, int]
    notes: Sequence[str]
    weights: Mapping[str, float]
    also: Sequence[Made]
    problem: str


def preview(workspace: Workspace, session: Session, recipe: NamedRecipe) -> Preview:
    """What there is for a recipe now."""
    collected = _collected(session, recipe)
    also = earlier_runs.made(session, workspace.directory, ALSO.get(recipe.command, ""))
    problem = "" if collected.records or also else f"there are no {collected.kind} yet"
    if collected.left_out and not collected.records:
        problem = problem and f"there are no {collected.kind} that can be used yet"
    if needs_reward(recipe) and not problem and not _reward_models(session):
        problem = "there is no reward model yet: train one first"
    return Preview(
        kind=collected.kind,
        count=len(collected.records),
        people=collected.people,
        left_out=collected.left_out,
        notes=collected.notes,
        weights=datasets.labeler_weights(session) if recipe.command == "reward" else {},
        also=also,
        problem=problem,
    )


def needs_reward(recipe: NamedRecipe) -> bool:
    """Whether a reward model must be chosen for it."""
    return recipe.command in REWARDED and not recipebook.checks_answers(recipe)


def _collected(session: Session, recipe: NamedRecipe) -> Collected:
    """What it learns from or answers; without the prompts that lack what its reward checks."""
    found = datasets.collect(session, DATA[recipe.command])
    tags = recipebook.tags_checked(recipe)
    kept = [each for each in found.records if not isinstance(each, Prompt) or tags <= each.tags.keys()]
    if len(kept) == len(found.records):
        return found
    reason = f"without the tag {', '.join(sorted(tags))}, by which answers are checked"
    return replace(found, records=kept, left_out=found.left_out | {reason: len(found.records) - len(kept)})


def plan(workspace: Workspace, choice: Choice) -> Plan:
    """Write the data and make a job of a recipe.

    Raises:
        ConflictError: there is nothing to learn from, or no reward model.
        NotFoundError: no such recipe or model.
        RecipeError: the recipe cannot be used.
    """
    recipe = recipebook.named(workspace.recipes, choice.recipe)
    with workspace.store.read() as session:
        collected = _collected(session, recipe)
        also = _also(session, workspace, recipe, choice)
        values = _values(workspace, session, recipe, choice)
    with workspace.store.write() as session:
        number = rounds.current_or_first(session, workspace.settings.model).number
    paths = [each.path for each in also]
    if collected.records or not also:
        paths.insert(0, datasets.write(workspace.directory, collected).path)
    key = "prompts" if "prompts" in collected.kind else "candidates" if collected.kind == "candidates" else "data"
    values[key] = {"path": ",".join(paths)}
    learned = replace(collected, records=[*collected.records, *earlier_runs.records_of(workspace.directory, also)])
    values |= _holdout(recipe, learned) | chat_templates(workspace, values)
    return Plan(
        name=recipe.name.replace("_", " "),
        command=recipe.command,
        recipe=recipebook.fill(recipe, values),
        then=_then(recipe.command, choice),
        round_number=number,
    )


def plan_sampling(
    workspace: Workspace,
    model: Model,
    prompts: Sequence[Prompt],
    *,
    settings: Mapping[str, Any],
    then: Mapping[str, Any],
    round_number: int | None,
) -> Plan:
    """A job that lets a model answer prompts; ``settings`` go into the workspace's recipe for sampling."""
    recipe = recipebook.first_of(workspace.recipes, "sample")
    dataset = datasets.write(workspace.directory, Collected(kind="prompts", records=prompts, left_out={}))
    values = {"model": model.path, "prompts": {"path": dataset.path}, **settings}
    values |= chat_templates(workspace, values)
    return Plan(
        name="sample",
        command="sample",
        recipe=recipebook.fill(recipe, values),
        then={"do": "import", "model_id": model.id, **then},
        round_number=round_number,
    )


def plan_scoring(
    workspace: Workspace,
    candidates: Sequence[Candidates],
    models: Sequence[Model],
    *,
    name: str,
    then: dict[str, Any],
    round_number: int | None,
) -> Plan:
    """A job that scores responses with reward models."""
    if not candidates:
        raise ConflictError("there are no responses to score")
    dataset = datasets.write(workspace.directory, Collected(kind="responses", records=candidates, left_out={}))
    recipe = ScoreRecipe(models=tuple(model.path for model in models), data=dataset.path)
    return Plan(
        name=name, command="score", recipe=tomli_w.dumps(recipe.model_dump()), then=then, round_number=round_number
    )


def unanswered(session: Session, *, limit: int | None = None) -> list[Prompt]:
    """Prompts without any response, the oldest first."""
    answered = select(ResponseRow.prompt_id)
    rows = select(PromptRow.record).where(PromptRow.id.not_in(answered)).order_by(PromptRow.created_at, PromptRow.id)
    return [Prompt.model_validate(record) for record in session.scalars(rows.limit(limit))]


def count_unanswered(session: Session) -> int:
    """How many those are."""
    answered = select(ResponseRow.prompt_id)
    return session.scalar(select(func.count()).select_from(PromptRow).where(PromptRow.id.not_in(answered))) or 0


def model_of(session: Session, model_id: str, kind: str) -> Model:
    """A model of this kind.

    Raises:
        NotFoundError: there is none with that id.
    """
    model = session.get(Model, model_id)
    if model is None or model.kind != kind:
        raise NotFoundError("no such reward model" if kind == "reward" else "no such model")
    return model


def dataset_of(workspace: Workspace, job: Job) -> Dataset | None:
    """The card of what a job learned from or answered."""
    tree = tomllib.loads(job.recipe)
    data = tree.get("data", tree.get("prompts", tree.get("candidates")))
    path = data.get("path") if isinstance(data, dict) else data
    return datasets.read_card(workspace.directory, path.partition(",")[0]) if isinstance(path, str) else None


def likely_model(session: Session, command: str, round_: Round) -> str | None:
    """What somebody would most likely choose: the newest model where it is measured, where it learns what was tuned.

    A supervised model of this round is trained further; before there is one, and to make one, the round's own.
    """
    made = select(Model.id).join(Job, Job.id == Model.job_id).where(Model.kind == "policy").limit(1)
    made = made.where(Model.round_number == round_.number).order_by(Model.created_at.desc())
    if command in ("eval", "best-of-n"):
        return session.scalar(made) or round_.policy_id
    tuned = None if command == "sft" else session.scalar(made.where(Job.stage == "sft"))
    return tuned or round_.policy_id


def last_done(session: Session, command: str) -> Job | None:
    """The newest job of a command that has ended well."""
    ended = select(Job).where(Job.stage == command, Job.state == "done")
    return session.scalars(ended.order_by(Job.created_at.desc(), Job.id).limit(1)).first()


def newest_reward_models(session: Session) -> list[Model]:
    """The reward models of the latest round that has any: one, or an ensemble."""
    models = _reward_models(session)
    return [model for model in models if model.round_number == models[0].round_number]


def ensemble_size(workspace: Workspace, models: Sequence[Model]) -> int:
    """How many members these reward models have together: the heads of each that give its first objective."""
    return sum(_heads_of_order(workspace.directory / model.path) for model in models)


def _heads_of_order(directory: Path) -> int:
    """Of one reward model: all that are called as the first that is no flag."""
    files = (directory / "model" / HEADS_FILE, directory / HEADS_FILE)
    said = (json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file())
    heads: list[dict[str, Any]] = next(said, [])
    names = [head["objective"] for head in heads if not head["flag"]]
    return names.count(names[0]) if names else max(1, len(heads))


def _reward_models(session: Session) -> list[Model]:
    return list(session.scalars(select(Model).where(Model.kind == "reward").order_by(Model.created_at.desc())))


def _also(session: Session, workspace: Workspace, recipe: NamedRecipe, choice: Choice) -> list[Made]:
    """What earlier runs have made and somebody has ticked."""
    if choice.also_ids and recipe.command not in ALSO:
        raise ConflictError("this recipe learns from nothing that earlier runs have made")
    return earlier_runs.chosen(session, workspace.directory, ALSO.get(recipe.command, ""), choice.also_ids)


def _values(workspace: Workspace, session: Session, recipe: NamedRecipe, choice: Choice) -> dict[str, Any]:
    """Models, weights and heads for the recipe."""
    values: dict[str, Any] = {"seed": choice.seed, "model": model_of(session, choice.model_id, "policy").path}
    if recipebook.asks_elsewhere(recipebook.tree_of(recipe)):
        del values["model"]
    if recipe.command == "reward":
        values["labeler_weights"] = datasets.labeler_weights(session)
    if recipe.command == "judge":
        rankings = datasets.collect(session, "rankings")
        values |= {"people": {"path": datasets.write(workspace.directory, rankings).path}} if rankings.records else {}
    if choice.heads is not None:
        if recipe.command != "reward":
            raise ConflictError("heads are for reward models: this recipe trains none")
        values["heads"] = choice.heads
    if recipe.command not in REWARDED:
        return values
    if not choice.reward_ids and recipebook.checks_answers(recipe):
        return values
    if not choice.reward_ids:
        raise ConflictError("choose a reward model; if there is none yet, train one first")
    chosen = [model_of(session, reward_id, "reward") for reward_id in choice.reward_ids]
    rewards = [model.path for model in chosen]
    if recipe.command == "eval":
        if choice.baseline_id is None or choice.baseline_id == choice.model_id:
            raise ConflictError("choose another model to compare with")
        baseline = model_of(session, choice.baseline_id, "policy").path
        return values | {"baseline": baseline, "judge": {"model": rewards[0]}}
    terms: list[dict[str, Any]] = [{"model": path, "weight": 1 / len(rewards)} for path in rewards]
    if choice.aggregation != "mean":
        if ensemble_size(workspace, chosen) == 1:
            raise ConflictError(
                "one reward model with one head cannot disagree with itself: choose several, or the mean"
            )
        terms = [{"ensemble": rewards, "aggregation": choice.aggregation}]
    return values | {"rewards": [*terms, *recipebook.extra_rewards(recipe)]}


def chat_templates(workspace: Workspace, values: Mapping[str, Any]) -> dict[str, str]:
    """The first model has the workspace's, if it names one; every other model has its own, saved with it."""
    keys = {"model": "chat_template", "baseline": "baseline_chat_template"}
    first = [key for name, key in keys.items() if values.get(name) == workspace.settings.model]
    return {key: workspace.chat_template for key in first if workspace.chat_template}


def _holdout(recipe: NamedRecipe, collected: Collected) -> dict[str, Any]:
    """A larger share for validation where little data leaves none."""
    _, kind = recipebook.kinds()[recipebook.stage_of(recipe)]
    if "holdout" not in kind.model_fields:
        return {}
    wanted = parse_recipe(Holdout, recipebook.tree_of(recipe).get("holdout", {}), where=f"{recipe.name}.toml: holdout")
    if wanted.tag:
        return {}
    try:
        fraction = large_enough(collected.records, wanted).fraction
    except DataError:
        raise ConflictError(
            f"too few prompts in these {collected.kind}: some must be kept to see what was learned"
        ) from None
    return {} if fraction == wanted.fraction else {"holdout": {"fraction": fraction}}


def _then(command: str, choice: Choice) -> dict[str, Any]:
    if command in TRAINING:
        kind = "reward" if command == "reward" else "policy"
        return {"do": "register", "kind": kind, "parent_id": choice.model_id}
    if command in ("judge", "revise"):
        return {"do": "told"}
    return {"do": "measure", "model_id": choice.model_id, "baseline_id": choice.baseline_id}


def reward_holdout(recipe: Mapping[str, Any]) -> Holdout:
    """The prompts that a reward model was not trained on, by its resolved recipe."""
    return parse_recipe(RewardRecipe, recipe).holdout
