"""Direct preference optimisation: the policy is its own reward model, by the loss of DPO or of IPO.

Every strictly ordered pair of a ranking is one comparison. The responses of a batch are computed once each, and so are
their prompts, however many pairs they appear in. Log-probabilities are sums over response tokens at one temperature.
Both the chosen and the rejected ones are logged: the loss only sees their difference, and both often fall.

Left out: ties (they carry no order), reference-free variants, length normalisation.

Rafailov et al. 2023 (arXiv 2305.18290); Azar et al. 2023 (arXiv 2310.12036). Run it: `palate dpo recipes/dpo.toml`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from palate.corpus import read_rankings
from palate.corpus.pairs import Judgement, batches, ordered_pairs
from palate.corpus.splits import split
from palate.lm.model import LanguageModel
from palate.lm.optim import Optimizer
from palate.lm.sources.zoo import load_language_model, sketch_model
from palate.objectives.direct import dpo_loss, ipo_loss
from palate.objectives.losses import Metrics
from palate.recipe import DPORecipe
from palate.run.directory import Run
from palate.run.trackers import showing
from palate.stages.common import (
    combined,
    finish_run,
    floats,
    loading,
    longest,
    prepare,
    response_logprobs,
    say_chat,
    say_left_out,
    spread,
    write_model,
)
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
        for batch in batches(
            train_set.sets, max_responses=recipe.batch_responses, key=(recipe.seed_of("order"), "dpo", epoch)
        )
    ]
    recipe = expect(
        run,
        recipe,
        sketch.device,
        lambda recipe: comparing(recipe, sketch, train_set.sequences, train_set.rows_of(steps), validation.sequences),
    )

    with loading(recipe.cluster):
        loaded = load_language_model(recipe.model, chat_template=recipe.chat_template, precision=recipe.precision)
    policy = loaded.model
    prepare(policy, recipe)
    run.add_inputs({"model": loaded.weights})
    spread(run, recipe.cluster, [policy])
    with showing("frozen layers") as show:
        trunk = policy.trunk(train_set.sequences, max_tokens=recipe.microbatch_tokens, show=show)
    held_out_trunk = policy.trunk(validation.sequences, max_tokens=recipe.microbatch_tokens)
    # before the first step the policy is its own reference
    logprobs_of = partial(
        response_logprobs, policy, temperature=recipe.temperature, max_tokens=recipe.microbatch_tokens
    )
    reference = logprobs_of(train_set.sequences, trunk)
    held_out_reference = logprobs_of(validation.sequences, held_out_trunk)

    optimizer = Optimizer(policy, recipe.optimizer, len(steps), name="policy")
    pair_loss = loss_of_pairs(recipe.loss, beta=recipe.beta, label_smoothing=recipe.label_smoothing)

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
            loss, metrics = pair_loss(
                logprobs[chosen], logprobs[rejected], before[chosen], before[rejected], denominator=num_pairs
            )
            loss.backward()
            computed.append(metrics)
        run.log(step, floats(combined(computed)) | optimizer.step(step) | {"data/left_out": left_out})

    chosen, rejected = chosen_and_rejected(validation.judgements_in(validation.sequences, validation.sets))
    after = logprobs_of(validation.sequences, held_out_trunk)
    _, metrics = pair_loss(after[chosen], after[rejected], held_out_reference[chosen], held_out_reference[rejected])
    write_model(run, recipe, loaded)
    finish_run(
        run,
        {
            "pairs": sum(len(ordered_pairs(ranking)) for ranking in train_set.rankings),
            "left_out": left_out,
            "held_out_accuracy": float(metrics["dpo/accuracy"]),
        },
    )


def loss_of_pairs(name: str, *, beta: float, label_smoothing: float) -> Callable[..., tuple[Tensor, Metrics]]:
    """The loss that a recipe names, of log-probabilities alone."""
    losses: dict[str, Callable[..., tuple[Tensor, Metrics]]] = {
        "dpo": partial(dpo_loss, beta=beta, label_smoothing=label_smoothing),
        "ipo": partial(ipo_loss, beta=beta),
    }
    return losses[name]


def chosen_and_rejected(judged: Sequence[tuple[list[int], Judgement]]) -> tuple[Tensor, Tensor]:
    """Places of the better and of the worse response of every strictly ordered pair, [N] each."""
    pairs = [
        (better, worse)
        for places, judgement in judged
        for better, rank in zip(places, judgement.ranks, strict=True)
        for worse, other in zip(places, judgement.ranks, strict=True)
        if rank < other
    ]
    both = torch.tensor(pairs, dtype=torch.long).view(-1, 2)
    return both[:, 0], both[:, 1]
