"""REINFORCE and its descendants: RLOO, GRPO, Dr. GRPO, DAPO, GSPO, CISPO. No value model.

The step is in `step.py`; here is what makes it one of these. The whole response is one action; its reward is the score
minus the price of diverging from the reference. Three choices make a method, and every one of them goes with every
other:

    baseline      what was to be expected of a response: the other responses to the prompt say it
    surrogate     what is clipped when one rollout serves for several updates: a token, a response, a weight
    denominator   what a long response counts against a short one

As it comes it is RLOO: each response against the mean of the others, nothing clipped, one update per rollout, a mean
over tokens. The papers' other choices are recipes: `recipes/grpo.toml`, `dr_grpo.toml`, `dapo.toml`, `gspo.toml`,
`cispo.toml`; docs/guides/ppo.md has the table.

Left out: DAPO's soft penalty on length (`truncation_score` is hard, a `length` reward soft), GSPO's variant by token.

Williams 1992; Kool et al. 2019 ("Buy 4 REINFORCE samples, get a baseline for free"); Ahmadian et al. 2024 (arXiv
2402.14740). Run it: `palate reinforce recipes/reinforce.toml`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor

from palate.objectives.advantages import (
    batch_relative,
    constant_weights,
    group_relative,
    leave_one_out,
    no_baseline,
    sequence_weights,
    token_weights,
)
from palate.objectives.losses import Metrics, policy_loss
from palate.objectives.surrogates import clipped_weight_loss, sequence_policy_loss
from palate.recipe import ReinforceRecipe
from palate.rollout import engines
from palate.run.directory import Run
from palate.stages.common import finish_run, loading, spread, write_model
from palate.stages.reinforcement.actors import foretold, load_actors
from palate.stages.reinforcement.method import Baseline, Method, ResponseWeights
from palate.stages.reinforcement.peak import peak_watch
from palate.stages.reinforcement.step import learn, minibatches, prompts_of_step
from palate.stages.reinforcement.watching import KLController

BASELINES: Mapping[str, Baseline] = {
    "none": no_baseline,
    "batch_mean": batch_relative,
    "leave_one_out": leave_one_out,
    "group_mean": partial(group_relative, scale=False),
    "group_normalized": partial(group_relative, scale=True),
}
SURROGATES: Mapping[str, Callable[..., tuple[Tensor, Metrics]]] = {
    "token": policy_loss,
    "sequence": sequence_policy_loss,
    "weight": clipped_weight_loss,
}


def train(recipe: ReinforceRecipe, run: Run) -> None:
    """Improve ``recipe.model`` on its rewards and write it to ``run``."""
    recipe, asked = foretold(recipe, run, prompts_of_step, minibatches)
    with loading(recipe.cluster):
        actors = load_actors(recipe, asked, run)
        peak = peak_watch(recipe, actors, run)
    spread(run, recipe.cluster, [*actors.models, *([] if peak is None else peak.models)])
    learn(
        recipe,
        run,
        actors,
        engines.make_engine(recipe.engine, actors.policy, actors.chat),
        method(recipe),
        kl=KLController(recipe.kl_coef),
        max_resamples=recipe.max_resamples,
        peak=peak,
    )
    write_model(run, recipe, actors.loaded)
    told = {} if peak is None else peak.numbers
    finish_run(run, {"left_out": actors.left_out} | told, extra=None if peak is None else peak.describe)


def method(recipe: ReinforceRecipe) -> Method:
    """What the recipe puts together."""
    clip_range = math.inf if recipe.clip_range is None else recipe.clip_range
    weights: Mapping[str, ResponseWeights] = {
        "tokens": token_weights,
        "sequences": sequence_weights,
        "constant": partial(constant_weights, max_new_tokens=recipe.sampling.max_new_tokens),
    }
    return Method(
        baseline=BASELINES[recipe.baseline],
        loss=partial(SURROGATES[recipe.surrogate], clip_range=clip_range, clip_range_high=recipe.clip_range_high),
        weights=weights[recipe.denominator],
        kl_loss_coef=recipe.kl_loss_coef,
        clip_range=clip_range,
    )
