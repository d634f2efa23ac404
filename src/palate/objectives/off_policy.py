"""What a token counts that another policy has drawn."""

from __future__ import annotations

import torch
from torch import Tensor


def truncated_weights(logprobs: Tensor, sampled: Tensor, mask: Tensor, *, max_ratio: float) -> Tensor:
    """Importance weights of tokens, cut off above: they carry no gradient.

        weight[b,t] = min(exp(logprobs[b,t] - sampled[b,t]), max_ratio)

    Ionides 2008 ("Truncated importance sampling"). Token by token: the product over a response, which alone would be
    unbiased, grows and shrinks exponentially with its length.

    Args:
        logprobs: [B, T] in training.
        sampled: [B, T] where the tokens were drawn.
        mask: [B, T] boolean, the response tokens.
        max_ratio: the largest weight, at least 1.

    Returns:
        [B, T], 1 outside the mask.
    """
    ratio = torch.where(mask, logprobs - sampled, 0.0).exp()
    return ratio.clamp(max=max_ratio).detach()
