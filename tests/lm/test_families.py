"""Every family of `families.py` against transformers, every peculiarity switched on; and what is close to one."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from tests.lm.small_families import FAMILIES, SMALL, written
from torch import Tensor

from palate.lm import logprobs as lm_logprobs
from palate.lm.batch import Sequences
from palate.lm.decoder import Decoder
from palate.lm.families import NotCovered, Rule, fuse, shape_of, split
from palate.lm.foreign import Foreign
from palate.lm.kernels.attention import attention
from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import Loaded, load_language_model, load_scalar_model, save
from palate.recipe import Sampling
from palate.records import Prompt
from palate.rollout.local import LocalEngine


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """Of each family a directory, and transformers' model in it."""
    out = {}
    for name in FAMILIES:
        directory = tmp_path_factory.mktemp("family")
        out[name] = directory, written(name, directory)
    return out


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def home(homes: dict[str, tuple[Path, Any]], family: str) -> Path:
    return homes[family][0]


@pytest.fixture
def peer(homes: dict[str, tuple[Path, Any]], family: str) -> Any:
    homes[family][1].zero_grad()
    return homes[family][1]


@pytest.fixture
def loaded(home: Path) -> Loaded[LanguageModel]:
    return load_language_model(str(home), precision="fp32")


@pytest.fixture(scope="module")
def long() -> Sequences:
    """Ragged, prompts shared by three and by two; some longer than any window, some shorter, some by a token or two."""
    numbers = torch.Generator().manual_seed(3)
    prompts, responses = (
        [torch.randint(3, 259, (length,), generator=numbers).tolist() for length in lengths]
        for lengths in ((19, 1, 7, 5), (13, 21, 2, 3, 9, 7, 12))
    )
    groups = [0, 1, 0, 2, 2, 0, 3]
    return Sequences.pack([prompts[group] for group in groups], responses, group_ids=groups)


@torch.no_grad()
def rows_of(peer: Any, sequences: Sequences) -> Tensor:
    """[all tokens, D] of every sequence alone."""
    spans = zip(sequences.tokens, sequences.lengths.tolist(), strict=True)
    return torch.cat([peer.model(input_ids=tokens[None, :length]).last_hidden_state[0] for tokens, length in spans])


def logprobs_of(peer: Any, sequences: Sequences, temperature: float) -> Tensor:
    """[B, T] as `LanguageModel.logprobs` gives them."""
    out = []
    for tokens, length in zip(sequences.tokens, sequences.lengths.tolist(), strict=True):
        logits = peer(input_ids=tokens[None, :length]).logits[0, :-1] / temperature
        chosen = logits.log_softmax(-1).gather(-1, tokens[1:length, None])[:, 0]
        out.append(torch.nn.functional.pad(chosen, (1, len(tokens) - length)))
    return torch.stack(out) * sequences.mask


def test_logprobs_rows_and_gradients_are_those_of_transformers(
    loaded: Loaded[LanguageModel], peer: Any, long: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm_logprobs, "LOGITS", 64 * 100)  # several parts of the vocabulary
    monkeypatch.setattr(lm_logprobs, "WIDTH", 64)
    model = loaded.model
    assert isinstance(model.model, Decoder)
    places = [torch.cat(parts) for parts in zip(*_all_places(long), strict=True)]
    with torch.no_grad():
        torch.testing.assert_close(model.hidden(long, *places, None), rows_of(peer, long), atol=1e-4, rtol=0)

    got, expected = model.logprobs(long, temperature=0.7), logprobs_of(peer, long, 0.7)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
    weights = torch.linspace(-1, 2, got.numel()).view(got.shape)
    (got * weights).sum().backward()
    (expected * weights).sum().backward()
    ours = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    ours = fuse(model.model.shape, ours)
    theirs = {name: parameter.grad for name, parameter in peer.named_parameters()}
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        scale = max(float(gradient.abs().max()), 0.1)  # the bias of keys that are not rotated changes nothing
        torch.testing.assert_close(ours[name] / scale, gradient / scale, atol=1e-4, rtol=0, msg=name)


def _all_places(sequences: Sequences) -> list[tuple[Tensor, Tensor]]:
    lengths = enumerate(sequences.lengths.tolist())
    return [(torch.full((length,), row), torch.arange(length)) for row, length in lengths]


def test_the_trunk_is_part_of_the_pass(loaded: Loaded[LanguageModel], long: Sequences) -> None:
    model = loaded.model
    plain = model.logprobs(long, temperature=1.0).detach()
    for layers in (1, 2, 3):
        model.freeze(layers)
        trunk = model.trunk(long, max_tokens=40)
        assert trunk is not None
        for part in long.microbatches(50):
            got = model.logprobs(part, temperature=1.0, trunk=trunk)
            torch.testing.assert_close(got, plain[part.rows, : got.shape[1]], atol=1e-5, rtol=0)


PROMPTS = [Prompt.from_text(text) for text in ("Hi", "What is the longest prompt of them all?", "Name a bird.")]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_sampled_is_what_is_trained(home: Path, precision: Literal["fp32", "bf16"]) -> None:
    """Fewer slots than responses, so that some are refilled."""
    loaded = load_language_model(str(home), precision=precision)
    sampling = Sampling(temperature=0.9, max_new_tokens=12, num_slots=4)
    rollout = LocalEngine(loaded.model, loaded.chat).generate(PROMPTS, sampling, num_responses=3, key=("rows",))
    mask = rollout.sequences.mask
    with torch.no_grad():
        again = loaded.model.logprobs(rollout.sequences, temperature=0.9)
    torch.testing.assert_close(rollout.logprobs, again, atol=1e-5, rtol=0)
    exact = load_language_model(str(home), precision="fp32").model.logprobs(rollout.sequences, temperature=0.9)
    gap = (exact.detach() - again)[mask].abs()
    assert (float(gap.mean()) < 0.1) if precision == "bf16" else (float(gap.max()) < 1e-5)
    assert precision == "fp32" or float(gap.max()) > 0


def test_what_is_saved_loads_in_transformers(
    loaded: Loaded[LanguageModel], home: Path, peer: Any, long: Sequences, tmp_path: Path
) -> None:
    """Under transformers' names, every tensor; and what transformers writes in shards is read."""
    from transformers import AutoConfig, AutoModelForCausalLM

    save(loaded.model, loaded.chat, tmp_path / "model")
    again: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert type(again) is type(peer)
    for name, parameter in peer.state_dict().items():
        assert torch.equal(again.state_dict()[name], parameter), name
    new, old = (AutoConfig.from_pretrained(path).to_dict() for path in (tmp_path / "model", home))
    assert {key for key in old if new[key] != old[key]} <= {"_name_or_path"}

    again.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    loaded.chat.tokenizer.save_pretrained(tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    shards = load_language_model(str(tmp_path / "shards"), precision="fp32").model
    assert torch.equal(shards.logprobs(long, temperature=1.0), loaded.model.logprobs(long, temperature=1.0))


def test_reward_models(home: Path, long: Sequences, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    loaded = load_scalar_model(str(home), precision="fp32", seed=5)
    assert isinstance(loaded.model.model, Decoder)
    save(loaded.model, loaded.chat, tmp_path / "model")
    peer: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        spans = zip(long.tokens, long.lengths.tolist(), strict=True)
        theirs = torch.cat([peer(input_ids=tokens[None, :length]).logits for tokens, length in spans])
        torch.testing.assert_close(loaded.model.scores(long), theirs, atol=1e-4, rtol=0)
    again = load_scalar_model(str(tmp_path / "model"), precision="fp32", seed=6).model
    assert torch.equal(again.scores(long), loaded.model.scores(long))


NEAR_MISSES: dict[str, tuple[str, dict[str, Any], str]] = {
    "an activation": ("llama", {"hidden_act": "relu"}, "llama models with relu for activation"),
    "a rope that follows the batch": (
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
        "llama models with rotary embeddings of type dynamic",
    ),
    "longrope": (
        "phi3",
        {
            "rope_parameters": {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
            "original_max_position_embeddings": 16,
        },
        "phi3 models with rotary embeddings of type longrope",
    ),
    "heads in part": ("llama", {"partial_rotary_factor": 0.5}, "llama models with heads rotated in part"),
    "a cap that transformers ignores": (
        "gemma3_text",
        {"attn_logit_softcapping": 30.0},
        "gemma3_text models with attn_logit_softcapping = 30.0",
    ),
    "eyes in the back": (
        "gemma3_text",
        {"use_bidirectional_attention": True},
        "gemma3_text models with use_bidirectional_attention = True",
    ),
    "not causal": ("qwen3", {"is_causal": False}, "qwen3 models that are quantised or not causal"),
    "quantised": (
        "llama",
        {"quantization_config": {"quant_method": "awq", "bits": 4}},
        "llama models that are quantised or not causal",
    ),
    "chunks": ("qwen3", {"layer_types": ["chunked_attention"] * 3}, "qwen3 models with layers of chunked_attention"),
    "experts": ("qwen3_moe", {}, "qwen3_moe models"),
    "a relative": ("olmo3", {}, "olmo3 models"),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_misses_are_not_covered(case: str) -> None:
    from transformers import AutoConfig

    model_type, settings, what = NEAR_MISSES[case]
    with pytest.raises(NotCovered) as caught:
        shape_of(AutoConfig.for_model(model_type, **SMALL | settings))
    assert str(caught.value) == what


def test_a_field_that_nobody_has_heard_of_is_not_covered() -> None:
    """As a later transformers may have one; at its default it changes nothing."""
    from dataclasses import dataclass

    from transformers import LlamaConfig

    @dataclass
    class Later(LlamaConfig):  # type: ignore[misc]
        attention_multiplier: float = 1.0

    shape_of(Later(**SMALL))
    with pytest.raises(NotCovered, match="llama models with attention_multiplier"):
        shape_of(Later(**SMALL, attention_multiplier=0.5))


def test_what_is_not_covered_runs_elsewhere_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    FAMILIES["odd"] = ("llama", {"hidden_act": "relu"})
    try:
        peer = written("odd", tmp_path)
    finally:
        del FAMILIES["odd"]
    loaded = load_language_model(str(tmp_path), precision="fp32")
    assert isinstance(loaded.model.model, Foreign)
    assert "llama models with relu for activation run through transformers' own code" in capsys.readouterr().err
    sequences = Sequences.pack([[5, 6, 7]], [[8, 9, 2]])
    got = loaded.model.logprobs(sequences, temperature=1.0)
    torch.testing.assert_close(got, logprobs_of(peer, sequences, 1.0), atol=1e-5, rtol=0)


def test_published_configs_are_covered() -> None:
    """Fields and values as people find them on the hub, old spellings too."""
    from transformers import AutoConfig

    llama = {"rope_scaling": {"rope_type": "llama3", **{k: v for k, v in _LLAMA3.items() if k != "rope_theta"}}}
    found = {
        "Llama 3.2 1B": shape_of(AutoConfig.for_model("llama", rope_theta=500000.0, pretraining_tp=1, **llama)),
        "SmolLM2": shape_of(AutoConfig.for_model("llama", rope_interleaved=False, is_llama_config=True)),
        "Qwen 2.5": shape_of(AutoConfig.for_model("qwen2", use_sliding_window=False, sliding_window=32768)),
        "Gemma 1": shape_of(AutoConfig.for_model("gemma", hidden_act="gelu", hidden_activation=None)),
        "Gemma 2": shape_of(AutoConfig.for_model("gemma2", hidden_act="gelu", cache_implementation="hybrid")),
        "Gemma 3": shape_of(
            AutoConfig.for_model("gemma3_text", rope_theta=1000000, rope_local_base_freq=10000, sliding_window=512)
        ),
        "Phi 3": shape_of(AutoConfig.for_model("phi3", rope_scaling=None, sliding_window=2047, auto_map={"a": "b"})),
        "SmolLM 3": shape_of(AutoConfig.for_model("smollm3", no_rope_layer_interval=4)),
    }
    assert found["Gemma 1"].activation == found["Gemma 2"].activation == "gelu_pytorch_tanh"
    assert {rule.window for rule in _rules(found["Qwen 2.5"])} == {None}
    assert {rule.window for rule in _rules(found["Phi 3"])} == {2047}
    assert [rule.window for rule in _rules(found["Gemma 3"])][:7] == [512] * 5 + [None, 512]
    assert len(found["Gemma 3"].ropes) == 2
    assert [layer.rope for layer in found["SmolLM 3"].layers][:5] == [0, 0, 0, None, 0]


_LLAMA3 = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def _rules(shape: Any) -> list[Rule]:
    return [layer.rule for layer in shape.layers]


def test_fused_weights_come_apart_and_together() -> None:
    from transformers import AutoConfig

    shape = shape_of(AutoConfig.for_model("phi3", **SMALL))
    state = {"model.layers.0.self_attn.qkv_proj.weight": torch.randn(80, 48), "model.norm.weight": torch.randn(48)}
    apart = split(shape, state)
    sizes = {key: len(tensor) for key, tensor in apart.items() if "self_attn" in key}
    names = {"q_proj": 48, "k_proj": 16, "v_proj": 16}
    assert sizes == {f"model.layers.0.self_attn.{name}.weight": size for name, size in names.items()}
    together = fuse(shape, apart)
    assert together.keys() == state.keys()
    assert all(torch.equal(together[key], state[key]) for key in state)


@pytest.mark.parametrize("heads", [2, 6])
@pytest.mark.parametrize("masked", [True, False])
def test_capped_attention_with_a_high_cap_is_attention(heads: int, masked: bool) -> None:
    numbers = torch.Generator().manual_seed(0)
    q = torch.randn(3, heads, 5, 8, generator=numbers)
    k, v = (torch.randn(3, 2, 5, 8, generator=numbers) for _ in range(2))
    mask = torch.zeros(3, 1, 5, 5).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf) if masked else None
    for scale in (None, 0.3):
        meet = partial(attention, q, k, v, mask=mask, scale=scale, dtype=torch.float32)
        plain, capped = meet(cap=None), meet(cap=1e4)
        torch.testing.assert_close(capped, plain, atol=1e-5, rtol=0)
        assert not torch.allclose(meet(cap=0.5), plain, atol=1e-2)
