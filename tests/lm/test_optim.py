from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from palate import recipe
from palate.errors import MissingExtraError, TrainingError
from palate.lm.batch import Sequences
from palate.lm.model import LanguageModel
from palate.lm.optim import Optimizer
from palate.run import checkpoints
from palate.stages.estimate import footprint

Fresh = Callable[[], LanguageModel]


def schedule(total: int, **settings: object) -> list[float]:
    settings = {"learning_rate": 1.0, "warmup": 0.0} | settings
    optimizer = Optimizer(torch.nn.Linear(1, 1), recipe.Optimizer.model_validate(settings), total, name="policy")
    return [optimizer.learning_rate(update) for update in range(total)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "linear"}, [1.0, 0.75, 0.5, 0.25]),
        ({"schedule": "constant"}, [1.0, 1.0, 1.0, 1.0]),
        ({"schedule": "cosine"}, [1.0, 0.853553, 0.5, 0.146447]),
        ({"schedule": "cosine", "decay_to": 0.1}, [1.0, 0.868198, 0.55, 0.231802]),
        ({"schedule": "constant", "decay_to": 0.1}, [1.0, 1.0, 1.0, 1.0]),
        ({"schedule": "linear", "warmup": 0.5}, [1 / 3, 2 / 3, 1.0, 0.5]),
        ({"schedule": "constant", "warmup": 0.25}, [0.5, 1.0, 1.0, 1.0]),
        ({"schedule": "linear", "warmup": 1.0, "learning_rate": 5.0}, [1.0, 2.0, 3.0, 4.0]),
    ],
)
def test_learning_rates(settings: dict[str, object], expected: list[float]) -> None:
    assert schedule(4, **settings) == pytest.approx(expected, abs=1e-6)


def train(model: LanguageModel, optimizer: Optimizer, sequences: Sequences, steps: range) -> None:
    for step in steps:
        batch = sequences.select(torch.tensor([step % len(sequences), (step + 2) % len(sequences)]))
        (-model.logprobs(batch, temperature=1.0).sum()).backward()
        optimizer.step(step)


def optimizer_of(model: LanguageModel) -> Optimizer:
    model.freeze(1)
    return Optimizer(model, recipe.Optimizer(learning_rate=1e-2, weight_decay=0.1), 6, name="policy")


def test_stopped_and_resumed_ends_with_the_same_bits(fresh: Fresh, sequences: Sequences) -> None:
    straight = fresh()
    train(straight, optimizer_of(straight), sequences, range(6))

    before = fresh()
    optimizer = optimizer_of(before)
    train(before, optimizer, sequences, range(3))
    state = {key: value.clone() if torch.is_tensor(value) else value for key, value in optimizer.state_dict().items()}
    train(before, optimizer, sequences, range(3, 4))  # what was done after the checkpoint is lost

    after = fresh()
    resumed = optimizer_of(after)
    resumed.load_state_dict(state)
    assert resumed.updates == 3
    train(after, resumed, sequences, range(3, 6))
    for name, weight in straight.state_dict().items():
        assert torch.equal(after.state_dict()[name], weight), name


def test_a_checkpoint_before_the_first_step(fresh: Fresh) -> None:
    optimizer, other = optimizer_of(fresh()), optimizer_of(fresh())
    other.load_state_dict(optimizer.state_dict())
    assert other.updates == 0
    assert {name.partition("/")[0] for name in other.state_dict()} == {"updates", "weight"}


def test_only_what_is_trained_is_kept(fresh: Fresh) -> None:
    names = {name.partition("/")[2] for name in optimizer_of(fresh()).state_dict()}
    assert not any("embed" in name or "layers.0" in name or "lm_head" in name for name in names)
    assert "model.layers.1.mlp.up_proj.weight" in names


def test_a_gradient_that_is_not_finite_stops_the_run_and_changes_nothing(fresh: Fresh, sequences: Sequences) -> None:
    model = fresh()
    optimizer = optimizer_of(model)
    train(model, optimizer, sequences, range(1))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    (model.logprobs(sequences, temperature=1.0).sum() * torch.inf).backward()
    with pytest.raises(TrainingError, match="step 7: the gradient of the policy is not finite"):
        optimizer.step(7)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name])
    assert optimizer.updates == 1


def test_the_norm_is_clipped_and_reported() -> None:
    for limit, expected in ((1.0, [0.6, 0.8]), (0.0, [3.0, 4.0])):
        module = torch.nn.Linear(2, 1, bias=False)
        optimizer = Optimizer(module, recipe.Optimizer(max_grad_norm=limit, beta1=0.0), 1, name="value")
        module.weight.grad = torch.tensor([[3.0, 4.0]])
        seen = optimizer.step(0)
        assert seen["value/grad_norm"] == pytest.approx(5.0)
        average = optimizer.state_dict()["exp_avg/weight"]
        assert isinstance(average, torch.Tensor)
        assert average[0].tolist() == pytest.approx(expected, rel=1e-5)
        assert module.weight.grad is None


def test_updates_by_hand() -> None:
    """Two of AdamW's, with every setting at a value that shows."""
    settings = recipe.Optimizer(
        learning_rate=0.5,
        schedule="linear",
        warmup=0.0,
        weight_decay=0.3,
        beta1=0.6,
        beta2=0.7,
        epsilon=0.25,
        max_grad_norm=2.0,
    )
    module = torch.nn.Linear(2, 1, bias=False, dtype=torch.float64)
    weight = torch.tensor([1.0, -2.0], dtype=torch.float64)
    with torch.no_grad():
        module.weight.copy_(weight[None])
    optimizer = Optimizer(module, settings, 4, name="policy")
    first = second = torch.zeros(2, dtype=torch.float64)
    for update, gradient in enumerate((torch.tensor([3.0, 4.0]), torch.tensor([0.5, -1.0]))):
        module.weight.grad = gradient[None].double()
        seen = optimizer.step(update)
        rate = 0.5 * (1 - update / 4)
        assert seen == pytest.approx({"policy/grad_norm": float(gradient.norm()), "policy/learning_rate": rate})
        clipped = gradient.double() * min(1, 2 / float(gradient.norm()))
        first, second = 0.6 * first + 0.4 * clipped, 0.7 * second + 0.3 * clipped**2
        mean, square = first / (1 - 0.6 ** (update + 1)), second / (1 - 0.7 ** (update + 1))
        weight = weight * (1 - rate * 0.3) - rate * mean / (square.sqrt() + 0.25)
        assert module.weight[0].tolist() == pytest.approx(weight.tolist(), rel=1e-4)
    assert optimizer.updates == 2


def test_a_warm_up_is_rounded_to_whole_updates() -> None:
    assert schedule(5, warmup=0.25, schedule="constant") == [0.5, 1, 1, 1, 1]
    assert schedule(4, warmup=0.5, schedule="cosine") == pytest.approx([1 / 3, 2 / 3, 1, 0.5])


def test_a_restored_state_is_a_copy() -> None:
    """What is trained on does not change the checkpoint it came from."""
    module, other = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    optimizers = [Optimizer(each, recipe.Optimizer(), 9, name="policy") for each in (module, other)]
    module(torch.ones(1, 1)).sum().backward()
    optimizers[0].step(0)
    state = optimizers[0].state_dict()
    kept = {name: value.clone() for name, value in state.items() if isinstance(value, torch.Tensor)}
    optimizers[1].load_state_dict(state)
    other(torch.ones(1, 1)).sum().backward()
    optimizers[1].step(1)
    assert all(torch.equal(kept[name], value) for name, value in state.items() if isinstance(value, torch.Tensor))


def eight_bits(model: LanguageModel, total: int = 6) -> Optimizer:
    pytest.importorskip("bitsandbytes")
    return Optimizer(model, recipe.Optimizer(learning_rate=3e-3, state_bits=8), total, name="policy")


def test_larger_weights_have_states_in_eight_bits(fresh: Fresh, sequences: Sequences) -> None:
    model = fresh()
    optimizer = eight_bits(model)
    train(model, optimizer, sequences, range(1))
    kept = {name: tensor for name, tensor in optimizer.state_dict().items() if name.startswith(("state1", "state2"))}
    for name, tensor in kept.items():
        assert isinstance(tensor, torch.Tensor)
        assert tensor.dtype == (torch.uint8 if tensor.numel() >= 4096 else torch.float32), name
    assert {name for name, tensor in kept.items() if torch.is_tensor(tensor) and tensor.dtype == torch.uint8} == {
        "state1/model.embed_tokens.weight",
        "state2/model.embed_tokens.weight",
    }
    moments = [x for name, x in optimizer.state_dict().items() if name.startswith(("state", "absmax"))]
    size = sum(x.numel() * x.element_size() for x in moments if torch.is_tensor(x))
    assert footprint.optimizer(model, 8) == size < 0.9 * footprint.optimizer(model)


def test_states_in_eight_bits_learn_as_much(fresh: Fresh, sequences: Sequences) -> None:
    """What a model has learned after a while is nearly the same."""
    pytest.importorskip("bitsandbytes")
    losses = []
    for bits in (32, 8):
        model = fresh()
        settings = recipe.Optimizer(learning_rate=3e-3, state_bits=bits)
        train(model, Optimizer(model, settings, 40, name="policy"), sequences, range(40))
        losses.append(float(-model.logprobs(sequences, temperature=1.0).sum().detach()))
    before = float(-fresh().logprobs(sequences, temperature=1.0).sum().detach())
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
    assert losses[1] < before / 3


def test_states_in_eight_bits_are_resumed_to_the_bit(fresh: Fresh, sequences: Sequences, tmp_path: Path) -> None:
    straight = fresh()
    train(straight, eight_bits(straight), sequences, range(6))
    before, after = fresh(), fresh()
    optimizer, resumed = eight_bits(before), eight_bits(after)
    train(before, optimizer, sequences, range(3))
    checkpoints.save(tmp_path, 3, {"policy": optimizer}, seconds=0.0, keep=1)
    found = checkpoints.load_newest(tmp_path, {"policy": resumed}, pytest.fail)
    assert found is not None
    resumed.load_state_dict(found.states["policy"])
    train(after, resumed, sequences, range(3, 6))
    for name, weight in straight.state_dict().items():
        assert torch.equal(after.state_dict()[name], weight), name


def test_without_the_library_there_is_one_line(fresh: Fresh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim.adamw", None)
    with pytest.raises(MissingExtraError, match=r"^bitsandbytes is not installed: run `pip install 'palate\[bitsand"):
        Optimizer(fresh(), recipe.Optimizer(state_bits=8), 6, name="policy")


def test_several_weights_in_eight_bits_are_saved(tmp_path: Path) -> None:
    """What their numbers stand for is one table in memory, which a file may not have twice."""
    pytest.importorskip("bitsandbytes")
    module = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
    optimizer = Optimizer(module, recipe.Optimizer(state_bits=8), 1, name="policy")
    module(torch.ones(1, 64)).sum().backward()
    optimizer.step(0)
    checkpoints.save(tmp_path, 1, {"policy": optimizer}, seconds=0.0, keep=1)
    found = checkpoints.load_newest(tmp_path, {"policy": optimizer}, pytest.fail)
    assert found is not None
    assert {"qmap1/0.weight", "qmap1/1.weight", "state2/1.weight"} <= found.states["policy"].keys()
