"""The network: a Llama-family decoder over flat rows.

The same layers train, score and sample. What differs is how queries meet keys, so that is passed in: `Attend` is
`packed_attention` over a `Layout` when whole sequences are computed and the engine's key/value cache when one token per
sequence is. Parameter names are those of Hugging Face's Llama, so a state dict moves between the two unchanged.

Weights that learn are fp32; the layers' matrix products run in `dtype`. Everything else is fp32: norms, rotations,
activations, residuals and logits. Attention has a precision of its own, see `attention_dtype`.

Left out: dropout (off in every model of RLHF), sliding windows, and other families, which `foreign.py` runs through
transformers' own code.

Touvron et al. 2023 (arXiv 2302.13971); grouped-query attention: Ainslie et al. 2023 (arXiv 2305.13245).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from palate.lm.backbone import Backbone, Size, Unembedding
from palate.lm.batch import Layout, Sequences
from palate.lm.logprobs import chosen_logprobs, logprobs_by_rows
from palate.lm.projection import Projecting, Projection

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer index, queries [N, H, D], keys [N, G, D], values [N, G, D]) -> [N, H, D]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape(Size):
    """Everything a decoder is built from, read from a Hugging Face config."""

    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float

    @classmethod
    def of(cls, config: Any) -> Shape:
        """From a `LlamaConfig`."""
        return cls(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_layers=config.num_hidden_layers,
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim or config.hidden_size // config.num_attention_heads,
            rms_norm_eps=config.rms_norm_eps,
            rope_theta=config.rope_parameters["rope_theta"],
        )


def supports(config: Any) -> bool:
    """Whether this file computes the model exactly."""
    plain = config.model_type == "llama" and not config.attention_bias and not config.mlp_bias
    return plain and config.hidden_act == "silu" and config.rope_parameters.get("rope_type", "default") == "default"


class RMSNorm(nn.Module):
    """Root-mean-square norm in fp32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[N, size] -> [N, size]."""
        return F.rms_norm(x, self.weight.shape, self.weight.float(), self.eps)


class Attention(Projecting):
    """Projections around `Attend`."""

    def __init__(self, shape: Shape, index: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.index, self.head_dim, self.dtype = index, shape.head_dim, dtype
        self.heads = [shape.num_heads, shape.num_kv_heads]
        size = shape.hidden_size
        self.q_proj = Projection(size, shape.num_heads * shape.head_dim, dtype)
        self.k_proj = Projection(size, shape.num_kv_heads * shape.head_dim, dtype)
        self.v_proj = Projection(size, shape.num_kv_heads * shape.head_dim, dtype)
        self.o_proj = Projection(shape.num_heads * shape.head_dim, size, dtype)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], attend: Attend, wanted: Tensor | None) -> Tensor:
        """[N, hidden] -> [N, hidden] in the products' dtype; [M, hidden] with ``wanted`` [M] rows."""
        projected = self.project(x, "q_proj", "k_proj", "v_proj")
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in projected)
        q, k = rotate(torch.cat([q, k], dim=1).float(), rope).split(self.heads, dim=1)
        q, k, v = (x.to(attention_dtype(self.dtype, x.device)) for x in (q, k, v))
        attended = _pick(attend(self.index, q, k, v).flatten(1), wanted)
        out: Tensor = self.o_proj(attended)
        return out


class MLP(Projecting):
    """SwiGLU: Shazeer 2020 (arXiv 2002.05202)."""

    def __init__(self, shape: Shape, dtype: torch.dtype) -> None:
        super().__init__()
        self.gate_proj = Projection(shape.hidden_size, shape.intermediate_size, dtype)
        self.up_proj = Projection(shape.hidden_size, shape.intermediate_size, dtype)
        self.down_proj = Projection(shape.intermediate_size, shape.hidden_size, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """[N, hidden] -> [N, hidden] in the products' dtype."""
        gate, up = (part.float() for part in self.project(x, "gate_proj", "up_proj"))
        out: Tensor = self.down_proj(F.silu(gate) * up)
        return out


class DecoderLayer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, shape: Shape, index: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.self_attn = Attention(shape, index, dtype)
        self.mlp = MLP(shape, dtype)
        self.input_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], attend: Attend, wanted: Tensor | None = None) -> Tensor:
        """[N, hidden] fp32 -> the same; [M, hidden] with ``wanted`` [M], the only rows needed of what comes out."""
        x = _pick(x, wanted) + self.self_attn(self.input_layernorm(x), rope, attend, wanted)
        x = x + self.mlp(self.post_attention_layernorm(x))
        return x


class TokenHead(Projection, Unembedding):
    """Hidden rows to logits; its weight is the embeddings' when they are tied."""

    gives_sums = True

    def __init__(self, embeddings: nn.Embedding, dtype: torch.dtype, *, tied: bool) -> None:
        device = "meta" if tied else None  # no memory for weights that are another's
        super().__init__(embeddings.embedding_dim, embeddings.num_embeddings, dtype, device=device)
        if tied:
            self.weight = embeddings.weight

    def forward(self, rows: Tensor, tokens: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """As in `Unembedding`; log-probabilities without holding [N, V]."""
        if tokens is None:
            return super().forward(rows / temperature)
        if self.adapter is not None:
            return logprobs_by_rows(super().forward, rows, tokens, temperature=temperature)
        if self.learns:
            self.kept.forget()
        return chosen_logprobs(rows, self.operand(), tokens, temperature=temperature)


class Decoder(Backbone):
    """Token rows in, hidden rows out."""

    shape: Shape
    inv_freq: Tensor
    has_trunk = True

    def __init__(self, config: Any, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.shape = shape = Shape.of(config)
        self.dtype = dtype
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(shape, index, dtype) for index in range(shape.num_layers))
        self.norm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
        self.register_buffer("inv_freq", 1.0 / shape.rope_theta**exponents, persistent=False)

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
        rope, layers = self.rope(positions), list(self.layers)[first:last]
        for layer in layers[:-1]:
            x = layer(x, rope, attend)
        x = layers[-1](x, rope, attend, wanted) if layers else _pick(x, wanted)
        return self.norm(x) if last is None else x

    def embed(self, tokens: Tensor) -> Tensor:
        """[N] -> [N, hidden] fp32."""
        rows: Tensor = self.embed_tokens(tokens)
        return rows.float()

    def lower(self, layers: int) -> list[nn.Module]:
        """As in `Backbone`."""
        return [self.embed_tokens, *list(self.layers)[:layers]]

    def rows(self, sequences: Sequences, layout: Layout, wanted: Tensor) -> Tensor:
        """As in `Backbone`."""
        rows: Tensor = self(layout.tokens, layout.positions, packed_attention(layout), wanted=wanted)
        return rows

    def trunk(self, layout: Layout, layers: int) -> Tensor:
        """As in `Backbone`."""
        rows: Tensor = self(layout.tokens, layout.positions, packed_attention(layout), last=layers)
        return rows

    def rows_above(self, layout: Layout, layers: int, below: Tensor, wanted: Tensor) -> Tensor:
        """As in `Backbone`."""
        rows: Tensor = self(below, layout.positions, packed_attention(layout), first=layers, wanted=wanted)
        return rows

    def unembedding(self, *, tied: bool) -> TokenHead:
        """As in `Backbone`."""
        return TokenHead(self.embed_tokens, self.dtype, tied=tied)

    def scalar_head(self) -> nn.Linear:
        """As in `Backbone`."""
        return nn.Linear(self.shape.hidden_size, 1, bias=False)

    def write(self, directory: Path, config: Any, state: Mapping[str, Tensor], head: str) -> None:
        """As in `Backbone`; our own names are transformers' already."""
        write_llama(directory, config, state, head)

    def rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [N, 1, head_dim / 2]."""
        angles = positions[:, None, None].float() * self.inv_freq
        return angles.cos(), angles.sin()


def _pick(x: Tensor, wanted: Tensor | None) -> Tensor:
    return x if wanted is None else x.index_select(0, wanted)


def attention_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """What attention runs in where products are in ``dtype``.

    A GPU's quick kernels are bf16's. On a processor those are slower than fp32's; and as the order in which attention
    adds up depends on what else is in the pass, the last bit of its result must not decide how it is rounded to bf16.
    In fp64 it practically never does.
    """
    if dtype == torch.float32 or device.type != "cpu":
        return dtype
    return torch.float64


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary position embedding in fp32, first half against second half: Su et al. 2021 (arXiv 2104.09864)."""
    (cos, sin), (a, b) = rope, x.chunk(2, dim=-1)
    return torch.cat([torch.addcmul(a * cos, b, sin, value=-1), torch.addcmul(b * cos, a, sin)], dim=-1)


def packed_attention(layout: Layout) -> Attend:
    """Causal attention over a layout: prompts among themselves, responses to their prompt and themselves."""
    sizes, num_prompts = layout.sizes, len(layout.prompts)

    def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        queries, keys, values = q.split(sizes), k.split(sizes), v.split(sizes)
        parts, read = [], []
        for run, segments in enumerate(layout.prompts):
            mine, *known = (segments.pad(x[run]) for x in (queries, keys, values))
            read.append(known)
            if segments.width:
                out = _attention(mine, *known, mask=None)
                parts.append(segments.unpad(out))
        for run, each in enumerate(layout.responses, start=num_prompts):
            if each.segments.width:
                mine, *own = (each.segments.pad(x[run]) for x in (queries, keys, values))
                known = [x.index_select(0, each.prompt_of) for x in read[each.prompts]]
                after = [torch.cat(pair, dim=1) for pair in zip(known, own, strict=True)] if known[0].shape[1] else own
                out = _attention(mine, *after, mask=each.mask if known[0].shape[1] else None)
                parts.append(each.segments.unpad(out))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    return attend


def _attention(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None) -> Tensor:
    """[S, T, H, D] queries, [S, T', G, D] keys and values -> [S, T, H, D]; causal without a mask."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    mask = None if mask is None else mask.to(q.dtype)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
    return out.transpose(1, 2)


def write_llama(directory: Path, config: Any, state: Mapping[str, Tensor], head: str) -> None:
    """config.json and model.safetensors; a tied unembedding is left out, as transformers leaves it out."""
    config.architectures = [f"Llama{head}"]
    config.dtype = torch.float32
    config.save_pretrained(directory)
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    if config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
