"""Copies of an environment: what they do is a function of the seed, and they are put back by acting it out again."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from palate.errors import CheckpointError, MissingExtraError, RecipeError
from palate.stages.agent.actor_critic import Scale, policy_for
from palate.stages.agent.environments import Environments, Step
from palate.stages.agent.trajectories import Trajectories, act, evaluate

gymnasium = pytest.importorskip("gymnasium", reason="needs palate[gym]")


class Counting(gymnasium.Env[Any, Any]):
    """Observed is how many steps the episode has had; it ends itself after three, if it is pushed."""

    observation_space = gymnasium.spaces.Box(0, 9, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2, start=5)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action: int) -> Any:
        assert action in (5, 6)
        self.steps += 1
        return np.full(1, self.steps, dtype=np.float32), float(action), self.steps == 3 and action == 6, False, {}


class Forgetful(Counting):
    """What it does is no function of its seed."""

    lives = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        Forgetful.lives += 1
        _, info = super().reset(seed=seed)
        return np.full(1, float(Forgetful.lives), dtype=np.float32), info


@pytest.fixture
def small() -> Iterator[None]:
    named = {"Counting-v0": (Counting, 5), "Forgetful-v0": (Forgetful, 5), "Endless-v0": (Counting, None)}
    for name, (kind, limit) in named.items():
        gymnasium.register(id=name, entry_point=kind, max_episode_steps=limit)
    yield
    for name in named:
        del gymnasium.registry[name]


def pushes(environments: Environments, *actions: int) -> list[Step]:
    return [environments.step(torch.full((len(environments.copies), 1), float(action))) for action in actions]


def test_an_end_and_a_limit_are_told_apart(small: None) -> None:
    environments = Environments("Counting-v0", 1, seed=0, purpose="test")
    steps = pushes(environments, 1, 1, 1)
    assert [(bool(step.terminated[0]), bool(step.truncated[0])) for step in steps] == [(False, False)] * 2 + [
        (True, False)
    ]
    assert steps[-1].observations.tolist() == [[3.0]]  # what came of the action
    assert environments.observations.tolist() == [[0.0]]  # another episode has begun
    steps = pushes(environments, 0, 0, 0, 0, 0)
    assert [bool(step.truncated[0]) for step in steps] == [False] * 4 + [True]
    assert [float(step.rewards[0]) for step in steps] == [5.0] * 5  # the first choice is called 5 there


@pytest.mark.parametrize("name", ["Pendulum-v1", "CartPole-v1"])
def test_put_back_they_go_on_as_if_nothing_had_been(name: str) -> None:
    def acted(environments: Environments, steps: int, key: int) -> Trajectories:
        spaces = environments.spaces
        policy = policy_for(spaces.num_observations, spaces.num_choices, spaces.num_actions, width=8, layers=1, seed=0)
        return act(environments, policy, Scale(spaces.num_observations), steps=steps, key=("test", key))

    first = Environments(name, 3, seed=4, purpose="test")
    acted(first, 47, 0)
    state = {key: value.clone() for key, value in first.state_dict().items()}
    rest = acted(first, 230, 1)
    second = Environments(name, 3, seed=4, purpose="test")
    second.load_state_dict(state)
    again = acted(second, 230, 1)
    for field in ("observations", "after", "actions", "rewards", "terminated", "truncated"):
        assert torch.equal(getattr(again, field), getattr(rest, field)), field
    assert rest.ended.any()


def test_episodes_are_a_function_of_seed_purpose_copy_and_number() -> None:
    def begins(seed: int, purpose: str) -> Any:
        return Environments("Pendulum-v1", 2, seed=seed, purpose=purpose).observations

    assert np.array_equal(begins(0, "a"), begins(0, "a"))
    assert not np.array_equal(*begins(0, "a"))  # the two copies
    assert not np.array_equal(begins(0, "a"), begins(1, "a"))
    assert not np.array_equal(begins(0, "a"), begins(0, "b"))


def test_one_that_does_something_else_is_noticed(small: None) -> None:
    environments = Environments("Forgetful-v0", 1, seed=0, purpose="test")
    state = dict(environments.state_dict())
    with pytest.raises(CheckpointError, match="does other things than before"):
        environments.load_state_dict(state)


def test_actions_are_in_the_environment_s_units_and_within_its_bounds() -> None:
    environments = Environments("Pendulum-v1", 3, seed=0, purpose="test")
    taken = [float(environments._taken(np.array([drawn], dtype=np.float32))[0]) for drawn in (-7.0, 0.5, 1.0)]
    assert taken == [-2.0, 1.0, 2.0]
    assert environments.spaces.seen(torch.tensor([[-7.0], [0.5]])).tolist() == [[-1.0], [0.5]]
    choices = Environments("CartPole-v1", 1, seed=0, purpose="test").spaces
    assert choices.seen(torch.tensor([[1.0], [0.0]])).tolist() == [[0.0, 1.0], [1.0, 0.0]]


def test_an_evaluation_is_of_one_episode_of_each_copy(small: None) -> None:
    class Pushes:
        def mode(self, observations: torch.Tensor) -> torch.Tensor:
            return torch.ones(len(observations), 1)

    environments = Environments("Counting-v0", 2, seed=0, purpose="test")
    assert evaluate(environments, Pushes(), Scale(1)).tolist() == [18.0, 18.0]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Pendulam-v1", "environment = 'Pendulam-v1' cannot be had: "),
        ("FrozenLake-v1", "its observations are Discrete"),
        ("Endless-v0", "its episodes have no limit of steps"),
    ],
)
def test_what_cannot_be_used_is_one_line(name: str, message: str, small: None) -> None:
    with pytest.raises(RecipeError, match=message) as error:
        Environments(name, 1, seed=0, purpose="test")
    assert "\n" not in str(error.value)


def test_without_gymnasium_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(MissingExtraError, match=r"gymnasium is not installed: run `pip install 'palate\[gym\]'`"):
        Environments("Pendulum-v1", 1, seed=0, purpose="test")
