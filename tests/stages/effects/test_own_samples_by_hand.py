"""Whole runs of RAFT, on-policy DPO and distillation against the same steps computed by hand.

On transformers' networks, one response after the other, as in `by_hand`: what is taken from the run that is checked are
the responses that were drawn, and which of them an update was made from. What it must have been made from is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tests.stages.effects import judges
from tests.stages.effects.by_hand import Learner, Turn, final_scores, measured, over_updates, turns
from tests.stages.effects.runs import Outcome, Runs, Update
from tests.stages.effects.test_by_hand import OPTIMIZER
from torch import Tensor

from palate.stages.estimate.passes import responses_to
from palate.stages.reinforcement import actors

SEVERAL = {
    "seed": 7,
    "steps": 3,
    "prompts_per_step": 4,
    "epochs": 2,
    "minibatches": 2,
    "microbatch_tokens": 40,
    "sampling.temperature": 0.8,
    "sampling.max_new_tokens": 8,
    "optimizer": OPTIMIZER,
}
SCORED = SEVERAL | {
    "rewards.0.function": f"{judges.__name__}:unlike",
    "rewards.0.weight": 0.5,
    "truncation_score": -1.0,
}
TEACHERS = {
    "teachers": ["$teacher", "$other_teacher"],
    "rewards": [{"function": f"{judges.__name__}:unlike", "weight": 0.5}],
}

Told = dict[str, float]
By = Callable[[Outcome], Iterator[Told]]


def rows_of(update: Update) -> list[int]:
    """Of the rollout, in the order in which they were learned."""
    return [row for part in update.learned for row in part.rows.tolist()]


def groups_of(scores: Tensor, k: int) -> list[tuple[int, list[float]]]:
    """The first row of each prompt, and the scores of its responses."""
    return [(first, scores[first : first + k].tolist()) for first in range(0, len(scores), k)]


def learned_from(loss: Tensor, policy: Learner, update: Update) -> Told:
    """One step down; the weights are then those of the run."""
    loss.backward()
    norm, rate = policy.update()
    policy.check(update)
    return {"policy/grad_norm": norm, "policy/learning_rate": rate}


def raft(outcome: Outcome) -> Iterator[Told]:
    """Dong et al. 2023: supervised fine-tuning on the best of K."""
    recipe = outcome.recipe
    temperature, k, each = recipe.sampling.temperature, recipe.responses_per_prompt, recipe.epochs * recipe.minibatches
    policy = Learner(recipe.model, settings=recipe.optimizer, total=recipe.steps * each)
    reference = Learner(recipe.model)
    for step, rollout in enumerate(outcome.rollouts):
        batch, scores = turns(rollout.sequences), final_scores(outcome, rollout, judges.unlike)
        with torch.no_grad():
            old, ref = ([model.logprobs(turn, temperature) for turn in batch] for model in (policy, reference))
        best = [first + group.index(max(group)) for first, group in groups_of(scores, k)]
        told, learned = [], []
        for update in outcome.updates["policy"][step * each : (step + 1) * each]:
            rows = rows_of(update)
            new = torch.cat([policy.logprobs(batch[row], temperature) for row in rows])
            loss = -new.mean()
            said = {"sft/loss": loss.item(), "sft/perplexity": math.exp(loss.item())}
            told.append((len(new), said | learned_from(loss, policy, update)))
            learned += rows
        assert sorted(learned) == sorted(best * recipe.epochs)
        kept = {"raft/kept_score": float(scores[best].mean())}
        yield measured(rollout, scores, old, ref, k) | kept | over_updates(told)


def online_dpo(outcome: Outcome) -> Iterator[Told]:
    """Guo et al. 2024, with the loss of Rafailov et al. 2023 or Azar et al. 2023, pair by pair."""
    recipe = outcome.recipe
    temperature, k = recipe.sampling.temperature, recipe.responses_per_prompt
    total = recipe.steps * recipe.epochs * recipe.minibatches
    policy, reference = Learner(recipe.model, settings=recipe.optimizer, total=total), Learner(recipe.model)
    updates = iter(outcome.updates["policy"])
    for step, rollout in enumerate(outcome.rollouts):
        batch, scores = turns(rollout.sequences), final_scores(outcome, rollout, judges.unlike)
        with torch.no_grad():
            old, ref = ([model.logprobs(turn, temperature) for turn in batch] for model in (policy, reference))
        pairs = pairs_of(scores, k, every=recipe.pairs == "all")
        count = min(recipe.minibatches, len({better // k for better, _ in pairs})) * recipe.epochs
        told, learned = [], []
        for update in (next(updates) for _ in range(count)):
            rows = rows_of(update)
            mine = [pair for pair in pairs if pair[0] in rows]
            assert {row for pair in mine for row in pair} == set(rows), "both sides of every pair, and nothing else"
            whole = {row: policy.logprobs(batch[row], temperature).sum() for row in rows}
            moved = {row: whole[row] - ref[row].sum() for row in rows}
            gaps = torch.stack([moved[better] - moved[worse] for better, worse in mine])
            if recipe.loss == "ipo":
                loss = (gaps - 1 / (2 * recipe.beta)).square().mean()
            else:
                loss = torch.log1p(torch.exp(-recipe.beta * gaps)).mean()
            said = {"dpo/loss": loss.item(), "dpo/margin": recipe.beta * gaps.mean().item()}
            said["dpo/accuracy"] = float((gaps > 0).double().mean())
            for place, side in enumerate(("chosen", "rejected")):
                said[f"dpo/{side}_logprob"] = torch.stack([whole[pair[place]] for pair in mine]).mean().item()
                said[f"dpo/{side}_reward"] = (
                    recipe.beta * torch.stack([moved[pair[place]] for pair in mine]).mean().item()
                )
            told.append((len(mine), said | learned_from(loss, policy, update)))
            learned += mine
        assert sorted(learned) == sorted(pairs * recipe.epochs)
        expected = measured(rollout, scores, old, ref, k) | {"dpo/pairs": float(len(pairs))} | over_updates(told)
        if step == 0:  # at the reference a margin is nothing but rounding
            del expected["dpo/accuracy"]
        yield expected
    assert next(updates, None) is None


def pairs_of(scores: Tensor, k: int, *, every: bool) -> list[tuple[int, int]]:
    """Rows of the better and the worse of each pair."""
    found = []
    for first, group in groups_of(scores, k):
        if every:
            found += [(first + a, first + b) for a in range(k) for b in range(k) if group[a] > group[b]]
        elif max(group) > min(group):
            found.append((first + group.index(max(group)), first + group.index(min(group))))
    return found


def distill(outcome: Outcome) -> Iterator[Told]:
    """Agarwal et al. 2023 with the reverse divergence; of several teachers, for each prompt, the one judged best."""
    recipe = outcome.recipe
    temperature, k, each = recipe.sampling.temperature, recipe.responses_per_prompt, recipe.epochs * recipe.minibatches
    policy = Learner(recipe.model, settings=recipe.optimizer, total=recipe.steps * each)
    teachers = [Learner(path) for path in recipe.teachers]
    several = len(teachers) > 1
    drawn = 1 + len(teachers) * several  # the policy first, then every teacher
    for step in range(recipe.steps):
        rollout, *answers = outcome.rollouts[step * drawn : (step + 1) * drawn]
        batch = turns(rollout.sequences)
        with torch.no_grad():
            old = [policy.logprobs(turn, temperature) for turn in batch]
        length = sum(map(len, old)) / len(old)
        expected = {
            "policy/entropy": float(-torch.cat(old).mean()),
            "tokens/response_length": length,
            "tokens/truncated": float((~rollout.ended).double().mean()),
        }
        chosen = [0] * (len(batch) // k)
        if several:
            scores = torch.tensor([judges.unlike([], answer.texts) for answer in answers]) * recipe.rewards[0].weight
            chosen = scores.argmax(0).tolist()
            expected["distill/teacher_score"] = float(scores.amax(0).mean())
            expected["distill/first_teacher"] = chosen.count(0) / len(chosen)
        told, learned = [], []
        for update in outcome.updates["policy"][step * each : (step + 1) * each]:
            rows = rows_of(update)
            kl = torch.cat([divergence(policy, teachers[chosen[row // k]], batch[row], temperature) for row in rows])
            loss = kl.mean()
            told.append((len(kl), {"distill/loss": loss.item()} | learned_from(loss, policy, update)))
            learned += rows
        assert sorted(learned) == sorted([*range(len(batch))] * recipe.epochs)
        yield expected | over_updates(told)


def divergence(policy: Learner, teacher: Learner, turn: Turn, temperature: float) -> Tensor:
    """KL(policy || teacher) before each token of a response."""
    ours, theirs = (
        (model.network(torch.tensor([turn.prompt + turn.response])).logits[0] / temperature).log_softmax(-1)
        for model in (policy, teacher)
    )
    whole = (ours.exp() * (ours - theirs.detach())).sum(-1)
    return whole[len(turn.prompt) - 1 : -1]


CASES: dict[str, tuple[str, dict[str, Any], By]] = {
    "RAFT": ("raft", SCORED, raft),
    "DPO, every pair": ("online-dpo", SCORED | {"pairs": "all", "beta": 0.3}, online_dpo),
    "DPO, the ends": ("online-dpo", SCORED | {"beta": 0.5}, online_dpo),
    "IPO, every pair": ("online-dpo", SCORED | {"pairs": "all", "loss": "ipo", "beta": 0.3}, online_dpo),
    "one teacher": ("distill", SEVERAL, distill),
    "two teachers": ("distill", SEVERAL | TEACHERS, distill),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_is_what_its_paper_says(case: str, runs: Runs) -> None:
    """Weights after every update, every number that was logged and nothing beside, and the responses shown."""
    stage, settings, by = CASES[case]
    outcome = runs(stage, settings)
    assert outcome.error == ""
    for step, (expected, row) in enumerate(zip(by(outcome), outcome.metrics, strict=True)):
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=1e-3, abs=5e-5), f"step {step}: {name}"
        beside = {name for name in row if not name.startswith("time/")} - expected.keys()
        assert beside <= {"step", "data/left_out", "dpo/accuracy"}
        check_samples(outcome, step, scored=stage != "distill")
    # what is checked did happen
    assert len(outcome.updates["policy"][0].learned) > 1, "microbatches"
    assert 0 < outcome.metrics[0]["tokens/truncated"] < 1
    rates = [update["policy/learning_rate"] for update in outcome.metrics]
    assert rates[-1] < rates[1], "it falls to the end"


def check_samples(outcome: Outcome, step: int, *, scored: bool) -> None:
    """One of every fourth part of the responses, with its score if there is one."""
    drawn = len(outcome.rollouts) // outcome.recipe.steps
    rollout = outcome.rollouts[step * drawn]
    shown = [row for row in outcome.lines("samples.jsonl") if row["step"] == step]
    places = range(0, len(rollout.texts), len(rollout.texts) // 4)
    assert [(row["prompt"], row["response"]) for row in shown] == [
        (rollout.prompts[place].text, rollout.texts[place]) for place in places
    ]
    if scored:
        scores = final_scores(outcome, rollout, judges.unlike)[list(places)]
        assert [row["score"] for row in shown] == pytest.approx(scores.tolist())
    else:
        assert not any("score" in row for row in shown)


@pytest.mark.parametrize(
    ("stage", "changes", "of_each"),
    [("raft", {}, 1), ("online-dpo", {}, 2), ("online-dpo", {"pairs": "all"}, 4), ("distill", {}, 4)],
)
def test_as_many_responses_are_foretold_as_are_learned(
    stage: str, changes: dict[str, Any], of_each: int, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a run will take is told by the minibatches that it will have, when every prompt has something to teach."""
    told: list[int] = []
    reinforced = actors.reinforced

    def spied(recipe: Any, expected: Any, split: Any) -> Any:
        parts = split(responses := sequences_of(expected, recipe), recipe.minibatches)
        told.append(sum(map(len, parts)))
        assert len(responses) == 3 * 4
        assert len(parts) == recipe.minibatches
        return reinforced(recipe, expected, split)

    monkeypatch.setattr(actors, "reinforced", spied)
    more = {} if stage == "distill" else {"rewards.0.function": f"{judges.__name__}:unlike"}
    outcome = runs(stage, {"seed": 11, "steps": 1, "responses_per_prompt": 4, "minibatches": 3} | more | changes)
    assert outcome.error == ""
    assert set(told) == {3 * of_each}
    assert sum(len(rows_of(update)) for update in outcome.updates["policy"]) == 3 * of_each


def sequences_of(expected: Any, recipe: Any) -> Any:
    """Responses as the estimate has them, as long as they may be."""
    prompts = max(expected.lengths, key=sum)
    return responses_to(prompts, recipe.responses_per_prompt, recipe.sampling.max_new_tokens)
