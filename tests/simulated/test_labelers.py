"""Simulated labelers agree as often as asked, differ in skill, and depend on nothing but content and seed."""

from __future__ import annotations

import random
from collections import defaultdict
from itertools import combinations

import numpy as np
import pytest

from palate.errors import DataError, RecipeError, RewardError
from palate.feedback.statistics.pairwise_agreement import agreement
from palate.recipe import Taste
from palate.records import Candidates, Prompt, Response
from palate.simulated.labelers import expected_agreement, labeler_noise, rank_candidates
from palate.simulated.tastes import short

SHORT = "palate.simulated.tastes:short"


def candidates(num_prompts: int, k: int = 4, seed: int = 0) -> list[Candidates]:
    rng = random.Random(seed)
    return [
        Candidates(
            prompt=Prompt.from_text(f"question {i}"),
            responses=tuple(Response(text=f"{rng.random()}" + " a" * rng.randrange(400)) for _ in range(k)),
        )
        for i in range(num_prompts)
    ]


@pytest.mark.parametrize(("target", "tie_margin"), [(0.6, 0.0), (0.73, 0.0), (0.73, 0.3), (0.9, 0.0)])
def test_agreement_hits_the_target(target: float, tie_margin: float) -> None:
    taste = Taste(function=SHORT, agreement=target, tie_margin=tie_margin, labelers=4, labels_per_prompt=4)
    rankings = rank_candidates(candidates(334), taste, seed=1)  # 2,004 pairs
    measured = agreement(rankings, resamples=2).percent
    assert measured == pytest.approx(target, abs=0.02)


def test_expected_agreement_by_hand() -> None:
    # both prefer the better one with p = Phi(1 / sqrt 2 sigma) = 0.8413 for sigma = 1 / sqrt 2
    p = 0.8413447460685429
    sigma = np.sqrt(np.array([0.5, 0.5]))
    assert expected_agreement(np.array([1.0]), sigma) == pytest.approx(p**2 + (1 - p) ** 2)
    assert expected_agreement(np.array([0.0]), sigma) == pytest.approx(0.5)
    assert expected_agreement(np.array([1.0, 0.0]), sigma[:1]) == pytest.approx((p**2 + (1 - p) ** 2 + 0.5) / 2)


def test_expected_agreement_with_ties_against_sampling() -> None:
    rng = np.random.default_rng(0)
    sigmas, differences = np.array([0.3, 0.6, 1.2]), np.array([0.1, 0.5, 2.0])
    perceived = differences + np.sqrt(2) * sigmas[:, None, None] * rng.standard_normal((3, 100_000, 3))
    verdicts = np.sign(perceived) * (np.abs(perceived) > 0.4)
    sampled = np.mean([1 - np.abs(a - b) / 2 for a, b in combinations(verdicts, 2)])
    assert expected_agreement(differences, sigmas, tie_margin=0.4) == pytest.approx(sampled, abs=0.003)


def test_more_careful_labelers_agree_more_with_the_taste() -> None:
    taste = Taste(function=SHORT, agreement=0.75, labelers=3, skill_spread=0.8, labels_per_prompt=3)
    right: dict[str, list[bool]] = defaultdict(list)
    for ranking in rank_candidates(candidates(200), taste, seed=0):
        scores = short([], [response.text for response in ranking.responses])
        right[ranking.labeler] += [scores[better] > scores[worse] for better, worse in ranking.pairs]
    first, second, third = (np.mean(right[f"simulated-{i}"]) for i in (1, 2, 3))
    assert first > second + 0.03 > third + 0.06


def test_no_spread_makes_them_alike_and_full_agreement_makes_them_perfect() -> None:
    alike = labeler_noise(np.array([0.5, 1.0]), Taste(skill_spread=0, labelers=3))
    assert alike.tolist() == [alike[0]] * 3
    perfect = Taste(function=SHORT, agreement=1, labels_per_prompt=5)
    for ranking in rank_candidates(candidates(20), perfect, seed=0):
        scores = short([], [response.text for response in ranking.responses])
        assert all(scores[better] > scores[worse] for better, worse in ranking.pairs)


def test_order_of_candidates_and_responses_does_not_matter() -> None:
    items = candidates(40)
    taste = Taste(function=SHORT, tie_margin=0.1)
    rng = random.Random(3)
    shuffled = [
        Candidates(prompt=item.prompt, responses=tuple(rng.sample(item.responses, 4))) for item in rng.sample(items, 40)
    ]

    def by_content(rankings: list) -> set:  # type: ignore[type-arg]
        return {
            (r.prompt.id, r.labeler, frozenset(zip((s.text for s in r.responses), r.ranks, strict=True)))
            for r in rankings
        }

    first = rank_candidates(items, taste, seed=5)
    assert first == rank_candidates(items, taste, seed=5)
    assert by_content(first) == by_content(rank_candidates(shuffled, taste, seed=5))
    assert by_content(first) != by_content(rank_candidates(items, taste, seed=6))


def test_who_ranks_and_in_what_order_it_was_shown() -> None:
    rankings = rank_candidates(candidates(200), Taste(function=SHORT, labelers=5, labels_per_prompt=2), seed=0)
    workload: dict[str, int] = defaultdict(int)
    per_prompt: dict[str, set[str]] = defaultdict(set)
    for ranking in rankings:
        workload[ranking.labeler] += 1
        per_prompt[ranking.prompt.id].add(ranking.labeler)
        assert ranking.source == "simulated"
    assert sorted(workload) == [f"simulated-{i}" for i in range(1, 6)]
    assert all(50 < count < 110 for count in workload.values())
    assert {len(who) for who in per_prompt.values()} == {2}
    assert len({ranking.shown_order for ranking in rankings}) == 24


def test_the_same_text_twice_is_a_tie() -> None:
    twice = Candidates(prompt=Prompt.from_text("q"), responses=tuple(Response(text=t) for t in ("a b", "a b", "a")))
    for ranking in rank_candidates([twice], Taste(function=SHORT), seed=0):
        assert ranking.ranks[0] == ranking.ranks[1]


def test_equally_good_answers_can_be_ranked() -> None:
    same = Candidates(prompt=Prompt.from_text("q"), responses=tuple(Response(text=text) for text in "abcd"))
    assert len(rank_candidates([same], Taste(function=SHORT), seed=0)) == 2


def test_errors_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    items = candidates(2)
    with pytest.raises(RecipeError, match="labels_per_prompt = 3 needs as many labelers"):
        rank_candidates(items, Taste(function=SHORT, labelers=2, labels_per_prompt=3), seed=0)
    with pytest.raises(DataError, match="sample some responses first"):
        rank_candidates([], Taste(), seed=0)
    with pytest.raises(DataError, match="sample more per prompt"):
        rank_candidates(candidates(2, k=1), Taste(function=SHORT), seed=0)
    monkeypatch.setattr("palate.simulated.tastes.short", lambda prompts, responses: np.array([0.0]))
    with pytest.raises(RewardError, match="returned 1 scores for 8 responses"):
        rank_candidates(items, Taste(function=SHORT), seed=0)
