"""Rows of the recipes that learn from judgements: the reward model, DPO and KTO."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch
from scipy.stats import poisson
from tests.stages.effects.rows import Effect, Row, under
from tests.stages.effects.runs import Outcome
from tests.stages.effects.shared import close, data
from tests.stages.effects.supervised import in_batches, learned, learning, prompts_learned
from torch.nn.functional import logsigmoid

from palate.lm.sources.zoo import load_language_model
from palate.randomness import uniforms
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
        Row("seeds.initial", (None, 1), draws_its_head, ONE_BATCH),
        Row("draw_labelers", (False, True), learns_from_the_drawn((None, 0)), STRONG),
        Row("seeds.labelers", (None, 5), learns_from_the_drawn((0, 5)), STRONG | {"draw_labelers": True}),
        Row("batch_responses", (4, 8), in_batches_of_prompts("reward")),
        Row("tie", ("half", "skip"), minimises_the_papers_loss, STRONG | {"margin_scale": 0.7}),
        Row("margin_scale", (0.0, 0.7), minimises_the_papers_loss, STRONG),
        Row("labeler_weights", ({"bob": 0.5}, {"bob": 3.0}), minimises_the_papers_loss, STRONG),
        Row("normalize_on", ("train", "validation"), normalises),
        Row("heads", (1, 3), has_so_many_heads),
        Row("bootstrap", (False, True), draws_again, STRONG | {"model": "$two_heads", "heads": 2}),
        *under("objectives", objectives()),
    ]


def objectives() -> list[Row]:
    """Keys of an objective: of the first, or of a second one with data of its own."""
    told = ONE_BATCH | {"data.path": "$told_rankings", "objectives": [{}]}
    about = told | {"objectives": [{"tag": "topic", "value": "tea"}]}
    two = {"objectives": [{}, {"name": "other", "data": {"path": "$records_rankings"}}]}
    own = [replace(row, given=two | row.given) for row in data("objectives.1.data", "rankings")]
    return [
        Row("0.name", ("good", "helpful"), is_called, told),
        Row("0.learns", ("rankings", "both"), learns_ratings_too, told),
        Row("0.flag", ("", "hallucination"), learns_the_flag, told),
        Row("0.tag", ("topic", "mood"), learns_what_is_about, about),
        Row("0.value", ("tea", "mills"), learns_what_is_about, about),
        *under("1.data", own),
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


def has_so_many_heads(a: Outcome, b: Outcome) -> None:
    """Each begins elsewhere, and the first where it would alone."""
    assert [len(outcome.weights["score.weight"]) for outcome in (a, b)] == [1, 3]
    one, three = (outcome.updates["reward"][0].before for outcome in (a, b))
    assert torch.equal(one[-32:], three[-96:-64])
    first, second, third = three[-96:].view(3, 32)
    assert not torch.isclose(first, second).any()
    assert not torch.isclose(second, third).any()


def draws_again(a: Outcome, b: Outcome) -> None:
    """Each head meets every prompt once, or as often as it was drawn for it."""
    losses = []
    for outcome, again in ((a, False), (b, True)):
        each = [papers_loss(outcome, head, times_of(head) if again else None) for head in (0, 1)]
        losses.append(sum(each) / 2)
        assert close(outcome.metrics[0]["reward/loss"], losses[-1])
    assert not close(*losses)


def times_of(head: int) -> Callable[[Ranking], float]:
    """Poisson numbers of mean 1, by prompt."""

    def times(ranking: Ranking) -> float:
        return float(poisson.ppf(uniforms(2, 0, "reward", "bootstrap", ranking.prompt.id)[head], 1))

    return times


def heads_of(outcome: Outcome) -> list[dict[str, Any]]:
    """What is said beside the weights."""
    found: list[dict[str, Any]] = json.loads((outcome.directory / "model" / "heads.json").read_text(encoding="utf-8"))
    return found


def is_called(a: Outcome, b: Outcome) -> None:
    assert [[head["objective"] for head in heads_of(outcome)] for outcome in (a, b)] == [["good"], ["helpful"]]


def learns_ratings_too(a: Outcome, b: Outcome) -> None:
    assert "reward/rating_loss" not in a.metrics[0]
    assert close(a.metrics[0]["reward/loss"], b.metrics[0]["reward/loss"])
    assert b.metrics[0]["reward/rating_loss"] > 0
    (head,) = heads_of(b)
    assert head["thresholds"] == sorted(head["thresholds"])
    assert len(head["thresholds"]) == 6


def learns_the_flag(a: Outcome, b: Outcome) -> None:
    """From the log-odds of 0 on, up to the head's small beginning."""
    assert [sorted(outcome.metrics[0].keys() & {"reward/loss", "reward/flag_loss"}) for outcome in (a, b)] == [
        ["reward/loss"], ["reward/flag_loss"]
    ]  # fmt: skip
    assert abs(b.metrics[0]["reward/flag_loss"] - math.log(2)) < 0.2
    assert [head["flag"] for head in heads_of(b)] == ["hallucination"]


def learns_what_is_about(a: Outcome, b: Outcome) -> None:
    for outcome in (a, b):
        objective = outcome.recipe.objectives[0]
        about = {record.prompt.text: record.prompt.tags[objective.tag] for record in outcome.read["data"].records}
        learned = prompts_learned(outcome, "reward")
        assert learned
        assert {about[text] for text in learned} == {objective.value}
    assert prompts_learned(a, "reward") != prompts_learned(b, "reward")


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


def learns_from_the_drawn(seeds: tuple[int | None, int]) -> Effect:
    """The loss of the first step is that of rankings by the labelers that these seeds draw; None draws nobody."""

    def effect(a: Outcome, b: Outcome) -> None:
        losses = []
        for outcome, seed in zip((a, b), seeds, strict=True):
            everybody = ("ann", "bob", "cat")
            places = range(3) if seed is None else (3 * uniforms(3, seed, "reward", "labelers")).astype(int)
            drawn = [everybody[place] for place in places]
            losses.append(papers_loss(outcome, drawn={name: drawn.count(name) for name in everybody}))
            assert close(outcome.metrics[0]["reward/loss"], losses[-1])
        assert not close(*losses)

    return effect


def papers_loss(
    outcome: Outcome,
    head: int = 0,
    times: Callable[[Ranking], float] | None = None,
    drawn: Mapping[str, int] | None = None,
) -> float:
    """Ouyang et al. 2022, equation 1, with margins and the weights of labelers, from the scores before it.

    Args:
        head: of several.
        times: how often it meets a ranking; once, if left out.
        drawn: how often each labeler counts; once, if left out.
    """
    recipe, judge = outcome.recipe, LearnedReward(outcome.recipe.model, precision="fp32")
    total = weights = 0.0
    for ranking in rankings_learned(outcome, "reward"):
        texts = [response.text for response in ranking.responses]
        scores = judge.by_head([ranking.prompt] * len(texts), texts)[:, head]
        margin = recipe.margin_scale * (ranking.strength or 0.0)
        terms = [-logsigmoid(scores[better] - scores[worse] - margin) for better, worse in ranking.pairs]
        for one, other in combinations(range(len(texts)), 2):
            if recipe.tie == "half" and ranking.ranks[one] == ranking.ranks[other]:
                gap = scores[one] - scores[other]
                terms.append(-0.5 * logsigmoid(gap) - 0.5 * logsigmoid(-gap))
        if terms:
            weight = recipe.labeler_weights.get(ranking.labeler, 1.0) * (drawn[ranking.labeler] if drawn else 1)
            total += weight * (times(ranking) if times else 1.0) * float(torch.stack(terms).mean())
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
