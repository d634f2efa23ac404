"""AdamW over what is trainable, its schedule, and the state that a resumed run needs.

The learning rate is a function of the step number alone, so there is no scheduler state. The denominator of every loss
is global, so gradients of microbatches simply add up before `step`.

Loshchilov and Hutter 2019 (arXiv 1711.05101); in 8 bits: Dettmers et al. 2022 (arXiv 2110.02861).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, assert_never

import torch
from torch import Tensor, nn

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
        self.adamw = _adamw(self.parameters.values(), settings)

    def step(self, step: int) -> dict[str, float]:
        """Apply and clear the accumulated gradients.

        Args:
            step: the run's step, for the error message.

        Raises:
            TrainingError: the gradient is not finite; nothing was applied.
        """
        self._sum_gradients()
        limit = self.settings.max_grad_norm or math.inf
        norm = float(nn.utils.clip_grad_norm_(self.parameters.values(), limit))
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
        torch.autograd.graph.increment_version(list(self.parameters.values()))
        self.adamw.zero_grad(set_to_none=True)
        self.updates += 1
        return {f"{self.name}/grad_norm": norm, f"{self.name}/learning_rate": rate}

    def _sum_gradients(self) -> None:
        """Over all processes; a parameter that has a gradient in none of them keeps having none."""
        learning = self.parameters.values()
        has = torch.tensor([parameter.grad is not None for parameter in learning], dtype=torch.float32)
        world().add([has], f"which weights of the {self.name} have a gradient")
        used = [parameter for parameter, count in zip(learning, has.tolist(), strict=True) if count]
        for parameter in used:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        world().add(
            [parameter.grad for parameter in used if parameter.grad is not None], f"gradients of the {self.name}"
        )

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
            state |= {f"{slot}/{key}": known for slot, known in self.adamw.state[parameter].items()}
        return state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor | int | float | str]) -> None:
        """Put everything back in place."""
        for name, value in state.items():
            slot, _, key = name.partition("/")
            if slot == "updates":
                assert isinstance(value, int)
                self.updates = value
                continue
            parameter = self.parameters[key]
            if slot == "weight":
                assert isinstance(value, Tensor)
                parameter.copy_(value)
            else:
                known = value.to(parameter.device, copy=True) if isinstance(value, Tensor) else value
                self.adamw.state[parameter][slot] = known


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
