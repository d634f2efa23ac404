"""Agreement of rankings: worked examples, undefined cases, and what must not matter."""

from __future__ import annotations

import random

import pytest

from palate.feedback.statistics.coefficients import kendall_tau_b
from palate.feedback.statistics.pairwise_agreement import agreement
from palate.records import Prompt, Ranking, Response


def ranking(prompt: str, labeler: str, ranks: dict[str, int], ratings: list[float] | None = None) -> Ranking:
    return Ranking(
        prompt=Prompt.from_text(prompt),
        responses=tuple(Response(text=text) for text in ranks),
        ranks=tuple(ranks.values()),
        ratings=None if ratings is None else tuple(ratings),
        labeler=labeler,
    )


def test_pairs_and_ties_by_hand() -> None:
    rankings = [
        ranking("one", "ann", {"a": 1, "b": 2}),  # the same: 1
        ranking("one", "bob", {"a": 1, "b": 2}),
        ranking("two", "ann", {"a": 1, "b": 2}),  # opposite: 0
        ranking("two", "bob", {"a": 2, "b": 1}),
        ranking("three", "ann", {"a": 1, "b": 1}),  # both tie: 1
        ranking("three", "bob", {"a": 1, "b": 1}),
        ranking("four", "ann", {"a": 1, "b": 1}),  # one ties: 1/2
        ranking("four", "bob", {"a": 1, "b": 2}),
        ranking("five", "ann", {"a": 1, "b": 2}),  # nobody else
    ]
    result = agreement(rankings, resamples=200)
    assert result.percent == pytest.approx(2.5 / 4)
    assert result.num_prompts == 4
    assert result.num_comparisons == 4
    assert result.low is not None
    assert result.high is not None
    assert 0 <= result.low < 2.5 / 4 < result.high <= 1


def test_three_labelers_per_labeler_and_between() -> None:
    rankings = [
        ranking("one", "ann", {"a": 1, "b": 2}),
        ranking("one", "bob", {"a": 1, "b": 2}),
        ranking("one", "eve", {"a": 2, "b": 1}),
        ranking("two", "ann", {"a": 1, "b": 2}),
        ranking("two", "eve", {"a": 1, "b": 1}),
    ]
    result = agreement(rankings, resamples=50)
    assert result.percent == pytest.approx((1 + 0 + 0 + 0.5) / 4)
    assert result.between == pytest.approx({("ann", "bob"): 1.0, ("ann", "eve"): 0.25, ("bob", "eve"): 0.0})
    assert result.matrix(["bob", "eve", "zoe"]) == [[None, 0.0, None], [0.0, None, None], [None, None, None]]
    ann, bob, eve = result.labelers
    assert (ann.name, ann.num_prompts, ann.num_comparisons, ann.tie_share) == ("ann", 2, 3, 0.0)
    assert ann.agreement.value == pytest.approx(0.5)
    assert bob.agreement.value == pytest.approx(0.5)
    assert bob.agreement.low is None  # one prompt gives no interval
    assert eve.tie_share == 0.5


def test_coefficients_are_those_of_the_pair_table() -> None:
    # ann and bob on ten prompts, eight times the same; who is named first depends on hashes, so kappa is not fixed by
    # the counts alone, but it is 1 where they always agree and below 0 where they never do
    same = [ranking(str(i), who, {"a": 1 + i % 2, "b": 2 - i % 2}) for i in range(10) for who in ("ann", "bob")]
    result = agreement(same, resamples=50)
    assert [e.value for e in (result.cohen, result.fleiss, result.alpha, result.ac1, result.tau_b)] == [1.0] * 5
    never = [
        ranking(str(i), who, {"a": 1 + (i + j) % 2, "b": 2 - (i + j) % 2})
        for i in range(10)
        for j, who in enumerate(("ann", "bob"))
    ]
    result = agreement(never, resamples=50)
    assert result.percent == 0
    assert result.cohen.value == pytest.approx(-1, abs=0.5)
    assert result.tau_b.value == pytest.approx(-1)


def test_tau_b_is_the_mean_over_prompts_and_pairs_of_labelers() -> None:
    one = ({"a": 1, "b": 2, "c": 3, "d": 4}, {"a": 2, "b": 1, "c": 3, "d": 3})
    two = ({"a": 1, "b": 1, "c": 2}, {"a": 1, "b": 2, "c": 3})
    rankings = [
        ranking(prompt, who, ranks)
        for prompt, both in (("one", one), ("two", two))
        for who, ranks in zip("xy", both, strict=True)
    ]
    taus = [kendall_tau_b(list(a.values()), list(b.values())) for a, b in (one, two)]
    assert None not in taus
    assert agreement(rankings, resamples=20).tau_b.value == pytest.approx(sum(tau or 0 for tau in taus) / 2)


def test_interval_alpha_is_that_of_the_ratings() -> None:
    rankings = [
        ranking("one", "ann", {"a": 1, "b": 2}, [6, 2]),
        ranking("one", "bob", {"a": 1, "b": 2}, [7, 2]),
        ranking("two", "ann", {"a": 1, "b": 2}, [4, 3]),
        ranking("two", "bob", {"a": 1, "b": 2}, [4, 3]),
    ]
    values = [6, 7, 2, 2, 4, 4, 3, 3]
    within = 2 * 1.0
    between = sum((a - b) ** 2 for a in values for b in values)
    assert agreement(rankings, resamples=20).alpha_interval.value == pytest.approx(1 - 7 * within / between)


def test_undefined_is_none() -> None:
    empty = agreement([])
    assert (empty.percent, empty.low, empty.high, empty.labelers) == (None, None, None, ())
    alone = agreement([ranking("one", "ann", {"a": 1, "b": 2})])
    assert alone.percent is None
    assert alone.labelers[0].agreement.value is None
    always_first = [ranking(str(i), who, {"a": 1, "b": 2}) for i in range(3) for who in ("ann", "bob")]
    assert agreement(always_first, resamples=20).percent == 1
    assert agreement(always_first, resamples=20).fleiss.value is None
    assert agreement(always_first, resamples=20).alpha_interval.value is None


def test_what_was_left_out_is_counted() -> None:
    rankings = [
        ranking("one", "", {"a": 1, "b": 2}),
        ranking("one", "ann", {"a": 1, "b": 2}),
        ranking("one", "ann", {"a": 2, "b": 1}),  # changed her mind
        ranking("one", "bob", {"a": 2, "b": 1}),
        Ranking(
            prompt=Prompt.from_text("two"),
            responses=(Response(text="a"), Response(text="a")),
            ranks=(1, 2),
            labeler="bob",
        ),
    ]
    result = agreement(rankings)
    assert result.percent == 1
    assert (result.num_unnamed, result.num_superseded, result.num_identical) == (1, 1, 1)


def test_order_of_log_and_of_responses_does_not_matter() -> None:
    rng = random.Random(0)
    texts = ["a", "b", "c", "d"]
    rankings = []
    for prompt in range(12):
        for who in ("ann", "bob", "eve"):
            ranks = [rng.randint(1, 3) for _ in texts]
            lowest = min(ranks)
            rankings.append(ranking(str(prompt), who, {t: r - lowest + 1 for t, r in zip(texts, ranks, strict=True)}))
    shuffled = [
        ranking(r.prompt.text, r.labeler, {r.responses[i].text: r.ranks[i] for i in rng.sample(range(4), 4)})
        for r in rng.sample(rankings, len(rankings))
    ]
    assert agreement(shuffled, resamples=50) == agreement(rankings, resamples=50)
