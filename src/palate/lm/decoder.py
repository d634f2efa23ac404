"""The network: a decoder over flat rows, of the families in `families.py`.

The same layers train, score and sample. What differs is how queries meet keys, so that is passed in: `Attend` is
`packed_attention` over a `Layout` when whole sequences are computed and the engine's key/value cache when one token per
sequence is. What differs from family to family is in the `Shape`. Parameter names are those of Hugging Face, so a state
dict moves between the two unchanged, but for projections that a family fuses.

Weights that learn are fp32; the layers' matrix products run in `dtype`. Everything else is fp32: norms, rotations,
activations, residuals and logits. Attention has a precision of its own, see `kernels/attention.py`.

Left out: dropout (off in every model of RLHF).

Touvron et al. 2023 (arXiv 2302.13971); grouped-query attention: Ainslie et al. 2023 (arXiv 2305.13245).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from palate.lm.backbone import Backbone, Unembedding
from palate.lm.batch import Layout, Sequences
from palate.lm.families import Rule, Shape, architecture, fuse, shape_of
from palate.lm.kernels.attention import attention, attention_dtype, carried_dtype, soft_cap
from palate.lm.kernels.gated import ACTIVATIONS, gated
from palate.lm.kernels.rows import rms_normed, rotated
from palate.lm.kernels.uneven import Meeting, attention_in_runs, padded
from palate.lm.logprobs import chosen_logprobs, logprobs_by_rows
from palate.lm.projection import Projecting, Projection, asks_gradient, operands_of

Attend = Callable[[int, Rule, Tensor, Tensor, Tensor], Tensor]
"""(layer index, its rule, queries [N, H, D], keys [N, G, D], values [N, G, D]) -> [N, H, D]."""


class RMSNorm(nn.Module):
    """Root-mean-square norm in fp32: Zhang and Sennrich 2019 (arXiv 1910.07467)."""

    def __init__(self, size: int, shape: Shape) -> None:
        super().__init__()
        self.offset, self.eps = shape.norm_offset, shape.rms_norm_eps
        self.weight = nn.Parameter(torch.ones(size) - self.offset)

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] -> [..., size] fp32."""
        weight = self.weight.float() + self.offset if self.offset else self.weight.float()
        return rms_normed(x.float().reshape(-1, len(weight)), weight, self.eps).view(x.shape)


def projection(shape: Shape, name: str, dtype: torch.dtype) -> Projection:
    """The one of this name, as the family has it."""
    inputs, outputs = shape.size_of(name)
    return Projection(inputs, outputs, dtype, bias=name in shape.biases)


class Attention(Projecting):
    """Projections around `Attend`."""

    def __init__(self, shape: Shape, index: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.index, self.head_dim, self.dtype = index, shape.head_dim, dtype
        self.rule = shape.layers[index].rule
        self.q_proj = projection(shape, "q_proj", dtype)
        self.k_proj = projection(shape, "k_proj", dtype)
        self.v_proj = projection(shape, "v_proj", dtype)
        self.o_proj = projection(shape, "o_proj", dtype)
        self.q_norm: RMSNorm | None = None
        self.k_norm: RMSNorm | None = None
        if shape.query_key_norm:
            whole = shape.query_key_norm == "whole"
            self.q_norm = RMSNorm(self.q_proj.out_features if whole else shape.head_dim, shape)
            self.k_norm = RMSNorm(self.k_proj.out_features if whole else shape.head_dim, shape)

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor] | None, attend: Attend, wanted: Tensor | None = None
    ) -> Tensor:
        """[N, hidden] -> [N, hidden] in the products' dtype; [M, hidden] with ``wanted`` [M] rows."""
        q, k, v = self.project(x, "q_proj", "k_proj", "v_proj")
        q, k = _normed(q, self.q_norm), _normed(k, self.k_norm)
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in (q, k, v))
        if rope is not None:
            q, k = rotated(q, k, *rope)
        q, k, v = (x.to(carried_dtype(self.dtype, x.device)) for x in (q, k, v))
        attended = _pick(attend(self.index, self.rule, q, k, v).flatten(1), wanted)
        out: Tensor = self.o_proj(attended)
        return out


def _normed(x: Tensor, norm: RMSNorm | None) -> Tensor:
    """[N, heads * D], normed in groups of the norm's size: a head's, or all of it."""
    if norm is None:
        return x
    groups: Tensor = norm(x.unflatten(-1, (-1, len(norm.weight))))
    return groups.flatten(1)


class MLP(Projecting):
    """A gated linear unit: Shazeer 2020 (arXiv 2002.05202)."""

    def __init__(self, shape: Shape, dtype: torch.dtype) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[shape.activation]
        self.gate_proj = projection(shape, "gate_proj", dtype)
        self.up_proj = projection(shape, "up_proj", dtype)
        self.down_proj = projection(shape, "down_proj", dtype)

    def forward(self, x: Tensor) -> Tensor:
        """[N, hidden] -> [N, hidden] in the products' dtype."""
        gate, up = self.project(x, "gate_proj", "up_proj")
        out: Tensor = self.down_proj(gated(gate, up, self.activation, operands_of(self.down_proj)))
        return out


class DecoderLayer(nn.Module):
    """x + attention(x), then x + mlp(x), with norms before, after or both, as the family has them."""

    def __init__(self, shape: Shape, index: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.self_attn = Attention(shape, index, dtype)
        self.mlp = MLP(shape, dtype)
        self.norms = shape.norms
        for name in [name for pair in shape.norms for name in pair if name]:
            self.add_module(name, RMSNorm(shape.hidden_size, shape))

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor] | None, attend: Attend, wanted: Tensor | None = None
    ) -> Tensor:
        """[N, hidden] fp32 -> the same; [M, hidden] with ``wanted`` [M], the only rows needed of what comes out."""
        attention, mlp = self.norms
        known = _pick(x, wanted)
        x = known + self._norm(attention[1], self.self_attn(self._norm(attention[0], x), rope, attend, wanted))
        return x + self._norm(mlp[1], self.mlp(self._norm(mlp[0], x)))

    def _norm(self, name: str, x: Tensor) -> Tensor:
        normed: Tensor = getattr(self, name)(x) if name else x
        return normed


class TokenHead(Projection, Unembedding):
    """Hidden rows to logits; its weight is the embeddings' when they are tied."""

    gives_sums = True

    def __init__(self, embeddings: nn.Embedding, dtype: torch.dtype, *, tied: bool, cap: float | None = None) -> None:
        device = "meta" if tied else None  # no memory for weights that are another's
        super().__init__(embeddings.embedding_dim, embeddings.num_embeddings, dtype, device=device)
        if tied:
            self.weight = embeddings.weight
        self.cap = cap

    def forward(self, rows: Tensor, tokens: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """As in `Unembedding`; log-probabilities without holding [N, V]."""
        if tokens is None:
            return self._logits(rows, temperature)
        if self.adapter is not None:
            # the rows are divided here too, or they would be rounded otherwise than where tokens are drawn
            return logprobs_by_rows(partial(self._logits, temperature=temperature), rows, tokens, temperature=1.0)
        if self.learns or asks_gradient(rows):
            self.kept.forget()
        return chosen_logprobs(rows, self.operand(), tokens, temperature=temperature, cap=self.cap, dtype=self.dtype)

    def _logits(self, rows: Tensor, temperature: float = 1.0) -> Tensor:
        if self.cap is None:
            return super().forward(rows / temperature)
        return soft_cap(super().forward(rows), self.cap) / temperature


class Decoder(Backbone):
    """Token rows in, hidden rows out."""

    shape: Shape
    inv_freq: Tensor
    has_trunk = True

    def __init__(self, shape: Shape, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.shape, self.dtype = shape, dtype
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(shape, index, dtype) for index in range(shape.num_layers))
        self.norm = RMSNorm(shape.hidden_size, shape)
        # in no file, so it has to be there where weights have no memory yet
        frequencies = torch.tensor([rope.frequencies for rope in shape.ropes], device="cpu")
        self.register_buffer("inv_freq", frequencies, persistent=False)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        attend: Attend,
        *,
        first: int = 0,
        last: int | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """The pass, or a part of it: layers ``first`` up to, not including, ``last``.

        Args:
            x: tokens [N], or what layer ``first`` - 1 made of them, [N, hidden].
            positions: [N] of the tokens in their sequences.
            attend: how queries meet keys.
            first: 0 embeds the tokens.
            last: None runs all layers that are left and the last norm.
            wanted: [M] the only rows that come out; the last of the layers then computes little else.

        Returns:
            [N, hidden] or [M, hidden], fp32.
        """
        x = self.embed(x) if first == 0 else x
        ropes = [self.rope(index, positions) for index in range(len(self.shape.ropes))]
        layers = list(zip(self.layers, self.shape.layers, strict=True))[first:last]
        for number, (layer, about) in enumerate(layers, start=1):
            rope = None if about.rope is None else ropes[about.rope]
            x = layer(x, rope, attend, wanted if number == len(layers) else None)
        x = x if layers else _pick(x, wanted)
        return self.norm(x) if last is None else x

    def embed(self, tokens: Tensor) -> Tensor:
        """[N] -> [N, hidden] fp32."""
        rows: Tensor = self.embed_tokens(tokens).float()
        return rows if self.shape.embedding_scale == 1.0 else rows * self.shape.embedding_scale

    def lower(self, layers: int) -> list[nn.Module]:
        """As in `Backbone`."""
        return [self.embed_tokens, *list(self.layers)[:layers]]

    def rows(self, sequences: Sequences, layout: Layout, wanted: Tensor) -> Tensor:
        """As in `Backbone`."""
        rows: Tensor = self(layout.tokens, layout.positions, packed_attention(layout, self.dtype), wanted=wanted)
        return rows

    def trunk(self, layout: Layout, layers: int) -> Tensor:
        """As in `Backbone`."""
        rows: Tensor = self(layout.tokens, layout.positions, packed_attention(layout, self.dtype), last=layers)
        return rows

    def rows_above(self, layout: Layout, layers: int, below: Tensor, wanted: Tensor) -> Tensor:
        """As in `Backbone`."""
        rows: Tensor = self(below, layout.positions, packed_attention(layout, self.dtype), first=layers, wanted=wanted)
        return rows

    def unembedding(self, *, tied: bool) -> TokenHead:
        """As in `Backbone`."""
        return TokenHead(self.embed_tokens, self.dtype, tied=tied, cap=self.shape.logit_cap)

    def scalar_heads(self, count: int) -> nn.Linear:
        """As in `Backbone`."""
        return nn.Linear(self.shape.hidden_size, count, bias=False)

    def write(self, directory: Path, config: Any, state: Mapping[str, Tensor], head: str) -> None:
        """As in `Backbone`."""
        write(directory, config, state, head)

    def rope(self, index: int, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [N, 1, half of what is rotated] of one of the ropes."""
        angles, factor = positions[:, None, None].float() * self.inv_freq[index], self.shape.ropes[index].factor
        cos, sin = angles.cos(), angles.sin()
        return (cos, sin) if factor == 1.0 else (cos * factor, sin * factor)


def _pick(x: Tensor, wanted: Tensor | None) -> Tensor:
    return x if wanted is None else x.index_select(0, wanted)


_unpaired = ContextVar("unpaired", default=False)


@contextmanager
def unpaired() -> Iterator[None]:
    """Within it passes over whole sequences have no twin that they must agree with to the bit.

    A sampler's token and its log-probability in training are such twins; a likelihood that is only read has none. Then
    attention is computed as it is carried, on a processor in half of the time or less.
    """
    token = _unpaired.set(True)
    try:
        yield
    finally:
        _unpaired.reset(token)


def packed_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """What attention over whole sequences is computed in where products are in ``dtype``."""
    return (carried_dtype if _unpaired.get() else attention_dtype)(dtype, device)


def packed_attention(layout: Layout, dtype: torch.dtype) -> Attend:
    """Causal attention over a layout: prompts among themselves, responses to their prompt and themselves.

    Args:
        dtype: of the layers' matrix products.
    """
    device = layout.tokens.device
    computed = packed_dtype(dtype, device)
    masks = carried_dtype(dtype, device)  # or every layer would cast them anew
    runs, unpadded = layout.runs, device.type == "cpu" and layout.even

    @cache
    def meetings(window: int | None) -> list[Meeting]:
        return layout.meetings(window, masks)

    def attend(_: int, rule: Rule, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if unpadded and rule.cap is None:
            return attention_in_runs(q, k, v, runs, meetings(rule.window), scale=rule.scale, dtype=computed)
        queries, keys, values = (padded(x, runs) for x in (q, k, v))
        parts = []
        for each in meetings(rule.window):
            operands = (x.transpose(1, 2) for x in (queries[each.place], each.keys(keys), each.keys(values)))
            met = attention(*operands, mask=each.mask, scale=rule.scale, cap=rule.cap, dtype=computed)
            parts.append(runs[each.place].unpad(met.transpose(1, 2)))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    return attend


def write(directory: Path, config: Any, state: Mapping[str, Tensor], head: str) -> None:
    """config.json and model.safetensors; a tied unembedding is left out, as transformers leaves it out."""
    config.architectures = [architecture(config, head)]
    config.dtype = torch.float32
    config.save_pretrained(directory)
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in fuse(shape_of(config), state).items()}
    if config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
