"""Pretraining: a model that completes text, new or continued.

Next-token cross-entropy on raw documents. They are packed into rows of equal length, in which no document sees another
and every token is learned once in a pass (`lm/pretraining/packing.py`). A new model gets a tokenizer trained on the
documents that it learns from, a shape of Llama's and weights drawn from the seed; it lies in the run's directory as
any other model does, and learns as one that is continued. Documents that are measured on are told from the others by a
hash of their text, so that a copy is on the same side.

Bits per byte compare models of any tokenizer: the nats of all tokens, the end of a document included, over its bytes.

Left out: curricula, mixtures of sources by weight, batch sizes that grow, filtering (`palate data filter`).

Radford et al. 2019 ("Language models are unsupervised multitask learners"); passes over the same data: Muennighoff et
al. 2023 (arXiv 2305.16264). Run it: `palate pretrain recipes/pretrain.toml`.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palate import disk
from palate.corpus import read_texts
from palate.corpus.splits import split_texts
from palate.errors import DataError, RecipeError
from palate.lm.batch import Sequences
from palate.lm.chat import Chat
from palate.lm.microbatches import in_parts
from palate.lm.model import LanguageModel
from palate.lm.optim import Optimizer
from palate.lm.pretraining.packing import Documents, Rows
from palate.lm.pretraining.sizes import draw, new_config, write_new
from palate.lm.pretraining.vocabulary import train_tokenizer
from palate.lm.sources.zoo import load_chat, load_language_model, sketch_model
from palate.objectives.losses import sft_loss
from palate.randomness import permutation
from palate.recipe import PretrainRecipe
from palate.records import Prompt, text_id
from palate.rollout import local
from palate.run.directory import Run
from palate.run.trackers import showing
from palate.run.world import world
from palate.stages.common import combined, finish_run, loading, plan, prepare, say_chat, spread, write_model
from palate.stages.estimate.expected import pretrained
from palate.stages.estimate.fitting import expect
from palate.stages.estimate.trial import some

NEW = "new"
"""Under this name a new model lies in the run's directory until the run is finished."""
BEGINNING = 8
"""Tokens of a held-out document that are given where the rest is sampled."""
MANY_PASSES = 4
"""Up to so many, a token that is seen again is worth about as much as a new one: Muennighoff et al. 2023."""


def train(recipe: PretrainRecipe, run: Run) -> None:
    """Train on ``recipe.data`` and write the model to ``run``."""
    learned, held_out = documents(recipe, run)
    name = recipe.model or str(new_model(recipe, run, learned))
    sketch = sketch_model(name, LanguageModel, chat_template=recipe.chat_template, precision=recipe.precision)
    prepare(sketch.model, recipe)
    check_lengths(recipe, sketch.model.context)
    say_chat(run, sketch.chat, [])
    with showing("documents") as show:
        train_set = Documents.of(sketch.chat, learned, show=show)
    test_set = Documents.of(sketch.chat, some(run, held_out, 2))
    validation = Rows(test_set, np.arange(len(test_set)), recipe.sequence_length).everything()

    num_rows = train_set.num_rows(recipe.sequence_length)
    batches = plan_steps(recipe, num_rows)
    steps_a_pass = math.ceil(num_rows / recipe.batch_size)
    tokens_seen = np.cumsum([train_set.num_learned_in(rows.numpy(), recipe.sequence_length) for rows in batches])
    account(run, train_set, test_set, int(tokens_seen[-1]))
    recipe = expect(
        run,
        recipe,
        sketch.device,
        lambda recipe: pretrained(
            recipe,
            sketch,
            a_pass(recipe, train_set, 0).select(batches[0].numpy()),
            validation,
            steps=np.diff(tokens_seen, prepend=0).tolist(),
            data=train_set.num_learned,
        ),
    )

    if not recipe.model:
        draw_weights(Path(name), sketch.model.config, sketch.chat, recipe.seed_of("initial"))
    with loading(recipe.cluster):
        loaded = load_language_model(name, chat_template=recipe.chat_template, precision=recipe.precision)
    model = loaded.model
    prepare(model, recipe)
    run.add_inputs({"model": loaded.weights})
    spread(run, recipe.cluster, [model])
    validation = validation.to(model.device)
    before = measure(model, validation, test_set.num_bytes, recipe.microbatch_tokens) if recipe.model else {}
    optimizer = Optimizer(model, recipe.optimizer, len(batches), name="policy")
    number, rows = 0, a_pass(recipe, train_set, 0)

    for step in run.steps(
        len(batches), every=recipe.checkpoint_every, keep=recipe.keep_checkpoints, state={"policy": optimizer}
    ):
        begun = time.perf_counter()
        if step // steps_a_pass != number:
            number = step // steps_a_pass
            rows = a_pass(recipe, train_set, number)
        batch = rows.select(batches[step].numpy()).to(model.device)
        num_tokens, computed = int(batch.mask.sum()), []
        for microbatch in batch.microbatches(recipe.microbatch_tokens):
            logprobs = model.logprobs(microbatch, temperature=1.0)
            loss, metrics = sft_loss(logprobs, microbatch.mask, denominator=num_tokens)
            loss.backward()
            computed.append(metrics)
        told = {"pretrain/loss": float(combined(computed)["sft/loss"])} | optimizer.step(step)
        told["time/tokens_per_s"] = num_tokens / (time.perf_counter() - begun)
        told["pretrain/tokens"] = int(tokens_seen[step])
        told["pretrain/passes"] = int(tokens_seen[step]) / train_set.num_learned
        is_last = step + 1 == len(batches)
        if is_last or (step + 1) % recipe.evaluate_every == 0:
            told |= measure(model, validation, test_set.num_bytes, recipe.microbatch_tokens)
        run.log(step, told)
        if is_last:
            run.samples(step, continued(model, loaded.chat, test_set, recipe))

    after = measure(model, validation, test_set.num_bytes, recipe.microbatch_tokens)
    write_model(run, recipe, loaded)
    shutil.rmtree(run.directory / NEW, ignore_errors=True)
    finish_run(
        run,
        {name.partition("/")[2]: value for name, value in after.items()}
        | {f"{name.partition('/')[2]}_before": value for name, value in before.items()}
        | {
            "documents": len(train_set),
            "held_out_documents": len(test_set),
            "tokens": train_set.num_learned,
            "tokens_seen": int(tokens_seen[-1]),
            "passes": int(tokens_seen[-1]) / train_set.num_learned,
            "vocabulary": len(loaded.chat.tokenizer),
            "weights": sum(weight.numel() for weight in model.parameters()),
        },
    )


def documents(recipe: PretrainRecipe, run: Run) -> tuple[list[str], list[str]]:
    """What is learned from, and what is measured on; no text of one is among the other, whatever its case and blanks.

    Raises:
        DataError: one of them would be empty.
    """
    data = read_texts(recipe.data)
    run.add_inputs({"data": data.files})
    if recipe.held_out is None:
        learned, held_out = split_texts(data.records, recipe.held_out_fraction)
    else:
        others = read_texts(recipe.held_out)
        run.add_inputs({"held_out": others.files})
        known, held_out = {text_id(text) for text in others.records}, list(others.records)
        learned = [text for text in data.records if text_id(text) not in known]
        data.reject((text, "is held out") for text in data.records if text_id(text) in known)
        for line in (*others.remarks, *str(others.rejected).splitlines()):
            run.note(f"held out: {line}")
        if not learned:
            raise DataError("every document of it is among those that are held out", path=recipe.data.path)
    for line in (*data.remarks, *str(data.rejected).splitlines()):
        run.note(line)
    return some(run, learned, 2 * recipe.batch_size), held_out


def new_model(recipe: PretrainRecipe, run: Run, texts: Sequence[str]) -> Path:
    """A directory in the run's with the config and the tokenizer of a model without weights."""
    directory = run.directory / NEW

    def make() -> None:
        if run.resumed and (directory / "config.json").exists():
            return
        settings = recipe.vocabulary
        tokenizer = load_chat(settings.model).tokenizer if settings.model else train_tokenizer(texts, settings.size)
        if not settings.model and len(tokenizer) < settings.size:
            run.note(f"vocabulary: {len(tokenizer)} tokens instead of {settings.size}: the text has no more to merge")
        config = new_config(recipe.architecture, tokenizer, context=recipe.sequence_length + 1)
        disk.write_directory(directory, lambda temporary: write_new(temporary, config, tokenizer, {}))

    world().once(make, "the new model's tokenizer")
    return directory


def draw_weights(directory: Path, config: Any, chat: Chat, seed: int) -> None:
    """First weights beside config and tokenizer, unless they are there."""

    def write() -> None:
        if not (directory / "model.safetensors").exists():
            weights = draw(config, seed)
            disk.write_directory(directory, lambda temporary: write_new(temporary, config, chat.tokenizer, weights))

    world().once(write, "the new model's weights")


def check_lengths(recipe: PretrainRecipe, context: float) -> None:
    """Raises:
    RecipeError: rows, or samples, are longer than what the model was made for.
    """
    if recipe.sequence_length >= context:
        raise RecipeError(
            f"sequence_length = {recipe.sequence_length}, but with the token before them that is more than the "
            f"{context} the model was made for: lower it"
        )
    longest = 1 + BEGINNING + recipe.sampling.max_new_tokens
    if recipe.num_samples and longest > context:
        raise RecipeError(
            f"samples of {BEGINNING} tokens and sampling.max_new_tokens = {recipe.sampling.max_new_tokens} more do "
            f"not fit the model's context of {context}: lower it, or set num_samples = 0"
        )


def plan_steps(recipe: PretrainRecipe, num_rows: int) -> list[Tensor]:
    """The rows of every step: each pass has an order of its own, and its last step may be smaller."""
    steps = recipe.steps or max(1, round((recipe.epochs or 1.0) * math.ceil(num_rows / recipe.batch_size)))
    passes = math.ceil(steps * recipe.batch_size / num_rows)
    return plan(num_rows, recipe.batch_size, passes, recipe.seed_of("order"), recipe.stage)[:steps]


def a_pass(recipe: PretrainRecipe, train_set: Documents, number: int) -> Rows:
    """The documents in the order of this pass."""
    order = permutation(len(train_set), recipe.seed_of("order"), recipe.stage, "documents", number)
    return Rows(train_set, order, recipe.sequence_length)


def account(run: Run, train_set: Documents, test_set: Documents, seen: int) -> None:
    """Say how much there is to learn from, and how often it repeats."""
    run.say(
        f"documents: {len(train_set):,} with {train_set.num_learned:,} tokens to learn from "
        f"({train_set.num_bytes / train_set.num_learned:.2f} bytes each), {len(test_set):,} to measure on"
    )
    passes = seen / train_set.num_learned
    if passes > 1:
        harm = f"up to {MANY_PASSES} do little harm"
        verdict = "more text would help more than more passes" if passes > MANY_PASSES else harm
        run.note(f"the data repeats: {seen:,} tokens are {passes:.1f} passes over {train_set.num_learned:,}; {verdict}")


def measure(model: LanguageModel, validation: Sequences, num_bytes: int, max_tokens: int) -> dict[str, float]:
    """The loss on held-out documents, their ends included, in nats per token and in bits per byte of their text."""
    found = in_parts(validation, max_tokens, partial(model.logprobs, temperature=1.0), "the held-out loss")
    nats = -sum(float(part.double().sum()) for _, part in found)
    return {
        "pretrain/held_out_loss": nats / int(validation.mask.sum()),
        "pretrain/bits_per_byte": nats / math.log(2) / num_bytes,
    }


@torch.no_grad()
def continued(model: LanguageModel, chat: Chat, test_set: Documents, recipe: PretrainRecipe) -> list[dict[str, object]]:
    """How the model goes on where the first held-out documents begin."""
    if not recipe.num_samples:
        return []
    beginnings = [test_set.beginning(number, BEGINNING) for number in range(min(recipe.num_samples, len(test_set)))]
    texts = [chat.text(tokens) for tokens in beginnings]
    key = (recipe.seed, recipe.stage, "samples")
    drawn = [
        local.undrawn(number, Prompt.from_text(text), number, recipe.sampling, key) for number, text in enumerate(texts)
    ]
    with model.whole() as whole:
        for _ in local.steps(whole, beginnings, drawn, recipe.sampling, chat.stop_id):
            pass
    return [
        {"prompt": text, "response": chat.text(response.tokens)} for text, response in zip(texts, drawn, strict=True)
    ]
