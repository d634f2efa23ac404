"""Small random models of other families, read, trained, sampled from and written back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from palate import recipe
from palate.errors import ModelError
from palate.lm import foreign
from palate.lm import logprobs as lm_logprobs
from palate.lm.batch import Sequences
from palate.lm.model import LanguageModel
from palate.lm.optim import Optimizer
from palate.lm.sources.builtin import byte_tokenizer
from palate.lm.sources.zoo import Loaded, load_language_model, load_scalar_model, save
from palate.recipe import Sampling
from palate.records import Prompt
from palate.rollout.local import LocalEngine

COMMON = {"vocab_size": 259, "eos_token_id": 2, "bos_token_id": None, "pad_token_id": 0, "initializer_range": 0.1}
SMALL = COMMON | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": COMMON | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},  # dropout is on in its config
    "starcoder2": SMALL | {"sliding_window": 8, "embedding_dropout": 0.1, "residual_dropout": 0.1},
    "olmo3": SMALL | {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    # soft caps, windows; an activation that our own network does not have
    "gemma2": SMALL | {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8, "hidden_activation": "relu"},
}


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from transformers import AutoConfig, AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    out = {}
    for family, settings in FAMILIES.items():
        torch.manual_seed(0)
        out[family] = tmp_path_factory.mktemp("models") / family
        network = auto.from_config(AutoConfig.for_model(family, **settings))
        network.save_pretrained(out[family])
        byte_tokenizer().save_pretrained(out[family])
    return out


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def loaded(homes: dict[str, Path], family: str) -> Loaded[LanguageModel]:
    return load_language_model(str(homes[family]), precision="fp32")


def plain(directory: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)


def test_logprobs_and_gradients_are_those_of_transformers(
    homes: dict[str, Path], family: str, sequences: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm_logprobs, "CHUNK_ROWS", 5)
    model, network = load_language_model(str(homes[family]), precision="fp32").model, plain(homes[family])
    model.train()  # changes nothing: dropout stays off
    got = model.logprobs(sequences, temperature=0.7)
    for row in range(len(sequences)):
        tokens = sequences.tokens[row, : sequences.lengths[row]]
        logprobs = (network(input_ids=tokens[None]).logits[0, :-1] / 0.7).log_softmax(-1)
        expected = logprobs.gather(1, tokens[1:, None])[:, 0] * sequences.mask[row, 1 : len(tokens)]
        torch.testing.assert_close(got[row, 1 : len(tokens)].detach(), expected.detach(), atol=1e-5, rtol=0)
        expected.sum().backward()
    got.sum().backward()
    theirs = dict(network.named_parameters())
    for name, parameter in model.named_parameters():
        expected = theirs[name.removeprefix("model.network.")].grad
        torch.testing.assert_close(parameter.grad, expected, atol=1e-4, rtol=1e-3)


def test_sampled_logprobs_are_the_models_own(loaded: Loaded[LanguageModel], sequences: Sequences) -> None:
    prompts = [Prompt.from_text("Hi"), Prompt.from_text("What is the longest prompt of them all?")]
    rollouts = [
        LocalEngine(loaded.model, loaded.chat).generate(
            prompts, Sampling(max_new_tokens=14, temperature=0.9, num_slots=slots), num_responses=3, key=("test", 1)
        )
        for slots in (4, 64)
    ]
    first, second = rollouts
    assert torch.equal(first.sequences.tokens, second.sequences.tokens)
    assert len(set(first.texts)) == 6
    computed = loaded.model.logprobs(first.sequences, temperature=0.9).detach()
    torch.testing.assert_close(first.logprobs, computed, atol=1e-5, rtol=0)


def test_what_is_saved_loads_in_transformers(
    homes: dict[str, Path], family: str, sequences: Sequences, tmp_path: Path
) -> None:
    loaded = load_language_model(str(homes[family]), precision="fp32")
    model = loaded.model
    model.freeze(1)
    optimizer = Optimizer(model, recipe.Optimizer(learning_rate=0.01), 1, name="policy")
    model.logprobs(sequences, temperature=1.0).sum().backward()
    optimizer.step(0)
    save(model, loaded.chat, tmp_path / "model")
    network, before = plain(tmp_path / "model"), plain(homes[family])
    changed = {
        name
        for (name, new), old in zip(network.named_parameters(), before.parameters(), strict=True)
        if not torch.equal(new, old)
    }
    assert changed  # the frozen embeddings are the unembedding too
    assert all(".1." in name or "norm" in name or "ln_f" in name or name == "lm_head.weight" for name in changed)
    again = load_language_model(str(tmp_path / "model"), precision="fp32").model
    expected = model.logprobs(sequences, temperature=1.0)
    torch.testing.assert_close(again.logprobs(sequences, temperature=1.0), expected, atol=1e-6, rtol=0)
    assert again.trunk(sequences) is None


def test_reward_models(homes: dict[str, Path], family: str, sequences: Sequences, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    loaded = load_scalar_model(str(homes[family]), precision="fp32", seed=5)
    scores, values = loaded.model.scores(sequences).detach(), loaded.model.values(sequences).detach()
    assert (values != 0).equal(sequences.mask)
    save(loaded.model, loaded.chat, tmp_path / "model")
    network: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    inside = torch.arange(sequences.tokens.shape[1]) < sequences.lengths[:, None]
    with torch.no_grad():
        theirs = network(input_ids=sequences.tokens, attention_mask=inside.long()).logits
    torch.testing.assert_close(theirs, scores, atol=1e-5, rtol=0)
    again = load_scalar_model(str(tmp_path / "model"), precision="fp32", seed=6).model
    torch.testing.assert_close(again.scores(sequences).detach(), scores, atol=1e-6, rtol=0)
    assert torch.equal(load_scalar_model(str(homes[family]), seed=5).model.score.weight, loaded.model.score.weight)
    with pytest.raises(ModelError, match=r"the weights do not fit the config: .*score\.weight"):
        load_language_model(str(tmp_path / "model"))


def test_bf16_by_autocast(homes: dict[str, Path], sequences: Sequences) -> None:
    loaded = load_language_model(str(homes["starcoder2"]), precision="bf16")
    exact = load_language_model(str(homes["starcoder2"]), precision="fp32").model.logprobs(sequences, temperature=1.0)
    got = loaded.model.logprobs(sequences, temperature=1.0)
    assert got.dtype == torch.float32
    assert not torch.equal(got, exact)
    torch.testing.assert_close(got.detach(), exact.detach(), atol=0.05, rtol=0)
    rollout = LocalEngine(loaded.model, loaded.chat).generate(
        [Prompt.from_text("Hi")], Sampling(max_new_tokens=5), num_responses=2, key=(1,)
    )
    computed = loaded.model.logprobs(rollout.sequences, temperature=0.7).detach()
    torch.testing.assert_close(rollout.logprobs, computed, atol=0.05, rtol=0)


def test_it_is_said_once(homes: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    foreign._announce.cache_clear()
    name = str(homes["gpt2"])
    for _ in range(2):
        load_language_model(name, precision="fp32")
    assert capsys.readouterr().err == (
        f"{name}: gpt2 models run through transformers' own code: correct, but without shared prompts, cached trunks "
        "or refilled slots\n"
    )


def save_network(config: Any, auto: Any, directory: Path) -> str:
    auto.from_config(config).save_pretrained(directory)
    byte_tokenizer().save_pretrained(directory)
    return str(directory)


def test_what_is_no_causal_language_model_is_refused(tmp_path: Path, homes: dict[str, Path]) -> None:
    from transformers import AutoModel, BertConfig, CohereConfig, T5Config
    from transformers import AutoModelForCausalLM as Causal

    sizes: dict[str, Any] = {"vocab_size": 259, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = save_network(
        BertConfig(**sizes, intermediate_size=16, is_decoder=True, initializer_range=0.2), Causal, tmp_path / "bert"
    )
    config = tmp_path / "bert" / "config.json"
    config.write_text(config.read_text().replace('"is_decoder": true', '"is_decoder": false'))
    with pytest.raises(ModelError, match="bert is not a causal language model"):
        load_language_model(bert)
    t5 = T5Config(vocab_size=259, d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8)
    with pytest.raises(ModelError, match="no AutoModelForCausalLM for t5 models"):
        load_language_model(save_network(t5, AutoModel, tmp_path / "t5"))
    cohere = CohereConfig(**sizes, intermediate_size=16, logit_scale=0.5)
    with pytest.raises(ModelError, match="no AutoModelForSequenceClassification for cohere models"):
        load_scalar_model(save_network(cohere, Causal, tmp_path / "cohere"))


def test_damaged_weights(homes: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load, save_file

    directory = Path(shutil.copytree(homes["starcoder2"], tmp_path / "copy"))
    weights = directory / "model.safetensors"
    whole = weights.read_bytes()
    state = load(whole)
    weights.write_bytes(whole[:-1000])
    with pytest.raises(ModelError, match="transformers cannot read it") as caught:
        load_language_model(str(directory))
    assert "\n" not in str(caught.value)
    save_file({key: tensor for key, tensor in state.items() if "norm" not in key}, weights, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"the weights do not fit the config: .*input_layernorm"):
        load_language_model(str(directory))
