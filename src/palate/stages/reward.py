"""The reward model: which of two responses would people prefer, learned from their rankings.

A language model whose unembedding is replaced by one number, trained with the Bradley-Terry likelihood over all
C(K, 2) pairs of every ranking. Each distinct response of a batch is computed once, and so is each prompt, however many
rankings and pairs they appear in. Rankings of one prompt stay in one batch as long as they fit (separating them
overfits: the same response would be visited many times an epoch), and whole prompts are held out for validation.

The result is reported beside two numbers without which accuracy says little: how often the longer response wins, and
how often two labelers agree with each other.

Left out: a reward for partial responses, soft labels, more than one head.

Ouyang et al. 2022 (arXiv 2203.02155), section 3.5. Run it: `palate reward recipes/reward.toml`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from palate.corpus import read_rankings
from palate.corpus.pairs import Judgement, batches, ordered_pairs
from palate.corpus.splits import split
from palate.evals import plots
from palate.evals.calibration import Calibration, accuracy, calibration, longer_wins
from palate.evals.report import Report
from palate.feedback.statistics.pairwise_agreement import Agreement, agreement
from palate.lm.model import ScalarModel, Trunk
from palate.lm.optim import Optimizer
from palate.lm.sources.zoo import Loaded, load_scalar_model, sketch_model
from palate.objectives.losses import Metrics, combine_metrics, ranking_loss
from palate.recipe import RewardRecipe
from palate.records import Ranking
from palate.rewards.learned import NORMALIZATION_FILE, Normalization, raw_scores
from palate.run.directory import Run
from palate.run.trackers import showing
from palate.stages.common import finish_run, floats, longest, prepare, say_chat, say_left_out, write_model
from palate.stages.comparisons import ComparedResponses, comparable, prepare_responses, without_ties
from palate.stages.estimate.expected import comparing
from palate.stages.estimate.fitting import expect
from palate.stages.estimate.trial import some


def train(recipe: RewardRecipe, run: Run) -> None:
    """Train a reward model on rankings, normalise it and write it to ``run``."""
    sketch = sketch_model(recipe.model, ScalarModel, chat_template=recipe.chat_template, precision=recipe.precision)
    chat = sketch.chat
    prepare(sketch.model, recipe)

    data = read_rankings(recipe.data)
    run.add_inputs({"data": data.files})
    rankings = comparable(data, labeler_weights=recipe.labeler_weights)
    learned, held_out = split(rankings, recipe.holdout)
    if recipe.tie == "skip" or not any(map(ordered_pairs, learned)):  # ties beside nothing else teach nothing either
        learned = without_ties(data, learned)
    learned, held_out = (some(run, part, 2 * recipe.batch_responses) for part in (learned, held_out))
    max_length, limit = longest(recipe, sketch.model)
    prepared = partial(
        prepare_responses,
        chat,
        labeler_weights=recipe.labeler_weights,
        max_length=max_length,
        limit=limit,
        device=torch.device(sketch.device),
    )
    train_set, validation = prepared(learned), prepared(held_out)
    left_out = say_left_out(
        run,
        data,
        {"to learn from": (learned, train_set.left_out), "to validate on": (held_out, validation.left_out)},
        of=len(rankings),
        max_left_out=recipe.max_left_out,
    )
    say_chat(run, chat, (ranking.prompt for ranking in rankings))
    steps = [
        batch
        for epoch in range(recipe.epochs)
        for batch in batches(train_set.sets, max_responses=recipe.batch_responses, key=(recipe.seed, "reward", epoch))
    ]
    recipe = expect(
        run,
        recipe,
        sketch.device,
        lambda recipe: comparing(recipe, sketch, train_set.sequences, train_set.rows_of(steps), validation.sequences),
    )

    loaded = load_scalar_model(
        recipe.model, chat_template=recipe.chat_template, precision=recipe.precision, seed=recipe.seed
    )
    model = loaded.model
    prepare(model, recipe)
    run.add_inputs({"model": loaded.weights})
    with showing("frozen layers") as show:
        trunk = model.trunk(train_set.sequences, max_tokens=recipe.microbatch_tokens, show=show)
    optimizer = Optimizer(model, recipe.optimizer, len(steps), name="reward")

    for step in run.steps(
        len(steps), every=recipe.checkpoint_every, keep=recipe.keep_checkpoints, state={"reward": optimizer}
    ):
        batch = train_set.select(steps[step])
        total_weight = sum(judgement.weight for comparisons in steps[step] for judgement in comparisons.judgements)
        computed = []
        for microbatch in batch.microbatches(recipe.microbatch_tokens, whole_groups=True):
            rewards = model.scores(microbatch, trunk=trunk)
            judged = train_set.judgements_in(microbatch, steps[step])
            loss, metrics = comparison_loss(rewards, judged, recipe, denominator=total_weight)
            loss.backward()
            computed.append(metrics)
        run.log(step, floats(combine_metrics(computed)) | optimizer.step(step) | {"data/left_out": left_out})

    finish(loaded, recipe, run, train_set, validation, trunk, left_out=left_out)


def comparison_loss(
    rewards: Tensor, judged: Sequence[tuple[list[int], Judgement]], recipe: RewardRecipe, *, denominator: float
) -> tuple[Tensor, Metrics]:
    """The ranking loss of judgements about rewards [B]; each names the places of its responses."""
    sizes = torch.tensor([len(places) for places, _ in judged])

    def each(values: Sequence[float]) -> Tensor:
        return torch.repeat_interleave(torch.tensor(values, dtype=torch.float32), sizes).to(rewards.device)

    return ranking_loss(
        rewards[torch.tensor([place for places, _ in judged for place in places], device=rewards.device)],
        torch.tensor([rank for _, judgement in judged for rank in judgement.ranks], device=rewards.device),
        each(range(len(judged))),
        margins=each([recipe.margin_scale * judgement.strength for _, judgement in judged]),
        weights=each([judgement.weight for _, judgement in judged]),
        tie=recipe.tie,
        denominator=denominator,
    )


def finish(
    loaded: Loaded[ScalarModel],
    recipe: RewardRecipe,
    run: Run,
    train_set: ComparedResponses,
    validation: ComparedResponses,
    trunk: Trunk | None,
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
    normalization = Normalization.of(reference, f"distinct {recipe.normalize_on} responses")
    write_model(run, recipe, loaded, extra_files={NORMALIZATION_FILE: normalization.to_json()})
    counts = {"rankings": len(train_set.rankings), "left_out": left_out}
    numbers, reliability, agreed = measure(held_out, validation, seed=recipe.seed)

    def pictures(report: Report) -> None:
        report.figure("Does it know how sure it is?", plots.calibration(reliability), "Held-out pairs.")
        if len(agreed.labelers) > 1:
            names = [labeler.name for labeler in agreed.labelers]
            matrix = plots.agreement_matrix(names, agreed.matrix(names))
            report.figure("Do the labelers agree?", matrix, "Held-out prompts.")

    finish_run(run, numbers | counts, extra=pictures)


def measure(
    scores: Tensor, responses: ComparedResponses, *, seed: int
) -> tuple[dict[str, float | None], Calibration, Agreement]:
    """Accuracy on every strictly ordered pair, beside the longer response's and the labelers' agreement."""
    pairs = [(ranking, *pair) for ranking in responses.rankings for pair in ordered_pairs(ranking)]
    raw = scores.tolist()

    def score(ranking: Ranking, index: int) -> float:
        return float(raw[responses.row_of[ranking.prompt.id, ranking.responses[index].text]])

    margins = [score(ranking, better) - score(ranking, worse) for ranking, better, worse in pairs]
    prompts = [ranking.prompt.id for ranking, *_ in pairs]
    texts = [(ranking.responses[better].text, ranking.responses[worse].text) for ranking, better, worse in pairs]
    right, longer = accuracy(margins, prompts, seed=seed), longer_wins(texts, prompts, seed=seed)
    reliability, agreed = calibration(margins, prompts, seed=seed), agreement(responses.rankings, seed=seed)
    numbers = {
        "accuracy": right.value,
        "accuracy_low": right.low,
        "accuracy_high": right.high,
        "longer_wins": longer.value,
        "agreement": agreed.percent,
        "agreement_low": agreed.low,
        "agreement_high": agreed.high,
        "calibration_error": reliability.error,
        "log_loss": reliability.log_loss,
        "held_out_pairs": len(pairs),
        "held_out_prompts": len(set(prompts)),
    }
    return numbers, reliability, agreed
