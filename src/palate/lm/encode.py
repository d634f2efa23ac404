"""Records to sequences: tokenised once, grouped by prompt, nothing cut off.

A row longer than the limit is left out and counted; the stage reports the count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from palate.errors import DataError
from palate.lm.batch import Sequences
from palate.lm.chat import Chat
from palate.records import Demonstration, Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """Sequences, and which of the given items they are.

    Attributes:
        kept: index of the item behind each sequence.
        too_long: items left out because they exceed the limit.
    """

    sequences: Sequences
    kept: tuple[int, ...]
    too_long: int


def encode_responses(chat: Chat, prompts: Sequence[Prompt], texts: Sequence[str], *, max_length: int) -> Encoded:
    """Prompt and response pairs; equal prompts share a group.

    Raises:
        DataError: every item is too long.
    """
    prompt_tokens = {prompt.id: chat.prompt_tokens(prompt) for prompt in prompts}
    rows = [(prompt_tokens[prompt.id], chat.response_tokens(text)) for prompt, text in zip(prompts, texts, strict=True)]
    groups = {prompt_id: number for number, prompt_id in enumerate(prompt_tokens)}
    kept = _fitting([len(before) + len(after) for before, after in rows], max_length)
    sequences = Sequences.pack(
        [rows[index][0] for index in kept],
        [rows[index][1] for index in kept],
        group_ids=[groups[prompts[index].id] for index in kept],
    )
    return Encoded(sequences=sequences, kept=tuple(kept), too_long=len(rows) - len(kept))


def encode_demonstrations(chat: Chat, demonstrations: Sequence[Demonstration], *, max_length: int) -> Encoded:
    """Whole conversations; every assistant turn to be learned is masked in, its stop token included.

    Raises:
        DataError: every demonstration is too long.
    """
    rows = [chat.dialogue_tokens(item.messages, item.prompt.tools) for item in demonstrations]
    kept = _fitting([len(tokens) for tokens, _ in rows], max_length)
    starts = [mask.index(True) for _, mask in rows]
    return Encoded(
        sequences=Sequences.pack(
            [rows[index][0][: starts[index]] for index in kept],
            [rows[index][0][starts[index] :] for index in kept],
            masks=[rows[index][1][starts[index] :] for index in kept],
        ),
        kept=tuple(kept),
        too_long=len(rows) - len(kept),
    )


def encode_texts(chat: Chat, texts: Sequence[str], *, length: int) -> Sequences:
    """Raw text as windows of ``length`` tokens; texts follow each other with a stop token between them.

    The tokens left over at the end, fewer than a window, are not used.

    Raises:
        DataError: there is less text than one window.
    """
    stream = [token for text in texts for token in chat.response_tokens(text)]
    windows = [stream[start : start + length] for start in range(0, len(stream) - length + 1, length)]
    if not windows:
        raise DataError(f"{len(stream)} tokens of text are fewer than one sequence of {length}")
    return Sequences.pack([window[:1] for window in windows], [window[1:] for window in windows])


def _fitting(lengths: Sequence[int], max_length: int) -> list[int]:
    if not lengths:
        raise DataError("nothing to encode: no rows")
    kept = [index for index, length in enumerate(lengths) if length <= max_length]
    if not kept:
        raise DataError(
            f"all {len(lengths)} rows are longer than max_length = {max_length} tokens "
            f"(the shortest has {min(lengths)}): raise max_length"
        )
    return kept
