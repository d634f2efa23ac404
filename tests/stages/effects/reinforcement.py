"""Rows of the recipes that sample, score and learn from the score."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from tests.stages.effects import by_hand, judges
from tests.stages.effects.by_hand import gae, whitened
from tests.stages.effects.rows import Effect, Row, under
from tests.stages.effects.runs import Outcome
from tests.stages.effects.scoring import learned_terms, members_of, scores_of, verifying
from tests.stages.effects.shared import close, data, every, optimizer, refused, training

from palate.lm.sources.zoo import load_chat, load_language_model, load_scalar_model
from palate.recipe import Reward
from palate.rewards.heads import Normalization
from palate.rollout.engine import Rollout
from palate.words import count_words

LEARNED = {"rewards.0.function": None, "rewards.0.model": "$scorer"}
"""A reward model instead of a function."""


def rl() -> list[Row]:
    """Keys of both stages."""
    return [
        *every("prompts", "prompts", more_models=LEARNED),
        *training({"steps": 4}, without_scale={"optimizer.epsilon": 1e-2}, reads="prompts"),
        Row("seed", (0, 1), draws_anew, {"prompts_per_step": 12, "steps": 1}),
        Row("seeds.order", (None, 1), asks_in_another_order, {"prompts_per_step": 12, "steps": 1}),
        Row("seeds.sampling", (None, 1), says_something_else, {"prompts_per_step": 12, "steps": 1}),
        Row("max_length", (1024, 160), leaves_out_long_prompts, {"max_left_out": 0.5}),
        Row("max_left_out", (0.5, 0.1), refused("more than max_left_out = 0.1 allows"), {"max_length": 160}),
        *under("rewards", rewards()),
        Row("steps", (2, 3), makes_so_many_steps),
        Row("prompts_per_step", (2, 3), draws_for_so_many_prompts),
        Row("responses_per_prompt", (2, 3), draws_so_many),
        Row("truncation_score", (None, -7.0), scores_what_was_cut_off),
        Row("kl_coef", (0.05, 0.5), pays_for_divergence),
        Row("one_step_ahead", (False, True), learns_from_the_step_before, {"steps": 3, "minibatches": 1, "epochs": 1}),
        Row("reference", ("", "$teacher"), is_held_against),
        Row("epochs", (1, 2), updates_so_often),
        Row("minibatches", (1, 3), updates_so_often, {"epochs": 2}),
        Row(
            "max_negative_kl",
            (0.5, 0.001),
            refused("step 2: the KL"),
            {"steps": 3, "optimizer.learning_rate": 1e-9},
            seems_less_likely,
        ),
        Row("min_entropy", (0.02, 100.0), refused("step 2: the policy's entropy"), {"steps": 3}),
        *under("sampling", sampling()),
        Row("engine.kind", ("local", "elsewhere"), refused("engine.kind")),
        *under("overoptimization", overoptimization()),
        *optimizer("optimizer", "policy", {}),
    ]


def overoptimization() -> list[Row]:
    """Keys of the section that looks for its signs."""
    looks = {"steps": 4, "overoptimization.every": 2}
    return [
        Row("held_out", (["$scorer"], ["$calibrated"]), asks_what_is_held_out),
        Row("max_distance", (1e-9, 100.0), warns([True, False]), looks),
        Row("every", (2, 3), warns_after_a_block, {"steps": 6, "overoptimization.max_distance": 1e-9}),
        Row("sureness", (1e-9, 1e9), warns([True, False]), looks | OPPOSED),
    ]


OPPOSED = {
    "rewards.0.function": None,
    "rewards.0.model": "$scorer",
    "rewards.0.weight": -1.0,
    "overoptimization.held_out": ["$calibrated"],
    "optimizer.learning_rate": 3e-2,
    "steps": 8,
}
"""The policy learns the opposite of what is held out, so that what it gains there is lost here."""


def asks_what_is_held_out(a: Outcome, b: Outcome) -> None:
    """By its own score, which changes nothing of what is learned."""
    for outcome in (a, b):
        (name,) = outcome.recipe.overoptimization.held_out
        for row, rollout in zip(outcome.metrics, outcome.rollouts, strict=True):
            assert close(row["overoptimization/held_out"], scores_of(Reward(model=name), rollout).mean())
            assert row["overoptimization/held_out"] != row["objective/score"]
    assert torch.equal(a.updates["policy"][-1].after, b.updates["policy"][-1].after)


def warns(expected: list[bool]) -> Effect:
    """Of each run whether it does; one that does keeps nothing more."""

    def effect(a: Outcome, b: Outcome) -> None:
        assert [bool(outcome.column("overoptimization/passed")[-1]) for outcome in (a, b)] == expected
        assert [outcome.report["peak_passed_at"] is not None for outcome in (a, b)] == expected

    return effect


def warns_after_a_block(a: Outcome, b: Outcome) -> None:
    for outcome in (a, b):
        first = outcome.column("overoptimization/passed").index(1.0)
        assert (first + 1) % outcome.recipe.overoptimization.every == 0
        assert outcome.report["peak_passed_at"] == first + 1
    assert a.report["peak_passed_at"] != b.report["peak_passed_at"]


def said_first(outcome: Outcome) -> dict[str, list[str]]:
    """The responses of the first rollout, by prompt."""
    rollout = outcome.rollouts[0]
    texts: dict[str, list[str]] = {}
    for prompt, text in zip(rollout.prompts, rollout.texts, strict=True):
        texts.setdefault(prompt.id, []).append(text)
    return texts


def asks_in_another_order(a: Outcome, b: Outcome) -> None:
    """The same prompts, and the same responses to each."""
    first, second = said_first(a), said_first(b)
    assert first == second
    assert list(first) != list(second)


def says_something_else(a: Outcome, b: Outcome) -> None:
    """Of the same prompts in the same order."""
    first, second = said_first(a), said_first(b)
    assert list(first) == list(second)
    assert all(first[prompt] != second[prompt] for prompt in first)


def draws_anew(a: Outcome, b: Outcome) -> None:
    """The same prompts in another order, and other responses to each."""
    said = [said_first(outcome) for outcome in (a, b)]
    assert set(said[0]) == set(said[1])
    assert list(said[0]) != list(said[1])
    assert all(said[0][prompt] != said[1][prompt] for prompt in said[0])


def learns_from_the_step_before(a: Outcome, b: Outcome) -> None:
    """The first two steps' responses are drawn by the model as it was; the second step learns from stale ones."""
    assert [row.get("sampler/staleness") for row in a.metrics] == [None] * 3
    assert [row.get("sampler/staleness") for row in b.metrics] == [None, 1.0, 1.0]
    assert len(b.rollouts) == 3
    for one, other in zip(a.rollouts[0].texts, b.rollouts[0].texts, strict=True):
        assert one == other
    assert [prompt.id for prompt in a.rollouts[1].prompts] == [prompt.id for prompt in b.rollouts[1].prompts]
    first = load_language_model(b.recipe.model, precision="fp32")
    for rollout in b.rollouts[:2]:
        with torch.no_grad():
            known = first.model.logprobs(rollout.sequences, temperature=rollout.temperature)
        assert close(known, rollout.logprobs)
    assert a.metrics[1]["objective/kl"] != b.metrics[1]["objective/kl"]


def leaves_out_long_prompts(a: Outcome, b: Outcome) -> None:
    """Those that leave no room for a response."""
    for outcome, expected in ((a, 0), (b, 2)):
        chat, room = load_chat(outcome.recipe.model), outcome.recipe.max_length - outcome.recipe.sampling.max_new_tokens
        lengths = [len(chat.prompt_tokens(prompt)) for prompt in outcome.read["prompts"].records]
        assert sum(length > room for length in lengths) == outcome.report["left_out"] == expected


def seems_less_likely(rollout: Rollout) -> Rollout:
    """Every token a little less likely than it was."""
    return replace(rollout, logprobs=torch.where(rollout.sequences.mask, rollout.logprobs - 0.002, 0.0))


# Rewards.


def rewards() -> list[Row]:
    """Keys of one term of the reward."""
    function = "tests.stages.effects.judges:"
    none = {"rewards.0.function": None}
    return [
        Row("0.model", ("$scorer", "$calibrated"), in_its_units, none),
        Row("0.function", (function + "lower_case", function + "characters"), asks_the_function),
        Row("0.length", (0.5, 1.5), counts_words, none),
        Row("0.weight", (1.0, -2.0), weighs),
        replace(row := verifying(verifies, none), key=f"0.{row.key}"),
        *[replace(row, key=f"0.{row.key}") for row in learned_terms(scores_by_it, "rewards.0.")],
    ]


def in_its_units(a: Outcome, b: Outcome) -> None:
    """One rollout, scored by one network in two units."""
    assert close(b.metrics[0]["objective/score"], (a.metrics[0]["objective/score"] - 0.3) / 0.5)


def scores_by_it(a: Outcome, b: Outcome) -> None:
    for outcome in (a, b):
        for row, rollout in zip(outcome.metrics, outcome.rollouts, strict=True):
            assert close(row["objective/score"], scores_of(outcome.recipe.rewards[0], rollout).mean())
            assert close(row["objective/spread"], members_of(outcome.recipe.rewards[0], rollout).std(0).mean())
    assert not close(a.metrics[0]["objective/score"], b.metrics[0]["objective/score"])


def asks_the_function(a: Outcome, b: Outcome) -> None:
    for outcome, judge in ((a, judges.lower_case), (b, judges.characters)):
        for row, rollout in zip(outcome.metrics, outcome.rollouts, strict=True):
            assert close(row["objective/score"], torch.tensor(judge([], rollout.texts)).mean())


def counts_words(a: Outcome, b: Outcome) -> None:
    for outcome, limit in ((a, 0.5), (b, 1.5)):
        beyond = [max(0.0, count_words(text) - limit) / 10 for text in outcome.rollouts[0].texts]
        assert close(outcome.metrics[0]["objective/score"], -sum(beyond) / len(beyond))
    assert a.metrics[0]["objective/score"] < b.metrics[0]["objective/score"]


def verifies(a: Outcome, b: Outcome) -> None:
    for outcome in (a, b):
        (term,), rollout, row = outcome.recipe.rewards, outcome.rollouts[0], outcome.metrics[0]
        assert close(row["objective/score"], scores_of(term, rollout).mean())
        assert close(row[f"objective/verified/{term.verifier.kind}"], row["objective/score"])
        assert all(f"{term.verifier.kind}: " in line["verdict"] for line in outcome.lines("samples.jsonl"))
    assert a.metrics[0]["objective/score"] != b.metrics[0]["objective/score"]


def weighs(a: Outcome, b: Outcome) -> None:
    assert close(b.metrics[0]["objective/score"], -2 * a.metrics[0]["objective/score"])


# Rollouts.


def makes_so_many_steps(a: Outcome, b: Outcome) -> None:
    assert [len(outcome.rollouts) for outcome in (a, b)] == [len(outcome.metrics) for outcome in (a, b)] == [2, 3]


def draws_for_so_many_prompts(a: Outcome, b: Outcome) -> None:
    for outcome, count in ((a, 2), (b, 3)):
        assert [len({prompt.id for prompt in rollout.prompts}) for rollout in outcome.rollouts] == [count, count]


def draws_so_many(a: Outcome, b: Outcome) -> None:
    for outcome, count in ((a, 2), (b, 3)):
        for rollout in outcome.rollouts:
            assert torch.unique(rollout.sequences.group_ids, return_counts=True)[1].tolist() == [count] * 3


def scores_what_was_cut_off(a: Outcome, b: Outcome) -> None:
    ended = a.rollouts[0].ended
    assert 0 < int(ended.sum()) < len(ended)
    scores = torch.tensor(judges.lower_case([], a.rollouts[0].texts))
    assert close(a.metrics[0]["objective/score"], scores.mean())
    assert close(b.metrics[0]["objective/score"], torch.where(ended, scores, -7.0).mean())


def pays_for_divergence(a: Outcome, b: Outcome) -> None:
    """To the last digit; there is some from the second step on."""
    for outcome, coef in ((a, 0.05), (b, 0.5)):
        for row in outcome.metrics:
            assert close(row["objective/reward"], row["objective/score"] - coef * row["objective/kl"])
        assert abs(outcome.metrics[1]["objective/kl"]) > 0.01


def is_held_against(a: Outcome, b: Outcome) -> None:
    """What was drawn first is more likely under the policy than under another model, by the KL between the two."""
    for outcome in (a, b):
        rollout, named = outcome.rollouts[0], outcome.recipe.reference or outcome.recipe.model
        reference = load_language_model(named, precision="fp32").model
        with torch.no_grad():
            ref_logprobs = reference.logprobs(rollout.sequences, temperature=rollout.temperature)
        log_ratios = (rollout.logprobs - ref_logprobs).sum(1)
        assert close(outcome.metrics[0]["objective/kl"], log_ratios.mean())
    assert abs(b.metrics[0]["objective/kl"]) > 0.1


def sampling() -> list[Row]:
    """How responses are drawn."""
    return [
        Row("temperature", (0.7, 1.4), flattens),
        Row("max_new_tokens", (3, 6), draws_at_most),
        Row("num_slots", (1, 64), decodes_side_by_side),
    ]


def flattens(a: Outcome, b: Outcome) -> None:
    """Sampled and computed at the same temperature: the ratio is 1 before the first update."""
    assert a.metrics[0]["policy/entropy"] < b.metrics[0]["policy/entropy"]
    for outcome, temperature in ((a, 0.7), (b, 1.4)):
        assert {rollout.temperature for rollout in outcome.rollouts} == {temperature}
        assert close(outcome.metrics[0]["policy/ratio_mean"], 1.0)
        assert close(outcome.metrics[0]["objective/kl"], 0.0)


def draws_at_most(a: Outcome, b: Outcome) -> None:
    for outcome, count in ((a, 3), (b, 6)):
        lengths = torch.cat([rollout.sequences.mask.sum(1) for rollout in outcome.rollouts])
        assert int(lengths.max()) == count


def decodes_side_by_side(a: Outcome, b: Outcome) -> None:
    """The same responses, one token of one or of all of them at a time."""
    lengths = [rollout.sequences.mask.sum(1) for rollout in a.rollouts]
    assert a.token_steps == [int(length.sum()) for length in lengths]
    assert b.token_steps == [int(length.max()) for length in lengths]
    assert a.rollouts[0].texts == b.rollouts[0].texts


# REINFORCE alone.

ANYTHING = {"rewards.0.function": "tests.stages.effects.judges:unlike"}
SEVERAL = ANYTHING | {"epochs": 2, "clip_range": 0.05}
"""More updates than one for a rollout, so that there is something to clip."""
NOTHING_TO_TELL = {"rewards.0.function": None, "rewards.0.length": 2.0}
"""Nearly all responses score 0."""


def reinforce() -> list[Row]:
    """Keys of REINFORCE and its descendants."""
    return [
        *rl(),
        Row("baseline", ("leave_one_out", "group_normalized"), learns_as_by_hand, ANYTHING),
        Row("surrogate", ("token", "sequence"), learns_as_by_hand, SEVERAL),
        Row("clip_range", (0.2, 0.01), learns_as_by_hand, ANYTHING | {"epochs": 2}),
        Row("clip_range_high", (0.01, 0.2), learns_as_by_hand, SEVERAL),
        Row("denominator", ("tokens", "sequences"), learns_as_by_hand, ANYTHING),
        Row("kl_loss_coef", (0.0, 1.0), learns_as_by_hand, ANYTHING | {"kl_coef": 0.0, "epochs": 2}),
        Row("max_resamples", (0, 2), draws_again, NOTHING_TO_TELL),
    ]


def learns_as_by_hand(a: Outcome, b: Outcome) -> None:
    """Both runs log what the papers say and end with such weights; and those are not the same."""
    for outcome in (a, b):
        for (expected, _), row in zip(by_hand.reinforce(outcome, judges.unlike), outcome.metrics, strict=True):
            for name, value in expected.items():
                assert row[name] == pytest.approx(value, rel=1e-3, abs=2e-5), name
    assert not close(a.updates["policy"][-1].after, b.updates["policy"][-1].after)


def draws_again(a: Outcome, b: Outcome) -> None:
    """Other prompts, and only in the place of those that taught nothing; what is learned from is as much as before."""
    assert len(a.rollouts) == len(a.metrics) == 2
    assert len(b.rollouts) > 2
    assert "objective/groups_resampled" not in a.metrics[0]
    first, *more = b.rollouts[: 1 + 2]
    taught = {rollout.prompts[row].id for rollout in (first,) for row in range(0, 9, 3) if tells(rollout, row)}
    assert torch.equal(first.sequences.tokens, a.rollouts[0].sequences.tokens)
    drawn = [prompt.id for rollout in (first, *more) for prompt in rollout.prompts[::3]]
    assert len(set(drawn)) == len(drawn)
    assert b.metrics[0]["objective/groups_resampled"] == len(drawn) - 3
    learned = b.updates["policy"][0].learned
    assert sum(map(len, learned)) == 9
    kept = {tuple(tokens) for part in learned for tokens in part.responses()}
    for row in range(0, 9, 3):
        if first.prompts[row].id in taught:
            assert {tuple(tokens) for tokens in first.sequences.responses()[row : row + 3]} <= kept


def tells(rollout: Rollout, row: int) -> bool:
    """Whether three responses from this row on are worth different numbers."""
    return len({max(0.0, count_words(text) - 2.0) for text in rollout.texts[row : row + 3]}) > 1


# PPO alone.

NO_VALUE = {"value_model": "$zero", "kl_coef": 0.0, "gae_lambda": 1.0, "clip_range_value": 0.0}
"""Values of 0 and no price: what the value model is to learn can be told from the scores."""
TEXT = {
    "pretraining.data.path": "$records_texts",
    "pretraining.sequences_per_step": 2,
    "pretraining.sequence_length": 16,
}


def ppo() -> list[Row]:
    """Keys of PPO."""
    target = {"kl_target": 0.5, "kl_horizon": 20, "kl_coef": 0.2}
    return [
        *rl(),
        Row("value_model", ("$scorer", "$calibrated"), values_in_its_units),
        Row("value_model", ("$two_heads", "$several"), begins_with_the_mean_of_heads),
        Row("kl_target", (None, 0.5), steers, {"kl_horizon": 20, "kl_coef": 0.2}),
        Row("kl_horizon", (20, 40), steers, target),
        Row("whiten_rewards", (False, True), learns_returns, NO_VALUE),
        Row("gamma", (1.0, 0.5), learns_returns, NO_VALUE),
        Row("gae_lambda", (1.0, 0.5), learns_returns, NO_VALUE),
        Row("clip_range", (0.2, 0.001), clips("policy"), {"epochs": 2}),
        Row("clip_range_value", (0.0, 0.001), clips("value"), {"epochs": 2}),
        Row("value_warmup", (0, 1), waits),
        *under("pretraining", pretraining()),
        *optimizer("value_optimizer", "value", {}),
    ]


def values_in_its_units(a: Outcome, b: Outcome) -> None:
    """The value model starts from the reward model that is named, in its normalised units."""
    for outcome, units in ((a, Normalization()), (b, Normalization(mean=0.3, scale=0.5))):
        named = load_scalar_model(outcome.recipe.value_model, precision="fp32")
        head = named.model.score.weight[0] / units.scale
        assert torch.equal(outcome.updates["value"][0].before[-len(head) :], head)


def begins_with_the_mean_of_heads(a: Outcome, b: Outcome) -> None:
    """Of those that give scores, each in its units."""
    for outcome, scales in ((a, (1.0, 1.0)), (b, (0.1, 0.3))):
        weight = load_scalar_model(outcome.recipe.value_model, precision="fp32").model.score.weight.detach()
        head = (weight[0] / scales[0] + weight[1] / scales[1]) / 2
        torch.testing.assert_close(outcome.updates["value"][0].before[-len(head) :], head)


def steers(a: Outcome, b: Outcome) -> None:
    """Ziegler et al. 2019, section 2.2: by at most a fifth of the responses' share of the horizon."""
    for outcome in (a, b):
        recipe = outcome.recipe
        coef = recipe.kl_coef
        for row in outcome.metrics:
            assert close(row["objective/kl_coef"], coef)
            assert close(row["objective/reward"], row["objective/score"] - coef * row["objective/kl"])
            if recipe.kl_target is not None:
                error = min(max(row["objective/kl"] / recipe.kl_target - 1, -0.2), 0.2)
                coef *= 1 + error * 9 / recipe.kl_horizon
    assert a.metrics[1]["objective/kl_coef"] != b.metrics[1]["objective/kl_coef"]


def learns_returns(a: Outcome, b: Outcome) -> None:
    """With values of 0 and no price, the returns are what GAE makes of a score on the last token."""
    for outcome in (a, b):
        recipe, rollout = outcome.recipe, outcome.rollouts[0]
        scores, lengths = judges.lower_case([], rollout.texts), rollout.sequences.mask.sum(1).tolist()
        rewards = [torch.tensor([0.0] * (length - 1) + [score]) for score, length in zip(scores, lengths, strict=True)]
        if recipe.whiten_rewards:
            rewards = whitened(rewards, keep_mean=True)
        returns = [gae(row, torch.zeros_like(row), recipe.gamma, recipe.gae_lambda) for row in rewards]
        assert close(outcome.metrics[0]["value/error"], torch.cat(returns).square().mean())
    assert not close(a.metrics[0]["value/error"], b.metrics[0]["value/error"])


def updates_so_often(a: Outcome, b: Outcome) -> None:
    """Passes over the rollout in parts of whole prompts, every response once in each; the order changes."""
    for outcome in (a, b):
        epochs, count = outcome.recipe.epochs, outcome.recipe.minibatches
        for updates in outcome.updates.values():
            assert len(updates) == 2 * epochs * count
            batches = [[row for part in update.learned for row in part.rows.tolist()] for update in updates]
            passes = [batches[first : first + count] for first in range(0, len(batches), count)]
            for batch in batches:
                assert set(Counter(row // 3 for row in batch).values()) == {3}
                assert len(batch) == 9 // count
            assert all(sorted(row for batch in one for row in batch) == list(range(9)) for one in passes)
            assert count == 1 or len({tuple(batch[0] for batch in one) for one in passes}) > 1


def clips(name: str) -> Effect:
    """What moved further than this from where it was no longer moves."""

    def effect(a: Outcome, b: Outcome) -> None:
        first, second = (outcome.metrics[0][f"{name}/clip_fraction"] for outcome in (a, b))
        assert first < second
        assert first == 0.0 or name == "policy"
        assert torch.equal(a.updates[name][0].after, b.updates[name][0].after)
        assert not close(a.updates[name][1].gradient, b.updates[name][1].gradient)

    return effect


def waits(a: Outcome, b: Outcome) -> None:
    """The policy learns a step later, the value model at once."""
    assert [len(outcome.updates["policy"]) for outcome in (a, b)] == [2, 1]
    assert [len(outcome.updates["value"]) for outcome in (a, b)] == [2, 2]
    assert b.metrics[1]["objective/kl"] == 0 or close(b.metrics[1]["objective/kl"], 0.0)
    assert a.metrics[1]["objective/kl"] > 0.01


def pretraining() -> list[Row]:
    """How the pretraining gradient is mixed in."""
    return [
        *[replace(row, given={**TEXT, **row.given}) for row in under("data", data("pretraining.data", "texts"))],
        Row("coef", (1.0, 3.0), weighs_the_text, TEXT),
        Row("sequences_per_step", (2, 3), reads_so_many, TEXT),
        Row("sequence_length", (16, 24), reads_so_long, TEXT),
    ]


def weighs_the_text(a: Outcome, b: Outcome) -> None:
    """The gradient of the loss on the text, as often as the coefficient says and with its sign."""
    texts = a.updates["policy"][0].learned[-1]
    policy = load_language_model(a.recipe.model, precision="fp32").model
    policy.freeze(1)
    (-policy.logprobs(texts, temperature=1.0).sum() / texts.mask.sum()).backward()
    gradient = torch.cat([p.grad.flatten() for p in policy.parameters() if p.requires_grad and p.grad is not None])
    mixed = [outcome.updates["policy"][0].gradient for outcome in (a, b)]
    torch.testing.assert_close(mixed[1] - mixed[0], 2 * gradient, rtol=1e-3, atol=1e-5)


def reads_so_many(a: Outcome, b: Outcome) -> None:
    for outcome, count in ((a, 2), (b, 3)):
        assert [len(update.learned[-1]) for update in outcome.updates["policy"]] == [count, count]


def reads_so_long(a: Outcome, b: Outcome) -> None:
    for outcome, length in ((a, 16), (b, 24)):
        for update in outcome.updates["policy"]:
            assert update.learned[-1].lengths.tolist() == [length, length]
