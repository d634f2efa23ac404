"""Log-probabilities of chosen tokens without ever holding [B, T, V] logits.

Logits are made for a chunk of rows, reduced to one number each, and thrown away; the backward pass makes them again.
Peak memory is one chunk, whatever the batch. Everything after the matrix product is fp32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

CHUNK_ROWS = 512


def chosen_logprobs(hidden: Tensor, weight: Tensor, tokens: Tensor, *, temperature: float) -> Tensor:
    """log softmax(hidden @ weight.T / temperature) at ``tokens``.

    Args:
        hidden: [M, D] fp32 rows, each predicting one token.
        weight: [V, D] the unembedding, in the dtype its products run in.
        tokens: [M] the token that followed.
        temperature: of the policy, the same in sampling and training.

    Returns:
        [M] fp32, in nats; differentiable in `hidden` and `weight`.
    """
    logprobs: Tensor = _ChosenLogprobs.apply(hidden, weight, tokens, temperature)  # type: ignore[no-untyped-call]
    return logprobs


class _ChosenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, tokens: Tensor, temperature: float) -> Tensor:
        rows = hidden / temperature
        chosen, normalizers = rows.new_empty(len(rows)), rows.new_empty(len(rows))
        for part, logits in _chunks_of_logits(rows, weight):
            chosen[part] = logits.gather(-1, tokens[part, None])[:, 0]
            top = logits.amax(-1)
            normalizers[part] = logits.sub_(top[:, None]).exp_().sum(-1).log_() + top
        ctx.save_for_backward(rows, weight, tokens, normalizers)
        ctx.temperature = temperature
        return chosen - normalizers

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        rows, weight, tokens, normalizers = ctx.saved_tensors
        grad_rows = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for part, logits in _chunks_of_logits(rows, weight):
            # -d logp(y) / d logits = softmax - one_hot(y); what each row is weighted with can wait until [M, D]
            delta = logits.sub_(normalizers[part, None]).exp_()
            delta[torch.arange(len(delta), device=delta.device), tokens[part]] -= 1.0
            delta, down = delta.to(weight.dtype), -grad[part, None]
            if grad_rows is not None:
                torch.mul(delta @ weight, down, out=grad_rows[part])
            if grad_weight is not None:
                _add_product(grad_weight, delta.T, (rows[part] * down).to(weight.dtype))
        return (
            None if grad_rows is None else grad_rows.div_(ctx.temperature),
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None,
            None,
        )


def _chunks_of_logits(rows: Tensor, weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Which rows, and their fp32 logits, all in the same memory: getting it anew costs a fifth of the product."""
    memory = rows.new_empty(min(CHUNK_ROWS, len(rows)), len(weight))
    for start in range(0, len(rows), CHUNK_ROWS):
        part = slice(start, min(start + CHUNK_ROWS, len(rows)))
        logits = memory[: part.stop - start]
        if weight.dtype == logits.dtype:
            torch.mm(rows[part], weight.T, out=logits)
        else:
            logits.copy_(rows[part].to(weight.dtype) @ weight.T)
        yield part, logits


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, in fp32 whatever the dtype of the product."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b
