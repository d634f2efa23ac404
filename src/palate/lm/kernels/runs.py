"""Attention over rows of many sequences that lie one after the other, a run of about equally long ones at a time.

A run is padded to its longest sequence while the kernel works on it, and no longer: the backward pass keeps the rows
as they came, what comes of them and the sums, and pads anew. Sequences that follow another one, as a response follows
its prompt, read that one's keys as well; where several follow the same, it is kept once.

Left out: soft caps and a GPU's kernels, which meet run by run under autograd (`lm/decoder.py`).
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
        rows: where they stand among all rows.
        segments: how they are padded.
        after: the run that they follow, if they follow any.
        which: [S] of its sequences each of them follows.
        mask: [S or 1, 1, T, T' + T] zero where a query may see a key, minus infinity elsewhere; None: it sees itself
            and what was before, and the run follows none.
    """

    rows: slice
    segments: Segments
    after: Meeting | None = None
    which: Tensor | None = None
    mask: Tensor | None = None

    def queries(self, x: Tensor) -> Tensor:
        """[N, ...] of all rows -> [S, T, ...]."""
        return self.segments.pad(x[self.rows])

    def keys(self, x: Tensor) -> Tensor:
        """[N, ...] of all rows -> [S, T' + T, ...]."""
        own = self.queries(x)
        if self.after is None or self.which is None:
            return own
        return torch.cat([self.after.queries(x).index_select(0, self.which), own], dim=1)

    def give(self, total: Tensor, of_keys: Tensor) -> None:
        """Gradients [S, T' + T, ...] of `keys`: into their places in ``total`` [N, ...], added to what they follow.

        Where nothing is padded, and after what it follows.
        """
        before = of_keys.shape[1] - self.segments.width
        self.queries(total).copy_(of_keys[:, before:])
        if self.after is not None and self.which is not None:
            self.after.queries(total).index_add_(0, self.which, of_keys[:, :before])


def attention_in_runs(
    q: Tensor, k: Tensor, v: Tensor, meetings: Sequence[Meeting], *, scale: float | None, dtype: torch.dtype
) -> Tensor:
    """On a processor: [N, H, D] queries, [N, G, D] keys and values -> [N, H, D] in their dtype.

    Args:
        meetings: every row is in one of them.
        scale: of the products; None: one by the root of D.
        dtype: what is computed in, at least as wide as the operands; the gradient is computed in theirs.
    """
    met: Tensor = _InRuns.apply(q, k, v, meetings, scale, dtype)  # type: ignore[no-untyped-call]
    return met


class _InRuns(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        meetings: Sequence[Meeting],
        scale: float | None,
        dtype: torch.dtype,
    ) -> Tensor:
        out, sums = q.new_empty(q.shape), q.new_empty(q.shape[:2])
        for each in meetings:
            operands = (each.queries(q), each.keys(k), each.keys(v))
            met = attention_and_sums(*(x.transpose(1, 2) for x in operands), mask=each.mask, scale=scale, dtype=dtype)
            for rows, run in zip((out, sums), met, strict=True):
                each.queries(rows).copy_(run.transpose(1, 2))
        ctx.save_for_backward(q, k, v, out, sums)
        ctx.meetings, ctx.scale = meetings, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (q, k, v, out, sums), grad = ctx.saved_tensors, grad.contiguous()  # kernels read whole rows of it
        of_q, of_k, of_v = (x.new_empty(x.shape) for x in (q, k, v))
        for each in ctx.meetings:
            run_q, *of_keys = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                each.queries(grad).transpose(1, 2),
                each.queries(q).transpose(1, 2),
                each.keys(k).transpose(1, 2),
                each.keys(v).transpose(1, 2),
                each.queries(out).transpose(1, 2),
                each.queries(sums).transpose(1, 2),
                0.0,
                each.mask is None,
                attn_mask=each.mask,
                scale=ctx.scale,
            )
            each.queries(of_q).copy_(run_q.transpose(1, 2))
            for total, run in zip((of_k, of_v), of_keys, strict=True):
                each.give(total, run.transpose(1, 2))
        return of_q, of_k, of_v, None, None, None
