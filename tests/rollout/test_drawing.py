from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from palate.rollout.drawing import Drawn, draw

EDGE = 1.0 - 2.0**-53  # the largest number below one


def one_by_one(logits: Tensor, uniform: Tensor) -> list[int]:
    """The first token whose running sum exceeds the target, in plain Python."""
    out = []
    for row, u in zip(logits, uniform.tolist(), strict=True):
        masses = (row - row.max()).exp().tolist()
        running, place, target = 0.0, 0, u * math.fsum(masses)
        for mass in masses:
            running += mass
            if running > target:
                break
            place += 1
        out.append(place)
    return out


@settings(max_examples=40)
@given(st.integers(1, 700), st.integers(0, 2**32), st.floats(0.1, 8.0), st.integers(0, 400))
def test_drawn_by_inverting_the_cumulative_distribution(width: int, seed: int, spread: float, forbidden: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, width, generator=generator) * spread
    places = torch.randperm(width, generator=generator)[: min(forbidden, width - 1)]
    logits[:, places] = -torch.inf
    uniform = torch.rand(6, dtype=torch.float64, generator=generator)
    uniform[0], uniform[5] = 0.0, EDGE
    tokens, logprobs = draw(logits.clone(), uniform)
    assert tokens[:5].tolist() == one_by_one(logits[:5], uniform[:5])
    # the last of all numbers draws the last token, or one before it if what follows is below rounding
    assert logits[5, int(tokens[5]) + 1 :].exp().sum() <= 1e-12 * logits[5].exp().double().sum()
    expected = logits.double().log_softmax(-1)[torch.arange(6), tokens]
    torch.testing.assert_close(logprobs.double(), expected, atol=1e-5, rtol=1e-5)
    assert logprobs.isfinite().all()


@pytest.mark.parametrize("width", [5, 128, 259, 1000])
def test_every_token_is_drawn_as_often_as_its_probability_says(width: int) -> None:
    count = 5000
    logits = torch.randn(width, generator=torch.Generator().manual_seed(width)) * 2
    grid = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    tokens, _ = draw(logits.expand(count, width).clone(), grid)
    drawn = torch.bincount(tokens, minlength=width).double()
    # a grid of uniforms gives every token its share, rounded up or down
    assert ((drawn - count * logits.double().softmax(0)).abs() <= 1.0).all()
    assert (tokens.diff() >= 0).all()


def test_a_token_of_no_probability_is_never_drawn_at_the_ends_of_blocks() -> None:
    # targets exactly on every boundary of the running sum, and next to it, where rounding could put them past a block
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(600, generator=generator)
    logits[torch.randperm(600, generator=generator)[:300]] = -torch.inf
    logits[100:128] = logits[300:384] = logits[500:] = -torch.inf
    masses = (logits - logits.max()).exp().double()
    edges = masses.cumsum(0) / masses.sum()
    uniform = torch.cat([edges, torch.nextafter(edges, torch.ones(1).double()), torch.nextafter(edges, -edges)])
    uniform = uniform[(uniform >= 0) & (uniform < 1)]
    tokens, logprobs = draw(logits.expand(len(uniform), 600).clone(), uniform)
    assert (masses[tokens] > 0).all()
    assert logprobs.isfinite().all()


def test_rounding_past_the_last_mass_stays_on_it() -> None:
    logits = torch.full((1, 300), -torch.inf)
    logits[0, [3, 130]] = 0.0
    tokens, logprobs = draw(logits, torch.tensor([1.0], dtype=torch.float64))  # cannot be drawn, could be rounded to
    assert tokens.tolist() == [130]
    assert logprobs.tolist() == pytest.approx([math.log(0.5)])


def test_a_response_ends_with_the_stop_token_or_when_it_is_full() -> None:
    response = Drawn(prompt=0, uniform=[0.1, 0.2, 0.3])
    response.add(7, -1.0, stop_id=2)
    assert (response.done, response.next_uniform) == (False, 0.2)
    response.add(2, -2.0, stop_id=2)
    assert (response.done, response.ended) == (True, True)
    full = Drawn(prompt=0, uniform=[0.1])
    full.add(7, -1.0, stop_id=2)
    assert (full.done, full.ended) == (True, False)
