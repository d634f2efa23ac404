"""Models whose weights are divided over processes: what each process holds, and that nothing of it is out of date."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch
from tests.cluster.gangs import in_gang
from tests.cluster.test_gang import sequences
from torch import Tensor
from torch.distributed.tensor import DTensor

from palate import recipe
from palate.cluster.gang import Gang
from palate.cluster.sharding import shard
from palate.errors import PeerError
from palate.lm.adapters import adapt, base
from palate.lm.model import LanguageModel, Model
from palate.lm.optim import Optimizer
from palate.lm.projection import Projecting, Projection
from palate.lm.sources.zoo import load_language_model


def held(models: list[Model]) -> int:
    """Bytes of weights in this process, each memory counted once."""
    weights = [weight for model in models for weight in model.parameters()]
    own = [weight.to_local() if isinstance(weight, DTensor) else weight for weight in weights]
    return sum({each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in own}.values())


def test_each_process_holds_its_part_and_what_models_share_once(tmp_path: Path) -> None:
    """Adapters on frozen weights, and the network without them as the reference; before they are used, and after."""

    def actors() -> list[Model]:
        policy = load_language_model("tiny", precision="fp32").model
        policy.freeze_all(0)
        adapt(policy, recipe.Adapter(rank=2), seed=0)
        return [policy, base(policy)]

    def work(gang: Gang) -> Any:
        models = actors()
        whole = models[0].state_dict()
        shard(models)
        shares = [held(models)]
        for model in models:
            assert isinstance(model, LanguageModel)
            model.logprobs(sequences(), temperature=1.0)
        shares.append(held(models))
        assert all(isinstance(weight, DTensor) for model in models for weight in model.parameters())
        with models[0].whole() as again:
            assert all(torch.equal(whole[name], weight) for name, weight in again.state_dict().items())
            inside = again
        return [*shares, held([inside])]

    one = held(actors())
    for before, after, left in in_gang(2, tmp_path / "gang", work):
        assert one / 2 <= before <= 0.51 * one
        assert after == before
        assert left == 0


def test_what_is_multiplied_with_is_never_out_of_date(tmp_path: Path) -> None:
    """In bf16 copies of weights are kept until they change, and FSDP writes new ones into the memory of the old."""

    def learned() -> Tensor:
        model = load_language_model("tiny", precision="bf16").model
        model.freeze(0)
        if (tmp_path / "gang").exists():
            shard([model])
        optimizer = Optimizer(model, recipe.Optimizer(learning_rate=0.05, warmup=0.0), 4, name="policy")
        for step in range(2):
            for part in sequences().microbatches(40):
                (-model.logprobs(part, temperature=1.0).sum()).backward()
            optimizer.step(step)
        with torch.no_grad():
            logprobs = model.logprobs(sequences(), temperature=1.0)
        if model.gathered is not None:
            copied = [each for each in model.modules() if isinstance(each, Projection | Projecting)]
            assert not any(each.kept._product for each in copied), "a copy is whole, and stays what it was"
        return logprobs

    one = learned()
    for found in in_gang(2, tmp_path / "gang", lambda _: learned()):
        assert isinstance(found, Tensor), found
        torch.testing.assert_close(found, one, rtol=0.05, atol=0.3)


def test_a_process_that_dies_in_a_pass_is_said_in_one_line(tmp_path: Path) -> None:
    """Between two meetings of the world; otherwise it would be an error of gloo's, with a traceback."""

    def work(gang: Gang) -> Any:
        model = load_language_model("tiny", precision="fp32").model
        shard([model])
        gang.whole([gang.rank], "metrics")
        if gang.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        with gang.passing():
            model.logprobs(sequences(), temperature=1.0)

    first, second = in_gang(2, tmp_path / "gang", work)
    assert second is None
    assert isinstance(first, PeerError), first
    assert "waited for 'weights, gradients or parts of a checkpoint', and one is gone" in str(first)
