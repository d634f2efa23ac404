"""bf16 products on the real model: what a policy is trained with is what was sampled, up to little rounding.

`benchmarks/half_precision.py` measures the same on more responses.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from palate.demo.prompts import demo_prompts
from palate.lm.adapters import adapt, adapted
from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import Loaded, load_language_model
from palate.recipe import Adapter, Sampling
from palate.rollout.engine import Rollout
from palate.rollout.local import LocalEngine
from palate.stages.reinforcement.watching import check_on_policy

FROZEN_LAYERS = 24


def embedded(precision: str) -> Loaded[LanguageModel]:
    loaded = load_language_model("smollm2-135m", precision=precision)  # type: ignore[arg-type]
    loaded.model.freeze(FROZEN_LAYERS)
    return loaded


@pytest.fixture(scope="module")
def half() -> Loaded[LanguageModel]:
    return embedded("bf16")


@pytest.fixture(scope="module")
def rollout(half: Loaded[LanguageModel]) -> Rollout:
    engine = LocalEngine(half.model, half.chat)
    prompts = demo_prompts(held_out=False)[:3]
    return engine.generate(prompts, Sampling(max_new_tokens=12), num_responses=4, key=("half",))


def test_sampler_and_trainer_agree(half: Loaded[LanguageModel], rollout: Rollout) -> None:
    sequences = rollout.sequences
    with torch.no_grad():
        logprobs = half.model.logprobs(sequences, temperature=rollout.temperature)
    log_ratio = (logprobs - rollout.logprobs)[sequences.mask]
    told = check_on_policy([log_ratio], len(sequences), clip_range=0.2, step=0)
    assert told["sampler/gap"] < 0.01
    assert told["sampler/kl_k3"] < 0.01
    assert told["sampler/outside_clip_range"] == 0.0


def test_they_agree_with_adapters_too() -> None:
    loaded = load_language_model("smollm2-135m", precision="bf16")
    loaded.model.freeze_all(FROZEN_LAYERS)
    adapt(loaded.model, Adapter(), seed=1)
    numbers = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for adapter in adapted(loaded.model).values():
            adapter.lora_B.copy_(0.02 * torch.randn(adapter.lora_B.shape, generator=numbers))
    engine = LocalEngine(loaded.model, loaded.chat)
    prompts = demo_prompts(held_out=False)[:2]
    rollout = engine.generate(prompts, Sampling(max_new_tokens=12), num_responses=4, key=("half",))
    test_sampler_and_trainer_agree(loaded, rollout)


def gradient(model: LanguageModel, rollout: Rollout) -> Tensor:
    """Of the log-probabilities, every other response counted down."""
    sequences = rollout.sequences
    logprobs = model.logprobs(sequences, temperature=rollout.temperature)
    ((1 - 2 * (sequences.rows % 2))[:, None] * logprobs).sum().backward()
    return torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])


def test_the_gradient_points_where_that_of_fp32_does(half: Loaded[LanguageModel], rollout: Rollout) -> None:
    full, rough = (gradient(loaded.model, rollout) for loaded in (embedded("fp32"), half))
    assert F.cosine_similarity(full, rough, dim=0) > 0.999
    assert F.cosine_similarity(full, rough, dim=0) < 0.999999, "that was no half precision"
