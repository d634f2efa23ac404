"""Queries meet keys: scaled dot products, on the kernel that suits a device.

On a processor that multiplies in bf16 attention is computed in fp64, see `attention_dtype`, and given and kept in fp32.
That is for what comes out, which the next product rounds. A gradient has no twin that it must agree with to the bit:
it is computed in fp32, from the fp64 result and its sums, in a third of the time and half of the memory.

Left out: dropout (off in every model of RLHF).

Vaswani et al. 2017 (arXiv 1706.03762); never all scores at once, and their gradient from the sums alone: Dao et al.
2022 (arXiv 2205.14135); heads that share keys: Ainslie et al. 2023 (arXiv 2305.13245).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def attention_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """What attention is computed in where products are in ``dtype``.

    A GPU's quick kernels are bf16's. On a processor those are slower than fp32's; and as the order in which attention
    adds up depends on what else is in the pass, the last bit of its result must not decide how it is rounded to bf16.
    In fp64 it practically never does.
    """
    if dtype == torch.float32 or device.type != "cpu":
        return dtype
    return torch.float64


def carried_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """What queries, keys and values are in until then, and what comes of them: they were never more than fp32."""
    return min(attention_dtype(dtype, device), torch.float32, key=lambda each: each.itemsize)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None,
    scale: float | None,
    cap: float | None,
    dtype: torch.dtype,
) -> Tensor:
    """[S, H, T, D] queries, [S, G, T', D] keys and values -> [S, H, T, D] in their dtype; causal without a mask.

    Args:
        mask: zero where a query may see a key, minus infinity elsewhere; [S or 1, 1, T, T'], in any dtype.
        scale: of the products; None: one by the root of D.
        cap: of the scores, where they have one.
        dtype: what is computed in, at least as wide as the operands.
    """
    if cap is not None:
        return _capped(*(x.to(dtype) for x in (q, k, v)), mask=mask, scale=scale, cap=cap).to(q.dtype)
    if dtype != q.dtype and torch.is_grad_enabled():
        result: Tensor = _Wide.apply(q, k, v, mask, scale, dtype)  # type: ignore[no-untyped-call]
        return result
    out = F.scaled_dot_product_attention(
        q.to(dtype),
        k.to(dtype),
        v.to(dtype),
        attn_mask=None if mask is None else mask.to(dtype),
        is_causal=mask is None,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out.to(q.dtype)


def attention_and_sums(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None, scale: float | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """On a processor, without gradients: as `attention`, but in ``dtype``, and [S, H, T] the sums.

    Of the exponentials of each query's scores, their logarithm.
    """
    out, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        *(x.to(dtype) for x in (q, k, v)),
        0.0,
        mask is None,
        attn_mask=None if mask is None else mask.to(dtype),
        scale=scale,
    )
    return out, sums


def joined(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """The same queries over some keys and over others, as `attention_and_sums` gives it -> over all of them."""
    (one, sums), (other, other_sums) = first, second
    return torch.lerp(other, one, (sums - other_sums).sigmoid()[..., None])


class _Wide(torch.autograd.Function):
    """A processor's attention computed in a wider dtype; the gradient in the operands' own."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, dtype: torch.dtype
    ) -> Tensor:
        wide, sums = attention_and_sums(q, k, v, mask=mask, scale=scale, dtype=dtype)
        out: Tensor = wide.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, sums.to(q.dtype), mask)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *saved, mask = ctx.saved_tensors
        gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, *saved, 0.0, mask is None, attn_mask=mask, scale=ctx.scale
        )
        return *gradients, None, None, None


def _capped(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None, scale: float | None, cap: float) -> Tensor:
    """With scores that are bent, and so all there."""
    mask = band(q.shape[2], q.shape[2], q.device) if mask is None else mask
    precision = torch.promote_types(q.dtype, torch.float32)
    grouped = q.unflatten(1, (k.shape[1], -1)).to(precision)
    scores = torch.einsum("sghtd,sgud->sghtu", grouped, k.to(precision)) * (scale or q.shape[-1] ** -0.5)
    weights = (soft_cap(scores, cap) + mask[:, :, None].to(precision)).softmax(-1)
    return torch.einsum("sghtu,sgud->sghtd", weights, v.to(precision)).flatten(1, 2)


def band(width: int, window: int, device: torch.device) -> Tensor:
    """[1, 1, width, width] zero at the last ``window`` tokens up to oneself, minus infinity elsewhere."""
    back = torch.arange(width, device=device)[:, None] - torch.arange(width, device=device)
    return torch.zeros(back.shape, device=device).masked_fill((back < 0) | (back >= window), -torch.inf)[None, None]


def soft_cap(x: Tensor, cap: float) -> Tensor:
    """Bent to stay between minus and plus ``cap``: Gemma 2 (arXiv 2408.00118)."""
    return (x / cap).tanh() * cap
