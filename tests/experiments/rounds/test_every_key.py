"""Every key of a recipe of rounds reaches what it is about: two values of it, and what must differ.

What a round does with the recipes of its stages is in `test_rounds.py`; what these do with theirs, key by key, in
`tests/stages/effects`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.experiments.rounds.conftest import put

from palate.experiments.rounds.iterate import Rounds
from palate.experiments.rounds.judging import People, Simulated
from palate.randomness import derive_seed
from palate.recipe import RoundsRecipe, parse_recipe
from palate.records import Prompt

OUT = Path("runs/these")
REWARDS = [{"length": 5.0, "weight": 2.0}]


def stages(rounds: Rounds) -> list[Any]:
    """The recipes of both rounds' stages, and of what is measured."""
    each = rounds.recipes
    return [
        *(each.sample(number) for number in (1, 2)),
        *(each.reward(number) for number in (1, 2)),
        each.improve(1, "", judged_until=1),
        each.improve(2, each.policy(1), judged_until=2),
        each.improve(2, each.control(1), judged_until=1),
        each.evaluation(each.policy(2)),
    ]


def of_all(name: str) -> Callable[[Rounds], list[Any]]:
    """A key of the recipes that have it."""
    return lambda rounds: [getattr(each, name) for each in stages(rounds) if hasattr(each, name)]


def shares(rounds: Rounds) -> list[int]:
    return [len(share) for share in rounds.divide()[1].rounds]


def judge(rounds: Rounds) -> list[Any]:
    """What judges, with its settings."""
    return [type(rounds.judge), getattr(rounds.judge, "taste", None), getattr(rounds.judge, "least_ranked", None)]


def names(*numbers: int) -> str:
    return ",".join(str(OUT / f"round-{number}" / "rankings.jsonl") for number in numbers)


PEOPLE = {"labelers": "people", "taste": {}, "evaluation": {"judge": {"length": 2.0}}}
JUDGE = {"model": "tiny", "constitution": "recipes/constitutions/starter.toml"}
BY_CONSTITUTION = {**PEOPLE, "labelers": "ai", "judge": JUDGE}
SEEDS = [derive_seed(0, "round", number) % 2**31 for number in (1, 2)]
FIRST, LATER = "tiny", [str(OUT / f"round-{number}" / "policy") for number in (1, 2)]
TABLE: dict[str, tuple[dict[str, Any], dict[str, Any], Callable[[Rounds], Any], Any, Any]] = {
    "model": (
        {},
        {"model": "smollm2-135m"},
        lambda r: [*of_all("model")(r), r.recipes.evaluation("").baseline],
        [FIRST, LATER[0], FIRST, FIRST, FIRST, LATER[0], LATER[0], LATER[1], FIRST],
        ["smollm2-135m", LATER[0], *["smollm2-135m"] * 3, LATER[0], LATER[0], LATER[1], "smollm2-135m"],
    ),
    "chat_template": (
        {},
        {"chat_template": "plain"},
        lambda r: [*of_all("chat_template")(r), *of_all("baseline_chat_template")(r)],
        [""] * 9,
        ["plain", "", "plain", "plain", "plain", "", "", "", "plain"],
    ),
    "precision": ({}, {"precision": "bf16"}, of_all("precision"), ["fp32"] * 8, ["bf16"] * 8),
    "frozen_layers": (
        {},
        {"frozen_layers": 0, "reward": {"frozen_layers": 2}},
        of_all("frozen_layers"),
        [1] * 5,
        [2, 2, 0, 0, 0],
    ),
    "rounds": ({"prompts_per_round": 0}, {"prompts_per_round": 0, "rounds": 3}, shares, [5, 4], [3, 3, 3]),
    "prompts_per_round": ({}, {"prompts_per_round": 3}, shares, [4, 4], [3, 3]),
    "prompts": (
        {"prompts_per_round": 0},
        {"prompts_per_round": 0, "prompts": {"path": "$others"}},
        lambda r: {prompt.text for share in r.divide()[1].rounds for prompt in share} & {"One?", "Two?"},
        set(),
        {"One?", "Two?"},
    ),
    "held_out": (
        {},
        {"held_out": {"path": "$others"}},
        lambda r: [prompt.text for prompt in r.divide()[0]["held_out"].records][:2] == ["One?", "Two?"],
        False,
        True,
    ),
    "sampling": (
        {},
        {"sampling": {"max_new_tokens": 3, "temperature": 1.1}},
        lambda r: [(each.max_new_tokens, each.temperature) for each in of_all("sampling")(r)],
        [(6, 0.7)] * 6,
        [(3, 1.1)] * 6,
    ),
    "labelers": ({}, PEOPLE, lambda r: type(r.judge), Simulated, People),
    "taste": (
        {},
        {"taste": {"labels_per_prompt": 5}},
        lambda r: r.judge.taste.labels_per_prompt,  # type: ignore[attr-defined]
        2,
        5,
    ),
    "judge": (
        BY_CONSTITUTION,
        {**BY_CONSTITUTION, "judge": {**JUDGE, "principles_per_pair": 2}},
        lambda r: [(each.model, each.principles_per_pair, each.seed) for each in map(r.recipes.judge, (1, 2))],
        [("tiny", 1, SEEDS[0]), ("tiny", 1, SEEDS[1])],
        [("tiny", 2, SEEDS[0]), ("tiny", 2, SEEDS[1])],
    ),
    "least_ranked": (
        PEOPLE,
        {**PEOPLE, "least_ranked": 0.5},
        lambda r: r.judge.least_ranked,  # type: ignore[attr-defined]
        1.0,
        0.5,
    ),
    "labels": (
        {},
        {"labels": "newest"},
        lambda r: [r.recipes.reward(number).data.path for number in (1, 2)],
        [names(1), names(1, 2)],
        [names(1), names(2)],
    ),
    "reward_start": (
        {},
        {"reward_start": "previous"},
        lambda r: [r.recipes.reward(number).model for number in (1, 2)],
        [FIRST, FIRST],
        [FIRST, str(OUT / "round-1" / "reward")],
    ),
    "kl_reference": ({}, {"kl_reference": "round"}, of_all("reference"), ["", FIRST, FIRST], ["", "", ""]),
    "sample": ({}, {"sample": {"responses_per_prompt": 5}}, lambda r: r.recipes.sample(2).responses_per_prompt, 3, 5),
    "reward": ({}, {"reward": {"epochs": 4}}, lambda r: [r.recipes.reward(n).epochs for n in (1, 2)], [1, 1], [4, 4]),
    "policy": (
        {},
        {"policy": {"stage": "raft", "steps": 7, "rewards": REWARDS}},
        lambda r: [(each.stage, each.steps, len(each.rewards)) for each in stages(r) if hasattr(each, "steps")],
        [("reinforce", 2, 1)] * 3,
        [("raft", 7, 2)] * 3,
    ),
    "evaluation": (
        {},
        {"evaluation": {"responses_per_prompt": 9, "judge": {"length": 3.0}}},
        lambda r: (r.recipes.evaluation("").responses_per_prompt, r.recipes.evaluation("").judge.length),
        (2, None),
        (9, 3.0),
    ),
}
"""Both values as changes of the recipe, what is looked at, and what it must be with each."""

SEEN_ELSEWHERE = {"control": "test_rounds.py: a control is there or not", "seed": "test_a_seed_is_the_rounds_own"}


@pytest.mark.parametrize("key", TABLE)
def test_a_key_has_its_effect(key: str, tree: dict[str, Any], tmp_path: Path) -> None:
    others = put(tmp_path / "others.jsonl", [Prompt.from_text(f"{name}?") for name in ("One", "Two", "Three")])
    *changes, look, first, second = TABLE[key]
    for given, expected in zip(changes, (first, second), strict=True):
        filled = {k: {"path": others} if value == {"path": "$others"} else value for k, value in given.items()}
        assert look(Rounds(parse_recipe(RoundsRecipe, tree | filled), OUT)) == expected
    assert first != second


def test_every_key_is_in_the_table() -> None:
    assert RoundsRecipe.model_fields.keys() - {"stage"} == TABLE.keys() | SEEN_ELSEWHERE.keys()


def test_a_seed_is_the_rounds_own(tree: dict[str, Any]) -> None:
    """Every round draws other numbers, and its control the same; all are measured with the same ones."""
    found = [of_all("seed")(Rounds(parse_recipe(RoundsRecipe, tree | {"seed": seed}), OUT)) for seed in (0, 1)]
    for seed, numbers in enumerate(found):
        first, second = numbers[:2]
        assert numbers == [first, second, first, second, first, second, second, seed]
        assert first != second
    assert not set(found[0]) & set(found[1])
    divisions = [Rounds(parse_recipe(RoundsRecipe, tree | {"seed": seed}), OUT).divide()[1].rounds for seed in (0, 1)]
    assert divisions[0] != divisions[1]
    assert [Rounds(parse_recipe(RoundsRecipe, tree | {"seed": seed}), OUT).judge.seed for seed in (0, 1)] == [0, 1]  # type: ignore[attr-defined]


def test_without_a_judge_the_taste_judges(tree: dict[str, Any]) -> None:
    found = Rounds(parse_recipe(RoundsRecipe, tree), OUT).recipes.evaluation("")
    assert found.judge.function == tree["taste"]["function"]


def test_terms_of_the_reward_are_added_to_what_was_learned(tree: dict[str, Any]) -> None:
    tree["policy"]["rewards"] = REWARDS
    recipes = Rounds(parse_recipe(RoundsRecipe, tree), OUT).recipes
    found = recipes.improve(2, recipes.policy(1), judged_until=1)
    assert [(term.model, term.length, term.weight) for term in found.rewards] == [
        (str(OUT / "round-1" / "reward"), None, 1.0),
        ("", 5.0, 2.0),
    ]
