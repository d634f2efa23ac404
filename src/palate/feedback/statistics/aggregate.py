"""Many judgements of the same responses made into one: the table of verdicts, and the majority.

Every ranking is taken apart into verdicts on pairs of different texts. A labeler's later verdict on a pair replaces the
earlier one, as in ``agreement.py``; of copies of one text within a ranking the best rank counts, as in
``corpus/pairs.py``. The majority counts a tie as half a vote for either; equal votes leave a pair undecided.

The consensus ranks a prompt's responses by the share of opponents that each beats by majority, an undecided pair
counting one half (Copeland 1951). Majorities can go in a circle; responses with the same share are then tied, no order
is made up.

``bradley_terry.py`` fits a model to the same table.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from palate.records import Prompt, Ranking, Response, Source, content_id

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparisons:
    """C verdicts on N pairs of R responses by L labelers; sorted, so that the order of the log does not matter.

    Attributes:
        prompts: by id.
        responses: [R], prompt id and text.
        pairs: [N, 2], two responses to one prompt in an order that their hashes give.
        labelers: [L] names.
        pair: [C], in increasing order.
        labeler: [C].
        verdict: [C], 1 if the pair's first is preferred, 0 for a tie, -1 if its second is.
        lead: [C], how many places earlier the first was shown; 0 where nobody knows.
        weight: [C], 2 / K for a ranking of K texts: its K (K - 1) / 2 pairs, which come from one look, count as K - 1.
        has_order: whether any ranking says in what order its responses were shown.
        sources: where the rankings are from.
        num_unnamed: rankings left out because they name no labeler.
        num_superseded: verdicts replaced by a later one of the same labeler.
    """

    prompts: Mapping[str, Prompt]
    responses: tuple[tuple[str, str], ...]
    pairs: Indices
    labelers: tuple[str, ...]
    pair: Indices
    labeler: Indices
    verdict: Floats
    lead: Floats
    weight: Floats
    has_order: bool
    sources: frozenset[Source]
    num_unnamed: int
    num_superseded: int

    def __len__(self) -> int:
        return len(self.pair)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairMajority:
    """What was said of two responses.

    Attributes:
        votes_first, votes_second: sums of the voters' weights, a tie being half a vote for either.
        num_voters: labelers who judged this pair.
        num_ties: of them, those who called it a tie.
        verdict: 1 if the first has more votes, -1 if the second has, 0 if the majority is undecided.
    """

    prompt_id: str
    first: str
    second: str
    votes_first: float
    votes_second: float
    num_voters: int
    num_ties: int
    verdict: Literal[-1, 0, 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Majority:
    """The majority on every pair that was judged, and what follows for each prompt.

    Attributes:
        consensus: by prompt id, the responses that were compared and their ranks; no labeler's name.
        num_undecided: pairs with as many votes on either side.
    """

    pairs: tuple[PairMajority, ...]
    consensus: Mapping[str, Ranking]
    num_undecided: int
    num_unnamed: int
    num_superseded: int


@dataclass(frozen=True, slots=True)
class _Verdict:
    value: float
    lead: float
    weight: float


def majority(rankings: Sequence[Ranking], *, labeler_weights: Mapping[str, float] | None = None) -> Majority:
    """The majority of named labelers, each with a weight of 1 unless another is given."""
    table = collect_comparisons(rankings)
    weights = np.array([(labeler_weights or {}).get(name, 1.0) for name in table.labelers])
    pairs = _pair_majorities(table, weights)
    return Majority(
        pairs=pairs,
        consensus=_consensus(table, pairs),
        num_undecided=sum(pair.verdict == 0 for pair in pairs),
        num_unnamed=table.num_unnamed,
        num_superseded=table.num_superseded,
    )


def collect_comparisons(rankings: Sequence[Ranking]) -> Comparisons:
    """All verdicts of named labelers on pairs of different texts."""
    named = [ranking for ranking in rankings if ranking.labeler]
    verdicts: dict[tuple[str, str, str, str], _Verdict] = {}
    num_verdicts = 0
    for ranking in named:
        for prompt, first, second, verdict in _verdicts(ranking):
            verdicts[prompt, first, second, ranking.labeler] = verdict
            num_verdicts += 1
    keys = sorted(verdicts, key=lambda key: (key[0], content_id(key[1]), content_id(key[2]), key[3]))
    responses = _numbered((key[0], text) for key in keys for text in key[1:3])
    pairs = _numbered(key[:3] for key in keys)
    labelers = {name: index for index, name in enumerate(sorted({key[3] for key in keys}))}
    said = np.array([(v.value, v.lead, v.weight) for v in map(verdicts.__getitem__, keys)], dtype=float).reshape(-1, 3)
    return Comparisons(
        prompts={ranking.prompt.id: ranking.prompt for ranking in named},
        responses=tuple(responses),
        pairs=_indices([[responses[prompt, a], responses[prompt, b]] for prompt, a, b in pairs]).reshape(-1, 2),
        labelers=tuple(labelers),
        pair=_indices([pairs[key[:3]] for key in keys]),
        labeler=_indices([labelers[key[3]] for key in keys]),
        verdict=said[:, 0],
        lead=said[:, 1],
        weight=said[:, 2],
        has_order=any(ranking.shown_order is not None for ranking in named),
        sources=frozenset(ranking.source for ranking in named),
        num_unnamed=len(rankings) - len(named),
        num_superseded=num_verdicts - len(verdicts),
    )


def _verdicts(ranking: Ranking) -> Iterator[tuple[str, str, str, _Verdict]]:
    """Every pair of different texts, in the order of their hashes."""
    place = {index: number for number, index in enumerate(ranking.shown_order or ())}
    best: dict[str, tuple[int, int]] = {}  # rank, and place on the screen
    for index, (response, rank) in enumerate(zip(ranking.responses, ranking.ranks, strict=True)):
        seen = (rank, place.get(index, 0))
        best[response.text] = min(seen, best.get(response.text, seen))
    for first, second in combinations(sorted(best, key=content_id), 2):
        (rank_a, place_a), (rank_b, place_b) = best[first], best[second]
        value = float(np.sign(rank_b - rank_a))
        yield ranking.prompt.id, first, second, _Verdict(value, float(place_b - place_a), 2 / len(best))


def _numbered(keys: Iterable[Key]) -> dict[Key, int]:
    """Each distinct key with its number, in the order in which they first appear."""
    return {key: index for index, key in enumerate(dict.fromkeys(keys))}


def _indices(values: Sequence[object]) -> Indices:
    return np.array(values, dtype=np.int64)


def _pair_majorities(table: Comparisons, labeler_weights: Floats) -> tuple[PairMajority, ...]:
    num_pairs = len(table.pairs)
    weights = labeler_weights[table.labeler]
    balance = np.bincount(table.pair, weights=weights * table.verdict, minlength=num_pairs)
    total = np.bincount(table.pair, weights=weights, minlength=num_pairs)
    voters = np.bincount(table.pair, minlength=num_pairs)
    ties = np.bincount(table.pair[table.verdict == 0], minlength=num_pairs)
    decided = np.where(np.abs(balance) > 1e-9 * total, np.sign(balance), 0)
    return tuple(
        PairMajority(
            prompt_id=table.responses[a][0],
            first=table.responses[a][1],
            second=table.responses[b][1],
            votes_first=float(total[row] + balance[row]) / 2,
            votes_second=float(total[row] - balance[row]) / 2,
            num_voters=int(voters[row]),
            num_ties=int(ties[row]),
            verdict=1 if decided[row] > 0 else -1 if decided[row] < 0 else 0,
        )
        for row, (a, b) in enumerate(table.pairs.tolist())
    )


def _consensus(table: Comparisons, pairs: Sequence[PairMajority]) -> dict[str, Ranking]:
    """Per prompt the responses by their share of opponents beaten."""
    won: dict[str, dict[str, list[float]]] = {}
    for pair in pairs:
        scores = won.setdefault(pair.prompt_id, {})
        scores.setdefault(pair.first, []).append((1 + pair.verdict) / 2)
        scores.setdefault(pair.second, []).append((1 - pair.verdict) / 2)
    source: Source = next(iter(table.sources)) if len(table.sources) == 1 else "human"
    return {prompt: _ranked(table.prompts[prompt], scores, source) for prompt, scores in won.items()}


def _ranked(prompt: Prompt, scores: Mapping[str, Sequence[float]], source: Source) -> Ranking:
    shares = {text: sum(won) / len(won) for text, won in scores.items()}
    rank = {share: place + 1 for place, share in enumerate(sorted(set(shares.values()), reverse=True))}
    return Ranking(
        prompt=prompt,
        responses=tuple(Response(text=text) for text in shares),
        ranks=tuple(rank[share] for share in shares.values()),
        source=source,
    )
