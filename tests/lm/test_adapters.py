"""Adapters against what they must equal: nothing at first, the merged weights, training the weights themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from palate.errors import RecipeError
from palate.lm import foreign
from palate.lm.adapters import LoRA, adapt, adapted, base, learn, merged
from palate.lm.batch import Sequences
from palate.lm.model import LanguageModel, Model
from palate.lm.optim import Optimizer
from palate.lm.sources.builtin import byte_tokenizer
from palate.lm.sources.zoo import load_language_model, load_scalar_model, locate
from palate.recipe import Adapter, Sampling
from palate.recipe import Optimizer as OptimizerSettings
from palate.records import Prompt
from palate.rollout.local import LocalEngine

Network = Literal["own fp32", "own bf16", "general", "gpt2"]
NETWORKS: tuple[Network, ...] = ("own fp32", "own bf16", "general", "gpt2")
CHAT = load_language_model("tiny").chat


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    tokens = {"vocab_size": 259, "eos_token_id": 2, "bos_token_id": None, "pad_token_id": 0}
    network = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, initializer_range=0.1, **tokens))
    directory = tmp_path_factory.mktemp("gpt2")
    network.save_pretrained(directory)
    byte_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture
def load(gpt2: Path) -> Callable[[Network], LanguageModel]:
    def load(network: Network) -> LanguageModel:
        match network:
            case "own fp32" | "own bf16":
                return load_language_model("tiny", precision=network[-4:]).model  # type: ignore[arg-type]
            case "general":
                from transformers import AutoConfig

                config = AutoConfig.from_pretrained(locate("tiny"))
                return foreign.read(
                    locate("tiny"), "tiny", LanguageModel, config, torch.float32, head_seed=0, what="these"
                )
            case "gpt2":
                return load_language_model(str(gpt2), precision="fp32").model

    return load


def disturb(model: Model, by: float = 0.05) -> None:
    """As training would."""
    numbers = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for adapter in adapted(model).values():
            adapter.lora_B.copy_(by * torch.randn(adapter.lora_B.shape, generator=numbers))


def logprobs(model: LanguageModel, sequences: Sequences) -> Tensor:
    return model.logprobs(sequences, temperature=0.7)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_new_adapter_changes_nothing_and_an_old_one_does(
    load: Callable[[Network], LanguageModel], network: Network, sequences: Sequences
) -> None:
    model, plain = load(network), load(network)
    adapt(model, Adapter(rank=3), seed=1)
    expected = logprobs(plain, sequences)
    assert torch.equal(logprobs(model, sequences), expected)
    with torch.no_grad():
        assert torch.equal(logprobs(model, sequences), logprobs(plain, sequences))
    for name, adapter in adapted(model).items():  # each of them is used
        with torch.no_grad():
            adapter.lora_B[0] = 0.3  # not all of them: a norm would take that out again
        assert not torch.allclose(logprobs(model, sequences), expected, atol=1e-4), name
        with torch.no_grad():
            adapter.lora_B.zero_()
    assert torch.equal(logprobs(model, sequences), expected)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("rank_stabilized", [False, True])
def test_merged_weights_give_the_same(
    load: Callable[[Network], LanguageModel], network: Network, rank_stabilized: bool, sequences: Sequences
) -> None:
    model, plain = load(network), load(network)
    adapt(model, Adapter(rank=4, alpha=6.0, rank_stabilized=rank_stabilized), seed=1)
    disturb(model)
    whole, without = merged(model), base(model)
    rounding = 0.05 if network == "own bf16" else 1e-5
    changed = logprobs(model, sequences).detach()
    torch.testing.assert_close(logprobs(whole, sequences).detach(), changed, atol=rounding, rtol=0)
    assert torch.equal(logprobs(without, sequences), logprobs(plain, sequences))
    assert (logprobs(without, sequences) - changed).abs().max() > 10 * rounding
    assert not adapted(whole)
    assert not adapted(without)
    for name, adapter in adapted(model).items():
        of, now = (each.get_submodule(name).weight for each in (plain, whole))
        by_hand = 6.0 / (2.0 if rank_stabilized else 4.0) * adapter.lora_B @ adapter.lora_A
        change = now - of if isinstance(whole.get_submodule(name), nn.Linear) else (now - of).T
        torch.testing.assert_close(change, by_hand.detach(), atol=1e-6, rtol=1e-4)


def storages(*models: nn.Module) -> dict[int, int]:
    """Bytes of each distinct memory behind the parameters of them all."""
    found = [parameter.untyped_storage() for model in models for parameter in model.parameters()]
    return {storage.data_ptr(): storage.nbytes() for storage in found}


@pytest.mark.parametrize("network", NETWORKS)
def test_the_base_is_in_memory_once(load: Callable[[Network], LanguageModel], network: Network) -> None:
    model = load(network)
    adapt(model, Adapter(rank=2, targets=("c_attn",) if network == "gpt2" else ("q_proj", "v_proj")), seed=1)
    assert storages(model, base(model)) == storages(model)
    names = set(adapted(model))
    extra = sum(model.get_submodule(name).weight.numel() * 4 for name in names)
    assert sum(storages(model, merged(model)).values()) == sum(storages(model).values()) + extra


def test_both_ways_to_compute_a_llama_agree(load: Callable[[Network], LanguageModel], sequences: Sequences) -> None:
    own, general = load("own fp32"), load("general")
    for model in (own, general):
        adapt(model, Adapter(rank=3), seed=1)
        disturb(model)
    ours, theirs = adapted(own), adapted(general)
    assert [f"model.network.{name}" for name in ours] == list(theirs)
    for mine, other in zip(ours.values(), theirs.values(), strict=True):
        mine.load_state_dict(other.state_dict())
    torch.testing.assert_close(logprobs(own, sequences), logprobs(general, sequences), atol=1e-5, rtol=0)
    for model in (own, general):
        logprobs(model, sequences).sum().backward()
    for name, mine in ours.items():
        for one, other in zip(mine.parameters(), theirs[f"model.network.{name}"].parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("network", ["own fp32", "gpt2"])
def test_gradients_are_those_of_finite_differences(
    load: Callable[[Network], LanguageModel], network: Network, sequences: Sequences
) -> None:
    model = load(network)
    adapt(model, Adapter(rank=3, alpha=5.0), seed=1)
    disturb(model)

    def loss() -> Tensor:
        return logprobs(model, sequences).mean()

    loss().backward()
    for name, adapter in adapted(model).items():
        for matrix in (adapter.lora_A, adapter.lora_B):
            assert matrix.grad is not None
            direction, step = matrix.grad / matrix.grad.norm(), 1e-2
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    matrix.add_(direction, alpha=sign * step)
                    values.append(float(loss()))
                    matrix.sub_(direction, alpha=sign * step)
            slope = (values[0] - values[1]) / (2 * step)
            assert slope == pytest.approx(float(matrix.grad.norm()), rel=2e-2, abs=2e-5), name


@pytest.mark.parametrize("adam", [False, True])
def test_full_rank_learns_as_the_weights_themselves_do(
    load: Callable[[Network], LanguageModel], adam: bool, sequences: Sequences
) -> None:
    """With A the identity and scale s, W + s B.

    The gradient of B is s times that of W. So the curves are the same when plain gradient descent on B has 1 / s**2 of
    W's learning rate; and Adam, which does not care for the gradient's scale, 1 / s of it.
    """
    scale, rate = 2.0, 0.05
    direct, beside = load("own fp32"), load("own fp32")
    width = direct.model.shape.hidden_size
    targets = ("q_proj", "gate_proj")
    adapt(beside, Adapter(rank=width, alpha=scale * width, targets=targets), seed=1)
    direct.requires_grad_(False)
    weights, changes = [], []
    for name, adapter in adapted(beside).items():
        with torch.no_grad():
            adapter.lora_A.copy_(torch.eye(width))
        weights.append(direct.get_submodule(name).weight.requires_grad_(True))
        changes.append(adapter.lora_B)

    def curve(model: LanguageModel, parameters: list[Any], rate: float) -> list[float]:
        kind: Any = torch.optim.Adam if adam else torch.optim.SGD
        optimizer = kind(parameters, lr=rate, **({"eps": 1e-12} if adam else {}))
        losses = []
        for _ in range(5):
            loss = -logprobs(model, sequences).mean()
            losses.append(float(loss.detach()))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return losses

    of_weights = curve(direct, weights, rate / (20 if adam else 1))
    of_changes = curve(beside, changes, rate / 20 / scale if adam else rate / scale**2)
    assert of_weights[-1] < of_weights[0] - 0.01
    assert of_changes == pytest.approx(of_weights, abs=2e-4 if adam else 2e-5)


@pytest.mark.parametrize("network", NETWORKS)
def test_only_adapters_learn(load: Callable[[Network], LanguageModel], network: Network, sequences: Sequences) -> None:
    model, plain = load(network), load(network)
    adapt(model, Adapter(rank=2), seed=1)
    optimizer = Optimizer(model, OptimizerSettings(learning_rate=0.01), 2, name="policy")
    assert all(".adapter." in name for name in optimizer.parameters)
    for step in range(2):
        (-logprobs(model, sequences).sum()).backward()
        optimizer.step(step)
    without = base(model).state_dict()
    assert without.keys() == plain.state_dict().keys()
    assert all(torch.equal(without[name], weight) for name, weight in plain.state_dict().items())
    for name, adapter in adapted(model).items():
        assert adapter.lora_B.abs().max() > 0, name


def test_a_scalar_head_learns_too(sequences: Sequences) -> None:
    model = load_scalar_model("tiny", precision="fp32").model
    model.freeze(1)
    adapt(model, Adapter(rank=2, targets=("o_proj",)), seed=1)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    layers = range(1, model.model.shape.num_layers)
    expected = [f"model.layers.{layer}.self_attn.o_proj.adapter.lora_{which}" for layer in layers for which in "AB"]
    assert names == [*expected, "score.weight"]
    disturb(model)
    trunk = model.trunk(sequences)
    assert trunk is not None
    torch.testing.assert_close(model.scores(sequences, trunk=trunk), model.scores(sequences), atol=1e-6, rtol=1e-5)


def test_adapters_are_drawn_from_the_seed() -> None:
    def drawn(seed: int, kind: Callable[..., Any] = load_language_model) -> list[Tensor]:
        model = kind("tiny", precision="fp32").model
        adapt(model, Adapter(rank=4), seed=seed)
        return [adapter.lora_A.detach() for adapter in adapted(model).values()]

    first, again, other, scalar = drawn(1), drawn(1), drawn(2), drawn(1, load_scalar_model)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, scalar, strict=True))
    assert not torch.equal(first[0], first[1])
    for a in first:
        bound = a.shape[1] ** -0.5
        assert 0.9 * bound < a.abs().max() <= bound
        assert float(a.mean()) == pytest.approx(0, abs=0.2 * bound)


@pytest.mark.parametrize("network", NETWORKS)
def test_what_samples_is_what_learns(load: Callable[[Network], LanguageModel], network: Network) -> None:
    model = load(network)
    adapt(model, Adapter(rank=4), seed=1)
    disturb(model)
    prompts = [Prompt.from_text("Hi"), Prompt.from_text("What is the longest prompt of them all?")]
    sampling = Sampling(max_new_tokens=14, num_slots=4)
    rollout = LocalEngine(model, CHAT).generate(prompts, sampling, num_responses=3, key=(1,))
    computed = model.logprobs(rollout.sequences, temperature=sampling.temperature).detach()
    torch.testing.assert_close(computed, rollout.logprobs, atol=2e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_has_its_bits_whatever_is_beside_it(dtype: torch.dtype) -> None:
    """Where products are bf16, and their results will be rounded again."""
    adapter = LoRA(576, 192, rank=16, alpha=32.0, rank_stabilized=False, dtype=dtype)
    adapter.draw(1)
    with torch.no_grad():
        adapter.lora_B.copy_(torch.randn(192, 16, generator=torch.Generator().manual_seed(1)))
    numbers = torch.Generator().manual_seed(2)
    x, product = torch.randn(300, 576, generator=numbers), torch.randn(300, 192, generator=numbers).to(dtype)
    whole = adapter(x, product)
    assert whole.dtype == torch.float32
    different = sum(
        not torch.equal(adapter(x[row : row + 1], product[row : row + 1])[0], whole[row]) for row in range(300)
    )
    assert different <= 1 if dtype == torch.bfloat16 else different > 100, "or fp64 would not be needed"


def test_targets_that_are_not_there(load: Callable[[Network], LanguageModel]) -> None:
    with pytest.raises(RecipeError, match="no layer that learns has query; it has q_proj, k_proj, v_proj, o_proj"):
        adapt(load("own fp32"), Adapter(targets=("q_proj", "query")), seed=0)
    with pytest.raises(RecipeError, match="has q_proj, lm_head; it has c_attn, c_proj, c_fc"):
        adapt(load("gpt2"), Adapter(targets=("q_proj", "lm_head")), seed=0)
    model = load("own fp32")
    model.freeze(model.model.shape.num_layers)
    with pytest.raises(RecipeError, match="every layer is frozen; lower frozen_layers"):
        adapt(model, Adapter(), seed=0)


def test_an_adapter_below_the_frozen_layers_stays(load: Callable[[Network], LanguageModel]) -> None:
    """As that of a model which is gone on with."""
    model = load("own fp32")
    adapt(model, Adapter(targets=("q_proj",)), seed=0)
    before = model.trunk_key
    model.frozen_layers = 2
    learn(model)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[2] for name in learning} == {"2"}
    assert before
