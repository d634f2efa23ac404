"""What is measured of a policy, key by key of what it is measured by, and what of a run's cost is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.experiments.conftest import HELD_OUT

from palate.errors import DataError
from palate.evals.winrate import length_controlled
from palate.experiments import measuring
from palate.experiments.followed import TokenCount
from palate.experiments.measuring import Measure, Point
from palate.lm.batch import Sequences
from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import Loaded, load_chat, load_language_model
from palate.recipe import CompareRecipe, parse_recipe
from palate.records import Prompt
from palate.rewards.mix import Mix
from palate.rollout.local import LocalEngine
from palate.run.directory import Run
from palate.stages.evaluate import Answers, answers
from palate.words import count_words


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
    assert 0.9 < np.mean(found.truncated) <= 1
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


def test_a_pool_by_hand(evaluation: dict[str, Any], tmp_path: Path) -> None:
    """Of every response how likely the baseline was to give it, and how long it is."""
    _, measure = measured(evaluation, tmp_path / "run", seed=1)
    pool = measure.pool(5, {}, 3)
    drawn = drawn_by(measure, measure.baseline, 3, "best_of_n 5")
    policy, sequences = measure.baseline.model, drawn.rollout.sequences
    temperature = measure.recipe.sampling.temperature
    with torch.no_grad():
        alone = [
            policy.logprobs(sequences.select(torch.tensor([row])), temperature=temperature).sum()
            for row in range(len(sequences))
        ]
    assert pool.logprob.flatten() == pytest.approx(torch.stack(alone).numpy(), rel=1e-4)
    assert pool.logprob.shape == (HELD_OUT, 3)
    assert pool.words.flatten().tolist() == [count_words(text) for text in drawn.rollout.texts]


def drawn_by(measure: Measure, loaded: Loaded[LanguageModel], count: int, purpose: str) -> Answers:
    return answers(
        loaded,
        measure.prompts,
        measure.judge,
        measure.recipe.sampling,
        num_responses=count,
        seed=measure.recipe.seed,
        purpose=purpose,
    )


def test_the_baselines_own_answers_follow_the_seed_and_are_as_many_as_the_policys(
    evaluation: dict[str, Any], tmp_path: Path
) -> None:
    scores, pools = [], []
    for seed in (0, 1):
        _, measure = measured(evaluation, tmp_path / str(seed), seed=seed, responses_per_prompt=3)
        own = drawn_by(measure, measure.baseline, 3, "evaluation")
        assert np.array_equal(measure.scores, own.scores)
        assert measure.words is not None
        assert np.array_equal(measure.words, own.num_words())
        scores.append(measure.scores)
        pools.append(measure.pool(0, {}, 2).judge)
    assert scores[0].shape == scores[1].shape == (HELD_OUT, 3)
    assert not np.array_equal(*scores)
    assert not np.array_equal(*pools), "a pool follows the seed of the evaluation too"


def test_the_win_rate_at_equal_length_is_of_these_answers(
    evaluation: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its resamples are of the evaluation's seed, of which six prompts are too few to show anything."""
    seeds: list[int] = []

    def controlled(*args: Any, seed: int) -> Any:
        seeds.append(seed)
        return length_controlled(*args, seed=seed)

    monkeypatch.setattr(measuring, "length_controlled", controlled)
    found, measure = measured(evaluation, tmp_path / "run", seed=4)
    policy = load_language_model("tiny", precision="fp32")
    with torch.no_grad():
        policy.model.model.upper(0)[-1].mlp.down_proj.weight.mul_(3)
    ours = drawn_by(measure, policy, 2, "evaluation")
    assert measure.words is not None
    told = length_controlled(ours.scores, measure.scores, ours.num_words(), measure.words, seed=4)
    assert found.at_equal_length == (told.value, told.low, told.high)
    assert seeds == [4]


def test_the_baselines_answers_are_drawn_once(
    evaluation: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a file from before lengths were kept beside scores still does, without what lengths are needed for."""
    _, measure = measured(evaluation, tmp_path / "run")
    drawn: list[int] = []
    generate = LocalEngine.generate
    monkeypatch.setattr(LocalEngine, "generate", lambda *args, **more: drawn.append(1) or generate(*args, **more))
    policy, file = load_language_model("tiny", precision="fp32"), tmp_path / "run" / "scores.json"
    again = Measure(measure.recipe, measure.run, file)
    assert not drawn
    assert np.array_equal(again.scores, measure.scores)
    assert again.point(policy, None).at_equal_length[0] == pytest.approx(0.5)
    file.write_text(json.dumps(measure.scores.tolist()), encoding="utf-8")
    older = Measure(measure.recipe, measure.run, file)
    found = older.point(policy, None)
    assert np.array_equal(older.scores, measure.scores)
    assert found.at_equal_length == ()
    assert found.won == pytest.approx([0.5] * HELD_OUT)
    found.write(tmp_path / "points" / "old.json")
    assert Point.read(tmp_path / "points" / "old.json") == found


def test_measuring_is_repeatable_and_learns_nothing(evaluation: dict[str, Any], tmp_path: Path) -> None:
    torch.use_deterministic_algorithms(False)
    _, measure = measured(evaluation, tmp_path / "run")
    assert torch.are_deterministic_algorithms_enabled()
    assert not any(weight.requires_grad for weight in measure.baseline.model.parameters())


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_models_that_judge_multiply_in_the_precision_of_the_evaluation(
    precision: str, dtype: torch.dtype, evaluation: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judge, and a reward, which is loaded only when it is needed."""
    met: list[Mix] = []
    begin = Mix.__init__

    def begins(self: Mix, *args: Any, **more: Any) -> None:
        begin(self, *args, **more)
        met.append(self)

    monkeypatch.setattr(Mix, "__init__", begins)
    changes = {"precision": precision, "judge": {"model": "tiny"}}
    _, measure = measured(evaluation, tmp_path / "run", **changes)
    found = measure.point(load_language_model("tiny", precision=precision), (measure.recipe.judge,))
    assert found.reward == pytest.approx(found.judge, rel=1e-5, abs=1e-6)
    assert [source.model.model.dtype for mix in met for source in mix.learned] == [dtype, dtype]


def test_what_was_read_is_known_by_its_hash_and_must_stay(evaluation: dict[str, Any], tmp_path: Path) -> None:
    """Prompts, baseline, judge and rewards; a comparison that goes on with others would compare nothing."""
    _, measure = measured(evaluation, tmp_path / "run", judge={"model": "tiny"})
    measure.point(measure.baseline, (measure.recipe.judge,))
    inputs = json.loads((tmp_path / "run" / "lineage.json").read_text(encoding="utf-8"))["inputs"]
    assert inputs.keys() >= {"held-out prompts", "baseline tiny", "judge tiny", "reward tiny"}
    assert inputs["held-out prompts"].keys() == {evaluation["prompts"]["path"]}
    assert len(set(map(str, inputs.values()))) >= 2
    assert all(inputs.values())


def test_a_prompt_must_leave_room_for_a_whole_answer(evaluation: dict[str, Any], tmp_path: Path) -> None:
    """As long as the evaluation's own sampling may make it, which is more than answers are by default."""
    path, chat = Path(evaluation["prompts"]["path"]), load_chat("tiny")
    context = load_language_model("tiny", precision="fp32").model.context
    words = 1
    while len(chat.prompt_tokens(Prompt.from_text("a " * words))) < context - 150:
        words += 25
    path.write_text(Prompt.from_text("a " * words).to_json() + "\n" + path.read_text("utf-8"), encoding="utf-8")
    with pytest.raises(DataError, match="max_new_tokens"):
        measured(evaluation, tmp_path / "run", sampling={"max_new_tokens": 200})


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
