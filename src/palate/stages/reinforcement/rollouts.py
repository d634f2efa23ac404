"""The half of a step that PPO and REINFORCE share: sample, score, compare with the reference.

Nothing here knows which of them called. What is measured here is watched here: a negative KL or a collapsed entropy
ends the run with its cause.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from palate.corpus import read_prompts
from palate.errors import ModelError, TrainingError
from palate.lm.adapters import base, merge
from palate.lm.batch import Sequences, per_token
from palate.lm.model import LanguageModel, Trunk
from palate.lm.sources.zoo import Loaded, load_language_model
from palate.objectives.divergence import k1, k3
from palate.randomness import permutation
from palate.recipe import RLRecipe
from palate.records import Prompt
from palate.rewards.mix import Mix
from palate.rollout.engine import Rollout, RolloutEngine
from palate.run.directory import Run
from palate.stages.common import longest, prepare, prompts_with_room

ON_POLICY_TOLERANCE = 0.05
"""Nats a token, mean over the step: fp32 stays below 1e-4, bf16 below 0.01 (docs/concepts/precision.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A rollout, what it earned, and what the reference thinks of it.

    Attributes:
        rollout: as the engine gave it.
        scores: [B] rewards, the truncation rule applied.
        ref_logprobs: [B, T] of the reference policy at the same temperature.
        trunk: the frozen lower layers' hidden states, for whoever shares them; None when nothing is frozen.
    """

    rollout: Rollout
    scores: Tensor
    ref_logprobs: Tensor
    trunk: Trunk | None

    @property
    def sequences(self) -> Sequences:
        """The rollout's tokens."""
        return self.rollout.sequences

    @property
    def mask(self) -> Tensor:
        """[B, T] the response tokens."""
        return self.sequences.mask


@dataclass(frozen=True, slots=True, kw_only=True)
class Actors:
    """The frozen half of an RL stage and the policy it judges.

    Attributes:
        left_out: rows of the prompts' file that are not used.
    """

    policy: Loaded[LanguageModel]
    reference: LanguageModel
    rewards: Mix
    prompts: tuple[Prompt, ...]
    left_out: int


def load_actors(recipe: RLRecipe, run: Run) -> Actors:
    """Policy, what it was at first, the rewards and the prompts; what stays the same in several is in memory once."""
    policy = load_policy(recipe)
    prepare(policy.model, recipe)
    reference = base(policy.model) if recipe.adapter else load_policy(recipe).model
    merge(reference)
    rewards = Mix(recipe.rewards, precision=recipe.precision, max_tokens=recipe.microbatch_tokens)
    models = [policy.model, reference, *(source.model for source in rewards.learned)]
    for number, model in enumerate(models[1:], start=1):
        model.freeze_all(min(recipe.frozen_layers, model.model.shape.num_layers))
        for other in models[:number]:
            model.adopt(other)
    if any(source.loaded.chat.tokenizer.get_vocab() != policy.chat.tokenizer.get_vocab() for source in rewards.learned):
        raise ModelError("the reward model has another vocabulary than the policy: train it from the same base model")
    if strangers := [source.loaded.name for source in rewards.learned if not source.reads_like(policy.chat)]:
        raise ModelError(
            f"the reward model {strangers[0]} was trained with another chat template than the policy's, whose "
            "tokens it is to score: give both the same chat_template, and train the reward model again"
        )
    data = read_prompts(recipe.prompts)
    run.add_inputs({"prompts": data.files, "model": policy.weights, "rewards": rewards.hashes})
    prompts = prompts_with_room(
        run,
        data,
        [policy.chat],
        longest(recipe, policy.model, *(source.model for source in rewards.learned)),
        max_new_tokens=recipe.sampling.max_new_tokens,
        max_left_out=recipe.max_left_out,
    )
    return Actors(policy=policy, reference=reference, rewards=rewards, prompts=prompts, left_out=data.rejected.total)


def load_policy(recipe: RLRecipe) -> Loaded[LanguageModel]:
    """The model that the recipe starts from."""
    return load_language_model(recipe.model, chat_template=recipe.chat_template, precision=recipe.precision)


def prompts_of_step(prompts: Sequence[Prompt], recipe: RLRecipe, step: int) -> list[Prompt]:
    """The next ``prompts_per_step`` of endless shuffled passes over the prompts; a function of the step alone."""
    first, count = step * recipe.prompts_per_step, len(prompts)
    places = range(first, first + recipe.prompts_per_step)
    passes = sorted({place // count for place in places})
    orders = {number: permutation(count, recipe.seed, recipe.stage, "prompts", number) for number in passes}
    return [prompts[int(orders[place // count][place % count])] for place in places]


def collect(actors: Actors, engine: RolloutEngine, recipe: RLRecipe, step: int) -> tuple[Scored, dict[str, float]]:
    """Sample responses, score them, and ask the reference; with the metrics of all that."""
    start = time.perf_counter()
    rollout = engine.generate(
        prompts_of_step(actors.prompts, recipe, step),
        recipe.sampling,
        num_responses=recipe.responses_per_prompt,
        key=(recipe.seed, recipe.stage, step),
    )
    seconds = time.perf_counter() - start
    start += seconds
    sequences = rollout.sequences
    trunk = actors.policy.model.trunk(sequences, max_tokens=recipe.microbatch_tokens)
    scores = actors.rewards(rollout.prompts, rollout.texts, rollout.sampled_tokens(trunk)).to(sequences.tokens.device)
    if recipe.truncation_score is not None:
        scores = torch.where(rollout.ended.to(scores.device), scores, recipe.truncation_score)
    with torch.no_grad():
        ref_logprobs = per_token(
            sequences,
            recipe.microbatch_tokens,
            lambda microbatch: actors.reference.logprobs(microbatch, temperature=rollout.temperature, trunk=trunk),
        )
    scored = Scored(rollout=rollout, scores=scores, ref_logprobs=ref_logprobs, trunk=trunk)
    metrics = _measure(scored) | {"data/left_out": actors.left_out}
    times = {"time/rollout_s": seconds, "time/score_s": time.perf_counter() - start}
    return scored, metrics | times | {"time/tokens_per_s": int(sequences.mask.sum()) / seconds}


def check_on_policy(
    log_ratios: Sequence[Tensor], num_responses: int, *, clip_range: float, step: int
) -> dict[str, float]:
    """Before the first update, training and sampling must agree about every token, up to rounding.

    What is compared is all that is trained on before the weights change, so nothing depends on microbatches, a few of
    which hold a handful of tokens and would differ by far more, or less, than the mean.

    Args:
        log_ratios: [N] for each microbatch, log p of the response tokens in training minus that in sampling.
        num_responses: in all of them.
        clip_range: of the ratio, on either side of 1.
        step: the run's, for the error message.

    Returns:
        The metrics of how well they agree.

    Raises:
        TrainingError: they do not, so that no probability ratio would mean anything.
    """
    log_ratio = torch.cat([each.detach().double() for each in log_ratios])
    gap = float(log_ratio.abs().mean())
    if not gap < ON_POLICY_TOLERANCE:  # a NaN is no agreement
        raise TrainingError(
            f"step {step}: sampling and training differ by {gap:.4f} nats a token with the same weights (at most "
            f'{ON_POLICY_TOLERANCE} is rounding): start again with precision = "fp32" and another --out; if that does '
            "not help, this model's network cannot be trained by reinforcement learning here"
        )
    return {
        "sampler/gap": gap,
        "sampler/gap_max": float(log_ratio.abs().max()),
        "sampler/kl_k3": float(k3(-log_ratio, torch.zeros_like(log_ratio)).sum() / num_responses),
        "sampler/outside_clip_range": float(((log_ratio.exp() - 1).abs() > clip_range).double().mean()),
    }


def _measure(scored: Scored) -> dict[str, float]:
    rollout, mask = scored.rollout, scored.mask
    lengths = mask.sum(1).double()
    tokens = float(lengths.sum())
    by_prompt = scored.scores.view(len(torch.unique(scored.sequences.group_ids)), -1)
    return {
        "objective/score": float(scored.scores.mean()),
        "objective/score_std": float(scored.scores.std(correction=0)),
        "objective/kl": float(k1(rollout.logprobs, scored.ref_logprobs).sum() / len(lengths)),
        "objective/kl_k3": float(k3(rollout.logprobs, scored.ref_logprobs).sum() / len(lengths)),
        "objective/groups_without_signal": float((by_prompt.amax(1) == by_prompt.amin(1)).double().mean()),
        "objective/length_correlation": _correlation(lengths, scored.scores.double()),
        # the mean of -log p over samples of p is an unbiased estimate of its entropy
        "policy/entropy": float(-rollout.logprobs.sum() / tokens),
        "tokens/response_length": float(lengths.mean()),
        "tokens/truncated": float(1.0 - rollout.ended.double().mean()),
    }


def _correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's; zero when either does not vary, as one response alone never does."""
    if float(a.std(correction=0)) == 0.0 or float(b.std(correction=0)) == 0.0:
        return 0.0
    return float(np.corrcoef(a.cpu().numpy(), b.cpu().numpy())[0, 1])


class Watch:
    """Ends a run that has gone wrong for three steps in a row.

    The sampled KL may dip below zero by chance, never stay there; entropy may be low, never vanish.
    """

    PATIENCE = 3

    def __init__(self, recipe: RLRecipe) -> None:
        self.recipe = recipe
        self.negative_kl = self.low_entropy = 0

    def check(self, step: int, metrics: dict[str, float]) -> None:
        """Raises:
        TrainingError: names the step and the cause.
        """
        kl, entropy = metrics["objective/kl"], metrics["policy/entropy"]
        self.negative_kl = self.negative_kl + 1 if kl < -self.recipe.max_negative_kl else 0
        self.low_entropy = self.low_entropy + 1 if entropy < self.recipe.min_entropy else 0
        if self.negative_kl == self.PATIENCE:
            raise TrainingError(
                f"step {step}: the KL to the reference stays negative (now {kl:.3f} nats a response): "
                "policy and reference do not score the same tokens at the same temperature"
            )
        if self.low_entropy == self.PATIENCE:
            raise TrainingError(
                f"step {step}: the policy's entropy has collapsed (now {entropy:.4f} nats a token): "
                "raise kl_coef or lower the learning rate"
            )

    def state_dict(self) -> dict[str, int]:
        """For checkpoints."""
        return {"negative_kl": self.negative_kl, "low_entropy": self.low_entropy}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """From a checkpoint."""
        self.negative_kl, self.low_entropy = int(state["negative_kl"]), int(state["low_entropy"])


def sample_rows(scored: Scored, count: int = 4) -> list[dict[str, object]]:
    """A few responses for a person to read: the first of the first prompts."""
    every = max(1, len(scored.scores) // count)
    return [
        {
            "prompt": scored.rollout.prompts[row].text,
            "response": scored.rollout.texts[row],
            "score": float(scored.scores[row]),
        }
        for row in range(0, len(scored.scores), every)
    ][:count]
