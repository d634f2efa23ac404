"""Records to sequences: tokenised once, grouped by prompt, nothing cut off.

A row that is longer than the limit, or that the chat template cannot hold, is left out with its reason. The stage
counts and shows them, and decides how many are too many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from palate.errors import DataError, TemplateError
from palate.lm.batch import Sequences
from palate.lm.chat import Chat
from palate.records import Demonstration, Prompt

T = TypeVar("T")
Row = TypeVar("Row")


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """An item that is not used, and why.

    Attributes:
        index: its place among the items that were given.
        reason: the same words for every item that is left out for it.
        too_long: it exceeds the limit; otherwise the chat template cannot hold it.
    """

    index: int
    reason: str
    too_long: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """Sequences, and which of the given items they are.

    Attributes:
        kept: index of the item behind each sequence.
        left_out: the other items, in their order.
    """

    sequences: Sequences
    kept: tuple[int, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def too_long(self) -> int:
        """How many were left out because they exceed the limit."""
        return sum(item.too_long for item in self.left_out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usable:
    """The prompts that can be responded to.

    Attributes:
        prompts: in their order.
        lengths: of each, in tokens.
        left_out: the other ones; the index is that among those that were given.
    """

    prompts: tuple[Prompt, ...]
    lengths: tuple[int, ...]
    left_out: tuple[LeftOut, ...]


def usable_prompts(
    chat: Chat,
    prompts: Sequence[Prompt],
    *,
    max_length: float,
    limit: str = "max_length",
    show: Callable[[int, int], None] | None = None,
) -> Usable:
    """The prompts that the chat template can hold and that have at most ``max_length`` tokens.

    Args:
        limit: what sets ``max_length``, in words.
        show: told how many of how many prompts were looked at.

    Raises:
        DataError: none were given.
    """
    rows, left_out = _encode(prompts, lambda prompt: len(chat.prompt_tokens(prompt)), int, max_length, limit, show)
    return Usable(prompts=tuple(prompts[index] for index in rows), lengths=tuple(rows.values()), left_out=left_out)


def encode_responses(
    chat: Chat,
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    *,
    max_length: float,
    limit: str = "max_length",
    ended: Sequence[bool] | None = None,
) -> Encoded:
    """Prompt and response pairs; equal prompts share a group.

    Args:
        limit: what sets ``max_length``, in words.
        ended: which responses get a stop token; all of them if absent.

    Raises:
        DataError: no items were given.
    """
    distinct = {prompt.id: prompt for prompt in prompts}
    groups = {prompt_id: number for number, prompt_id in enumerate(distinct)}

    @cache
    def opened(prompt_id: str) -> list[int]:
        return chat.prompt_tokens(distinct[prompt_id])

    rows, left_out = _encode(
        list(zip(prompts, texts, ended or [True] * len(texts), strict=True)),
        lambda item: (opened(item[0].id), chat.response_tokens(item[1], ended=item[2])),
        lambda row: len(row[0]) + len(row[1]),
        max_length,
        limit,
    )
    sequences = Sequences.pack(
        [before for before, _ in rows.values()],
        [after for _, after in rows.values()],
        group_ids=[groups[prompts[index].id] for index in rows],
    )
    return Encoded(sequences=sequences, kept=tuple(rows), left_out=left_out)


def encode_demonstrations(
    chat: Chat, demonstrations: Sequence[Demonstration], *, max_length: float, limit: str = "max_length"
) -> Encoded:
    """Whole conversations; every assistant turn to be learned is masked in, its stop token included.

    Args:
        limit: what sets ``max_length``, in words.

    Raises:
        DataError: no demonstrations were given.
    """
    rows, left_out = _encode(
        demonstrations,
        lambda item: chat.dialogue_tokens(item.messages, item.prompt.tools),
        lambda row: len(row[0]),
        max_length,
        limit,
    )
    starts = [mask.index(True) for _, mask in rows.values()]
    sequences = Sequences.pack(
        [tokens[:start] for (tokens, _), start in zip(rows.values(), starts, strict=True)],
        [tokens[start:] for (tokens, _), start in zip(rows.values(), starts, strict=True)],
        masks=[mask[start:] for (_, mask), start in zip(rows.values(), starts, strict=True)],
    )
    return Encoded(sequences=sequences, kept=tuple(rows), left_out=left_out)


def encode_texts(chat: Chat, texts: Sequence[str], *, length: int) -> Sequences:
    """Raw text as windows of ``length`` tokens; texts follow each other with a stop token between them.

    The tokens left over at the end, fewer than a window, are not used.

    Raises:
        DataError: there is less text than one window.
    """
    stream = [token for text in texts for token in chat.text_tokens(text)]
    windows = [stream[start : start + length] for start in range(0, len(stream) - length + 1, length)]
    if not windows:
        raise DataError(f"{len(stream)} tokens of text are fewer than one sequence of {length}")
    return Sequences.pack([window[:1] for window in windows], [window[1:] for window in windows])


def _encode(
    items: Sequence[T],
    encode: Callable[[T], Row],
    length: Callable[[Row], int],
    max_length: float,
    limit: str,
    show: Callable[[int, int], None] | None = None,
) -> tuple[dict[int, Row], tuple[LeftOut, ...]]:
    """The rows that can be used by the index of their item, and the other items."""
    rows: dict[int, Row] = {}
    left_out: list[LeftOut] = []
    for index, item in enumerate(items):
        if show is not None:
            show(index, len(items))
        try:
            row = encode(item)
        except TemplateError as error:
            left_out.append(LeftOut(index=index, reason=str(error)))
            continue
        size = length(row)
        if size <= max_length:
            rows[index] = row
        else:
            reason = f"longer than {limit} = {max_length} tokens"
            left_out.append(LeftOut(index=index, reason=reason, too_long=True))
    if not items:
        raise DataError("nothing to encode: no rows")
    return rows, tuple(left_out)
