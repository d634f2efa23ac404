"""Rows of the recipes that draw responses and train nothing: sampling and best of n."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tests.stages.effects import judges
from tests.stages.effects.reinforcement import decodes_side_by_side, draws_at_most
from tests.stages.effects.rows import Effect, Row, under
from tests.stages.effects.runs import Outcome
from tests.stages.effects.scoring import learned_terms, scores_of, verifying
from tests.stages.effects.shared import close, data, multiplies_in, refused
from torch import Tensor

from palate.lm.sources.zoo import load_chat, load_language_model
from palate.rollout.engine import Rollout

LOWER_CASE, CHARACTERS, BREVITY = (f"{judges.__name__}:{name}" for name in ("lower_case", "characters", "brevity"))


def sample() -> list[Row]:
    """Keys of sampling."""
    return [
        *drawing(),
        Row("model", ("$model", "tiny"), says_whose_they_are),
        Row("responses_per_prompt", (2, 3), draws_so_many),
    ]


def best_of_n() -> list[Row]:
    """Keys of best of n."""
    no_function = {"rewards.0.function": None}
    rewards = [
        Row("model", ("$scorer", "$calibrated"), picks_the_best, {"rewards.0.function": None}),
        Row("function", (LOWER_CASE, CHARACTERS), picks_the_best),
        Row("length", (0.5, 1.5), picks_the_best, no_function),
        Row("weight", (1.0, -2.0), picks_the_best),
        verifying(picks_the_best, no_function),
        *learned_terms(picks_the_best, "rewards.0."),
    ]
    return [
        *drawing({"rewards.0.model": "$scorer", "rewards.0.function": None}),
        *under("rewards.0", rewards),
        Row("n", (2, 3), draws_so_many),
        Row("microbatch_tokens", (4096, 160), scores_in_parts, {"rewards.0.model": "$scorer"} | no_function),
    ]


def drawing(given: Mapping[str, Any] | None = None) -> list[Row]:
    """Keys of every stage that only draws; ``given`` for a stage that has other models too."""
    return [
        Row("stage", (None, "nonsense"), refused("'stage'")),
        Row("seed", (0, 1), draws_anew),
        Row("model", ("$model", "tiny"), draws_from(0, "model")),
        Row("chat_template", ("", "plain"), lays_out(0)),
        Row("precision", ("fp32", "bf16"), multiplies_in, given or {}),
        *under("prompts", data("prompts", "prompts")),
        Row(
            "max_left_out",
            (0.5, 0.05),
            refused("more than max_left_out = 0.05 allows"),
            {"prompts.path": "$long_prompts"},
        ),
        Row("sampling.temperature", (0.7, 1.4), draws_at),
        Row("sampling.max_new_tokens", (3, 6), draws_at_most),
        Row("sampling.num_slots", (1, 64), decodes_side_by_side),
        Row("engine.kind", ("local", "elsewhere"), refused("engine.kind")),
    ]


def draws_anew(a: Outcome, b: Outcome) -> None:
    """Other responses to the same prompts."""
    for one, other in zip(a.rollouts, b.rollouts, strict=True):
        assert one.prompts == other.prompts
        same = [first == second for first, second in zip(one.texts, other.texts, strict=True)]
        assert sum(same) < 0.2 * len(same)


def logprobs(rollout: Rollout, model: str, temperature: float) -> Tensor:
    """[B, T] of the tokens that were drawn, under a model."""
    with torch.no_grad():
        network = load_language_model(model, precision="fp32").model
        return network.logprobs(rollout.sequences, temperature=temperature)


def draws_from(place: int, key: str) -> Effect:
    """The rollout at this place is from the model that the key names."""

    def effect(a: Outcome, b: Outcome) -> None:
        for outcome, other in ((a, b), (b, a)):
            rollout = outcome.rollouts[place]
            named, not_named = (getattr(each.recipe, key) for each in (outcome, other))
            assert close(rollout.logprobs, logprobs(rollout, named, rollout.temperature))
            assert not close(rollout.logprobs, logprobs(rollout, not_named, rollout.temperature))

    return effect


def says_whose_they_are(a: Outcome, b: Outcome) -> None:
    """With every response."""
    for outcome in (a, b):
        made = [each["provenance"] for line in outcome.lines("candidates.jsonl") for each in line["responses"]]
        assert {each["model"] for each in made} == {outcome.recipe.model}
        assert {each["checkpoint"] for each in made} == {load_language_model(outcome.recipe.model).weights}


def lays_out(place: int) -> Effect:
    """The rollout at this place begins with the prompt as the template has it."""

    def effect(a: Outcome, b: Outcome) -> None:
        for outcome, template in ((a, ""), (b, "plain")):
            chat, rollout = load_chat("tiny", chat_template=template), outcome.rollouts[place]
            assert rollout.layout == chat.fingerprint
            for prompt, tokens in zip(rollout.prompts, rollout.sequences.tokens.tolist(), strict=True):
                opened = chat.prompt_tokens(prompt)
                assert tokens[: len(opened)] == opened

    return effect


def draws_at(a: Outcome, b: Outcome) -> None:
    """The higher the temperature, the less certain of each token."""
    for outcome, temperature in ((a, 0.7), (b, 1.4)):
        for rollout in outcome.rollouts:
            assert rollout.temperature == temperature
        rollout = outcome.rollouts[0]
        assert close(rollout.logprobs, logprobs(rollout, outcome.recipe.model, temperature))
    surprise = [
        -float(outcome.rollouts[0].logprobs.sum() / outcome.rollouts[0].sequences.mask.sum()) for outcome in (a, b)
    ]
    assert surprise[0] < surprise[1]


def draws_so_many(a: Outcome, b: Outcome) -> None:
    """To every prompt."""
    for outcome, count in ((a, 2), (b, 3)):
        for rollout in outcome.rollouts:
            sizes = torch.unique(rollout.sequences.group_ids, return_counts=True)[1]
            assert set(sizes.tolist()) == {count}


def scores_in_parts(a: Outcome, b: Outcome) -> None:
    """Smaller forward passes, and the same numbers."""
    for outcome in (a, b):
        limit = outcome.recipe.microbatch_tokens
        assert all(tokens <= limit or count == 1 for tokens, count in outcome.passes)
    assert len(b.passes) > len(a.passes)
    for name in {"score", "win_rate", "kl"} & a.report.keys():
        assert close(a.report[name], b.report[name])


def picks_the_best(a: Outcome, b: Outcome) -> None:
    for outcome in (a, b):
        rollout, n = outcome.rollouts[0], outcome.recipe.n
        scores = scores_of(outcome.recipe.rewards[0], rollout).view(-1, n)
        best = [rollout.texts[row * n + int(place)] for row, place in enumerate(scores.argmax(1))]
        assert [line["response"]["text"] for line in outcome.lines("responses.jsonl")] == best
        assert close(outcome.report["score"], scores.amax(1).mean())
    assert not close(a.report["score"], b.report["score"])
