"""Choosing what to label, where the truth is planted: doubt must pay, cannot pay, and misleads."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from tests.experiments.labels.planted import judged

from palate.errors import DataError
from palate.experiments.labels.judgement_table import Judgements
from palate.experiments.labels.label_budget import (
    Curve,
    area_gained,
    curves,
    labels_needed,
    named,
    one_of_each,
    sizes,
    split,
)
from palate.experiments.labels.selection import CONTROLS, STRATEGIES, State
from palate.intervals import Estimate
from palate.randomness import normals, uniforms

SEEDS = range(5)
RARE = 24


def least(estimate: Estimate) -> float:
    """The interval's lower end."""
    assert estimate.low is not None
    return estimate.low


def most(estimate: Estimate) -> float:
    """The upper."""
    assert estimate.high is not None
    return estimate.high


@pytest.fixture(scope="module")
def rare_questions() -> Judgements:
    """Eight in ten items ask one easy thing, the others one of 24 things each, of which chance meets few."""
    number, kinds = 1600, 1 + RARE
    group = np.floor(8 * uniforms(number, 0, "group")).astype(np.int64)
    kind = np.where(uniforms(number, 0, "rare") < 0.8, 0, 1 + np.arange(number) % RARE)
    x = np.eye(kinds)[kind] * np.sign(normals(number, 0, "sign"))[:, None]
    x *= 0.5 + uniforms(number, 0, "length")[:, None]
    return judged(4 * x, normals(kinds, 0, "taste"), group=group)


@pytest.fixture(scope="module")
def on_rare_questions(rare_questions: Judgements) -> dict[str, list[Curve]]:
    """Every strategy over all seeds."""
    return named(curve for seed in SEEDS for curve in curves(rare_questions, seed, most=64))


def test_doubt_finds_what_chance_hardly_meets(on_rare_questions: dict[str, list[Curve]]) -> None:
    """If nothing is asked twice; the most contradictory items alone are many times the same question."""
    random = on_rare_questions["random"]
    for name in ("entropy", "diverse", "one by one", "both", "oracle"):
        assert area_gained(on_rare_questions[name], random).value > 0.01, name  # type: ignore[operator]
    assert least(area_gained(on_rare_questions["one by one"], on_rare_questions["uncertain"])) > 0
    assert labels_needed(on_rare_questions["one by one"], random).value < 0.6  # type: ignore[operator]


def test_controls_lose_and_draw(on_rare_questions: dict[str, list[Curve]]) -> None:
    random = on_rare_questions["random"]
    assert area_gained(on_rare_questions["certain"], random).value < -0.005  # type: ignore[operator]
    shuffled = area_gained(on_rare_questions["shuffled"], random)
    assert least(shuffled) < 0 < most(shuffled)


def test_where_every_label_is_a_coin_nothing_helps() -> None:
    number = 400
    x = normals(number * 5, 3, "x").reshape(number, 5)
    coins = judged(x, np.zeros(5), group=np.arange(number) % 8, skill=np.ones(number))
    strategies = {name: STRATEGIES[name] for name in ("random", "uncertain", "one by one")}
    found = named(curve for seed in SEEDS for curve in curves(coins, seed, strategies, most=64))
    for name, theirs in found.items():
        assert np.mean([curve.accuracy for curve in theirs]) == pytest.approx(0.5, abs=0.06), name
        gained = area_gained(theirs, found["random"])
        assert name == "random" or least(gained) < 0 < most(gained)


def test_one_model_is_drawn_to_what_people_do_not_care_about() -> None:
    """Half the items differ in nothing that anyone wants: their labels are coins, and they look unsure for ever.

    Entropy keeps asking about them. Contradiction does not: members soon agree that there is nothing to tell.
    """
    number = 1200
    x = normals(number * 12, 5, "x").reshape(number, 12)
    x[: number // 2, 1:] = 0  # the first axis alone, which is nobody's taste
    x[number // 2 :, 0] = 0
    order = np.argsort(uniforms(number, 5, "order"))
    taste = np.r_[0.0, normals(11, 5, "taste")]
    people = judged(2 * x[order], taste, group=np.arange(number) % 8, skill=np.full(number, 2.0))
    strategies = {name: STRATEGIES[name] for name in ("random", "entropy", "uncertain")}
    found = named(curve for seed in SEEDS for curve in curves(people, seed, strategies, most=128))
    assert area_gained(found["uncertain"], found["entropy"]).value > 0.01  # type: ignore[operator]


@pytest.mark.parametrize("name", [*STRATEGIES, *CONTROLS])
def test_a_strategy_chooses_as_many_as_are_wanted_each_once_and_always_the_same(
    name: str, rare_questions: Judgements
) -> None:
    strategy = {**STRATEGIES, **CONTROLS}[name]
    pool, _, _ = split(rare_questions, 0)
    state = State(pool=pool, labelled=np.arange(20), count=10, key=(0, "test"))
    chosen = strategy(state)
    assert len(set(chosen.tolist())) == 10
    assert not set(chosen.tolist()) & set(range(20))
    assert set(chosen.tolist()) <= set(range(pool.num_items))
    assert (strategy(state) == chosen).all()
    rest = State(pool=pool, labelled=np.arange(pool.num_items - 5), count=10, key=(0, "test"))
    assert sorted(strategy(rest).tolist()) == list(range(pool.num_items - 5, pool.num_items))


def test_only_the_oracle_sees_a_label_that_was_not_asked_for(rare_questions: Judgements) -> None:
    """Every other strategy chooses the same when all labels that are not known yet are turned round."""
    pool, _, _ = split(rare_questions, 1)
    known = np.arange(24)
    turned = pool.outcome.copy()
    hidden = ~np.isin(pool.item, known)
    turned[hidden] = 1 - turned[hidden]
    other = replace(pool, outcome=turned, held_out_outcome=1 - pool.held_out_outcome)
    for name, strategy in {**STRATEGIES, **CONTROLS}.items():
        chosen = [strategy(State(pool=each, labelled=known, count=10, key=(0, "t"))).tolist() for each in (pool, other)]
        assert (chosen[0] == chosen[1]) == (name != "oracle"), name


def test_held_out_prompts_and_items_are_never_learned_from(rare_questions: Judgements) -> None:
    judgements = rare_questions
    by_prompt, _, _ = split(judgements, 0)
    by_item, _, _ = split(judgements, 0, held_out="items")
    assert by_item.num_items == 1200
    assert len(by_item.held_out_x) == 400
    assert by_prompt.num_items + len(by_prompt.held_out_x) == 1600
    aside = np.bincount(judgements.group)  # two prompts of eight
    assert len(by_prompt.held_out_x) in {aside[i] + aside[j] for i in range(8) for j in range(i)}
    assert not np.array_equal(by_prompt.held_out_outcome, by_item.held_out_outcome)
    other, _, _ = split(judgements, 1)
    assert not np.array_equal(by_prompt.held_out_x, other.held_out_x)


def test_of_several_judgements_of_an_item_one_is_had() -> None:
    number = 60
    x = normals(number * 3, 3, "x").reshape(number, 3)
    judgements = judged(x, np.ones(3), group=np.arange(number) // 15, item=np.arange(number) // 3)
    asked = one_of_each(judgements, np.arange(number), 0)
    assert sorted(judgements.item[asked].tolist()) == list(range(20))
    assert not np.array_equal(asked, one_of_each(judgements, np.arange(number), 1))


def test_labels_grow_by_half_up_to_half_the_pool() -> None:
    assert sizes(2000)[0] == 16
    assert sizes(2000)[-1] == 512
    assert sizes(100)[-1] == 50
    steps = sizes(5000)
    assert all(1.4 < later / earlier < 1.6 for earlier, later in pairwise(steps))
    with pytest.raises(DataError, match="30 items to choose from are too few"):
        sizes(30)


def curve(name: str, seed: int, *accuracy: float) -> Curve:
    labels = (16, 32, 64, 128)
    return Curve(strategy=name, seed=seed, labels=labels, accuracy=accuracy, everything=0.9, longer=0.5)


def test_area_is_the_mean_over_doublings() -> None:
    assert curve("a", 0, 0.5, 0.6, 0.7, 0.8).area == pytest.approx((0.55 + 0.65 + 0.75) / 3)


def test_differences_are_paired_by_seed() -> None:
    """Seeds differ by far more than strategies do."""
    random = [curve("random", seed, *(np.array([0.5, 0.5, 0.6, 0.6]) + seed / 20)) for seed in range(6)]
    other = [curve("other", seed, *(np.array([0.52, 0.52, 0.62, 0.62]) + seed / 20)) for seed in range(6)]
    gained = area_gained(other, random)
    assert gained.value == pytest.approx(0.02)
    assert gained.low is None or gained.low > 0.019  # without any spread there is no interval


def test_labels_needed_is_where_the_curves_reach_what_random_ends_with() -> None:
    random = [curve("random", seed, 0.5, 0.6, 0.7, 0.8) for seed in range(3)]
    early = [curve("early", seed, 0.5, 0.7, 0.9, 0.9) for seed in range(3)]
    assert labels_needed(random, random).value == pytest.approx(1.0)
    # 0.8 is half way between 32 and 64 labels in the logarithm: 45.25 of 128
    assert labels_needed(early, random).value == pytest.approx(2**5.5 / 128)
    assert labels_needed([curve("late", seed, 0.5, 0.5, 0.5, 0.5) for seed in range(3)], random).value is None


def test_one_prompt_cannot_be_held_out() -> None:
    alone = judged(np.ones((40, 2)), np.ones(2), group=np.zeros(40, dtype=np.int64))
    with pytest.raises(DataError, match="one prompt"):
        split(alone, 0)
