"""The agent: it acts, pairs of clips of what it did are compared, and it learns by PPO from what the comparisons say.

In every step the policy acts for a while in several copies of the environment. In some of them a round of questions
follows, more of them early: pairs of recent clips are put to a teacher, and the ensemble of reward networks learns from
all answers so far. The whole rollout is then paid by the networks as they are now, in units in which the steps of all
compared clips have mean 0 and spread 1, and policy and value network learn from it. The environment's own reward is
seen by simulated teachers and in evaluations and nowhere else, unless it is what is learned from (`reward =
"environment"`, the upper control).

What a comparison says of the rewards of a clip is known up to a constant for each step. Where episodes are of one
length that constant does not matter; where they end early it decides whether that is good, and nobody was asked
(`docs/guides/agent.md`).

Left out: replayed experience, curiosity before the first question (PEBBLE), a price of actions.

Christiano et al. 2017 (arXiv 1706.03741); teachers: Lee et al. 2021 (arXiv 2111.03026).
Run it: `palate agent recipes/pendulum.toml`.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from palate import disk
from palate.evals.report import Report
from palate.intervals import ratio_estimate
from palate.lm.optim import Optimizer
from palate.recipe import AgentRecipe
from palate.run.checkpoints import Stateful
from palate.run.directory import Run
from palate.stages.agent.actor_critic import Policy, Scale, ValueNetwork, policy_for
from palate.stages.agent.agent_report import add_examples, agreement_of, rankings_of
from palate.stages.agent.environments import Environments
from palate.stages.agent.paying import EnvironmentReward, Paying, TaughtReward
from palate.stages.agent.policy_updates import batch_of, improve
from palate.stages.agent.trajectories import Trajectories, act, evaluate, finished_returns
from palate.stages.common import deterministic, finish_run
from palate.stages.reinforcement.watching import correlation

COMPARISONS = "comparisons.jsonl"
"""What was said of every pair, as rankings."""


def train(recipe: AgentRecipe, run: Run) -> None:
    """Let an agent learn, measure it and write it to ``run``."""
    deterministic()
    environments = Environments(recipe.environment, recipe.num_environments, seed=recipe.seed, purpose="training")
    spaces = environments.spaces
    shape = {"width": recipe.hidden_size, "layers": recipe.layers, "seed": recipe.seed}
    policy = policy_for(spaces.num_observations, spaces.num_choices, spaces.num_actions, **shape)
    value = ValueNetwork(spaces.num_observations, **shape)
    taught = TaughtReward(recipe, spaces, run.directory) if recipe.reward == "comparisons" else None
    paying: Paying = EnvironmentReward(recipe, spaces) if taught is None else taught
    num_updates = recipe.steps * recipe.epochs * recipe.minibatches
    policy_optimizer = Optimizer(policy, recipe.optimizer, num_updates, name="policy")
    value_optimizer = Optimizer(value, recipe.value_optimizer, num_updates, name="value")
    scale, episodes = Scale(spaces.num_observations), EpisodeReturns(recipe.num_environments)
    state: dict[str, Stateful] = {
        "environments": environments,
        "policy": policy_optimizer,
        "value": value_optimizer,
        "scale": scale,
        "episodes": episodes,
        **paying.state,
    }

    for step in run.steps(recipe.steps, every=recipe.checkpoint_every, keep=recipe.keep_checkpoints, state=state):
        begun = time.perf_counter()
        key = (recipe.seed, "agent", "actions", step)
        done = act(environments, policy, scale, steps=recipe.steps_per_rollout, key=key)
        told = {"time/rollout_s": time.perf_counter() - begun}
        told |= paying.learn(done, step)
        rewards = paying.rewards(done)
        seen = scale(done.observations)
        batch, foretold = batch_of(
            done, rewards, seen, scale(done.after), value, gamma=recipe.gamma, gae_lambda=recipe.gae_lambda
        )
        told |= foretold | improve(
            policy,
            value,
            policy_optimizer,
            value_optimizer,
            batch,
            epochs=recipe.epochs,
            minibatches=recipe.minibatches,
            clip_range=recipe.clip_range,
            clip_range_value=recipe.clip_range_value,
            key=(recipe.seed, "agent", "minibatches", step),
            step=step,
        )
        told |= episodes.add(done)
        told["agent/steps"] = (step + 1) * rewards.numel()
        told["agent/reward_correlation"] = correlation(rewards.double().flatten(), done.rewards.flatten())
        told["agent/beyond_bounds"] = 0.0 if spaces.num_choices else float((done.actions.abs() > 1).float().mean())
        with torch.no_grad():
            told["policy/entropy"] = float(policy.entropy(seen).mean())
        scale.update(done.observations)
        if step % recipe.evaluate_every == 0 or step + 1 == recipe.steps:
            returns = evaluated(recipe, policy, scale, recipe.evaluation_episodes, purpose="evaluation")
            told["agent/return"] = float(returns.mean())
        told["time/step_s"] = time.perf_counter() - begun
        run.log(step, told)

    returns = evaluated(recipe, policy, scale, recipe.final_episodes, purpose="final evaluation")
    write_agent(run.directory / "model", policy, value, scale, taught)
    finish(recipe, run, taught, returns)


def evaluated(recipe: AgentRecipe, policy: Policy, scale: Scale, episodes: int, *, purpose: str) -> Tensor:
    """[E] returns of so many episodes by the environment's own reward; always of the same beginnings."""
    return evaluate(Environments(recipe.environment, episodes, seed=recipe.seed, purpose=purpose), policy, scale)


def write_agent(
    directory: Path, policy: torch.nn.Module, value: ValueNetwork, scale: Scale, taught: TaughtReward | None
) -> None:
    """The networks, and by what they see observations: a file for each."""
    tensors = {name: part.state_dict() for name, part in (("policy", policy), ("value", value), ("scale", scale))}
    if taught is not None:
        tensors |= {"reward": taught.ensemble.state_dict(), "reward_scale": taught.scale.state_dict()}

    def write(temporary: Path) -> None:
        for name, named in tensors.items():
            save_file({key: tensor.contiguous() for key, tensor in named.items()}, temporary / f"{name}.safetensors")

    disk.write_directory(directory, write)


def finish(recipe: AgentRecipe, run: Run, taught: TaughtReward | None, returns: Tensor) -> None:
    """What came of it: returns with their interval over episodes, and how well the teacher was understood."""
    found = ratio_estimate(returns.numpy(), torch.ones(len(returns)).numpy(), seed=recipe.seed)
    numbers = {"return": found.value, "return_low": found.low, "return_high": found.high}
    if taught is None:
        finish_run(run, numbers)
        return
    said = rankings_of(taught.comparisons, recipe.environment, recipe.labels.teacher)
    disk.write_text(run.directory / COMPARISONS, "".join(ranking.to_json() + "\n" for ranking in said))
    numbers |= agreement_of(taught, said, teacher=recipe.labels.teacher, seed=recipe.seed)

    def pictures(report: Report) -> None:
        add_examples(report, taught)

    finish_run(run, numbers, extra=pictures)


class EpisodeReturns:
    """What was earned so far in the episodes that go on from rollout to rollout."""

    def __init__(self, count: int) -> None:
        self.so_far = torch.zeros(count, dtype=torch.float64)

    def add(self, done: Trajectories) -> dict[str, float]:
        """The mean return of the episodes that ended in a rollout, if any did."""
        ended, self.so_far = finished_returns(done, self.so_far)
        return {"agent/training_return": sum(ended) / len(ended)} if ended else {}

    def state_dict(self) -> dict[str, Tensor]:
        """All of it."""
        return {"so_far": self.so_far}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Put it back."""
        self.so_far = state["so_far"]
