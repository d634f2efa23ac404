"""Rows of the recipes that learn from judgements: the reward model, DPO and KTO."""

from __future__ import annotations

from itertools import combinations

import torch
from tests.stages.effects.rows import Effect, Row
from tests.stages.effects.runs import Outcome
from tests.stages.effects.shared import close
from tests.stages.effects.supervised import in_batches, learned, learning, prompts_learned
from torch.nn.functional import logsigmoid

from palate.lm.sources.zoo import load_language_model
from palate.records import Ranking
from palate.rewards.learned import LearnedReward

ONE_BATCH = {"batch_responses": 64}
STRONG = ONE_BATCH | {"model": "$scorer", "data.path": "$strong_rankings"}
"""Two strengths of preference and a ranking of nothing but ties for each prompt, and a model that can score already."""
PAIRS = ONE_BATCH | {
    "data.path": "$columns_rankings",
    "data.fields": {"prompt": "q", "a": "x", "b": "y", "preferred": "better"},
}


def reward() -> list[Row]:
    """Keys of the reward model."""
    return [
        *learning("rankings", "reward", ONE_BATCH, {"batch_responses": 8}, left_out=4),
        Row("seed", (0, 1), draws_its_head, ONE_BATCH),
        Row("batch_responses", (4, 8), in_batches_of_prompts("reward")),
        Row("tie", ("half", "skip"), minimises_the_papers_loss, STRONG | {"margin_scale": 0.7}),
        Row("margin_scale", (0.0, 0.7), minimises_the_papers_loss, STRONG),
        Row("labeler_weights", ({"bob": 0.5}, {"bob": 3.0}), minimises_the_papers_loss, STRONG),
        Row("normalize_on", ("train", "validation"), normalises),
    ]


def dpo() -> list[Row]:
    """Keys of direct preference optimisation."""
    return [
        *learning("rankings", "policy", ONE_BATCH, {"batch_responses": 8}, left_out=4),
        Row("batch_responses", (4, 8), in_batches_of_prompts("policy")),
        Row("loss", ("dpo", "ipo"), begins_at_its_loss, ONE_BATCH | {"beta": 0.2}),
        Row("beta", (0.1, 0.4), begins_with_a_gradient_times(4.0), ONE_BATCH),
        Row("label_smoothing", (0.0, 0.4), begins_with_a_gradient_times(1 - 2 * 0.4), ONE_BATCH),
        Row("temperature", (0.7, 1.4), asks_at_the_temperature, PAIRS),
    ]


def kto() -> list[Row]:
    """Keys of Kahneman-Tversky optimisation."""
    one_batch = {"batch_size": 16}
    return [
        *learning("thumbs", "policy", one_batch, {"batch_size": 3}, left_out=2),
        Row("batch_size", (2, 3), in_batches),
        Row("beta", (0.1, 0.4), begins_with_a_gradient_times(4.0), one_batch),
        Row("desirable_weight", (1.0, 3.0), weighs_thumbs(up=True), one_batch),
        Row("undesirable_weight", (1.0, 3.0), weighs_thumbs(up=False), one_batch),
        Row("temperature", (0.7, 1.4), asks_of_thumbs_at_the_temperature, one_batch),
    ]


def draws_its_head(a: Outcome, b: Outcome) -> None:
    """The head is last and new; all below it is the model's."""
    first, second = (outcome.updates["reward"][0].before for outcome in (a, b))
    assert torch.equal(first[:-32], second[:-32])
    assert not torch.isclose(first[-32:], second[-32:]).any()


def in_batches_of_prompts(name: str) -> Effect:
    """Every prompt has four responses, which stay together."""

    def effect(a: Outcome, b: Outcome) -> None:
        prompts = prompts_learned(a, name)
        for outcome, each in ((a, 1), (b, 2)):
            sizes = [len(step) for step in learned(outcome, name)]
            assert sizes == [4 * each] * (len(prompts) // each) + [4 * (len(prompts) % each)] * (
                len(prompts) % each > 0
            )

    return effect


def minimises_the_papers_loss(a: Outcome, b: Outcome) -> None:
    """That of the first step, of all rankings."""
    assert all(close(outcome.metrics[0]["reward/loss"], papers_loss(outcome)) for outcome in (a, b))
    assert not close(*(outcome.metrics[0]["reward/loss"] for outcome in (a, b)))


def papers_loss(outcome: Outcome) -> float:
    """Ouyang et al. 2022, equation 1, with margins and the weights of labelers, from the scores before it."""
    recipe, judge = outcome.recipe, LearnedReward(outcome.recipe.model, precision="fp32")
    total = weights = 0.0
    for ranking in rankings_learned(outcome, "reward"):
        texts = [response.text for response in ranking.responses]
        scores = judge([ranking.prompt] * len(texts), texts)
        margin = recipe.margin_scale * (ranking.strength or 0.0)
        terms = [-logsigmoid(scores[better] - scores[worse] - margin) for better, worse in ranking.pairs]
        for one, other in combinations(range(len(texts)), 2):
            if recipe.tie == "half" and ranking.ranks[one] == ranking.ranks[other]:
                gap = scores[one] - scores[other]
                terms.append(-0.5 * logsigmoid(gap) - 0.5 * logsigmoid(-gap))
        if terms:
            weight = recipe.labeler_weights.get(ranking.labeler, 1.0)
            total += weight * float(torch.stack(terms).mean())
            weights += weight
    return total / weights


def rankings_learned(outcome: Outcome, name: str) -> list[Ranking]:
    """Of the prompts that are not held out."""
    prompts = prompts_learned(outcome, name)
    return [ranking for ranking in outcome.read["data"].records if ranking.prompt.text in prompts]


def normalises(a: Outcome, b: Outcome) -> None:
    """Distinct responses of one side of the holdout have mean 0 and spread 1, those of the other one have not."""
    for outcome, in_training in ((a, True), (b, False)):
        prompts, judge = prompts_learned(outcome, "reward"), LearnedReward(str(outcome.directory), precision="fp32")
        keys = {
            (ranking.prompt.id, response.text): ranking.prompt
            for ranking in outcome.read["data"].records
            for response in ranking.responses
            if (ranking.prompt.text in prompts) == in_training
        }
        scores = judge(list(keys.values()), [text for _, text in keys])
        assert abs(float(scores.mean())) < 1e-3
        assert abs(float(scores.std(correction=0)) - 1) < 1e-3


def begins_with_a_gradient_times(factor: float) -> Effect:
    """Rafailov et al. 2023: at the reference it is beta (1 - 2 smoothing) / 2 of the difference of two gradients."""

    def effect(a: Outcome, b: Outcome) -> None:
        first, second = (outcome.updates["policy"][0].gradient for outcome in (a, b))
        torch.testing.assert_close(second, factor * first, rtol=1e-3, atol=1e-6)

    return effect


def asks_at_the_temperature(a: Outcome, b: Outcome) -> None:
    """Each response is in one pair: the two sides' mean log-probabilities add up to twice that of a response."""
    for outcome, temperature in ((a, 0.7), (b, 1.4)):
        policy = load_language_model(outcome.recipe.model, precision="fp32").model
        with torch.no_grad():
            each = [policy.logprobs(part, temperature=temperature) for part in outcome.updates["policy"][0].learned]
        mean = sum(float(part.sum()) for part in each) / sum(len(part) for part in each)
        first = outcome.metrics[0]
        assert close(first["dpo/chosen_logprob"] + first["dpo/rejected_logprob"], 2 * mean)
        assert close(first["dpo/margin"], 0.0)  # the reference at the same temperature


def begins_at_its_loss(a: Outcome, b: Outcome) -> None:
    """At the reference every margin is 0: log 2 in DPO, 1 / (4 beta^2) in IPO; Azar et al. 2023, equation 17.

    The gradients have one direction: beta / 2 and 1 / beta times the difference of the two responses'.
    """
    assert close(a.metrics[0]["dpo/loss"], torch.tensor(2.0).log())
    assert close(b.metrics[0]["dpo/loss"], 1 / (4 * 0.2**2))
    first, second = (outcome.updates["policy"][0].gradient for outcome in (a, b))
    torch.testing.assert_close(second, (1 / 0.2) / (0.2 / 2) * first, rtol=1e-3, atol=1e-4)


def ups(outcome: Outcome) -> list[bool]:
    """Of the thumbs that are learned from."""
    return [ranking.ratings == (7.0,) for ranking in rankings_learned(outcome, "policy")]


def weighs_thumbs(*, up: bool) -> Effect:
    """At the reference every thumb costs half its weight; the gradients of the two kinds are weighted alike."""

    def effect(a: Outcome, b: Outcome) -> None:
        share = sum(each == up for each in ups(a)) / len(ups(a))
        assert close(a.metrics[0]["kto/loss"], 0.5)
        assert close(b.metrics[0]["kto/loss"], 0.5 + (3.0 - 1.0) * share / 2)
        policy = load_language_model(a.recipe.model, precision="fp32").model
        policy.freeze(1)
        of_kind = torch.zeros(())
        texts = [list(row) for row in learned(a, "policy")[0]]
        chat = load_language_model(a.recipe.model, precision="fp32").chat
        for ranking, is_up in zip(rankings_learned(a, "policy"), ups(a), strict=True):
            whole = chat.prompt_tokens(ranking.prompt) + chat.response_tokens(ranking.responses[0].text)
            row = texts.index(whole)
            part = a.updates["policy"][0].learned[0].select(torch.tensor([row]))
            if is_up == up:
                of_kind = of_kind + policy.logprobs(part, temperature=a.recipe.temperature).sum()
        (0.1 / 4 * (-1 if up else 1) * of_kind / len(ups(a))).backward()
        gradient = torch.cat([p.grad.flatten() for p in policy.parameters() if p.requires_grad and p.grad is not None])
        first, second = (outcome.updates["policy"][0].gradient for outcome in (a, b))
        torch.testing.assert_close(second - first, 2 * gradient, rtol=1e-3, atol=1e-6)

    return effect


def asks_of_thumbs_at_the_temperature(a: Outcome, b: Outcome) -> None:
    """The means of the two kinds, by their shares, are the mean of all."""
    share = sum(ups(a)) / len(ups(a))
    for outcome, temperature in ((a, 0.7), (b, 1.4)):
        policy = load_language_model(outcome.recipe.model, precision="fp32").model
        with torch.no_grad():
            each = [policy.logprobs(part, temperature=temperature) for part in outcome.updates["policy"][0].learned]
        mean = sum(float(part.sum()) for part in each) / sum(len(part) for part in each)
        row = outcome.metrics[0]
        both = share * row["kto/desirable_logprob"] + (1 - share) * row["kto/undesirable_logprob"]
        assert close(both, mean)
        assert close(row["kto/desirable_reward"], 0.0)  # the reference at the same temperature
        assert close(row["kto/kl"], 0.0)
