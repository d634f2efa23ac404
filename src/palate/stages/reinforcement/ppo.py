"""Proximal policy optimisation against a reward model, as InstructGPT did it.

The step is in `step.py`; here is what makes it PPO. Advantages come from a value model that started from the reward
model, token by token; the loss is clipped, so that one rollout serves for several updates. With `[pretraining]` the
language-model gradient on raw text is added before the same optimizer step (PPO-ptx).

Left out: an entropy bonus (the KL term already pays for entropy), early stopping of epochs on KL, shared policy and
value networks.

Schulman et al. 2017 (arXiv 1707.06347); Stiennon et al. 2020 (arXiv 2009.01325); Ouyang et al. 2022 (arXiv 2203.02155).
Run it: `palate ppo recipes/ppo.toml`.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from palate.lm.adapters import adapt, adapted, merge
from palate.lm.adapters import learn as learn_adapter
from palate.lm.model import Model, ScalarModel
from palate.lm.optim import Optimizer
from palate.lm.sources.zoo import load_scalar_model, locate
from palate.objectives.advantages import gae, token_weights, whiten
from palate.objectives.losses import policy_loss, value_loss
from palate.recipe import PPORecipe
from palate.rewards.heads import read_heads, value_units
from palate.rollout import engines
from palate.run.directory import Run
from palate.stages.common import finish_run, loading, spread, write_model
from palate.stages.reinforcement.actors import Actors, foretold, load_actors
from palate.stages.reinforcement.method import Critic, Method
from palate.stages.reinforcement.peak import peak_watch
from palate.stages.reinforcement.ptx import PretrainingGradient, load_text
from palate.stages.reinforcement.step import learn, minibatches, prompts_of_step
from palate.stages.reinforcement.watching import KLController


def train(recipe: PPORecipe, run: Run) -> None:
    """Improve ``recipe.model`` on its rewards and write it to ``run``."""
    recipe, asked = foretold(recipe, run, prompts_of_step, minibatches)
    with loading(recipe.cluster):
        actors = load_actors(recipe, asked, run)
        peak = peak_watch(recipe, actors, run)
        value_model = load_value_model(recipe, actors, run)
    spread(run, recipe.cluster, [*actors.models, value_model, *([] if peak is None else peak.models)])
    method = Method(
        baseline=Critic(
            model=value_model,
            optimizer=Optimizer(
                value_model, recipe.value_optimizer, recipe.steps * recipe.epochs * recipe.minibatches, name="value"
            ),
            advantages=partial(
                advantages_and_returns,
                gamma=recipe.gamma,
                gae_lambda=recipe.gae_lambda,
                whiten_rewards=recipe.whiten_rewards,
            ),
            loss=partial(value_loss, clip_range_value=recipe.clip_range_value or None),
        ),
        loss=partial(policy_loss, clip_range=recipe.clip_range),
        weights=token_weights,
        clip_range=recipe.clip_range,
    )
    learn(
        recipe,
        run,
        actors,
        engines.make_engine(recipe.engine, actors.policy, actors.chat),
        method,
        kl=KLController(recipe.kl_coef, target=recipe.kl_target, horizon=recipe.kl_horizon),
        value_warmup=recipe.value_warmup,
        other_gradient=pretraining_gradient(recipe, actors, run),
        peak=peak,
    )
    write_model(run, recipe, actors.loaded)
    told = {} if peak is None else peak.numbers
    finish_run(run, {"left_out": actors.left_out} | told, extra=None if peak is None else peak.describe)


def advantages_and_returns(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, gae_lambda: float, whiten_rewards: bool
) -> tuple[Tensor, Tensor]:
    """[B, T] each, by generalised advantage estimation; whitened over the whole rollout, never a part of it."""
    if whiten_rewards:
        rewards = whiten(rewards, mask, shift_mean=False)
    advantages, returns = gae(rewards, values, mask, gamma=gamma, gae_lambda=gae_lambda)
    return whiten(advantages, mask, shift_mean=True), returns


def load_value_model(recipe: PPORecipe, actors: Actors, run: Run) -> ScalarModel:
    """Started from the reward model, in its normalised units; with the adapter that it has, if adapters learn.

    Of several heads it has one: the mean of those that give scores.
    """
    name = recipe.value_model or actors.rewards.learned[0].loaded.name

    def settle(model: Model) -> None:
        arrange_value_model(model, recipe)
        model.join([actors.policy, *(source.model for source in actors.rewards.learned)])

    loaded = load_scalar_model(name, precision=recipe.precision, seed=recipe.seed_of("initial"), settle=settle)
    run.add_inputs({"value_model": loaded.weights})
    if loaded.chat.fingerprint != actors.chat.fingerprint:
        run.note(f"value model: {name} has another chat template than the policy; it learns the policy's")
    value_model = loaded.model
    value_model.average_heads(value_units(read_heads(locate(name), value_model.num_heads)))
    return value_model


def arrange_value_model(model: Model, recipe: PPORecipe) -> None:
    """What of it learns: its upper layers, the adapter that it has, or a new one."""
    if recipe.recompute_activations:
        model.model.recompute()
    frozen_layers = min(recipe.frozen_layers, model.model.shape.num_layers)
    if recipe.adapter is None:
        merge(model)
        model.freeze(frozen_layers)
        return
    model.freeze_all(frozen_layers)
    if adapted(model):  # its weights are then the others'; merged they would be its own
        learn_adapter(model)
    else:
        adapt(model, recipe.adapter, seed=recipe.seed_of("initial"))


def pretraining_gradient(recipe: PPORecipe, actors: Actors, run: Run) -> PretrainingGradient | None:
    """If the recipe has one."""
    settings = recipe.pretraining
    if settings is None:
        return None
    return PretrainingGradient(
        actors.policy,
        load_text(settings, actors.policy, actors.chat, run),
        coef=settings.coef,
        count=settings.sequences_per_step,
        max_tokens=recipe.microbatch_tokens,
        key=(recipe.seed_of("order"), recipe.stage),
    )
