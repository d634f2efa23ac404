"""Drawing the answers of an arena: two sampling jobs, one for each model, and then the pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy.orm import Session

from palate.errors import ConflictError, RunError
from palate.feedback.export import datasets
from palate.feedback.store.tables import Batch, Job, Model
from palate.feedback.tasks import arena
from palate.records import Candidates, Prompt
from palate.studio.training import plans
from palate.studio.training.recipebook import Plan
from palate.studio.web.workspace import Workspace

Apply = Callable[[Session, Job], list[Plan]]


def prompts_for(session: Session, count: int, *, kept: bool) -> tuple[list[Prompt], tuple[str, ...]]:
    """The first prompts of those kept for evaluation, or of all; and what a reader of the result must know.

    Raises:
        ConflictError: there are none.
    """
    pool = datasets.collect(session, "evaluation prompts")
    notes = pool.notes
    prompts = [record for record in pool.records if isinstance(record, Prompt)]
    if not kept and pool.left_out:
        prompts += [each for each in datasets.collect(session, "prompts").records if isinstance(each, Prompt)]
        notes = ("some of the prompts may have been trained on",)
    if not prompts:
        raise ConflictError("there are no prompts yet: import some first")
    return prompts[:count], notes


def drawing(workspace: Workspace, batch: Batch, model: Model, prompts: Sequence[Prompt], first: str | None) -> Plan:
    """The job that lets one model answer; ``first`` is the directory of the first model's job, for the second's."""
    settings = {"responses_per_prompt": 1, "sampling": batch.settings["sampling"], "seed": 0}
    then = {"do": "arena", "batch_id": batch.id, "first": first}
    plan = plans.plan_sampling(workspace, model, prompts, settings=settings, then=then, round_number=batch.round_number)
    return dataclasses.replace(plan, name="arena")


def collect(workspace: Workspace, job: Job, directory: Path) -> Apply:
    """After the first model's job the second's; after that the pairs."""
    drawn = _candidates(directory)
    before = job.then["first"]
    if before is None:

        def go_on(session: Session, fresh: Job) -> list[Plan]:
            batch = arena.arena_of(session, fresh.then["batch_id"])
            _, second = arena.models_of(session, batch)
            fresh.message = "the first model has answered"
            return [drawing(workspace, batch, second, [each.prompt for each in drawn], fresh.directory)]

        return go_on
    first = _candidates(workspace.directory / before)

    def pair(session: Session, fresh: Job) -> list[Plan]:
        batch = arena.arena_of(session, fresh.then["batch_id"])
        pairs = arena.fill(session, batch, first, drawn, also_known_as=[workspace.settings.model])
        fresh.message = f"{pairs} pairs are ready to be judged"
        return []

    return pair


def _candidates(directory: Path) -> list[Candidates]:
    try:
        text = (directory / "candidates.jsonl").read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RunError("candidates.jsonl was not written") from None
    return [Candidates.model_validate_json(line) for line in text.split("\n") if line]
