from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from palate.errors import DataError, ModelError, RecipeError, RewardError
from palate.lm.batch import Sequences
from palate.lm.encode import encode_responses
from palate.lm.sources.zoo import load_chat, load_scalar_model, save
from palate.recipe import Reward
from palate.records import Prompt
from palate.rewards.ensemble import EnsembleReward, aggregate
from palate.rewards.heads import NORMALIZATION_FILE, Head, Normalization, files_of, of_order, value_units
from palate.rewards.learned import LearnedReward, raw_scores
from palate.rewards.mix import Mix, RewardSource, names_of
from palate.rewards.rules import FunctionReward, LengthReward, says_something
from palate.rollout.engine import SampledTokens

PROMPTS = [Prompt.from_text(text) for text in ("a", "b", "a", "c")]
TEXTS = ["one", "two words", "three words now", ""]


def letters(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[int]:
    """Named by its import path in the tests."""
    return [len(response) for response in responses]


def constant(prompts: Sequence[Prompt], responses: Sequence[str]) -> Tensor:
    return torch.zeros(len(responses), 1)


def vowels_and_others(prompts: Sequence[Prompt], responses: Sequence[str]) -> dict[str, list[int]]:
    """The parts of `letters`."""
    vowels = [sum(letter in "aeiou" for letter in response) for response in responses]
    return {"vowels": vowels, "others": [len(text) - count for text, count in zip(responses, vowels, strict=True)]}


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """This file as a module that a recipe can name."""
    import sys
    import types

    module = types.ModuleType("my_rewards")
    module.letters, module.constant = letters, constant  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_rewards", module)


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model normalised on the four responses."""
    loaded = load_scalar_model("tiny", precision="fp32", seed=4)
    sequences = encode_responses(loaded.chat, PROMPTS, TEXTS, max_length=100).sequences
    normalization = Normalization.of(raw_scores(loaded.model, sequences, 40)[:, 0], "four responses")
    directory = tmp_path_factory.mktemp("run") / "model"
    save(loaded.model, loaded.chat, directory, extra_files={NORMALIZATION_FILE: normalization.to_json()})
    return directory


def test_normalised_scores_have_mean_zero_and_spread_one_on_their_reference_set(model_directory: Path) -> None:
    reward = LearnedReward(str(model_directory.parent), precision="fp32")
    scores = reward(PROMPTS, TEXTS)
    assert float(scores.mean()) == pytest.approx(0.0, abs=1e-4)
    assert float(scores.std(correction=0)) == pytest.approx(1.0, abs=1e-4)
    (head,) = reward.heads
    assert (head.normalization.reference, head.normalization.count) == ("four responses", 4)
    assert not any(parameter.requires_grad for parameter in reward.model.parameters())


def test_the_raw_score_is_what_transformers_computes(model_directory: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    reward = LearnedReward(str(model_directory), precision="fp32")
    network: Any = AutoModelForSequenceClassification.from_pretrained(model_directory)
    chat, norm = reward.loaded.chat, Normalization.read(model_directory)
    for prompt, text, score in zip(PROMPTS, TEXTS, reward(PROMPTS, TEXTS).tolist(), strict=True):
        tokens = torch.tensor([chat.prompt_tokens(prompt) + chat.response_tokens(text)])
        with torch.no_grad():
            raw = float(network(input_ids=tokens).logits)
        assert (raw - norm.mean) / norm.scale == pytest.approx(score, abs=1e-3)


def test_normalization_by_hand(tmp_path: Path) -> None:
    normalization = Normalization.of(torch.tensor([1.0, 3.0]), "two")
    assert normalization == Normalization(mean=2.0, scale=1.0, reference="two", count=2)
    (tmp_path / NORMALIZATION_FILE).write_text(normalization.to_json(), encoding="utf-8")
    assert Normalization.read(tmp_path) == normalization
    assert Normalization.read(tmp_path / "none") == Normalization(mean=0.0, scale=1.0)
    assert Normalization.of(torch.tensor([2.0, 2.0]), "").scale == 1.0


def test_sampled_tokens_are_scored_and_not_their_text(model_directory: Path) -> None:
    reward = LearnedReward(str(model_directory), precision="fp32")
    chat = reward.loaded.chat
    sequences = Sequences.pack(
        [chat.prompt_tokens(prompt) for prompt in PROMPTS],
        [chat.response_tokens(text) for text in TEXTS],
        group_ids=[0, 1, 0, 2],
    )
    misleading, tokens = ["other"] * 4, SampledTokens(sequences=sequences, ended=(True,) * 4)
    torch.testing.assert_close(reward(PROMPTS, misleading, tokens), reward(PROMPTS, TEXTS), atol=1e-3, rtol=1e-3)
    mix = Mix([Reward(model=str(model_directory))], precision="fp32")
    torch.testing.assert_close(mix(PROMPTS, misleading, tokens), mix(PROMPTS, TEXTS), atol=1e-3, rtol=1e-3)
    reward.model.freeze(2)
    with_trunk = replace(tokens, trunk=reward.model.trunk(sequences))
    torch.testing.assert_close(reward(PROMPTS, misleading, with_trunk), reward(PROMPTS, TEXTS), atol=1e-3, rtol=1e-3)


def test_raw_scores_come_in_the_order_of_the_sequences(model_directory: Path) -> None:
    loaded = load_scalar_model(str(model_directory), precision="fp32")
    sequences = encode_responses(loaded.chat, PROMPTS, TEXTS, max_length=100).sequences
    together = raw_scores(loaded.model, sequences, 1000)
    picked = sequences.select(torch.tensor([3, 0, 2]))
    torch.testing.assert_close(raw_scores(loaded.model, picked, 1), together[[3, 0, 2]], atol=1e-6, rtol=1e-5)


def test_a_text_that_is_too_long_for_the_reward_model(model_directory: Path) -> None:
    reward = LearnedReward(str(model_directory), precision="fp32", max_length=40)
    with pytest.raises(DataError, match=r"1 responses cannot be scored .* longer than max_length = 40 tokens"):
        reward(PROMPTS[:2], ["short", "long " * 20])


def test_a_floor_under_what_is_said() -> None:
    texts = ["", "Awkward.", "I'd love to!", "I'd love to help.", "one two three four five"]
    assert says_something([], texts) == [-1.0, -1.0, -1.0, 0.0, 0.0]
    assert FunctionReward("palate.rewards.rules:says_something")([], texts).tolist() == [-1.0, -1.0, -1.0, 0.0, 0.0]


def test_length_reward_by_hand() -> None:
    texts = ["", "a b c", "a b c d", "a  b\nc d e f g h", "x " * 23]
    assert LengthReward(3.0)([], texts).tolist() == pytest.approx([0.0, 0.0, -0.1, -0.5, -2.0])


@pytest.mark.usefixtures("importable")
def test_function_rewards() -> None:
    scores = FunctionReward("my_rewards:letters")(PROMPTS, TEXTS)
    assert scores.tolist() == [3.0, 9.0, 15.0, 0.0]
    assert scores.dtype == torch.float32
    with pytest.raises(RewardError, match=r"'my_rewards:constant' returned \[0\.0\] for response 1 of 4 \('one'\)"):
        FunctionReward("my_rewards:constant")(PROMPTS, TEXTS)


@pytest.mark.usefixtures("importable")
def test_a_function_may_say_what_its_scores_are_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    assert FunctionReward("my_rewards:letters").parts(PROMPTS, TEXTS) == {}
    monkeypatch.setattr(sys.modules["my_rewards"], "parts_of_letters", vowels_and_others, raising=False)
    parts = FunctionReward("my_rewards:letters").parts(PROMPTS, TEXTS)
    assert {name: part.tolist() for name, part in parts.items()} == {
        "vowels": [2.0, 2.0, 4.0, 0.0],
        "others": [1.0, 7.0, 11.0, 0.0],
    }
    weighted = Mix([Reward(function="my_rewards:letters", weight=-2.0)]).parts(PROMPTS, TEXTS)
    assert weighted["vowels"].tolist() == [-4.0, -4.0, -8.0, 0.0]
    assert Mix([Reward(function="my_rewards:letters"), Reward(length=1.0)]).parts(PROMPTS, TEXTS) == {}
    assert Mix([Reward(length=1.0)]).parts(PROMPTS, TEXTS) == {}


@pytest.mark.usefixtures("importable")
def test_parts_may_miss_the_score_by_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    rounded = {"all": [3.0002, 9.0005, 14.999, 0.00005]}  # of 3, 9, 15 and 0
    monkeypatch.setattr(sys.modules["my_rewards"], "parts_of_letters", lambda prompts, texts: rounded, raising=False)
    assert list(FunctionReward("my_rewards:letters").parts(PROMPTS, TEXTS)) == ["all"]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            lambda prompts, texts: {"half": [1.5, 4.5, 7.5, 9.0]},
            "response 1 of 4 add up to 1.5000, its score is 3.0000",
        ),
        (lambda prompts, texts: [3.0] * 4, "returned list, not parts by name"),
        (lambda prompts, texts: {}, "returned dict, not parts by name"),
        (lambda prompts, texts: {"all": [3.0]}, "'all' returned 1 scores for 4 responses"),
        (lambda prompts, texts: {"all": [0.0 / len(text) for text in texts]}, "raised ZeroDivisionError"),
    ],
)
@pytest.mark.usefixtures("importable")
def test_parts_that_are_none(parts: Any, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setattr(sys.modules["my_rewards"], "parts_of_letters", parts, raising=False)
    reward = FunctionReward("my_rewards:letters")
    with pytest.raises(RewardError, match=said) as caught:
        reward.parts(PROMPTS, TEXTS)
    assert "parts_of_letters" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "reference", ["nonsense", "my_rewards", "no_such_module:f", "json:no_such_name", ":", "a:", ""]
)
@pytest.mark.usefixtures("importable")
def test_functions_that_are_not_there(reference: str) -> None:
    with pytest.raises(RecipeError) as caught:
        FunctionReward(reference)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("importable")
def test_a_mix_is_the_weighted_sum(model_directory: Path) -> None:
    terms = [
        Reward(model=str(model_directory), weight=2.0),
        Reward(function="my_rewards:letters", weight=-0.5),
        Reward(length=1.0),
    ]
    mix = Mix(terms, precision="fp32")
    learned = LearnedReward(str(model_directory), precision="fp32")(PROMPTS, TEXTS)
    letters, words = torch.tensor([3.0, 9.0, 15.0, 0.0]), torch.tensor([0.0, -0.1, -0.2, 0.0])
    torch.testing.assert_close(mix(PROMPTS, TEXTS), 2.0 * learned - 0.5 * letters + words)
    assert [type(source) for source in mix.sources] == [EnsembleReward, FunctionReward, LengthReward]
    assert isinstance(mix.sources[0], EnsembleReward)
    assert mix.learned == list(mix.sources[0].models.values())


def test_terms_are_called_after_what_they_are_and_numbered_where_alike() -> None:
    terms = [
        Reward(model="runs/helpful"),
        Reward(model="elsewhere/helpful/model"),
        Reward(model="runs/helpful", objective="kind"),
        Reward(function="checks:mentions_source"),
        Reward(length=9.0),
    ]
    assert names_of(terms) == ["helpful_1", "helpful_2", "kind", "mentions_source", "length"]


def test_responses_laid_out_otherwise_are_scored_by_their_words(model_directory: Path) -> None:
    """What was cut off gets no stop token that nobody drew."""
    reward = LearnedReward(str(model_directory), precision="fp32")
    chat = reward.loaded.chat
    strange = Sequences.pack([[5, 6]] * 4, [[7], [8], [9], [10]])
    known = SampledTokens(sequences=strange, ended=(True, False, True, True), layout=chat.fingerprint)
    assert reward(PROMPTS, TEXTS, known).tolist() != pytest.approx(reward(PROMPTS, TEXTS).tolist(), abs=1e-3)
    scores = reward(PROMPTS, TEXTS, replace(known, layout="another"))
    expected = reward(PROMPTS, TEXTS)
    assert scores[[0, 2, 3]].tolist() == pytest.approx(expected[[0, 2, 3]].tolist(), abs=1e-3)
    cut_off = Sequences.pack([chat.prompt_tokens(PROMPTS[1])], [chat.response_tokens(TEXTS[1])[:-1]])
    assert float(scores[1]) == pytest.approx(float(reward.score(cut_off, None)[0]), abs=1e-3)


def test_reading_like_is_having_been_trained_on_the_same_layout(model_directory: Path) -> None:
    reward = LearnedReward(str(model_directory), precision="fp32")
    assert reward.reads_like(load_chat("tiny"))
    assert not reward.reads_like(load_chat("tiny", chat_template="zephyr"))


def passes(reward: LearnedReward, monkeypatch: pytest.MonkeyPatch, by: RewardSource | None = None) -> list[int]:
    """Sequences in each of the passes in which the responses are scored, by itself or by what it is in."""
    sizes: list[int] = []
    scores = reward.model.scores

    def counted(part: Sequences, **keywords: Any) -> Tensor:
        sizes.append(len(part))
        return scores(part, **keywords)

    monkeypatch.setattr(reward.model, "scores", counted)
    (by or reward)(PROMPTS, TEXTS)
    return sizes


@pytest.mark.parametrize(("max_tokens", "sizes"), [(1, [1, 1, 1, 1]), (4096, [4])])
def test_precision_and_the_size_of_a_pass_reach_the_model(
    model_directory: Path, monkeypatch: pytest.MonkeyPatch, max_tokens: int, sizes: list[int]
) -> None:
    """By whichever door a model comes in."""
    term = Reward(model=str(model_directory))
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        settings: Any = {"precision": precision, "max_tokens": max_tokens}
        for reward in (LearnedReward(str(model_directory), **settings), *Mix([term], **settings).learned):
            assert reward.model.model.dtype == dtype
            if precision == "fp32":
                assert passes(reward, monkeypatch) == sizes


def test_scores_carry_no_gradient_even_of_a_model_that_learns(model_directory: Path) -> None:
    model = load_scalar_model(str(model_directory), precision="fp32").model
    sequences = Sequences.pack([[5, 6]], [[7, 2]])
    assert model.scores(sequences).requires_grad
    assert not raw_scores(model, sequences, 100).requires_grad


@pytest.mark.usefixtures("importable")
def test_a_function_is_given_the_prompts_and_the_responses(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    given: list[Any] = []

    def judge(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        given.append((list(prompts), list(responses)))
        return [1.0] * len(responses)

    monkeypatch.setattr(sys.modules["my_rewards"], "judge", judge, raising=False)
    FunctionReward("my_rewards:judge")(PROMPTS, TEXTS)
    Mix([Reward(function="my_rewards:judge")])(PROMPTS, TEXTS)
    assert given == [(PROMPTS, TEXTS)] * 2


def test_the_normalization_file_is_read_by_people_too() -> None:
    text = Normalization(mean=0.5, scale=2.0, reference="train", count=3).to_json()
    assert text == '{\n  "mean": 0.5,\n  "scale": 2.0,\n  "reference": "train",\n  "count": 3\n}\n'


# Several heads, and several models.

UNITS = [Normalization(mean=0.1, scale=0.5), Normalization(mean=-0.2, scale=2.0)]
HEADS = [
    *(Head(objective="good", normalization=unit) for unit in UNITS),
    *2 * [Head(objective="made_up", flag="hallucination")],
]


@pytest.fixture(scope="module")
def four_heads(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two heads for what is good and two for a flag, large enough to differ."""
    loaded = load_scalar_model("tiny", precision="fp32", heads=4)
    with torch.no_grad():
        loaded.model.score.weight *= 20
    directory = tmp_path_factory.mktemp("four") / "model"
    save(loaded.model, loaded.chat, directory, extra_files=files_of(HEADS))
    return str(directory)


def test_each_head_is_in_its_own_units_and_a_flag_is_minus_its_probability(four_heads: str) -> None:
    reward = LearnedReward(four_heads, precision="fp32")
    assert reward.heads == tuple(HEADS)
    sequences = encode_responses(reward.loaded.chat, PROMPTS, TEXTS, max_length=100).sequences
    raw, found = raw_scores(reward.model, sequences, 100), reward.by_head(PROMPTS, TEXTS)
    torch.testing.assert_close(found[:, 0], (raw[:, 0] - 0.1) / 0.5)
    torch.testing.assert_close(found[:, 1], (raw[:, 1] + 0.2) / 2.0)
    torch.testing.assert_close(found[:, 2:], -1 / (1 + (-raw[:, 2:]).exp()))


@pytest.mark.usefixtures("importable")
def test_a_mix_adds_up_objectives_and_fines_flags_in_one_pass(
    four_heads: str, model_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = [
        Reward(model=four_heads, objective="good", weight=-2.0, aggregation="min"),
        Reward(model=four_heads, objective="made_up", weight=3.0),
        Reward(model=str(model_directory)),
        Reward(length=1.0),
    ]
    mix = Mix(terms, precision="fp32")
    heads, alone = LearnedReward(four_heads, precision="fp32").by_head(PROMPTS, TEXTS), mix.learned[1](PROMPTS, TEXTS)
    expected = {
        "good": -2.0 * heads[:, :2].amin(1),
        "made_up": 3.0 * heads[:, 2:].mean(1),
        model_directory.parent.name: alone,
        "length": torch.tensor([0.0, -0.1, -0.2, 0.0]),
    }
    counted = passes(mix.learned[0], monkeypatch, mix)
    assert counted == [4], "a model that two terms name is computed once"
    found = mix.scored(PROMPTS, TEXTS)
    assert list(found.terms) == list(expected)
    for name, values in expected.items():
        torch.testing.assert_close(found.terms[name], values, msg=name)
    torch.testing.assert_close(found.total, sum(expected.values()))
    assert found.spread is not None
    spread = 2.0 * heads[:, :2].std(1, correction=0) + 3.0 * heads[:, 2:].std(1, correction=0)
    torch.testing.assert_close(found.spread, spread)
    assert len(mix.learned) == 2
    assert Mix([Reward(model=str(model_directory))], precision="fp32").scored(PROMPTS, TEXTS).spread is None


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("mean", [3.0, 2.0]),
        ("min", [1.0, 2.0]),
        ("mean_minus_std", [3.0 - 0.5 * 2.0, 2.0]),
        ("mean_minus_variance", [3.0 - 0.5 * 4.0, 2.0]),
    ],
)
def test_what_a_recipe_calls_an_aggregation(aggregation: str, expected: list[float]) -> None:
    scores = torch.tensor([[1.0, 5.0], [2.0, 2.0]])
    assert aggregate(aggregation, 0.5)(scores).tolist() == expected


def test_every_model_settles_once_before_it_is_on_its_device(four_heads: str, model_directory: Path) -> None:
    terms = [
        Reward(model=four_heads, objective="good"),
        Reward(model=str(model_directory)),
        Reward(model=four_heads, objective="made_up"),
    ]
    settled: list[Any] = []
    mix = Mix(terms, precision="fp32", settle=settled.append)
    assert [id(model) for model in settled] == [id(reward.model) for reward in mix.learned]
    assert [reward.loaded.name for reward in mix.learned] == [four_heads, str(model_directory)]


def test_several_models_are_one_ensemble(model_directory: Path, tmp_path: Path) -> None:
    other = load_scalar_model("tiny", precision="fp32", seed=8)
    save(other.model, other.chat, tmp_path / "other")
    names = (str(model_directory), str(tmp_path / "other"))
    each = torch.stack([LearnedReward(name, precision="fp32")(PROMPTS, TEXTS) for name in names])
    cautious = Reward(ensemble=names, aggregation="mean_minus_std", uncertainty_coef=0.5)
    mix = Mix([cautious], precision="fp32")
    torch.testing.assert_close(mix(PROMPTS, TEXTS), each.mean(0) - 0.5 * each.std(0, correction=0))
    found = Mix([Reward(ensemble=names)], precision="fp32").scored(PROMPTS, TEXTS)
    torch.testing.assert_close(found.total, each.mean(0))
    assert found.spread is not None
    torch.testing.assert_close(found.spread, each.std(0, correction=0))


def test_what_does_not_fit_together_is_said(four_heads: str, model_directory: Path, tmp_path: Path) -> None:
    plain = str(model_directory)
    for term, why in (
        ({"model": four_heads}, "several objectives: choose with objective one of good, made_up"),
        ({"model": four_heads, "objective": "bad"}, "has no objective 'bad', but good, made_up"),
        ({"model": plain, "aggregation": "min"}, "aggregation = 'min' is for ensembles, and .* has one head"),
    ):
        with pytest.raises(RecipeError, match=why):
            Mix([Reward.model_validate(term)], precision="fp32")
    for term, why in (
        ({"length": 1.0, "objective": "good"}, "belong to a model"),
        ({"function": "a:b", "aggregation": "min"}, "belong to a model"),
        ({"ensemble": [plain, plain]}, "its heads would count double"),
        ({"model": plain, "ensemble": [plain]}, "exactly one of model, ensemble"),
    ):
        with pytest.raises(ValidationError, match=why):
            Reward.model_validate(term)
    loaded = load_scalar_model("tiny", precision="fp32", heads=1)
    save(loaded.model, loaded.chat, tmp_path / "flag", extra_files=files_of([Head(objective="good", flag="x")]))
    mixed = Reward(ensemble=(four_heads, str(tmp_path / "flag")), objective="good")
    with pytest.raises(RecipeError, match="a flag in one and a score in another"):
        Mix([mixed], precision="fp32")
    loaded = load_scalar_model("tiny", precision="fp32", heads=2)
    for files, why in (
        ({}, "gives 2 numbers, and no heads.json says what they are"),
        (files_of([Head(), Head(), Head()]), "gives 2 numbers, and heads.json speaks of 3"),
        ({"heads.json": "[{"}, "cannot be read"),
        ({"heads.json": '[{"objective": "x"}]'}, "cannot be read"),
    ):
        save(loaded.model, loaded.chat, tmp_path / "model", extra_files=files)
        with pytest.raises(ModelError, match=why):
            LearnedReward(str(tmp_path / "model"), precision="fp32")


def test_one_head_that_learned_an_order_has_the_plain_file_and_others_say_what_they_are() -> None:
    unit = Normalization(mean=0.5, scale=2.0, reference="train", count=3)
    assert files_of([Head(normalization=unit)]) == {NORMALIZATION_FILE: unit.to_json()}
    assert list(files_of([Head(), Head()])) == ["heads.json"]
    assert list(files_of([Head(objective="kind")])) == ["heads.json"]
    assert list(files_of([Head(thresholds=(1.0, 2.0))])) == ["heads.json"]


def test_a_value_model_starts_from_the_heads_that_give_scores() -> None:
    assert value_units(HEADS) == {0: (0.1, 0.5), 1: (-0.2, 2.0)}
    assert value_units(HEADS[2:]) == {0: (0.0, -1.0), 1: (0.0, -1.0)}


def test_the_order_is_told_by_the_first_objective_that_gives_scores() -> None:
    """By all heads, where there are only flags."""
    assert of_order(HEADS) == [0, 1]
    assert of_order([HEADS[2], HEADS[0], Head(objective="other"), HEADS[1]]) == [1, 3]
    assert of_order([*HEADS[2:], Head(objective="rude", flag="rude")]) == [0, 1, 2]
