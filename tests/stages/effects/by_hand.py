"""PPO and REINFORCE as their papers have them, on transformers' networks, one response after the other.

Nothing of Palate computes here: no padding, no masks, no microbatches, no frozen trunk. Taken from the run that is
checked are only the responses that were drawn, and which of them (and which texts) an update was made from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tests.stages.effects.runs import Outcome, Update
from tests.stages.effects.shared import learning_rate
from torch import Tensor

from palate.lm.batch import Sequences
from palate.rollout.engine import Rollout


@dataclass(frozen=True)
class Turn:
    """Token ids of a prompt and its response."""

    prompt: list[int]
    response: list[int]


def turns(sequences: Sequences) -> list[Turn]:
    """One by one; of a text the first token is the prompt."""
    spans = zip(sequences.tokens, sequences.prompt_lengths, sequences.lengths, strict=True)
    return [Turn(tokens[:start].tolist(), tokens[start:end].tolist()) for tokens, start, end in spans]


class Learner:
    """A network, and AdamW over all but its frozen layers.

    Args:
        path: of the model.
        scalar: with one number for each token instead of the next one's distribution.
        settings: of the optimizer; absent: nothing learns.
        total: updates in the whole run.
    """

    def __init__(self, path: str, *, scalar: bool = False, settings: Any = None, total: int = 0) -> None:
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

        kind: Any = AutoModelForSequenceClassification if scalar else AutoModelForCausalLM
        self.network = kind.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
        self.settings, self.total, self.updates = settings, total, 0
        for name, parameter in self.network.named_parameters():
            frozen = name.startswith(("model.embed_tokens.", "model.layers.0.", "lm_head."))
            parameter.requires_grad_(settings is not None and not frozen)
        self.learning = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        if settings is not None:
            betas = (settings.beta1, settings.beta2)
            self.adamw = torch.optim.AdamW(
                self.learning.values(), betas=betas, eps=settings.epsilon, weight_decay=settings.weight_decay
            )

    def logprobs(self, turn: Turn, temperature: float) -> Tensor:
        """log p of every token of the response."""
        logits = self.network(torch.tensor([turn.prompt + turn.response])).logits[0] / temperature
        before = logits[len(turn.prompt) - 1 : -1]  # a token's distribution stands at the one before it
        return before.log_softmax(-1).gather(-1, torch.tensor(turn.response)[:, None])[:, 0]

    def values(self, turn: Turn, mean: float) -> Tensor:
        """The value before every token of the response."""
        hidden = self.network.model(torch.tensor([turn.prompt + turn.response])).last_hidden_state[0]
        values: Tensor = self.network.score(hidden[len(turn.prompt) - 1 : -1])[:, 0] - mean
        return values

    def update(self) -> tuple[float, float]:
        """One step on the gradients that are there; their norm and the learning rate."""
        norm = float(sum(p.grad.square().sum() for p in self.learning.values())) ** 0.5
        limit = self.settings.max_grad_norm
        for parameter in self.learning.values():
            if limit and norm > limit:
                parameter.grad *= limit / norm
        rate = learning_rate(self.settings, self.updates, self.total)
        self.adamw.param_groups[0]["lr"] = rate
        self.adamw.step()
        self.adamw.zero_grad()
        self.updates += 1
        return norm, rate

    def check(self, update: Update) -> None:
        """The weights after this update are these."""
        ours = torch.cat([self.learning[name].detach().flatten() for name in update.names])
        torch.testing.assert_close(update.after, ours, rtol=1e-3, atol=5e-6)


Told = tuple[dict[str, float], dict[str, list[Tensor]]]
"""Of a step: its metrics; and by name what is said of the tokens of each response."""


def whitened(rows: Sequence[Tensor], *, keep_mean: bool) -> list[Tensor]:
    """All numbers of all rows with variance 1, and mean 0 unless it is kept."""
    together = torch.cat(list(rows))
    mean = together.mean()
    spread = (together.var(correction=0) + 1e-8).sqrt()
    return [(row - mean) / spread + (mean if keep_mean else 0.0) for row in rows]


def gae(rewards: Tensor, values: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    """Schulman et al. 2016, equation 16; nothing comes after the last token."""
    advantages, next_value, next_advantage = [], 0.0, 0.0
    for reward, value in zip(reversed(rewards.tolist()), reversed(values.tolist()), strict=True):
        delta = reward + gamma * next_value - value
        next_advantage = delta + gamma * gae_lambda * next_advantage
        next_value = value
        advantages.append(next_advantage)
    return torch.tensor(advantages[::-1])


def measured(
    rollout: Rollout, scores: Tensor, old: list[Tensor], ref: list[Tensor], num_responses: int
) -> dict[str, float]:
    """What a step logs of its rollout."""
    lengths = torch.tensor([float(len(row)) for row in old])
    log_ratios = [a - b for a, b in zip(old, ref, strict=True)]
    groups = scores.view(-1, num_responses)
    return {
        "objective/score": float(scores.mean()),
        "objective/score_std": float(scores.std(correction=0)),
        "objective/kl": float(sum(row.sum() for row in log_ratios)) / len(old),
        "objective/kl_k3": float(sum((torch.exp(-row) - 1 + row).sum() for row in log_ratios)) / len(old),
        "objective/groups_without_signal": float((groups == groups[:, :1]).all(1).double().mean()),
        "objective/length_correlation": torch.corrcoef(torch.stack([lengths, scores]))[0, 1].nan_to_num(0.0).item(),
        "policy/entropy": float(-torch.cat(old).mean()),
        "tokens/response_length": float(lengths.mean()),
        "tokens/truncated": float((~rollout.ended).double().mean()),
    }


def final_scores(outcome: Outcome, rollout: Rollout, judge: Any) -> Tensor:
    """What the judge says, but for responses that were cut off."""
    scores = torch.tensor(judge(rollout.prompts, rollout.texts)) * outcome.recipe.rewards[0].weight
    truncation_score = outcome.recipe.truncation_score
    return scores if truncation_score is None else torch.where(rollout.ended, scores, truncation_score)


def paid(scores: Tensor, old: list[Tensor], ref: list[Tensor], kl_coef: float) -> list[Tensor]:
    """Ziegler et al. 2019: every token of a response pays for its divergence, and the last one gets the score."""
    rewards = [-kl_coef * (a - b) for a, b in zip(old, ref, strict=True)]
    for row, score in zip(rewards, scores, strict=True):
        row[-1] += score
    return rewards


def reinforce(outcome: Outcome, judge: Any) -> Iterator[Told]:
    """REINFORCE and its descendants: what a run must have told, step by step; its weights are checked on the way."""
    recipe = outcome.recipe
    temperature, k = recipe.sampling.temperature, recipe.responses_per_prompt
    each = recipe.epochs * recipe.minibatches
    policy = Learner(recipe.model, settings=recipe.optimizer, total=recipe.steps * each)
    reference = Learner(recipe.reference or recipe.model)
    for step, rollout in enumerate(outcome.rollouts):
        batch = turns(rollout.sequences)
        with torch.no_grad():
            old = [policy.logprobs(turn, temperature) for turn in batch]
            ref = [reference.logprobs(turn, temperature) for turn in batch]
        scores = final_scores(outcome, rollout, judge)
        kl = torch.stack([(a - b).sum() for a, b in zip(old, ref, strict=True)])
        rewards = scores - recipe.kl_coef * kl
        expected = measured(rollout, scores, old, ref, k)
        expected |= {"objective/reward": float(rewards.mean()), "objective/kl_coef": recipe.kl_coef}
        advantages = [compared(rewards.tolist(), row, k, recipe.baseline) for row in range(len(batch))]
        told: list[tuple[int, dict[str, float]]] = []
        for update in outcome.updates["policy"][step * each : (step + 1) * each]:
            rows = [row for part in update.learned for row in part.rows.tolist()]
            new = {row: policy.logprobs(batch[row], temperature) for row in rows}
            num_tokens = sum(len(old[row]) for row in rows)
            said: dict[str, float] = dict.fromkeys(("policy/loss", "policy/kl_loss"), 0.0)
            total = torch.zeros(())
            ratios, log_ratios, clipped = [], [], 0
            for row in rows:
                count = {
                    "tokens": num_tokens,
                    "sequences": len(rows) * len(old[row]),
                    "constant": len(rows) * recipe.sampling.max_new_tokens,
                }[recipe.denominator]
                losses, ratio, left = surrogate(new[row], old[row], advantages[row], recipe)
                d = new[row] - ref[row]
                divergence = (torch.exp(-d) - 1 + d).sum() / count
                total = total + losses.sum() / count + recipe.kl_loss_coef * divergence
                said["policy/loss"] += losses.sum().item() / count
                said["policy/kl_loss"] += divergence.item()
                ratios += ratio.tolist()
                log_ratios += (new[row] - old[row]).tolist()
                clipped += left
            total.backward()
            norm, rate = policy.update()
            policy.check(update)
            said |= {
                "policy/clip_fraction": clipped / num_tokens,
                "policy/approx_kl": sum(math.exp(x) - 1 - x for x in log_ratios) / num_tokens,
                "policy/ratio_mean": sum(ratios) / num_tokens,
                "policy/ratio_max": max(ratios),
                "policy/grad_norm": norm,
                "policy/learning_rate": rate,
            }
            if not recipe.kl_loss_coef:
                del said["policy/kl_loss"]
            told.append((num_tokens, said))
        credit = {
            "kl": [a - b for a, b in zip(old, ref, strict=True)],
            "reward": paid(scores, old, ref, recipe.kl_coef),
            "advantage": [torch.full((len(row),), one) for row, one in zip(old, advantages, strict=True)],
        }
        yield expected | over_updates(told), credit


def compared(rewards: list[float], row: int, k: int, baseline: str) -> float:
    """The advantage of a response."""
    group, reward = rewards[row - row % k :][:k], rewards[row]
    mean = sum(group) / k
    if baseline == "group_normalized":
        return (reward - mean) / ((sum((other - mean) ** 2 for other in group) / k) ** 0.5)
    return (
        reward
        - {
            "none": 0.0,
            "batch_mean": sum(rewards) / len(rewards),
            "leave_one_out": (sum(group) - reward) / (k - 1),
            "group_mean": mean,
        }[baseline]
    )


def surrogate(new: Tensor, old: Tensor, advantage: float, recipe: Any) -> tuple[Tensor, Tensor, int]:
    """Of each token of a response what it adds to the loss, its ratio, and how many of them were clipped."""
    ratio = (new - old).exp()
    if recipe.surrogate == "sequence":
        ratio = (new - old).mean().exp().expand(len(new))
    low = math.inf if recipe.clip_range is None else recipe.clip_range
    high = low if recipe.clip_range_high is None else recipe.clip_range_high
    near = ratio.clamp(1 - low, 1 + high)
    if recipe.surrogate == "weight":
        return -near.detach() * advantage * new, ratio.detach(), int((near != ratio).sum())
    unclipped, clipped = -advantage * ratio, -advantage * near
    return torch.maximum(unclipped, clipped), ratio.detach(), int((clipped > unclipped).sum())


def over_updates(told: list[tuple[int, dict[str, float]]]) -> dict[str, float]:
    """Means over the updates of a step: by tokens, or by updates where a number is of an update; the largest ratio."""
    found = {}
    for name in told[0][1]:
        numbers = [said[name] for _, said in told]
        weights = [1 if name.endswith(("norm", "rate", "pretraining_loss")) else count for count, _ in told]
        mean = sum(n * w for n, w in zip(numbers, weights, strict=True)) / sum(weights)
        found[name] = max(numbers) if name.endswith("max") else mean
    return found


def ppo(outcome: Outcome, judge: Any, *, value_mean: float, value_scale: float) -> Iterator[Told]:
    """Schulman et al. 2017 with the pretraining gradient of Ouyang et al. 2022: what a run must have told.

    Args:
        value_mean, value_scale: units of the reward model that the value model starts from.
    """
    recipe = outcome.recipe
    temperature, k = recipe.sampling.temperature, recipe.responses_per_prompt
    each = recipe.epochs * recipe.minibatches
    policy = Learner(recipe.model, settings=recipe.optimizer, total=(recipe.steps - recipe.value_warmup) * each)
    critic = Learner(recipe.value_model, scalar=True, settings=recipe.value_optimizer, total=recipe.steps * each)
    critic.network.score.weight.data /= value_scale
    offset = value_mean / value_scale
    reference, kl_coef = Learner(recipe.reference or recipe.model), recipe.kl_coef
    for step, rollout in enumerate(outcome.rollouts):
        batch = turns(rollout.sequences)
        with torch.no_grad():
            old = [policy.logprobs(turn, temperature) for turn in batch]
            ref = [reference.logprobs(turn, temperature) for turn in batch]
            values = [critic.values(turn, offset) for turn in batch]
        scores = final_scores(outcome, rollout, judge)
        expected = measured(rollout, scores, old, ref, k) | {"objective/kl_coef": kl_coef}

        rewards = paid(scores, old, ref, kl_coef)
        credit = {"kl": [a - b for a, b in zip(old, ref, strict=True)], "reward": rewards, "value": values}
        expected["objective/reward"] = float(sum(row.sum() for row in rewards)) / len(rewards)
        if recipe.whiten_rewards:
            rewards = whitened(rewards, keep_mean=True)
        advantages = [gae(r, v, recipe.gamma, recipe.gae_lambda) for r, v in zip(rewards, values, strict=True)]
        returns = [a + v for a, v in zip(advantages, values, strict=True)]
        advantages = whitened(advantages, keep_mean=False)
        credit |= {"return": returns, "advantage": advantages}
        residual = torch.cat(returns) - torch.cat(values)
        expected["value/explained_variance"] = float(1 - residual.var() / torch.cat(returns).var())

        told: list[tuple[int, dict[str, float]]] = []
        for number in range(step * each, (step + 1) * each):
            made = outcome.updates["value"][number]
            rows = [row for part in made.learned for row in part.rows.tolist()]
            num_tokens = sum(len(old[row]) for row in rows)
            said: dict[str, float] = {}
            if step >= recipe.value_warmup:
                both = outcome.updates["policy"][number - recipe.value_warmup * each]
                texts = [turn for part in both.learned[len(made.learned) :] for turn in turns(part)]
                new = torch.cat([policy.logprobs(batch[row], temperature) for row in rows])
                said |= policy_step(policy, new, pick(old, rows), pick(advantages, rows), recipe, texts)
                policy.check(both)
            near = torch.cat([critic.values(batch[row], offset) for row in rows])
            said |= value_step(critic, near, pick(values, rows), pick(returns, rows), recipe)
            critic.check(made)
            told.append((num_tokens, said))
        expected |= over_updates(told)
        if recipe.kl_target is not None:
            error = min(max(expected["objective/kl"] / recipe.kl_target - 1, -0.2), 0.2)
            kl_coef *= 1 + error * len(batch) / recipe.kl_horizon
        yield expected, credit


def pick(numbers: list[Tensor], rows: list[int]) -> Tensor:
    """Those of some responses, one after the other."""
    return torch.cat([numbers[row] for row in rows])


def policy_step(
    policy: Learner, new: Tensor, old: Tensor, advantages: Tensor, recipe: Any, texts: list[Turn]
) -> dict[str, float]:
    """Equation 7, turned round, with the loss on raw text beside it."""
    ratio = (new - old).exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - recipe.clip_range, 1 + recipe.clip_range)
    loss = torch.maximum(unclipped, clipped).mean()
    said = {
        "policy/loss": loss.item(),
        "policy/clip_fraction": float((clipped > unclipped).double().mean()),
        "policy/approx_kl": (ratio - 1 - (new - old)).mean().item(),
        "policy/ratio_mean": ratio.mean().item(),
        "policy/ratio_max": ratio.max().item(),
    }
    if texts:
        text_loss = -torch.cat([policy.logprobs(turn, 1.0) for turn in texts]).mean()
        loss = loss + recipe.pretraining.coef * text_loss
        said["policy/pretraining_loss"] = text_loss.item()
    loss.backward()
    norm, rate = policy.update()
    return said | {"policy/grad_norm": norm, "policy/learning_rate": rate}


def value_step(critic: Learner, new: Tensor, old: Tensor, returns: Tensor, recipe: Any) -> dict[str, float]:
    """Half the squared error, the larger of what moved and what moved no further than allowed."""
    error = (new - returns).square()
    near = torch.maximum(torch.minimum(new, old + recipe.clip_range_value), old - recipe.clip_range_value)
    clipped_error = (near - returns).square()
    loss = 0.5 * torch.maximum(error, clipped_error).mean()
    loss.backward()
    norm, rate = critic.update()
    return {
        "value/loss": loss.item(),
        "value/clip_fraction": float((clipped_error > error).double().mean()),
        "value/error": error.mean().item(),
        "value/grad_norm": norm,
        "value/learning_rate": rate,
    }
