"""Adapters on disk: PEFT reads ours, we read PEFT's, and the base is the one they were learned beside."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.lm import small_families
from torch import Tensor

from palate.errors import ModelError
from palate.lm.adapters import adapt, adapted, merge
from palate.lm.batch import Sequences
from palate.lm.families import QKV
from palate.lm.model import LanguageModel, Model
from palate.lm.sources.builtin import byte_tokenizer
from palate.lm.sources.zoo import Loaded, load_chat, load_language_model, load_scalar_model, locate, save
from palate.recipe import Adapter

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # in PEFT
SETTINGS = Adapter(rank=3, alpha=5.0)


@pytest.fixture
def tiny_base(tmp_path: Path) -> Path:
    """A copy of the tiny model, to be the base of adapters."""
    return Path(shutil.copytree(locate("tiny"), tmp_path / "base"))


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    tokens = {"vocab_size": 259, "eos_token_id": 2, "bos_token_id": None, "pad_token_id": 0}
    GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, initializer_range=0.1, **tokens)).save_pretrained(
        tmp_path / "gpt2"
    )
    byte_tokenizer().save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


@pytest.fixture
def phi3(tmp_path: Path) -> Path:
    """In its files queries, keys and values are one matrix."""
    small_families.written("phi3", tmp_path / "phi3")
    return tmp_path / "phi3"


@torch.no_grad()
def trained(model: Model, settings: Adapter = SETTINGS, *, frozen_layers: int = 0, seed: int = 1) -> None:
    """Adapters that have learned something."""
    model.freeze_all(frozen_layers)
    adapt(model, settings, seed=seed)
    numbers = torch.Generator().manual_seed(seed)
    for adapter in adapted(model).values():
        adapter.lora_B.copy_(0.1 * torch.randn(adapter.lora_B.shape, generator=numbers))


def run_of(loaded: Loaded[Any], directory: Path) -> Path:
    """Its adapters, written where a run writes them."""
    save(loaded.model, loaded.chat, directory / "model", beside=loaded)
    return directory


@torch.no_grad()
def logprobs(model: LanguageModel, sequences: Sequences) -> Tensor:
    return model.logprobs(sequences, temperature=1.0)


@torch.no_grad()
def theirs(network: Any, sequences: Sequences) -> Tensor:
    """[B, T] as `logprobs`, from a model of transformers or PEFT."""
    inside = torch.arange(sequences.tokens.shape[1]) < sequences.lengths[:, None]
    logits = network(input_ids=sequences.tokens, attention_mask=inside.long()).logits
    chosen = logits[:, :-1].log_softmax(-1).gather(-1, sequences.tokens[:, 1:, None])[..., 0]
    return torch.nn.functional.pad(chosen, (1, 0)) * sequences.mask


@pytest.mark.parametrize("base", ["tiny_base", "gpt2", "phi3"])
@pytest.mark.parametrize("frozen_layers", [0, 1])
@pytest.mark.parametrize("rank_stabilized", [False, True])
def test_peft_reads_what_is_written(
    base: str,
    frozen_layers: int,
    rank_stabilized: bool,
    request: pytest.FixtureRequest,
    sequences: Sequences,
    tmp_path: Path,
) -> None:
    from peft import AutoPeftModelForCausalLM

    loaded = load_language_model(str(request.getfixturevalue(base)), precision="fp32")
    settings = Adapter(rank=3, alpha=5.0, rank_stabilized=rank_stabilized)
    trained(loaded.model, settings, frozen_layers=frozen_layers)
    run = run_of(loaded, tmp_path / "run")
    network: Any = AutoPeftModelForCausalLM.from_pretrained(run / "model")
    expected = logprobs(loaded.model, sequences)
    torch.testing.assert_close(theirs(network, sequences), expected, atol=1e-5, rtol=0)
    ours = {name: weight for name, weight in network.named_parameters() if "lora_" in name}
    per_layer = {"tiny_base": 7, "gpt2": 4, "phi3": 4}[base]
    assert len(ours) == 2 * per_layer * (loaded.model.model.shape.num_layers - frozen_layers)  # it hung no others
    again = load_language_model(str(run), precision="fp32")
    assert torch.equal(logprobs(again.model, sequences), expected)
    assert again.weights != loaded.weights


@pytest.mark.parametrize("family", small_families.FAMILIES)
def test_peft_reads_every_family(family: str, sequences: Sequences, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    small_families.written(family, tmp_path / "base")
    loaded = load_language_model(str(tmp_path / "base"), precision="fp32")
    plain = logprobs(loaded.model, sequences)
    trained(loaded.model)
    network: Any = AutoPeftModelForCausalLM.from_pretrained(run_of(loaded, tmp_path / "run") / "model")
    expected = logprobs(loaded.model, sequences)
    torch.testing.assert_close(theirs(network, sequences), expected, atol=1e-4, rtol=0)
    assert not torch.allclose(expected, plain, atol=1e-2)


@pytest.mark.parametrize("base", ["tiny_base", "gpt2"])
def test_peft_reads_a_reward_model(
    base: str, request: pytest.FixtureRequest, sequences: Sequences, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    directory = request.getfixturevalue(base)
    loaded = load_scalar_model(str(directory), precision="fp32", seed=3)
    trained(loaded.model)
    run = run_of(loaded, tmp_path / "run")
    auto: Any = AutoModelForSequenceClassification
    network: Any = PeftModel.from_pretrained(auto.from_pretrained(directory, num_labels=1), run / "model")
    inside = torch.arange(sequences.tokens.shape[1]) < sequences.lengths[:, None]
    with torch.no_grad():
        got = network(input_ids=sequences.tokens, attention_mask=inside.long()).logits
        expected = loaded.model.scores(sequences)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
        again = load_scalar_model(str(run), precision="fp32", seed=99).model  # its head is not drawn again
        assert torch.equal(again.scores(sequences), expected)
    with pytest.raises(ModelError, match=r"does not fit its base: unknown base_model.model.score.weight"):
        load_language_model(str(run))


@pytest.mark.parametrize("base", ["tiny_base", "gpt2", "phi3"])
@pytest.mark.parametrize("scalar", [False, True])
def test_what_peft_writes_is_read(
    base: str, scalar: bool, request: pytest.FixtureRequest, sequences: Sequences, tmp_path: Path
) -> None:
    import transformers
    from peft import LoraConfig, get_peft_model

    directory: Path = request.getfixturevalue(base)
    auto: Any = transformers.AutoModelForSequenceClassification if scalar else transformers.AutoModelForCausalLM
    plain = auto.from_pretrained(directory, dtype=torch.float32, **({"num_labels": 1} if scalar else {}))
    plain.config.pad_token_id = 0
    targets = {
        "gpt2": ["c_attn", "c_proj"],
        "phi3": ["qkv_proj", "gate_up_proj", "o_proj"],
        "tiny_base": ["q_proj", "down_proj"],
    }[base]
    config = LoraConfig(
        r=4,
        lora_alpha=7,
        use_rslora=True,
        target_modules=targets,
        layers_to_transform=[1],
        rank_pattern={targets[0]: 5},
        alpha_pattern={targets[0]: 9},
        fan_in_fan_out=base == "gpt2",
        init_lora_weights=False,
        task_type="SEQ_CLS" if scalar else "CAUSAL_LM",
    )
    network: Any = get_peft_model(plain, config)
    network.save_pretrained(tmp_path / "theirs")
    assert (tmp_path / "theirs" / "adapter_model.safetensors").exists()
    if scalar:
        model = load_scalar_model(str(tmp_path / "theirs"), precision="fp32", seed=5).model
        inside = torch.arange(sequences.tokens.shape[1]) < sequences.lengths[:, None]
        with torch.no_grad():
            expected = network(input_ids=sequences.tokens, attention_mask=inside.long()).logits
            torch.testing.assert_close(model.scores(sequences), expected, atol=1e-5, rtol=0)
    else:
        loaded = load_language_model(str(tmp_path / "theirs"), precision="fp32")
        torch.testing.assert_close(logprobs(loaded.model, sequences), theirs(network, sequences), atol=1e-5, rtol=0)
        here = {*QKV, "gate_proj", "up_proj", "o_proj"} if base == "phi3" else set(targets)
        assert {name.rpartition(".")[-1] for name in adapted(loaded.model)} == here


@pytest.mark.parametrize("lower_is_merged", [False, True])
def test_an_adapter_on_what_an_adapter_made(
    lower_is_merged: bool, tiny_base: Path, sequences: Sequences, tmp_path: Path
) -> None:
    lower = load_language_model(str(tiny_base), precision="fp32")
    trained(lower.model, seed=1)
    between = logprobs(lower.model, sequences)
    if lower_is_merged:
        save(lower.model, lower.chat, tmp_path / "lower" / "model")
    else:
        run_of(lower, tmp_path / "lower")
    upper = load_language_model(str(tmp_path / "lower"), precision="fp32")
    merge(upper.model)
    torch.testing.assert_close(logprobs(upper.model, sequences), between, atol=1e-5, rtol=0)
    trained(upper.model, Adapter(rank=2, targets=("v_proj",)), seed=2)
    run_of(upper, tmp_path / "upper")
    again = load_language_model(str(tmp_path / "upper"), precision="fp32")
    assert torch.equal(logprobs(again.model, sequences), logprobs(upper.model, sequences))
    assert not torch.allclose(logprobs(again.model, sequences), between, atol=1e-2)
    assert {adapter.rank for adapter in adapted(again.model).values()} == {2}
    (tmp_path / "runs").mkdir()
    for name in ("lower", "upper", "base"):  # all of them together
        (tmp_path / name).rename(tmp_path / "runs" / name)
    moved = load_language_model(str(tmp_path / "runs" / "upper"), precision="fp32")
    assert torch.equal(logprobs(moved.model, sequences), logprobs(again.model, sequences))
    assert moved.weights == again.weights


@pytest.fixture
def run(tiny_base: Path, tmp_path: Path) -> Path:
    loaded = load_language_model(str(tiny_base), precision="fp32")
    trained(loaded.model)
    return run_of(loaded, tmp_path / "run")


def refusal(run: Path, load: Callable[..., Any] = load_language_model) -> str:
    with pytest.raises(ModelError) as caught:
        load(str(run))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_base_that_is_another_or_not_there(run: Path, tiny_base: Path) -> None:
    weights = tiny_base / "model.safetensors"
    state = load_file(weights)
    save_file(state | {"model.norm.weight": 2 * state["model.norm.weight"]}, weights)
    assert "base has other weights than those it was learned beside: put them back, or train it again" in refusal(run)
    save_file(state, weights, metadata={"format": "pt"})
    load_language_model(str(run))
    tiny_base.rename(tiny_base.with_name("elsewhere"))
    for load in (load_language_model, load_chat):
        told = refusal(run, load)
        assert f"its base is not at ../../base or {tiny_base}: put it back, or say in" in told
        assert "base.json where it is" in told
    (run / "model" / "base.json").unlink()
    tiny_base.with_name("elsewhere").rename(tiny_base)
    first = load_language_model(str(run)).weights  # PEFT says which base it is, and not how it was
    save_file(state | {"model.norm.weight": 2 * state["model.norm.weight"]}, weights)
    assert load_language_model(str(run)).weights != first
    config = run / "model" / "adapter_config.json"
    config.write_text(json.dumps({"base_model_name_or_path": str(run)}))
    assert "its base is not at" in refusal(run)  # nor is it the adapter itself
    config.write_text("{}")
    assert "nothing says which model this adapter belongs to" in refusal(run)


def test_a_part_of_a_fused_matrix(phi3: Path, sequences: Sequences, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    loaded = load_language_model(str(phi3), precision="fp32")
    trained(loaded.model, Adapter(rank=3, alpha=5.0, targets=("v_proj", "o_proj", "gate_proj")))
    run = run_of(loaded, tmp_path / "run")
    again, expected = load_language_model(str(run), precision="fp32").model, logprobs(loaded.model, sequences)
    network: Any = AutoPeftModelForCausalLM.from_pretrained(run / "model")
    torch.testing.assert_close(theirs(network, sequences), expected, atol=1e-5, rtol=0)
    assert torch.equal(logprobs(again, sequences), expected)
    assert {name: adapter.rank for name, adapter in adapted(again).items()} == dict.fromkeys(adapted(loaded.model), 3)


def test_a_base_of_the_zoo_is_named(sequences: Sequences, tmp_path: Path) -> None:
    loaded = load_language_model("tiny", precision="fp32")
    trained(loaded.model)
    run = run_of(loaded, tmp_path / "run")
    assert json.loads((run / "model" / "base.json").read_text())["places"] == ["tiny"]
    again = load_language_model(str(run), precision="fp32")
    assert torch.equal(logprobs(again.model, sequences), logprobs(loaded.model, sequences))


def test_adapters_that_cannot_be_used(run: Path) -> None:
    file, config = run / "model" / "adapter_model.safetensors", run / "model" / "adapter_config.json"
    whole, plain = file.read_bytes(), config.read_text()
    for change in ({"use_dora": True}, {"peft_type": "IA3"}, {"bias": "all"}):
        config.write_text(json.dumps(json.loads(plain) | change))
        assert "is not read here: merge it into its base in PEFT" in refusal(run)
    config.write_text(plain)
    file.write_bytes(whole[: len(whole) // 2])
    assert "the adapter cannot be read" in refusal(run)
    file.write_bytes(whole)
    state = load_file(file)
    save_file(state | {"base_model.model.model.layers.7.mlp.up_proj.lora_A.weight": torch.ones(1, 1)}, file)
    assert "does not fit its base: unknown base_model.model.model.layers.7.mlp.up_proj" in refusal(run)
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
    save_file(state | {name: state[name][:, :5].contiguous()}, file)
    assert "was made for another model: model.layers.1.self_attn.q_proj has another size" in refusal(run)


def test_an_adapter_has_the_chat_template_that_it_was_trained_with(tiny_base: Path, tmp_path: Path) -> None:
    loaded = load_language_model(str(tiny_base), precision="fp32", chat_template="zephyr")
    trained(loaded.model)
    run = run_of(loaded, tmp_path / "run")
    assert load_chat(str(run)).fingerprint == loaded.chat.fingerprint != load_chat(str(tiny_base)).fingerprint
    for name in ("tokenizer_config.json", "tokenizer.json", "chat_template.jinja"):
        (run / "model" / name).unlink(missing_ok=True)
    assert load_chat(str(run)).fingerprint == load_chat(str(tiny_base)).fingerprint


def test_merged_on_writing_it_is_a_plain_model(tiny_base: Path, sequences: Sequences, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    loaded = load_language_model(str(tiny_base), precision="fp32")
    trained(loaded.model)
    expected = logprobs(loaded.model, sequences)
    save(loaded.model, loaded.chat, tmp_path / "model")
    assert torch.equal(logprobs(loaded.model, sequences), expected)  # it still has its adapters
    assert not (tmp_path / "model" / "adapter_config.json").exists()
    network: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    torch.testing.assert_close(theirs(network, sequences), expected, atol=1e-5, rtol=0)
