"""Clips lie within one episode and are of one length; questions are many early, and never more than the budget."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from palate.errors import TrainingError
from palate.objectives import aggregation, preference
from palate.stages.agent import clips as clips_module
from palate.stages.agent.clips import Comparisons, Pairs, RecentClips, labels_by_round, most_disputed
from palate.stages.agent.trajectories import Trajectories


def rollout(ended: list[list[int]], first_episode: int = 0) -> Trajectories:
    """Every observation says in which episode it is, and at which step of all of the row."""
    ends = torch.tensor(ended, dtype=torch.bool)
    episode = first_episode + (ends.cumsum(1) - ends.long()) + 100 * torch.arange(len(ends))[:, None]
    step = torch.arange(ends.shape[1]).expand_as(ends)
    observations = torch.stack([episode, step], -1).float()
    return Trajectories(
        observations=observations,
        after=observations,
        actions=torch.zeros(*ends.shape, 1),
        logprobs=torch.zeros(ends.shape),
        rewards=episode.double(),
        terminated=ends,
        truncated=torch.zeros_like(ends),
    )


def recent(*rollouts: Trajectories, keep: int = 9, length: int = 3) -> RecentClips:
    found = RecentClips(keep, length)
    for each in rollouts:
        found.add(each, each.actions)
    return found


def test_every_run_of_steps_within_an_episode_is_a_clip() -> None:
    found = recent(rollout([[0, 0, 0, 1, 0, 0, 0, 0], [1, 0, 0, 1, 0, 1, 0, 0]]))
    assert found.starts().tolist() == [0, 1, 4, 5, 9]


def test_clips_never_cross_an_end_and_two_of_a_pair_differ() -> None:
    generator = torch.Generator().manual_seed(0)
    ends = (torch.rand(6, 40, generator=generator) < 0.15).int().tolist()
    pairs = recent(rollout(ends)).draw(400, "clips", 0)
    episodes, steps = pairs.observations.unbind(-1)  # [P, 2, L]
    assert (episodes == episodes[..., :1]).all()
    assert (steps.diff(dim=-1) == 1).all()
    assert (pairs.observations[:, 0] != pairs.observations[:, 1]).flatten(1).any(1).all()
    torch.testing.assert_close(pairs.rewards, episodes.double())


def test_every_clip_is_drawn_as_often_as_another() -> None:
    found = recent(rollout([[0, 0, 0, 0, 0, 0]]))
    drawn = found.draw(8000, "often", 0).observations[:, :, 0, 1].long()
    assert torch.bincount(drawn[:, 0]).tolist() == pytest.approx([2000] * 4, rel=0.1)
    assert torch.bincount(drawn[:, 1]).tolist() == pytest.approx([2000] * 4, rel=0.1)


def test_clips_are_of_recent_rollouts() -> None:
    found = recent(*(rollout([[0, 0, 0, 0]], 10 * number) for number in range(5)), keep=2)
    assert {int(each) for each in found.draw(60, "recent", 0).observations[..., 0].unique()} == {30, 40}
    again = RecentClips(2, 3)
    again.load_state_dict(dict(found.state_dict()))
    assert torch.equal(again.draw(60, "recent", 0).observations, found.draw(60, "recent", 0).observations)


def test_without_two_clips_there_is_no_question() -> None:
    with pytest.raises(TrainingError, match=r"labels\.clip_length"):
        recent(rollout([[0, 1, 0, 1]])).draw(1, "none", 0)


def test_disagreement_is_that_of_the_language_side() -> None:
    assert clips_module.spread is aggregation.spread
    assert clips_module.bradley_terry_probability is preference.bradley_terry_probability


def test_pairs_are_disputed_by_the_spread_of_probabilities() -> None:
    """The members of the first contradict each other; those of the second are sure in one direction; of the third all
    say one half; of the last they differ by more than in the first, but are all sure."""
    returns = torch.tensor([[[1.0, -1.0], [0.0, 0.0]], [[9.0, 9.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    far = torch.tensor([[[20.0, 40.0], [0.0, 0.0]]])
    assert most_disputed(torch.cat([far, returns]), 2).tolist()[0] == 1
    assert most_disputed(returns, 3).tolist() == [0, 1, 2]


@given(
    budget=st.integers(1, 700),
    rounds=st.integers(1, 60),
    first_share=st.floats(0, 1),
    final_rate=st.floats(0.01, 1),
)
def test_the_budget_is_asked_and_no_more(budget: int, rounds: int, first_share: float, final_rate: float) -> None:
    due = labels_by_round(budget, rounds, first_share=first_share, final_rate=final_rate)
    assert len(due) == rounds
    assert sum(due) == budget
    assert min(due) >= 0
    assert all(later <= earlier + 1 for earlier, later in pairwise(due))  # up to rounding fewer and fewer


def test_a_schedule_by_hand() -> None:
    assert labels_by_round(100, 4, first_share=0.0, final_rate=1.0) == [25, 25, 25, 25]
    assert labels_by_round(100, 4, first_share=0.2, final_rate=1.0) == [40, 20, 20, 20]
    # rate 1 / (1 + 3 t): log(1 + 3 t) / log 4 of it is asked until t
    assert labels_by_round(1000, 3, first_share=0.0, final_rate=0.25) == [500, 292, 208]


def pairs_of(count: int) -> Pairs:
    return Pairs(
        observations=torch.arange(count).float().view(-1, 1, 1, 1).expand(count, 2, 3, 2),
        actions=torch.zeros(count, 2, 3, 1),
        rewards=torch.zeros(count, 2, 3, dtype=torch.float64),
    )


def test_what_was_answered_is_kept_with_its_number() -> None:
    found = Comparisons(2, 1, 3)
    margins = torch.tensor([0.1, 0.2, 0.3])
    found.add(pairs_of(3), torch.tensor([0, 2]), torch.tensor([[1, 2], [1, 1]]), torch.ones(2), margins)
    found.add(pairs_of(2), torch.tensor([0, 0, 1]), torch.tensor([[1, 2]] * 3), torch.tensor([0.5, 0.5, 1]), margins)
    assert (found.asked, found.skipped, len(found)) == (5, 1, 5)
    assert found.numbers.tolist() == [0, 2, 3, 3, 4]
    torch.testing.assert_close(found.margins, torch.tensor([0.1, 0.3, 0.1, 0.1, 0.2]))
    again = Comparisons(2, 1, 3)
    again.load_state_dict(dict(found.state_dict()))
    same: list[tuple[Tensor, Tensor]] = [(getattr(again, name), getattr(found, name)) for name in Comparisons._NAMES]
    same.append((again.pairs.observations, found.pairs.observations))
    assert all(torch.equal(*each) for each in same)
    assert (again.asked, again.skipped) == (5, 1)
