"""The arena: people say, blind, which of two models answers better, and the names come last.

An arena is a batch of pairs, the first response of each by the first model. Labelers see them in the usual pair screen,
in an order of their own. While it is open nobody is shown a result: looking on until it pleases would make any model
win. Closing it is final; what is said later does not count, since the names are known then.

The win rate gives every prompt the same weight, however many people judged it, and its interval is by
prompt. With it come what could explain it away: ties, a leaning to the left, single labelers, and length. Answers that
name their model are left out before anybody sees them, and counted.

Where both models say the same there is nothing to ask: those prompts count as ties.

Left out: more than two models in one arena, ratings of the Elo kind across arenas, and reviews; votes are votes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session, aliased

from palate.errors import ConflictError, NotFoundError
from palate.evals.winrate import WinRate, length_controlled_of_outcomes
from palate.feedback.store.policies import policy_of
from palate.feedback.store.tables import Batch, Item, Judgement, Model, Task, User
from palate.feedback.tasks import batches, identity
from palate.feedback.tasks.batches import BatchPlan
from palate.intervals import Estimate, ratio_estimate, wilson
from palate.records import Candidates, Ranking
from palate.words import count_words

SEED = 0
"""Of the bootstrap: the same votes give the same interval whenever one looks."""

FEWEST_FOR_LENGTH = 10
"""With fewer prompts there is nothing to fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An arena to be.

    Attributes:
        model_ids: whose answers are compared; the result is the first one's.
        overlap: how many people judge each pair.
        max_new_tokens, temperature: how both answer.
    """

    name: str
    model_ids: tuple[str, str]
    overlap: int = 1
    max_new_tokens: int = 256
    temperature: float = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """One person's verdict on one pair.

    Attributes:
        outcome: 1 where the first model won, 0 where the second did, one half for a tie.
        first_was_left: where the first model's answer stood.
        words: of the first and the second model's answer.
    """

    prompt_id: str
    labeler: str
    outcome: float
    first_was_left: bool
    words: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelerTally:
    """How one person voted: ``left`` is how often they preferred what stood left, when they preferred either."""

    name: str
    wins: int
    ties: int
    losses: int
    rate: Estimate
    left: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What came of an arena, from the first model's side.

    Attributes:
        win: by prompt; None without votes.
        left: how often what stood left was preferred; one half is unbiased.
        at_equal_length: the win rate to expect if both were equally long; None with few prompts.
        words: mean length of both models' answers.
    """

    win: WinRate | None
    left: Estimate
    at_equal_length: Estimate | None
    words: tuple[float, float]
    labelers: tuple[LabelerTally, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far an arena is.

    Attributes:
        wanted: votes when it is full.
        left_out: pairs of which an answer named its model or its maker.
        alike: prompts to which both models said the same.
    """

    pairs: int
    votes: int
    wanted: int
    labelers: int
    left_out: int
    alike: int


def create(session: Session, plan: Plan, *, by: User | None, now: float | None = None) -> Batch:
    """An arena without pairs, paused until `fill` has them.

    Raises:
        NotFoundError: no such model.
        ConflictError: one model twice, or a name that tells labelers which models these are.
    """
    models = [policy_of(session, model_id) for model_id in plan.model_ids]
    if models[0].id == models[1].id:
        raise ConflictError("an arena compares two different models")
    if any(_names(plan.name, model) for model in models):
        raise ConflictError("labelers see the arena's name: choose one that does not name a model")
    settings: dict[str, Any] = {
        "models": list(plan.model_ids),
        "sampling": {"temperature": plan.temperature, "max_new_tokens": plan.max_new_tokens},
    }
    wanted = BatchPlan(name=plan.name, kind="arena", overlap=plan.overlap, settings=settings)
    batch = batches.create_batch(session, wanted, by=by, now=now)
    batch.state = "paused"
    return batch


def fill(
    session: Session,
    batch: Batch,
    first: Iterable[Candidates],
    second: Iterable[Candidates],
    *,
    also_known_as: Sequence[str] = (),
    now: float | None = None,
) -> int:
    """Make pairs of both models' answers to the same prompts and open the arena; returns how many pairs.

    Args:
        also_known_as: names that give an answer away beside those of the two models.

    Raises:
        ConflictError: it has been filled or closed, or there is nothing to compare.
    """
    if "left_out" in batch.settings or closed_at(batch) is not None:
        raise ConflictError("this arena has its pairs already")
    models = models_of(session, batch)
    names = [name for model in models for name in (model.name, model.path)] + list(also_known_as)
    pairs = _pairs(first, second)
    different = [pair for pair in pairs if _differ(pair)]
    screened = identity.screen(different, names)
    for pair in screened.candidates:
        batches.add_prompts(session, [pair.prompt], source="arena", now=now)
        rows = [
            batches.add_response(session, pair.prompt.id, response, model_id=model.id, now=now)
            for response, model in zip(pair.responses, models, strict=True)
        ]
        batches.add_item(session, batch, pair.prompt.id, [row.id for row in rows])
    if not screened.candidates:
        raise ConflictError("there is nothing to compare: the answers are the same, or they name their model")
    counts = {"left_out": screened.items_dropped, "alike": len(pairs) - len(different)}
    batch.settings = batch.settings | counts
    batch.state = "open"
    return len(screened.candidates)


def close(session: Session, batch: Batch, *, now: float | None = None) -> None:
    """End the arena for good and let the names be shown.

    Raises:
        ConflictError: it is closed already.
    """
    if closed_at(batch) is not None:
        raise ConflictError("this arena is closed already")
    batch.state = "closed"
    batch.settings = batch.settings | {"closed_at": time.time() if now is None else now}


def closed_at(batch: Batch) -> float | None:
    """When the names were first to be seen; None before."""
    at: float | None = batch.settings.get("closed_at")
    return at


def arena_of(session: Session, batch_id: str) -> Batch:
    """An arena.

    Raises:
        NotFoundError: there is none with that id.
    """
    batch = session.get(Batch, batch_id)
    if batch is None or batch.kind != "arena" or "models" not in batch.settings:
        raise NotFoundError("no such arena")
    return batch


def arenas(session: Session) -> Sequence[Batch]:
    """All of them, the newest first."""
    found = session.scalars(select(Batch).where(Batch.kind == "arena").order_by(Batch.created_at.desc(), Batch.id))
    return [batch for batch in found if "models" in batch.settings]


def models_of(session: Session, batch: Batch) -> tuple[Model, Model]:
    """The two models, of which nobody is told before the end."""
    first, second = (session.get_one(Model, model_id) for model_id in batch.settings["models"])
    return first, second


def progress(session: Session, batch: Batch) -> Progress:
    """How far it is; says nothing about who is winning."""
    pairs = session.scalar(select(func.count()).where(Item.batch_id == batch.id)) or 0
    counted = select(func.count(), func.count(Task.user_id.distinct())).join(Item, Item.id == Task.item_id)
    counted = counted.where(Item.batch_id == batch.id, Task.state == "submitted", ~Task.is_surplus)
    done, labelers = session.execute(counted).one()
    return Progress(
        pairs=pairs,
        votes=done,
        wanted=pairs * batch.overlap,
        labelers=labelers,
        left_out=batch.settings.get("left_out", 0),
        alike=batch.settings.get("alike", 0),
    )


def result(session: Session, batch: Batch) -> Tally:
    """What came of it.

    Raises:
        ConflictError: it is still open.
    """
    if closed_at(batch) is None:
        raise ConflictError("the result is shown when the arena is closed")
    return tally(votes(session, batch), alike=batch.settings["alike"])


def votes(session: Session, batch: Batch) -> list[Vote]:
    """What counted when it was closed; of a correction made later, what it corrected."""
    until = closed_at(batch)
    until = float("inf") if until is None else until
    later = aliased(Judgement)
    changed = exists().where(later.supersedes == Judgement.id, later.created_at <= until)
    rows = session.execute(
        select(Judgement.record, Item.prompt_id)
        .join(Item, Item.id == Judgement.item_id)
        .join(Task, Task.id == Judgement.task_id)
        .where(Item.batch_id == batch.id, Judgement.kind == "ranking", Judgement.created_at <= until)
        .where(~changed, ~Task.is_surplus)
        .order_by(Judgement.number)
    )
    return [_vote(Ranking.model_validate(record), prompt_id) for record, prompt_id in rows]


def tally(votes: Sequence[Vote], *, alike: int = 0) -> Tally:
    """Count votes, and ties on so many prompts to which both models said the same."""
    by_prompt: dict[str, list[Vote]] = {}
    by_labeler: dict[str, list[Vote]] = {}
    for vote in votes:
        by_prompt.setdefault(vote.prompt_id, []).append(vote)
        by_labeler.setdefault(vote.labeler, []).append(vote)
    outcomes = [_mean(vote.outcome for vote in each) for each in by_prompt.values()] + [0.5] * alike
    lengths = [each[0].words for each in by_prompt.values()]
    differences = [first - second for first, second in lengths] + [0] * alike
    fits = len(by_prompt) >= FEWEST_FOR_LENGTH
    return Tally(
        win=_win(outcomes, votes, alike) if votes else None,
        left=_left(votes),
        at_equal_length=length_controlled_of_outcomes(outcomes, differences, seed=SEED) if fits else None,
        words=(_mean(first for first, _ in lengths), _mean(second for _, second in lengths)),
        labelers=tuple(_of_labeler(name, by_labeler[name]) for name in sorted(by_labeler)),
    )


def _names(text: str, model: Model) -> bool:
    """Whether a text tells which model is meant."""
    names = (model.name, *identity.names_of(model.path))
    return any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE) for name in names)


def _pairs(first: Iterable[Candidates], second: Iterable[Candidates]) -> list[Candidates]:
    """The first answer of each model to every prompt that both have answered."""
    others = {each.prompt.id: each.responses[0] for each in second}
    return [
        Candidates(prompt=each.prompt, responses=(each.responses[0], others[each.prompt.id]))
        for each in first
        if each.prompt.id in others
    ]


def _differ(pair: Candidates) -> bool:
    """There is something to choose from."""
    first, second = pair.responses
    return first.text.split() != second.text.split()


def _vote(ranking: Ranking, prompt_id: str) -> Vote:
    first, second = ranking.ranks
    words = [count_words(response.text) for response in ranking.responses]
    return Vote(
        prompt_id=prompt_id,
        labeler=ranking.labeler,
        outcome=0.5 if first == second else float(first < second),
        first_was_left=ranking.shown_order is None or ranking.shown_order[0] == 0,
        words=(words[0], words[1]),
    )


def _win(outcomes: Sequence[float], votes: Sequence[Vote], alike: int) -> WinRate:
    estimate = ratio_estimate(outcomes, [1.0] * len(outcomes), seed=SEED, share=True)
    assert estimate.value is not None
    wins, ties, losses = _counts(votes)
    return WinRate(
        rate=estimate.value,
        low=estimate.low,
        high=estimate.high,
        wins=wins,
        ties=ties + alike,
        losses=losses,
        num_prompts=len(outcomes),
    )


def _of_labeler(name: str, votes: Sequence[Vote]) -> LabelerTally:
    wins, ties, losses = _counts(votes)
    rate = wilson(wins + ties / 2, len(votes))
    return LabelerTally(name=name, wins=wins, ties=ties, losses=losses, rate=rate, left=_left(votes))


def _left(votes: Sequence[Vote]) -> Estimate:
    decided = [vote for vote in votes if vote.outcome != 0.5]
    return wilson(sum((vote.outcome == 1) == vote.first_was_left for vote in decided), len(decided))


def _counts(votes: Sequence[Vote]) -> tuple[int, int, int]:
    outcomes = [vote.outcome for vote in votes]
    return outcomes.count(1), outcomes.count(0.5), outcomes.count(0)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return float(np.mean(found)) if found else 0.0
