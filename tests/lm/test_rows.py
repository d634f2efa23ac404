"""What happens to each row by itself, some rows at a time: to the bit what it is all at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from palate.lm.kernels import gated as gated_rows
from palate.lm.kernels import rows
from palate.lm.kernels.gated import ACTIVATIONS, gated
from palate.lm.kernels.rows import rms_normed, rotated

HALF = torch.bfloat16
Result = TypeVar("Result")


def what_is_kept(compute: Callable[[], Result]) -> tuple[Result, int]:
    """What it gives, and how many bytes wait for its gradient; of a view, all that is kept alive."""
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        return compute(), sum(kept.values())


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("at_a_time", [1, 40, 2**17])
def test_a_gated_activation_is_computed_some_rows_at_a_time(
    name: str, dtype: torch.dtype, at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit what it is all at once, in fp32 inside; only the operands wait for the gradient."""
    monkeypatch.setattr(gated_rows, "AT_A_TIME", at_a_time)
    numbers = torch.Generator().manual_seed(7)
    whole = torch.randn(13, 40, generator=numbers).to(dtype).requires_grad_(True)
    gate, up = whole.split(20, dim=-1)
    mine, kept = what_is_kept(lambda: gated(gate, up, ACTIVATIONS[name], dtype))
    assert kept == whole.numel() * dtype.itemsize
    plain = (ACTIVATIONS[name].forward(gate.float()) * up.float()).to(dtype)
    assert torch.equal(mine, plain)
    upper = torch.randn(13, 20, generator=numbers).to(dtype)
    for one, other in zip(*(torch.autograd.grad(x, (gate, up), upper) for x in (mine, plain)), strict=True):
        assert one.dtype == dtype
        assert torch.equal(one, other)
    with torch.no_grad():
        assert torch.equal(gated(gate[3:5], up[3:5], ACTIVATIONS[name], dtype), mine[3:5])
        assert gated(gate[:0], up[:0], ACTIVATIONS[name], dtype).shape == (0, 20)


@pytest.mark.parametrize("at_a_time", [1, 80, 2**16])
def test_rows_are_normed_some_at_a_time(at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result as torch's own; the gradient beside fp64's; the rows and a number each wait for it."""
    monkeypatch.setattr(rows, "AT_A_TIME", at_a_time)
    numbers = torch.Generator().manual_seed(8)
    x, upper = torch.randn(13, 40, generator=numbers), torch.randn(13, 40, generator=numbers)
    weight = torch.rand(40, generator=numbers) + 0.5
    for learning in ((True, True), (True, False), (False, True)):
        own = [each.clone().requires_grad_(asks) for each, asks in zip((x, weight), learning, strict=True)]
        mine, kept = what_is_kept(lambda own=own: rms_normed(*own, 1e-5))
        assert torch.equal(mine, F.rms_norm(x, weight.shape, weight, 1e-5))
        assert kept == 4 * (x.numel() + len(x) + weight.numel())
        mine.backward(upper)
        wide = [each.double().requires_grad_(True) for each in (x, weight)]
        (F.rms_norm(wide[0], weight.shape, wide[1], 1e-5) * upper.double()).sum().backward()
        for one, other, asks in zip(own, wide, learning, strict=True):
            assert (one.grad is not None) == asks
            if asks:
                torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-6, check_dtype=False)
    with torch.no_grad():
        assert torch.equal(rms_normed(x[3:5], weight, 1e-5), mine[3:5])
        assert torch.equal(rms_normed(x, weight, 1e-5), mine)
        assert rms_normed(x[:0], weight, 1e-5).shape == (0, 40)


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("turned", [16, 10])
@pytest.mark.parametrize("at_a_time", [1, 200, 2**16])
def test_heads_are_turned_some_rows_at_a_time(
    dtype: torch.dtype, turned: int, at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As complex numbers are; turned back it is what it was, which is the gradient; the angles alone wait for it."""
    monkeypatch.setattr(rows, "AT_A_TIME", at_a_time)
    numbers = torch.Generator().manual_seed(9)
    both = torch.randn(13, 80, generator=numbers).to(dtype).requires_grad_(True)
    q, k, _ = (part.unflatten(-1, (-1, 16)) for part in both.split([48, 16, 16], dim=-1))
    angles = torch.rand(13, 1, turned // 2, generator=numbers) * 6
    cos, sin = angles.cos(), angles.sin()
    found, kept = what_is_kept(lambda: rotated(q, k, cos, sin))
    assert kept == 4 * 2 * angles.numel()
    for x, mine in zip((q, k), found, strict=True):
        half = turned // 2
        front = torch.complex(x[..., :half].double(), x[..., half:turned].double()) * torch.polar(
            torch.ones_like(angles).double(), angles.double()
        )
        expected = torch.cat([front.real, front.imag, x[..., turned:].double()], dim=-1)
        torch.testing.assert_close(mine, expected.float(), rtol=1e-5, atol=1e-6)
        assert torch.equal(mine[..., turned:], x[..., turned:].float())
    # lengths stay, so half of the gradient of their squares is what was there
    (gradient,) = torch.autograd.grad(sum(x.square().sum() / 2 for x in found), both)
    assert gradient.dtype == dtype
    torch.testing.assert_close(
        gradient[:, :64], both[:, :64].detach(), rtol=2**-7 if dtype == HALF else 1e-5, atol=1e-6
    )
    assert not gradient[:, 64:].any()
    with torch.no_grad():
        for x, mine in zip(rotated(q[3:5], k[3:5], cos[3:5], sin[3:5]), found, strict=True):
            assert torch.equal(x, mine[3:5])
