"""What a term of a reward gives, worked out beside the stage, and rows of the keys of one that is learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from tests.stages.effects import judges
from tests.stages.effects.rows import Effect, Row
from torch import Tensor

from palate.recipe import Reward
from palate.rewards.learned import LearnedReward
from palate.rollout.engine import Rollout
from palate.words import count_words


def scores_of(term: Reward, rollout: Rollout) -> Tensor:
    """[B] what one term of a reward gives."""
    if term.models:
        scores = of_an_ensemble(term, rollout)
    elif term.function:
        scores = torch.tensor(getattr(judges, term.function.partition(":")[2])([], rollout.texts))
    else:
        assert term.length is not None
        scores = torch.tensor([-max(0.0, count_words(text) - term.length) / 10 for text in rollout.texts])
    return term.weight * scores


def members_of(term: Reward, rollout: Rollout) -> Any:
    """[M, B] what the heads of the objective that is named say, of every model."""
    members = []
    for name in term.models:
        model = LearnedReward(name, precision="fp32")
        said = model.by_head(rollout.prompts, rollout.texts, rollout.sampled_tokens()).numpy()
        named = term.objective or model.heads[0].objective
        members += [column for column, head in zip(said.T, model.heads, strict=True) if head.objective == named]
    return np.stack(members)


def of_an_ensemble(term: Reward, rollout: Rollout) -> Tensor:
    """[B] Coste et al. 2023, from its members."""
    of_members = members_of(term, rollout)
    return torch.from_numpy(
        {
            "mean": of_members.mean(0),
            "min": of_members.min(0),
            "mean_minus_std": of_members.mean(0) - term.uncertainty_coef * of_members.std(0),
            "mean_minus_variance": of_members.mean(0) - term.uncertainty_coef * of_members.var(0),
        }[term.aggregation]
    )


def learned_terms(effect: Effect, place: str, more: Mapping[str, Any] | None = None) -> list[Row]:
    """Keys of a term that is learned, which do what they say by one effect; ``place`` is where a term stands."""
    given = {f"{place}function": None, **(more or {})}
    several = given | {f"{place}model": "$several", f"{place}objective": "good"}
    cautious = several | {f"{place}aggregation": "mean_minus_std"}
    return [
        Row("ensemble", (["$scorer", "$calibrated"], ["$two_heads", "$zero"]), effect, given),
        Row("objective", ("good", "made_up"), effect, several),
        Row("aggregation", ("min", "mean_minus_variance"), effect, several),
        Row("uncertainty_coef", (0.0, 3.0), effect, cautious),
    ]
