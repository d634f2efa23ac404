"""Comparisons grouped by prompt, each distinct response once, and batches that keep them together.

A reward model scores every response of a batch once, however many judgements speak of it. InstructGPT (Ouyang et al.
2022, section 3.5) found that comparisons of one prompt spread over batches overfit, so a prompt's judgements stay in
one batch. Only a prompt with more distinct responses than fit in a batch is divided: its responses are dealt into
buckets of half a batch, and every judgement goes with the pair of buckets that it speaks of.

Left out: batches of exactly equal size. Prompts are taken in random order as long as they fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from palate.errors import DataError
from palate.randomness import permutation
from palate.records import Prompt, Ranking


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What one labeler said of some of a set's responses.

    Attributes:
        indices: [K], places in the set's responses, all different.
        ranks: [K], 1 is best, equal ranks are ties.
        weight: of the labeler.
        strength: how strongly the first rank is preferred; 0 where nothing was said.
        objective: the number of the objective that it teaches, where a reward model has several.
        labels: [K], what was said of each response alone (a rating, or 1 for a flag that was set); None where the order
            is what teaches.
        times: by member of an ensemble: how often it meets the judgement; once, where nothing is said.
    """

    indices: tuple[int, ...]
    ranks: tuple[int, ...]
    weight: float = 1.0
    strength: float = 0.0
    objective: int = 0
    labels: tuple[float, ...] | None = None
    times: tuple[float, ...] = ()

    def weight_of(self, member: int) -> float:
        """Its weight to a member of an ensemble."""
        return self.weight * self.times[member] if self.times else self.weight


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonSet:
    """A prompt, its distinct responses, and every judgement about them."""

    prompt: Prompt
    responses: tuple[str, ...]
    judgements: tuple[Judgement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What one ranking teaches one objective; `objective` and `labels` are as in `Judgement`.

    Attributes:
        labels: [K], in the order of the ranking's responses.
    """

    ranking: Ranking
    objective: int = 0
    labels: tuple[float, ...] | None = None


def is_comparison(ranking: Ranking) -> bool:
    """Whether it compares anything: a thumb does not, nor do several copies of one response."""
    return len({response.text for response in ranking.responses}) > 1


def ordered_pairs(ranking: Ranking) -> list[tuple[int, int]]:
    """(better, worse) indices of every strictly ordered pair of different texts; of copies the best rank counts."""
    best: dict[str, tuple[int, int]] = {}  # text -> (rank, index)
    for index, (response, rank) in enumerate(zip(ranking.responses, ranking.ranks, strict=True)):
        best[response.text] = min((rank, index), best.get(response.text, (rank, index)))
    return [(i, j) for rank, i in best.values() for other, j in best.values() if rank < other]


def by_prompt(rankings: Iterable[Ranking]) -> dict[str, list[Ranking]]:
    """Those of each prompt, under its id, in the order in which prompts first appear."""
    found: dict[str, list[Ranking]] = {}
    for ranking in rankings:
        found.setdefault(ranking.prompt.id, []).append(ranking)
    return found


def comparison_sets(
    rankings: Iterable[Ranking], *, labeler_weights: Mapping[str, float] | None = None
) -> list[ComparisonSet]:
    """Group rankings by prompt, in the order in which prompts first appear.

    Rankings for which `is_comparison` is false have no place in a set, nor have those of a labeler with weight 0. Of
    copies of one response within a ranking the best rank counts.

    Raises:
        DataError: a response that calls a tool: responses are compared by their texts.
    """
    lessons = [Lesson(ranking=ranking) for ranking in rankings]
    return lesson_sets(
        [lesson for lesson in lessons if is_comparison(lesson.ranking) or _calls(lesson.ranking)],
        labeler_weights=labeler_weights,
    )


def lesson_sets(
    lessons: Iterable[Lesson], *, labeler_weights: Mapping[str, float] | None = None
) -> list[ComparisonSet]:
    """The same of lessons, which may teach something about one response alone; copies of it have their mean label.

    Raises:
        DataError: a response that calls a tool.
    """
    weights = labeler_weights or {}
    found: dict[str, list[Lesson]] = {}
    for lesson in lessons:
        ranking = lesson.ranking
        if _calls(ranking):
            raise DataError(f"a ranking of tool calls ({ranking.prompt.text[:60]!r}): only texts are compared")
        if weights.get(ranking.labeler, 1.0) > 0:
            found.setdefault(ranking.prompt.id, []).append(lesson)
    return [_comparison_set(group, weights) for group in found.values()]


def _calls(ranking: Ranking) -> bool:
    return any(response.tool_calls for response in ranking.responses)


def _comparison_set(lessons: Sequence[Lesson], weights: Mapping[str, float]) -> ComparisonSet:
    places: dict[str, int] = {}
    for lesson in lessons:
        for response in lesson.ranking.responses:
            places.setdefault(response.text, len(places))
    judgements = tuple(_judgement(lesson, places, weights.get(lesson.ranking.labeler, 1.0)) for lesson in lessons)
    return ComparisonSet(prompt=lessons[0].ranking.prompt, responses=tuple(places), judgements=judgements)


def _judgement(lesson: Lesson, places: Mapping[str, int], weight: float) -> Judgement:
    ranking, best = lesson.ranking, dict[int, int]()
    said: dict[int, list[float]] = {}
    for response, rank in zip(ranking.responses, ranking.ranks, strict=True):
        place = places[response.text]
        best[place] = min(rank, best.get(place, rank))
    for response, label in zip(ranking.responses, lesson.labels or (), strict=False):
        said.setdefault(places[response.text], []).append(label)
    return Judgement(
        indices=tuple(best),
        ranks=tuple(best.values()),
        weight=weight,
        strength=ranking.strength or 0.0,
        objective=lesson.objective,
        labels=tuple(fmean(said[place]) for place in best) if said else None,
    )


def batches(
    sets: Sequence[ComparisonSet], *, max_responses: int, key: tuple[int | str, ...]
) -> Iterator[list[ComparisonSet]]:
    """One epoch in random order: every judgement exactly once, at most `max_responses` distinct responses at a time.

    Args:
        key: what the order depends on, such as (seed, "reward", epoch).

    Raises:
        DataError: a single ranking has more responses than a batch may hold.
    """
    parts = [part for whole in sets for part in _divide(whole, max_responses, key)]
    batch: list[ComparisonSet] = []
    num_responses = 0
    for place in permutation(len(parts), *key, "batches"):
        part = parts[place]
        if batch and num_responses + len(part.responses) > max_responses:
            yield batch
            batch, num_responses = [], 0
        batch.append(part)
        num_responses += len(part.responses)
    if batch:
        yield batch


def _divide(whole: ComparisonSet, max_responses: int, key: tuple[int | str, ...]) -> list[ComparisonSet]:
    """The set itself, or parts of it that fit."""
    if len(whole.responses) <= max_responses:
        return [whole]
    longest = max(len(judgement.indices) for judgement in whole.judgements)
    if longest > max_responses:
        raise DataError(
            f"a ranking of {longest} responses does not fit in a batch of {max_responses}: raise batch_responses"
        )
    order = permutation(len(whole.responses), *key, "buckets", whole.prompt.id)
    bucket_of = {int(index): place // (max_responses // 2) for place, index in enumerate(order)}
    num_buckets = max(bucket_of.values()) + 1
    parts: dict[tuple[int, ...], list[Judgement]] = {}
    for number, judgement in enumerate(whole.judgements):
        buckets = sorted({bucket_of[index] for index in judgement.indices})
        if len(buckets) == 1:  # any pair with this bucket will do: always the same neighbour keeps the parts few
            buckets = sorted((buckets[0], (buckets[0] + 1) % num_buckets))
        name = tuple(buckets) if len(buckets) == 2 else (-1, number)
        parts.setdefault(name, []).append(judgement)
    return [_part(whole, judgements) for judgements in parts.values()]


def _part(whole: ComparisonSet, judgements: Sequence[Judgement]) -> ComparisonSet:
    """The judgements with the responses they speak of, and no others."""
    used = sorted({index for judgement in judgements for index in judgement.indices})
    place = {index: new for new, index in enumerate(used)}
    moved = (replace(judgement, indices=tuple(place[index] for index in judgement.indices)) for judgement in judgements)
    return ComparisonSet(
        prompt=whole.prompt, responses=tuple(whole.responses[index] for index in used), judgements=tuple(moved)
    )
