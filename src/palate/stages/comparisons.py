"""Rankings as tensors: every distinct response once, however many judgements speak of it.

Shared by the reward model and DPO, which differ only in the number they compute for a response.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from palate.corpus.pairs import ComparisonSet, Judgement, Lesson, is_comparison, lesson_sets, ordered_pairs
from palate.corpus.reading import Read
from palate.errors import DataError
from palate.lm.batch import Sequences
from palate.lm.chat import Chat
from palate.lm.encode import LeftOut, encode_responses
from palate.records import Ranking


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedResponses:
    """Every distinct response of a set of rankings, computed once wherever it appears.

    Attributes:
        rankings: as people gave them, without those that have a response that cannot be used.
        sets: the same, grouped by prompt.
        sequences: one for each distinct response.
        row_of: (prompt id, text) -> row of the sequences.
        left_out: the other rankings; the index is that among those that were given.
    """

    rankings: list[Ranking]
    sets: list[ComparisonSet]
    sequences: Sequences
    row_of: Mapping[tuple[str, str], int]
    left_out: tuple[LeftOut, ...]

    def rows(self, comparisons: ComparisonSet) -> list[int]:
        """Rows of a set's responses."""
        return [self.row_of[comparisons.prompt.id, text] for text in comparisons.responses]

    def rows_of(self, batches: Sequence[Sequence[ComparisonSet]]) -> list[torch.Tensor]:
        """[N] of each batch the rows of its responses, each once."""
        return [torch.tensor(sorted({row for each in batch for row in self.rows(each)})) for batch in batches]

    def select(self, batch: Sequence[ComparisonSet]) -> Sequences:
        """The responses of a batch, each once."""
        return self.sequences.select(self.rows_of([batch])[0])

    def judgements_in(self, microbatch: Sequences, batch: Sequence[ComparisonSet]) -> list[tuple[list[int], Judgement]]:
        """The batch's judgements whose responses are in this microbatch, with their places [K] in it."""
        place = {row: index for index, row in enumerate(microbatch.rows.tolist())}
        inside = ((self.rows(comparisons), comparisons) for comparisons in batch)
        return [
            ([place[rows[index]] for index in judgement.indices], judgement)
            for rows, comparisons in inside
            if rows[0] in place
            for judgement in comparisons.judgements
        ]


THUMB = "a thumb, or another judgement of one response alone, compares nothing"
COPIES = "copies of one response: nothing is compared"
WEIGHTLESS = "by a labeler of weight 0"
TIES = "nothing but ties: no response is better than another"


ADVICE = (
    ". A thumb says how good one response is: learn from thumbs as they are (`palate kto`), teach the liked responses "
    "as demonstrations (`palate sft`), or show people two or more responses to a prompt"
)


def comparable(data: Read[Ranking], *, labeler_weights: Mapping[str, float] | None = None) -> list[Ranking]:
    """The rankings that compare something, ties among them; the others are counted in ``data.rejected``.

    Raises:
        DataError: there is none; says what thumbs are good for.
    """
    weights = labeler_weights or {}

    def problem(ranking: Ranking) -> str:
        if len(ranking.responses) == 1:
            return THUMB
        if not is_comparison(ranking):
            return COPIES
        return "" if weights.get(ranking.labeler, 1.0) else WEIGHTLESS

    return without(data, data.records, problem)


def without_ties(data: Read[Ranking], rankings: Sequence[Ranking]) -> list[Ranking]:
    """Those of the rankings that order something; the others are counted in ``data.rejected``.

    Raises:
        DataError: there is none.
    """
    return without(data, rankings, lambda ranking: "" if ordered_pairs(ranking) else TIES)


def without(data: Read[Ranking], rankings: Sequence[Ranking], problem: Callable[[Ranking], str]) -> list[Ranking]:
    """The rankings that have no problem; the others are counted in ``data.rejected``.

    Raises:
        DataError: there is none.
    """
    problems = [(ranking, problem(ranking)) for ranking in rankings]
    data.reject((ranking, reason) for ranking, reason in problems if reason)
    kept = [ranking for ranking, reason in problems if not reason]
    if not kept:
        reasons = Counter(reason for _, reason in problems)
        counted = "; ".join(f"{count}: {reason}" for reason, count in reasons.most_common())
        raise DataError(f"no comparison to learn from ({counted}){ADVICE if THUMB in reasons else ''}")
    return kept


def order_alone(ranking: Ranking) -> Sequence[Lesson]:
    """The one thing that a ranking teaches where nothing else is asked for."""
    return (Lesson(ranking=ranking),)


def prepare_responses(
    chat: Chat,
    rankings: Sequence[Ranking],
    *,
    labeler_weights: Mapping[str, float],
    max_length: float,
    limit: str,
    device: torch.device,
    lessons: Callable[[Ranking], Sequence[Lesson]] = order_alone,
) -> ComparedResponses:
    """Group by prompt, tokenise every distinct response once; rankings with one that cannot be used are left out."""
    said = {
        (ranking.prompt.id, response.text): ranking.prompt for ranking in rankings for response in ranking.responses
    }
    keys = list(said)
    encoded = encode_responses(
        chat, list(said.values()), [text for _, text in keys], max_length=max_length, limit=limit
    )
    row_of = {keys[item]: row for row, item in enumerate(encoded.kept)}
    missing = {keys[item.index]: item for item in encoded.left_out}
    problems = [_problem(ranking, missing) for ranking in rankings]
    usable = [ranking for ranking, problem in zip(rankings, problems, strict=True) if problem is None]
    left_out = [replace(problem, index=index) for index, problem in enumerate(problems) if problem is not None]
    return ComparedResponses(
        rankings=usable,
        sets=lesson_sets((each for ranking in usable for each in lessons(ranking)), labeler_weights=labeler_weights),
        sequences=encoded.sequences.to(device),
        row_of=row_of,
        left_out=tuple(left_out),
    )


def _problem(ranking: Ranking, missing: Mapping[tuple[str, str], LeftOut]) -> LeftOut | None:
    """Why a ranking cannot be used: of its first response that cannot."""
    if any(response.tool_calls for response in ranking.responses):
        return LeftOut(index=0, reason="a response that calls a tool: responses are compared by their texts")
    keys = ((ranking.prompt.id, response.text) for response in ranking.responses)
    return next((missing[key] for key in keys if key in missing), None)
