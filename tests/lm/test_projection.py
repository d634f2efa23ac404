"""A projection is what stands in its place: whatever somebody puts there or hangs on it is what runs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from palate.lm.batch import Sequences
from palate.lm.model import LanguageModel
from palate.lm.projection import Projecting, Projection
from palate.lm.sources.zoo import load_language_model
from palate.recipe import Sampling
from palate.records import Prompt
from palate.rollout.local import LocalEngine

HALF = torch.bfloat16


def test_a_frozen_weight_hands_gradients_down(rows: Tensor, linear: Projection) -> None:
    """As the base below an adapter must, in fp32 too, where few rows go by a packed copy that has no gradient."""
    linear.requires_grad_(False)
    for dtype in (torch.float32, HALF):
        linear.dtype = dtype
        with torch.no_grad():
            linear(rows)  # the copy is there
        x = rows.clone().requires_grad_(True)
        linear(x).sum().backward()
        assert x.grad is not None
        torch.testing.assert_close(x.grad[0], linear.weight.to(dtype).float().sum(0), atol=0.1, rtol=2e-2)


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_a_bias_is_added_unrounded(rows: Tensor, dtype: torch.dtype) -> None:
    with_bias, without = Projection(96, 40, dtype, bias=True), Projection(96, 40, dtype)
    with_bias.load_state_dict({"weight": without.weight, "bias": torch.linspace(90, 100, 40)})
    for few in (True, False):
        x = rows if few else rows.repeat(100, 1)
        with torch.no_grad():
            assert torch.equal(with_bias(x), without(x).float() + with_bias.bias)
        assert torch.equal(with_bias(x).detach(), without(x).detach().float() + with_bias.bias)
    with_bias(rows).sum().backward()
    assert with_bias.bias.grad is not None
    assert torch.equal(with_bias.bias.grad, torch.full((40,), 7.0))


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_a_weight_in_the_precision_of_its_file(rows: Tensor, dtype: torch.dtype) -> None:
    stored, wide = (Projection(96, 40, dtype).requires_grad_(False) for _ in range(2))
    stored.to(HALF)
    wide.load_state_dict({"weight": stored.weight.float()})
    assert torch.equal(stored(rows), wide(rows))


def test_a_computed_weight_is_never_kept(rows: Tensor) -> None:
    """Its memory may be that of the one before."""
    linear = Projection(96, 40, torch.float32)

    class Scaled(nn.Module):
        by, memory = 1.0, torch.empty(40, 96)

        def forward(self, weight: Tensor) -> Tensor:
            self.memory.data.copy_(weight * self.by)  # so that nothing but the numbers tells one from the other
            return self.memory

    nn.utils.parametrize.register_parametrization(linear, "weight", scaled := Scaled())
    with torch.no_grad():
        once = linear(rows)
        scaled.by = 3.0
        torch.testing.assert_close(linear(rows), 3 * once)


class Other(nn.Module):
    """What nobody has heard of: another module around the one that was there."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Tensor) -> Tensor:
        product: Tensor = self.inner(*args)
        return product * -2.0


class Subclass(Projection):
    """With a product of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * -2.0


class Doubling(nn.Module):
    """An adapter."""

    def forward(self, x: Tensor, product: Tensor) -> Tensor:
        assert len(x) == len(product)
        return product * -2.0


def another_module(owner: nn.Module, name: str, place: Projection) -> None:
    setattr(owner, name, Other(place))


def a_subclass(owner: nn.Module, name: str, place: Projection) -> None:
    place.__class__ = Subclass


def another_forward(owner: nn.Module, name: str, place: Projection) -> None:
    place.forward = lambda x, plain=place.forward: plain(x) * -2.0  # type: ignore[method-assign]


def an_adapter(owner: nn.Module, name: str, place: Projection) -> None:
    place.adapter = Doubling()


def a_hook(owner: nn.Module, name: str, place: Projection) -> None:
    place.register_forward_hook(lambda module, args, product: product * -2.0)


def a_hook_on_all(owner: nn.Module, name: str, place: Projection) -> RemovableHandle:
    return nn.modules.module.register_module_forward_hook(
        lambda module, args, product: product * -2.0 if module is place else None
    )


def another_weight(owner: nn.Module, name: str, place: Projection) -> None:
    place.weight = nn.Parameter(place.weight.detach() * -2.0)


WAYS = [another_module, a_subclass, another_forward, an_adapter, a_hook, a_hook_on_all, another_weight]
PLACES = [
    ("self_attn", "q_proj"),
    ("self_attn", "k_proj"),
    ("self_attn", "v_proj"),
    ("self_attn", "o_proj"),
    ("mlp", "gate_proj"),
    ("mlp", "up_proj"),
    ("mlp", "down_proj"),
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_stands_in_a_projections_place_runs(
    way: Callable[[nn.Module, str, Projection], RemovableHandle | None],
    precision: Literal["fp32", "bf16"],
    sequences: Sequences,
) -> None:
    """Each of the seven, in training and in sampling, after the products with what was there have been kept."""
    loaded = load_language_model("tiny", precision=precision)

    def computed(model: LanguageModel) -> list[Tensor]:
        engine = LocalEngine(model, loaded.chat)
        rollout = engine.generate([Prompt.from_text("Hi")], Sampling(max_new_tokens=6), num_responses=2, key=(1,))
        with torch.no_grad():
            scored = model.logprobs(sequences, temperature=1.0)
        return [model.logprobs(sequences, temperature=1.0).detach(), scored, rollout.logprobs]

    for block, name in PLACES:
        model, plain = copy.deepcopy(loaded.model), copy.deepcopy(loaded.model)
        owner, place = (model.model.get_submodule(f"layers.1.{block}{rest}") for rest in ("", f".{name}"))
        assert isinstance(place, Projection)
        before = computed(model)
        handle = way(owner, name, place)
        after = computed(model)
        if handle is not None:
            handle.remove()
        with torch.no_grad():
            dict(plain.named_parameters())[f"model.layers.1.{block}.{name}.weight"].mul_(-2.0)
        for got, was, expected in zip(after, before, computed(plain), strict=True):
            assert not torch.allclose(got, was, atol=1e-3), name
            torch.testing.assert_close(got, expected, atol=1e-6, rtol=0, msg=name)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_another_head_runs(precision: Literal["fp32", "bf16"], sequences: Sequences) -> None:
    model = load_language_model("tiny", precision=precision).model
    rows = torch.randn(5, model.model.shape.hidden_size)
    with torch.no_grad():
        logits = model.logits(rows)
    model.lm_head = Other(model.lm_head)
    with torch.no_grad():
        assert torch.equal(model.logits(rows), -2.0 * logits)
    flipped = model.logprobs(sequences, temperature=-0.7)
    model.lm_head.inner.adapter = Doubling()
    model.lm_head = model.lm_head.inner
    adapted = model.logprobs(sequences, temperature=-0.7)
    # rows are divided by the temperature before they are rounded to bf16, but for a head that is not ours
    atol = 2e-2 if precision == "bf16" else 1e-5
    torch.testing.assert_close(adapted, flipped, atol=atol, rtol=1e-5)
    model.lm_head.adapter = None
    torch.testing.assert_close(model.logprobs(sequences, temperature=0.35), adapted, atol=1e-5, rtol=1e-5)
    (of_chunks,) = torch.autograd.grad(flipped.sum(), model.lm_head.weight)
    (plain,) = torch.autograd.grad(model.logprobs(sequences, temperature=0.35).sum(), model.lm_head.weight)
    if precision == "fp32":
        torch.testing.assert_close(of_chunks, plain, atol=1e-4, rtol=1e-2)
    assert torch.cosine_similarity(of_chunks.flatten(), plain.flatten(), dim=0) > 0.999


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("stored", [torch.float32, HALF])
@pytest.mark.parametrize("count", [7, 300])
def test_no_copy_of_a_frozen_weight_is_kept_for_the_gradient(
    dtype: torch.dtype, stored: torch.dtype, count: int
) -> None:
    """Nor of several that are one product: it would be the whole model again."""
    layer = load_language_model("tiny", precision="bf16" if dtype == HALF else "fp32").model.model.get_submodule(
        "layers.1.self_attn"
    )
    assert isinstance(layer, Projecting)
    layer.requires_grad_(False)
    layer.to(stored)
    names = ("q_proj", "k_proj", "v_proj")
    weights = [layer.get_parameter(f"{name}.weight") for name in names]
    x = torch.randn(count, weights[0].shape[1], generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    kept: set[int] = set()

    def keeps(tensor: Tensor) -> Tensor:
        kept.add(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keeps, lambda tensor: tensor):
        products = layer.project(x, *names)
    assert kept <= {weight.untyped_storage().data_ptr() for weight in weights}
    torch.cat(products, dim=-1).float().sum().backward()
    by_hand = torch.cat([weight.to(dtype).float() for weight in weights]).sum(0)
    assert x.grad is not None
    torch.testing.assert_close(x.grad[0], by_hand, atol=2e-2 if dtype == HALF else 1e-5, rtol=1e-2)
