"""One reinforcement step, from prompts to new weights: all that PPO, RLOO, GRPO and their relatives have in common.

    1. sample      the policy answers prompts                      rollout/
    2. score       every response gets a number                    rewards/
    3. compare     how likely would the reference have said it     lm/
    4. advantages  was it better than was to be expected           objectives/advantages.py
    5. update      make what was better more likely                objectives/losses.py, objectives/surrogates.py

A `Method` is an advantage function and a loss: `ppo.py` and `reinforce.py` put theirs together and call `learn`. What
was to be expected of a response is said by the other responses (a baseline), or by a value model that learns beside the
policy (a critic). Whoever knows one of the methods knows all of them.

Shapes: B = P * K responses, K to each of P prompts, side by side; T tokens of prompt + response; every [B, T] tensor
obeys the alignment rule. Denominators are those of the whole optimizer step, so that microbatches add up.

Where another engine samples, its log-probabilities give way to the trainer's and tokens count by the ratio of the two
(`mismatch.py`). When sampler and trainer disagree about the same weights by more than rounding, the run ends.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from palate.lm.batch import Sequences, per_token
from palate.lm.model import LanguageModel, Model, Trunk
from palate.lm.optim import Optimizer
from palate.objectives.advantages import explained_variance, shape_rewards
from palate.objectives.surrogates import kl_loss
from palate.randomness import permutation
from palate.recipe import RLRecipe
from palate.records import Prompt
from palate.rewards.mix import Mix, MixedScores
from palate.rollout.engine import Rollout, RolloutEngine
from palate.run.checkpoints import Stateful
from palate.run.directory import Run
from palate.run.world import world
from palate.stages.common import combined, floats, make_room
from palate.stages.reinforcement.actors import Actors
from palate.stages.reinforcement.ahead import Drawing, OneStepAhead, StepByStep
from palate.stages.reinforcement.method import Critic, Experience, Method
from palate.stages.reinforcement.mismatch import seen_by_trainer
from palate.stages.reinforcement.peak import PeakWatch
from palate.stages.reinforcement.resampling import Generate, resampled
from palate.stages.reinforcement.watching import (
    KLController,
    Watch,
    check_on_policy,
    mean_of_updates,
    measure,
    measure_terms,
    sample_rows,
    token_credit,
)

OtherGradient: TypeAlias = Callable[[int, int, int], dict[str, float]]
"""(step, epoch, minibatch) -> metrics: adds a gradient of its own to the policy's before the optimizer's step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A rollout and what its responses earn.

    Attributes:
        trunk: the frozen layers' hidden states, for whoever shares them; None when nothing is frozen.
        scores: [B] of the reward, the truncation rule applied.
        scored: what they were made of, for each round of sampling; there are several after resampling.
        weights: [B, T] what each token counts; [1, 1] where all count alike.
    """

    rollout: Rollout
    trunk: Trunk | None
    scores: Tensor
    scored: Sequence[MixedScores]
    weights: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """Who takes part in every step, and how.

    Attributes:
        optimizer: of the policy.
        generate: K responses to each of some prompts.
        kl: the price of divergence in the reward.
        watch: ends a run that has gone wrong.
        value_warmup, max_resamples, other_gradient, peak: as for `learn`.
    """

    recipe: RLRecipe
    actors: Actors
    method: Method
    optimizer: Optimizer
    generate: Generate
    kl: KLController
    watch: Watch
    value_warmup: int
    max_resamples: int
    other_gradient: OtherGradient | None
    peak: PeakWatch | None

    @property
    def critic(self) -> Critic | None:
        """The value model, if the method has one."""
        return self.method.baseline if isinstance(self.method.baseline, Critic) else None

    @property
    def models(self) -> list[Model]:
        """All that hold weights."""
        critic, peak = self.critic, self.peak
        return [
            *self.actors.models,
            *([] if critic is None else [critic.model]),
            *([] if peak is None else peak.models),
        ]

    @property
    def order(self) -> tuple[int | str, ...]:
        """The key of all that is shuffled."""
        return self.recipe.seed_of("order"), self.recipe.stage

    @property
    def sampling(self) -> tuple[int | str, ...]:
        """The key of all that is drawn."""
        return self.recipe.seed_of("sampling"), self.recipe.stage

    def judge(self, step: int, rollout: Rollout, seconds: dict[str, float]) -> tuple[Judged, dict[str, float]]:
        """2: what the responses earn, as the trainer sees them; prompts that teach nothing give way, if asked for."""
        policy, max_tokens = self.actors.policy, self.recipe.microbatch_tokens
        judge = partial(score, self.actors.rewards, truncation_score=self.recipe.truncation_score)
        with clocked(seconds, "time/score_s"):
            trunk = policy.trunk(rollout.sequences, max_tokens=max_tokens)
            scores, mixed = judge(rollout, trunk)
        scored, metrics = [mixed], {"data/left_out": float(self.actors.left_out)}
        if self.max_resamples:
            with clocked(seconds, "time/rollout_s"):
                again = resampled(
                    rollout,
                    scores,
                    self.actors.prompts,
                    self.generate,
                    judge,
                    most=self.max_resamples,
                    order=(*self.order, step),
                    sampling=(*self.sampling, step),
                )
                rollout, scores, scored = again.rollout, again.scores, [mixed, *again.scored]
                if again.replaced:
                    trunk = policy.trunk(rollout.sequences, max_tokens=max_tokens)
            metrics["objective/groups_resampled"] = float(again.replaced)
        with clocked(seconds, "time/score_s"):
            seen = seen_by_trainer(
                rollout,
                policy,
                trunk,
                self.recipe.engine,
                max_tokens=max_tokens,
                step=step,
                clip_range=self.method.clip_range_to_watch,
            )
        judged = Judged(rollout=seen.rollout, trunk=trunk, scores=scores, scored=scored, weights=seen.weights)
        return judged, metrics | seen.metrics

    def compare(self, step: int, judged: Judged) -> tuple[Tensor, dict[str, float]]:
        """3: [B, T] how likely the reference would have been to say it; ends a run that has gone wrong."""
        rollout, trunk = judged.rollout, judged.trunk
        likelihood = partial(self.actors.reference.logprobs, temperature=rollout.temperature, trunk=trunk)
        ref_logprobs = per_token(rollout.sequences, self.recipe.microbatch_tokens, likelihood)
        metrics = measure(rollout, judged.scores, ref_logprobs) | measure_terms(judged.scored)
        self.watch.check(step, metrics)
        if self.peak is not None:
            metrics |= self.peak.see(step, rollout, judged.scores, judged.scored, trunk, metrics)
        return ref_logprobs, metrics

    def appraise(self, judged: Judged, ref_logprobs: Tensor) -> tuple[Experience, dict[str, float]]:
        """4: how much better each token was than was to be expected."""
        rollout, trunk, sequences = judged.rollout, judged.trunk, judged.rollout.sequences
        mask, kl_coef = sequences.mask, self.kl.kl_coef
        rewards = shape_rewards(judged.scores, rollout.logprobs, ref_logprobs, mask, kl_coef=kl_coef)
        metrics = {"objective/reward": float(rewards.sum(1).mean()), "objective/kl_coef": kl_coef}
        values = returns = None
        if isinstance(self.method.baseline, Critic):
            critic = self.method.baseline
            values = per_token(sequences, self.recipe.microbatch_tokens, partial(critic.model.values, trunk=trunk))
            advantages, returns = critic.advantages(rewards, values, mask)
            metrics |= explained(values, returns, mask)
        else:
            advantages = self.method.baseline(rewards.sum(1), sequences.group_ids)[:, None].expand(mask.shape)
        experience = Experience(
            rollout=rollout,
            trunk=trunk,
            scores=judged.scores,
            ref_logprobs=ref_logprobs,
            rewards=rewards,
            advantages=advantages * judged.weights,
            values=values,
            returns=returns,
        )
        return experience, metrics

    def update(self, step: int, experience: Experience) -> dict[str, float]:
        """5: make what was better more likely, and the critic foretell it; several times over the same experience."""
        recipe, policy, critic, models = self.recipe, self.actors.policy, self.critic, self.models
        max_tokens, clip_range = recipe.microbatch_tokens, self.method.clip_range_to_watch
        updates: list[tuple[int, dict[str, float]]] = []
        for epoch in range(recipe.epochs):
            key = (*self.order, "minibatches", step, epoch)
            for number, minibatch in enumerate(minibatches(experience.rollout.sequences, recipe.minibatches, key=key)):
                numbers: dict[str, float] = {}
                if step >= self.value_warmup:
                    make_room(policy, experience.trunk, models)
                    numbers, log_ratios = add_gradients(
                        policy, self.method, experience, minibatch, max_tokens=max_tokens
                    )
                    if epoch == number == 0:
                        numbers |= check_on_policy(log_ratios, len(minibatch), clip_range=clip_range, step=step)
                    numbers |= {} if self.other_gradient is None else self.other_gradient(step, epoch, number)
                    numbers |= self.optimizer.step(step)
                if critic is not None:  # only now, so that the gradients of one model alone are in memory
                    make_room(critic.model, experience.trunk, models)
                    numbers |= add_value_gradients(critic, experience, minibatch, max_tokens=max_tokens)
                    numbers |= critic.optimizer.step(step)
                updates.append((int(minibatch.mask.sum()), numbers))
        return mean_of_updates(updates)


def learn(
    recipe: RLRecipe,
    run: Run,
    actors: Actors,
    engine: RolloutEngine,
    method: Method,
    *,
    kl: KLController,
    value_warmup: int = 0,
    max_resamples: int = 0,
    other_gradient: OtherGradient | None = None,
    peak: PeakWatch | None = None,
) -> None:
    """Improve the policy on its rewards, step by step.

    Args:
        engine: samples; it is given the policy's weights before every rollout.
        kl: the price of divergence in the reward.
        value_warmup: first steps in which only the critic learns.
        max_resamples: how often prompts whose responses all scored the same give way to others.
        other_gradient: what the policy learns from besides.
        peak: looks for signs of over-optimisation, if that was asked for.

    Raises:
        TrainingError: sampler and trainer disagree, or the run has gone wrong for several steps.
    """
    num_updates = (recipe.steps - value_warmup) * recipe.epochs * recipe.minibatches
    learner = Learner(
        recipe=recipe,
        actors=actors,
        method=method,
        optimizer=Optimizer(actors.policy, recipe.optimizer, num_updates, name="policy"),
        generate=partial(engine.generate, sampling=recipe.sampling, num_responses=recipe.responses_per_prompt),
        kl=kl,
        watch=Watch(max_negative_kl=recipe.max_negative_kl, min_entropy=recipe.min_entropy),
        value_warmup=value_warmup,
        max_resamples=max_resamples,
        other_gradient=other_gradient,
        peak=peak,
    )
    source = source_of_rollouts(learner, engine)
    state = kept(learner, source)
    for step in run.steps(recipe.steps, every=recipe.checkpoint_every, keep=recipe.keep_checkpoints, state=state):
        begun, seconds = time.perf_counter(), defaultdict[str, float](float)
        with clocked(seconds, "time/rollout_s"):
            rollout = source.rollout(step)
        judged, metrics = learner.judge(step, rollout, seconds)
        with clocked(seconds, "time/score_s"):
            ref_logprobs, compared = learner.compare(step, judged)
        experience, appraised = learner.appraise(judged, ref_logprobs)
        metrics |= compared | appraised | learner.update(step, experience)
        kl.update(metrics["objective/kl"], len(judged.scores))

        speed = {"time/tokens_per_s": int(judged.rollout.sequences.mask.sum()) / seconds["time/rollout_s"]}
        run.log(step, metrics | seconds | speed | {"time/step_s": time.perf_counter() - begun})
        credit = partial(token_credit, judged.rollout.sequences, chat=actors.chat, credit=experience.credit)
        # after resampling the rows are no longer those that were judged first
        verdicts = judged.scored[0].verdicts if len(judged.scored) == 1 else None
        run.samples(step, sample_rows(judged.rollout, judged.scores, credit, verdicts=verdicts))


def source_of_rollouts(learner: Learner, engine: RolloutEngine) -> StepByStep | OneStepAhead:
    """1: what the policy answers, drawn by its weights of this step or, if asked for, by those of the last one."""
    recipe, actors = learner.recipe, learner.actors
    drawing = Drawing(
        engine=engine,
        policy=actors.policy,
        prompts=partial(prompts_of_step, actors.prompts, count=recipe.prompts_per_step, key=learner.order),
        generate=lambda prompts, step: learner.generate(prompts, key=(*learner.sampling, step)),
        steps=recipe.steps,
    )
    if not recipe.one_step_ahead:
        return StepByStep(drawing)
    meanwhile = recipe.engine.kind == "vllm" and world().size == 1
    return OneStepAhead(drawing, actors.chat, recipe.sampling, meanwhile=meanwhile)


def kept(learner: Learner, source: StepByStep | OneStepAhead) -> dict[str, Stateful]:
    """All that a resumed run needs to go on as if it had not been stopped, by its name in a checkpoint."""
    state: dict[str, Stateful] = {"policy": learner.optimizer, "controller": learner.kl, "watch": learner.watch}
    if learner.critic is not None:
        state["value"] = learner.critic.optimizer
    if isinstance(source, OneStepAhead):
        state["ahead"] = source
    if learner.peak is not None:
        state["peak"] = learner.peak
    return state


def prompts_of_step(prompts: Sequence[Prompt], step: int, *, count: int, key: tuple[int | str, ...]) -> list[Prompt]:
    """The next ``count`` of endless shuffled passes over the prompts; a function of the step and the key alone."""
    first = step * count
    places = range(first, first + count)
    passes = sorted({place // len(prompts) for place in places})
    orders = {number: permutation(len(prompts), *key, "prompts", number) for number in passes}
    return [prompts[int(orders[place // len(prompts)][place % len(prompts)])] for place in places]


def score(
    rewards: Mix, rollout: Rollout, trunk: Trunk | None = None, *, truncation_score: float | None
) -> tuple[Tensor, MixedScores]:
    """[B] what the responses earn, and the terms that it was made of.

    A response that was cut off earns ``truncation_score``, if there is one, whatever its terms say.
    """
    device = rollout.sequences.tokens.device
    mixed = rewards.scored(rollout.prompts, rollout.texts, rollout.sampled_tokens(trunk))
    scores = mixed.total.to(device)
    if truncation_score is not None:
        scores = torch.where(rollout.ended.to(device), scores, truncation_score)
    return scores, mixed


def minibatches(sequences: Sequences, count: int, *, key: tuple[int | str, ...]) -> list[Sequences]:
    """The rollout in random parts of whole prompts, so that no prompt is computed twice in an epoch."""
    groups = torch.unique(sequences.group_ids)
    order = torch.from_numpy(permutation(len(groups), *key))
    parts = groups[order].tensor_split(count)
    return [sequences.select(torch.isin(sequences.group_ids, part).nonzero()[:, 0]) for part in parts]


def add_gradients(
    policy: LanguageModel, method: Method, experience: Experience, minibatch: Sequences, *, max_tokens: int
) -> tuple[dict[str, float], list[Tensor]]:
    """The policy's, of one optimizer step, microbatch by microbatch; denominators are those of the whole minibatch.

    Args:
        minibatch: N of the rollout's responses.

    Returns:
        The metrics; and for each microbatch log p of its response tokens now minus that at sampling.
    """
    rollout, trunk = experience.rollout, experience.trunk
    lengths = minibatch.mask.sum(1)  # [N]
    num_tokens, computed, log_ratios = int(lengths.sum()), [], []
    weights = torch.ones_like(experience.scores).index_copy(0, minibatch.rows, method.weights(lengths))  # [B]
    for microbatch in minibatch.microbatches(max_tokens):
        mask = microbatch.mask
        logprobs, ref_logprobs, advantages = microbatch.take(
            rollout.logprobs, experience.ref_logprobs, experience.advantages
        )
        weight = weights[microbatch.rows, None]
        new_logprobs = policy.logprobs(microbatch, temperature=rollout.temperature, trunk=trunk)
        log_ratios.append((new_logprobs.detach() - logprobs)[mask])
        loss, metrics = method.loss(new_logprobs, logprobs, weight * advantages, mask, denominator=num_tokens)
        if method.kl_loss_coef:
            divergence, penalty = kl_loss(new_logprobs, ref_logprobs, mask, weights=weight, denominator=num_tokens)
            loss, metrics = loss + method.kl_loss_coef * divergence, metrics | penalty
        loss.backward()
        computed.append(metrics)
    return floats(combined(computed)), log_ratios


def add_value_gradients(
    critic: Critic, experience: Experience, minibatch: Sequences, *, max_tokens: int
) -> dict[str, float]:
    """The value model's, of the same optimizer step; its metrics."""
    assert experience.values is not None
    assert experience.returns is not None
    num_tokens, computed = int(minibatch.mask.sum()), []
    for microbatch in minibatch.microbatches(max_tokens):
        values, returns = microbatch.take(experience.values, experience.returns)
        new_values = critic.model.values(microbatch, trunk=experience.trunk)
        loss, metrics = critic.loss(new_values, values, returns, microbatch.mask, denominator=num_tokens)
        loss.backward()
        computed.append(metrics)
    return floats(combined(computed))


def explained(values: Tensor, returns: Tensor, mask: Tensor) -> dict[str, float]:
    """How much of the returns [B, T] the values foretold; nothing where the returns do not vary."""
    share = float(explained_variance(values, returns, mask))
    return {} if math.isnan(share) else {"value/explained_variance": share}


@contextmanager
def clocked(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the time of what is done inside."""
    begun = time.perf_counter()
    yield
    seconds[name] += time.perf_counter() - begun
