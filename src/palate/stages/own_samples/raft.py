"""Reward-ranked fine-tuning: of K responses the best is kept, and the policy learns to say it.

    1. sample    the policy answers prompts, K responses each
    2. score     every response gets a number
    3. keep      the best response of each prompt
    4. learn     the kept ones by the loss of supervised fine-tuning, at the temperature they were drawn at

With enough of it a round teaches the policy what the best of K would say, and the next round begins there: after r
rounds it is the best of K^r. There is no price of divergence: `objective/kl` is what to watch, and few steps are the
remedy. One round with many prompts is how the quality of best-of-n is had without its sampling.

Left out: mixing in demonstrations, and thresholds of the score.

Dong et al. 2023 (arXiv 2304.06767). Run it: `palate raft recipes/raft.toml`.
"""

from __future__ import annotations

import time
from functools import partial

import torch

from palate.lm.batch import per_token
from palate.lm.optim import Optimizer
from palate.objectives.losses import sft_loss
from palate.recipe import RAFTRecipe
from palate.rollout import engines
from palate.run.directory import Run
from palate.stages.best_of_n import best_rows
from palate.stages.common import combined, finish_run, floats, loading, make_room, spread, write_model
from palate.stages.own_samples.foretelling import minibatches_of
from palate.stages.reinforcement.actors import foretold, load_actors
from palate.stages.reinforcement.mismatch import seen_by_trainer
from palate.stages.reinforcement.step import minibatches, prompts_of_step, score
from palate.stages.reinforcement.watching import Watch, mean_of_updates, measure, measure_terms, sample_rows


def train(recipe: RAFTRecipe, run: Run) -> None:
    """Improve ``recipe.model`` on its rewards and write it to ``run``."""
    recipe, asked = foretold(recipe, run, prompts_of_step, partial(minibatches_of, each=1))
    with loading(recipe.cluster):
        actors = load_actors(recipe, asked, run)
    spread(run, recipe.cluster, actors.models)
    policy, max_tokens = actors.policy, recipe.microbatch_tokens
    order, sampling = ((recipe.seed_of(source), recipe.stage) for source in ("order", "sampling"))
    engine = engines.make_engine(recipe.engine, policy, actors.chat)
    optimizer = Optimizer(policy, recipe.optimizer, recipe.steps * recipe.epochs * recipe.minibatches, name="policy")
    watch = Watch(max_negative_kl=recipe.max_negative_kl, min_entropy=recipe.min_entropy)

    for step in run.steps(
        recipe.steps,
        every=recipe.checkpoint_every,
        keep=recipe.keep_checkpoints,
        state={"policy": optimizer, "watch": watch},
    ):
        begun = time.perf_counter()
        prompts = prompts_of_step(actors.prompts, step, count=recipe.prompts_per_step, key=order)
        engine.load_weights(policy)
        rollout = engine.generate(
            prompts, recipe.sampling, num_responses=recipe.responses_per_prompt, key=(*sampling, step)
        )
        sampled = time.perf_counter()
        trunk = policy.trunk(rollout.sequences, max_tokens=max_tokens)
        seen = seen_by_trainer(rollout, policy, trunk, recipe.engine, max_tokens=max_tokens, step=step)
        rollout = seen.rollout
        scores, mixed = score(actors.rewards, rollout, trunk, truncation_score=recipe.truncation_score)
        likelihood = partial(actors.reference.logprobs, temperature=rollout.temperature, trunk=trunk)
        ref_logprobs = per_token(rollout.sequences, max_tokens, likelihood)
        metrics = (
            measure(rollout, scores, ref_logprobs)
            | measure_terms([mixed])
            | {"time/score_s": time.perf_counter() - sampled}
            | seen.metrics
        )
        watch.check(step, metrics)

        best = torch.tensor(best_rows(scores.view(-1, recipe.responses_per_prompt).cpu()))
        kept = rollout.sequences.select(best)
        make_room(policy, trunk, actors.models)
        updates: list[tuple[int, dict[str, float]]] = []
        for epoch in range(recipe.epochs):
            for minibatch in minibatches(kept, recipe.minibatches, key=(*order, "minibatches", step, epoch)):
                num_tokens, computed = int(minibatch.mask.sum()), []
                for microbatch in minibatch.microbatches(max_tokens):
                    logprobs = policy.logprobs(microbatch, temperature=rollout.temperature, trunk=trunk)
                    loss, numbers = sft_loss(logprobs, microbatch.mask, denominator=num_tokens)
                    loss.backward()
                    computed.append(numbers)
                updates.append((num_tokens, floats(combined(computed)) | optimizer.step(step)))

        metrics |= mean_of_updates(updates) | {"raft/kept_score": float(scores[best.to(scores.device)].mean())}
        metrics |= {"data/left_out": float(actors.left_out), "time/rollout_s": sampled - begun}
        run.log(step, metrics | {"time/step_s": time.perf_counter() - begun})
        run.samples(step, sample_rows(rollout, scores, verdicts=mixed.verdicts))

    write_model(run, recipe, actors.loaded)
    finish_run(run, {"left_out": actors.left_out})
