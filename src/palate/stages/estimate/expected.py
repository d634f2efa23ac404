"""What each stage is going to do, as far as its memory, its tokens and its time go: told before the weights are read.

What a stage computes is known from its data and its recipe; how long responses will be is not, so they are taken to be
as long as they may. Passes are laid out for real, but without numbers: models are sketches.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Any

from torch import Tensor

from palate.lm.adapters import base
from palate.lm.batch import Sequences
from palate.lm.model import LanguageModel, Model, ScalarModel
from palate.lm.sources.zoo import Precision, Sketch, sketch_model
from palate.recipe import (
    PPORecipe,
    PretrainRecipe,
    Reward,
    RLRecipe,
    RolloutRecipe,
    Sampling,
    SFTRecipe,
    StageRecipe,
)
from palate.records import Prompt
from palate.stages.estimate.network import Network
from palate.stages.estimate.passes import (
    adopt,
    computed,
    computing_trunk,
    decoding,
    first_above_trunk,
    frozen,
    heaviest,
    kept_rows,
    layers_of,
    learning,
    network,
    optimizer_of,
    responses_to,
    scoring,
    stored,
)
from palate.stages.estimate.workload import Scoring, Workload


def supervised(
    recipe: SFTRecipe,
    sketch: Sketch[LanguageModel],
    sequences: Sequences,
    batches: Sequence[Tensor],
    held_out: Sequences,
) -> Workload:
    """Of fine-tuning on these sequences, in these batches; ``held_out`` is looked at before and after."""
    net = network(recipe, sketch)
    looked_at = [scoring(net, held_out, recipe.microbatch_tokens)]
    return from_data(net, recipe, sequences, batches, held_out, looked_at, forward=2 * computed(held_out))


def pretrained(
    recipe: PretrainRecipe,
    sketch: Sketch[LanguageModel],
    batch: Sequences,
    held_out: Sequences,
    *,
    steps: Sequence[int],
    data: int,
) -> Workload:
    """Of pretraining.

    Args:
        batch: of one step; all have as many tokens.
        held_out: looked at now and then, and at the end.
        steps: tokens that are learned in each step.
        data: tokens of the documents.
    """
    net = network(recipe, sketch)
    looks = len(steps) // recipe.evaluate_every + 2
    return Workload(
        nets=[net],
        scoring=[scoring(net, held_out, recipe.microbatch_tokens)],
        learning=[learning(net, [batch], recipe, recipe.optimizer)],
        tokens=4 * data + stored(held_out),
        steps=steps,
        beside=looks * computed(held_out),
        data=data,
    )


def comparing(
    recipe: StageRecipe,
    sketch: Sketch[Any],
    sequences: Sequences,
    batches: Sequence[Tensor],
    held_out: Sequences,
) -> Workload:
    """Of a reward model, or of DPO, on these responses; in DPO all are looked at before the first step."""
    net = network(recipe, sketch)
    is_dpo = isinstance(net.model, LanguageModel)
    first = net.model.frozen_layers if kept_rows(net, sequences)[0] else 0
    looked_at = [scoring(net, held_out, recipe.microbatch_tokens, first=first)]
    forward = 2 * computed(held_out)
    if is_dpo or getattr(recipe, "normalize_on", "") == "train":
        looked_at.append(scoring(net, sequences, recipe.microbatch_tokens, first=first, at_first=is_dpo))
        forward += computed(sequences)
    return from_data(
        net,
        recipe,
        sequences,
        batches,
        held_out,
        looked_at,
        forward=forward,
        whole_groups=True,
        also_kept=kept_rows(net, held_out)[0] if is_dpo else 0,
    )


def from_data(
    net: Network,
    recipe: StageRecipe,
    sequences: Sequences,
    batches: Sequence[Tensor],
    held_out: Sequences,
    looked_at: Sequence[Scoring],
    *,
    forward: int,
    whole_groups: bool = False,
    also_kept: int = 0,
    also_stored: Sequence[Sequences] = (),
) -> Workload:
    """Of learning from sequences that are all there.

    Args:
        net: the model that learns.
        batches: rows of the sequences, those of each step.
        held_out: sequences to validate on.
        looked_at: passes without gradients before and after.
        forward: tokens computed in these.
        whole_groups: sequences of one prompt are never in two microbatches.
        also_kept: rows of the frozen layers' output beside those of the sequences.
        also_stored: sequences beside these and those held out.
    """
    kept, notes = kept_rows(net, sequences)
    selected = [sequences.select(rows) for rows in heaviest(sequences, batches)]
    return Workload(
        nets=[net],
        scoring=[*computing_trunk(net, sequences, recipe, at_first=True), *looked_at],
        learning=[learning(net, selected, recipe, optimizer_of(recipe), whole_groups=whole_groups)],
        trunk=kept + also_kept,
        tokens=stored(sequences, held_out, *also_stored),
        steps=[computed(sequences, rows) for rows in batches],
        beside=kept + forward,
        data=computed(sequences) + computed(held_out),
        notes=notes,
    )


def thumbed(
    recipe: StageRecipe,
    sketch: Sketch[LanguageModel],
    data: tuple[Sequences, Sequences],
    batches: Sequence[Tensor],
    held_out: tuple[Sequences, Sequences],
) -> Workload:
    """Of KTO: on the thumbs, and with a look at what the mismatched ones among them say, both before and in each step.

    Args:
        data: the thumbs, and each one's prompt with a response to another.
        held_out: the same, before and after.
    """
    net, (sequences, mismatched), tokens = network(recipe, sketch), data, recipe.microbatch_tokens
    kept, of_mismatched = (kept_rows(net, each)[0] for each in data)
    first = net.model.frozen_layers
    looked_at = [
        *computing_trunk(net, mismatched, recipe, at_first=True),
        *(scoring(net, part, tokens, at_first=True) for part in held_out),
        scoring(net, sequences, tokens, first=first if kept else 0, at_first=True),
        scoring(net, mismatched, tokens, first=first if of_mismatched else 0),
    ]
    epochs = sum(len(rows) for rows in batches) // max(1, len(sequences))
    forward = of_mismatched + computed(sequences) + (1 + epochs) * computed(mismatched)
    return from_data(
        net,
        recipe,
        sequences,
        batches,
        held_out[0],
        looked_at,
        forward=forward + 2 * sum(computed(part) for part in held_out),
        also_kept=of_mismatched,
        also_stored=(mismatched, held_out[1]),
    )


class Expected:
    """Sketches of the models of a reinforcement stage, and the lengths of its prompts.

    Attributes:
        references: one, if the recipe names it; otherwise the policy is held against itself as it was at first.
        lengths: in tokens, of the prompts of every step; the stage fills them in.
    """

    def __init__(self, recipe: RolloutRecipe) -> None:
        def sketch(name: str, kind: Any, template: str = "") -> Sketch[Any]:
            return sketch_model(name, kind, chat_template=template, precision=recipe.precision)

        self.policy: Sketch[LanguageModel] = sketch(recipe.model, LanguageModel, recipe.chat_template)
        self.teachers: list[Sketch[LanguageModel]] = [
            sketch(name, LanguageModel) for name in getattr(recipe, "teachers", ())
        ]
        self.references: list[Sketch[LanguageModel]] = [
            sketch(name, LanguageModel) for name in [getattr(recipe, "reference", "")] if name
        ]
        watched = recipe.overoptimization if isinstance(recipe, RLRecipe) else None
        held_out = [Reward(model=name) for name in (() if watched is None else watched.held_out)]
        self.rewards = sketch_rewards([*recipe.rewards, *held_out], recipe.precision)
        named = [name for term in recipe.rewards for name in term.models]
        value = (recipe.value_model or named[0]) if isinstance(recipe, PPORecipe) else ""
        self.value: Sketch[ScalarModel] | None = sketch(value, ScalarModel) if value else None
        self.lengths: list[list[int]] = []
        self.data = 0

    def fill_in(self, prompts: Sequence[Prompt], lengths: Sequence[int], steps: Sequence[Sequence[Prompt]]) -> None:
        """All prompts, how long each is, and those of every step."""
        length = {prompt.id: tokens for prompt, tokens in zip(prompts, lengths, strict=True)}
        self.data, self.lengths = sum(length.values()), [[length[prompt.id] for prompt in step] for step in steps]


def reinforced(recipe: RolloutRecipe, expected: Expected, minibatches: Any) -> Workload:
    """Of a stage that samples and learns from it; beside the policy is its reference, or are its teachers.

    The step is that whose prompts are longest, with responses as long as they may be.
    """
    policy = network(recipe, expected.policy)
    prompts = max(expected.lengths, key=sum)
    count, longest_response = recipe.responses_per_prompt, recipe.sampling.max_new_tokens
    sequences = responses_to(prompts, count, longest_response)
    kept, notes = kept_rows(policy, sequences)
    nets, device = [policy], expected.policy.counted_on
    beside: list[Model] = [each.anew() for each in (*expected.teachers, *expected.references)]
    itself = None if beside else base(policy.model) if recipe.adapter else expected.policy.anew()
    beside = [itself] if itself is not None else beside
    for model in (*beside, *(each.anew() for each in expected.rewards)):
        model.freeze_all(layers_of(recipe, model))
        nets.append(adopt(model, nets, device, is_read=model is not itself or not recipe.adapter))
    batches = minibatches(sequences, recipe.minibatches)
    learners = [learning(policy, batches, recipe, recipe.optimizer, first=first_above_trunk(policy, policy, kept))]
    if expected.value is not None:
        model = network(recipe, expected.value).model
        net, optimizer = adopt(model, nets, device), optimizer_of(recipe, "value_optimizer")
        nets.append(net)
        learners.append(learning(net, batches, recipe, optimizer, first=first_above_trunk(net, policy, kept)))
    scorers = [
        scoring(net, sequences, recipe.microbatch_tokens, first=first_above_trunk(net, policy, kept))
        for net in nets[1:]
    ]
    text = getattr(recipe, "pretraining", None)
    if text is not None:
        windows = Sequences.pack(
            [[0]] * text.sequences_per_step, [[0] * (text.sequence_length - 1)] * text.sequences_per_step
        )
        learners.insert(1, learning(policy, [windows], recipe, recipe.optimizer, several=True))
    passes = recipe.epochs * len(learners)
    each_step = [sum(prompts) + len(prompts) * count * longest_response for prompts in expected.lengths]
    return Workload(
        nets=nets,
        decoding=[decoding(policy, prompts, recipe.sampling, count)],
        scoring=[*computing_trunk(policy, sequences, recipe), *scorers],
        learning=learners,
        makes_room=not expected.teachers,  # who are asked while the policy learns
        trunk=kept,
        # of a step, and of the one before until this one is scored
        tokens=stored(sequences) + 4 * (5 if expected.value is None else 8) * sequences.tokens.numel(),
        steps=[tokens * passes for tokens in each_step],
        data=expected.data,
        notes=notes,
    )


def sampled(
    sketches: Sequence[Sketch[Any]], lengths: Sequence[int], sampling: Sampling, *, num_responses: int, at_once: int
) -> Workload:
    """Of drawing responses to prompts of these lengths, ``at_once`` in a step; other models are beside the first."""
    nets = [Network(frozen(each.model), each.counted_on) for each in sketches]
    steps = [list(lengths[start : start + at_once]) for start in range(0, len(lengths), at_once)]
    responses = at_once * num_responses * (max(lengths) + sampling.max_new_tokens)
    return Workload(
        nets=nets,
        decoding=[decoding(nets[0], max(steps, key=sum), sampling, num_responses)],
        tokens=13 * responses,
        steps=[sum(step) + len(step) * num_responses * sampling.max_new_tokens for step in steps],
        data=sum(lengths),
    )


def asked(
    sketch: Sketch[LanguageModel], lengths: Sequence[Sequence[int]], *, num_answers: int, max_tokens: int
) -> Workload:
    """Of reading off how likely each of a few short answers is, to questions of these lengths, those of every step."""
    net = Network(frozen(sketch.model), sketch.counted_on)
    sequences = responses_to(max(lengths, key=sum), num_answers, 1)
    return Workload(
        nets=[net],
        scoring=[scoring(net, sequences, max_tokens)],
        tokens=13 * sequences.tokens.numel(),
        steps=[sum(step) + num_answers * len(step) for step in lengths],
        data=sum(map(sum, lengths)),
    )


def judged(
    drawing: Sequence[Sketch[LanguageModel]],
    judges: Sequence[Sketch[ScalarModel]],
    lengths: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    num_responses: int,
    max_tokens: int,
) -> Workload:
    """Of drawing responses to prompts of these lengths from one model after the other, and judging all of them.

    Where there are two models, the last is asked about the responses of the first as well.
    """
    nets: list[Network] = []
    sketches: list[Sketch[Any]] = [*drawing, *judges]
    for sketch in sketches:
        nets.append(adopt(frozen(sketch.anew()), nets, sketch.counted_on))
    models, scorers = nets[: len(drawing)], nets[len(drawing) :]
    drawn = [responses_to(each, num_responses, sampling.max_new_tokens) for each in lengths]
    asked = [(net, sequences) for net in scorers for sequences in drawn]
    asked += [(models[-1], sequences) for sequences in drawn[:-1]]
    return Workload(
        nets=nets,
        decoding=[decoding(net, each, sampling, num_responses) for net, each in zip(models, lengths, strict=True)],
        scoring=[scoring(net, sequences, max_tokens) for net, sequences in asked],
        tokens=sum(13 * sequences.tokens.numel() for sequences in drawn),
        beside=sum(computed(sequences) for sequences in drawn) + sum(computed(sequences) for _, sequences in asked),
        data=sum(lengths[0]),
    )


def scored(
    sketches: Sequence[Sketch[ScalarModel]],
    lengths: Sequence[int],
    *,
    num_responses: int,
    longest: int,
    max_tokens: int,
) -> Workload:
    """Of scoring responses of at most ``longest`` tokens to prompts of these lengths; nothing is drawn."""
    nets: list[Network] = []
    for sketch in sketches:
        nets.append(adopt(frozen(sketch.anew()), nets, sketch.counted_on))
    sequences = responses_to(lengths, num_responses, longest)
    return Workload(
        nets=nets,
        scoring=[scoring(net, sequences, max_tokens) for net in nets],
        tokens=13 * sequences.tokens.numel(),
        beside=len(nets) * computed(sequences),
        data=sum(lengths),
    )


def sketch_rewards(terms: Sequence[Reward], precision: Precision) -> list[Sketch[ScalarModel]]:
    """The models that the terms of a reward name, each once."""
    names = dict.fromkeys(name for term in terms for name in term.models)
    return [sketch_model(name, ScalarModel, precision=precision) for name in names]


def measured(
    sketch: Sketch[LanguageModel],
    longest: Sequences,
    *,
    prompts: Sequence[int],
    sampling: Sampling,
    num_responses: int,
    max_tokens: int,
    tokens: int,
    has_twin: bool = False,
) -> Workload:
    """Of a card's questions to one model.

    Args:
        longest: contexts and continuations, perhaps none.
        prompts: lengths of those that it responds to.
        tokens: computed in all.
        has_twin: continuations were sampled, and are read as in training; attention is then as wide.
    """
    net = adopt(frozen(sketch.anew()), [], sketch.counted_on)
    reader = copy(net)
    reader.a = net.a if has_twin else net.c
    return Workload(
        nets=[net],
        decoding=[decoding(net, prompts, sampling, num_responses)] if prompts else [],
        scoring=[scoring(reader, longest, max_tokens)] if len(longest) else [],
        tokens=4 * max_tokens * 9,
        beside=tokens,
        data=tokens,
    )


def one_after_the_other(workloads: Sequence[Workload], *, notes: Sequence[str] = ()) -> Workload:
    """Of models that are in memory one at a time: the heaviest, and the tokens of all; ``notes`` are told besides."""
    heaviest = max(workloads, key=lambda each: each.peak.total)
    beside, data = sum(each.beside for each in workloads), max(each.data for each in workloads)
    return replace(heaviest, beside=beside, data=data, notes=[*heaviest.notes, *notes])
