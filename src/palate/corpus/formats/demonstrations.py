"""One small function per format that shows what to answer, holds prompts alone, or is raw text.

A conversation of several turns is a demonstration for every turn of the assistant's, each with what came before as its
prompt. Every turn is learned once, in the demonstration that ends with it: in those that go on after it, it is context.
A turn that is marked as not to be learned (see `marks`) is context everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

from palate.corpus.rows.fields import label, peek, plain
from palate.corpus.rows.rejections import Malformed, Unusable
from palate.corpus.rows.turns import (
    answer,
    asked,
    conversation_of,
    history_of,
    instruction_prompt,
    is_spoken,
    prompt_of,
    response_of,
)
from palate.corpus.rows.values import Fields, list_of, objects_of, said, text_of, value_of
from palate.records import Demonstration, Message, Prompt

Demonstrations: TypeAlias = Iterator[Demonstration | Unusable]

PROMPT_RESPONSE_KEYS = tuple(
    (prompt, response)
    for prompt in ("prompt", "question", "instruction", "query", "input")
    for response in ("response", "completion", "answer", "output")
    if (prompt, response) != ("instruction", "output")  # is alpaca's
)
PROMPT_KEYS = ("prompt", "question", "instruction")


def prompt_response(row: Fields) -> Demonstrations:
    """prompt and response under one of their names; texts or turns. The prompt's own turns are context."""
    prompt, response = next((keys for keys in PROMPT_RESPONSE_KEYS if row.keys() >= set(keys)), PROMPT_RESPONSE_KEYS[0])
    asked_for = prompt_of(row, prompt)
    shown = response_of(value_of(row, response), label(row, response), strip=answers_transcript(row, prompt))
    yield Demonstration(prompt=asked_for.model_copy(update={"messages": _context(asked_for.messages)}), response=shown)


def answers_transcript(row: Fields, prompt: str = "prompt") -> bool:
    """Whether the prompt is a transcript in one text, so that blanks before an answer belong to the transcript."""
    value = row.get(prompt)
    return isinstance(value, str) and is_spoken(value)


def alpaca(row: Fields) -> Demonstrations:
    """instruction, input, output (or response); what `history` holds is learned too."""
    key = "output" if "output" in row else "response"
    yield Demonstration(prompt=instruction_prompt(row), response=response_of(value_of(row, key), label(row, key)))


def dolly(row: Fields) -> Demonstrations:
    """instruction, context, response."""
    shown = response_of(value_of(row, "response"), label(row, "response"))
    yield Demonstration(prompt=instruction_prompt(row, context="context"), response=shown)


def self_instruct(row: Fields) -> Demonstrations:
    """instruction, and instances of {input, output}: a demonstration for each."""
    for instance in objects_of(row, "instances"):
        prompt = instruction_prompt(row, given=instance)
        yield Demonstration(
            prompt=prompt, response=response_of(value_of(instance, "output"), label(instance, "output"))
        )


def messages(row: Fields) -> Demonstrations:
    """messages of {role, content}."""
    yield from _every_assistant_turn(row, "messages")


def messages_prompt(row: Fields) -> Iterator[Prompt]:
    """messages that end where the assistant is to answer."""
    for prompt in _awaiting(row, "messages"):
        tags = peek(row, "tags")
        own = isinstance(tags, dict) and all(isinstance(tag, str) for tag in tags.values())
        yield prompt.model_copy(update={"tags": plain(row["tags"])}) if own else prompt


def sharegpt(row: Fields) -> Demonstrations:
    """conversations of {from, value}."""
    yield from _every_assistant_turn(row, "conversations")


def sharegpt_prompt(row: Fields) -> Iterator[Prompt]:
    """conversations that end where the assistant is to answer."""
    yield from _awaiting(row, "conversations")


def _awaiting(row: Fields, key: str) -> Iterator[Prompt]:
    """The whole conversation as a prompt, if somebody asked first and its last turn waits for an answer."""
    turns = conversation_of(row, key)
    begins = next((turn.role for turn in turns if turn.role != "system"), "")
    if turns and turns[-1].role != "assistant" and begins != "assistant":
        yield asked(row, (*history_of(row), *_context(turns)), label(row, key))


def prompt(row: Fields) -> Iterator[Prompt | Unusable]:
    """prompt, question, instruction, or turns of which the first can be asked."""
    if not isinstance(peek(row, "turns"), list):
        yield prompt_of(row, next((key for key in PROMPT_KEYS if key in row), "prompt"))
        return
    first, *later = list_of(row, "turns") or [""]
    name = label(row, "turns")
    yield asked(row, (*history_of(row), Message(role="user", content=said(first, name))), name)
    yield from [Unusable(f"a later turn of {name!r}: it waits for an answer to the first")] * len(later)


def text(row: Fields) -> Iterator[str]:
    """text, or sections that belong together (a title is left out: it is often a file's name)."""
    if "sections" not in row:
        yield text_of(row, "text")
        return
    sections = list_of(row, "sections")
    if not all(isinstance(section, str) for section in sections):
        raise Malformed(f"field {label(row, 'sections')!r} is not a list of texts", found=sections)
    yield said("\n\n".join(section.strip() for section in sections if section.strip()), "text")


def _every_assistant_turn(row: Fields, key: str) -> Demonstrations:
    history = history_of(row)
    turns = (*history, *conversation_of(row, key))
    empty = True
    for place, turn in enumerate(turns):
        if turn.role != "assistant" or not turn.learn:
            continue
        empty = False
        if place == 0 or turns[place - 1].role in ("assistant", "system"):
            yield Unusable(f"an assistant turn in {label(row, key)!r} that answers nothing")
        else:
            asked_for = asked(row, _context(turns[:place]), label(row, key))
            yield Demonstration(prompt=asked_for, response=answer(turn))
    if empty and turns and turns[-1].role == "assistant":
        yield Unusable(f"no turn of {label(row, key)!r} is to be learned")


def _context(turns: Sequence[Message]) -> tuple[Message, ...]:
    """The turns with those of the assistant's as context."""
    return tuple(turn.model_copy(update={"learn": False}) if turn.role == "assistant" else turn for turn in turns)
