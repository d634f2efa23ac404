"""Copies of a Gymnasium environment, stepped side by side: the one file that imports it.

Episode e of copy n begins from the seed that (seed, purpose, n, e) gives, and nothing else is random. So a copy is
where it is by the number of its episode and the actions since that began. A checkpoint holds these, and a copy is put
back by acting them out once more: no environment has to say what its state is. One that then is somewhere else is no
function of its seed, and the run ends rather than to go on as another.

Left out: processes, which cost more than these environments do; observations that are pictures or have parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from palate.errors import CheckpointError, MissingExtraError, RecipeError
from palate.randomness import derive_seed

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spaces:
    """What the networks must know of an environment.

    Attributes:
        num_observations: numbers of an observation (O).
        num_choices: actions to choose from; 0 where an action is made of numbers.
        low, high: [A] bounds of such an action; empty otherwise.
        max_steps: of an episode.
    """

    num_observations: int
    num_choices: int
    low: Floats
    high: Floats
    max_steps: int

    @property
    def num_actions(self) -> int:
        """Numbers by which the reward networks see an action (A): its own, or one for each choice."""
        return self.num_choices or len(self.low)

    def seen(self, actions: Tensor) -> Tensor:
        """Actions as the environment takes them, [..., A], each number from -1 to 1; of choices one is 1, others 0.

        Args:
            actions: as the policy drew them: [..., A], or of choices [..., 1] their numbers.
        """
        if self.num_choices:
            return torch.nn.functional.one_hot(actions[..., 0].long(), self.num_choices).to(torch.float32)
        return actions.clamp(-1.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What came of one action of each copy.

    Attributes:
        observations: [N, O] after it, before another episode may begin.
        rewards: [N] the environment's own.
        terminated: [N] the episode came to its end.
        truncated: [N] it was cut off by its limit of steps, and would have gone on.
    """

    observations: Floats
    rewards: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]


class Environments:
    """Copies of one environment; each begins another episode by itself when one is over.

    Args:
        name: in Gymnasium.
        count: of the copies (N).
        seed: of the run.
        purpose: tells the episodes that are learned from and others apart.

    Attributes:
        observations: [N, O] what the policy sees now.

    Raises:
        MissingExtraError: Gymnasium is not installed.
        RecipeError: there is no such environment, or it is of a kind that is left out.
    """

    def __init__(self, name: str, count: int, *, seed: int, purpose: str) -> None:
        make = _gymnasium_make()
        self.name, self.key = name, (seed, purpose)
        self.copies = [make(name) for _ in range(count)]
        self.spaces = _spaces(name, self.copies[0])
        self.episodes = [-1] * count
        self.actions: list[list[Floats]] = [[] for _ in range(count)]
        self.observations: Floats = np.zeros((count, self.spaces.num_observations), dtype=np.float32)
        for copy in range(count):
            self._begin(copy, 0)

    def step(self, actions: Tensor) -> Step:
        """Act once in every copy.

        Args:
            actions: [N, A] as the policy drew them, or [N, 1] the numbers of choices.
        """
        drawn = actions.numpy()
        count, width = len(self.copies), self.spaces.num_observations
        found = Step(
            observations=np.zeros((count, width), dtype=np.float32),
            rewards=np.zeros(count),
            terminated=np.zeros(count, dtype=np.bool_),
            truncated=np.zeros(count, dtype=np.bool_),
        )
        for copy in range(count):
            seen, reward, terminated, truncated = self._act(copy, drawn[copy])
            found.observations[copy], found.rewards[copy] = seen, reward
            found.terminated[copy], found.truncated[copy] = terminated, truncated
            self.observations[copy] = seen
            if terminated or truncated:
                self._begin(copy, self.episodes[copy] + 1)
        return found

    def state_dict(self) -> Mapping[str, Tensor]:
        """Where every copy is: its episode, the actions since that began, and what it saw last, to be held against."""
        longest = max(map(len, self.actions))
        taken = np.zeros((len(self.copies), longest, self._action_width), dtype=np.float32)
        for row, actions in zip(taken, self.actions, strict=True):
            row[: len(actions)] = np.array(actions, dtype=np.float32).reshape(-1, self._action_width)
        return {
            "episodes": torch.tensor(self.episodes),
            "lengths": torch.tensor([len(actions) for actions in self.actions]),
            "actions": torch.from_numpy(taken),
            "observations": torch.from_numpy(self.observations.copy()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Act it all out once more.

        Raises:
            CheckpointError: a copy is then somewhere else.
        """
        for copy, episode in enumerate(state["episodes"].tolist()):
            self._begin(copy, episode)
            for action in state["actions"][copy, : int(state["lengths"][copy])].numpy():
                self.observations[copy], *_ = self._act(copy, action)
        if not np.array_equal(self.observations, state["observations"].numpy()):
            raise CheckpointError(
                f"{self.name} does other things than before after the same actions from the same seed, so that the run "
                "cannot go on as if it had not stopped: start again with another --out"
            )

    @property
    def _action_width(self) -> int:
        return 1 if self.spaces.num_choices else len(self.spaces.low)

    def _begin(self, copy: int, episode: int) -> None:
        seed = derive_seed(*self.key, "episode", copy, episode) % 2**31
        self.observations[copy] = np.ravel(self.copies[copy].reset(seed=seed)[0])
        self.episodes[copy], self.actions[copy] = episode, []

    def _act(self, copy: int, drawn: Floats) -> tuple[Floats, float, bool, bool]:
        self.actions[copy].append(drawn)
        seen, reward, terminated, truncated, _ = self.copies[copy].step(self._taken(drawn))
        return np.ravel(seen).astype(np.float32), float(reward), bool(terminated), bool(truncated)

    def _taken(self, drawn: Floats) -> Any:
        """In the environment's own units; what was drawn beyond a bound is taken at the bound."""
        if self.spaces.num_choices:
            return int(drawn[0]) + int(self.copies[0].action_space.start)
        low, high = self.spaces.low, self.spaces.high
        return low + (np.clip(drawn, -1.0, 1.0) + 1) / 2 * (high - low)


def _gymnasium_make() -> Callable[[str], Any]:
    """Gymnasium's own, with one line for what it cannot make.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import gymnasium
    except ImportError:
        raise MissingExtraError("gymnasium", "gym") from None

    def make(name: str) -> Any:
        try:
            return gymnasium.make(name, disable_env_checker=True)
        except (gymnasium.error.Error, ImportError) as error:
            said = " ".join(str(error).split()).rstrip(".")
            raise RecipeError(f"environment = {name!r} cannot be had: {said}") from None

    return make


def _spaces(name: str, environment: Any) -> Spaces:
    """Raises: RecipeError: a kind that is left out."""
    from gymnasium.spaces import Box, Discrete

    seen, taken = environment.observation_space, environment.action_space
    if not isinstance(seen, Box) or not np.issubdtype(seen.dtype, np.floating):
        raise RecipeError(f"environment = {name!r}: its observations are {seen}, and only a row of numbers can be used")
    bounded = isinstance(taken, Box) and taken.is_bounded() and len(taken.shape) == 1
    if not isinstance(taken, Discrete) and not bounded:
        raise RecipeError(f"environment = {name!r}: its actions are {taken}; choices or bounded numbers can be used")
    if environment.spec is None or environment.spec.max_episode_steps is None:
        raise RecipeError(f"environment = {name!r}: its episodes have no limit of steps, so an evaluation had no end")
    nothing = np.zeros(0, dtype=np.float32)
    return Spaces(
        num_observations=int(np.prod(seen.shape)),
        num_choices=int(taken.n) if isinstance(taken, Discrete) else 0,
        low=nothing if isinstance(taken, Discrete) else taken.low.astype(np.float32),
        high=nothing if isinstance(taken, Discrete) else taken.high.astype(np.float32),
        max_steps=int(environment.spec.max_episode_steps),
    )
