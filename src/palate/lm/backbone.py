"""What a model has below its head: the one interface of the two kinds of network we run.

`decoder.Decoder` is our own, for the Llama family; `foreign.Foreign` is transformers' code for everything else. The
stages and the heads in `model.py` see a `Backbone` and never ask which of the two it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from palate.lm.batch import Layout, Sequences
from palate.randomness import derive_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What others need to know of a network's dimensions."""

    vocab_size: int
    hidden_size: int
    num_layers: int


class Unembedding:
    """What the head of a language model is besides a module.

    Called with rows [N, D], None and a temperature it gives logits [N, V] divided by that, fp32 and newly made. Called
    with tokens [N] it gives log p of each, predicted by one row: [N] fp32, differentiable.
    """


class Backbone(nn.Module):
    """Tokens in, hidden rows out.

    Attributes:
        shape: its dimensions.
        dtype: of matrix products; weights that learn are fp32.
        has_trunk: the lower layers can be computed once and their output kept.
        prefix: what stands before transformers' names of its weights in those of a model.
    """

    shape: Size
    dtype: torch.dtype
    has_trunk = False
    prefix = ""

    def lower(self, layers: int) -> list[nn.Module]:
        """The embeddings and the lowest ``layers`` layers."""
        raise NotImplementedError

    def upper(self, layers: int) -> list[nn.Module]:
        """All layers but the lowest ``layers``."""
        count = self.shape.num_layers
        return self.lower(count)[-count:][layers:]

    def recompute(self) -> None:
        """Keep only what is between layers for gradients and compute the rest again.

        Chen et al. 2016 (arXiv 1604.06174). transformers' own way is for training mode, in which no model of ours is.
        """
        for layer in self.upper(0):
            layer.forward = partial(_computed_again, layer.forward)

    def rows(self, sequences: Sequences, layout: Layout, wanted: Tensor) -> Tensor:
        """[M, D] fp32 hidden rows after the last norm, of the tokens at ``wanted`` [M] in the layout."""
        raise NotImplementedError

    def trunk(self, layout: Layout, layers: int) -> Tensor:
        """[N, D] the output of the lowest ``layers`` layers; only if it `has_trunk`."""
        raise NotImplementedError

    def rows_above(self, layout: Layout, layers: int, below: Tensor, wanted: Tensor) -> Tensor:
        """As `rows`, started from what `trunk` gave."""
        raise NotImplementedError

    def unembedding(self, *, tied: bool) -> nn.Module:
        """The head of a language model: an `Unembedding`."""
        raise NotImplementedError

    def scalar_heads(self, count: int) -> nn.Linear:
        """The heads of a reward or value model: so many numbers, no bias."""
        raise NotImplementedError

    def write(self, directory: Path, config: Any, state: Mapping[str, Tensor], head: str) -> None:
        """Config and weights in the Hugging Face layout.

        Args:
            directory: exists already.
            config: of the model.
            state: the state dict of the whole model.
            head: how transformers calls such a model, ``ForCausalLM`` or ``ForSequenceClassification``.
        """
        raise NotImplementedError


def _computed_again(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def draw_scalar_heads(heads: nn.Linear, seed: int) -> None:
    """Small random weights (Ouyang et al. 2022), so that an untrained reward model says next to nothing.

    Each head has a seed of its own: the first one is the same however many there are.
    """
    count, size = heads.weight.shape
    seeds = [seed, *(derive_seed(seed, place) for place in range(1, count))]
    rows = [torch.randn(1, size, generator=torch.Generator().manual_seed(each)) for each in seeds]
    with torch.no_grad():
        heads.weight.copy_(torch.cat(rows) / (size + 1) ** 0.5 * 0.1)
