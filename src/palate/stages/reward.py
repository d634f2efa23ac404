"""The reward model: which of two responses would people prefer, learned from their rankings.

A language model whose unembedding is replaced by one number, trained with the Bradley-Terry likelihood over all
C(K, 2) pairs of every ranking; or by several numbers, for an ensemble, for several objectives, and for what people say
of one response alone: ratings and flags (`stages/teaching.py`). Each distinct response of a batch is computed once, and
so is each prompt, however many rankings and pairs they appear in. Rankings of one prompt stay in one batch as long as
they fit (separating them overfits: the same response would be visited many times an epoch), and whole prompts are held
out for validation.

The result is reported beside two numbers without which accuracy says little: how often the longer response wins, and
how often two labelers agree with each other (`stages/reward_report.py`).

Left out: a reward for partial responses, soft labels, trunks of their own for the members of an ensemble (train several
reward models with other seeds for that, and name them together in `rewards`).

Ouyang et al. 2022 (arXiv 2203.02155), section 3.5; Coste et al. 2023 (arXiv 2310.02743).
Run it: `palate reward recipes/reward.toml`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from palate.corpus.pairs import batches
from palate.corpus.splits import split
from palate.evals.report import Report
from palate.lm.model import ScalarModel, Trunk
from palate.lm.optim import Optimizer
from palate.lm.sources.zoo import Loaded, load_scalar_model, sketch_model
from palate.recipe import RewardRecipe
from palate.records import Ranking
from palate.rewards.heads import Head, Normalization, files_of
from palate.rewards.learned import raw_scores
from palate.run.directory import Run
from palate.run.trackers import showing
from palate.stages.common import (
    finish_run,
    floats,
    loading,
    longest,
    prepare,
    say_chat,
    say_left_out,
    spread,
    write_model,
)
from palate.stages.comparisons import ComparedResponses, prepare_responses
from palate.stages.estimate.expected import comparing
from palate.stages.estimate.fitting import expect
from palate.stages.estimate.trial import some
from palate.stages.reward_report import add_pictures, measure
from palate.stages.teaching import (
    Lessons,
    Thresholds,
    drawn_again,
    drawn_labelers,
    heads_loss,
    step_metrics,
    thresholds_for,
)


def train(recipe: RewardRecipe, run: Run) -> None:
    """Train a reward model on rankings, normalise it and write it to ``run``."""
    num_heads = len(recipe.objectives) * recipe.heads
    sketch = sketch_model(
        recipe.model, ScalarModel, heads=num_heads, chat_template=recipe.chat_template, precision=recipe.precision
    )
    chat = sketch.chat
    prepare(sketch.model, recipe)

    lessons = Lessons(recipe.data, recipe.objectives)
    data = lessons.data
    run.add_inputs({"data": data.files})
    rankings = lessons.used(recipe.labeler_weights)
    learned, held_out = split(rankings, recipe.holdout)
    learned = lessons.without_ties(learned, skip=recipe.tie == "skip")
    learned, held_out = (some(run, part, 2 * recipe.batch_responses) for part in (learned, held_out))
    max_length, limit = longest(recipe, sketch.model)
    prepared = partial(
        prepare_responses,
        chat,
        labeler_weights=recipe.labeler_weights,
        max_length=max_length,
        limit=limit,
        device=torch.device(sketch.device),
        lessons=lessons,
    )
    learned, weights = drawn(recipe, run, learned)
    train_set, validation = prepared(learned, labeler_weights=weights), prepared(held_out)
    left_out = say_left_out(
        run,
        data,
        {"to learn from": (learned, train_set.left_out), "to validate on": (held_out, validation.left_out)},
        of=len(rankings),
        max_left_out=recipe.max_left_out,
    )
    say_chat(run, chat, (ranking.prompt for ranking in rankings))
    if recipe.heads > 1 and recipe.bootstrap:
        train_set = replace(train_set, sets=drawn_again(train_set.sets, recipe.heads, recipe.seed_of("order")))
    steps = [
        batch
        for epoch in range(recipe.epochs)
        for batch in batches(
            train_set.sets, max_responses=recipe.batch_responses, key=(recipe.seed_of("order"), "reward", epoch)
        )
    ]
    recipe = expect(
        run,
        recipe,
        sketch.device,
        lambda recipe: comparing(recipe, sketch, train_set.sequences, train_set.rows_of(steps), validation.sequences),
    )

    with loading(recipe.cluster):
        loaded = load_scalar_model(
            recipe.model,
            heads=num_heads,
            chat_template=recipe.chat_template,
            precision=recipe.precision,
            seed=recipe.seed_of("initial"),
        )
    model = loaded.model
    prepare(model, recipe)
    run.add_inputs({"model": loaded.weights})
    spread(run, recipe.cluster, [model])
    with showing("frozen layers") as show:
        trunk = model.trunk(train_set.sequences, max_tokens=recipe.microbatch_tokens, show=show)
    thresholds = thresholds_for(recipe.objectives, train_set.sets, recipe.heads)
    learner = model if thresholds is None else nn.ModuleDict({"model": model, "thresholds": thresholds})
    optimizer = Optimizer(learner, recipe.optimizer, len(steps), name="reward")
    flags = [bool(objective.flag) for objective in recipe.objectives]

    for step in run.steps(
        len(steps), every=recipe.checkpoint_every, keep=recipe.keep_checkpoints, state={"reward": optimizer}
    ):
        batch = train_set.select(steps[step])
        judgements = [judgement for comparisons in steps[step] for judgement in comparisons.judgements]
        computed = []
        for microbatch in batch.microbatches(recipe.microbatch_tokens, whole_groups=True):
            loss, metrics = heads_loss(
                model.scores(microbatch, trunk=trunk),
                train_set.judgements_in(microbatch, steps[step]),
                flags,
                thresholds,
                tie=recipe.tie,
                margin_scale=recipe.margin_scale,
                denominator=sum(judgement.weight for judgement in judgements),
            )
            loss.backward()
            computed.append(metrics)
        numbers = floats(step_metrics(computed, judgements, flags))
        run.log(step, numbers | optimizer.step(step) | {"data/left_out": left_out})

    finish(loaded, recipe, run, train_set, validation, lessons, trunk, thresholds, left_out=left_out)


def drawn(recipe: RewardRecipe, run: Run, rankings: list[Ranking]) -> tuple[list[Ranking], dict[str, float]]:
    """What is learned from, and each labeler's weight: times as often as they were drawn, if the recipe draws them."""
    weights = dict(recipe.labeler_weights)
    if not recipe.draw_labelers:
        return rankings, weights
    times = drawn_labelers((ranking.labeler for ranking in rankings), recipe.seed_of("labelers"))
    weights |= {name: count * weights.get(name, 1.0) for name, count in times.items()}
    kept = [ranking for ranking in rankings if times[ranking.labeler]]
    nobody = sum(not count for count in times.values())
    run.note(
        f"labelers drawn with replacement: {len(times) - nobody} of {len(times)}; {len(rankings) - len(kept)} "
        "rankings of the others are not learned from"
    )
    return kept, weights


def finish(
    loaded: Loaded[ScalarModel],
    recipe: RewardRecipe,
    run: Run,
    train_set: ComparedResponses,
    validation: ComparedResponses,
    lessons: Lessons,
    trunk: Trunk | None,
    thresholds: Thresholds | None,
    *,
    left_out: int,
) -> None:
    """Normalise on the reference set, measure on held-out prompts, save."""
    model = loaded.model
    held_out = raw_scores(model, validation.sequences, recipe.microbatch_tokens)
    reference = (
        held_out
        if recipe.normalize_on == "validation"
        else raw_scores(model, train_set.sequences, recipe.microbatch_tokens, trunk)
    )
    heads = described(recipe, reference, thresholds)
    write_model(run, recipe, loaded, extra_files=files_of(heads))
    numbers, findings, agreed = measure(held_out, validation, lessons, heads, seed=recipe.seed)

    def pictures(report: Report) -> None:
        add_pictures(report, findings, agreed, seed=recipe.seed)

    counts = {"rankings": len(train_set.rankings), "left_out": left_out}
    finish_run(run, numbers | counts, extra=pictures)


def described(recipe: RewardRecipe, reference: Tensor, thresholds: Thresholds | None) -> list[Head]:
    """What each head is, its origin and unit from raw scores [N, H] of the reference set."""
    heads = []
    for number, objective in enumerate(recipe.objectives):
        for member in range(recipe.heads):
            raw = reference[:, number * recipe.heads + member]
            unit = Normalization.of(raw, f"distinct {recipe.normalize_on} responses")
            between: Sequence[float] = ()
            if thresholds is not None and number in thresholds.rows:
                between = thresholds.of(number, member).tolist()
            heads.append(
                Head(
                    objective=objective.name,
                    flag=objective.flag,
                    normalization=Normalization() if objective.flag else unit,
                    thresholds=tuple(between),
                )
            )
    return heads
