"""Log-probabilities of chosen tokens without ever holding [B, T, V] logits.

Logits are made for a chunk of rows, reduced to one number each, and thrown away; the backward pass makes them again.
Peak memory is one chunk, whatever the batch. Everything after the matrix product is fp32.
"""

from __future__ import annotations

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


def _logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    return (hidden.to(weight.dtype) @ weight.T).float().div_(temperature)


class _ChosenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, tokens: Tensor, temperature: float) -> Tensor:
        logprobs, normalizers = [], []
        for rows, targets in zip(hidden.split(CHUNK_ROWS), tokens.split(CHUNK_ROWS), strict=True):
            logits = _logits(rows, weight, temperature)
            normalizers.append(logits.logsumexp(-1))
            logprobs.append(logits.gather(-1, targets[:, None])[:, 0] - normalizers[-1])
        ctx.save_for_backward(hidden, weight, tokens, torch.cat(normalizers))
        ctx.temperature = temperature
        return torch.cat(logprobs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden, weight, tokens, normalizers = ctx.saved_tensors
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        grad_hidden = []
        for part in torch.arange(len(tokens), device=tokens.device).split(CHUNK_ROWS):
            rows = hidden[part]
            # d logp(y) / d logits = one_hot(y) - softmax
            delta = (_logits(rows, weight, ctx.temperature) - normalizers[part, None]).exp_().neg_()
            delta[torch.arange(len(part)), tokens[part]] += 1.0
            delta.mul_(grad[part, None] / ctx.temperature)
            delta = delta.to(weight.dtype)
            grad_hidden.append((delta @ weight).float())
            if grad_weight is not None:
                grad_weight += delta.T @ rows.to(weight.dtype)
        hidden_grad = torch.cat(grad_hidden) if ctx.needs_input_grad[0] else None
        return hidden_grad, None if grad_weight is None else grad_weight.to(weight.dtype), None, None
