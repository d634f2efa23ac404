"""Adapters: the weights stay, and a change of low rank is learned beside each of them.

    W x + scale * B A x        A [rank, inputs] drawn small, B [outputs, rank] zero, so that nothing changes at first

Hu et al. 2021 (LoRA, arXiv 2106.09685): scale = alpha / rank. Kalajdzievski 2023 (arXiv 2312.03732): with alpha /
sqrt(rank) the change keeps its size, and its gradient theirs, whatever the rank.

An adapter hangs on a `Projection` of our own network, and by a hook on a linear map of transformers' code; which of the
two, nobody above this file asks. A model with its adapters off is another network on the same memory: so policy and
reference are held once.

Left out: dropout (off in every model of RLHF), adapters on embeddings and heads, a rank for each place, and DoRA.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palate import recipe
from palate.errors import RecipeError
from palate.lm.kernels.attention import attention_dtype
from palate.lm.model import Model, ModelT, ScalarModel
from palate.lm.projection import Projection
from palate.randomness import uniforms


class LoRA(nn.Module):
    """What is learned beside one weight [outputs, inputs].

    Args:
        inputs, outputs: size of the weight.
        rank: of the change.
        alpha: strength of the change; with ``alpha = rank`` it is B A itself.
        rank_stabilized: divide alpha by the root of the rank instead of by the rank.
        dtype: of matrix products.
    """

    def __init__(
        self, inputs: int, outputs: int, *, rank: int, alpha: float, rank_stabilized: bool, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.rank, self.alpha, self.rank_stabilized, self.dtype = rank, alpha, rank_stabilized, dtype
        self.lora_A = nn.Parameter(torch.zeros(rank, inputs))
        self.lora_B = nn.Parameter(torch.zeros(outputs, rank))

    @property
    def scale(self) -> float:
        """What B A is multiplied with."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)

    @torch.no_grad()
    def draw(self, *key: int | str) -> None:
        """A between -1 / sqrt(inputs) and that, as transformers and PEFT draw it; a function of the key alone."""
        if self.lora_A.is_meta:  # there is nothing to draw them into
            return
        numbers = torch.from_numpy(uniforms(self.lora_A.numel(), *key)).view_as(self.lora_A)
        self.lora_A.copy_((2 * numbers - 1) / math.sqrt(self.lora_A.shape[1]))

    def forward(self, x: Tensor, product: Tensor) -> Tensor:
        """Rows [..., inputs] and what they give without it [..., outputs] -> what they give with it, never rounded.

        On a processor nothing that is going to be rounded may depend on how many rows there are. The base's bf16
        products see to that by one kernel; here, as in attention, fp64 does. Gradients are fp32, as there.
        """
        dtype = attention_dtype(self.dtype, x.device)
        if dtype == torch.float64:
            changed: Tensor = _Wide.apply(x.float(), product, self.lora_A, self.lora_B, self.scale)  # type: ignore[no-untyped-call]
            return changed
        change = F.linear(F.linear(x.to(dtype), self.lora_A.to(dtype)), self.lora_B.to(dtype))
        return torch.add(product.float(), change.float(), alpha=self.scale)

    def weight(self) -> Tensor:
        """[outputs, inputs] fp64, the change of the weight."""
        return self.scale * (self.lora_B.double() @ self.lora_A.double())


class _Wide(torch.autograd.Function):
    """product + scale x A^T B^T in fp64, given in fp32; its gradients in fp32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, product: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        inner = F.linear(x.double(), a.double())
        ctx.save_for_backward(x, a, b, inner.float())
        ctx.scale, ctx.dtype = scale, product.dtype
        return torch.add(product.double(), F.linear(inner, b.double()), alpha=scale).float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, a, b, inner = ctx.saved_tensors
        of_inner = (grad @ b.float()) * ctx.scale
        return (
            of_inner @ a.float() if ctx.needs_input_grad[0] else None,
            grad.to(ctx.dtype),
            of_inner.T @ x,
            (grad.T @ inner) * ctx.scale,
            None,
        )


def adapt(model: Model, settings: recipe.Adapter, *, seed: int) -> None:
    """Learn adapters, above the frozen layers, and a scalar head; every other weight stays.

    Args:
        model: has none yet.
        settings: from the recipe.
        seed: of the run; the first change is a function of it and of the adapter's place.

    Raises:
        RecipeError: there is no such place.
    """
    found = places(model)
    known = list(dict.fromkeys(name.rpartition(".")[-1] for name in found))
    if unknown := [target for target in settings.targets if target not in known]:
        raise RecipeError(f"adapter.targets: no layer that learns has {', '.join(unknown)}; it has {', '.join(known)}")
    if not found:
        raise RecipeError("adapter: every layer is frozen; lower frozen_layers")
    for name, place in found.items():
        if not settings.targets or name.rpartition(".")[-1] in settings.targets:
            adapter = hang(place, rank=settings.rank, alpha=settings.alpha, rank_stabilized=settings.rank_stabilized)
            adapter.draw(seed, "adapter", model.head, name)
    learn(model)


def arrange(model: Model, settings: recipe.TrainingRecipe) -> None:
    """What of a model learns, and how: its upper layers, or adapters on them. One that it came with is merged first."""
    merge(model)
    if settings.recompute_activations:
        model.model.recompute()
    if settings.adapter is None:
        model.freeze(settings.frozen_layers)
    else:
        model.freeze_all(settings.frozen_layers)
        adapt(model, settings.adapter, seed=settings.seed_of("initial"))


def learn(model: Model) -> None:
    """Train the adapters that are above the frozen layers, and a scalar head; nothing else."""
    model.requires_grad_(False)
    above = places(model)
    for name, adapter in adapted(model).items():
        adapter.requires_grad_(name in above)
    if isinstance(model, ScalarModel):
        model.score.requires_grad_(True)


def places(model: Model) -> dict[str, nn.Module]:
    """Where an adapter may hang, by name: the linear maps of the layers that are not frozen."""
    inside = {module for layer in model.model.upper(model.frozen_layers) for module in layer.modules()}
    return {name: module for name, module in model.named_modules() if module in inside and _size(module)}


def adapted(model: Model) -> dict[str, LoRA]:
    """The adapters by the names of their places."""
    found = ((name, getattr(module, "adapter", None)) for name, module in model.named_modules())
    return {name: adapter for name, adapter in found if isinstance(adapter, LoRA)}


def hang(place: Any, *, rank: int, alpha: float, rank_stabilized: bool) -> LoRA:
    """A new adapter on one of `places`; it changes nothing yet."""
    if not isinstance(place, Projection) and "adapter" not in place._modules:
        place.register_module("adapter", None)
        place.register_forward_hook(_beside)
    dtype = place.dtype if isinstance(place, Projection) else torch.float32  # transformers' code rounds by autocast
    size = _size(place)
    assert size is not None
    adapter = LoRA(*size, rank=rank, alpha=alpha, rank_stabilized=rank_stabilized, dtype=dtype)
    place.adapter = adapter.to(place.weight.device)
    return adapter


def _beside(place: Any, rows: tuple[Any, ...], product: Tensor) -> Tensor:
    """A hook on a linear map of transformers' code."""
    changed: Tensor = product if place.adapter is None else place.adapter(rows[0], product).to(product.dtype)
    return changed


def _size(module: Any) -> tuple[int, int] | None:
    """Inputs and outputs of a linear map; None if it is none."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if is_transposed(module):
        return tuple(module.weight.shape)
    return None


def is_transposed(module: nn.Module) -> bool:
    """Whether it is GPT-2's linear map, whose weight is [inputs, outputs]."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def base(model: ModelT) -> ModelT:
    """The model with its adapters off: another network on the same memory, which learns nothing."""
    plain = again(model)
    for name in adapted(plain):
        place: Any = plain.get_submodule(name)
        place.adapter = None
    return plain


def merged(model: ModelT) -> ModelT:
    """The model with the change inside its weights: another network, which shares with it what has no adapter."""
    whole = again(model)
    merge(whole)
    return whole


@torch.no_grad()
def merge(model: Model) -> None:
    """Put the change inside the weights; whoever else uses those still has them as they were.

    A weight that had an adapter is fp32 then, whatever it was: in bf16 most of a small change would be rounded away.
    """
    for name, adapter in adapted(model).items():
        place: Any = model.get_submodule(name)
        change = adapter.weight().T if is_transposed(place) else adapter.weight()
        place.weight = nn.Parameter((place.weight.double() + change).float(), requires_grad=False)
        place.adapter = None


def again(model: ModelT) -> ModelT:
    """Another network of the same kind, on the same weights in memory."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
