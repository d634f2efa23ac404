"""What each stage is going to do, as far as its memory, its tokens and its time go: told before the weights are read.

What a stage computes is known from its data and its recipe; how long responses will be is not, so they are taken to be
as long as they may. Passes are laid out for real, but without numbers: models are sketches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from palate.corpus import read_prompts
from palate.lm.adapters import arrange, base
from palate.lm.batch import Sequences
from palate.lm.encode import usable_prompts
from palate.lm.model import LanguageModel, Model, ScalarModel
from palate.lm.sources.zoo import Sketch, sketch_model, stored_alike
from palate.machine import gb
from palate.recipe import PPORecipe, RLRecipe, Sampling, SFTRecipe, StageRecipe
from palate.rollout.slots import PREFILL_TOKENS
from palate.stages.estimate import footprint
from palate.stages.estimate.footprint import Network, Pass, Small
from palate.stages.estimate.workload import Decoding, Learning, Scoring, Workload

LOOKED_AT = 2000
"""Of a pass over all data the longest sequences, this many, are laid out to find its largest part."""
HEAVIEST = 8
"""Of all batches those with the most tokens, this many, are laid out to find the largest microbatch."""


def supervised(
    recipe: SFTRecipe,
    sketch: Sketch[LanguageModel],
    sequences: Sequences,
    batches: Sequence[Tensor],
    held_out: Sequences,
) -> Workload:
    """Of fine-tuning on these sequences, in these batches; ``held_out`` is looked at before and after."""
    net = network(recipe, sketch)
    kept, notes = kept_rows(net, sequences)
    return Workload(
        nets=[net],
        scoring=[
            *computing_trunk(net, sequences, recipe, at_first=True),
            scoring(net, held_out, recipe.microbatch_tokens),
        ],
        learning=[learning(net, [sequences.select(rows) for rows in heaviest(sequences, batches)], recipe)],
        trunk=kept,
        tokens=stored(sequences, held_out),
        steps=[computed(sequences, rows) for rows in batches],
        beside=kept + 2 * computed(held_out),
        data=computed(sequences) + computed(held_out),
        notes=notes,
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
    kept, notes = kept_rows(net, sequences)
    first = net.model.frozen_layers if kept else 0
    looked_at = [scoring(net, held_out, recipe.microbatch_tokens, first=first)]
    is_dpo = isinstance(net.model, LanguageModel)
    if is_dpo or getattr(recipe, "normalize_on", "") == "train":
        looked_at.append(scoring(net, sequences, recipe.microbatch_tokens, first=first, at_first=is_dpo))
    of_held_out = kept_rows(net, held_out)[0] if is_dpo else 0
    return Workload(
        nets=[net],
        scoring=[*computing_trunk(net, sequences, recipe, at_first=True), *looked_at],
        learning=[
            learning(net, [sequences.select(rows) for rows in heaviest(sequences, batches)], recipe, whole_groups=True)
        ],
        trunk=kept + of_held_out,
        tokens=stored(sequences, held_out),
        steps=[computed(sequences, rows) for rows in batches],
        beside=kept + 2 * computed(held_out) + (computed(sequences) if len(looked_at) > 1 else 0),
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
    net = network(recipe, sketch)
    (sequences, mismatched), tokens = data, recipe.microbatch_tokens
    (kept, notes), (of_mismatched, _) = (kept_rows(net, each) for each in data)
    first = net.model.frozen_layers
    passes = [
        *(each for part in data for each in computing_trunk(net, part, recipe, at_first=True)),
        *(scoring(net, part, tokens, at_first=True) for part in held_out),
        scoring(net, sequences, tokens, first=first if kept else 0, at_first=True),
        scoring(net, mismatched, tokens, first=first if of_mismatched else 0),
    ]
    epochs = sum(len(rows) for rows in batches) // max(1, len(sequences))
    return Workload(
        nets=[net],
        scoring=passes,
        learning=[learning(net, [sequences.select(rows) for rows in heaviest(sequences, batches)], recipe)],
        trunk=kept + of_mismatched,
        tokens=stored(*data, *held_out),
        steps=[computed(sequences, rows) for rows in batches],
        beside=kept
        + of_mismatched
        + computed(sequences)
        + (1 + epochs) * computed(mismatched)
        + 2 * sum(computed(part) for part in held_out),
        data=computed(sequences) + computed(held_out[0]),
        notes=notes,
    )


class Expected:
    """Sketches of the models of a reinforcement stage, and the lengths of its prompts, by step."""

    def __init__(self, recipe: RLRecipe, prompts_of_step: Any) -> None:
        def sketch(name: str, kind: Any, template: str = "") -> Sketch[Any]:
            return sketch_model(name, kind, chat_template=template, precision=recipe.precision)

        self.policy = sketch(recipe.model, LanguageModel, recipe.chat_template)
        named = list(dict.fromkeys(name for term in recipe.rewards for name in term.models))
        self.rewards = [sketch(name, ScalarModel) for name in named]
        value = (recipe.value_model or named[0]) if isinstance(recipe, PPORecipe) else ""
        self.value = sketch(value, ScalarModel) if value else None
        data, most = read_prompts(recipe.prompts), min(recipe.max_length, self.policy.model.context)
        usable = usable_prompts(
            self.policy.chat, data.records, max_length=most - recipe.sampling.max_new_tokens
        ).prompts
        length = {prompt.id: len(self.policy.chat.prompt_tokens(prompt)) for prompt in usable}
        self.data = sum(length.values())
        self.lengths = [
            [length[prompt.id] for prompt in prompts_of_step(usable, step)] if usable else [0]
            for step in range(recipe.steps)
        ]


def reinforced(recipe: RLRecipe, expected: Expected, minibatches: Any) -> Workload:
    """Of PPO or REINFORCE; the step whose prompts are longest, with responses as long as they may be."""
    policy = network(recipe, expected.policy)
    prompts = max(expected.lengths, key=sum)
    count, longest_response = recipe.responses_per_prompt, recipe.sampling.max_new_tokens
    sequences = Sequences.pack(
        [[0] * length for length in prompts for _ in range(count)],
        [[0] * longest_response for _ in range(len(prompts) * count)],
        group_ids=[number for number in range(len(prompts)) for _ in range(count)],
    )
    kept, notes = kept_rows(policy, sequences)
    nets = [policy]
    reference = base(policy.model) if recipe.adapter else expected.policy.anew()
    for model in (reference, *(each.anew() for each in expected.rewards)):
        model.freeze_all(layers_of(recipe, model))
        nets.append(adopt(model, nets))
    batches = minibatches(sequences, recipe.minibatches)
    learners = [learning(policy, batches, recipe)]
    if expected.value is not None:
        model = network(recipe, expected.value).model
        nets.append(adopt(model, nets))
        learners.append(learning(nets[-1], batches, recipe))
    scorers = [
        scoring(net, sequences, recipe.microbatch_tokens, first=first_above_trunk(net, policy, kept))
        for net in nets[1:]
    ]
    text = getattr(recipe, "pretraining", None)
    if text is not None:
        windows = Sequences.pack(
            [[0]] * text.sequences_per_step, [[0] * (text.sequence_length - 1)] * text.sequences_per_step
        )
        learners.insert(1, learning(policy, [windows], recipe, several=True))
    passes = recipe.epochs * len(learners)
    each_step = [sum(prompts) + len(prompts) * count * longest_response for prompts in expected.lengths]
    return Workload(
        nets=nets,
        decoding=decoding(policy, prompts, recipe.sampling, count),
        scoring=[*computing_trunk(policy, sequences, recipe), *scorers],
        learning=learners,
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
    nets = [Network(frozen(each.model), each.device) for each in sketches]
    steps = [list(lengths[start : start + at_once]) for start in range(0, len(lengths), at_once)]
    responses = at_once * num_responses * (max(lengths) + sampling.max_new_tokens)
    return Workload(
        nets=nets,
        decoding=decoding(nets[0], max(steps, key=sum), sampling, num_responses),
        tokens=13 * responses,
        steps=[sum(step) + len(step) * num_responses * sampling.max_new_tokens for step in steps],
        data=sum(lengths),
    )


def frozen(model: Model) -> Model:
    """Nothing of it learns."""
    model.freeze_all()
    return model


def network(recipe: StageRecipe, sketch: Sketch[Any]) -> Network:
    """A model that learns as the recipe says."""
    model = sketch.anew()
    arrange(model, recipe.model_copy(update={"frozen_layers": layers_of(recipe, model)}))
    return Network(model, sketch.device)


def layers_of(recipe: StageRecipe, model: Model) -> int:
    """Frozen layers; a smaller model has fewer."""
    return min(recipe.frozen_layers, model.model.shape.num_layers)


def adopt(model: Model, others: Sequence[Network]) -> Network:
    """The model beside these, with the weights that stay and are the same in memory once."""
    for other in others:
        model.adopt(other.model, equal=stored_alike)
    return Network(model, others[0].device.type)


def first_above_trunk(net: Network, policy: Network, kept: int) -> int:
    """The layer that a pass starts at: above the policy's trunk, if there is one and it is this model's as well."""
    layers = policy.model.trunk_layers
    if not kept or layers != net.model.trunk_layers:
        return 0
    pairs = zip(net.model.model.lower(layers), policy.model.model.lower(layers), strict=True)
    shares = all(a is b for ours, theirs in pairs for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    return layers if shares else 0


def kept_rows(net: Network, sequences: Sequences) -> tuple[int, list[str]]:
    """Rows of frozen layers that are kept of the sequences, each prompt once; and a line, if they are too many."""
    if not net.model.trunk_layers:
        return 0, []
    rows = computed(sequences)
    if net.model.keeps_trunk(rows):
        return rows, []
    size = gb(footprint.trunk(net, rows))
    return 0, [f"frozen layers: what they make of the data would take {size} and is not kept; they run in every pass"]


def computing_trunk(
    net: Network, sequences: Sequences, recipe: StageRecipe, *, at_first: bool = False
) -> list[Scoring]:
    """The pass through frozen layers, if what comes of it is kept."""
    if not kept_rows(net, sequences)[0]:
        return []
    return [scoring(net, sequences, recipe.microbatch_tokens, last=net.model.trunk_layers, at_first=at_first)]


def scoring(
    net: Network,
    sequences: Sequences,
    max_tokens: int,
    *,
    first: int = 0,
    last: int | None = None,
    at_first: bool = False,
) -> Scoring:
    """A pass over all of the sequences without gradients, through some of the layers."""
    longest = sequences.lengths.argsort(descending=True)[:LOOKED_AT].sort().values
    passes = [
        Pass.of(net.model, microbatch, 0 if last else wanted(net.model, microbatch))
        for microbatch in sequences.select(longest).microbatches(max_tokens)
    ]
    return Scoring(
        net=net,
        largest=max(passes, key=lambda each: each.rows + each.wanted),
        smallest=Small(
            rows=min(each.rows for each in passes),
            wanted=min(each.wanted or each.rows for each in passes),
            first=first,
            last=net.L if last is None else last,
        ),
        at_first=at_first,
    )


def learning(
    net: Network,
    batches: Iterable[Sequences],
    recipe: StageRecipe,
    *,
    whole_groups: bool = False,
    several: bool = False,
) -> Learning:
    """Of the heaviest batches the microbatch that needs most."""
    parts = [list(batch.microbatches(recipe.microbatch_tokens, whole_groups=whole_groups)) for batch in batches]
    passes = [Pass.of(net.model, part, wanted(net.model, part)) for each in parts for part in each]

    def size(part: Pass) -> int:
        kept = sum(footprint.kept_by_layer(net, index, part) for index in range(net.first, net.L))
        return kept + footprint.logits(net, part.wanted)

    return Learning(net=net, largest=max(passes, key=size), several=several or any(len(each) > 1 for each in parts))


def wanted(model: Model, part: Sequences) -> int:
    """Rows that the head is given: of the tokens that count; of a reward model, which has one number, the last ones."""
    return len(part) if isinstance(model, ScalarModel) else int(part.mask.sum())


def decoding(net: Network, prompts: Sequence[int], sampling: Sampling, num_responses: int) -> Decoding:
    """Responses to prompts of these lengths, ``num_slots`` at a time."""
    slots = min(sampling.num_slots, len(prompts) * num_responses)
    first = sum(sorted(prompts, reverse=True)[: -(-slots // num_responses)])
    return Decoding(
        net=net,
        slots=slots,
        width=max(prompts) + sampling.max_new_tokens,
        prefill=min(first, max(PREFILL_TOKENS, max(prompts))),
        waiting=first if slots < len(prompts) * num_responses else 0,
    )


def computed(sequences: Sequences, rows: Tensor | None = None) -> int:
    """Tokens of these rows of the sequences, or of all of them, a prompt that is shared once."""
    index = torch.arange(len(sequences)) if rows is None else rows
    lengths, prompts, groups = (
        x.cpu()[index] for x in (sequences.lengths, sequences.prompt_lengths, sequences.group_ids)
    )
    _, first = torch.unique(groups, return_inverse=True)
    once = torch.zeros(int(first.max()) + 1, dtype=torch.long).scatter_(0, first, prompts)
    return int((lengths - prompts).sum() + once.sum())


def heaviest(sequences: Sequences, batches: Sequence[Tensor]) -> list[Tensor]:
    """The batches with the most tokens."""
    return sorted(batches, key=lambda rows: -computed(sequences, rows))[:HEAVIEST]


def stored(*data: Sequences) -> int:
    """9 bytes for each place of the data, padding included: its token, and whether it counts."""
    return sum(9 * sequences.tokens.numel() for sequences in data)
