"""Prompts held out for validation: whole conversations, never single comparisons.

What is held out depends on the beginning of the conversation alone (its turns up to the first one of the user's), so
that all branches of a dialogue, and everything said about one prompt, land on the same side. The choice is a hash
compared with a fraction: it does not change when rows are reordered or the data grows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from palate.corpus.reading import prompt_of
from palate.errors import DataError
from palate.recipe import Holdout
from palate.records import Prompt, content_id, text_id

T = TypeVar("T")

SHARES = (0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
"""Tried for validation, one after the other, where a smaller one leaves none."""


def split(
    records: Iterable[T], holdout: Holdout, *, key: Callable[[T], Prompt] | None = None
) -> tuple[list[T], list[T]]:
    """Training and validation records, each in their given order.

    Args:
        key: the prompt of a record; by default what `.prompt` says.

    Raises:
        DataError: one side would be empty, or the tag is not there.
    """
    prompt_for: Callable[[Any], Prompt] = key or prompt_of
    keyed = [(record, prompt_for(record)) for record in records]
    held_out = _by_tag([prompt for _, prompt in keyed], holdout) if holdout.tag else _by_hash(holdout)
    train = [record for record, prompt in keyed if not held_out(prompt)]
    validation = [record for record, prompt in keyed if held_out(prompt)]
    if not (train and validation):
        raise DataError(_empty_side(bool(train), [prompt for _, prompt in keyed], holdout))
    return train, validation


def split_texts(texts: Iterable[str], fraction: float) -> tuple[list[str], list[str]]:
    """Documents to learn from and to measure on; those that differ in case and white space alone stay together.

    Raises:
        DataError: one side would be empty.
    """
    sides: tuple[list[str], list[str]] = ([], [])
    for text in texts:
        sides[int(content_id("holdout", text_id(text)), 16) < fraction * 2**64].append(text)
    if not all(sides):
        side = "to measure on" if sides[0] else "to learn from"
        raise DataError(
            f"held_out_fraction = {fraction:g} of {len(sides[0]) + len(sides[1])} documents leaves none {side}: change "
            "it, or name documents to measure on by held_out"
        )
    return sides


def large_enough(records: Sequence[T], holdout: Holdout) -> Holdout:
    """The same, or with a larger share where little data leaves none for validation.

    Raises:
        DataError: no share leaves something on both sides.
    """
    for fraction in sorted({holdout.fraction, *(share for share in SHARES if share > holdout.fraction)}):
        larger = holdout if holdout.tag else holdout.model_copy(update={"fraction": fraction})
        try:
            split(records, larger)
        except DataError as error:
            why = error
        else:
            return larger
    raise why


def conversation_id(prompt: Prompt) -> str:
    """The same for every prompt that begins with the same turns, up to the first one of the user's."""
    end = next((place for place, turn in enumerate(prompt.messages, 1) if turn.role == "user"), len(prompt.messages))
    return Prompt(messages=prompt.messages[:end]).id


def _by_hash(holdout: Holdout) -> Callable[[Prompt], bool]:
    def held_out(prompt: Prompt) -> bool:
        return int(content_id("holdout", conversation_id(prompt)), 16) < holdout.fraction * 2**64

    return held_out


def _by_tag(prompts: Iterable[Prompt], holdout: Holdout) -> Callable[[Prompt], bool]:
    tags = {tag for prompt in prompts for tag in prompt.tags}
    if holdout.tag not in tags:
        known = f"the tags are {', '.join(sorted(tags))}" if tags else "name the column in the data's `tags`"
        raise DataError(f"holdout: no prompt has the tag {holdout.tag!r}; {known}")
    return lambda prompt: prompt.tags.get(holdout.tag, "").strip() == holdout.value.strip()


def _empty_side(only_train: bool, prompts: list[Prompt], holdout: Holdout) -> str:
    side = "validation" if only_train else "training"
    if not prompts:
        return "nothing to split: no records"
    if holdout.tag:
        values = sorted({prompt.tags.get(holdout.tag, "") for prompt in prompts})
        shown = ", ".join(map(repr, values[:20])) + (", ..." if len(values) > 20 else "")
        return f"holdout.value = {holdout.value!r} leaves nothing for {side}; values of {holdout.tag!r}: {shown}"
    count = len({conversation_id(prompt) for prompt in prompts})
    return f"holdout.fraction = {holdout.fraction} of {count} prompts leaves none for {side}; change it or use a tag"
