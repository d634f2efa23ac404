"""Log-probabilities of chosen tokens, and divergences of two models, without ever holding [B, T, V] logits.

Logits are made for a part of the vocabulary, reduced to one number a row, and thrown away; the backward pass makes them
again. So the unembedding is read once each way, a part of its gradient is written once, and peak memory is one part,
whatever the batch. Where one part is all of them nothing is made again: what the backward pass needs of them stays in
their place, memory that it would ask for first of all. Logits and everything after them are fp32, whatever the dtype of
the product's operands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from palate.lm.kernels.products import mm_of_rows, rounding, sums

LOGITS = 2**22
"""Made at a time on a processor: 16 MiB, part of which is still in its caches when it is read again."""
LOGITS_ON_GPU = 2**26
"""Made at a time on a GPU, whose products are fast when they are large: 256 MiB."""
CHUNK_ROWS = 512
"""Whose logits are held at a time where a head is not just a weight."""
KL_ROWS = 64
"""Whose logits, of two models, are held at a time where all of them count."""
WIDTH = 512
"""A part is so many tokens of the vocabulary, or a multiple: narrower products are slow, and so are those whose rows
begin anywhere in a cache line (90 GFLOP/s instead of 120 on two AVX2 cores)."""


def chosen_logprobs(
    hidden: Tensor,
    weight: Tensor,
    tokens: Tensor,
    *,
    temperature: float,
    cap: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """log softmax(hidden @ weight.T / temperature) at ``tokens``.

    Args:
        hidden: [M, D] fp32 rows, each predicting one token.
        weight: [V, D] the unembedding, in the dtype of the product's operands.
        tokens: [M] the token that followed.
        temperature: of the policy, the same in sampling and training.
        cap: logits are bent to stay between minus and plus this before the temperature divides them.
        dtype: that the product's fp32 operands may be rounded to.

    Returns:
        [M] fp32, in nats; differentiable in `hidden` and `weight`.
    """
    learns = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    logprobs: Tensor = _ChosenLogprobs.apply(hidden, weight, tokens, temperature, cap, learns, dtype)  # type: ignore[no-untyped-call]
    return logprobs


def logprobs_by_rows(logits: Callable[[Tensor], Tensor], rows: Tensor, tokens: Tensor, *, temperature: float) -> Tensor:
    """The same of any head: logits of `CHUNK_ROWS` rows at a time, and again for the gradient.

    Args:
        logits: from [N, D] to [N, V].
        rows: [M, D], each predicting one token.
        tokens: [M] the token that followed.
        temperature: of the policy.

    Returns:
        [M] in nats.
    """

    def chosen(rows: Tensor, tokens: Tensor) -> Tensor:
        scaled = logits(rows) / temperature
        return scaled.gather(-1, tokens[:, None])[:, 0] - scaled.logsumexp(-1)

    chunks = zip(torch.split(rows, CHUNK_ROWS), torch.split(tokens, CHUNK_ROWS), strict=True)
    return torch.cat([checkpoint(chosen, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks])


def kl_by_rows(
    logits: Callable[[Tensor], Tensor], other_logits: Callable[[Tensor], Tensor], rows: Tensor, other_rows: Tensor
) -> Tensor:
    """KL(one || other) of the next token, summed over the whole vocabulary, `KL_ROWS` rows at a time, and again for
    the gradient.

        sum_v p(v) * (log p(v) - log q(v))

    Args:
        logits: from [N, D] to [N, V], the temperature inside; the gradient flows through these alone.
        other_logits: the other model's.
        rows: [M, D], each predicting one token.
        other_rows: [M, D'], of the other model at the same places.

    Returns:
        [M] in nats.
    """

    def divergence(rows: Tensor, other_rows: Tensor) -> Tensor:
        logp = logits(rows).log_softmax(-1)
        with torch.no_grad():
            logq = other_logits(other_rows).log_softmax(-1)
        return (logp.exp() * (logp - logq)).sum(-1)

    chunks = zip(torch.split(rows, KL_ROWS), torch.split(other_rows, KL_ROWS), strict=True)
    return torch.cat(
        [checkpoint(divergence, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
    )


class _ChosenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        tokens: Tensor,
        temperature: float,
        cap: float | None,
        learns: bool,
        dtype: torch.dtype,
    ) -> Tensor:
        # without a cap the rows are divided by the temperature, which are fewer numbers than the logits
        ctx.dtype, ctx.divisor = dtype, temperature if cap is None else 1.0
        ctx.bend = None if cap is None else (cap, temperature)
        rows: Tensor = hidden / ctx.divisor
        chosen, normalizers = rows.new_zeros(len(rows), 1), rows.new_full((len(rows), 1), -torch.inf)
        known: Tensor | None = None
        for part, logits in _parts_of_logits(rows, weight, dtype):
            slope = None if ctx.bend is None else _bend(logits, *ctx.bend)
            inside, column = _within(part, tokens)
            chosen = torch.where(inside, logits.gather(-1, column), chosen)
            top = logits.amax(-1, keepdim=True)
            masses = logits.sub_(top).exp_()
            mass = masses.sum(-1, keepdim=True)
            if learns and masses.shape[1] == len(weight):
                known = _delta(masses.div_(mass), inside, column, slope).to(weight.dtype)
            normalizers = torch.logaddexp(normalizers, mass.log_().add_(top))
            del logits, masses, slope
        ctx.save_for_backward(rows, weight, tokens, normalizers, known)
        return (chosen - normalizers)[:, 0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, tokens, normalizers, known = ctx.saved_tensors
        grad_rows = torch.zeros_like(rows) if ctx.needs_input_grad[0] else None
        grad_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        # what each row is weighted with is applied to [M, D], not [M, V]
        down = -grad[:, None]
        weighted = (rows * down).to(weight.dtype)
        for part, delta in _deltas(rows, weight, tokens, normalizers, ctx.bend, known, ctx.dtype):
            if grad_rows is not None:
                grad_rows += sums(delta, weight[part], ctx.dtype)
            if grad_weight is not None:
                with rounding(ctx.dtype):
                    grad_weight[part] = mm_of_rows(delta, weighted)
            del delta
        grad_rows = None if grad_rows is None else grad_rows.mul_(down).div_(ctx.divisor)
        return grad_rows, grad_weight, None, None, None, None, None


def _deltas(
    rows: Tensor,
    weight: Tensor,
    tokens: Tensor,
    normalizers: Tensor,
    bend: tuple[float, float] | None,
    known: Tensor | None,
    dtype: torch.dtype,
) -> Iterator[tuple[slice, Tensor]]:
    """Which part of the vocabulary, and `_delta` of it [M, part], in the dtype of the product's operands."""
    if known is not None:
        yield slice(0, len(weight)), known
        return
    for part, logits in _parts_of_logits(rows, weight, dtype):
        slope = None if bend is None else _bend(logits, *bend)
        probs = logits.sub_(normalizers).exp_()
        yield part, _delta(probs, *_within(part, tokens), slope).to(weight.dtype)
        del logits, probs, slope


def _delta(probs: Tensor, inside: Tensor, column: Tensor, slope: Tensor | None) -> Tensor:
    """-d log p(y) / d logits = softmax - one_hot(y), in the place of the softmax."""
    probs.scatter_add_(-1, column, -inside.to(probs.dtype))
    return probs if slope is None else probs.mul_(slope)


def _bend(logits: Tensor, cap: float, temperature: float) -> Tensor:
    """Make each cap * tanh(logit / cap) / temperature, in its place; gives the slopes of that."""
    bent = logits.div_(cap).tanh_()
    slope: Tensor = (1 - bent.square()).div_(temperature)
    bent.mul_(cap / temperature)
    return slope


def _parts_of_logits(
    rows: Tensor, weight: Tensor, dtype: torch.dtype = torch.float32
) -> Iterator[tuple[slice, Tensor]]:
    """Which part of the vocabulary, and its fp32 logits [M, part]; whoever lets go of them has one part at a time."""
    count, vocabulary = len(rows), len(weight)
    budget = LOGITS if rows.device.type == "cpu" else LOGITS_ON_GPU
    width = min(max(1, budget // max(1, count) // WIDTH) * WIDTH, vocabulary)
    rows = rows.to(weight.dtype)
    for start in range(0, vocabulary, width):
        part = slice(start, min(start + width, vocabulary))
        yield part, sums(rows, weight[part].T, dtype)


def _within(part: slice, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """[M, 1] whether each row's token is in the part, and its column there (any column, if it is not)."""
    inside = (tokens >= part.start) & (tokens < part.stop)
    return inside[:, None], torch.where(inside, tokens - part.start, 0)[:, None]
