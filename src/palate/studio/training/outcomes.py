"""What is done with the result of a job, as its ``then`` says: {"do": "import" | "register" | "priorities" | ...}.

An outcome has two halves. The first reads files and may take its time; what it returns is called in the transaction
that marks the job as done, writes to the database, and may ask for further jobs. So a result is used once, or, if the
app is killed before the end, again from the beginning.
"""

from __future__ import annotations

import json
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomli_w
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from palate import disk
from palate.corpus.splits import split
from palate.errors import DataError, RunError
from palate.feedback.export import datasets
from palate.feedback.store.tables import Batch, Job, Model, User
from palate.feedback.tasks import batches, identity, proposing
from palate.feedback.tasks.batches import BatchPlan
from palate.records import Candidates, Ranking
from palate.studio.training import arena_jobs, earlier_runs, plans
from palate.studio.training.choosing import MODEL_FILES
from palate.studio.training.recipebook import Plan
from palate.studio.web.workspace import Workspace

Apply = Callable[[Session, Job], list[Plan]]

ACCURACY = "accuracy.json"
SCORES = "scores.jsonl"


def prepare(workspace: Workspace, job: Job) -> Apply:
    """Read what the job made; the result is applied in a transaction."""
    action = _ACTIONS.get(job.then.get("do", ""), _nothing)
    return action(workspace, job, workspace.directory / job.directory)


def read_scores(directory: Path) -> dict[proposing.Key, list[float]]:
    """The raw scores that a scoring job gave every response: of each head, those of the first model first."""
    found: dict[proposing.Key, dict[int, list[float]]] = {}
    for row in map(json.loads, _lines(directory / SCORES)):
        found.setdefault((row["prompt"], row["response"]), {})[row["model"]] = row["raw"]
    return {key: [number for place in sorted(raw) for number in raw[place]] for key, raw in found.items()}


def _nothing(workspace: Workspace, job: Job, directory: Path) -> Apply:
    return lambda session, fresh: []


def _import(workspace: Workspace, job: Job, directory: Path) -> Apply:
    """Sampled responses into the database, and into a batch if one is asked for."""
    candidates = [Candidates.model_validate_json(line) for line in _lines(directory / "candidates.jsonl")]
    with workspace.store.read() as session:
        model = session.get_one(Model, job.then["model_id"])
    plan = job.then.get("batch")
    screened = identity.screen(candidates, (model.path, model.name, workspace.settings.model))

    def apply(session: Session, fresh: Job) -> list[Plan]:
        if plan is None:
            for item in screened.candidates:
                batches.add_prompts(session, [item.prompt])
                for response in item.responses:
                    batches.add_response(session, item.prompt.id, response, model_id=model.id)
        else:
            batch = batches.create_batch(
                session, BatchPlan(**plan, round_number=fresh.round_number), by=_maker(session, fresh)
            )
            batches.add_candidates(session, batch, screened.candidates, model_id=model.id, source="sampled")
            fresh.then = fresh.then | {"batch_id": batch.id}
        fresh.message = _sampled(screened)
        return []

    return apply


def _register(workspace: Workspace, job: Job, directory: Path) -> Apply:
    """The model that a training job made gets its line; a reward model is then held against the labelers."""
    if not any((directory / "model" / file).exists() for file in MODEL_FILES):
        raise RunError(f"{job.directory} holds no model")
    kind = job.then["kind"]
    tested = _test_of(workspace, job) if kind == "reward" else None

    def apply(session: Session, fresh: Job) -> list[Plan]:
        model = Model(
            name=_free_name(session, Path(fresh.directory).name),
            path=fresh.directory,
            kind=kind,
            created_at=time.time(),
            parent_id=fresh.then["parent_id"],
            job_id=fresh.id,
            round_number=fresh.round_number,
        )
        session.add(model)
        session.flush()
        fresh.message = f"made the {'reward model' if kind == 'reward' else 'model'} {model.name}"
        return [] if tested is None else [tested(model)]

    return apply


def _test_of(workspace: Workspace, job: Job) -> Callable[[Model], Plan] | None:
    """A job that scores what people ranked on prompts that the reward model was not trained on; None if nobody did."""
    recipe = tomllib.loads((workspace.directory / job.directory / "recipe.toml").read_text(encoding="utf-8"))
    with workspace.store.read() as session:
        rankings = datasets.rankings_to_test_on(session)
        held_out = sorted(datasets.held_out_people(session))
    try:
        _, fresh = split(rankings, plans.reward_holdout(recipe))
    except DataError:
        return None
    disk.write_text(
        workspace.directory / job.directory / "test_rankings.jsonl", "".join(r.to_json() + "\n" for r in fresh)
    )

    def plan(model: Model) -> Plan:
        then = {"do": "accuracy", "run": job.directory, "held_out": held_out}
        candidates = datasets.distinct_responses(fresh)
        name = f"test {Path(job.directory).name}"
        return plans.plan_scoring(workspace, candidates, [model], name=name, then=then, round_number=job.round_number)

    return plan


def _accuracy(workspace: Workspace, job: Job, directory: Path) -> Apply:
    """How often the reward model orders responses as each labeler did: a file beside the run that made it."""
    run = workspace.directory / job.then["run"]
    rankings = [Ranking.model_validate_json(line) for line in _lines(run / "test_rankings.jsonl")]
    found = proposing.accuracy(rankings, read_scores(directory), held_out=frozenset(job.then["held_out"]))
    disk.write_text(run / ACCURACY, disk.json_text(asdict(found), indent=2) + "\n")

    def apply(session: Session, fresh: Job) -> list[Plan]:
        fresh.message = f"tested on {sum(labeler.num_pairs for labeler in found.labelers)} pairs of prompts new to it"
        return []

    return apply


def _priorities(workspace: Workspace, job: Job, directory: Path) -> Apply:
    """What the reward model is least sure of comes first."""
    scores = read_scores(directory)

    def apply(session: Session, fresh: Job) -> list[Plan]:
        count = proposing.prioritise(session, session.get_one(Batch, fresh.then["batch_id"]), scores)
        fresh.message = f"{count} items are now in the order of the reward model's doubt"
        return []

    return apply


def _measure(workspace: Workspace, job: Job, directory: Path) -> Apply:
    """A comparison has nothing to leave behind but its figure."""
    figures = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    name = "win_rate" if "win_rate" in figures else "score"
    low, high = figures.get(f"{name}_low"), figures.get(f"{name}_high")
    between = "" if low is None or high is None else f" ({low:.3g} to {high:.3g})"

    def apply(session: Session, fresh: Job) -> list[Plan]:
        fresh.message = f"{name.replace('_', ' ')} {figures[name]:.3g}{between}"
        return []

    return apply


def _told(workspace: Workspace, job: Job, directory: Path) -> Apply:
    """What it made lies in its directory, for others to learn from; here is what its report says of it."""
    figures = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    said = _WORDS[job.stage](figures)

    def apply(session: Session, fresh: Job) -> list[Plan]:
        fresh.message = said
        return [_on_what_is_kept(fresh)] if "after" in fresh.then else []

    return apply


def _on_what_is_kept(job: Job) -> Plan:
    """The job that was to come after a filter, on the text that the filter has kept."""
    after = job.then["after"]
    tree = tomllib.loads(after["recipe"])
    tree["data"] = {"path": f"{job.directory}/{earlier_runs.KEPT}"}
    return Plan(**after | {"recipe": tomli_w.dumps(tree)})


def _rounds(workspace: Workspace, job: Job, directory: Path) -> Apply:
    """The policy of the last round gets its line."""
    figures = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    number = figures["rounds"][-1]["round"]
    policy = f"{job.directory}/round-{number}/policy"
    if not any((workspace.directory / policy / "model" / file).exists() for file in MODEL_FILES):
        raise RunError(f"{policy} holds no model")
    rate, low, high = (figures[f"win_rate{end}"] for end in ("", "_low", "_high"))

    def apply(session: Session, fresh: Job) -> list[Plan]:
        model = Model(
            name=_free_name(session, f"{Path(job.directory).name} round {number}"),
            path=policy,
            kind="policy",
            created_at=time.time(),
            parent_id=fresh.then["parent_id"],
            job_id=fresh.id,
            round_number=fresh.round_number,
        )
        session.add(model)
        between = "" if low is None or high is None else f" ({low:.3g} to {high:.3g})"
        fresh.message = f"made the model {model.name}, win rate {rate:.3g}{between}"
        return []

    return apply


def _judged(figures: Mapping[str, Any]) -> str:
    said = f"{figures['pairs']} pairs, {figures['ties']} of them ties"
    if figures["flips"] is not None:
        said += f"; another answer in the other order {figures['flips']:.0%}"
    agreement = figures.get("agreement_with_people")
    return said + ("" if agreement is None else f"; agrees with people {agreement:.0%}")


def _revised(figures: Mapping[str, Any]) -> str:
    return (
        f"{figures['demonstrations']} demonstrations of {figures['prompts']} prompts, {figures['unchanged']} unchanged"
    )


def _filtered(figures: Mapping[str, Any]) -> str:
    return f"{figures['documents_kept']:,.0f} of {figures['documents_read']:,.0f} documents kept"


def _mined(figures: Mapping[str, Any]) -> str:
    made = sum(value for name, value in figures.items() if name.startswith("made_"))
    left_out = sum(each["count"] for each in figures["left_out"])
    return f"{made:,.0f} made, {left_out:,.0f} left out"


def _covered(figures: Mapping[str, Any]) -> str:
    share, low, high = (figures.get(f"inside{end}") for end in ("", "_low", "_high"))
    between = "" if low is None or high is None else f" ({low:.1%} to {high:.1%})"
    return f"{share:.1%}{between} of {len(figures['prompts']):,} prompts are inside what the reward model learned from"


def _returned(figures: Mapping[str, Any]) -> str:
    kinds = [name.removeprefix("return_") for name, value in figures.items() if _is_return(name, value)]
    return "return: " + ", ".join(f"{name.replace('_', ' ')} {figures[f'return_{name}']:.4g}" for name in kinds)


def _is_return(name: str, value: Any) -> bool:
    return name.startswith("return_") and not name.endswith(("_low", "_high")) and isinstance(value, int | float)


_WORDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "judge": _judged,
    "revise": _revised,
    "filter": _filtered,
    "mine": _mined,
    "coverage": _covered,
    "agent": _returned,
}
"""What is said of a run in a line, by command."""


def _compared(workspace: Workspace, job: Job, directory: Path) -> Apply:
    """Several methods have nothing to leave behind but what the report says of them at equal KL."""
    figures = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    there = [row for row in figures.get("at_equal_kl", []) if row.get("win_rate") is not None]
    said = "there is no KL that every run comes by: see the report"
    if there:
        said = f"win rates at a KL of {figures['at_kl']:.3g}: " + "; ".join(map(_place, there))
    if figures["failed"]:
        said += f"; runs that failed: {len(figures['failed'])}"

    def apply(session: Session, fresh: Job) -> list[Plan]:
        fresh.message = said
        return []

    return apply


def _place(row: Mapping[str, Any]) -> str:
    """A method's win rate, and whether it is surely below the first one's."""
    high = row["minus_first_high"]
    near = row["minus_first"] is not None and (high is None or high >= 0)
    return f"{row['method']} {row['win_rate']:.3g}{', too close to the first to tell' if near else ''}"


_ACTIONS: Mapping[str, Callable[[Workspace, Job, Path], Apply]] = {
    "import": _import,
    "register": _register,
    "accuracy": _accuracy,
    "priorities": _priorities,
    "measure": _measure,
    "compared": _compared,
    "told": _told,
    "rounds": _rounds,
    "arena": arena_jobs.collect,
}


def _maker(session: Session, job: Job) -> User | None:
    return session.get(User, job.created_by) if job.created_by else None


def _sampled(screened: identity.Screened) -> str:
    responses = sum(len(item.responses) for item in screened.candidates)
    message = f"{responses} responses to {len(screened.candidates)} prompts"
    if screened.dropped:
        message += f"; left out because they name their model or its maker: {screened.dropped}"
    if screened.items_dropped:
        message += f", and prompts of which fewer than two were left: {screened.items_dropped}"
    return message


def _free_name(session: Session, name: str) -> str:
    """The name, or with a number if a model has it already."""
    taken = session.scalar(select(func.count()).where(Model.name == name))
    return f"{name} ({taken + 1})" if taken else name


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").split("\n") if line]
    except FileNotFoundError:
        raise RunError(f"{path.name} was not written") from None
