"""Weights that are divided over the processes of a run: FSDP2, put on our models from outside.

Every process keeps its part of each weight, and with it of its gradient and moments. A layer is whole only while it
computes: its weights are gathered before, and given up after, and its gradients are summed into the parts. Layer by
layer, and what is left, the embeddings with what is tied to them, the last norm and the head, with the root.

What several models share (a frozen trunk, everything below adapters) is sharded once: each model has layers of its own,
and in them the same parts.

Left out: loading a part without the whole (each process reads a model, and then keeps its part), parts on several
axes, gradients that wait for the last microbatch.

Zhao et al. 2023 (arXiv 2304.11277); Rajbhandari et al. 2020 (arXiv 1910.02054).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard

from palate.lm.adapters import again
from palate.lm.kernels.products import Product
from palate.lm.model import Model
from palate.lm.projection import Kept, Projecting, Projection, fixed, give_back_packed

Place = tuple[nn.Module, str]
"""A module and the name of one of its own weights."""


def shard(models: Sequence[Model], *, asked_again: Collection[Model] = ()) -> None:
    """Divide the weights of all of these over the processes, after everything else was done to them.

    What has to be known of the whole is found out before: the fingerprints of trunks, and what is shared.

    Args:
        models: all that take part in the run; an optimizer is made afterwards.
        asked_again: those of them whose head is asked again while the gradient of another is computed, and not as often
            by every process: their embeddings and head stay whole once they were used.
    """
    for model in models:
        assert model.trunk_key
    twins = [again(model) for model in models]
    shared = _shared(models)
    for model in models:
        _divide(model, keep_root=model in asked_again)
    for places in shared:
        (module, name), *others = places
        for other, key in others:
            other._parameters[key] = module._parameters[name]
    for model, twin in zip(models, twins, strict=True):
        model.gathered = partial(_gathered, model, twin)
        _empty(twin)


def _shared(models: Sequence[Model]) -> list[list[Place]]:
    """Places of each weight that is in several models."""
    found: dict[int, dict[int, list[Place]]] = defaultdict(lambda: defaultdict(list))
    for number, model in enumerate(models):
        for module in model.modules():
            for key, weight in module._parameters.items():
                if weight is not None:
                    found[id(weight)][number].append((module, key))
    return [[place for each in found.values() for place in each] for found in found.values() if len(found) > 1]


def _divide(model: Model, *, keep_root: bool) -> None:
    """As in one process: gradients are summed, and never averaged.

    gloo has no average, and sums where it is asked for one (pytorch 162338): so it is not asked.
    """
    size = dist.get_world_size()
    divided = partial(fully_shard, mesh=init_device_mesh(model.device.type, (size,)), shard_placement_fn=_axis(size))
    for layer in model.model.upper(0):
        divided(layer, reshard_after_forward=True)
    divided(model, reshard_after_forward=not keep_root)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
        if isinstance(module, Projection | Projecting):
            module.kept = _NotKept()


def _axis(size: int) -> Callable[[nn.Parameter], Shard]:
    """The first that as many processes divide evenly: of an adapter's two rows four have nothing to divide."""
    return lambda weight: Shard(next((axis for axis, count in enumerate(weight.shape) if count % size == 0), 0))


class _NotKept(Kept):
    """A copy of weights that suits the moment would be whole, and out of date: FSDP writes where the old ones were."""

    @torch.no_grad()
    def product(self, projections: Sequence[Projection]) -> Product:
        return fixed(projections)


@contextmanager
def _gathered(model: Model, twin: Model) -> Iterator[Model]:
    """The twin with all weights in it."""
    whole: dict[int, nn.Parameter] = {}
    try:
        for name, weight in model.named_parameters(remove_duplicate=False):
            if id(weight) not in whole:
                part = weight.detach()
                all_of_it = part.full_tensor() if isinstance(part, DTensor) else part
                whole[id(weight)] = nn.Parameter(all_of_it, requires_grad=weight.requires_grad)
            prefix, _, key = name.rpartition(".")
            twin.get_submodule(prefix)._parameters[key] = whole[id(weight)]
        yield twin
    finally:
        _empty(twin)


def _empty(twin: Model) -> None:
    give_back_packed([twin])
    for module in twin.modules():
        for key, weight in module._parameters.items():
            if weight is not None:
                module._parameters[key] = nn.Parameter(weight.new_empty(0), requires_grad=False)
