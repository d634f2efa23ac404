"""Weights that are divided over the processes of a run: FSDP2, put on our models from outside.

Every process keeps its part of each weight, and with it of its gradient and moments. A layer is whole only while it
computes: its weights are gathered before, and given up after, and its gradients are summed into the parts. Layer by
layer, and what is left, the embeddings with what is tied to them, the last norm and the head, with the root.

What several models share (a frozen trunk, everything below adapters) is sharded once: each model has layers of its own,
and in them the same parts.

A model that was left in its files (`left_in_files`) is never whole in the memory of a process, nor on its device: each
copies its parts out of them, weight by weight.

Left out: the same for families that run in transformers' code, which every process reads whole on the host; parts on
several axes; gradients that wait for the last microbatch.

Zhao et al. 2023 (arXiv 2304.11277); Rajbhandari et al. 2020 (arXiv 1910.02054).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.utils.weak import WeakTensorKeyDictionary

from palate.lm.adapters import again
from palate.lm.kernels.products import Product
from palate.lm.model import Model
from palate.lm.projection import Kept, Projecting, Projection, fixed, give_back_packed, stored_dtype

Place = tuple[nn.Module, str]
"""A module and the name of one of its own weights."""


def shard(models: Sequence[Model], *, device: str = "", asked_again: Collection[Model] = ()) -> None:
    """Divide the weights of all of these over the processes, after everything else was done to them.

    They may lie anywhere, such as in files; the parts are on the device of the run. What has to be known of the whole,
    the fingerprints of trunks, is found out before.

    Args:
        models: all that take part in the run; an optimizer is made afterwards.
        device: of the run, as `init_device_mesh` names it; left out, the one that the models are on.
        asked_again: those of them whose head is asked again while the gradient of another is computed, and not as often
            by every process: their embeddings and head stay whole once they were used.
    """
    for model in models:
        assert model.trunk_key
    mesh = init_device_mesh(device or models[0].device.type, (dist.get_world_size(),))
    parts = WeakTensorKeyDictionary()  # of a weight that no other model has as well nothing stays but its part
    for model in models:
        twin = again(model)
        _empty(twin)
        _divide(model, mesh, parts, keep_root=model in asked_again)
        model.gathered = partial(_gathered, model, twin)


def _divide(model: Model, mesh: DeviceMesh, parts: MutableMapping[Tensor, nn.Parameter], *, keep_root: bool) -> None:
    """As in one process: gradients are summed, and never averaged.

    gloo has no average, and sums where it is asked for one (pytorch 162338): so it is not asked.
    """
    divided = partial(fully_shard, mesh=mesh, shard_placement_fn=_axis(mesh.size()))
    for layer in model.model.upper(0):
        _put(layer, partial(divided, layer, reshard_after_forward=True), mesh, parts)
    _put(model, partial(divided, model, reshard_after_forward=not keep_root), mesh, parts)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
        if isinstance(module, Projection | Projecting):
            module.kept = _NotKept()


def _put(
    module: nn.Module,
    divide: Callable[[], object],
    mesh: DeviceMesh,
    parts: MutableMapping[Tensor, nn.Parameter],
) -> None:
    """Divide what is not divided yet of a module, and put this process's parts on the device, never the whole.

    FSDP is shown stand-ins without memory, and looks for the parts where they stood when it is first used. Only a
    weight that no axis divides evenly is put there whole for a moment, as FSDP fills up its parts to one size.

    Args:
        parts: of the weights that were met before, in other models; this module's are added.
    """
    places: dict[nn.Parameter, list[Place]] = defaultdict(list)
    for inner in module.modules():
        for key, weight in inner._parameters.items():
            if weight is not None and not isinstance(weight, DTensor):
                places[weight].append((inner, key))
    for weight, those in places.items():
        is_filled = weight in parts or _even_axis(weight, mesh.size()) is not None
        _set(those, _memory_for(weight, "meta") if is_filled else _copied(weight, mesh.device_type))
    divide()
    for weight, ((inner, key), *others) in places.items():
        if weight not in parts:
            part = inner._parameters[key]
            assert isinstance(part, DTensor)
            parts[weight] = _part_of(weight, part) if part.is_meta else part
        _set([(inner, key), *others], parts[weight])


def _set(places: Sequence[Place], weight: nn.Parameter) -> None:
    for module, key in places:
        module._parameters[key] = weight


def _memory_for(weight: nn.Parameter, device: str) -> nn.Parameter:
    """Of the size of a weight, and in the dtype that it is going to have."""
    empty = torch.empty(weight.shape, dtype=stored_dtype(weight), device=device)
    return nn.Parameter(empty, requires_grad=weight.requires_grad)


@torch.no_grad()
def _copied(weight: nn.Parameter, device: str) -> nn.Parameter:
    copy = _memory_for(weight, device)
    copy.copy_(weight)
    return copy


def _part_of(weight: nn.Parameter, part: DTensor) -> nn.Parameter:
    """This process's, in memory of its own, in place of one that has none."""
    mesh, (placement,) = part.device_mesh, part.placements
    assert isinstance(placement, Shard)
    own = weight.detach().chunk(mesh.size(), placement.dim)[mesh.get_local_rank()]
    filled = torch.empty(own.shape, dtype=part.dtype, device=mesh.device_type).copy_(own)
    sharded = DTensor.from_local(filled, mesh, part.placements, shape=part.shape, stride=part.stride())
    return nn.Parameter(sharded, requires_grad=weight.requires_grad)


def _axis(size: int) -> Callable[[nn.Parameter], Shard]:
    """The first that as many processes divide evenly: of an adapter's two rows four have nothing to divide."""
    return lambda weight: Shard(_even_axis(weight, size) or 0)


def _even_axis(weight: Tensor, size: int) -> int | None:
    return next((axis for axis, count in enumerate(weight.shape) if count % size == 0), None)


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
