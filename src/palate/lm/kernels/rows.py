"""What happens to each row by itself, on a processor some rows at a time: norms and rotations.

What is read from memory is much, what is computed little: the few rows that are worked on stay in a processor's own
cache. The backward pass keeps a norm's rows as they came, and of a rotation nothing but its angles: it is one as well,
the other way round.

Zhang and Sennrich 2019 (arXiv 1910.07467); Su et al. 2021 (arXiv 2104.09864).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

AT_A_TIME = 2**16
"""Numbers: a quarter of a megabyte in fp32, so that several times as many are in a cache of 2 MiB."""


def rms_normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """[N, D] fp32, each row by the root of its mean square, times weight [D]; differentiable."""
    asks = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if x.device.type != "cpu" or (not asks and x.numel() <= AT_A_TIME):  # the same to the bit, in fewer calls
        return F.rms_norm(x, weight.shape, weight, eps)
    result: Tensor = _Normed.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return result


class _Normed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        out, scales = torch.empty_like(x), x.new_empty(len(x), 1)
        for part in parts(x, AT_A_TIME):
            rows = x[part]
            scale = rows.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
            torch.mul(rows, scale, out=out[part]).mul_(weight)
            scales[part] = scale
        ctx.save_for_backward(x, weight, scales)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, scales = ctx.saved_tensors
        of_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        of_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for part in parts(x, AT_A_TIME):
            upper, scale = grad[part], scales[part]
            normed = x[part] * scale
            met = upper * normed
            if of_weight is not None:
                of_weight += met.sum(0)
            if of_x is not None:
                along = torch.mv(met, weight).div_(len(weight))[:, None]
                torch.mul(upper, weight, out=of_x[part]).addcmul_(normed, along, value=-1).mul_(scale)
        return of_x, of_weight, None


def rotated(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """[N, H, D] queries and [N, G, D] keys -> the same in fp32, the front of each head turned; differentiable.

    Args:
        cos, sin: [N, 1, R] of the angles: the first R of a head against the next R; the rest stays.
    """
    result: tuple[Tensor, Tensor] = _Rotated.apply(q, k, cos, sin)  # type: ignore[no-untyped-call]
    return result


class _Rotated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        ctx.dtypes = q.dtype, k.dtype
        return _turned(q, k, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, of_q: Tensor, of_k: Tensor) -> tuple[Tensor, Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        back = _turned(of_q, of_k, cos, sin, -1.0)
        of_q, of_k = (grad.to(dtype) for grad, dtype in zip(back, ctx.dtypes, strict=True))
        return of_q, of_k, None, None


def _turned(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, sign: float) -> tuple[Tensor, Tensor]:
    heads = [q.shape[1], k.shape[1]]
    out = q.new_empty(len(q), sum(heads), q.shape[2], dtype=torch.float32)
    into_q, into_k = out.split(heads, dim=1)
    half = cos.shape[-1]
    for part in parts(out, AT_A_TIME):
        into_q[part], into_k[part] = q[part], k[part]
        a, b = out[part, :, :half], out[part, :, half : 2 * half]
        c, s = cos[part], sin[part]
        turned = torch.mul(b, c).addcmul_(a, s, value=sign)
        a.mul_(c).addcmul_(b, s, value=-sign)
        b.copy_(turned)
    return into_q, into_k


def parts(x: Tensor, numbers: int) -> Iterator[slice]:
    """Of the rows [N, ...] of ``x``: so many that ``numbers`` are in them; elsewhere than on a processor all."""
    rows = max(1, numbers // max(1, x[:1].numel())) if x.device.type == "cpu" else max(1, len(x))
    return (slice(start, start + rows) for start in range(0, len(x), rows))
