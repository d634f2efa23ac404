"""What to do about a sampler that is not the trainer: measure, correct, and end a run in which they have parted.

The trainer says how likely the sampled tokens are; from there on those are the policy's log-probabilities, and each
token counts by what the trainer gives it over what the sampler gave it. Where the very network that trains has drawn
the responses there is nothing to do, and nothing is done.

Left out: weights of whole responses (they explode with length), and leaving out tokens that differ too much.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from palate.errors import TrainingError
from palate.lm.batch import per_token
from palate.lm.model import LanguageModel, Trunk
from palate.objectives.off_policy import truncated_weights
from palate.recipe import Engine
from palate.rollout.engine import Rollout
from palate.rollout.vllm import MOST_GAP
from palate.stages.reinforcement.watching import USUAL_CLIP_RANGE, agreement


@dataclass(frozen=True, slots=True, kw_only=True)
class OnPolicy:
    """A rollout as the trainer sees it.

    Attributes:
        rollout: its log-probabilities are the trainer's.
        weights: [B, T] what each token counts; [1, 1] where all count alike.
        metrics: how far sampler and trainer are apart.
    """

    rollout: Rollout
    weights: Tensor
    metrics: dict[str, float]


@torch.no_grad()
def seen_by_trainer(
    rollout: Rollout,
    policy: LanguageModel,
    trunk: Trunk | None,
    settings: Engine,
    *,
    max_tokens: int,
    step: int,
    clip_range: float = USUAL_CLIP_RANGE,
) -> OnPolicy:
    """The rollout with the log-probabilities that the policy itself gives its tokens, and what each of them counts.

    Args:
        policy: whose copies have drawn it, if copies have.
        trunk: of the rollout.
        settings: of what has drawn it; they say the most that a token counts.
        max_tokens: computed in one pass.
        step: the run's, for the error message.
        clip_range: of the ratio, for the metrics.

    Raises:
        TrainingError: sampler and trainer differ by more than rounding explains.
    """
    if not rollout.weights and not rollout.staleness:
        return OnPolicy(rollout=rollout, weights=torch.ones(1, 1, device=rollout.logprobs.device), metrics={})
    sequences, mask = rollout.sequences, rollout.sequences.mask
    likelihood = partial(policy.logprobs, temperature=rollout.temperature, trunk=trunk)
    logprobs = per_token(sequences, max_tokens, likelihood)
    log_ratio = (logprobs - rollout.logprobs)[mask].double()
    told = agreement(log_ratio, len(sequences), clip_range=clip_range)
    # older weights differ by what was learned since; servers are compared with them when they are given them
    most = math.inf if rollout.staleness else MOST_GAP.get(policy.model.dtype, max(MOST_GAP.values()))
    if not told["sampler/gap"] < most:  # a NaN is no agreement
        raise TrainingError(
            f"step {step}: servers and trainer differ by {told['sampler/gap']:.4f} nats a token about the same weights "
            f"(at most {most:g} is rounding in this precision): start the servers with `palate engine` and the run's "
            "precision (--dtype float32 for fp32, bfloat16 for bf16), and go on with --resume"
        )
    told |= {
        "sampler/truncated": float((log_ratio.exp() > settings.max_ratio).double().mean()),
        "sampler/retries": float(rollout.retries),
        "sampler/staleness": float(rollout.staleness),
    }
    weights = truncated_weights(logprobs, rollout.logprobs, mask, max_ratio=settings.max_ratio)
    return OnPolicy(rollout=replace(rollout, logprobs=logprobs), weights=weights, metrics=told)
