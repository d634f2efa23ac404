"""What is measured of a policy, key by key of what it is measured by, and what of a run's cost is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.experiments.conftest import HELD_OUT

from palate.errors import DataError
from palate.experiments.followed import TokenCount
from palate.experiments.measuring import Measure, Point
from palate.lm.batch import Sequences
from palate.lm.sources.zoo import load_chat, load_language_model
from palate.recipe import CompareRecipe, parse_recipe
from palate.records import Prompt
from palate.run.directory import Run


def measured(tree: dict[str, Any], directory: Path, **changes: Any) -> tuple[Point, Measure]:
    """The tiny model with one weight changed, so that it is another policy than the baseline."""
    recipe = parse_recipe(CompareRecipe, {**tree, **changes})
    measure = Measure(recipe, Run.open(directory, recipe), directory / "scores.json")
    policy = load_language_model("tiny", precision=recipe.precision)
    with torch.no_grad():
        policy.model.model.upper(0)[-1].mlp.down_proj.weight.mul_(3)
    return measure.point(policy, None), measure


@pytest.fixture
def point(evaluation: dict[str, Any], tmp_path: Path) -> Point:
    return measured(evaluation, tmp_path / "run")[0]


def test_a_point_by_hand(evaluation: dict[str, Any], tmp_path: Path) -> None:
    found, measure = measured(evaluation, tmp_path / "run", judge={"function": "palate.simulated.tastes:short"})
    assert {len(values) for values in (found.kl, found.judge, found.won, found.words, found.truncated)} == {HELD_OUT}
    assert found.reward == ()
    assert np.mean(found.kl) > 0.01
    assert found.judge == pytest.approx([-words / 10 for words in found.words])  # the judge's whole taste
    itself = measure.point(load_language_model("tiny", precision="fp32"), (measure.recipe.judge,))
    assert itself.kl == pytest.approx([0] * HELD_OUT, abs=1e-5)
    assert itself.won == pytest.approx([0.5] * HELD_OUT)
    assert itself.reward == pytest.approx(itself.judge)
    assert itself.at_equal_length[0] == pytest.approx(0.5)
    fair, low, high = found.at_equal_length
    assert fair is not None
    assert low is not None
    assert high is not None
    assert low <= fair <= high
    assert abs(fair - 0.5) < abs(np.mean(found.won) - 0.5) / 2  # the judge counts words and nothing else


def test_nearly_all_responses_of_one_token_were_cut_off(evaluation: dict[str, Any], tmp_path: Path) -> None:
    """A random model draws the stop token once in a vocabulary, and most words are longer than a token."""
    found, _ = measured(evaluation, tmp_path / "run", sampling={"max_new_tokens": 1})
    assert np.mean(found.truncated) > 0.9
    assert np.mean(found.words) <= 1


KEYS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "seed": ({"seed": 1}, ("kl", "words")),
    "baseline": ({"baseline": "$teacher"}, ("kl", "won")),
    "baseline_chat_template": ({"baseline_chat_template": "plain"}, ("at_equal_length",)),
    "responses_per_prompt": ({"responses_per_prompt": 3}, ("kl", "words")),
    "prompts": ({"prompts": {"path": "$prompts", "limit": 4}}, ("words", "kl")),
    "judge": ({"judge": {"length": 1.0}}, ("judge",)),
    "sampling": ({"sampling": {"max_new_tokens": 3}}, ("words", "kl")),
    "precision": ({"precision": "bf16"}, ("kl",)),
}
"""Another value, and what of a point must differ. Keys of sections have rows where those of `palate eval` are."""

SEEN_ELSEWHERE = {
    "max_left_out": "test_a_prompt_that_does_not_fit_is_left_out_only_if_one_says_so",
    "points": "test_compare.py: stops of a run",
    "best_of": "test_compare.py: stops of best of n",
}


@pytest.mark.parametrize("key", KEYS)
def test_every_key_of_the_evaluation_is_used(
    key: str, point: Point, evaluation: dict[str, Any], teacher: str, tmp_path: Path
) -> None:
    changes, differ = KEYS[key]
    places = {"$teacher": teacher, "$prompts": evaluation["prompts"]["path"]}
    other, _ = measured(evaluation, tmp_path / "other", **filled_in(changes, places))
    for name in differ:
        assert getattr(other, name) != getattr(point, name), f"{key} does not reach {name}"


def filled_in(tree: Any, places: dict[str, str]) -> Any:
    if isinstance(tree, dict):
        return {key: filled_in(value, places) for key, value in tree.items()}
    return places.get(tree, tree) if isinstance(tree, str) else tree


def test_every_key_is_in_the_table() -> None:
    assert CompareRecipe.model_fields.keys() - {"stage"} == KEYS.keys() | SEEN_ELSEWHERE.keys()


def test_a_prompt_that_does_not_fit_is_left_out_only_if_one_says_so(evaluation: dict[str, Any], tmp_path: Path) -> None:
    path = Path(evaluation["prompts"]["path"])
    long = Prompt.from_text("word " * 2000)
    path.write_text(path.read_text(encoding="utf-8") + long.to_json() + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="max_left_out"):
        measured(evaluation, tmp_path / "strict")
    found, _ = measured(evaluation, tmp_path / "lenient", max_left_out=0.5)
    assert len(found.kl) == HELD_OUT


def test_the_baseline_is_laid_out_as_it_says(evaluation: dict[str, Any], tmp_path: Path) -> None:
    _, measure = measured(evaluation, tmp_path / "run", baseline_chat_template="plain")
    assert measure.baseline.chat.fingerprint == load_chat("tiny", chat_template="plain").fingerprint
    assert measure.baseline.chat.fingerprint != load_chat("tiny").fingerprint


def test_a_pool_is_drawn_apart_from_what_it_is_compared_with(evaluation: dict[str, Any], tmp_path: Path) -> None:
    """The very responses of the baseline among the chosen would win half of their comparisons with themselves."""
    _, measure = measured(evaluation, tmp_path / "run")
    pools = [measure.pool(seed, {"judge": (measure.recipe.judge,)}, 2) for seed in (0, 1)]
    assert not np.array_equal(pools[0].judge, measure.scores)
    assert not np.array_equal(pools[0].judge, pools[1].judge)
    assert np.array_equal(pools[0].rewards["judge"], pools[0].judge)
    by_hand = np.sign(pools[0].judge[:, :, None] - measure.scores[:, None, :]).mean(2) / 2 + 0.5
    assert pools[0].won == pytest.approx(by_hand)


def test_tokens_are_counted_by_layers_and_thrice_with_gradients() -> None:
    loaded = load_language_model("tiny", precision="fp32")
    model, layers = loaded.model, len(loaded.model.model.upper(0))
    sequences = Sequences.pack([[1, 2, 3], [1, 2, 3], [4]], [[5, 6], [7], [8, 9]], group_ids=[0, 0, 1])
    computed = 3 + 2 + 1 + 1 + 2  # a prompt that is shared once
    rows = [computed] * (layers - 1)
    with TokenCount() as count, torch.no_grad():
        model.logprobs(sequences, temperature=1.0)
        whole = count.tokens
    assert whole * layers == pytest.approx(sum(rows) + computed)
    model.freeze(1)
    with TokenCount() as count:
        model.logprobs(sequences, temperature=1.0)
    assert count.tokens == pytest.approx(whole * (1 + 3 * (layers - 1)) / layers)
    trunk = model.trunk(sequences)
    with TokenCount() as count:
        model.logprobs(sequences, temperature=1.0, trunk=trunk)
    assert count.tokens == pytest.approx(whole * 3 * (layers - 1) / layers)
    after = count.tokens
    model.logprobs(sequences, temperature=1.0)
    assert count.tokens == after, "outside nothing is counted"
