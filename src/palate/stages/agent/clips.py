"""Clips of what the agent did: the recent ones, the pairs of them that are worth a question, and what was answered.

A clip is a run of steps of one length within one episode, so that neither its length nor its end can say anything.
Pairs are drawn by lot, or of several that were drawn those are taken about which the reward networks disagree most: by
the spread over members of the probability that the first clip is preferred (Christiano et al. 2017, arXiv 1706.03741,
section 2.2.4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from palate.errors import TrainingError
from palate.objectives.aggregation import spread
from palate.objectives.preference import bradley_terry_probability
from palate.randomness import uniforms
from palate.stages.agent.trajectories import Trajectories, pieces


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """P pairs of clips of L steps.

    Attributes:
        observations: [P, 2, L, O], not scaled.
        actions: [P, 2, L, A] as the environment took them.
        rewards: [P, 2, L] the environment's own, which only simulated teachers see.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor

    def __len__(self) -> int:
        return len(self.rewards)

    def select(self, rows: Tensor) -> Pairs:
        """Some of them."""
        return Pairs(observations=self.observations[rows], actions=self.actions[rows], rewards=self.rewards[rows])


class RecentClips:
    """The newest rollouts, of which every run of L steps within an episode is a clip.

    Args:
        rollouts: how many are kept.
        length: of a clip (L).
    """

    def __init__(self, rollouts: int, length: int) -> None:
        self.rollouts, self.length = rollouts, length
        self.kept: list[Mapping[str, Tensor]] = []

    def add(self, trajectories: Trajectories, actions: Tensor) -> None:
        """One more rollout; ``actions`` [N, T, A] as the environment took them."""
        kept = {
            "observations": trajectories.observations,
            "actions": actions,
            "rewards": trajectories.rewards,
            "ended": trajectories.ended,
        }
        self.kept = [*self.kept, kept][-self.rollouts :]

    def everything(self, name: str) -> Tensor:
        """[R * N, T, ...] of all that is kept."""
        return torch.cat([each[name] for each in self.kept])

    def starts(self) -> Tensor:
        """[C] where clips begin among the R * N * T steps."""
        places, mask = pieces(self.everything("ended"))
        if mask.shape[1] < self.length:
            return torch.zeros(0, dtype=torch.long)
        last = self.length - 1
        return places[:, : mask.shape[1] - last][mask[:, last:]]

    def draw(self, count: int, *key: int | str) -> Pairs:
        """So many pairs by lot, the two clips of each never the same.

        Raises:
            TrainingError: there are not two clips.
        """
        starts = self.starts()
        if len(starts) < 2:
            raise TrainingError(
                f"no episode of the last {len(self.kept)} rollouts has {self.length} steps, so there is nothing to "
                "compare: set labels.clip_length lower (in a run of its own: --out)"
            )
        lots = torch.from_numpy(uniforms(2 * count, *key)).view(count, 2)
        first = (lots[:, 0] * len(starts)).long()
        further = 1 + (lots[:, 1] * (len(starts) - 1)).long()
        chosen = starts[torch.stack([first, (first + further) % len(starts)], 1)]  # [P, 2]
        steps = chosen[..., None] + torch.arange(self.length)
        taken = {name: self.everything(name).flatten(0, 1)[steps] for name in ("observations", "actions", "rewards")}
        return Pairs(**taken)

    def returns(self) -> Tensor:
        """[C] of all clips, by the environment's own reward."""
        steps = self.starts()[:, None] + torch.arange(self.length)
        return self.everything("rewards").flatten()[steps].sum(1)

    def state_dict(self) -> Mapping[str, Tensor]:
        """All that is kept, by number and name."""
        return {f"{number}/{name}": value for number, each in enumerate(self.kept) for name, value in each.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        count = len({name.partition("/")[0] for name in state})
        names = ("observations", "actions", "rewards", "ended")
        self.kept = [{name: state[f"{number}/{name}"] for name in names} for number in range(count)]


def most_disputed(returns: Tensor, count: int) -> Tensor:
    """[count] rows of the pairs about which the members of an ensemble disagree most, the most disputed first.

    Args:
        returns: [P, 2, M] what each member gives the clips of a pair.
    """
    preferred = bradley_terry_probability(returns[:, 0], returns[:, 1])
    return spread(preferred).argsort(descending=True, stable=True)[:count]


class Comparisons:
    """What was answered so far.

    Attributes:
        pairs: Q of them.
        ranks: [Q, 2], 1 is better; equal ones are a tie.
        weights: [Q]; of several answers to one pair each has its share.
        margins: [Q] by how much the reward networks preferred the first clip before they learned from the answer.
        numbers: [Q] of the questions, from 0.
        asked: questions so far, those that were skipped included.
        skipped: of them.
    """

    _NAMES = ("ranks", "weights", "margins", "numbers")

    def __init__(self, num_observations: int, num_actions: int, length: int) -> None:
        self.pairs = Pairs(
            observations=torch.zeros(0, 2, length, num_observations),
            actions=torch.zeros(0, 2, length, num_actions),
            rewards=torch.zeros(0, 2, length, dtype=torch.float64),
        )
        self.ranks = torch.zeros(0, 2, dtype=torch.long)
        self.weights = torch.zeros(0)
        self.margins = torch.zeros(0)
        self.numbers = torch.zeros(0, dtype=torch.long)
        self.asked = self.skipped = 0

    def __len__(self) -> int:
        return len(self.ranks)

    def add(self, pairs: Pairs, rows: Tensor, ranks: Tensor, weights: Tensor, margins: Tensor) -> None:
        """What came of one round of questions.

        Args:
            pairs: the P that were asked.
            rows: [Q] of the pair that each answer is to; a pair without one was skipped.
            ranks: [Q, 2] of each answer.
            weights: [Q] of each answer.
            margins: [P] by how much the networks preferred the first clip.
        """
        answered = pairs.select(rows)
        self.pairs = Pairs(
            observations=torch.cat([self.pairs.observations, answered.observations]),
            actions=torch.cat([self.pairs.actions, answered.actions]),
            rewards=torch.cat([self.pairs.rewards, answered.rewards]),
        )
        self.ranks = torch.cat([self.ranks, ranks])
        self.weights = torch.cat([self.weights, weights])
        self.margins = torch.cat([self.margins, margins[rows]])
        self.numbers = torch.cat([self.numbers, rows + self.asked])
        self.asked += len(pairs)
        self.skipped += len(pairs) - len(rows.unique())

    def state_dict(self) -> Mapping[str, Tensor | int]:
        """All of it."""
        pairs = {f"pairs/{name}": getattr(self.pairs, name) for name in ("observations", "actions", "rewards")}
        own = {name: getattr(self, name) for name in self._NAMES}
        return pairs | own | {"asked": self.asked, "skipped": self.skipped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        self.pairs = Pairs(**{name.partition("/")[2]: state[name] for name in state if name.startswith("pairs/")})
        for name in self._NAMES:
            setattr(self, name, state[name])
        self.asked, self.skipped = state["asked"], state["skipped"]


def labels_by_round(budget: int, rounds: int, *, first_share: float, final_rate: float) -> Sequence[int]:
    """How many comparisons each round of questions asks: more early, never more than the budget, and in the end all.

    ``first_share`` of the budget belongs to the first round. Of the rest the rate falls as 1 / (1 + c * time), as in
    Christiano et al. 2017 (appendix A), with c such that at the end it is ``final_rate`` of what it was.

    Args:
        budget: comparisons of the whole run.
        rounds: of questions, at least one.
    """
    fall = 1 / final_rate - 1
    first = torch.tensor(first_share * budget, dtype=torch.float64)
    time = torch.arange(rounds + 1, dtype=torch.float64) / rounds
    share = torch.log1p(fall * time) / torch.log1p(torch.tensor(fall, dtype=torch.float64)) if fall else time
    until = (first + (budget - first) * share).round().long()
    until[0] = 0
    return (until[1:] - until[:-1]).tolist()
