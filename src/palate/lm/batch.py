"""Token sequences and how they are laid out for one forward pass.

`Sequences` is what flows through the stages: [B, T] tokens, right-padded, each a prompt followed by a response. Index t
of every per-token tensor speaks about ``tokens[:, t]``; nothing is shifted outside `lm/`.

`Layout` is how the network sees them: one flat row per real token, no padding, and each prompt only once however many
responses share it. Left padding does not exist here, so positions never have to be guessed from a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from palate.lm.kernels.attention import band
from palate.lm.kernels.uneven import Meeting, Segments
from palate.lm.microbatches import divided, evened, in_parts
from palate.run.world import world


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequences:
    """B sequences of prompt + response.

    Attributes:
        tokens: [B, T] int64, right-padded.
        mask: [B, T] bool, the tokens a policy chose (or a demonstrator wrote), EOS included.
        prompt_lengths: [B], leading tokens that are shared within a group and never masked in.
        lengths: [B], real tokens.
        group_ids: [B], equal where the prompts are the same.
        rows: [B], where each sequence stood in the batch it was selected from.
    """

    tokens: Tensor
    mask: Tensor
    prompt_lengths: Tensor
    lengths: Tensor
    group_ids: Tensor
    rows: Tensor

    @classmethod
    def pack(
        cls,
        prompts: Sequence[Sequence[int]],
        responses: Sequence[Sequence[int]],
        *,
        group_ids: Sequence[int] | None = None,
        masks: Sequence[Sequence[bool]] | None = None,
    ) -> Self:
        """From lists of token ids.

        Args:
            prompts: [B] token ids of each prompt.
            responses: [B] token ids of each response.
            group_ids: [B]; each sequence is its own group if absent.
            masks: [B] which response tokens count; all of them if absent.
        """
        lengths = [len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True)]
        tokens = torch.zeros(len(lengths), max(lengths, default=0), dtype=torch.long)
        mask = torch.zeros_like(tokens, dtype=torch.bool)
        for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            tokens[row, : lengths[row]] = torch.tensor([*prompt, *response])
            chosen = True if masks is None else torch.tensor(masks[row], dtype=torch.bool)
            mask[row, len(prompt) : lengths[row]] = chosen
        return cls(
            tokens=tokens,
            mask=mask,
            prompt_lengths=torch.tensor([len(prompt) for prompt in prompts], dtype=torch.long),
            lengths=torch.tensor(lengths, dtype=torch.long),
            group_ids=torch.tensor(range(len(lengths)) if group_ids is None else group_ids, dtype=torch.long),
            rows=torch.arange(len(lengths)),
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def select(self, index: Tensor) -> Self:
        """The sequences at ``index`` [N], trimmed to the longest of them; they remember their `rows`."""
        index = index.to(self.tokens.device)
        width = int(self.lengths[index].max()) if len(index) else 0
        picked = {f.name: getattr(self, f.name)[index] for f in fields(self)}
        picked["tokens"], picked["mask"] = picked["tokens"][:, :width], picked["mask"][:, :width]
        return replace(self, **picked)

    def microbatches(self, max_tokens: int, *, whole_groups: bool = False) -> Iterator[Self]:
        """Those of the `divided` that this process computes, which in one process are all of them.

        Every process has as many; where there are not enough, the last of some is empty.
        """
        return world().mine(evened(self.divided(max_tokens, whole_groups=whole_groups)))

    def divided(self, max_tokens: int, *, whole_groups: bool = False) -> list[Self]:
        """All microbatches, of at most ``max_tokens`` computed tokens, sequences of one group side by side.

        With ``whole_groups`` a group is never divided, and one that is larger than a microbatch is one of its own.
        Without, it is divided where the microbatch is full, and its prompt is computed once in each.
        """
        parts = divided(self, max_tokens, whole_groups=whole_groups, among=world().size)
        return [self.select(part) for part in parts]

    @classmethod
    def join(cls, several: Sequence[Self]) -> Self:
        """One after the other, their rows and groups numbered anew."""
        width = max(sequences.tokens.shape[1] for sequences in several)
        ids = [torch.unique(sequences.group_ids, return_inverse=True)[1] for sequences in several]
        starts = np.cumsum([0, *(int(group.max()) + 1 for group in ids)])
        return cls(
            tokens=torch.cat([widened(sequences.tokens, width) for sequences in several]),
            mask=torch.cat([widened(sequences.mask, width) for sequences in several]),
            prompt_lengths=torch.cat([sequences.prompt_lengths for sequences in several]),
            lengths=torch.cat([sequences.lengths for sequences in several]),
            group_ids=torch.cat([group + int(start) for group, start in zip(ids, starts, strict=False)]),
            rows=torch.arange(sum(map(len, several)), device=ids[0].device),
        )

    def take(self, *tensors: Tensor) -> list[Tensor]:
        """Of [B, T] tensors of the batch that these were selected from: their rows, as wide as these are."""
        return [tensor[self.rows, : self.mask.shape[1]] for tensor in tensors]

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def responses(self) -> list[list[int]]:
        """Token ids after the prompt, padding left off."""
        spans = zip(self.tokens.tolist(), self.prompt_lengths.tolist(), self.lengths.tolist(), strict=True)
        return [tokens[start:end] for tokens, start, end in spans]


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuations:
    """A run of responses of about one length to prompts of about one length.

    Attributes:
        segments: their rows.
        prompts: which of the layout's runs of prompts they follow.
        prompt_of: [S] which of those prompts each follows.
        prompt_lengths: [S] of the prompt each follows.
        mask: [S or 1, 1, Tr, Tp + Tr], zero where a response token may attend to, minus infinity elsewhere; one for
            all where the prompts are of one length.
    """

    segments: Segments
    prompts: int
    prompt_of: Tensor
    prompt_lengths: Tensor
    mask: Tensor

    def windowed(self, window: int) -> Tensor:
        """The mask where no token sees more than the last ``window``, itself included."""
        own, width = torch.arange(self.segments.width, device=self.mask.device), self.mask.shape[-1]
        if width <= window:
            return self.mask
        before = torch.arange(width - len(own), device=self.mask.device)
        to_prompt = self.prompt_lengths[: len(self.mask), None, None] + own[:, None] - before
        to_response = (own[:, None] - own).expand(len(to_prompt), -1, -1)
        back = torch.cat([to_prompt, to_response], dim=-1)
        return self.mask.masked_fill(back[:, None] >= window, -torch.inf)

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("segments", "prompt_of", "prompt_lengths", "mask")}
        return replace(self, **moved)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One flat row per real token: first every distinct prompt, then every response.

    Attention meets a run at a time. On a processor a run's sequences are equally long, and so are the prompts that they
    follow; on a GPU they are padded, and their lengths differ by less than a factor of two.

    Attributes:
        tokens, positions: [N].
        prompts: the P distinct prompts as runs of rows, short ones first.
        responses: the B responses as runs of rows.
        order: [B] which sequence each response is of.
        rows: [B] where that stood, as in the sequences.
        prompt_of: [B] which of the P prompts it follows.
        groups: [P] the group id of each prompt.
        run_lengths: [P + B] rows of each prompt and response.
        prompt_starts, response_starts: [B] the first row of each sequence's prompt and response, in the sequences'
            order.
    """

    tokens: Tensor
    positions: Tensor
    prompts: tuple[Segments, ...]
    responses: tuple[Continuations, ...]
    order: Tensor
    rows: Tensor
    prompt_of: Tensor
    groups: Tensor
    run_lengths: Tensor
    prompt_starts: Tensor
    response_starts: Tensor

    @classmethod
    def of(cls, sequences: Sequences, *, kind: str = "") -> Self:
        """Lay out the sequences; those with equal group ids share one prompt.

        Args:
            kind: of device to lay them out for, if it is not the one they are on: ``cpu`` or ``cuda``.
        """
        device, sequences = sequences.tokens.device, sequences.to(torch.device("cpu"))
        kind = kind or device.type
        groups, prompt_of = torch.unique(sequences.group_ids, return_inverse=True)
        first = torch.zeros_like(groups).scatter_(0, prompt_of.flip(0), torch.arange(len(sequences)).flip(0))
        by_length = torch.argsort(sequences.prompt_lengths[first], stable=True)
        groups, first = groups[by_length], first[by_length]
        prompt_of = torch.argsort(by_length)[prompt_of]
        prompt_lengths = sequences.prompt_lengths[first]
        prompts = _together(prompt_lengths, kind)

        responses = sequences.lengths - sequences.prompt_lengths
        run_of = torch.repeat_interleave(torch.tensor([len(run) for run in prompts]))[prompt_of]
        order = torch.from_numpy(np.lexsort((responses.numpy(), run_of.numpy())))
        _, counts = torch.unique_consecutive(run_of[order], return_counts=True)
        several = [run for some in responses[order].split(counts.tolist()) for run in _together(some, kind)]
        continuations = tuple(
            _continuations(prompts, prompt_lengths, prompt_of[members], responses[members])
            for members in order.split([len(run) for run in several])
        )

        lengths = torch.cat([prompt_lengths, responses[order]])
        sequence = torch.cat([first, order])
        begin = torch.cat([torch.zeros_like(prompt_lengths), sequences.prompt_lengths[order]])
        positions = torch.arange(int(lengths.sum())) - torch.repeat_interleave(
            lengths.cumsum(0) - lengths - begin, lengths
        )
        starts = lengths.cumsum(0) - lengths
        layout = cls(
            tokens=sequences.tokens[torch.repeat_interleave(sequence, lengths), positions],
            positions=positions,
            prompts=tuple(Segments.of(run) for run in prompts),
            responses=continuations,
            order=order,
            rows=sequences.rows[order],
            prompt_of=prompt_of[order],
            groups=groups,
            run_lengths=lengths,
            prompt_starts=starts[prompt_of],
            response_starts=starts[len(groups) + torch.argsort(order)],
        )
        return layout if device.type == "cpu" else layout.to(device)

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        moved: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            moved[f.name] = tuple(part.to(device) for part in value) if isinstance(value, tuple) else value.to(device)
        return replace(self, **moved)

    @property
    def runs(self) -> list[Segments]:
        """Those of prompts, then those of responses: all rows, in order."""
        return [*self.prompts, *(each.segments for each in self.responses)]

    @property
    def even(self) -> bool:
        """All runs are: attention has nothing to pad."""
        return all(each.even for each in self.runs)

    def meetings(self, window: int | None, dtype: torch.dtype) -> list[Meeting]:
        """Every run that is not empty, with masks in ``dtype``; no token sees more than the last ``window``."""
        found, device = [], self.tokens.device
        for place, segments in enumerate(self.prompts):
            narrow = window is not None and window < segments.width
            mask = band(segments.width, window, device).to(dtype) if narrow and window is not None else None
            found.append(Meeting(place=place, mask=mask))
        for place, each in enumerate(self.responses, start=len(found)):
            if not self.prompts[each.prompts].width and window is None:
                found.append(Meeting(place=place))
            else:
                mask = (each.mask if window is None else each.windowed(window)).to(dtype)
                found.append(Meeting(place=place, after=each.prompts, which=each.prompt_of, mask=mask))
        return [each for each in found if self.runs[each.place].width]

    def row_of(self, sequence: Tensor, position: Tensor, prompt_lengths: Tensor) -> Tensor:
        """[M] flat rows of the tokens at ``position`` [M] of ``sequence`` [M]."""
        in_prompt = position < prompt_lengths[sequence]
        response_row = self.response_starts[sequence] + position - prompt_lengths[sequence]
        return torch.where(in_prompt, self.prompt_starts[sequence] + position, response_row)


def _together(lengths: Tensor, kind: str) -> list[Tensor]:
    """Ascending lengths, divided into runs that attention pads together.

    On a processor they are of one length, which leaves nothing to pad: even of a dozen tokens, a call of the kernel
    costs less than padding does. A GPU is rather kept busy: lengths of one octave go together, 1, 2 to 3, 4 to 7, ...
    """
    alike = lengths if kind == "cpu" else torch.frexp(lengths.double()).exponent
    return list(lengths.split(torch.unique_consecutive(alike, return_counts=True)[1].tolist()))


def _continuations(
    prompts: list[Tensor], prompt_lengths: Tensor, prompt_of: Tensor, responses: Tensor
) -> Continuations:
    """Responses [S], padded together, to prompts that are."""
    ends = torch.tensor([len(run) for run in prompts]).cumsum(0)
    run = int(torch.searchsorted(ends, prompt_of[0], right=True))
    segments, before = Segments.of(responses), prompt_lengths[prompt_of]
    alike = before[:1] if bool((before == prompts[run].max()).all()) else before
    seen = _response_mask(alike, int(prompts[run].max()), segments.width)
    return Continuations(
        segments=segments,
        prompts=run,
        prompt_of=prompt_of - (ends[run] - len(prompts[run])),
        prompt_lengths=before,
        mask=torch.zeros(seen.shape).masked_fill_(~seen, -torch.inf),
    )


def _response_mask(prompt_lengths: Tensor, prompt_width: int, response_width: int) -> Tensor:
    """[B, 1, Tr, Tp + Tr]: the whole prompt, and the response up to and including oneself."""
    to_prompt = torch.arange(prompt_width)[None] < prompt_lengths[:, None]
    to_response = torch.ones(response_width, response_width, dtype=torch.bool).tril()
    batch = len(prompt_lengths)
    return torch.cat(
        [
            to_prompt[:, None, None].expand(batch, 1, response_width, prompt_width),
            to_response[None, None].expand(batch, 1, response_width, response_width),
        ],
        dim=-1,
    )


def widened(x: Tensor, width: int) -> Tensor:
    """[B, T] -> [B, width], zero on the right."""
    return torch.nn.functional.pad(x, (0, width - x.shape[1]))


def per_token(sequences: Sequences, max_tokens: int, compute: Callable[[Sequences], Tensor]) -> Tensor:
    """[B, T] of something computed microbatch by microbatch, from which nothing is learned: it carries no gradient."""
    out = torch.zeros(sequences.mask.shape, device=sequences.tokens.device)
    for microbatch, values in in_parts(sequences, max_tokens, compute, "numbers of tokens"):
        out[microbatch.rows, : microbatch.mask.shape[1]] = values.to(out.device)
    return out
