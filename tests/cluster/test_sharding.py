"""What `fully_shard` (FSDP2) does to our models: tried before anything is built on it.

Two processes on gloo with the tiny model, whose embedding is tied to its unembedding; docs/concepts/many-processes.md
says what follows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.cluster.gangs import in_gang
from tests.cluster.test_gang import sequences
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from palate.cluster.gang import Gang
from palate.lm.adapters import adapt
from palate.lm.model import LanguageModel, Model
from palate.lm.sources.zoo import load_language_model, load_scalar_model
from palate.recipe import Adapter, Sampling
from palate.records import Prompt
from palate.rollout.local import LocalEngine
from palate.run.world import OneProcess, entered


def sharded(model: Model, size: int) -> None:
    """Layer by layer, then the root, which keeps what is tied; gradients are summed and never averaged."""
    mesh = init_device_mesh("cpu", (size,))
    for layer in model.model.upper(0):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def policy(frozen: int, *, adapters: bool = False) -> LanguageModel:
    """Tied, and so much of it frozen."""
    model = load_language_model("tiny", precision="fp32").model
    assert model.config.tie_word_embeddings
    if adapters:
        model.freeze_all(frozen)
        adapt(model, Adapter(rank=2), seed=0)
    else:
        model.freeze(frozen)
    return model


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return {name: grad.full_tensor() if isinstance(grad, DTensor) else grad for name, grad in found.items()}


@pytest.mark.parametrize(("frozen", "adapters"), [(0, False), (1, False), (0, True)])
def test_gradients_are_those_of_one_process(frozen: int, adapters: bool, tmp_path: Path) -> None:
    """Through `logprobs`, which is no `forward`: all that is computed goes through the model's own."""

    def learned(model: LanguageModel, rows: Tensor) -> dict[str, Tensor]:
        (-model.logprobs(sequences().select(rows), temperature=1.0).sum()).backward()
        return gradients(model)

    def work(gang: Gang) -> Any:
        model = policy(frozen, adapters=adapters)
        sharded(model, gang.size)
        return learned(model, torch.arange(11)[gang.rank :: gang.size])

    one = learned(policy(frozen, adapters=adapters), torch.arange(11))
    for found in in_gang(2, tmp_path / "gang", work):
        assert isinstance(found, dict), found
        assert found.keys() == one.keys()
        for name, gradient in one.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=5e-5)


def test_every_entry_point_gives_what_it_gave(tmp_path: Path) -> None:
    """Log-probabilities, scores, values, the trunk and sampling; and after an update those of the new weights."""
    chat = load_language_model("tiny").chat

    def numbers(model: LanguageModel, scalar: Any) -> dict[str, Any]:
        batch = sequences()
        with entered(OneProcess()):  # every pass is a meeting of all processes: none may have other prompts, or fewer
            drawn = LocalEngine(model, chat).generate(
                [Prompt.from_text("Hello")], Sampling(max_new_tokens=5), num_responses=2, key=("drawn",)
            )
        with torch.no_grad():
            return {
                "logprobs": model.logprobs(batch, temperature=1.0),
                "one": model.logprobs(batch.select(torch.tensor([5])), temperature=1.0),  # few rows: packed copies
                "scores": scalar.scores(batch),
                "values": scalar.values(batch),
                "drawn": drawn.logprobs,
            }

    def updated(model: LanguageModel) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        (-model.logprobs(sequences(), temperature=1.0).sum()).backward()
        optimizer.step()
        optimizer.zero_grad()

    def work(gang: Gang) -> Any:
        model, scalar = policy(0), load_scalar_model("tiny", precision="fp32").model
        sharded(model, gang.size)
        sharded(scalar, gang.size)
        before = numbers(model, scalar)
        (-model.logprobs(sequences(), temperature=1.0).sum() / gang.size).backward()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        optimizer.step()
        optimizer.zero_grad()
        return before, numbers(model, scalar)

    model, scalar = policy(0), load_scalar_model("tiny", precision="fp32").model
    first = numbers(model, scalar)
    updated(model)
    second = numbers(model, scalar)
    assert not torch.allclose(first["logprobs"], second["logprobs"], atol=1e-2)
    for found in in_gang(2, tmp_path / "gang", work):
        assert isinstance(found, tuple), found
        for before, after in zip((first, second), found, strict=True):
            for name in before:
                torch.testing.assert_close(after[name], before[name], rtol=1e-3, atol=1e-4)


def test_what_is_shared_or_fingerprinted_has_to_be_so_before(tmp_path: Path) -> None:
    """Known limits: a sharded model has no raw memory to read, and its shards are not another's whole weights."""

    def work(gang: Gang) -> Any:
        told = []
        ready = policy(1)
        key = ready.trunk_key
        sharded(ready, gang.size)
        trunk = ready.trunk(sequences())
        told.append(trunk is not None and trunk.key == key)
        late, other = policy(1), policy(1)
        sharded(late, gang.size)
        for attempt in (lambda: late.trunk(sequences()), lambda: other.adopt(late)):
            try:
                attempt()
            except RuntimeError as error:
                told.append(type(error).__name__)
        return told

    assert in_gang(2, tmp_path / "gang", work) == [[True, "RuntimeError", "RuntimeError"]] * 2


def test_tied_weights_stay_in_one_group(tmp_path: Path) -> None:
    """Embeddings and unembedding in groups of their own are refused by torch."""

    def work(gang: Gang) -> Any:
        model, mesh = policy(0), init_device_mesh("cpu", (gang.size,))
        try:
            fully_shard(model.model.lower(0)[0], mesh=mesh)
            fully_shard(model.lm_head, mesh=mesh)
            fully_shard(model, mesh=mesh)
            (-model.logprobs(sequences(), temperature=1.0).sum()).backward()
        except Exception as error:
            return type(error).__name__
        return "accepted"

    found = in_gang(2, tmp_path / "gang", work)
    assert found[0] == found[1] != "accepted"
