"""A weight and what happens to it: its precision, its packed copy, its adapter.

Several projections of one input are one product. They are looked up by name in the module that owns them whenever they
are used, so that what somebody puts in a projection's place, or hangs on it, is what runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from palate.lm.kernels.products import PACKED_ROWS, Product, mm_of_rows, packed, rounded, sums

_GOING_TO_BE = "going_to_be"
"""Under this name a weight that lies in its file knows the dtype that it is going to have in memory."""


def leave_in_file(weight: nn.Parameter) -> None:
    """Its memory is a file's: until it is divided over processes it is not copied, and so keeps its dtype."""
    setattr(weight, _GOING_TO_BE, weight.dtype)


def store_as(weight: Tensor, dtype: torch.dtype) -> None:
    """Change the dtype of a weight: now, or, if it lies in its file, when it is put into memory."""
    if hasattr(weight, _GOING_TO_BE):
        setattr(weight, _GOING_TO_BE, dtype)
    else:
        weight.data = weight.data.to(dtype)


def stored_dtype(weight: Tensor) -> torch.dtype:
    """Of its numbers, where they lie in a file as they are going to be in memory."""
    dtype: torch.dtype = getattr(weight, _GOING_TO_BE, weight.dtype)
    return dtype


class Projection(nn.Linear):
    """One weight [outputs, inputs], perhaps a bias, and how rows are multiplied with it.

    The weight is stored in any dtype (what learns in fp32, what is frozen as it was in its file) and multiplied in
    ``dtype``. While gradients are on, and for many rows, it is a plain product. Otherwise a copy that suits the moment
    is kept until the weight changes, so that sampling never casts or copies. In bf16 on a processor it is always that.

    Args:
        inputs, outputs: its size.
        dtype: of operands and results; a bias is added in fp32, and so is then the result.
        bias: it has one.
        device: where its weight is made.

    Attributes:
        adapter: what is learned beside a weight that stays; called with the rows and what they give without it, it
            gives what they give with it.
    """

    gives_sums = False
    """Give the products' sums in fp32."""

    def __init__(
        self, inputs: int, outputs: int, dtype: torch.dtype, *, bias: bool = False, device: str | None = None
    ) -> None:
        super().__init__(inputs, outputs, bias=bias, device=device)
        self.dtype = dtype
        self.adapter: nn.Module | None = None
        self.kept = Kept()

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs] -> [N, outputs]."""
        return multiply(x, [self], self.kept)[0]

    def complete(self, x: Tensor, product: Tensor) -> Tensor:
        """[N, outputs] out of the product with the weight alone: bias and adapter added."""
        if self.bias is not None:
            product = product.float() + self.bias.float()
        if self.adapter is not None:
            product = self.adapter(x, product)
        return product

    @property
    def operands(self) -> torch.dtype:
        """Nothing on a processor is given bf16 operands and gives the sums: it is given fp32, see `sums`."""
        return torch.float32 if self.gives_sums and self.weight.device.type == "cpu" else self.dtype

    @property
    def learns(self) -> bool:
        """Whether a product made now will give the weight a gradient."""
        return torch.is_grad_enabled() and self.weight.requires_grad

    def operand(self) -> Tensor:
        """The weight in the dtype it is multiplied in; a copy only where that is another than the parameter's."""
        return self.weight.to(self.operands)

    def store_operand(self) -> None:
        """Store a weight that never learns as it is multiplied, if that is less: the same numbers come of it."""
        if not self.weight.requires_grad and self.dtype.itemsize < self.weight.element_size() and not self.gives_sums:
            store_as(self.weight, self.operands)

    def multiply(self, rows: Tensor) -> Tensor:
        """The product alone, differentiable."""
        if self.learns or self.weight.dtype == rows.dtype or self.gives_sums:
            return self.plain(self.operand())(rows)
        return _by_frozen(rows, self.plain(self.operand()), [self])

    def plain(self, weight: Tensor) -> Product:
        """The product with ``weight``, its own or several side by side, differentiable."""
        return (lambda x: sums(x, weight.T, self.dtype)) if self.gives_sums else (lambda x: rounded(x, weight))


class Projecting(nn.Module):
    """A module that owns projections of one input."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = Kept()

    def project(self, x: Tensor, *names: str) -> tuple[Tensor, ...]:
        """[N, inputs] -> [N, outputs] by each of its modules of these names.

        One product if nobody can tell. A module that is no `Projection`, and one that somebody watches, is called.
        """
        modules = [getattr(self, name) for name in names]
        if all(is_unseen(module) for module in modules):
            return multiply(x, modules, self.kept)
        return tuple(module(x) for module in modules)


def is_unseen(module: nn.Module) -> bool:
    """Whether it makes no difference that this projection is not called itself: no other `forward`, and no hooks."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    own = getattr(module.forward, "__func__", None) is Projection.forward
    return own and not any(hooks) and not _has_any_global_hook()


def operands_of(module: nn.Module) -> torch.dtype:
    """What rows for this module may be rounded to before it is called: fp32 if anything but its product reads them."""
    if isinstance(module, Projection) and module.adapter is None and is_unseen(module):
        return module.operands
    return torch.float32


class Kept:
    """The product with weights that stay, side by side; made anew when one of them has changed."""

    def __init__(self) -> None:
        self._of: tuple[object, ...] = ()
        self._product: Product | None = None

    def forget(self) -> None:
        """Give the memory back."""
        self._product = None

    @torch.no_grad()
    def product(self, projections: Sequence[Projection]) -> Product:
        """With the weights of all of these."""
        weights = [projection.weight for projection in projections]
        if not all(isinstance(weight, nn.Parameter) for weight in weights):  # computed at each use, perhaps otherwise
            return fixed(projections)
        of = (projections[0].operands, *((weight.data_ptr(), weight._version) for weight in weights))
        if self._product is None or self._of != of:
            self._of, self._product = of, fixed(projections)
        return self._product


def share_packed(module: nn.Module, twin: nn.Module) -> None:
    """One copy that suits the moment for both of these, if they multiply with the same weights in memory."""
    if isinstance(module, Projection | Projecting) and isinstance(twin, type(module)):
        pairs = zip(_weights(module), _weights(twin), strict=False)
        if all(mine is its for mine, its in pairs):
            module.kept = twin.kept


def give_back_packed(modules: Iterable[nn.Module], *, needed: Iterable[nn.Module] = ()) -> None:
    """Give back the copies that products are made with, but for those that the ``needed`` make theirs with.

    They are made anew when they are next used: a pass over the weights, next to nothing beside a gradient.
    """
    stay = {id(kept) for kept in _kept(needed)}
    for kept in _kept(modules):
        if id(kept) not in stay:
            kept.forget()


def _kept(modules: Iterable[nn.Module]) -> list[Kept]:
    inside = (each for module in modules for each in module.modules())
    return [each.kept for each in inside if isinstance(each, Projection | Projecting)]


def _weights(module: nn.Module) -> list[Tensor]:
    return [each.weight for each in module.modules() if isinstance(each, Projection)]


def fixed(projections: Sequence[Projection]) -> Product:
    """The product with these weights, side by side, as they are now."""
    whole = _whole([projection.operand() for projection in projections])
    on_cpu = whole.device.type == "cpu" and torch.backends.mkldnn.is_available()
    return packed(whole, projections[0].dtype) if on_cpu else projections[0].plain(whole)


def multiply(x: Tensor, projections: Sequence[Projection], kept: Kept) -> tuple[Tensor, ...]:
    """[N, inputs] -> [N, outputs] of each projection; they have one owner, so one dtype and one device."""
    rows = x.to(projections[0].operands)
    if _is_kept(rows, projections):
        whole = kept.product(projections)(rows)
    elif _is_rounded_on_cpu(rows) and not any(projection.learns for projection in projections):
        whole = _by_frozen(rows, kept.product(projections), projections)
    elif _is_rounded_on_cpu(rows):
        weight = _whole([projection.operand() for projection in projections])
        whole = _ByPacked.apply(rows, weight, kept.product(projections))  # type: ignore[no-untyped-call]
    else:
        if asks_gradient(rows) or any(projection.learns for projection in projections):
            kept.forget()  # while a gradient is computed nothing is made with it, and activations need the memory
        return _completed(x, projections, [projection.multiply(rows) for projection in projections])
    return _completed(x, projections, whole.split([projection.out_features for projection in projections], dim=-1))


def asks_gradient(rows: Tensor) -> bool:
    """Whether a gradient will be handed down to the rows of a product made now."""
    return torch.is_grad_enabled() and rows.requires_grad


def _is_kept(rows: Tensor, projections: Sequence[Projection]) -> bool:
    """Whether a copy of the weights that stays is worth having, and enough: no gradient is asked for."""
    if asks_gradient(rows) or any(projection.learns for projection in projections):
        return False
    if rows.device.type == "cpu":
        return _is_rounded_on_cpu(rows) or len(rows) <= PACKED_ROWS
    return any(projection.weight.dtype != rows.dtype for projection in projections)


def _is_rounded_on_cpu(rows: Tensor) -> bool:
    """By packed weights always, so that sampling and training round the same sums."""
    return rows.device.type == "cpu" and rows.dtype == torch.bfloat16


def _completed(x: Tensor, projections: Sequence[Projection], products: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(projection.complete(x, product) for projection, product in zip(projections, products, strict=True))


def _whole(weights: list[Tensor]) -> Tensor:
    return weights[0] if len(weights) == 1 else torch.cat(weights)


def _by_frozen(x: Tensor, product: Product, projections: Sequence[Projection]) -> Tensor:
    """A product with weights that do not learn: what is cast or joined of them is made anew for the gradient."""
    result: Tensor = _ByFrozen.apply(x, product, *(each.weight for each in projections))  # type: ignore[no-untyped-call]
    return result


class _ByFrozen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, product: Product, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(*weights)
        return product(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weights = ctx.saved_tensors
        whole = _whole([weight.to(grad.dtype) for weight in weights])
        return rounded(grad, whole.T), None, *(None for _ in weights)


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
        return rounded(grad, weight.T) if of_x else None, mm_of_rows(grad, x) if of_weight else None, None
