from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from palate import recipe
from palate.errors import TrainingError
from palate.lm.batch import Sequences
from palate.lm.model import LanguageModel
from palate.lm.optim import Optimizer

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
