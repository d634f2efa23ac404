"""REINFORCE with the leave-one-out baseline (RLOO).

The whole response is one action. Its reward is the score minus the price of diverging from the reference; its advantage
is that minus the mean of the other responses to the same prompt. No value model, no clipping, one update per rollout.

Left out: off-policy corrections (the local engine samples with the very weights that learn; this is asserted).

Kool et al. 2019 ("Buy 4 REINFORCE samples, get a baseline for free"); Ahmadian et al. 2024 (arXiv 2402.14740).
Run it: `palate reinforce recipes/reinforce.toml`.
"""

from __future__ import annotations

import time

import torch

from palate.lm.optim import Optimizer
from palate.objectives.advantages import leave_one_out, shape_rewards
from palate.objectives.losses import combine_metrics, policy_loss
from palate.recipe import ReinforceRecipe
from palate.rollout.local import LocalEngine
from palate.run.directory import Run
from palate.stages.common import finish_run, floats, write_model
from palate.stages.estimate.expected import Expected, reinforced
from palate.stages.estimate.fitting import expect
from palate.stages.reinforcement.rollouts import (
    Watch,
    check_on_policy,
    collect,
    load_actors,
    prompts_of_step,
    sample_rows,
)

USUAL_CLIP_RANGE = 0.2
"""PPO's. Nothing is clipped here; ratios that would be are counted before the update, when all of them should be 1."""


def train(recipe: ReinforceRecipe, run: Run) -> None:
    """Improve ``recipe.model`` on its rewards and write it to ``run``."""
    expected = Expected(recipe, prompts_of_step)
    recipe = expect(run, recipe, expected.policy.device, lambda recipe: reinforced(recipe, expected))
    actors = load_actors(recipe, run)
    policy = actors.policy.model
    engine = LocalEngine(policy, actors.policy.chat)
    optimizer = Optimizer(policy, recipe.optimizer, recipe.steps, name="policy")
    watch = Watch(recipe)

    for step in run.steps(
        recipe.steps,
        every=recipe.checkpoint_every,
        keep=recipe.keep_checkpoints,
        state={"policy": optimizer, "watch": watch},
    ):
        start = time.perf_counter()
        scored, metrics = collect(actors, engine, recipe, step)
        watch.check(step, metrics)
        rollout, mask = scored.rollout, scored.mask
        rewards = shape_rewards(scored.scores, rollout.logprobs, scored.ref_logprobs, mask, kl_coef=recipe.kl_coef).sum(
            1
        )
        advantages = leave_one_out(rewards, scored.sequences.group_ids)[:, None].expand(mask.shape)

        num_tokens, parts, log_ratios = int(mask.sum()), [], []
        for part in scored.sequences.microbatches(recipe.microbatch_tokens):
            new_logprobs = policy.logprobs(part, temperature=rollout.temperature, trunk=scored.trunk)
            logprobs, advantage = part.take(rollout.logprobs, advantages)
            log_ratios.append((new_logprobs.detach() - logprobs)[part.mask])
            # the ratio is 1, so the gradient of the unclipped surrogate is that of advantage * log p
            loss, part_metrics = policy_loss(
                new_logprobs, logprobs, advantage, part.mask, clip_range=torch.inf, denominator=num_tokens
            )
            loss.backward()
            parts.append(part_metrics)
        metrics |= check_on_policy(log_ratios, len(mask), clip_range=USUAL_CLIP_RANGE, step=step)
        metrics |= {"objective/reward": float(rewards.mean())} | floats(combine_metrics(parts)) | optimizer.step(step)
        run.log(step, metrics | {"time/step_s": time.perf_counter() - start})
        run.samples(step, sample_rows(scored))

    write_model(run, recipe, actors.policy)
    finish_run(run, {"left_out": actors.left_out})
