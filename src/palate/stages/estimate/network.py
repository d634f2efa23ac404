"""A model that is not there yet, and the passes through it: sizes, in the letters of `footprint.py`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from palate.lm.batch import Layout, Sequences
from palate.lm.decoder import Decoder
from palate.lm.kernels.attention import attention_dtype, carried_dtype
from palate.lm.kernels.products import multiplies_bf16
from palate.lm.model import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """The sizes of one forward pass.

    Attributes:
        rows: N, real tokens, shared prompts once; with padding where the network pads.
        wanted: M, rows that the head is given.
        prompts: for each run of prompts how many, the longest of them, and whether all are that long.
        responses: for each run of responses the same, and the longest of their prompts.
        masked: numbers in the masks of all of them.
    """

    rows: int
    wanted: int
    prompts: tuple[tuple[int, int, bool], ...]
    responses: tuple[tuple[int, int, bool, int], ...]
    masked: int = 0

    @classmethod
    def of(cls, net: Network, sequences: Sequences, wanted: int) -> Pass:
        """Of these sequences; a network that is not our own pads them, and computes every prompt anew."""
        if not net.own:
            count, width = sequences.tokens.shape
            return cls(rows=count * width, wanted=wanted, prompts=((count, width, True),), responses=())
        layout = Layout.of(sequences, kind=net.device.type)
        return cls(
            rows=len(layout.tokens),
            wanted=wanted,
            prompts=tuple((len(each.lengths), each.width, each.even) for each in layout.prompts),
            responses=tuple(
                (
                    len(each.segments.lengths),
                    each.segments.width,
                    each.segments.even,
                    layout.prompts[each.prompts].width,
                )
                for each in layout.responses
            ),
            masked=sum(each.mask.numel() for each in layout.responses),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Small:
    """The smallest pass without gradients through some layers: N, M, and from which layer up to which, not included."""

    rows: int
    wanted: int
    first: int
    last: int


class Network:
    """A model on the meta device, and how its numbers are stored where it is going to run.

    Args:
        model: its weights have shapes and no memory; what is frozen is frozen.
        device: where it will run.
        is_read: it is read from its file; otherwise it is another network on weights that are there already.
    """

    def __init__(self, model: Model, device: str, *, is_read: bool = True) -> None:
        self.model, self.device, self.is_read = model, torch.device(device), is_read
        dtype = model.model.dtype
        self.p, self.a = dtype.itemsize, attention_dtype(dtype, self.device).itemsize
        self.c = carried_dtype(dtype, self.device).itemsize
        text, shape = model.config.get_text_config(), model.model.shape
        self.D, self.V, self.L = shape.hidden_size, shape.vocab_size, shape.num_layers
        self.H = int(getattr(text, "num_attention_heads", 1))
        self.G = int(getattr(text, "num_key_value_heads", None) or self.H)
        self.d = int(getattr(text, "head_dim", None) or self.D // self.H)
        self.F = int(getattr(text, "intermediate_size", None) or 4 * self.D)
        self.own = isinstance(model.model, Decoder)

    @property
    def on_cpu(self) -> bool:
        """Where products are made from packed weights."""
        return self.device.type == "cpu"

    @property
    def quick(self) -> bool:
        """Whether the hardware multiplies bf16; a processor that does not is given fp32."""
        return not self.on_cpu or multiplies_bf16("cpu")

    @property
    def layers(self) -> list[nn.Module]:
        """From the lowest up."""
        return self.model.model.upper(0)

    @property
    def first(self) -> int:
        """The lowest layer that gradients reach: below it nothing is kept for them."""
        if any_learns(*self.model.model.lower(0)):
            return 0
        return next((number for number, layer in enumerate(self.layers) if any_learns(layer)), self.L)

    @property
    def recomputes(self) -> bool:
        """Whether only what is between layers is kept for the backward pass."""
        return "forward" in vars(self.layers[0])

    @property
    def norms_once(self) -> bool:
        """Whether the backward pass normalises rows again, and keeps them but as they came."""
        return self.own and self.on_cpu

    @property
    def norm_learns(self) -> bool:
        """The last one, below the head."""
        norm = getattr(self.model.model, "norm", None)
        return not isinstance(norm, nn.Module) or any_learns(norm)


def any_learns(*modules: nn.Module) -> bool:
    """Whether any weight in these does."""
    return any(weight.requires_grad for module in modules for weight in module.parameters())
