"""A run that is followed: what its policy was on the way, and what each step had cost until then.

The stage knows nothing of it, so what comes out is what its own command makes, bit for bit. Beside the usual files:

    costs.jsonl      after each step: tokens computed and seconds, from the run's beginning
    snapshots/       the weights that learn at a few evenly spaced steps, until they have been measured

A token computed is one that went through all layers of one network; through half of them it counts half, and where
gradients come back through a layer three times, since a backward pass costs two forward ones. Left out: sampling on a
GPU, whose passes are captured and replayed where nobody can count them; there tokens are undefined.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self
from weakref import WeakKeyDictionary

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from palate import disk
from palate.errors import RunError
from palate.lm.adapters import arrange
from palate.lm.model import LanguageModel, Model
from palate.lm.sources.zoo import Loaded, load_language_model
from palate.run.checkpoints import Stateful
from palate.run.directory import Run

COSTS, SNAPSHOTS = "costs.jsonl", "snapshots"
_WEIGHT = "weight/"
"""Before the names of weights in the state of an optimizer."""


class TokenCount:
    """Counts what goes through any network while it is entered.

    Attributes:
        tokens: so far; see above for what counts how much.
        complete: nothing went past it.
    """

    def __init__(self) -> None:
        self.tokens, self.complete = 0.0, True
        self._shares: WeakKeyDictionary[nn.Module, float] = WeakKeyDictionary()

    def __enter__(self) -> Self:
        self._hook = register_module_forward_pre_hook(self._see)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _see(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        share = self._shares.get(module)
        if share is not None:
            learns = torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters())
            self.tokens += share * args[0].shape[:-1].numel() * (3 if learns else 1)
        elif isinstance(module, Model):
            self.complete &= module.device.type != "cuda"
            layers = module.model.upper(0)
            self._shares.update(dict.fromkeys(layers, 1 / len(layers)))


class FollowedRun(Run):
    """A run of any stage.

    Attributes:
        points: policies to be measured, evenly spaced; the last is what comes out.
        count: of its tokens; entered by whoever calls the stage.
    """

    points = 1
    count: TokenCount

    def steps(self, total: int, *, every: int, keep: int, state: Mapping[str, Stateful]) -> Iterator[int]:
        """As in `Run`, with the cost of every step and the snapshots that are due."""
        due = {round(total * number / self.points) for number in range(1, self.points)} - {0, total}
        costs, began = self.directory / COSTS, False
        for step in super().steps(total, every=every, keep=keep, state=state):
            if not began:  # what it took to get ready once more is not part of the run
                rows = read_costs(self.directory)[:step]
                self.count.complete &= len(rows) == step
                self.count.tokens = (rows[-1]["tokens"] or 0.0) if rows else self.count.tokens
                disk.write_text(costs, "".join(disk.json_text(row) + "\n" for row in rows))
                began = True
            yield step
            tokens = self.count.tokens if self.count.complete else None
            row = {"step": step, "tokens": tokens, "seconds": self.seconds}
            disk.append_text(costs, disk.json_text(row) + "\n")
            if step + 1 in due and (weights := _learned(state)):
                _save(self.directory / SNAPSHOTS / f"step-{step + 1:06d}.safetensors", weights)


def read_costs(directory: Path) -> list[dict[str, Any]]:
    """A row for each step, in order; one that was torn is left out, with it the run begins anew there."""
    try:
        lines = (directory / COSTS).read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        return []
    rows = []
    for line in lines:
        try:
            rows.append(dict(json.loads(line)))
        except ValueError:
            break
    return rows


def snapshots(directory: Path) -> dict[int, Path]:
    """The snapshots of a run by the number of finished steps."""
    found = (directory / SNAPSHOTS).glob("step-*.safetensors")
    return {int(path.stem.removeprefix("step-")): path for path in sorted(found)}


def load_snapshot(path: Path, recipe: Any) -> Loaded[LanguageModel]:
    """The policy as it was then: where its recipe starts, with the weights that had been learned.

    Raises:
        RunError: they are not those of this recipe's model.
    """
    loaded = load_language_model(recipe.model, chat_template=recipe.chat_template, precision=recipe.precision)
    arrange(loaded.model, recipe)
    learned = {name: p for name, p in loaded.model.named_parameters() if p.requires_grad}
    weights = load_file(path)
    if learned.keys() != weights.keys():
        raise RunError(f"{path} holds other weights than {recipe.model} has: name another --out")
    with torch.no_grad():
        for name, weight in weights.items():
            learned[name].copy_(weight)
    loaded.model.freeze_all()
    return loaded


def _learned(state: Mapping[str, Stateful]) -> dict[str, Tensor]:
    """The weights of the policy that learn; none if the stage keeps them elsewhere."""
    values = state["policy"].state_dict() if "policy" in state else {}
    return {
        name.removeprefix(_WEIGHT): value.detach().contiguous()
        for name, value in values.items()
        if name.startswith(_WEIGHT) and isinstance(value, Tensor)
    }


def _save(path: Path, weights: dict[str, Tensor]) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    with disk.disk_errors(path):
        path.parent.mkdir(exist_ok=True)
        save_file(weights, temporary)
        temporary.replace(path)
