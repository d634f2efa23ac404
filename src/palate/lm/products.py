"""Matrix products with weights, in the layout and the precision that suit the moment.

Training multiplies thousands of rows and changes the weights; sampling multiplies a few dozen rows, again and again by
weights that stay. A processor reads a weight matrix in blocks, and for few rows the usual layout makes that the larger
part of the work: there the weights are kept packed (oneDNN's own layout), which takes 145 ms instead of 213 ms for all
products of a token in 64 sequences of SmolLM2-135M on two AVX2 cores, and half the time for 8 sequences.

In bf16 the operands are rounded, their products are summed in fp32, and the sums are rounded again, which is what
hardware does. What a probability is read from must not be: the unembedding asks for the sums.

Sums in another order differ in their last bit, which now and then decides which way one is rounded to bf16; a few
layers later two passes over the same tokens are as far apart as rounding can bring them (0.019 nats a token between
sampling and training SmolLM2-135M). The kernel for packed weights adds up in one order whatever the number of rows, so
on a processor all bf16 products are its. A processor without bf16 instructions takes thirty times as long for torch's
bf16 kernels as for fp32; there rounded operands are multiplied in fp32.

Left out: quantised products; the policy that samples is the policy that trains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACKED_ROWS = 256
"""Up to this many rows packed weights are faster on a processor; beyond it copying them costs next to nothing."""

Product = Callable[[Tensor], Tensor]


@cache
def multiplies_bf16(device: str) -> bool:
    """Whether the hardware has instructions for it; ``device`` is a type of devices, ``cpu`` or ``cuda``."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    flags = torch.cpu.get_capabilities()
    return bool(flags.get("avx512_bf16") or flags.get("amx_bf16"))


@cache
def is_row_invariant() -> bool:
    """Whether a processor's bf16 products give a row the same bits whatever the number of rows; tried on a few."""
    numbers = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(rows, 1536, generator=numbers).bfloat16() for rows in (8 * PACKED_ROWS, 192))
    product = packed(weight)
    whole = product(x)
    return all(torch.equal(product(x[:rows]), whole[:rows]) for rows in (1, 3, 16, 100, PACKED_ROWS))


class Products(nn.Module):
    """Matrix products of one input with several weights.

    While gradients are on, and for many rows, each is a product of its own, differentiable. Otherwise they are one
    product with the concatenation, which is kept until a weight changes, so that sampling never casts or copies. In
    bf16 on a processor they are always that.

    Args:
        weights: of the layers whose parameters they are.
        dtype: of operands and results.
        sums: give the sums in fp32, for which nobody may ask a gradient unless ``dtype`` is fp32 as well.
    """

    def __init__(self, weights: list[nn.Linear], dtype: torch.dtype, *, sums: bool = False) -> None:
        super().__init__()
        self._linears = weights  # a plain list: the parameters belong to the layer under their own names
        self.sizes = [linear.out_features for linear in weights]
        self.dtype, self.sums = dtype, sums
        self._kept: tuple[tuple[tuple[int, int], ...], Product] | None = None

    @property
    def operands(self) -> torch.dtype:
        """Nothing on a processor sums bf16 products and gives the sums: fp32 is as quick there, and exact."""
        return torch.float32 if self.sums and self._linears[0].weight.device.type == "cpu" else self.dtype

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """[N, inputs] -> [N, outputs] of each weight."""
        x = x.to(self.operands)
        if self._one_kernel:
            parts: tuple[Tensor, ...] = self._by_packed(x).split(self.sizes, dim=-1)
            return parts
        if self._learns() or (x.device.type == "cpu" and len(x) > PACKED_ROWS):
            return tuple(self._product(weight)(x) for weight in self.weights())
        parts = self._keep()(x).split(self.sizes, dim=-1)
        return parts

    def weights(self) -> list[Tensor]:
        """[outputs, inputs] each, as operands: copies only where their dtype is another than the parameter's."""
        if self._learns() and not self._one_kernel:
            self._kept = None
        return [linear.weight.to(self.operands) for linear in self._linears]

    @property
    def _one_kernel(self) -> bool:
        """Rounded on a processor: by packed weights always, so that sampling and training round the same sums."""
        return self.operands == torch.bfloat16 and self._linears[0].weight.device.type == "cpu"

    def _learns(self) -> bool:
        return torch.is_grad_enabled() and any(linear.weight.requires_grad for linear in self._linears)

    def _product(self, weight: Tensor) -> Product:
        return (lambda x: sums(x, weight.T)) if self.sums else (lambda x: rounded(x, weight))

    def _by_packed(self, x: Tensor) -> Tensor:
        if not self._learns() and not x.requires_grad:
            return self._keep()(x)
        result: Tensor = _ByPacked.apply(x, _whole(self.weights()), self._keep())  # type: ignore[no-untyped-call]
        return result

    @torch.no_grad()
    def _keep(self) -> Product:
        versions = tuple((linear.weight.data_ptr(), linear.weight._version) for linear in self._linears)
        if self._kept is None or self._kept[0] != versions:
            whole = _whole(self.weights())
            on_cpu = whole.device.type == "cpu" and torch.backends.mkldnn.is_available()
            self._kept = (versions, packed(whole) if on_cpu else self._product(whole))
        return self._kept[1]


def _whole(weights: list[Tensor]) -> Tensor:
    return weights[0] if len(weights) == 1 else torch.cat(weights)


class _ByPacked(torch.autograd.Function):
    """A product with a weight of which there is a packed copy: its result by that, its gradients by the weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, product: Product) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, _ = ctx.needs_input_grad
        return rounded(grad, weight.T) if of_x else None, rounded(grad.T, x.T) if of_weight else None, None


def rounded(x: Tensor, weight: Tensor) -> Tensor:
    """[N, inputs] times [outputs, inputs], in the dtype of both; differentiable."""
    if x.dtype == torch.float32 or multiplies_bf16(x.device.type):
        return F.linear(x, weight)
    return F.linear(x.float(), weight.float()).to(x.dtype)


def sums(a: Tensor, b: Tensor, *, out: Tensor | None = None) -> Tensor:
    """[N, K] @ [K, M] -> [N, M] fp32, whatever the dtype of both; differentiable if that is fp32 and no ``out``."""
    if a.dtype == torch.float32:
        return torch.mm(a, b, out=out)
    if a.device.type == "cuda" and multiplies_bf16("cuda"):
        return torch.mm(a, b, out_dtype=torch.float32, out=out)
    return torch.mm(a.float(), b.float(), out=out)


def packed(weight: Tensor) -> Product:
    """On a processor: the product with a weight [outputs, inputs] that will not change, for few rows."""
    dtype = weight.dtype
    multiplied = dtype if dtype == torch.float32 or multiplies_bf16("cpu") else torch.float32
    # what torch's own compiler emits for a frozen linear layer
    blocks = torch.ops.mkldnn._reorder_linear_weight(weight.to(multiplied).contiguous(), PACKED_ROWS)
    none: Sequence[float] = []

    def product(x: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x.to(multiplied), blocks, None, "none", none, "")
        return result.to(dtype)

    return product
