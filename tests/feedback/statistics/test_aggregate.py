"""Majorities by hand and by brute force, and what becomes of them."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.feedback.statistics.aggregate import Majority, collect_comparisons, majority
from palate.records import Prompt, Ranking, Response

PROMPT = Prompt.from_text("question")


def ranking(labeler: str, ranks: dict[str, int], shown: tuple[int, ...] | None = None, prompt: str = "") -> Ranking:
    return Ranking(
        prompt=Prompt.from_text(prompt) if prompt else PROMPT,
        responses=tuple(Response(text=text) for text in ranks),
        ranks=tuple(ranks.values()),
        labeler=labeler,
        shown_order=shown,
    )


def verdicts(result: Majority) -> dict[tuple[str, str], int]:
    """Of every pair, in alphabetical order."""
    found = {}
    for pair in result.pairs:
        a, b = sorted((pair.first, pair.second))
        found[a, b] = int(pair.verdict) * (1 if a == pair.first else -1)
    return found


def consensus(result: Majority) -> dict[str, int]:
    agreed = result.consensus[PROMPT.id]
    return {response.text: rank for response, rank in zip(agreed.responses, agreed.ranks, strict=True)}


def test_ties_are_half_and_equal_votes_undecided() -> None:
    result = majority(
        [
            ranking("ann", {"a": 1, "b": 2, "c": 3}),
            ranking("bob", {"a": 1, "b": 1, "c": 2}),
            ranking("eve", {"a": 2, "b": 3, "c": 1}),
            ranking("zoe", {"b": 1, "c": 2}),
        ]
    )
    # a : b  2.5 : 0.5,  a : c  2 : 1,  b : c  3 : 1
    assert verdicts(result) == {("a", "b"): 1, ("a", "c"): 1, ("b", "c"): 1}
    (pair,) = [pair for pair in result.pairs if {pair.first, pair.second} == {"a", "b"}]
    assert (pair.votes_first, pair.votes_second)[:: 1 if pair.first == "a" else -1] == (2.5, 0.5)
    assert (pair.num_voters, pair.num_ties) == (3, 1)
    assert consensus(result) == {"a": 1, "b": 2, "c": 3}
    assert result.num_undecided == 0
    undecided = majority([ranking("ann", {"a": 1, "b": 2}), ranking("bob", {"a": 2, "b": 1})])
    assert verdicts(undecided) == {("a", "b"): 0}
    assert undecided.num_undecided == 1
    assert consensus(undecided) == {"a": 1, "b": 1}


def test_majorities_in_a_circle_are_a_tie() -> None:
    circle = [
        ranking("ann", {"a": 1, "b": 2, "c": 3, "d": 4}),
        ranking("bob", {"b": 1, "c": 2, "a": 3, "d": 4}),
        ranking("eve", {"c": 1, "a": 2, "b": 3, "d": 4}),
    ]
    assert consensus(majority(circle)) == {"a": 1, "b": 1, "c": 1, "d": 2}


def test_weights_decide_and_zero_silences() -> None:
    rankings = [
        ranking("ann", {"a": 1, "b": 2}),
        ranking("bob", {"a": 2, "b": 1}),
        ranking("eve", {"a": 2, "b": 1}),
    ]
    assert verdicts(majority(rankings)) == {("a", "b"): -1}
    assert verdicts(majority(rankings, labeler_weights={"ann": 2.5})) == {("a", "b"): 1}  # the others weigh 1
    assert verdicts(majority(rankings, labeler_weights={"ann": 0.2, "bob": 0.1, "eve": 0.1})) == {("a", "b"): 0}
    assert verdicts(majority(rankings, labeler_weights={"bob": 0.0, "eve": 0.0})) == {("a", "b"): 1}


def test_a_consensus_is_nobodys_ranking() -> None:
    result = majority([ranking("ann", {"a": 1, "b": 2}).model_copy(update={"source": "simulated"})])
    agreed = result.consensus[PROMPT.id]
    assert (agreed.labeler, agreed.source, agreed.prompt) == ("", "simulated", PROMPT)
    assert majority(list(result.consensus.values())).num_unnamed == 1


def test_what_does_not_count() -> None:
    rankings = [
        ranking("", {"a": 2, "b": 1}),  # nobody
        ranking("ann", {"a": 2, "b": 1}),  # replaced
        ranking("ann", {"b": 2, "a": 1}),
        ranking("bob", {"a": 1}),  # compares nothing
    ]
    table = collect_comparisons(rankings)
    assert len(table) == 1
    assert (table.num_unnamed, table.num_superseded) == (1, 1)
    assert verdicts(majority(rankings)) == {("a", "b"): 1}
    empty = majority([])
    assert (empty.pairs, empty.consensus, empty.num_undecided) == ((), {}, 0)


def test_of_copies_of_a_text_the_best_rank_counts() -> None:
    responses = tuple(Response(text=text) for text in ("a", "b", "a"))
    copies = Ranking(prompt=PROMPT, responses=responses, ranks=(3, 2, 1), labeler="ann", shown_order=(1, 0, 2))
    table = collect_comparisons([copies])
    assert verdicts(majority([copies])) == {("a", "b"): 1}
    first, _ = (table.responses[index][1] for index in table.pairs[0])
    assert table.lead.tolist() == [-2.0 if first == "a" else 2.0]  # b was in place 0, the better a in place 2
    assert table.weight.tolist() == [1.0]


def test_lead_and_weight_by_hand() -> None:
    # on the screen: c, a, b
    table = collect_comparisons([ranking("ann", {"a": 1, "b": 2, "c": 2}, shown=(2, 0, 1))])
    found = {}
    for (one, other), lead, verdict in zip(table.pairs.tolist(), table.lead, table.verdict, strict=True):
        a, b = table.responses[one][1], table.responses[other][1]
        found[a, b] = (lead, verdict)
        found[b, a] = (-lead, -verdict)
    assert found["a", "b"] == (1, 1)
    assert found["c", "a"] == (1, -1)
    assert found["c", "b"] == (2, 0)
    assert table.weight.tolist() == pytest.approx([2 / 3] * 3)
    assert table.has_order
    unknown = collect_comparisons([ranking("ann", {"a": 1, "b": 2})])
    assert (unknown.has_order, unknown.lead.tolist()) == (False, [0.0])


def test_the_order_of_the_log_does_not_matter() -> None:
    rankings = [
        ranking(who, {text: 1 + (i * j + len(who)) % 3 for j, text in enumerate("abcd", 1)} | {"e": 1}, prompt=f"p{i}")
        for i in range(5)
        for who in ("ann", "bobby", "eve", "x")
    ]
    shuffled = random.Random(0).sample(rankings, len(rankings))
    assert majority(shuffled) == majority(rankings)


ranks = st.lists(st.integers(1, 3), min_size=4, max_size=4).filter(lambda given: min(given) == 1)


@given(st.lists(ranks, min_size=1, max_size=6))
def test_majority_is_a_count(given_ranks: list[list[int]]) -> None:
    rankings = [ranking(f"l{i}", dict(zip("abcd", given, strict=True))) for i, given in enumerate(given_ranks)]
    votes: Counter[tuple[str, str]] = Counter()
    for one in rankings:
        votes.update(("abcd"[better], "abcd"[worse]) for better, worse in one.pairs)
    expected = {(a, b): votes[a, b] - votes[b, a] for a, b in combinations("abcd", 2)}
    result = majority(rankings)
    assert verdicts(result) == {pair: (balance > 0) - (balance < 0) for pair, balance in expected.items()}
    won = {text: Fraction(0) for text in "abcd"}
    for (a, b), balance in expected.items():
        won[a] += Fraction((balance > 0) - (balance < 0))
        won[b] -= Fraction((balance > 0) - (balance < 0))
    places = {score: place for place, score in enumerate(sorted(set(won.values()), reverse=True), 1)}
    assert consensus(result) == {text: places[score] for text, score in won.items()}


@pytest.mark.filterwarnings("ignore:The (inplace|copy) keyword")  # how crowd-kit uses pandas
def test_majority_is_crowd_kits() -> None:
    aggregation = pytest.importorskip("crowdkit.aggregation")
    pandas = pytest.importorskip("pandas")
    rng = random.Random(1)
    said = {(f"p{i}", who): rng.choice("ab") for i in range(40) for who in ("ann", "bob", "eve")}
    rows = pandas.DataFrame(
        [(task, who, label) for (task, who), label in said.items()], columns=["task", "worker", "label"]
    )
    theirs = aggregation.MajorityVote().fit_predict(rows).to_dict()
    rankings = [
        ranking(who, {"a": 1 + (said[p, who] == "b"), "b": 1 + (said[p, who] == "a")}, prompt=p) for p, who in said
    ]
    result = majority(rankings)
    for agreed in result.consensus.values():
        best = agreed.responses[agreed.ranks.index(1)].text
        assert best == theirs[agreed.prompt.text]
    assert len(result.pairs) == 40
