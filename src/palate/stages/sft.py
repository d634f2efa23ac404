"""Supervised fine-tuning: behaviour cloning on demonstrations.

The loss is the mean negative log-likelihood of the assistant's tokens, the stop token included (a model that never sees
it never stops); prompts carry no loss. Sequences are laid out one after the other without padding, so packing needs no
switch and nothing can leak from one demonstration into the next.

Left out: loss on prompts, noise on embeddings, curricula.

Ouyang et al. 2022 (arXiv 2203.02155), section 3.5. Run it: `palate sft recipes/sft.toml`.
"""

from __future__ import annotations

from functools import partial

import torch

from palate.corpus import read_demonstrations
from palate.corpus.splits import split
from palate.lm.batch import Sequences
from palate.lm.encode import encode_demonstrations
from palate.lm.microbatches import in_parts
from palate.lm.model import LanguageModel
from palate.lm.optim import Optimizer
from palate.lm.sources.zoo import load_language_model, sketch_model
from palate.objectives.losses import sft_loss
from palate.recipe import SFTRecipe
from palate.records import AI
from palate.run.directory import Run
from palate.run.trackers import showing
from palate.stages.common import (
    combined,
    finish_run,
    floats,
    loading,
    longest,
    plan,
    prepare,
    say_chat,
    say_left_out,
    spread,
    write_model,
)
from palate.stages.estimate.expected import supervised
from palate.stages.estimate.fitting import expect
from palate.stages.estimate.trial import some


def train(recipe: SFTRecipe, run: Run) -> None:
    """Fine-tune ``recipe.model`` on demonstrations and write it to ``run``."""
    sketch = sketch_model(recipe.model, LanguageModel, chat_template=recipe.chat_template, precision=recipe.precision)
    chat = sketch.chat
    prepare(sketch.model, recipe)

    data = read_demonstrations(recipe.data)
    run.add_inputs({"data": data.files})
    learned, held_out = (some(run, part, 2 * recipe.batch_size) for part in split(data.records, recipe.holdout))
    max_length, limit = longest(recipe, sketch.model)
    train_set = encode_demonstrations(chat, learned, max_length=max_length, limit=limit)
    validation = encode_demonstrations(chat, held_out, max_length=max_length, limit=limit)
    left_out = say_left_out(
        run,
        data,
        {"to learn from": (learned, train_set.left_out), "to validate on": (held_out, validation.left_out)},
        of=len(data.records),
        max_left_out=recipe.max_left_out,
    )
    say_chat(run, chat, (item.prompt for item in data.records))
    batches = plan(len(train_set.sequences), recipe.batch_size, recipe.epochs, recipe.seed_of("order"), "sft")
    recipe = expect(
        run,
        recipe,
        sketch.device,
        lambda recipe: supervised(recipe, sketch, train_set.sequences, batches, validation.sequences),
    )

    with loading(recipe.cluster):
        loaded = load_language_model(recipe.model, chat_template=recipe.chat_template, precision=recipe.precision)
    model = loaded.model
    prepare(model, recipe)
    run.add_inputs({"model": loaded.weights})
    spread(run, recipe.cluster, [model])
    sequences = train_set.sequences.to(model.device)
    with showing("frozen layers") as show:
        trunk = model.trunk(sequences, max_tokens=recipe.microbatch_tokens, show=show)

    before = perplexity(model, validation.sequences.to(model.device), recipe.microbatch_tokens)
    optimizer = Optimizer(model, recipe.optimizer, len(batches), name="policy")

    for step in run.steps(
        len(batches), every=recipe.checkpoint_every, keep=recipe.keep_checkpoints, state={"policy": optimizer}
    ):
        batch = sequences.select(batches[step])
        num_tokens = int(batch.mask.sum())
        computed = []
        for microbatch in batch.microbatches(recipe.microbatch_tokens):
            logprobs = model.logprobs(microbatch, temperature=1.0, trunk=trunk)
            loss, metrics = sft_loss(logprobs, microbatch.mask, denominator=num_tokens)
            loss.backward()
            computed.append(metrics)
        run.log(step, floats(combined(computed)) | optimizer.step(step) | {"data/left_out": left_out})

    after = perplexity(model, validation.sequences.to(model.device), recipe.microbatch_tokens)
    write_model(run, recipe, loaded)
    finish_run(
        run,
        {
            "demonstrations": len(train_set.kept),
            "demonstrations_by_ai": sum(learned[place].author.startswith(AI) for place in train_set.kept),
            "left_out": left_out,
            "perplexity_before": before,
            "perplexity": after,
        },
    )


def perplexity(model: LanguageModel, sequences: Sequences, max_tokens: int) -> float:
    """exp of the mean negative log-likelihood per masked token, at temperature 1."""
    logprobs = partial(model.logprobs, temperature=1.0)
    total = sum(float(part.sum()) for _, part in in_parts(sequences, max_tokens, logprobs, "the perplexity"))
    return float(torch.tensor(-total / int(sequences.mask.sum())).exp())
