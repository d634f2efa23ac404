"""On-policy DPO: pairs are made of what the policy says now, and a reward judges them.

    1. sample    the policy answers prompts, K responses each
    2. score     every response gets a number
    3. pair      the best response of a prompt against the worst, or everyone against everyone who scored less
    4. learn     by the loss of DPO or IPO; the reference stays the policy as it was at first

Pairs of a fixed file speak of what another policy said; these speak of what this one says, round after round. Prompts
whose responses all scored alike give no pair.

Left out: a judge that compares two responses without scoring each, and keeping pairs of earlier rounds.

Guo et al. 2024 (arXiv 2402.04792). Run it: `palate online-dpo recipes/online_dpo.toml`.
"""

from __future__ import annotations

import time
from functools import partial

import torch
from torch import Tensor

from palate.lm.batch import Sequences, per_token
from palate.lm.optim import Optimizer
from palate.objectives.advantages import differ
from palate.recipe import OnlineDPORecipe
from palate.rollout import engines
from palate.run.directory import Run
from palate.stages.common import combined, finish_run, floats, loading, make_room, spread, write_model
from palate.stages.dpo import loss_of_pairs
from palate.stages.own_samples.foretelling import minibatches_of
from palate.stages.reinforcement.actors import foretold, load_actors
from palate.stages.reinforcement.mismatch import seen_by_trainer
from palate.stages.reinforcement.step import minibatches, prompts_of_step, score
from palate.stages.reinforcement.watching import Watch, mean_of_updates, measure, measure_terms, sample_rows


def train(recipe: OnlineDPORecipe, run: Run) -> None:
    """Improve ``recipe.model`` on its rewards and write it to ``run``."""
    in_pairs = {"extremes": 2, "all": recipe.responses_per_prompt}[recipe.pairs]
    recipe, asked = foretold(recipe, run, prompts_of_step, partial(minibatches_of, each=in_pairs))
    with loading(recipe.cluster):
        actors = load_actors(recipe, asked, run)
    spread(run, recipe.cluster, actors.models)
    policy, max_tokens = actors.policy, recipe.microbatch_tokens
    order, sampling = ((recipe.seed_of(source), recipe.stage) for source in ("order", "sampling"))
    engine = engines.make_engine(recipe.engine, policy, actors.chat)
    optimizer = Optimizer(policy, recipe.optimizer, recipe.steps * recipe.epochs * recipe.minibatches, name="policy")
    watch = Watch(max_negative_kl=recipe.max_negative_kl, min_entropy=recipe.min_entropy)
    loss_of = loss_of_pairs(recipe.loss, beta=recipe.beta, label_smoothing=0.0)

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

        chosen, rejected = pairs_by_score(scores.view(-1, recipe.responses_per_prompt), every=recipe.pairs == "all")
        reference = ref_logprobs.sum(1)
        make_room(policy, trunk, actors.models)
        updates: list[tuple[int, dict[str, float]]] = []
        for epoch in range(recipe.epochs):
            for minibatch in compared(
                rollout.sequences, chosen, rejected, recipe.minibatches, key=(*order, step, epoch)
            ):
                num_pairs, computed = int(torch.isin(chosen, minibatch.rows).sum()), []
                for microbatch in minibatch.microbatches(max_tokens, whole_groups=True):
                    logprobs = policy.logprobs(microbatch, temperature=rollout.temperature, trunk=trunk).sum(1)
                    before = reference[microbatch.rows]
                    better, worse = places(microbatch, chosen, rejected)
                    loss, numbers = loss_of(
                        logprobs[better], logprobs[worse], before[better], before[worse], denominator=num_pairs
                    )
                    loss.backward()
                    computed.append(numbers)
                updates.append((num_pairs, floats(combined(computed)) | optimizer.step(step)))

        metrics |= mean_of_updates(updates) if updates else {}
        metrics |= {"dpo/pairs": float(len(chosen)), "data/left_out": float(actors.left_out)}
        run.log(
            step,
            metrics | {"time/rollout_s": sampled - begun, "time/step_s": time.perf_counter() - begun},
        )
        run.samples(step, sample_rows(rollout, scores, verdicts=mixed.verdicts))

    write_model(run, recipe, actors.loaded)
    finish_run(run, {"left_out": actors.left_out})


def pairs_by_score(scores: Tensor, *, every: bool) -> tuple[Tensor, Tensor]:
    """Rows of the better and of the worse response of each pair, [N] each.

    Args:
        scores: [P, K] of rows in order.
        every: all pairs of different scores; otherwise the first of the best against the first of the worst.
    """
    if every:
        prompt, better, worse = differ(scores[:, None, :], scores[:, :, None]).nonzero(as_tuple=True)
    else:
        prompt = differ(scores.amin(1), scores.amax(1)).nonzero()[:, 0]
        better, worse = scores.argmax(1)[prompt], scores.argmin(1)[prompt]
    first = prompt * scores.shape[1]
    return first + better, first + worse


def compared(
    sequences: Sequences, chosen: Tensor, rejected: Tensor, count: int, *, key: tuple[int | str, ...]
) -> list[Sequences]:
    """The responses that are in a pair, in ``count`` minibatches of whole prompts, or fewer if there are fewer."""
    rows = torch.cat([chosen, rejected]).unique()
    if not len(rows):
        return []
    used = sequences.select(rows)
    return minibatches(used, min(count, len(used.group_ids.unique())), key=(*key, "minibatches"))


def places(microbatch: Sequences, chosen: Tensor, rejected: Tensor) -> tuple[Tensor, Tensor]:
    """Where in a microbatch of whole prompts the two sides of its pairs stand, [N] each."""
    inside = torch.isin(chosen, microbatch.rows)
    place = {row: index for index, row in enumerate(microbatch.rows.tolist())}

    def of(rows: Tensor) -> Tensor:
        found = [place[row] for row in rows[inside].tolist()]
        return torch.tensor(found, dtype=torch.long, device=microbatch.rows.device)

    return of(chosen), of(rejected)
