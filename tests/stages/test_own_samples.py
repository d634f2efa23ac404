"""Stages that learn from the policy's own samples: what of a rollout they learn from, and by which numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palate.lm.batch import Sequences
from palate.stages.own_samples.online_dpo import compared, pairs_by_score, places

scores = st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=1, max_size=6)


@given(scores=scores)
def test_all_pairs_of_different_scores(scores: list[list[int]]) -> None:
    chosen, rejected = pairs_by_score(torch.tensor(scores).float(), every=True)
    expected = {
        (3 * prompt + a, 3 * prompt + b)
        for prompt, row in enumerate(scores)
        for a in range(3)
        for b in range(3)
        if row[a] > row[b]
    }
    pairs = list(zip(chosen.tolist(), rejected.tolist(), strict=True))
    assert set(pairs) == expected
    assert len(pairs) == len(expected)


@given(scores=scores)
def test_the_best_against_the_worst(scores: list[list[int]]) -> None:
    chosen, rejected = pairs_by_score(torch.tensor(scores).float(), every=False)
    with_signal = [number for number, row in enumerate(scores) if max(row) > min(row)]
    assert [row // 3 for row in chosen.tolist()] == [row // 3 for row in rejected.tolist()] == with_signal
    for prompt, a, b in zip(with_signal, chosen.tolist(), rejected.tolist(), strict=True):
        row = scores[prompt]
        assert (a % 3, b % 3) == (row.index(max(row)), row.index(min(row)))


@pytest.mark.parametrize("every", [True, False])
def test_rounding_makes_no_pair(every: bool) -> None:
    """DPO would learn it as it learns any other pair."""
    scores = torch.tensor([[0.1 + 0.2 + 0.3, 0.1 + 0.5, 0.3 + 0.2 + 0.1], [0.6, 0.6001, 0.6001]])
    scores[0] += torch.tensor([0.0, 1e-7, 2e-7])
    chosen, rejected = pairs_by_score(scores, every=every)
    assert set(chosen.tolist()) == ({4, 5} if every else {4})
    assert set(rejected.tolist()) == {3}


@given(scores=scores, every=st.booleans(), count=st.integers(1, 4))
def test_every_pair_is_learned_once_and_whole(scores: list[list[int]], every: bool, count: int) -> None:
    """Whatever the minibatches and microbatches, the two sides of a pair are those it was made of."""
    rows = 3 * len(scores)
    sequences = Sequences.pack(
        [[1, 1 + row // 3] for row in range(rows)],
        [[5 + row] for row in range(rows)],
        group_ids=[row // 3 for row in range(rows)],
    )
    chosen, rejected = pairs_by_score(torch.tensor(scores).float(), every=every)
    met = []
    for minibatch in compared(sequences, chosen, rejected, count, key=(0,)):
        for microbatch in minibatch.microbatches(6, whole_groups=True):
            better, worse = places(microbatch, chosen, rejected)
            last = microbatch.tokens[:, -1] - 5  # the row that a response was drawn in
            met += zip(last[better].tolist(), last[worse].tolist(), strict=True)
    assert sorted(met) == sorted(zip(chosen.tolist(), rejected.tolist(), strict=True))
