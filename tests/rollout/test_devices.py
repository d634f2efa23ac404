"""The device that is at hand does as the processor does; where that is the processor, loading alone is tested.

`benchmarks/gpu.sh` runs this on a GPU.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.lm.small_families import written

from palate.lm.batch import Sequences
from palate.lm.decoder import Decoder
from palate.lm.sources.zoo import default_device, load_language_model
from palate.recipe import Sampling
from palate.records import Prompt
from palate.rollout.local import LocalEngine

PROMPTS = [Prompt.from_text(text) for text in ("Hi", "Name a bird that cannot fly.", "Tell me about rivers, briefly.")]
DEVICES = ("cpu", default_device())


@pytest.mark.parametrize("family", ["llama 3.1", "qwen3", "gemma2"])
def test_probabilities_gradients_and_draws(family: str, tmp_path: Path) -> None:
    """In fp32; the responses of one device are asked about on both."""
    written(family, tmp_path)
    models = [load_language_model(str(tmp_path), precision="fp32", device=device) for device in DEVICES]
    rollouts = [
        LocalEngine(loaded.model, loaded.chat).generate(
            PROMPTS, Sampling(max_new_tokens=12), num_responses=3, key=("devices",)
        )
        for loaded in models
    ]
    sequences: Sequences = rollouts[0].sequences
    found, gradients = [], []
    for loaded, rollout, device in zip(models, rollouts, DEVICES, strict=True):
        assert isinstance(loaded.model.model, Decoder)
        assert loaded.model.device.type == rollout.logprobs.device.type == device
        logprobs = loaded.model.logprobs(sequences.to(loaded.model.device), temperature=rollout.temperature)
        (logprobs * (1 - 2 * (torch.arange(len(logprobs), device=device) % 2))[:, None]).sum().backward()
        found.append(logprobs.detach().cpu())
        grads = [p.grad.flatten().cpu() for p in loaded.model.parameters() if p.grad is not None]
        gradients.append(torch.cat(grads))
    assert torch.equal(rollouts[1].sequences.tokens.cpu(), sequences.tokens.cpu())
    torch.testing.assert_close(found[1], found[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(rollouts[1].logprobs.cpu(), found[0], atol=1e-4, rtol=0)
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.99999
