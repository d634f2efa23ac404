"""The embedded model for real: out of its package, with nothing installed that nobody declared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from palate.errors import ModelError
from palate.lm.model import LanguageModel
from palate.lm.sources.gguf_weights import _halves, _name
from palate.lm.sources.zoo import Loaded, load_language_model, locate
from palate.randomness import derive_seed
from palate.recipe import Sampling
from palate.records import Prompt
from palate.rollout.local import LocalEngine


@pytest.fixture(scope="module")
def embedded() -> Loaded[LanguageModel]:
    return load_language_model("smollm2-135m", precision="fp32")


def test_it_answers_a_question(embedded: Loaded[LanguageModel]) -> None:
    """Wrong names, or rotated pairs in the wrong order, give a network that computes and says nothing."""
    engine = LocalEngine(embedded.model, embedded.chat)
    nearly_greedy = Sampling(temperature=0.01, max_new_tokens=12, num_slots=1)
    drawn = engine.generate(
        [Prompt.from_text("What is the capital of France?")], nearly_greedy, num_responses=1, key=(0,)
    )
    assert "Paris" in drawn.texts[0]


def test_padding_ends_nothing(embedded: Loaded[LanguageModel]) -> None:
    """As the directory says it to whoever else reads it."""
    config, tokenizer = json.loads((locate("smollm2-135m") / "config.json").read_text()), embedded.chat.tokenizer
    named = [tokenizer.convert_ids_to_tokens(config[f"{kind}_token_id"]) for kind in ("eos", "pad")]
    assert named == [tokenizer.eos_token, tokenizer.pad_token] == ["<|im_end|>", "<|endoftext|>"]
    assert (embedded.chat.stop_id, embedded.chat.pad_id) == (config["eos_token_id"], config["pad_token_id"])


def test_what_llama_cpp_interleaves_comes_back_in_halves() -> None:
    """Undone by what llama.cpp does: halves of each head, woven into pairs."""
    torch.manual_seed(derive_seed("gguf"))
    ours = torch.randn(6 * 8, 5)
    woven = ours.reshape(6, 2, 4, 5).swapaxes(1, 2).reshape(48, 5)
    assert torch.equal(_halves(woven, 6), ours)


def test_a_tensor_of_another_family_is_refused() -> None:
    assert _name(Path("x"), "blk.3.attn_q.weight") == "model.layers.3.self_attn.q_proj.weight"
    with pytest.raises(ModelError, match=r"ssm_a"):
        _name(Path("x"), "blk.3.ssm_a")
