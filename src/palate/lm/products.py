"""Matrix products with weights, in the layout that suits the moment.

Training multiplies thousands of rows and changes the weights; sampling multiplies a few dozen rows, again and again by
weights that stay. A processor reads a weight matrix in blocks, and for few rows the usual layout makes that the larger
part of the work: there the weights are kept packed (oneDNN's own layout), which takes 145 ms instead of 213 ms for all
products of a token in 64 sequences of SmolLM2-135M on two AVX2 cores, and half the time for 8 sequences.

Left out: quantised products; the policy that samples is the policy that trains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACKED_ROWS = 256
"""Up to this many rows packed weights are faster on a processor; beyond it copying them costs next to nothing."""

Product = Callable[[Tensor], Tensor]


class Products(nn.Module):
    """Matrix products of one input with several weights.

    While gradients are on, and for many rows, each is a product of its own, differentiable. Otherwise they are one
    product with the concatenation, which is kept until a weight changes, so that sampling never casts or copies.
    """

    def __init__(self, weights: list[nn.Linear], dtype: torch.dtype) -> None:
        super().__init__()
        self._linears = weights  # a plain list: the parameters belong to the layer under their own names
        self.sizes = [linear.out_features for linear in weights]
        self.dtype = dtype
        self._kept: tuple[tuple[tuple[int, int], ...], Product] | None = None

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """[N, inputs] -> [N, outputs] of each weight, in `dtype`."""
        x = x.to(self.dtype)
        if self._learns() or (x.device.type == "cpu" and len(x) > PACKED_ROWS):
            return tuple(F.linear(x, weight) for weight in self.weights())
        parts: tuple[Tensor, ...] = self._keep()(x).split(self.sizes, dim=-1)
        return parts

    def weights(self) -> list[Tensor]:
        """[outputs, inputs] each, in `dtype`: copies only where that is another than the parameter's."""
        if self._learns():
            self._kept = None
        return [linear.weight.to(self.dtype) for linear in self._linears]

    def _learns(self) -> bool:
        return torch.is_grad_enabled() and any(linear.weight.requires_grad for linear in self._linears)

    def _keep(self) -> Product:
        versions = tuple((linear.weight.data_ptr(), linear.weight._version) for linear in self._linears)
        if self._kept is None or self._kept[0] != versions:
            weights = self.weights()
            self._kept = (versions, packed(weights[0] if len(weights) == 1 else torch.cat(weights)))
        return self._kept[1]


def packed(weight: Tensor) -> Product:
    """The product with a weight [outputs, inputs] that will not change, for few rows."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return lambda x: F.linear(x, weight)
    # what torch's own compiler emits for a frozen linear layer
    blocks = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACKED_ROWS)
    none: Sequence[float] = []
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, blocks, None, "none", none, "")
