"""Rows of the recipes that learn from the policy's own samples without a policy gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from tests.stages.effects import judges
from tests.stages.effects.preferences import begins_at_its_loss, begins_with_a_gradient_times
from tests.stages.effects.reinforcement import (
    LEARNED,
    asks_in_another_order,
    decodes_side_by_side,
    draws_anew,
    draws_at_most,
    draws_for_so_many_prompts,
    draws_so_many,
    is_held_against,
    leaves_out_long_prompts,
    makes_so_many_steps,
    rewards,
    says_something_else,
    scores_what_was_cut_off,
    seems_less_likely,
)
from tests.stages.effects.rows import Effect, Row, under
from tests.stages.effects.runs import Outcome
from tests.stages.effects.scoring import learned_terms, scores_of, verifying
from tests.stages.effects.shared import close, every, optimizer, refused, training

from palate.lm.batch import Sequences
from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import load_language_model


def online_dpo() -> list[Row]:
    """Keys of on-policy DPO."""
    return [
        *scored(rows_of_pairs),
        Row("pairs", ("extremes", "all"), learns_from_these_pairs),
        Row("loss", ("dpo", "ipo"), begins_at_its_loss, {"beta": 0.2}),
        Row("beta", (0.1, 0.4), begins_with_a_gradient_times(4.0)),
    ]


def raft() -> list[Row]:
    """Keys of reward-ranked fine-tuning."""
    return scored(rows_of_the_best)


def distill() -> list[Row]:
    """Keys of on-policy distillation."""
    several = {"teachers": ["$teacher", "$other_teacher"], "rewards": [{"function": f"{judges.__name__}:lower_case"}]}
    none = several | {"rewards": [{}]}
    judged = {"teachers": several["teachers"], "rewards": [{"model": "$scorer"}]}
    rows = [row for row in rolled(all_rows, judged) if row.name != "chat_template"]
    return [
        *rows,
        Row("chat_template", ("", "plain"), refused("has another chat template than the policy")),
        Row("teachers", (["$teacher"], ["$other_teacher"]), asks_the_teacher),
        Row("rewards.0.model", ("$scorer", "$calibrated"), chooses_teachers, none),
        Row(
            "rewards.0.function",
            (f"{judges.__name__}:lower_case", f"{judges.__name__}:brevity"),
            chooses_teachers,
            several,
        ),
        Row("rewards.0.length", (0.5, 1.5), chooses_teachers, none),
        Row("rewards.0.weight", (1.0, -2.0), chooses_teachers, several),
        replace(row := verifying(chooses_teachers, none | {"rewards.0.function": None}), key=f"rewards.0.{row.key}"),
        *[replace(row, key=f"rewards.0.{row.key}") for row in learned_terms(chooses_teachers, "rewards.0.", none)],
    ]


Learned = Callable[[Outcome, int], set[int]]
"""(run, step) -> the rows of that step's rollout that are to be learned from."""


def rolled(rows: Learned, more_models: Mapping[str, Any]) -> list[Row]:
    """Keys of every stage that samples and learns from it."""
    return [
        *every("prompts", "prompts", more_models=more_models),
        *training({"steps": 4}, without_scale={"optimizer.epsilon": 1e-2}, reads="prompts"),
        Row("seed", (0, 1), draws_anew, {"prompts_per_step": 12, "steps": 1}),
        Row("seeds.order", (None, 1), asks_in_another_order, {"prompts_per_step": 12, "steps": 1}),
        Row("seeds.sampling", (None, 1), says_something_else, {"prompts_per_step": 12, "steps": 1}),
        Row("max_length", (1024, 160), leaves_out_long_prompts, {"max_left_out": 0.5}),
        Row("max_left_out", (0.5, 0.1), refused("more than max_left_out = 0.1 allows"), {"max_length": 160}),
        Row("steps", (2, 3), makes_so_many_steps),
        Row("prompts_per_step", (2, 3), draws_for_so_many_prompts),
        Row("responses_per_prompt", (2, 3), draws_so_many),
        Row("epochs", (1, 2), passes_over(rows)),
        Row("minibatches", (1, 3), passes_over(rows), {"epochs": 2}),
        Row("sampling.temperature", (0.7, 1.4), draws_and_learns_at),
        Row("sampling.max_new_tokens", (3, 6), draws_at_most),
        Row("sampling.num_slots", (1, 64), decodes_side_by_side),
        Row("engine.kind", ("local", "elsewhere"), refused("engine.kind")),
        *optimizer("optimizer", "policy", {}),
    ]


def scored(rows: Learned) -> list[Row]:
    """Keys of those in which a reward judges."""
    return [
        *rolled(rows, LEARNED),
        *under("rewards", rewards()),
        Row("reference", ("", "$teacher"), is_held_against),
        Row("truncation_score", (None, -7.0), scores_what_was_cut_off),
        Row(
            "max_negative_kl",
            (0.5, 0.001),
            refused("step 2: the KL"),
            {"steps": 3, "optimizer.learning_rate": 1e-9},
            seems_less_likely,
        ),
        Row("min_entropy", (0.02, 100.0), refused("step 2: the policy's entropy"), {"steps": 3}),
    ]


def groups(outcome: Outcome, step: int) -> list[list[float]]:
    """The judge's scores of a step's responses, by prompt."""
    scores, count = judges.lower_case([], outcome.rollouts[step].texts), outcome.recipe.responses_per_prompt
    return [scores[first : first + count] for first in range(0, len(scores), count)]


def rows_of_pairs(outcome: Outcome, step: int) -> set[int]:
    """The first of the best and the first of the worst of each prompt whose responses differ."""
    found = set()
    for number, scores in enumerate(groups(outcome, step)):
        if max(scores) > min(scores):
            found |= {number * len(scores) + scores.index(end(scores)) for end in (max, min)}
    return found


def rows_of_the_best(outcome: Outcome, step: int) -> set[int]:
    """The first of the best of each prompt."""
    return {number * len(scores) + scores.index(max(scores)) for number, scores in enumerate(groups(outcome, step))}


def all_rows(outcome: Outcome, step: int) -> set[int]:
    """Every response."""
    return set(range(len(outcome.rollouts[step].texts)))


def passes_over(rows: Learned) -> Effect:
    """In every epoch each of these is learned once, in so many updates, all of them of whole prompts."""

    def effect(a: Outcome, b: Outcome) -> None:
        for outcome in (a, b):
            updates, recipe = outcome.updates["policy"], outcome.recipe
            batches = [[row for part in update.learned for row in part.rows.tolist()] for update in updates]
            per_step = [
                min(recipe.minibatches, len({row // 3 for row in rows(outcome, step)})) * recipe.epochs
                for step in range(recipe.steps)
            ]
            assert len(batches) == sum(per_step)
            for step, count in enumerate(per_step):
                made, batches = batches[:count], batches[count:]
                size = count // recipe.epochs
                for first in range(0, count, size):
                    met = [row for batch in made[first : first + size] for row in batch]
                    assert sorted(met) == sorted(rows(outcome, step))

    return effect


def draws_and_learns_at(a: Outcome, b: Outcome) -> None:
    """Responses are drawn at the temperature, and what is learned is a policy at that temperature."""
    assert a.metrics[0]["policy/entropy"] < b.metrics[0]["policy/entropy"]
    for outcome, temperature in ((a, 0.7), (b, 1.4)):
        assert {rollout.temperature for rollout in outcome.rollouts} == {temperature}
        parts = outcome.updates["policy"][0].learned
        num_tokens = sum(int(part.mask.sum()) for part in parts)
        policy = load_language_model(outcome.recipe.model, precision="fp32").model
        row = outcome.metrics[0]
        with torch.no_grad():
            logprobs = sum(float(policy.logprobs(part, temperature=temperature).sum()) for part in parts)
        if "sft/loss" in row:
            assert close(row["sft/loss"], -logprobs / num_tokens)
        if "dpo/margin" in row:
            assert close(row["dpo/chosen_logprob"] + row["dpo/rejected_logprob"], logprobs / row["dpo/pairs"])
            assert close(row["dpo/margin"], 0.0)
        if "distill/loss" in row:
            assert close(row["distill/loss"], divergence(policy, outcome.recipe.teachers[0], parts, temperature))


def divergence(policy: LanguageModel, teacher: str, parts: list[Sequences], temperature: float) -> float:
    """Per token, from all logits at once."""
    other, total, count = load_language_model(teacher, precision="fp32").model, 0.0, 0
    for part in parts:
        sequence, position = part.mask.nonzero(as_tuple=True)
        with torch.no_grad():
            ours, theirs = (
                each.logits(each.hidden(part, sequence, position - 1, None), temperature=temperature).log_softmax(-1)
                for each in (policy, other)
            )
        total, count = total + float((ours.exp() * (ours - theirs)).sum()), count + len(position)
    return total / count


def learns_from_these_pairs(a: Outcome, b: Outcome) -> None:
    """The best against the worst of each prompt; or all that scored apart."""
    for step in range(2):
        told = [outcome.metrics[step]["dpo/pairs"] for outcome in (a, b)]
        assert told[0] == sum(max(scores) > min(scores) for scores in groups(a, step))
        assert told[1] == sum(x > y for scores in groups(b, step) for x in scores for y in scores)
    assert a.metrics[0]["dpo/pairs"] < b.metrics[0]["dpo/pairs"]


def asks_the_teacher(a: Outcome, b: Outcome) -> None:
    for outcome in (a, b):
        policy = load_language_model(outcome.recipe.model, precision="fp32").model
        parts = outcome.updates["policy"][0].learned
        assert close(outcome.metrics[0]["distill/loss"], divergence(policy, outcome.recipe.teachers[0], parts, 0.7))
    assert not close(a.metrics[0]["distill/loss"], b.metrics[0]["distill/loss"])


def chooses_teachers(a: Outcome, b: Outcome) -> None:
    """For each prompt the one whose own answer earns most, as the reward has it; the policy's own rollout is first."""
    for outcome in (a, b):
        first = [scores_of(outcome.recipe.rewards[0], rollout) for rollout in outcome.rollouts[1:3]]
        scores = torch.stack(first)  # [2, P]
        assert close(outcome.metrics[0]["distill/teacher_score"], scores.amax(0).mean())
        assert 0 < outcome.metrics[0]["time/score_s"] < outcome.metrics[0]["time/step_s"]
        assert close(outcome.metrics[0]["distill/first_teacher"], (scores.argmax(0) == 0).float().mean())
        taught_by = scores.argmax(0).repeat_interleave(3)
        policy, total = load_language_model(outcome.recipe.model, precision="fp32").model, 0.0
        for number, teacher in enumerate(outcome.recipe.teachers):
            if len(rows := (taught_by == number).nonzero()[:, 0]):
                part = outcome.rollouts[0].sequences.select(rows)
                total += divergence(policy, teacher, [part], 0.7) * int(part.mask.sum())
        assert close(outcome.metrics[0]["distill/loss"], total / int(outcome.rollouts[0].sequences.mask.sum()))
    assert not close(a.metrics[0]["distill/teacher_score"], b.metrics[0]["distill/teacher_score"])
