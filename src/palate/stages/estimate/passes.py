"""The passes of a stage through a model, laid out for real but without numbers: how large the largest one is.

Models are sketches; what learns in them, and what they share, is arranged as the stages arrange it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from palate.lm.adapters import arrange
from palate.lm.batch import Sequences
from palate.lm.model import Model, ScalarModel
from palate.lm.sources.zoo import Sketch, stored_alike
from palate.machine import gb
from palate.recipe import Optimizer, Sampling, TrainingRecipe
from palate.rollout.slots import PREFILL_TOKENS
from palate.stages.estimate import footprint
from palate.stages.estimate.network import Network, Pass, Small
from palate.stages.estimate.workload import Decoding, Learning, Scoring

LOOKED_AT = 2000
"""Of a pass over all data the longest sequences, this many, are laid out to find its largest part."""
HEAVIEST = 8
"""Of all batches those with the most tokens, this many, are laid out to find the largest microbatch."""


def responses_to(prompts: Sequence[int], num_responses: int, longest: int) -> Sequences:
    """Responses as long as they may be to prompts of these lengths, those of a prompt side by side."""
    return Sequences.pack(
        [[0] * length for length in prompts for _ in range(num_responses)],
        [[0] * longest for _ in range(len(prompts) * num_responses)],
        group_ids=[number for number in range(len(prompts)) for _ in range(num_responses)],
    )


def frozen(model: Model) -> Model:
    """Nothing of it learns."""
    model.freeze_all()
    return model


def network(recipe: TrainingRecipe, sketch: Sketch[Any]) -> Network:
    """A model that learns as the recipe says."""
    model = sketch.anew()
    arrange(model, recipe.model_copy(update={"frozen_layers": layers_of(recipe, model)}))
    return Network(model, sketch.counted_on)


def layers_of(recipe: TrainingRecipe, model: Model) -> int:
    """Frozen layers; a smaller model has fewer."""
    return min(recipe.frozen_layers, model.model.shape.num_layers)


def adopt(model: Model, others: Sequence[Network], device: str, *, is_read: bool = True) -> Network:
    """The model beside these, with the weights that stay and are the same in memory once."""
    model.join([other.model for other in others], equal=stored_alike)
    return Network(model, device, is_read=is_read)


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
    net: Network, sequences: Sequences, recipe: TrainingRecipe, *, at_first: bool = False
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
        Pass.of(net, microbatch, 0 if last else wanted(net.model, microbatch))
        for microbatch in sequences.select(longest).divided(max_tokens)
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
    recipe: TrainingRecipe,
    optimizer: Optimizer,
    *,
    whole_groups: bool = False,
    several: bool = False,
    first: int = 0,
) -> Learning:
    """Of the heaviest batches the microbatch that needs most."""
    parts = [batch.divided(recipe.microbatch_tokens, whole_groups=whole_groups) for batch in batches]
    passes = {Pass.of(net, part, wanted(net.model, part)) for each in parts for part in each}

    def size(part: Pass) -> int:
        kept = sum(footprint.kept_by_layer(net, index, part) for index in range(net.first, net.L))
        return kept + footprint.logits(net, part.wanted)

    return Learning(
        net=net,
        largest=max(passes, key=size),
        several=several or any(len(each) > 1 for each in parts),
        first=first,
        state_bits=optimizer.state_bits,
    )


def optimizer_of(recipe: Any, section: str = "optimizer") -> Optimizer:
    """The section that every stage which trains has."""
    found: Optimizer = getattr(recipe, section)
    return found


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
