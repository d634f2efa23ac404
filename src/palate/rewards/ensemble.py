"""One score from all the heads that reward models have for one objective.

The members of an ensemble are the heads of one model, or several models of other seeds, or both: an ensemble of models
costs a pass each and disagrees more, since their trunks differ too (Coste et al. 2023; Eisenstein et al. 2023,
arXiv 2312.09244).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from palate.errors import RecipeError
from palate.objectives.aggregation import ensemble_mean, mean_minus_std, mean_minus_variance, worst_case
from palate.recipe import Reward
from palate.rewards.heads import places_of
from palate.rewards.learned import LearnedReward

ByModel = Mapping[str, Tensor]
"""[B, H] what the heads of every model say, by its name."""


def aggregate(aggregation: str, coef: float) -> Callable[[Tensor], Tensor]:
    """[B, M] -> [B], as a recipe calls it."""
    known: dict[str, Callable[[Tensor], Tensor]] = {
        "mean": ensemble_mean,
        "min": worst_case,
        "mean_minus_std": partial(mean_minus_std, coef=coef),
        "mean_minus_variance": partial(mean_minus_variance, coef=coef),
    }
    return known[aggregation]


class EnsembleReward:
    """A term of the reward that is learned.

    Args:
        term: of the recipe.
        models: those that it names, by name.

    Raises:
        RecipeError: a model has no such objective, or there is nothing to aggregate.
    """

    def __init__(self, term: Reward, models: Mapping[str, LearnedReward]) -> None:
        self.models = {name: models[name] for name in term.models}
        self.places = {name: places_of(model.heads, term.objective, name) for name, model in self.models.items()}
        self.aggregate = aggregate(term.aggregation, term.uncertainty_coef)
        heads = [self.models[name].heads[place] for name, places in self.places.items() for place in places]
        self.num_members = len(heads)
        called = " and ".join(self.models)
        if len({bool(head.flag) for head in heads}) > 1:
            raise RecipeError(f"{called}: the objective is a flag in one and a score in another: name them one by one")
        if self.num_members == 1 and term.aggregation != "mean":
            raise RecipeError(
                f"aggregation = {term.aggregation!r} is for ensembles, and {called} has one head: train it with heads, "
                "or name several models with ensemble"
            )

    def members(self, by_model: ByModel) -> Tensor:
        """[B, M] what each member says."""
        return torch.cat([by_model[name][:, places] for name, places in self.places.items()], 1)
