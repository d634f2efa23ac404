"""Models whose weights are divided over processes: what each process holds, and that nothing of it is out of date."""

from __future__ import annotations

import os
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.cluster.gangs import in_gang
from tests.cluster.test_gang import sequences
from tests.stages.estimate import allocated
from tests.stages.estimate.conftest import write_model
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
from palate.lm.sources import loaded
from palate.lm.sources.zoo import left_in_files, load_language_model, load_scalar_model
from palate.stages.common import sharing


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


@pytest.fixture
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model whose embeddings are as large as all its layers, in a file of this dtype."""
    write_model(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    save_file({key: weight.to(request.param) for key, weight in load_file(file).items()}, file, {"format": "pt"})
    return tmp_path / "model"


def five(directory: Path) -> list[Model]:
    """As PPO has them: policy and value model, which learn, reference and reward; and one that shares nothing."""
    policy = load_language_model(str(directory), precision="bf16").model
    policy.freeze(2)
    share = sharing([policy], frozen_layers=2)
    reference = load_language_model(str(directory), precision="bf16", settle=share).model
    reward = load_scalar_model(str(directory), precision="bf16", settle=share).model

    def settle(model: Model) -> None:
        model.freeze(2)
        model.join([policy, reward])

    value = load_scalar_model(str(directory), precision="bf16", settle=settle).model
    alone = load_language_model(str(directory), precision="bf16", settle=sharing([], frozen_layers=2)).model
    return [policy, reference, reward, value, alone]


def told_of(models: list[Model]) -> list[Any]:
    """Of each its fingerprint, and names, dtypes and numbers of its weights."""
    found = []
    for model in models:
        with model.whole() as whole:
            state = {
                key: (weight.dtype, weight.double().numpy().tobytes()) for key, weight in whole.state_dict().items()
            }
            learned = [key for key, weight in whole.named_parameters() if weight.requires_grad]
        found.append((model.trunk_key, state, learned))
    return found


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"], indirect=True)
@pytest.mark.parametrize("size", [2, 3])
def test_what_is_left_in_files_is_never_whole_in_memory(size: int, stored: Path, tmp_path: Path) -> None:
    """From the first file to the last part: all allocations count, on the device of the run and beside it.

    What the file itself is mapped to does not, as the system may drop it; so it is opened before. Two divide every
    weight evenly, three hardly one. Parts, fingerprints and what is shared are what they are of models that were read.
    """
    file = stored / "model.safetensors"

    def work(gang: Gang) -> Any:
        models: list[Model] = []
        opened = safe_open(file, "pt")
        setattr(loaded, "safe_open", lambda *_: nullcontext(opened))  # noqa: B010 (it is not exported)

        def begin() -> None:
            with left_in_files():
                models.extend(five(stored))
            assert is_mapped(file, models[0].model.lower(0)[0].weight)
            shard(models)

        took = allocated.peak(begin)
        read = five(stored)
        whole, layer = held(read), 4 * sum(weight.numel() for weight in read[0].model.upper(0)[0].parameters())
        assert told_of(models) == told_of(read)
        assert shared_by(models) == shared_by(read)
        shard(read)
        assert held(models) == held(read) < 1.1 * whole / size
        return took, held(models), layer, whole

    for found in in_gang(size, tmp_path / "gang", work):
        assert isinstance(found, tuple), found
        took, own, layer, whole = found
        print(f"{took:,} for parts of {own:,} out of {whole:,}; a layer has {layer:,}")
        assert took < own + 2 * layer < whole


def is_mapped(file: Path, weight: Any) -> bool:
    """Whether its memory is the file's."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        if line.endswith(str(file)):
            first, last = (int(each, 16) for each in line.split()[0].split("-"))
            if first <= weight.data_ptr() < last:
                return True
    return False


def shared_by(models: list[Model]) -> list[int]:
    """Of each weight the number of the first in which it is."""
    places: dict[int, int] = {}
    return [places.setdefault(id(weight), len(places)) for model in models for weight in model.parameters()]


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
