"""What every judgement teaches the heads of a reward model, and the loss of that.

A reward model has objectives (what is helpful, what is harmless, what labelers flagged), and each has one head or an
ensemble of them: head ``o * M + m`` is member m of objective o. A judgement is a lesson to every objective that learns
from what it says: the order of its responses, a rating of each, or a flag that was set on some. All heads see the same
batch in one pass; the members of an ensemble differ by how they were drawn, and by the sample of the prompts they meet.

The loss is the mean over the lessons of a batch, whichever objective they are for, and the mean over members; so each
objective has a say in the trunk as large as its share of the data, and one head alone has the loss it always had.

Ouyang et al. 2022 (arXiv 2203.02155), equation 1; McCullagh 1980 for ratings; the members' samples are the online
bootstrap of Oza and Russell 2001, by prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from scipy.stats import poisson
from torch import Tensor, nn

from palate.corpus import read_rankings
from palate.corpus.pairs import ComparisonSet, Judgement, Lesson, is_comparison, ordered_pairs
from palate.corpus.reading import as_one
from palate.errors import DataError
from palate.objectives.losses import Metrics, ranking_loss
from palate.objectives.pointwise import flag_loss, increasing, not_yet_increasing, rating_loss
from palate.randomness import uniforms
from palate.recipe import Data, Objective
from palate.records import Ranking
from palate.stages.common import combined
from palate.stages.comparisons import COPIES, THUMB, TIES, WEIGHTLESS, without

RATINGS = 7
"""Points of Likert's scale, in which records have their ratings."""
KINDS = ("reward/loss", "reward/rating_loss", "reward/flag_loss")
"""The losses of orders, ratings and flags, by the names of their metrics."""

Judged = Sequence[tuple[Sequence[int], Judgement]]
"""Judgements with the places [K] of their responses among the scores."""


class Lessons:
    """What each of the rankings that were read teaches.

    Args:
        data: of the recipe, from which all objectives learn that name none of their own.
        objectives: of the recipe, in its order.

    Attributes:
        data: all that was read, as one.
    """

    def __init__(self, data: Data, objectives: Sequence[Objective]) -> None:
        self.objectives = objectives
        sources = [data, *(objective.data for objective in objectives if objective.data is not None)]
        reads = [read_rankings(source) for source in sources]
        self.data = as_one(reads)
        self._found = {
            id(ranking): tuple(
                lesson
                for number, objective in enumerate(objectives)
                if (objective.data or data) is source
                for lesson in lessons_in(ranking, number, objective)
            )
            for source, read in zip(sources, reads, strict=True)
            for ranking in read.records
        }

    def __call__(self, ranking: Ranking) -> tuple[Lesson, ...]:
        """What it teaches, by the objectives' numbers."""
        return self._found[id(ranking)]

    def used(self, labeler_weights: Mapping[str, float]) -> list[Ranking]:
        """The rankings that teach something; the others are counted as rejected.

        Raises:
            DataError: none does, or there is an objective that none teaches.
        """
        reasons = {_reason(objective) for objective in self.objectives}
        alike = len(reasons) == 1 and not any(objective.tag for objective in self.objectives)
        reason = next(iter(reasons)) if alike else "nothing that an objective learns from"

        def problem(ranking: Ranking) -> str:
            if not self(ranking):
                return COPIES if reason == THUMB and len(ranking.responses) > 1 else reason
            return "" if labeler_weights.get(ranking.labeler, 1.0) else WEIGHTLESS

        rankings = without(self.data, self.data.records, problem)
        self._check(rankings, self.objectives)
        return rankings

    def without_ties(self, rankings: Sequence[Ranking], *, skip: bool) -> list[Ranking]:
        """Without the orders that are all ties, if they are skipped or beside no other; they would teach nothing.

        Raises:
            DataError: nothing is left.
        """
        orders = [lesson for ranking in rankings for lesson in self(ranking) if lesson.labels is None]
        ordered = {lesson.objective for lesson in orders if ordered_pairs(lesson.ranking)}

        def teaches(lesson: Lesson) -> bool:
            if lesson.labels is not None or ordered_pairs(lesson.ranking):
                return True
            return not skip and lesson.objective in ordered

        for ranking in rankings:
            self._found[id(ranking)] = tuple(filter(teaches, self(ranking)))
        kept = without(self.data, rankings, lambda ranking: "" if self(ranking) else TIES)
        self._check(kept, self.objectives)
        return kept

    def _check(self, rankings: Sequence[Ranking], objectives: Sequence[Objective]) -> None:
        """Raises: DataError: an objective has nothing to learn from, or of a flag nothing but one answer."""
        taught = [lesson for ranking in rankings for lesson in self(ranking)]
        for number, objective in enumerate(objectives):
            mine = [lesson for lesson in taught if lesson.objective == number]
            if not mine:
                raise DataError(f"objective {objective.name!r}: no judgement to learn from ({_reason(objective)})")
            if objective.flag and len({label for lesson in mine for label in lesson.labels or ()}) == 1:
                known = Counter(flag for ranking in rankings for flags in ranking.flags or () for flag in flags)
                listed = ", ".join(f"{flag} ({count})" for flag, count in known.most_common(20)) or "none"
                raise DataError(
                    f"objective {objective.name!r}: the flag {objective.flag!r} is set on all responses or on none of "
                    f"them, which teaches nothing; flags that are set: {listed}"
                )


def lessons_in(ranking: Ranking, number: int, objective: Objective) -> list[Lesson]:
    """What a ranking teaches one objective: nothing, its order, its labels, or both."""
    if objective.tag and ranking.prompt.tags.get(objective.tag, "").strip() != objective.value.strip():
        return []
    lesson = Lesson(ranking=ranking, objective=number)
    if objective.flag:
        offered = ranking.flags_offered is None or objective.flag in ranking.flags_offered
        labels = [float(objective.flag in flags) for flags in ranking.flags or ()] if offered else []
        return [replace(lesson, labels=tuple(labels))] if labels else []
    order = [lesson] if objective.learns != "ratings" and is_comparison(ranking) else []
    rated = objective.learns != "rankings" and ranking.ratings is not None
    return order + ([replace(lesson, labels=ranking.ratings)] if rated else [])


def _reason(objective: Objective) -> str:
    """Why a judgement teaches it nothing, most often."""
    if objective.flag:
        return "nobody was asked for flags"
    return {"rankings": THUMB, "ratings": "no ratings", "both": "neither an order nor ratings"}[objective.learns]


def drawn_again(sets: Sequence[ComparisonSet], members: int, seed: int) -> list[ComparisonSet]:
    """How often each member meets every prompt: Poisson(1), as in a sample drawn with replacement from very many."""
    found = []
    for each in sets:
        times = poisson.ppf(uniforms(members, seed, "reward", "bootstrap", each.prompt.id), 1)
        judgements = tuple(replace(judgement, times=tuple(map(float, times))) for judgement in each.judgements)
        found.append(replace(each, judgements=judgements))
    return found


def drawn_labelers(names: Iterable[str], seed: int) -> dict[str, int]:
    """How often each labeler is drawn, of as many draws with replacement as there are labelers; the sum is theirs.

    Raises:
        DataError: there are fewer than two.
    """
    known = sorted(set(names))
    if len(known) < 2:
        raise DataError(f"draw_labelers draws among labelers, but the rankings name {len(known)}: leave it out")
    places = (uniforms(len(known), seed, "reward", "labelers") * len(known)).astype(np.int64)
    return dict(zip(known, np.bincount(places, minlength=len(known)).tolist(), strict=True))


class Thresholds(nn.Module):
    """Between which scores each rating is the likeliest, for every member of every objective that learns ratings.

    They begin where a score of 0 is given each rating as often as people gave it.

    Args:
        ratings: of each objective that learns them, by its number.
        members: of each ensemble.
    """

    def __init__(self, ratings: Mapping[int, Sequence[float]], members: int) -> None:
        super().__init__()
        self.rows = {number: row for row, number in enumerate(ratings)}
        first = torch.stack([not_yet_increasing(_marginal(each)) for each in ratings.values()])
        self.raw = nn.Parameter(first[:, None].repeat(1, members, 1))  # [R, M, C - 1]

    def of(self, objective: int, member: int) -> Tensor:
        """[C - 1], increasing."""
        return increasing(self.raw[self.rows[objective], member])


def _marginal(ratings: Sequence[float]) -> Tensor:
    """[C - 1] log-odds of a rating at most so high; each point counts half a time more, so that none is impossible."""
    counts = np.bincount(np.rint(ratings).astype(np.int64) - 1, minlength=RATINGS) + 0.5
    share = counts.cumsum()[:-1] / counts.sum()
    return torch.tensor(np.log(share / (1 - share)), dtype=torch.float32)


def thresholds_for(objectives: Sequence[Objective], sets: Sequence[ComparisonSet], members: int) -> Thresholds | None:
    """Those of the objectives that learn from ratings; None if none does."""
    judgements = [judgement for each in sets for judgement in each.judgements if judgement.labels is not None]
    rated = {
        number: [label for judgement in judgements if judgement.objective == number for label in judgement.labels or ()]
        for number, objective in enumerate(objectives)
        if not objective.flag and objective.learns != "rankings"
    }
    found = {number: labels for number, labels in rated.items() if labels}
    return Thresholds(found, members) if found else None


def heads_loss(
    scores: Tensor,
    judged: Judged,
    flags: Sequence[bool],
    thresholds: Thresholds | None,
    *,
    tie: Literal["half", "skip"],
    margin_scale: float,
    denominator: float,
) -> tuple[Tensor, Metrics]:
    """The sum over lessons, and the mean over members, of the loss of each; by the denominator.

    Args:
        scores: [B, O * M] of the heads.
        judged: what was said of these responses.
        flags: [O] of each objective, whether it is a flag.
        thresholds: of those that learn from ratings.
        tie, margin_scale: as in the recipe.
        denominator: the summed weight of the lessons of the whole optimizer step.
    """
    members = scores.shape[1] // len(flags)
    losses, metrics = [], []
    for objective, is_flag in enumerate(flags):
        orders, labels = (
            [
                (places, each)
                for places, each in judged
                if each.objective == objective and (each.labels is None) == ranks
            ]
            for ranks in (True, False)
        )
        for member in range(members):
            head = scores[:, objective * members + member]
            found = []
            if orders:
                found.append(order_loss(head, orders, member, tie, margin_scale, denominator * members))
            if labels:
                chosen, said, weights = labelled(head, labels, member)
                if is_flag:
                    found.append(flag_loss(chosen, said, weights=weights, denominator=denominator * members))
                else:
                    assert thresholds is not None
                    steps = thresholds.of(objective, member).to(head.device)
                    found.append(rating_loss(chosen, said, steps, weights=weights, denominator=denominator * members))
            losses += [loss for loss, _ in found]
            metrics += [each for _, each in found]
    nothing = scores[:0].sum()  # of no lessons: a loss that goes through the network all the same
    return torch.stack([nothing, *losses]).sum(), _added(metrics)


def order_loss(
    head: Tensor, judged: Judged, member: int, tie: Literal["half", "skip"], margin_scale: float, denominator: float
) -> tuple[Tensor, Metrics]:
    """The ranking loss of one head's numbers [B]."""
    sizes = torch.tensor([len(places) for places, _ in judged])

    def each(values: Sequence[float]) -> Tensor:
        return torch.repeat_interleave(torch.tensor(values, dtype=torch.float32), sizes).to(head.device)

    return ranking_loss(
        head[torch.tensor([place for places, _ in judged for place in places], device=head.device)],
        torch.tensor([rank for _, judgement in judged for rank in judgement.ranks], device=head.device),
        each(range(len(judged))),
        margins=each([margin_scale * judgement.strength for _, judgement in judged]),
        weights=each([judgement.weight_of(member) for _, judgement in judged]),
        tie=tie,
        denominator=denominator,
    )


def labelled(head: Tensor, judged: Judged, member: int) -> tuple[Tensor, Tensor, Tensor]:
    """One head's numbers of the labelled responses, their labels and their weights, [N] each.

    A judgement weighs the same however many responses it speaks of, as a ranking does.
    """
    places = torch.tensor([place for places, _ in judged for place in places], device=head.device)
    labels = [label for _, judgement in judged for label in judgement.labels or ()]
    weights = [judgement.weight_of(member) / len(places) for places, judgement in judged for _ in places]
    said, weighed = (torch.tensor(values, dtype=head.dtype, device=head.device) for values in (labels, weights))
    return head[places], said, weighed


def _added(metrics: Sequence[Metrics]) -> Metrics:
    """Sums by name."""
    total: Metrics = {}
    for each in metrics:
        for name, value in each.items():
            total[name] = total[name] + value if name in total else value
    return total


def kind_of(judgement: Judgement, flags: Sequence[bool]) -> str:
    """The metric of the loss that it adds to."""
    return KINDS[0 if judgement.labels is None else 2 if flags[judgement.objective] else 1]


def step_metrics(parts: Sequence[Metrics], judgements: Sequence[Judgement], flags: Sequence[bool]) -> Metrics:
    """Those of an optimizer step from those of its microbatches; each loss a mean over its own kind of lessons."""
    weights = dict.fromkeys(KINDS, 0.0)
    for judgement in judgements:
        weights[kind_of(judgement, flags)] += judgement.weight
    means, total = combined(parts), sum(weights.values())
    beside = {"reward/rating_error": "reward/rating_loss"}
    for name in (*KINDS, *beside):
        if name in means:
            means[name] = means[name] * (total / weights[beside.get(name, name)])
    return means
