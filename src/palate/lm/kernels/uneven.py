"""Attention over rows of many sequences that lie one after the other, a run of equally long ones at a time.

The backward pass keeps the rows as they came, what comes of them and the sums. Sequences that follow another one, as a
response follows its prompt, read that one's keys as well: they are copied side by side while the kernel works on them,
and no longer.

Left out: soft caps and padded runs, which meet under autograd (`lm/decoder.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from palate.lm.kernels.attention import attention_and_sums


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """S runs of rows that follow each other, and how to pad them to [S, L] and back.

    Attributes:
        lengths: [S] number of rows of each run.
        real: [N_s] the places of [S * L] that are not padding, in row order.
        width: L, the longest run.
    """

    lengths: Tensor
    real: Tensor
    width: int

    @classmethod
    def of(cls, lengths: Tensor) -> Self:
        """Runs of the given lengths."""
        width = int(lengths.max()) if len(lengths) else 0
        inside = torch.arange(width)[None] < lengths[:, None]
        return cls(lengths=lengths, real=inside.flatten().nonzero()[:, 0], width=width)

    def pad(self, rows: Tensor) -> Tensor:
        """[N_s, ...] rows -> [S, L, ...]; padding is zero."""
        if self.even:
            return rows.view(len(self.lengths), self.width, *rows.shape[1:])
        places: Tensor = _Pad.apply(rows, self)  # type: ignore[no-untyped-call]
        return places.view(len(self.lengths), self.width, *rows.shape[1:])

    def unpad(self, x: Tensor) -> Tensor:
        """[S, L, ...] -> the real rows, in order."""
        if self.even:
            return x.flatten(0, 1)
        rows: Tensor = _Unpad.apply(x.flatten(0, 1), self)  # type: ignore[no-untyped-call]
        return rows

    @property
    def even(self) -> bool:
        """All of one length: there is no padding."""
        return len(self.real) == len(self.lengths) * self.width

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return replace(self, lengths=self.lengths.to(device), real=self.real.to(device))


class _Pad(torch.autograd.Function):
    """Rows to their places; each is the other's gradient, so neither ever has to accumulate."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, segments: Segments) -> Tensor:
        ctx.segments = segments
        places = rows.new_zeros(len(segments.lengths) * segments.width, *rows.shape[1:])
        return places.index_copy_(0, segments.real, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.index_select(0, ctx.segments.real), None


class _Unpad(torch.autograd.Function):
    """Places back to rows."""

    @staticmethod
    def forward(ctx: Any, places: Tensor, segments: Segments) -> Tensor:
        ctx.segments, ctx.count = segments, len(places)
        return places.index_select(0, segments.real)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        places = grad.new_zeros(ctx.count, *grad.shape[1:])
        return places.index_copy_(0, ctx.segments.real, grad), None


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """A run of S sequences, T long, whose queries meet keys: those of what they follow, T' long, and their own.

    Attributes:
        place: of the run among all runs.
        after: the place of the run that they follow, if they follow any.
        which: [S] of its sequences each of them follows.
        mask: [S or 1, 1, T, T' + T] zero where a query may see a key, minus infinity elsewhere; None: it sees itself
            and what was before, and the run follows none.
    """

    place: int
    after: int | None = None
    which: Tensor | None = None
    mask: Tensor | None = None

    def keys(self, x: Sequence[Tensor]) -> Tensor:
        """Of all runs, padded -> [S, T' + T, ...]."""
        own = x[self.place]
        if self.after is None or self.which is None:
            return own
        return torch.cat([x[self.after].index_select(0, self.which), own], dim=1)

    def give(self, total: Sequence[Tensor], of_keys: Tensor) -> None:
        """Gradients [S, T' + T, ...] of `keys`: written to ``total``, and added there to what they follow."""
        own = total[self.place]
        before = of_keys.shape[1] - own.shape[1]
        own.copy_(of_keys[:, before:])
        if self.after is not None and self.which is not None:
            total[self.after].index_add_(0, self.which, of_keys[:, :before])


def padded(x: Tensor, runs: Sequence[Segments]) -> list[Tensor]:
    """[N, ...] of all rows -> of every run [S, T, ...]; where it is even, a view."""
    parts = x.split([len(segments.real) for segments in runs])
    return [segments.pad(rows) for rows, segments in zip(parts, runs, strict=True)]


def attention_in_runs(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    runs: Sequence[Segments],
    meetings: Sequence[Meeting],
    *,
    scale: float | None,
    dtype: torch.dtype,
) -> Tensor:
    """On a processor: [N, H, D] queries, [N, G, D] keys and values -> [N, H, D] in their dtype.

    Args:
        runs: that the rows lie in, all of them even.
        meetings: of every run that is not empty, in the order of the runs.
        scale: of the products; None: one by the root of D.
        dtype: what is computed in, at least as wide as the operands; the gradient is computed in theirs.
    """
    met: Tensor = _InRuns.apply(q, k, v, runs, meetings, scale, dtype)  # type: ignore[no-untyped-call]
    return met


class _InRuns(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        runs: Sequence[Segments],
        meetings: Sequence[Meeting],
        scale: float | None,
        dtype: torch.dtype,
    ) -> Tensor:
        out, sums = q.new_empty(q.shape), q.new_empty(q.shape[:2])
        queries, keys, values, outs, totals = (padded(x, runs) for x in (q, k, v, out, sums))
        for each in meetings:
            operands = (queries[each.place], each.keys(keys), each.keys(values))
            met, logarithms = attention_and_sums(
                *(x.transpose(1, 2) for x in operands), mask=each.mask, scale=scale, dtype=dtype
            )
            outs[each.place].copy_(met.transpose(1, 2))
            if any(ctx.needs_input_grad):
                totals[each.place].copy_(logarithms.transpose(1, 2))
        ctx.save_for_backward(q, k, v, out, sums)
        ctx.runs, ctx.meetings, ctx.scale = runs, meetings, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kept = ctx.saved_tensors  # once: where activations are recomputed, that is when
        found = [x.new_empty(x.shape) for x in kept[:3]]
        of_q, of_k, of_v = (padded(x, ctx.runs) for x in found)
        # kernels read whole rows of the gradient
        upper, q, k, v, out, sums = (padded(x, ctx.runs) for x in (grad.contiguous(), *kept))
        for each in ctx.meetings:
            here = (upper[each.place], q[each.place], each.keys(k), each.keys(v), out[each.place], sums[each.place])
            gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                *(x.transpose(1, 2) for x in here), 0.0, each.mask is None, attn_mask=each.mask, scale=ctx.scale
            )
            run_q, run_k, run_v = (x.transpose(1, 2) for x in gradients)
            of_q[each.place].copy_(run_q)
            each.give(of_k, run_k)
            each.give(of_v, run_v)
        return *found, None, None, None, None
