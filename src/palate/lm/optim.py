"""AdamW over what is trainable, its schedule, and the state that a resumed run needs.

The learning rate is a function of the step number alone, so there is no scheduler state. The denominator of every loss
is global, so gradients of microbatches simply add up before `step`, over all processes.

Of a weight that is sharded over processes each of them updates its part, and has the moments of that alone: what AdamW
does to a number depends on no other one, but for the norm that gradients are clipped by.

Loshchilov and Hutter 2019 (arXiv 1711.05101); in 8 bits: Dettmers et al. 2022 (arXiv 2110.02861).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, assert_never

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor, zeros

from palate import recipe
from palate.errors import MissingExtraError, TrainingError
from palate.run.world import world

State = dict[str, Tensor | int | float | str]


class Optimizer:
    """AdamW with global-norm clipping; a checkpoint of it holds the trained weights too.

    Args:
        model: its parameters that require gradients are trained.
        settings: from the recipe.
        total_steps: calls of `step` in the whole run, for the schedule.
        name: prefix of the metrics, such as ``policy``.

    Raises:
        MissingExtraError: moments in 8 bits need a library that is not there.
    """

    def __init__(self, model: nn.Module, settings: recipe.Optimizer, total_steps: int, *, name: str) -> None:
        self.parameters = {key: p for key, p in model.named_parameters() if p.requires_grad}
        assert all(p.dtype.itemsize >= 4 for p in self.parameters.values()), "steps are smaller than bf16 can tell"
        self.settings, self.total_steps, self.name = settings, total_steps, name
        self.updates = 0
        self.own = {key: _own(parameter) for key, parameter in self.parameters.items()}
        self.adamw = _adamw(self.own.values(), settings)

    def step(self, step: int) -> dict[str, float]:
        """Apply and clear the accumulated gradients.

        Args:
            step: the run's step, for the error message.

        Raises:
            TrainingError: the gradient is not finite; nothing was applied.
        """
        self._sum_gradients()
        norm = self._clip(self.settings.max_grad_norm or math.inf)
        if not math.isfinite(norm):
            raise TrainingError(
                f"step {step}: the gradient of the {self.name} is not finite; "
                "lower the learning rate (in a run of its own: --out)"
            )
        rate = self.learning_rate(self.updates)
        for group in self.adamw.param_groups:
            group["lr"] = rate
        self.adamw.step()
        # the fused kernel does not say that it changed the weights, and casts of them are kept until they change
        torch.autograd.graph.increment_version(list(self.own.values()))
        for parameter in (*self.parameters.values(), *self.own.values()):
            parameter.grad = None
        self.updates += 1
        return {f"{self.name}/grad_norm": norm, f"{self.name}/learning_rate": rate}

    def _sum_gradients(self) -> None:
        """Over all processes; a parameter that has a gradient in none of them keeps having none.

        Those of sharded weights have been summed while they were computed, and are handed to the parts.
        """
        for key, parameter in self.parameters.items():
            if isinstance(parameter, DTensor) and isinstance(parameter.grad, DTensor):
                self.own[key].grad = parameter.grad.to_local()
        learning = [parameter for parameter in self.parameters.values() if not isinstance(parameter, DTensor)]
        has = torch.tensor([parameter.grad is not None for parameter in learning], dtype=torch.float32)
        world().add([has], f"which weights of the {self.name} have a gradient")
        used = [parameter for parameter, count in zip(learning, has.tolist(), strict=True) if count]
        for parameter in used:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        world().add(
            [parameter.grad for parameter in used if parameter.grad is not None], f"gradients of the {self.name}"
        )

    def _clip(self, limit: float) -> float:
        """Scale gradients down to this norm; the norm that they had, of all numbers in all processes."""
        parts = [own for own, whole in self._pairs() if own is not whole]
        if not parts:
            return float(nn.utils.clip_grad_norm_(self.own.values(), limit))
        everywhere = [own for own, whole in self._pairs() if own is whole]
        square = _norm(parts).square()
        world().add([square], f"the gradient's norm of the {self.name}")
        norm = (square + _norm(everywhere).square()).sqrt()
        nn.utils.clip_grads_with_norm_(self.own.values(), limit, norm)
        return float(norm)

    def _pairs(self) -> Iterable[tuple[nn.Parameter, nn.Parameter]]:
        """What this process updates of each weight, and the weight: the same, unless it is sharded."""
        return zip(self.own.values(), self.parameters.values(), strict=True)

    def learning_rate(self, update: int) -> float:
        """After a linear warm-up, down to its floor, mostly zero, after the last update (unless constant)."""
        warmup = round(self.settings.warmup * self.total_steps)
        peak, floor = self.settings.learning_rate, self.settings.decay_to
        if update < warmup:
            return peak * (update + 1) / (warmup + 1)
        progress = (update - warmup) / max(1, self.total_steps - warmup)
        match self.settings.schedule:
            case "linear":
                left = 1 - progress
            case "cosine":
                left = 0.5 * (1 + math.cos(math.pi * progress))
            case "constant":
                return peak
            case never:
                assert_never(never)
        return peak * (floor + (1 - floor) * left)

    def state_dict(self) -> State:
        """Trained weights, what AdamW knows about each, and the number of updates."""
        state: State = {"updates": self.updates}
        for key, parameter in self.parameters.items():
            state[f"weight/{key}"] = parameter.detach()
            # a parameter that has never had a gradient has no such state yet
            for slot, known in self.adamw.state[self.own[key]].items():
                state[f"{slot}/{key}"] = _as_sharded(known, self.own[key], parameter)
        return state

    def room(self, name: str, size: torch.Size, dtype: torch.dtype) -> Tensor:
        """Memory for what a checkpoint holds under this name, sharded if the weight is."""
        parameter = self.parameters[name.partition("/")[2]]
        if not isinstance(parameter, DTensor):
            return torch.empty(size, dtype=dtype, device=parameter.device)
        return zeros(size, dtype=dtype, device_mesh=parameter.device_mesh, placements=parameter.placements)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor | int | float | str]) -> None:
        """Put everything back in place; what is whole in a checkpoint is sharded, if the weight is."""
        for name, value in state.items():
            slot, _, key = name.partition("/")
            if slot == "updates":
                assert isinstance(value, int)
                self.updates = value
                continue
            parameter, own = self.parameters[key], self.own[key]
            mine = _part_of(value, parameter) if isinstance(value, Tensor) else value
            if slot == "weight":
                assert isinstance(mine, Tensor)
                own.copy_(mine)
            else:
                known = mine.to(own.device, copy=True) if isinstance(mine, Tensor) else mine
                self.adamw.state[own][slot] = known


def _own(parameter: nn.Parameter) -> nn.Parameter:
    """What this process has of it, in the same memory."""
    part = parameter.detach()
    return nn.Parameter(part.to_local()) if isinstance(part, DTensor) else parameter


def _norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    return nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])


def _as_sharded(known: Any, own: nn.Parameter, parameter: nn.Parameter) -> Any:
    """What AdamW knows of each number of a part, as a part of what it knows of all of them."""
    if not isinstance(parameter, DTensor) or not isinstance(known, Tensor) or known.shape != own.shape:
        return known
    mesh, placements = parameter.device_mesh, parameter.placements
    return DTensor.from_local(known, mesh, placements, shape=parameter.shape, stride=parameter.stride())


def _part_of(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """This process's, of what is known of each number of a weight."""
    if isinstance(value, DTensor):
        return value.to_local()
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    placed = distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return placed.to_local()


def _adamw(parameters: Iterable[nn.Parameter], settings: recipe.Optimizer) -> torch.optim.Optimizer:
    """torch's, or the one that keeps both moments of larger weights in 8 bits."""
    values: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": (settings.beta1, settings.beta2),
        "eps": settings.epsilon,
        "weight_decay": settings.weight_decay,
    }
    if settings.state_bits == 32:
        return torch.optim.AdamW(parameters, **values, fused=True)
    try:
        from bitsandbytes.optim.adamw import AdamW8bit
    except ImportError:
        raise MissingExtraError("bitsandbytes", "bitsandbytes") from None
    in_eight_bits: Callable[..., torch.optim.Optimizer] = AdamW8bit
    return in_eight_bits(parameters, **values)
