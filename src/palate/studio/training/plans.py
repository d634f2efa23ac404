"""From "train this recipe on what we have" to a job: data out of the log, models and paths into the recipe.

`preview` says what a job would learn from and what it would not, before anything is started; `plan` writes the data and
fills in the recipe. Paths in recipes are relative to the workspace, where jobs run, so that it can be moved.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from palate.commands import STAGES
from palate.corpus.splits import large_enough
from palate.errors import ConflictError, DataError, NotFoundError
from palate.experiments.methods import Method, evaluation_of, unlike
from palate.feedback.export import datasets
from palate.feedback.export.datasets import Collected, Dataset, Kind
from palate.feedback.store import rounds
from palate.feedback.store.tables import Job, Model, PromptRow, ResponseRow, Round
from palate.recipe import Holdout, RewardRecipe, parse_recipe
from palate.records import Candidates, Prompt
from palate.studio.training import recipebook
from palate.studio.training.recipebook import ComparisonRecipe, NamedRecipe, Plan, ScoreRecipe
from palate.studio.web.workspace import Workspace

DATA: Mapping[str, Kind] = {
    "sft": "demonstrations",
    "reward": "rankings",
    "dpo": "rankings",
    "kto": "thumbs",
    "ppo": "prompts",
    "reinforce": "prompts",
    "best-of-n": "evaluation prompts",
    "eval": "evaluation prompts",
}
"""What each command learns from or answers; prompts are sampled for a batch, not for their own sake."""

HEADS_FILE = "heads.json"
"""Beside the weights of a reward model of several heads."""

REWARDED = frozenset({"ppo", "reinforce", "best-of-n", "eval"})
"""Commands that need a reward model."""

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
    """

    recipe: str
    model_id: str
    reward_ids: tuple[str, ...] = ()
    baseline_id: str | None = None
    seed: int = 0
    heads: int | None = None
    aggregation: str = "mean"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """Runs that somebody wants to see compared.

    Attributes:
        run_ids: those whose recipes are run again.
        judge_id: a reward model.
        baseline_id: what win rates are against.
        allow_different: in what the recipes may differ although it confounds.
    """

    run_ids: tuple[str, ...]
    judge_id: str
    baseline_id: str
    seeds: int = 3
    allow_different: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a job would use.

    Attributes:
        weights: of labelers who count more or less than one.
        problem: why it cannot start yet.
    """

    kind: str
    count: int
    people: int
    left_out: Mapping[str, int]
    notes: Sequence[str]
    weights: Mapping[str, float]
    problem: str


def preview(session: Session, recipe: NamedRecipe) -> Preview:
    """What there is for a recipe now."""
    collected = datasets.collect(session, DATA[recipe.command])
    problem = "" if collected.records else f"there are no {collected.kind} yet"
    if recipe.command in REWARDED and not problem and not _reward_models(session):
        problem = "there is no reward model yet: train one first"
    return Preview(
        kind=collected.kind,
        count=len(collected.records),
        people=collected.people,
        left_out=collected.left_out,
        notes=collected.notes,
        weights=datasets.labeler_weights(session) if recipe.command == "reward" else {},
        problem=problem,
    )


def plan(workspace: Workspace, choice: Choice) -> Plan:
    """Write the data and make a job of a recipe.

    Raises:
        ConflictError: there is nothing to learn from, or no reward model.
        NotFoundError: no such recipe or model.
        RecipeError: the recipe cannot be used.
    """
    recipe = recipebook.named(workspace.recipes, choice.recipe)
    with workspace.store.read() as session:
        collected = datasets.collect(session, DATA[recipe.command])
        values = _values(workspace, session, recipe, choice)
    with workspace.store.write() as session:
        number = rounds.current_or_first(session, workspace.settings.model).number
    dataset = datasets.write(workspace.directory, collected)
    values["prompts" if "prompts" in dataset.kind else "data"] = {"path": dataset.path}
    values |= _holdout(recipe, collected) | _chat_templates(workspace, values)
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
    values |= _chat_templates(workspace, values)
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


def plan_comparison(workspace: Workspace, contest: Contest) -> Plan:
    """A job that runs finished runs' recipes with several seeds, each from its beginning, and compares them.

    All are measured as the workspace's recipe for win rates says, on the prompts kept for evaluation.

    Raises:
        ConflictError: a run that cannot be compared, recipes that differ in more than was allowed, or no prompts.
        NotFoundError: no such run or model, or no recipe for win rates.
    """
    if not contest.run_ids:
        raise ConflictError("tick the runs that are to be compared")
    recipe = recipebook.first_of(workspace.recipes, "eval")
    with workspace.store.read() as session:
        collected = datasets.collect(session, "evaluation prompts")
        judge = model_of(session, contest.judge_id, "reward").path
        baseline = model_of(session, contest.baseline_id, "policy").path
        methods = [_method(session, run_id) for run_id in dict.fromkeys(contest.run_ids)]
    with workspace.store.write() as session:
        number = rounds.current_or_first(session, workspace.settings.model).number
    prompts = datasets.write(workspace.directory, collected).path
    values: dict[str, Any] = {"model": baseline, "baseline": baseline, "judge": {"model": judge}}
    values |= {"prompts": {"path": prompts}} | _chat_templates(workspace, values)
    tree = tomllib.loads(recipebook.fill(recipe, values))
    evaluation = evaluation_of(tree, where=f"{recipe.name}.toml")
    for what, why in unlike(methods, evaluation).items():
        if what not in contest.allow_different:
            raise ConflictError(f"{why}: choose others, or say below that they may differ in it")
    whole = ComparisonRecipe(
        seeds=contest.seeds,
        allow_different=contest.allow_different,
        evaluation=tree,
        methods={method.name: dict(method.tree) for method in methods},
    )
    return Plan(
        name="compare",
        command="compare",
        recipe=tomli_w.dumps(whole.model_dump(mode="json")),
        then={"do": "compared"},
        round_number=number,
    )


def comparable(session: Session) -> list[Job]:
    """Runs that made a model which answers, the newest first."""
    commands = [stage.name for stage in STAGES if stage.makes_policy]
    made = select(Job).where(Job.state == "done", Job.stage.in_(commands))
    return list(session.scalars(made.order_by(Job.created_at.desc(), Job.id)))


def _method(session: Session, run_id: str) -> Method:
    """The recipe of a run, under the name of its directory."""
    job = session.get(Job, run_id)
    if job is None:
        raise NotFoundError("no such run")
    stage = next((each for each in STAGES if each.name == job.stage and each.makes_policy), None)
    if stage is None or job.state != "done":
        raise ConflictError(f"{job.name} has made no model that answers: choose runs that have")
    name = Path(job.directory).name
    return Method(name=name, stage=stage, tree=tomllib.loads(job.recipe), source=f"the recipe of {job.name}")


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
    data = tree.get("data", tree.get("prompts"))
    path = data.get("path") if isinstance(data, dict) else data
    return datasets.read_card(workspace.directory, path) if isinstance(path, str) else None


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


def _values(workspace: Workspace, session: Session, recipe: NamedRecipe, choice: Choice) -> dict[str, Any]:
    """Models, weights and heads for the recipe."""
    values: dict[str, Any] = {"seed": choice.seed, "model": model_of(session, choice.model_id, "policy").path}
    if recipe.command == "reward":
        values["labeler_weights"] = datasets.labeler_weights(session)
    if choice.heads is not None:
        if recipe.command != "reward":
            raise ConflictError("heads are for reward models: this recipe trains none")
        values["heads"] = choice.heads
    if recipe.command not in REWARDED:
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


def _chat_templates(workspace: Workspace, values: Mapping[str, Any]) -> dict[str, str]:
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
    return {"do": "measure", "model_id": choice.model_id, "baseline_id": choice.baseline_id}


def reward_holdout(recipe: Mapping[str, Any]) -> Holdout:
    """The prompts that a reward model was not trained on, by its resolved recipe."""
    return parse_recipe(RewardRecipe, recipe).holdout
