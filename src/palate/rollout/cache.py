"""What decoding remembers: keys and values of S slots side by side, and how a new token's queries meet them.

The heads that share a key are queries of one row, so no key is ever repeated. Responses to one prompt share its keys as
well: on a processor, where reading them is most of the work, those of long prompts are read once for all slots that
respond to them, and joined with each response's own by the sums of both parts. On a GPU every slot reads its own copy,
since a captured step needs shapes that stay.

Milakov and Gimelshein 2018 (arXiv 1805.02867) for joining; Juravsky et al. 2024 (arXiv 2402.05099) for shared prompts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from palate.lm.decoder import Attend, Decoder
from palate.lm.families import Rule
from palate.lm.kernels.attention import attention, attention_and_sums, attention_dtype, carried_dtype, joined

WIDENED = 2**20
"""So many cached numbers are made wider at a time: 8 MiB in fp64, read again out of a processor's caches. With a
quarter of that, and more calls, sampling took 1.05 times as long on a Xeon."""

LEAST_SHARED, LEAST_LONG = 2, 128
"""Slots to a prompt, on average, and tokens of the longest, from which on a prompt's keys are read once for all of
them: short ones are read as quickly as two parts are joined."""


@dataclass(slots=True)
class Prefilled:
    """A computed prompt: keys and values [L, G, Tp, D] and the last row [D]."""

    keys: Tensor
    values: Tensor
    last: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """Which of S slots respond to one prompt: P prompts, at most M slots each.

    Attributes:
        leaders: [P] a slot of each prompt.
        members: [P, M] its slots, where there are fewer the last of them again.
        places: [S] where each slot stands among those P * M.
    """

    leaders: list[int]
    members: Tensor
    places: Tensor

    @classmethod
    def of(cls, prompts: Sequence[int]) -> Sharing:
        """Of the prompt in each slot."""
        slots: dict[int, list[int]] = defaultdict(list)
        for slot, prompt in enumerate(prompts):
            slots[prompt].append(slot)
        most = max(map(len, slots.values()))
        places = torch.zeros(len(prompts), dtype=torch.long)
        for row, some in enumerate(slots.values()):
            places[some] = row * most + torch.arange(len(some))
        return cls(
            leaders=[some[0] for some in slots.values()],
            members=torch.tensor([some + some[-1:] * (most - len(some)) for some in slots.values()]),
            places=places,
        )


class Cache:
    """Keys and values [L, S, G, T, D]: all responses begin at one place, and prompts end before it.

    Args:
        longest: tokens of the longest prompt.
        new: tokens of the longest response.
    """

    def __init__(self, decoder: Decoder, slots: int, *, longest: int, new: int, device: torch.device) -> None:
        shape = decoder.shape
        size = (shape.num_layers, slots, shape.num_kv_heads, longest + new, shape.head_dim)
        self.begin, self.computed = longest, attention_dtype(decoder.dtype, device)
        self.keys = torch.zeros(size, dtype=carried_dtype(decoder.dtype, device), device=device)
        self.values = torch.zeros_like(self.keys)
        self.positions = torch.zeros(slots, dtype=torch.long, device=device)
        self.starts = torch.zeros_like(self.positions)
        self.prompts = [0] * slots

    def admit(self, slot: int, number: int, prompt: Prefilled) -> None:
        """Prompt ``number`` into a slot."""
        length = prompt.keys.shape[2]
        start = self.begin - length
        self.keys[:, slot, :, start : self.begin] = prompt.keys
        self.values[:, slot, :, start : self.begin] = prompt.values
        self.positions[slot], self.starts[slot], self.prompts[slot] = length, start, number

    def keep(self, slots: list[int]) -> None:
        """These alone, moved up in place, ascending: a copy would need almost the whole cache once more."""
        for place, slot in enumerate(slots):
            if place != slot:
                self.keys[:, place], self.values[:, place] = self.keys[:, slot], self.values[:, slot]
        self.keys, self.values = self.keys[:, : len(slots)], self.values[:, : len(slots)]
        index = torch.tensor(slots, device=self.positions.device)
        self.positions, self.starts = self.positions[index], self.starts[index]
        self.prompts = [self.prompts[slot] for slot in slots]

    def attend(self, *, whole: bool) -> Attend:
        """Each slot's queries against its own past, after adding its key and value.

        ``whole`` looks at every place there is, the used ones by mask alone: shapes are then always the same.
        """
        device, new = self.positions.device, self.starts + self.positions
        first = 0 if whole else int(self.starts.min())
        end = self.keys.shape[3] if whole else int(new.max()) + 1
        back = new[:, None] - torch.arange(first, end, device=device)
        slots = torch.arange(len(new), device=device)
        # who began together writes at one place, which is quicker than at many
        here = end - 1 if not whole and int(new.min()) == end - 1 else None
        shared = self.begin - first >= LEAST_LONG and len({*self.prompts}) * LEAST_SHARED <= len(slots)
        sharing = Sharing.of(self.prompts) if shared and not whole else None

        @cache
        def mask(window: int | None) -> Tensor:
            """[S, 1, 1, T], as numbers, and kept, or every layer would make them anew."""
            unseen = (back < 0) | (back > self.positions[:, None])
            unseen = unseen if window is None else unseen | (back >= window)
            zeros = torch.zeros(unseen.shape, dtype=self.computed, device=device)
            return zeros.masked_fill_(unseen, -torch.inf)[:, None, None]

        def attend(layer: int, rule: Rule, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if here is None:
                self.keys[layer, slots, :, new], self.values[layer, slots, :, new] = k, v
            else:
                self.keys[layer, :, :, here], self.values[layer, :, :, here] = k, v
            past = (self.keys[layer, :, :, first:end], self.values[layer, :, :, first:end], mask(rule.window))
            queries = q.view(len(q), k.shape[1], -1, q.shape[2])
            if sharing is None or rule.window is not None or rule.cap is not None:
                met = _apart(queries, *past, rule=rule, dtype=self.computed)
            else:
                met = _by_prompt(queries, *past, sharing, self.begin - first, scale=rule.scale, dtype=self.computed)
            return met.flatten(1, 2)

        return attend


def _apart(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, *, rule: Rule, dtype: torch.dtype) -> Tensor:
    """[S, G, heads of a key, D] queries, [S, G, T, D] keys and values, [S, 1, 1, T] mask -> as the queries."""
    several = _several(keys, dtype)
    return torch.cat(
        [
            attention(*some, mask=unseen, scale=rule.scale, cap=rule.cap, dtype=dtype)
            for *some, unseen in zip(*(x.split(several) for x in (q, keys, values, mask)), strict=True)
        ]
    )


def _by_prompt(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor,
    sharing: Sharing,
    begin: int,
    *,
    scale: float | None,
    dtype: torch.dtype,
) -> Tensor:
    """The same; the first ``begin`` places are the prompts'."""

    meet = partial(attention_and_sums, scale=scale, dtype=dtype)
    together = q[sharing.members].transpose(1, 2).flatten(2, 3)  # [P, G, M * heads of a key, D]
    several, parts = _several(keys[:, :, :begin], dtype), []
    for start in range(0, len(together), several):
        leaders = sharing.leaders[start : start + several]
        known = (torch.stack([x[slot, :, :begin] for slot in leaders]) for x in (keys, values))
        parts.append(meet(together[start : start + several], *known, mask=mask[leaders, :, :, :begin]))
    outs, sums = (
        torch.cat(some).unflatten(2, (-1, q.shape[2])).transpose(1, 2).flatten(0, 1)[sharing.places]
        for some in zip(*parts, strict=True)
    )
    own = (q, keys[:, :, begin:], values[:, :, begin:], mask[..., begin:])
    several = _several(own[1], dtype)
    parts = [meet(*some, mask=unseen) for *some, unseen in zip(*(x.split(several) for x in own), strict=True)]
    own_outs, own_sums = map(torch.cat, zip(*parts, strict=True))
    return joined((outs, sums), (own_outs, own_sums)).to(q.dtype)


def _several(keys: Tensor, dtype: torch.dtype) -> int:
    """How many slots at a time: all, or as many as are made wider at a time."""
    return len(keys) if keys.dtype == dtype else max(1, WIDENED // keys[0].numel())
