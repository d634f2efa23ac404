"""What a new model is made of: its tokenizer, its shape and its first weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from palate.errors import RecipeError
from palate.lm import decoder
from palate.lm.batch import Sequences
from palate.lm.families import shape_of
from palate.lm.model import LanguageModel
from palate.lm.pretraining.sizes import PRESETS, draw, new_config, size_of, write_new
from palate.lm.pretraining.vocabulary import train_tokenizer
from palate.lm.sources.builtin import SPECIAL, byte_tokenizer
from palate.lm.sources.zoo import load_language_model
from palate.recipe import Architecture

TEXTS = [
    "the mill turned all day and nobody knew why the mill turned",
    "é, ü and 漢字: anything can be said\n\n\t ",
] * 3


def test_a_trained_tokenizer_says_everything_and_merges_what_is_frequent() -> None:
    tokenizer = train_tokenizer(TEXTS, 300)
    assert len(tokenizer) == 300
    assert [tokenizer.convert_tokens_to_ids(name) for name in SPECIAL] == [0, 1, 2]
    for text in [*TEXTS, "Ωmega 🙂 never seen", " leading"]:
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
    assert len(tokenizer("the mill", add_special_tokens=False).input_ids) < 8
    again = train_tokenizer(TEXTS, 300)
    assert again.get_vocab() == tokenizer.get_vocab()


def test_with_259_tokens_every_byte_is_one() -> None:
    tokenizer = train_tokenizer(TEXTS, 259)
    assert len(tokenizer("ab é", add_special_tokens=False).input_ids) == 5
    assert set(tokenizer.get_vocab()) == set(byte_tokenizer().get_vocab())


def test_a_text_with_nothing_to_merge_has_fewer() -> None:
    assert len(train_tokenizer(["ab"], 300)) == 260


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_as_large_as_it_says(name: str) -> None:
    class Tokens(dict[str, int]):
        bos_token_id = eos_token_id = pad_token_id = None

        def get_vocab(self) -> dict[str, int]:
            return {"last": 4095}

    config = new_config(Architecture(preset=name), Tokens(), context=1024)  # type: ignore[arg-type]
    shape = shape_of(config)
    with torch.device("meta"):
        model = LanguageModel(config, decoder.Decoder(shape))
    number = float(name[:-1]) * {"m": 1e6, "b": 1e9}[name[-1]]
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(number, rel=0.12)
    assert shape.head_dim in (32, 64)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"hidden_size": 100, "num_heads": 8}, "does not divide into 8 heads"),
        ({"num_heads": 4, "num_kv_heads": 3}, "cannot share 3"),
    ],
)
def test_numbers_that_do_not_fit(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        size_of(Architecture.model_validate(settings))


def small(**settings: Any) -> tuple[Any, Any]:
    tokenizer = byte_tokenizer()
    shape = Architecture.model_validate({"preset": "1m", "num_layers": 2} | settings)
    return new_config(shape, tokenizer, context=65), tokenizer


def test_first_weights_have_the_spread_of_gpt_2_and_follow_from_the_seed() -> None:
    config, _ = small()
    weights = draw(config, 3)
    for name, weight in weights.items():
        if "norm" in name:
            assert torch.equal(weight, torch.ones_like(weight))
        else:
            adds = name.endswith(("o_proj.weight", "down_proj.weight"))
            expected = 0.02 / math.sqrt(4) if adds else 0.02
            assert float(weight.std()) == pytest.approx(expected, rel=0.04), name
            assert abs(float(weight.mean())) < 0.001
    assert all(torch.equal(weight, weights[name]) for name, weight in draw(config, 3).items())
    assert not torch.equal(draw(config, 4)["model.embed_tokens.weight"], weights["model.embed_tokens.weight"])


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_loads_it_and_computes_the_same(tied: bool, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config, tokenizer = small(tie_embeddings=tied)
    write_new(tmp_path / "model", config, tokenizer, {})
    assert not (tmp_path / "model" / "model.safetensors").exists()
    write_new(tmp_path / "model", config, tokenizer, draw(config, 0))
    theirs, words = (kind.from_pretrained(tmp_path / "model") for kind in (AutoModelForCausalLM, AutoTokenizer))
    ours = load_language_model(str(tmp_path / "model"), precision="fp32")
    tokens = [2, *words("a mill").input_ids]
    assert tokens == [2, *ours.chat.text_tokens("a mill")[:-1]]
    sequences = Sequences.pack([tokens[:1]], [tokens[1:]])
    expected = theirs(torch.tensor([tokens])).logits[0, :-1].log_softmax(-1)
    expected = expected.gather(-1, torch.tensor(tokens[1:])[:, None])[:, 0]
    torch.testing.assert_close(ours.model.logprobs(sequences, temperature=1.0)[0, 1:], expected, rtol=1e-4, atol=1e-5)
    assert ("lm_head.weight" in dict(ours.model.named_parameters(remove_duplicate=True))) is not tied
    assert json.loads((tmp_path / "model" / "config.json").read_text())["max_position_embeddings"] == 65
