"""Kahneman-Tversky optimisation: the policy learns from thumbs, each about one response alone.

A response with a thumb up is to become more likely than it was, by more than the policy has moved anyway; one with a
thumb down, less likely. How far it has moved is estimated as the paper does it: from responses that stand after
*another* prompt than their own. Each thumb's prompt has one such response, drawn once and the same in every epoch, so
that what the reference thinks of it is computed once; the estimate of a step is that of its own thumbs.

Left out: rankings of several responses (`dpo` knows what to do with their order), and ratings in between.

Ethayarajh et al. 2024 (arXiv 2402.01306). Run it: `palate kto recipes/kto.toml`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from palate.corpus import Read, read_rankings
from palate.corpus.splits import split
from palate.errors import DataError
from palate.lm.batch import Sequences
from palate.lm.encode import Encoded, LeftOut, encode_responses
from palate.lm.microbatches import in_parts
from palate.lm.model import LanguageModel
from palate.lm.optim import Optimizer
from palate.lm.sources.zoo import load_language_model, sketch_model
from palate.objectives.direct import kto_loss, kto_reference_point
from palate.randomness import permutation
from palate.recipe import KTORecipe
from palate.records import Ranking
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
    response_logprobs,
    say_chat,
    say_left_out,
    spread,
    write_model,
)
from palate.stages.estimate.expected import thumbed
from palate.stages.estimate.fitting import expect
from palate.stages.estimate.trial import some

NEUTRAL = 4.0
"""Between a thumb up and a thumb down, on the scale of ratings."""


def train(recipe: KTORecipe, run: Run) -> None:
    """Fine-tune ``recipe.model`` on thumbs and write it to ``run``."""
    sketch = sketch_model(recipe.model, LanguageModel, chat_template=recipe.chat_template, precision=recipe.precision)
    chat = sketch.chat
    prepare(sketch.model, recipe)

    data = read_rankings(recipe.data)
    run.add_inputs({"data": data.files})
    rated = thumbs(data)
    learned, held_out = (some(run, part, 2 * recipe.batch_size) for part in split(rated, recipe.holdout))
    max_length, limit = longest(recipe, sketch.model)
    encoded, held_out_encoded = (
        encode_responses(
            chat, [each.prompt for each in part], [said(each) for each in part], max_length=max_length, limit=limit
        )
        for part in (learned, held_out)
    )
    # of the held-out responses none is seen before the end
    order = recipe.seed_of("order")
    matched = partial(thumb_set, among=encoded.sequences, seed=order, max_length=max_length, device=sketch.device)
    train_set, validation = matched(learned, encoded), matched(held_out, held_out_encoded)
    left_out = say_left_out(
        run,
        data,
        {"to learn from": (learned, train_set.left_out), "to validate on": (held_out, validation.left_out)},
        of=len(rated),
        max_left_out=recipe.max_left_out,
    )
    say_chat(run, chat, (thumb.prompt for thumb in rated))
    steps = plan(len(train_set.desirable), recipe.batch_size, recipe.epochs, order, "kto")
    recipe = expect(
        run,
        recipe,
        sketch.device,
        lambda recipe: thumbed(
            recipe,
            sketch,
            (train_set.sequences, train_set.mismatched),
            steps,
            (validation.sequences, validation.mismatched),
        ),
    )

    with loading(recipe.cluster):
        loaded = load_language_model(recipe.model, chat_template=recipe.chat_template, precision=recipe.precision)
    policy = loaded.model
    prepare(policy, recipe)
    run.add_inputs({"model": loaded.weights})
    spread(run, recipe.cluster, [policy])
    with showing("frozen layers") as show:
        trunk = policy.trunk(train_set.sequences, max_tokens=recipe.microbatch_tokens, show=show)
    mismatched_trunk = policy.trunk(train_set.mismatched, max_tokens=recipe.microbatch_tokens)
    logprobs_of = partial(
        response_logprobs, policy, temperature=recipe.temperature, max_tokens=recipe.microbatch_tokens
    )
    # before the first step the policy is its own reference
    reference, mismatched_reference = (
        logprobs_of(train_set.sequences, trunk),
        logprobs_of(train_set.mismatched, mismatched_trunk),
    )
    held_out_reference = logprobs_of(validation.sequences, None), logprobs_of(validation.mismatched, None)
    loss_of_thumbs = partial(
        kto_loss,
        beta=recipe.beta,
        desirable_weight=recipe.desirable_weight,
        undesirable_weight=recipe.undesirable_weight,
    )
    optimizer = Optimizer(policy, recipe.optimizer, len(steps), name="policy")

    for step in run.steps(
        len(steps), every=recipe.checkpoint_every, keep=recipe.keep_checkpoints, state={"policy": optimizer}
    ):
        batch, mismatched = (each.select(steps[step]) for each in (train_set.sequences, train_set.mismatched))
        others = partial(policy.logprobs, temperature=recipe.temperature, trunk=mismatched_trunk)
        found = in_parts(mismatched, recipe.microbatch_tokens, others, "the reference point")
        log_ratios = torch.cat([part.sum(1) - mismatched_reference[microbatch.rows] for microbatch, part in found])
        reference_point = kto_reference_point(log_ratios)
        computed = []
        for microbatch in batch.microbatches(recipe.microbatch_tokens):
            logprobs = policy.logprobs(microbatch, temperature=recipe.temperature, trunk=trunk).sum(1)
            loss, metrics = loss_of_thumbs(
                logprobs,
                reference[microbatch.rows],
                train_set.desirable[microbatch.rows],
                reference_point=reference_point,
                denominator=len(batch),
            )
            loss.backward()
            computed.append(metrics)
        moved = {"kto/kl": float(log_ratios.mean()), "kto/reference_point": float(reference_point)}
        run.log(step, floats(combined(computed)) | moved | optimizer.step(step) | {"data/left_out": left_out})

    after = logprobs_of(validation.sequences, None), logprobs_of(validation.mismatched, None)
    _, metrics = loss_of_thumbs(
        after[0],
        held_out_reference[0],
        validation.desirable,
        reference_point=kto_reference_point(after[1] - held_out_reference[1]),
    )
    write_model(run, recipe, loaded)
    finish_run(
        run,
        {
            "thumbs": len(train_set.desirable),
            "thumbs_up": int(train_set.desirable.sum()),
            "left_out": left_out,
            "held_out_accuracy": float(metrics["kto/accuracy"]),
        },
    )


def thumbs(data: Read[Ranking]) -> list[Ranking]:
    """The judgements of one response that say good or bad; the others are counted in ``data.rejected``.

    Raises:
        DataError: there is none.
    """
    problems = [(ranking, _problem(ranking)) for ranking in data.records]
    data.reject((ranking, problem) for ranking, problem in problems if problem)
    kept = [ranking for ranking, problem in problems if not problem]
    if not kept:
        counted = "; ".join(f"{count}: {reason}" for reason, count in Counter(each for _, each in problems).items())
        raise DataError(
            f"no thumb to learn from ({counted}). `palate dpo` learns from rankings; `palate data export --format "
            "trl-kto` makes thumbs of them"
        )
    return kept


def _problem(ranking: Ranking) -> str:
    """Why a judgement is no thumb."""
    if len(ranking.responses) > 1:
        return "a comparison of several responses, not a thumb"
    if ranking.ratings is None or ranking.ratings[0] == NEUTRAL:
        return "neither good nor bad: no thumb"
    if ranking.responses[0].tool_calls:
        return "a response that calls a tool: only texts are learned"
    return ""


def is_up(thumb: Ranking) -> bool:
    """Whether the response was liked."""
    return thumb.ratings is not None and thumb.ratings[0] > NEUTRAL


@dataclass(frozen=True, slots=True, kw_only=True)
class ThumbSet:
    """Thumbs as tensors.

    Attributes:
        sequences: N, the prompt and the response of each thumb.
        mismatched: N, the prompt of each and a response to another prompt.
        desirable: [N] bool, thumb up.
        left_out: thumbs that cannot be used; the index is that among those that were given.
    """

    sequences: Sequences
    mismatched: Sequences
    desirable: Tensor
    left_out: tuple[LeftOut, ...]


LONE = "no response to another prompt fits behind its prompt: KTO needs thumbs about two prompts or more"


def thumb_set(
    rated: Sequence[Ranking], encoded: Encoded, *, among: Sequences, seed: int, max_length: float, device: str
) -> ThumbSet:
    """Thumbs with a response to another prompt for each of their prompts; those without one are left out.

    Args:
        encoded: prompts and responses of ``rated``.
        among: prompts and responses, of which the others are taken.
    """
    prompts, own, responses = prompts_of(encoded.sequences), encoded.sequences.responses(), among.responses()
    others = mismatched(prompts, among, seed=seed, max_length=max_length)
    found = [(row, other) for row, other in enumerate(others) if other is not None]
    lone = (LeftOut(index=encoded.kept[row], reason=LONE) for row, other in enumerate(others) if other is None)
    groups = encoded.sequences.group_ids.tolist()

    def packed(following: Sequence[Sequence[int]]) -> Sequences:
        group_ids = [groups[row] for row, _ in found]
        return Sequences.pack([prompts[row] for row, _ in found], following, group_ids=group_ids).to(
            torch.device(device)
        )

    return ThumbSet(
        sequences=packed([own[row] for row, _ in found]),
        mismatched=packed([responses[other] for _, other in found]),
        desirable=torch.tensor([is_up(rated[encoded.kept[row]]) for row, _ in found], dtype=torch.bool, device=device),
        left_out=(*encoded.left_out, *lone),
    )


def mismatched(prompts: Sequence[Sequence[int]], among: Sequences, *, seed: int, max_length: float) -> list[int | None]:
    """For each prompt the row ``among`` others of a response to another prompt that fits behind it, in random order."""
    answered, lengths = prompts_of(among), [len(each) for each in among.responses()]
    order = permutation(len(among), seed, "kto", "mismatched").tolist()
    found: list[int | None] = []
    for place, prompt in enumerate(prompts):
        around = (order[(place + turn) % len(order)] for turn in range(len(order)))
        fits = (row for row in around if answered[row] != prompt and len(prompt) + lengths[row] <= max_length)
        found.append(next(fits, None))
    return found


def prompts_of(sequences: Sequences) -> list[list[int]]:
    """Token ids of each prompt."""
    spans = zip(sequences.tokens.tolist(), sequences.prompt_lengths.tolist(), strict=True)
    return [tokens[:length] for tokens, length in spans]


def said(thumb: Ranking) -> str:
    """The response."""
    return thumb.responses[0].text
