"""What a term of a reward gives, worked out beside the stage, and rows of the keys of one that is learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
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
    elif term.verifier:
        scores = torch.tensor([BY_HAND[term.verifier.kind](text) for text in rollout.texts])
    else:
        assert term.length is not None
        scores = torch.tensor([-max(0.0, count_words(text) - term.length) / 10 for text in rollout.texts])
    return term.weight * scores


SAID = ("That makes 18", '"the lamp is lit" at 17', "18 in all", "It is 18", "about 18")
BY_HAND: Mapping[str, Callable[[str], float]] = {
    "number": lambda text: float("18" in text),
    "quotes": lambda text: float('"the lamp is lit"' in text),
}
"""What a verifier gives for what is said; see `tells`."""


def tells(rollout: Rollout) -> Rollout:
    """What was said is one of a few things, by what was really drawn; and something is known about every prompt."""
    tags = {"known": "the lamp is lit, 18", "answer": "17"}
    return replace(
        rollout,
        prompts=tuple(prompt.model_copy(update={"tags": tags}) for prompt in rollout.prompts),
        texts=tuple(SAID[sum(map(ord, text)) % len(SAID)] for text in rollout.texts),
    )


def verifying(effect: Effect, given: Mapping[str, Any]) -> Row:
    """The one key of a verifier that tells whether a stage has it judge; `verifiers.py` has them all."""
    place = next(key for key in given if key.endswith("function")).removesuffix("function")
    return Row("verifier.kind", ("number", "quotes"), effect, {**given, f"{place}verifier.tag": "known"}, spoil=tells)


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
