"""What a token counts that another policy has drawn."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from palate.objectives.off_policy import truncated_weights

LOGPROBS = st.lists(st.floats(-20, 0), min_size=2, max_size=8)


def test_weights_by_hand() -> None:
    """exp of the difference, cut off at 2 above and nowhere below; 1 outside the mask, whatever stands there."""
    logprobs = torch.log(torch.tensor([[0.5, 0.2, 0.9, 0.3]])).requires_grad_()
    sampled = torch.log(torch.tensor([[0.4, 0.8, 0.1, 0.0]]))
    mask = torch.tensor([[True, True, True, False]])
    weights = truncated_weights(logprobs, sampled, mask, max_ratio=2.0)
    assert torch.allclose(weights, torch.tensor([[1.25, 0.25, 2.0, 1.0]]))
    assert not weights.requires_grad


@given(LOGPROBS, LOGPROBS, st.floats(1, 5))
def test_a_token_counts_for_itself_alone(one: list[float], other: list[float], most: float) -> None:
    """Not for the tokens before it: the weight of a token is the same in whatever response it stands."""
    length = min(len(one), len(other))
    logprobs, sampled = torch.tensor([one[:length]]), torch.tensor([other[:length]])
    mask = torch.ones(1, length, dtype=torch.bool)
    whole = truncated_weights(logprobs, sampled, mask, max_ratio=most)
    last = truncated_weights(logprobs[:, -1:], sampled[:, -1:], mask[:, -1:], max_ratio=most)
    assert torch.equal(whole[:, -1:], last)
    assert float(whole.max()) <= most * (1 + 1e-6)


def test_weights_do_not_grow_with_length() -> None:
    """With differences of 0.02 nats a token the product over 4,096 of them is anything from e-4 to e4."""
    generator = torch.Generator().manual_seed(0)
    sampled = torch.full((64, 4096), -1.0)
    logprobs = sampled + 0.02 * torch.randn(64, 4096, generator=generator)
    weights = truncated_weights(logprobs, sampled, torch.ones_like(sampled, dtype=torch.bool), max_ratio=2.0)
    assert float(weights.max()) < 1.2
    assert abs(float(weights.mean()) - 1) < 1e-3
    assert float((logprobs - sampled).sum(1).exp().max()) > math.e
