"""The reward of a recipe: its terms, summed with their weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from palate.lm.sources.zoo import Precision, Settle
from palate.objectives.aggregation import spread
from palate.recipe import Reward
from palate.records import Prompt
from palate.rewards.ensemble import ByModel, EnsembleReward
from palate.rewards.learned import MAX_TOKENS, LearnedReward
from palate.rewards.rules import FunctionReward, LengthReward, VerifiedReward
from palate.rewards.verifiers.verdict import Verdict
from palate.rollout.engine import SampledTokens
from palate.run.world import world
from palate.scores import one_number_each


class RewardSource(Protocol):
    """Anything that scores responses; a user's own function is one behind `FunctionReward`."""

    def __call__(
        self, prompts: Sequence[Prompt], responses: Sequence[str], tokens: SampledTokens | None = None
    ) -> Tensor:
        """[B] scores of what the responses say; ``tokens`` are what they were made of, if that is known."""
        ...


Source: TypeAlias = EnsembleReward | FunctionReward | LengthReward | VerifiedReward


def _source(term: Reward, models: Mapping[str, LearnedReward]) -> Source:
    if term.models:
        return EnsembleReward(term, models)
    if term.function:
        return FunctionReward(term.function)
    if term.verifier:
        return VerifiedReward(term.verifier)
    assert term.length is not None, "a term of a valid recipe is a model, a function, a verifier or a length"
    return LengthReward(term.length)


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedScores:
    """What a mix gave.

    Attributes:
        total: [B].
        terms: by name, [B] each: what it was added up from, weights applied.
        spread: [B] of the members of the ensembles in it, each times the size of its weight; None if there is none.
        verdicts: of the terms that check, by name, [B] each: without their weights, and with their reasons.
    """

    total: Tensor
    terms: Mapping[str, Tensor]
    spread: Tensor | None
    verdicts: Mapping[str, Sequence[Verdict]] = field(default_factory=dict)


class Mix:
    """A weighted sum of rewards. A model that several terms name is computed once.

    Args:
        max_tokens: that a model computes in one pass.
        settle: what is done with each model before it is put on its device.

    Attributes:
        sources: in the recipe's order.
        names: of the terms, all different: an objective, or else a model, a function, a kind of verifier, or
            "length".
        learned: the models in it.
    """

    def __init__(
        self,
        terms: Sequence[Reward],
        *,
        precision: Precision = "auto",
        max_tokens: int = MAX_TOKENS,
        settle: Settle | None = None,
    ) -> None:
        models = {
            name: LearnedReward(name, precision=precision, max_tokens=max_tokens, settle=settle)
            for name in dict.fromkeys(name for term in terms for name in term.models)
        }
        self.weights = [term.weight for term in terms]
        self.sources = [_source(term, models) for term in terms]
        self.names = names_of(terms)
        self.learned = list(models.values())

    def __call__(
        self, prompts: Sequence[Prompt], responses: Sequence[str], tokens: SampledTokens | None = None
    ) -> Tensor:
        """[B] on the CPU, where the text is; raises as `scored` does."""
        return self.scored(prompts, responses, tokens).total

    def scored(
        self, prompts: Sequence[Prompt], responses: Sequence[str], tokens: SampledTokens | None = None
    ) -> MixedScores:
        """The sum on the CPU, where the text is, with what it was made of.

        Raises:
            RewardError: a term gave what is no score, or their sum is none.
        """
        by_model = {model.loaded.name: model.by_head(prompts, responses, tokens).cpu() for model in self.learned}
        return world().once(lambda: self._mixed(by_model, prompts, responses), "rewards")

    def _mixed(self, by_model: ByModel, prompts: Sequence[Prompt], responses: Sequence[str]) -> MixedScores:
        """Functions and verifiers are somebody's own code: asked twice they may answer differently."""
        terms: list[Tensor] = []
        spreads: list[Tensor] = []
        verdicts: dict[str, Sequence[Verdict]] = {}
        for name, weight, source in zip(self.names, self.weights, self.sources, strict=True):
            if isinstance(source, EnsembleReward):
                members = source.members(by_model)
                terms.append(weight * source.aggregate(members))
                spreads += [abs(weight) * spread(members)] if source.num_members > 1 else []
            elif isinstance(source, VerifiedReward):
                verdicts[name] = source.verdicts(prompts, responses)
                terms.append(weight * torch.tensor([verdict.score for verdict in verdicts[name]]))
            else:
                terms.append(weight * source(prompts, responses))
        total = torch.stack(terms).sum(0)
        one_number_each("the weighted sum of the rewards", total, responses, advice="give the terms smaller weights")
        return MixedScores(
            total=total,
            terms=dict(zip(self.names, terms, strict=True)),
            spread=torch.stack(spreads).sum(0) if spreads else None,
            verdicts=verdicts,
        )

    @property
    def hashes(self) -> dict[str, str]:
        """Those of the weights of every model in it, by the model's name: for a run's lineage."""
        return {model.loaded.name: model.loaded.weights for model in self.learned}

    def parts(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> dict[str, Tensor]:
        """What the scores are made of, by name, [B] each: the weighted parts of a function that stands alone and says.

        Nothing for any other mix.
        """
        if len(self.sources) != 1 or not isinstance(self.sources[0], FunctionReward):
            return {}
        return {name: self.weights[0] * part for name, part in self.sources[0].parts(prompts, responses).items()}


def _name(term: Reward) -> str:
    if term.verifier:
        return term.verifier.kind
    if term.objective or not term.models:
        return term.objective or term.function.rpartition(":")[2] or "length"
    path = Path(term.models[0])
    return path.parent.name if path.name == "model" else path.name


def names_of(terms: Sequence[Reward]) -> list[str]:
    """What to call each term; those that would be called alike are numbered."""
    names = list(map(_name, terms))
    often, met = Counter(names), Counter[str]()
    found = []
    for name in names:
        met[name] += 1
        found.append(f"{name}_{met[name]}" if often[name] > 1 else name)
    return found
