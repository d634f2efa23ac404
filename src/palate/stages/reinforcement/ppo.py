"""Proximal policy optimisation against a reward model, as InstructGPT did it.

A step samples responses, pays every token for its divergence from the frozen reference and the last one for the score,
estimates advantages with a value model that started from the reward model, and improves both models for a few epochs.
With `[pretraining]` the language-model gradient on raw text is added before the same optimizer step (PPO-ptx).

What is whose: sampling, scoring and the reference in `rollouts.py`; advantages and losses in `objectives/`.
Left out: an entropy bonus (the KL term already pays for entropy), early stopping of epochs on KL, shared policy and
value networks.

Schulman et al. 2017 (arXiv 1707.06347); Stiennon et al. 2020 (arXiv 2009.01325); Ouyang et al. 2022 (arXiv 2203.02155).
Run it: `palate ppo recipes/ppo.toml`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from palate.corpus import read_texts
from palate.errors import DataError, RecipeError
from palate.lm.adapters import adapt, adapted, learn, merge
from palate.lm.batch import Sequences, per_token
from palate.lm.encode import encode_texts
from palate.lm.model import LanguageModel, ScalarModel, Trunk
from palate.lm.optim import Optimizer
from palate.lm.sources.zoo import load_scalar_model, locate
from palate.objectives.advantages import explained_variance, gae, shape_rewards, whiten
from palate.objectives.divergence import updated_kl_coef
from palate.objectives.losses import Metrics, combine_metrics, policy_loss, sft_loss, value_loss
from palate.randomness import permutation
from palate.recipe import PPORecipe
from palate.rewards.heads import read_heads, value_units
from palate.rollout.local import LocalEngine
from palate.run.directory import Run
from palate.stages.common import finish_run, floats, write_model
from palate.stages.estimate.expected import Expected, reinforced
from palate.stages.estimate.fitting import expect
from palate.stages.reinforcement.rollouts import (
    Actors,
    Scored,
    Watch,
    check_on_policy,
    collect,
    load_actors,
    prompts_of_step,
    sample_rows,
)


def train(recipe: PPORecipe, run: Run) -> None:
    """Improve ``recipe.model`` on its rewards and write it to ``run``."""
    expected = Expected(recipe, prompts_of_step)
    recipe = expect(run, recipe, expected.policy.device, lambda recipe: reinforced(recipe, expected, minibatches))
    actors = load_actors(recipe, run)
    policy, chat = actors.policy.model, actors.policy.chat
    value_model = load_value_model(recipe, actors, run)
    text = load_pretraining(recipe, actors, run)
    engine = LocalEngine(policy, chat)
    updates = recipe.epochs * recipe.minibatches
    policy_updates, value_updates = (recipe.steps - recipe.value_warmup) * updates, recipe.steps * updates
    learners = Learners(
        policy=policy,
        value_model=value_model,
        policy_optimizer=Optimizer(policy, recipe.optimizer, policy_updates, name="policy"),
        value_optimizer=Optimizer(value_model, recipe.value_optimizer, value_updates, name="value"),
    )
    controller, watch = KLController(recipe), Watch(recipe)

    for step in run.steps(
        recipe.steps,
        every=recipe.checkpoint_every,
        keep=recipe.keep_checkpoints,
        state={
            "policy": learners.policy_optimizer,
            "value": learners.value_optimizer,
            "controller": controller,
            "watch": watch,
        },
    ):
        start = time.perf_counter()
        scored, metrics = collect(actors, engine, recipe, step)
        watch.check(step, metrics)
        batch, batch_metrics = estimate(scored, value_model, recipe, controller.kl_coef)
        metrics |= batch_metrics

        made: list[tuple[int, dict[str, float]]] = []
        for epoch in range(recipe.epochs):
            for number, minibatch in enumerate(minibatches(scored.sequences, recipe, step, epoch)):
                first = epoch == number == 0
                extra = None if text is None else text_batch(text, recipe, step, epoch, number)
                told = update(learners, batch, minibatch, extra, recipe, step, first=first)
                made.append((int(minibatch.mask.sum()), told))

        metrics |= mean_of_updates(made) | {"objective/kl_coef": controller.kl_coef}
        controller.update(metrics["objective/kl"], len(scored.sequences))
        run.log(step, metrics | {"time/step_s": time.perf_counter() - start})
        run.samples(step, sample_rows(scored))

    write_model(run, recipe, actors.policy)
    finish_run(run, {"left_out": actors.left_out})


@dataclass(frozen=True, slots=True, kw_only=True)
class Learners:
    """The two models that learn, and how."""

    policy: LanguageModel
    value_model: ScalarModel
    policy_optimizer: Optimizer
    value_optimizer: Optimizer


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyBatch:
    """What the losses may see of a rollout; every tensor is [B, T]."""

    logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    temperature: float
    trunk: Trunk | None


def estimate(
    scored: Scored, value_model: ScalarModel, recipe: PPORecipe, kl_coef: float
) -> tuple[PolicyBatch, dict[str, float]]:
    """Rewards per token, values, advantages and returns; all of them over the whole rollout."""
    rollout, mask = scored.rollout, scored.mask
    with torch.no_grad():
        values = per_token(
            scored.sequences, recipe.microbatch_tokens, lambda part: value_model.values(part, trunk=scored.trunk)
        )
    rewards = shape_rewards(scored.scores, rollout.logprobs, scored.ref_logprobs, mask, kl_coef=kl_coef)
    reward = float(rewards.sum(1).mean())
    if recipe.whiten_rewards:
        rewards = whiten(rewards, mask, shift_mean=False)
    advantages, returns = gae(rewards, values, mask, gamma=recipe.gamma, gae_lambda=recipe.gae_lambda)
    batch = PolicyBatch(
        logprobs=rollout.logprobs,
        values=values,
        advantages=whiten(advantages, mask, shift_mean=True),
        returns=returns,
        temperature=rollout.temperature,
        trunk=scored.trunk,
    )
    metrics, explained = {"objective/reward": reward}, float(explained_variance(values, returns, mask))
    if not math.isnan(explained):  # undefined where the returns do not vary
        metrics["value/explained_variance"] = explained
    return batch, metrics


def minibatches(sequences: Sequences, recipe: PPORecipe, step: int, epoch: int) -> list[Sequences]:
    """The rollout in random parts of whole prompts, so that no prompt is computed twice in an epoch."""
    groups = torch.unique(sequences.group_ids)
    order = torch.from_numpy(permutation(len(groups), recipe.seed, "ppo", "minibatches", step, epoch))
    parts = groups[order].tensor_split(recipe.minibatches)
    return [sequences.select(torch.isin(sequences.group_ids, part).nonzero()[:, 0]) for part in parts]


def update(
    learners: Learners,
    batch: PolicyBatch,
    minibatch: Sequences,
    text: Sequences | None,
    recipe: PPORecipe,
    step: int,
    *,
    first: bool,
) -> dict[str, float]:
    """One optimizer step of each model on one minibatch; denominators are those of the whole minibatch."""
    num_tokens, parts, log_ratios = int(minibatch.mask.sum()), [], []
    learns_policy = step >= recipe.value_warmup
    for part in minibatch.microbatches(recipe.microbatch_tokens):
        logprobs, values, advantages, returns = part.take(batch.logprobs, batch.values, batch.advantages, batch.returns)
        metrics: Metrics = {}
        if learns_policy:
            new_logprobs = learners.policy.logprobs(part, temperature=batch.temperature, trunk=batch.trunk)
            log_ratios.append((new_logprobs.detach() - logprobs)[part.mask])
            loss, metrics = policy_loss(
                new_logprobs, logprobs, advantages, part.mask, clip_range=recipe.clip_range, denominator=num_tokens
            )
            loss.backward()
        new_values = learners.value_model.values(part, trunk=batch.trunk)
        loss, value_metrics = value_loss(
            new_values,
            values,
            returns,
            part.mask,
            clip_range_value=recipe.clip_range_value or None,
            denominator=num_tokens,
        )
        loss.backward()
        parts.append(metrics | value_metrics)
    combined = floats(combine_metrics(parts))
    if first and learns_policy:
        combined |= check_on_policy(log_ratios, len(minibatch), clip_range=recipe.clip_range, step=step)
    if text is not None and recipe.pretraining is not None and learns_policy:
        combined |= pretraining_gradient(learners.policy, text, recipe.pretraining.coef, recipe.microbatch_tokens)
    if learns_policy:
        combined |= learners.policy_optimizer.step(step)
    return combined | learners.value_optimizer.step(step)


PER_UPDATE = ("grad_norm", "learning_rate", "pretraining_loss")
"""Ends of the names of metrics that are of an update and not of a token."""


def mean_of_updates(updates: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, float]:
    """The metrics of a step from those of its updates, each with its number of response tokens.

    What is a mean over tokens weighs an update by them; the largest ratio is the largest of all. How well the sampler
    agrees is known of the first update alone.
    """
    found = {}
    for name in updates[0][1]:
        told = [(count, metrics[name]) for count, metrics in updates if name in metrics]
        tokens, values = np.array(told, dtype=np.float64).T
        weights = None if name.endswith(PER_UPDATE) else tokens
        found[name] = float(values.max() if name == "policy/ratio_max" else np.average(values, weights=weights))
    return found


def pretraining_gradient(policy: LanguageModel, text: Sequences, coef: float, max_tokens: int) -> dict[str, float]:
    """Add ``coef`` times the gradient of the language-model loss on raw text to what is there already."""
    num_tokens, parts = int(text.mask.sum()), []
    for part in text.microbatches(max_tokens):
        loss, metrics = sft_loss(policy.logprobs(part, temperature=1.0), part.mask, denominator=num_tokens)
        (coef * loss).backward()
        parts.append(metrics["sft/loss"])
    return {"policy/pretraining_loss": float(sum(parts))}


def load_value_model(recipe: PPORecipe, actors: Actors, run: Run) -> ScalarModel:
    """Started from the reward model, in its normalised units; with the adapter that it has, if adapters learn.

    Of several heads it has one: the mean of those that give scores.
    """
    name = recipe.value_model or actors.rewards.learned[0].loaded.name
    loaded = load_scalar_model(name, precision=recipe.precision, seed=recipe.seed)
    run.add_inputs({"value_model": loaded.weights})
    if loaded.chat.fingerprint != actors.policy.chat.fingerprint:
        run.note(f"value model: {name} has another chat template than the policy; it learns the policy's")
    value_model = loaded.model
    value_model.average_heads(value_units(read_heads(locate(name), value_model.num_heads)))
    if recipe.recompute_activations:
        value_model.model.recompute()
    frozen_layers = min(recipe.frozen_layers, value_model.model.shape.num_layers)
    if recipe.adapter is None:
        merge(value_model)
        value_model.freeze(frozen_layers)
    else:
        value_model.freeze_all(frozen_layers)
        if adapted(value_model):  # its weights are then the others'; merged they would be its own
            learn(value_model)
        else:
            adapt(value_model, recipe.adapter, seed=recipe.seed)
    for other in (actors.policy.model, *(source.model for source in actors.rewards.learned)):
        value_model.adopt(other)
    return value_model


def load_pretraining(recipe: PPORecipe, actors: Actors, run: Run) -> Sequences | None:
    """Windows of raw text for PPO-ptx."""
    if recipe.pretraining is None:
        return None
    context, sequence_length = actors.policy.model.context, recipe.pretraining.sequence_length
    if sequence_length > context:
        raise RecipeError(f"pretraining.sequence_length = {sequence_length}, but {recipe.model} was made for {context}")
    texts = read_texts(recipe.pretraining.data)
    run.add_inputs({"pretraining": texts.files})
    windows = encode_texts(actors.policy.chat, texts.records, length=sequence_length)
    if len(windows) < recipe.pretraining.sequences_per_step:
        raise DataError(
            f"the text is enough for {len(windows)} sequences of {sequence_length} tokens, but "
            f"pretraining.sequences_per_step = {recipe.pretraining.sequences_per_step}: lower one of them, or add text",
            path=recipe.pretraining.data.path,
        )
    return windows.to(actors.policy.model.device)


def text_batch(text: Sequences, recipe: PPORecipe, step: int, epoch: int, number: int) -> Sequences:
    """Random windows for one update; a function of where the run is."""
    assert recipe.pretraining is not None
    order = permutation(len(text), recipe.seed, "ppo", "pretraining", step, epoch, number)
    return text.select(torch.from_numpy(order[: recipe.pretraining.sequences_per_step]))


class KLController:
    """The KL coefficient, adapted towards a target if the recipe has one: Ziegler et al. 2019 (arXiv 1909.08593)."""

    def __init__(self, recipe: PPORecipe) -> None:
        self.recipe, self.kl_coef = recipe, recipe.kl_coef

    def update(self, kl: float, num_sequences: int) -> None:
        """After a rollout of ``num_sequences`` with this mean KL."""
        if self.recipe.kl_target is not None:
            self.kl_coef = updated_kl_coef(
                self.kl_coef,
                kl=kl,
                target=self.recipe.kl_target,
                num_sequences=num_sequences,
                horizon=self.recipe.kl_horizon,
            )

    def state_dict(self) -> dict[str, float]:
        """For checkpoints."""
        return {"kl_coef": self.kl_coef}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """From a checkpoint."""
        self.kl_coef = float(state["kl_coef"])
