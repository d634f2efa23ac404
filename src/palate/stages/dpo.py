"""Direct preference optimisation: the policy is its own reward model.

Every strictly ordered pair of a ranking is one comparison. The responses of a batch are computed once each, and so are
their prompts, however many pairs they appear in. Log-probabilities are sums over response tokens at one temperature.
Both the chosen and the rejected ones are logged: the loss only sees their difference, and both often fall.

Left out: ties (they carry no order), reference-free variants, length normalisation.

Rafailov et al. 2023 (arXiv 2305.18290). Run it: `palate dpo recipes/dpo.toml`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from palate.corpus import read_rankings
from palate.corpus.pairs import Judgement, batches, ordered_pairs
from palate.corpus.splits import split
from palate.lm.batch import Sequences, per_token
from palate.lm.model import LanguageModel, Trunk
from palate.lm.optim import Optimizer
from palate.lm.sources.zoo import load_language_model, sketch_model
from palate.objectives.losses import combine_metrics, dpo_loss
from palate.recipe import DPORecipe
from palate.run.directory import Run
from palate.run.trackers import showing
from palate.stages.common import finish_run, floats, longest, prepare, say_chat, say_left_out, write_model
from palate.stages.comparisons import comparable, prepare_responses, without_ties
from palate.stages.estimate.expected import comparing
from palate.stages.estimate.fitting import expect
from palate.stages.estimate.trial import some


def train(recipe: DPORecipe, run: Run) -> None:
    """Fine-tune ``recipe.model`` on preferences and write it to ``run``."""
    sketch = sketch_model(recipe.model, LanguageModel, chat_template=recipe.chat_template, precision=recipe.precision)
    chat = sketch.chat
    prepare(sketch.model, recipe)

    data = read_rankings(recipe.data)
    run.add_inputs({"data": data.files})
    rankings = without_ties(data, comparable(data))
    learned, held_out = (some(run, part, 2 * recipe.batch_responses) for part in split(rankings, recipe.holdout))
    max_length, limit = longest(recipe, sketch.model)
    prepared = partial(
        prepare_responses,
        chat,
        labeler_weights={},
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
        for batch in batches(train_set.sets, max_responses=recipe.batch_responses, key=(recipe.seed, "dpo", epoch))
    ]
    recipe = expect(
        run,
        recipe,
        sketch.device,
        lambda recipe: comparing(recipe, sketch, train_set.sequences, train_set.rows_of(steps), validation.sequences),
    )

    loaded = load_language_model(recipe.model, chat_template=recipe.chat_template, precision=recipe.precision)
    policy = loaded.model
    prepare(policy, recipe)
    run.add_inputs({"model": loaded.weights})
    with showing("frozen layers") as show:
        trunk = policy.trunk(train_set.sequences, max_tokens=recipe.microbatch_tokens, show=show)
    held_out_trunk = policy.trunk(validation.sequences, max_tokens=recipe.microbatch_tokens)
    # before the first step the policy is its own reference
    reference = response_logprobs(policy, train_set.sequences, recipe, trunk)
    held_out_reference = response_logprobs(policy, validation.sequences, recipe, held_out_trunk)

    optimizer = Optimizer(policy, recipe.optimizer, len(steps), name="policy")

    for step in run.steps(
        len(steps), every=recipe.checkpoint_every, keep=recipe.keep_checkpoints, state={"policy": optimizer}
    ):
        batch = train_set.select(steps[step])
        num_pairs = len(chosen_and_rejected(train_set.judgements_in(batch, steps[step]))[0])
        computed = []
        for microbatch in batch.microbatches(recipe.microbatch_tokens, whole_groups=True):
            chosen, rejected = chosen_and_rejected(train_set.judgements_in(microbatch, steps[step]))
            logprobs = policy.logprobs(microbatch, temperature=recipe.temperature, trunk=trunk).sum(1)
            before = reference[microbatch.rows]
            loss, metrics = dpo_loss(
                logprobs[chosen],
                logprobs[rejected],
                before[chosen],
                before[rejected],
                beta=recipe.beta,
                label_smoothing=recipe.label_smoothing,
                denominator=num_pairs,
            )
            loss.backward()
            computed.append(metrics)
        run.log(step, floats(combine_metrics(computed)) | optimizer.step(step) | {"data/left_out": left_out})

    chosen, rejected = chosen_and_rejected(validation.judgements_in(validation.sequences, validation.sets))
    after = response_logprobs(policy, validation.sequences, recipe, held_out_trunk)
    _, metrics = dpo_loss(
        after[chosen], after[rejected], held_out_reference[chosen], held_out_reference[rejected], beta=recipe.beta
    )
    write_model(run, recipe, loaded)
    finish_run(
        run,
        {
            "pairs": sum(len(ordered_pairs(ranking)) for ranking in train_set.rankings),
            "left_out": left_out,
            "held_out_accuracy": float(metrics["dpo/accuracy"]),
        },
    )


def chosen_and_rejected(judged: Sequence[tuple[list[int], Judgement]]) -> tuple[Tensor, Tensor]:
    """Places of the better and of the worse response of every strictly ordered pair, [N] each."""
    pairs = [
        (better, worse)
        for places, judgement in judged
        for better, rank in zip(places, judgement.ranks, strict=True)
        for worse, other in zip(places, judgement.ranks, strict=True)
        if rank < other
    ]
    chosen, rejected = zip(*pairs, strict=True)
    return torch.tensor(chosen), torch.tensor(rejected)


@torch.no_grad()
def response_logprobs(policy: LanguageModel, sequences: Sequences, recipe: DPORecipe, trunk: Trunk | None) -> Tensor:
    """[B] log-probability of each whole response."""
    return per_token(
        sequences,
        recipe.microbatch_tokens,
        lambda microbatch: policy.logprobs(microbatch, temperature=recipe.temperature, trunk=trunk),
    ).sum(1)
