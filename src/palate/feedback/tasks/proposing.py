"""What to label next, and how well a reward model knows each labeler: both follow from its scores.

How much a judgement of an item would teach is in `acquisition.py`: of one reward model by its entropy, of an ensemble
(several heads of one model, or models of other seeds and rounds) by its contradictions, each item given those that come
before it. Nothing is put into this order unless somebody asks: on two sets of real judgements it saved no labels over
the order in which a batch was made, and was no worse (docs/guides/choosing-labels.md).

Left out: the chance that labelers will skip an item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from palate.feedback.store.tables import Batch, Item, Judgement, PromptRow, ResponseRow, Task
from palate.intervals import Estimate, ratio_estimate
from palate.objectives.acquisition import uncertainty_one_by_one
from palate.records import Candidates, Ranking, content_id

Key = tuple[str, str]
"""A prompt's id and the hash of a response's text."""

Scores = Mapping[Key, Sequence[float]]
"""The raw scores [M] that the M members of an ensemble, or one model alone, give a response."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelerAccuracy:
    """How often a reward model orders responses as one labeler did.

    Attributes:
        held_out: their judgements trained nothing.
        accuracy: over their ordered pairs; equal scores count one half.
    """

    name: str
    held_out: bool
    num_pairs: int
    accuracy: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Within: labelers whose judgements trained the model. Across: people it has never heard. Prompts new to it."""

    within: Estimate
    across: Estimate
    labelers: tuple[LabelerAccuracy, ...]


def key_of(prompt_id: str, text: str) -> Key:
    """Under which a response's scores are found."""
    return prompt_id, content_id(text)


def unlabelled(session: Session, batch: Batch) -> list[tuple[Item, Candidates]]:
    """The items nobody has judged or is judging, with their texts; those of fewer than two responses ask nothing."""
    judged = exists().where(Judgement.item_id == Item.id)
    in_hand = exists().where(Task.item_id == Item.id, Task.state == "leased")
    waiting = Item.open_places > 0
    items = session.scalars(
        select(Item).where(Item.batch_id == batch.id, waiting, ~judged, ~in_hand).order_by(Item.position)
    ).all()
    several = [item for item in items if len(item.response_ids) > 1]
    return list(zip(several, candidates_of(session, several), strict=True))


def candidates_of(session: Session, items: Sequence[Item]) -> list[Candidates]:
    """The prompt and the responses of every item."""
    prompts = _records(session, PromptRow, {item.prompt_id for item in items})
    responses = _records(session, ResponseRow, {each for item in items for each in item.response_ids})
    return [
        Candidates.model_validate(
            {"prompt": prompts[item.prompt_id], "responses": [responses[each] for each in item.response_ids]}
        )
        for item in items
    ]


def prioritise(session: Session, batch: Batch, scores: Scores) -> int:
    """Put what the reward models are least sure of first; returns how many items got their place."""
    items, known = [], []
    for item, candidates in unlabelled(session, batch):
        found = [scores.get(key_of(candidates.prompt.id, response.text)) for response in candidates.responses]
        if None not in found:
            items.append(item)
            known.append(np.array(found, dtype=np.float64).T)  # [M, K]
    for item, worth in zip(items, uncertainty_one_by_one(known), strict=True):
        item.priority = worth
    return len(items)


def prioritise_prompts(session: Session, batch: Batch, worth: Mapping[str, float]) -> tuple[int, int]:
    """Put first the items whose prompts, by their ids, are worth most.

    Returns:
        How many items got their place, and how many are last because nothing is known of their prompts.
    """
    items = [item for item, _ in unlabelled(session, batch)]
    for item in items:
        item.priority = worth.get(item.prompt_id, 0.0)
    known = sum(item.prompt_id in worth for item in items)
    return known, len(items) - known


def as_made(session: Session, batch: Batch) -> int:
    """Give the items that nobody has judged the order in which the batch was made; returns how many moved."""
    moved = [item for item, _ in unlabelled(session, batch) if item.priority]
    for item in moved:
        item.priority = 0.0
    return len(moved)


def accuracy(
    rankings: Sequence[Ranking], scores: Scores, *, held_out: frozenset[str] = frozenset(), seed: int = 0
) -> Accuracy:
    """Per labeler, and for those who trained the model and those who did not; intervals by prompt.

    Args:
        rankings: of prompts that the model was not trained on.
        scores: of one model, by each of its heads; their mean counts.
        held_out: names of labelers whose judgements trained nothing.
    """
    names = sorted({ranking.labeler for ranking in rankings})
    within = [ranking for ranking in rankings if ranking.labeler not in held_out]
    across = [ranking for ranking in rankings if ranking.labeler in held_out]
    labelers = []
    for name in names:
        theirs = [ranking for ranking in rankings if ranking.labeler == name]
        num_pairs = sum(len(_verdicts(ranking, scores)) for ranking in theirs)
        labelers.append(
            LabelerAccuracy(
                name=name, held_out=name in held_out, num_pairs=num_pairs, accuracy=_share(theirs, scores, seed)
            )
        )
    return Accuracy(within=_share(within, scores, seed), across=_share(across, scores, seed), labelers=tuple(labelers))


def _share(rankings: Sequence[Ranking], scores: Scores, seed: int) -> Estimate:
    """Share of ordered pairs that the scores order alike."""
    by_prompt: dict[str, list[float]] = {}
    for ranking in rankings:
        by_prompt.setdefault(ranking.prompt.id, []).extend(_verdicts(ranking, scores))
    right = [sum(verdicts) for verdicts in by_prompt.values()]
    return ratio_estimate(right, [len(verdicts) for verdicts in by_prompt.values()], seed=seed, share=True)


def _verdicts(ranking: Ranking, scores: Scores) -> list[float]:
    """For each ordered pair whose scores are known: 1 for the same order, one half for equal scores, 0 else."""
    found = [scores.get(key_of(ranking.prompt.id, response.text)) for response in ranking.responses]
    margins = [
        fmean(found[better]) - fmean(found[worse])  # type: ignore[arg-type]
        for better, worse in ranking.pairs
        if found[better] is not None and found[worse] is not None
    ]
    return [1.0 if margin > 0 else 0.5 if margin == 0 else 0.0 for margin in margins]


def _records(session: Session, table: type[PromptRow] | type[ResponseRow], ids: set[str]) -> dict[str, Any]:
    """Records by id, asked for some hundreds at a time, which every database takes."""
    wanted = sorted(ids)
    parts = (wanted[start : start + 500] for start in range(0, len(wanted), 500))
    found = (session.execute(select(table.id, table.record).where(table.id.in_(part))) for part in parts)
    return {row_id: record for rows in found for row_id, record in rows}
