"""Losses and gradients of the methods that TRL's GRPO trainer knows, equal to its own on the same tensors.

TRL is no dependency: where it is not installed this file is skipped. Only its loss is asked, of a trainer that was
never built.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from palate.objectives.advantages import constant_weights, sequence_weights, token_weights
from palate.objectives.losses import policy_loss
from palate.objectives.surrogates import clipped_weight_loss, kl_loss, sequence_policy_loss

pytest.importorskip("trl")

B, T, MAX_NEW_TOKENS = 6, 5, 9
CASES: dict[str, dict[str, Any]] = {
    "PPO's clipping, a mean over tokens": {"loss_type": "bnpo", "low": 0.2, "high": 0.2},
    "GRPO": {"loss_type": "grpo", "low": 0.2, "high": 0.2, "beta": 0.04},
    "Dr. GRPO": {"loss_type": "dr_grpo", "low": 0.2, "high": 0.2},
    "Dr. GRPO with a KL": {"loss_type": "dr_grpo", "low": 0.2, "high": 0.2, "beta": 0.3},
    "DAPO": {"loss_type": "dapo", "low": 0.2, "high": 0.28},
    "DAPO with a KL": {"loss_type": "dapo", "low": 0.2, "high": 0.28, "beta": 0.1},
    "GSPO": {"loss_type": "grpo", "level": "sequence", "low": 0.03, "high": 0.04},
    "CISPO": {"loss_type": "cispo", "low": 1.0, "high": 0.5},
}


def batch(seed: int) -> dict[str, Tensor]:
    """Responses of one to five tokens, far enough from where they were sampled that much is clipped."""
    generator = torch.Generator().manual_seed(seed)
    new, noise, other = torch.randn(3, B, T, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, T + 1, (B,), generator=generator)
    return {
        "new": new - 2,
        "old": new - 2 + 0.3 * noise,
        "ref": new - 2 + 0.5 * other,
        "advantages": torch.randn(B, generator=generator, dtype=torch.float64),
        "mask": torch.arange(T) < lengths[:, None],
    }


def theirs(data: dict[str, Tensor], new: Tensor, case: dict[str, Any]) -> Tensor:
    """The loss of a trainer that has nothing but what its loss reads."""
    from trl import GRPOTrainer

    trainer: Any = object.__new__(GRPOTrainer)
    cispo = case["loss_type"] == "cispo"
    vars(trainer).update(
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level=case.get("level", "token"),
        beta=case.get("beta", 0.0),
        loss_type=case["loss_type"],
        epsilon_low=case["low"],
        epsilon_high=case["high"] + cispo,  # there it is the largest weight itself
        use_vllm=False,
        max_completion_length=MAX_NEW_TOKENS,
        current_gradient_accumulation_steps=1,
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *_, **__: (new, torch.zeros_like(new), None),
    )
    ids = torch.zeros(B, T, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": torch.ones_like(ids[:, :1]),
        "completion_ids": ids,
        "completion_mask": data["mask"].long(),
        "advantages": data["advantages"],
        "old_per_token_logps": data["old"],
        "ref_per_token_logps": data["ref"],
        "num_items_in_batch": data["mask"].sum(),
    }
    loss: Tensor = trainer._compute_loss(None, inputs)
    return loss


def ours(data: dict[str, Tensor], new: Tensor, case: dict[str, Any]) -> Tensor:
    """The same, composed."""
    mask, lengths = data["mask"], data["mask"].sum(1)
    weights = {
        "grpo": sequence_weights(lengths),
        "dr_grpo": constant_weights(lengths, max_new_tokens=MAX_NEW_TOKENS),
    }.get(case["loss_type"], token_weights(lengths))[:, None].double()
    loss_of: Any = clipped_weight_loss if case["loss_type"] == "cispo" else policy_loss
    if case.get("level") == "sequence":
        loss_of = sequence_policy_loss
    count = int(mask.sum())
    loss, _ = loss_of(
        new,
        data["old"],
        (weights * data["advantages"][:, None]).expand(mask.shape),
        mask,
        clip_range=case["low"],
        clip_range_high=case["high"],
        denominator=count,
    )
    divergence, _ = kl_loss(new, data["ref"], mask, weights=weights, denominator=count)
    total: Tensor = loss + case.get("beta", 0.0) * divergence
    return total


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_equal(name: str, seed: int) -> None:
    data, case = batch(seed), CASES[name]
    found = []
    for loss_of in (theirs, ours):
        new = data["new"].clone().requires_grad_()
        loss = loss_of(data, new, case)
        (gradient,) = torch.autograd.grad(loss, new)
        found.append((loss.detach(), gradient))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-6, atol=1e-8)
    if case["loss_type"] != "cispo" and not case.get("beta"):
        assert (found[0][1][data["mask"]] == 0).any()  # something was clipped
