"""What the agent is paid: by networks that learn from comparisons, or by the environment itself (the upper control).

The environment's reward is paid in units of its spread in recent rollouts; its zero means something, and stays. Learned
rewards have mean 0 and spread 1 over the steps of all clips that were compared: no comparison says where their zero is.
Over recent rollouts they had it once, and then the same step was paid less with every rollout in which the policy had
become better, which a value network has to follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from palate.lm.optim import Optimizer
from palate.objectives.aggregation import spread
from palate.objectives.preference import bradley_terry_probability
from palate.recipe import AgentRecipe
from palate.rewards.ensemble import aggregate
from palate.run.checkpoints import Stateful
from palate.stages.agent.actor_critic import Scale
from palate.stages.agent.clip_pages import ask_people
from palate.stages.agent.clip_questions import Answers, chosen_pairs, simulated_answers
from palate.stages.agent.clips import Comparisons, Pairs, RecentClips, labels_by_round
from palate.stages.agent.environments import Spaces
from palate.stages.agent.reward_networks import RewardEnsemble, fit, judged, stacked_inputs
from palate.stages.agent.trajectories import Trajectories


class Paying(Protocol):
    """Where rewards come from."""

    @property
    def state(self) -> Mapping[str, Stateful]:
        """What a checkpoint must hold of it."""
        ...

    def learn(self, done: Trajectories, step: int) -> dict[str, float]:
        """Take in a rollout, ask what is due after it, learn; what came of it, as metrics."""
        ...

    def rewards(self, done: Trajectories) -> Tensor:
        """[N, T] of a rollout that was taken in."""
        ...


class EnvironmentReward:
    """The environment's own reward; nothing is asked, nothing is learned."""

    def __init__(self, recipe: AgentRecipe, spaces: Spaces) -> None:
        self.spaces = spaces
        self.clips = RecentClips(recipe.labels.recent, recipe.labels.clip_length)

    @property
    def state(self) -> Mapping[str, Stateful]:
        """The recent rollouts."""
        return {"clips": self.clips}

    def learn(self, done: Trajectories, step: int) -> dict[str, float]:
        """Nothing to report."""
        self.clips.add(done, self.spaces.seen(done.actions))
        return {}

    def rewards(self, done: Trajectories) -> Tensor:
        """In units of their spread in recent rollouts."""
        unit = float(self.clips.everything("rewards").std(correction=0)) or 1.0
        return (done.rewards / unit).float()


class TaughtReward:
    """An ensemble of networks that learns from comparisons of clips.

    Args:
        recipe: of the agent.
        spaces: of its environment.
        directory: of the run, where people find what they are asked.

    Attributes:
        comparisons: that were answered so far.
    """

    def __init__(self, recipe: AgentRecipe, spaces: Spaces, directory: Path) -> None:
        self.environment, self.labels, self.seed = recipe.environment, recipe.labels, recipe.seed
        self.settings, self.spaces, self.directory = recipe.reward_model, spaces, directory
        rounds = len(range(0, recipe.steps, recipe.labels.ask_every))
        self.due = labels_by_round(
            recipe.labels.budget,
            rounds,
            first_share=recipe.labels.first_share,
            final_rate=recipe.labels.final_rate,
        )
        self.ensemble = RewardEnsemble(
            spaces.num_observations + spaces.num_actions,
            members=self.settings.members,
            width=self.settings.hidden_size,
            layers=self.settings.layers,
            seed=recipe.seed,
        )
        updates = self.settings.updates * sum(count > 0 for count in self.due)
        self.optimizer = Optimizer(self.ensemble, self.settings.optimizer, updates, name="reward")
        self.scale = Scale(spaces.num_observations)
        self.clips = RecentClips(recipe.labels.recent, recipe.labels.clip_length)
        self.comparisons = Comparisons(spaces.num_observations, spaces.num_actions, recipe.labels.clip_length)
        self._aggregate = aggregate(self.settings.aggregation, self.settings.uncertainty_coef)

    @property
    def state(self) -> Mapping[str, Stateful]:
        """Weights, what the networks see observations by, recent rollouts, and all answers."""
        return {
            "reward": self.optimizer,
            "reward_scale": self.scale,
            "clips": self.clips,
            "comparisons": self.comparisons,
        }

    def learn(self, done: Trajectories, step: int) -> dict[str, float]:
        """Ask and learn if a round of questions is due.

        Raises:
            LabelsNeededError: people have not answered yet.
            TrainingError: there is nothing to compare.
        """
        self.scale.update(done.observations)
        self.clips.add(done, self.spaces.seen(done.actions))
        round_number, later = divmod(step, self.labels.ask_every)
        told = {} if later or not self.due[round_number] else self._ask(self.due[round_number], step)
        known = self._inputs(self.comparisons.pairs).flatten(0, 2) if len(self.comparisons) else self._recent_inputs()
        self.ensemble.measure(known, "steps of compared clips")
        return told

    def rewards(self, done: Trajectories) -> Tensor:
        """One for each step, of all members."""
        return self.paid(done.observations, self.spaces.seen(done.actions))

    def paid(self, observations: Tensor, actions: Tensor) -> Tensor:
        """[...] for steps with observations [..., O] and actions [..., A] as the environment took them."""
        return self._aggregate(self.ensemble.members(stacked_inputs(self.scale(observations), actions)))

    def returns(self, pairs: Pairs) -> Tensor:
        """[P, 2, M] what each member gives the clips of pairs, in the units in which comparisons are learned."""
        with torch.no_grad():
            found: Tensor = self.ensemble(self._inputs(pairs)).sum(2)
        return found

    def _ask(self, count: int, step: int) -> dict[str, float]:
        """One round of questions, and what is learned from all answers so far."""
        knows = len(self.comparisons) > 0
        by_disagreement = self.returns if knows and self.labels.choose == "disagreement" else None
        candidates = self.labels.candidates
        pairs = chosen_pairs(self.clips, by_disagreement, count=count, candidates=candidates, seed=self.seed, step=step)
        returns = self.returns(pairs)
        margins = judged(returns)
        answers = self._answers(pairs, step)
        self.comparisons.add(pairs, answers.rows, answers.ranks, answers.weights, margins)
        disputed = spread(bradley_terry_probability(returns[:, 0], returns[:, 1]))
        told = {
            "labels/asked": float(self.comparisons.asked),
            "labels/skipped": float(self.comparisons.skipped),
            "labels/disagreement": float(disputed.mean()),
        }
        if len(answers.rows):
            told["labels/ties"] = float((answers.ranks[:, 0] == answers.ranks[:, 1]).float().mean())
        if knows and (foretold := share_foretold(margins[answers.rows], answers.ranks)) is not None:
            told["labels/foretold"] = foretold
        if not len(self.comparisons):
            return told
        return told | fit(
            self.ensemble,
            self.optimizer,
            self._inputs(self.comparisons.pairs),
            self.comparisons,
            updates=self.settings.updates,
            batch_size=self.settings.batch_size,
            bootstrap=self.settings.bootstrap,
            seed=self.seed,
            step=step,
        )

    def _answers(self, pairs: Pairs, step: int) -> Answers:
        if self.labels.teacher == "people":
            return ask_people(
                pairs,
                self.directory,
                self.labels.rankings,
                environment=self.environment,
                first=self.comparisons.asked,
            )
        return simulated_answers(self.labels, pairs, self.clips, seed=self.seed, step=step)

    def _inputs(self, pairs: Pairs) -> Tensor:
        return stacked_inputs(self.scale(pairs.observations), pairs.actions)

    def _recent_inputs(self) -> Tensor:
        """[R * N * T, F] of all steps of recent rollouts, which is all there is while nobody has answered anything."""
        seen = self.scale(self.clips.everything("observations"))
        return stacked_inputs(seen, self.clips.everything("actions")).flatten(0, 1)


def share_foretold(margins: Tensor, ranks: Tensor) -> float | None:
    """Share of ordered comparisons in which the clip that was preferred has the larger return; equal ones count half.

    Args:
        margins: [Q] return of the first clip minus that of the second.
        ranks: [Q, 2]; None if all of them are ties.
    """
    order = (ranks[:, 1] - ranks[:, 0]).sign()
    ordered = order != 0
    if not ordered.any():
        return None
    right = 0.5 + 0.5 * (margins * order).sign()
    return float(right[ordered].mean())
