"""Comparisons grouped by prompt, and batches in which every judgement appears exactly once."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.corpus.pairs import ComparisonSet, Judgement, batches, comparison_sets, is_comparison, ordered_pairs
from palate.errors import DataError
from palate.records import Prompt, Ranking, Response


def ranking(
    prompt: str, responses: str, ranks: tuple[int, ...], labeler: str = "", strength: float | None = None
) -> Ranking:
    """One-letter responses."""
    return Ranking(
        prompt=Prompt.from_text(prompt),
        responses=tuple(Response(text=letter) for letter in responses),
        ranks=ranks,
        labeler=labeler,
        strength=strength,
    )


def test_rankings_of_a_prompt_share_their_responses() -> None:
    sets = comparison_sets(
        [
            ranking("p", "ab", (1, 2), "ann", 2.0),
            ranking("q", "xy", (1, 1)),
            ranking("p", "cba", (2, 1, 1), "bob"),
        ],
        labeler_weights={"ann": 0.5},
    )
    assert sets == [
        ComparisonSet(
            prompt=Prompt.from_text("p"),
            responses=("a", "b", "c"),
            judgements=(
                Judgement(indices=(0, 1), ranks=(1, 2), weight=0.5, strength=2.0),
                Judgement(indices=(2, 1, 0), ranks=(2, 1, 1), weight=1.0, strength=0.0),
            ),
        ),
        ComparisonSet(
            prompt=Prompt.from_text("q"), responses=("x", "y"), judgements=(Judgement(indices=(0, 1), ranks=(1, 1)),)
        ),
    ]


def test_what_compares_nothing_is_left_out() -> None:
    thumb, copies, muted = ranking("p", "a", (1,)), ranking("p", "aa", (1, 2)), ranking("p", "ab", (1, 2), "eve")
    assert [is_comparison(each) for each in (thumb, copies, muted)] == [False, False, True]
    assert comparison_sets([thumb, copies, muted], labeler_weights={"eve": 0.0}) == []


def test_of_copies_within_a_ranking_the_best_rank_counts() -> None:
    (only,) = comparison_sets([ranking("p", "abab", (3, 2, 1, 4))])
    assert only.judgements == (Judgement(indices=(0, 1), ranks=(1, 2)),)


Spoken = Counter[tuple[str, tuple[str, ...], tuple[int, ...], float]]


def spoken(sets: list[ComparisonSet]) -> Spoken:
    """What the judgements say, in texts; indices are checked on the way."""
    return Counter(
        (
            each.prompt.text,
            tuple(each.responses[index] for index in judgement.indices),
            judgement.ranks,
            judgement.weight,
        )
        for each in sets
        for judgement in each.judgements
    )


@st.composite
def rankings(draw: st.DrawFn) -> list[Ranking]:
    letters = st.lists(st.sampled_from("abcdefghijklmnopqrst"), min_size=2, max_size=4, unique=True)
    drawn = draw(st.lists(st.tuples(st.sampled_from("pqr"), letters, st.sampled_from(["ann", "bob"])), max_size=40))
    return [ranking(p, "".join(chosen), tuple(range(1, len(chosen) + 1)), labeler) for p, chosen, labeler in drawn]


@given(given_rankings=rankings(), max_responses=st.integers(4, 12), epoch=st.integers(0, 3))
def test_every_judgement_exactly_once_and_no_batch_too_large(
    given_rankings: list[Ranking], max_responses: int, epoch: int
) -> None:
    sets = comparison_sets(given_rankings, labeler_weights={"bob": 2.0})
    found = list(batches(sets, max_responses=max_responses, key=(0, "reward", epoch)))
    assert spoken([each for batch in found for each in batch]) == spoken(sets)
    for batch in found:
        assert 2 <= sum(len(each.responses) for each in batch) <= max_responses
        for each in batch:
            assert len(set(each.responses)) == len(each.responses)
            used = {index for judgement in each.judgements for index in judgement.indices}
            assert used == set(range(len(each.responses)))
    for whole in sets:
        if len(whole.responses) <= max_responses:
            assert sum(whole in batch for batch in found) == 1


def test_the_order_depends_on_the_key_alone() -> None:
    sets = comparison_sets([ranking(f"prompt {n}", "ab", (1, 2)) for n in range(30)])
    first, again, other = (list(batches(sets, max_responses=8, key=(0, "reward", epoch))) for epoch in (0, 0, 1))
    assert first == again
    assert first != other
    assert [len(batch) for batch in first] == [4] * 7 + [2]


def test_a_large_prompt_is_divided_by_buckets() -> None:
    letters = "abcdefghijkl"
    pairs = [ranking("p", x + y, (1, 2)) for x in letters for y in letters if x < y]
    sets = comparison_sets(pairs)
    parts = [part for batch in batches(sets, max_responses=6, key=(1,)) for part in batch]
    assert len(parts) == 6  # four buckets of three responses
    assert all(len(part.responses) == 6 for part in parts)
    assert sum(len(part.judgements) for part in parts) == 66


def test_a_ranking_that_fits_in_no_batch_is_an_error() -> None:
    sets = comparison_sets([ranking("p", "abcde", (1, 2, 3, 4, 5))])
    with pytest.raises(DataError, match="a ranking of 5 responses does not fit in a batch of 4"):
        list(batches(sets, max_responses=4, key=()))


def test_no_sets_give_no_batches() -> None:
    assert list(batches([], max_responses=4, key=())) == []


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4)), min_size=1, max_size=6))
def test_ordered_pairs_are_those_of_what_is_trained_on(given: list[tuple[str, int]]) -> None:
    """Of copies the best rank counts there too, so that no batch is left without a pair that was promised."""
    lowest = min(rank for _, rank in given)
    judged = ranking("p", "".join(text for text, _ in given), tuple(rank - lowest + 1 for _, rank in given))
    pairs = ordered_pairs(judged)
    texts = Counter((judged.responses[i].text, judged.responses[j].text) for i, j in pairs)
    assert max(texts.values(), default=1) == 1
    trained = {
        (whole.responses[i], whole.responses[j])
        for whole in comparison_sets([judged])
        for judgement in whole.judgements
        for i, rank in zip(judgement.indices, judgement.ranks, strict=True)
        for j, other in zip(judgement.indices, judgement.ranks, strict=True)
        if rank < other
    }
    assert set(texts) == trained
