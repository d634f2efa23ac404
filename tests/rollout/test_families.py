"""Every family against transformers' own `generate`, forced to write what the local engine drew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.lm import small_families
from torch import Tensor

from palate.lm.decoder import Decoder
from palate.lm.foreign import Foreign
from palate.lm.sources.builtin import byte_tokenizer
from palate.lm.sources.zoo import load_language_model
from palate.recipe import Sampling
from palate.records import Prompt
from palate.rollout.local import LocalEngine

COMMON, SMALL = small_families.COMMON, small_families.SMALL
FAMILIES: dict[str, tuple[type, str, dict[str, Any]]] = {
    **{name: (Decoder, type_, SMALL | settings) for name, (type_, settings) in small_families.FAMILIES.items()},
    "olmo3": (Foreign, "olmo3", SMALL | {"sliding_window": 8}),
    "gpt2": (Foreign, "gpt2", COMMON | {"n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 256}),
}
PROMPTS = [Prompt.from_text(text) for text in ("Hi", "What is the longest prompt of them all?", "Name a bird.")]
TEMPERATURE, NEW_TOKENS, EACH = 0.8, 12, 2


@pytest.mark.parametrize("family", FAMILIES)
def test_generate_agrees_about_every_token(family: str, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, model_type, settings = FAMILIES[family]
    torch.manual_seed(1)
    auto: Any = AutoModelForCausalLM
    auto.from_config(AutoConfig.for_model(model_type, **settings)).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    loaded, peer = load_language_model(str(tmp_path), precision="fp32"), auto.from_pretrained(tmp_path)
    assert type(loaded.model.model) is kind, "the fast path computes what it knows, and only that"

    # fewer slots than responses: some start where another has ended
    sampling = Sampling(temperature=TEMPERATURE, max_new_tokens=NEW_TOKENS, num_slots=4)
    rollout = LocalEngine(loaded.model, loaded.chat).generate(PROMPTS, sampling, num_responses=EACH, key=("forced",))
    drawn = rollout.sequences
    assert int(drawn.mask.sum()) > len(PROMPTS) * EACH * NEW_TOKENS // 2
    for row, response in enumerate(drawn.responses()):
        length = int(drawn.prompt_lengths[row])
        expected = forced(peer, drawn.tokens[row, :length], torch.tensor(response))
        got = rollout.logprobs[row, length : length + len(response)]
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)


def forced(peer: Any, prompt: Tensor, response: Tensor) -> Tensor:
    """[T] the log-probability that `generate` gives each token of the response when it has to write it."""
    from transformers import LogitsProcessor, LogitsProcessorList

    class Force(LogitsProcessor):  # type: ignore[misc]
        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            only = torch.full_like(scores, -torch.inf)
            only[:, response[input_ids.shape[1] - len(prompt)]] = 0.0
            return only

    out = peer.generate(
        prompt[None],
        attention_mask=torch.ones_like(prompt[None]),
        do_sample=False,
        max_new_tokens=len(response),
        min_new_tokens=len(response),
        logits_processor=LogitsProcessorList([Force()]),
        output_logits=True,
        return_dict_in_generate=True,
    )
    written = out.sequences[0, len(prompt) :]
    assert torch.equal(written, response)
    logprobs = (torch.cat(out.logits) / TEMPERATURE).log_softmax(-1)
    return logprobs.gather(1, response[:, None])[:, 0]
