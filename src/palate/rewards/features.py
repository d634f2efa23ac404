"""What a frozen trunk knows of a response: [N, 2 D] numbers, computed once, on which a linear reward can be learned.

A response's features are the hidden states after the trunk, of its last token and averaged over its tokens, side by
side. The last token has read everything, which is where a reward model's head sits; the mean keeps what was said early.
A linear head on them is a weak reward model and a cheap one: fitted in milliseconds, so that what needs hundreds of
reward models (folds of labelers, learning curves, resampled labels) can be done at all. What holds of it is a hint of
what holds of a reward model whose layers learn too, not a proof.

Left out: the prompt's own states; two responses to one prompt share them, so a difference of rewards would not.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from palate.errors import RecipeError
from palate.lm.batch import Sequences
from palate.lm.model import Model


def response_features(
    model: Model,
    sequences: Sequences,
    *,
    max_tokens: int,
    show: Callable[[int, int], None] | None = None,
) -> Tensor:
    """[B, 2 D] fp32: the trunk's state at each sequence's last token, then its mean over the response's tokens.

    Args:
        model: whose ``frozen_layers`` are the trunk.
        show: told how many of how many tokens are done.

    Raises:
        RecipeError: the model has no trunk that could be computed alone.
    """
    if not model.trunk_layers:
        raise RecipeError("no frozen layers to take features from: set frozen_layers, with a model in Palate's network")
    features = torch.zeros(len(sequences), 2 * model.model.shape.hidden_size)
    place = {row: index for index, row in enumerate(sequences.rows.tolist())}
    done, total = 0, int(sequences.lengths.sum())
    for part in sequences.divided(max_tokens):
        trunk = model.trunk(part, max_tokens=max_tokens)
        if trunk is None:
            raise RecipeError(f"a microbatch of {max_tokens} tokens is too large: lower microbatch_tokens")
        for row, states in trunk.responses.items():  # [Tr, D]
            features[place[row]] = torch.cat([states[-1], states.mean(0)]).float().cpu()
        done += int(part.lengths.sum())
        if show is not None:
            show(done, total)
    return features
