"""One small function per format that shows what to answer, holds prompts alone, or is raw text.

A conversation of several turns is a demonstration for every turn of the assistant's, each with what came before as its
prompt, so that no turn goes unlearned. A turn with `"weight": 0` (the convention of hosted fine-tuning services) is
context only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

from palate.corpus.rejections import Malformed, Unusable
from palate.corpus.values import (
    Fields,
    instruction_prompt,
    list_of,
    messages_of,
    optional_text,
    prompt_of_messages,
    prompt_of_value,
    response_of_value,
    role_of,
    said,
    text_of,
    value_of,
    with_system,
)
from palate.records import Demonstration, Message, Prompt, Response

Demonstrations: TypeAlias = Iterator[Demonstration | Unusable]

PROMPT_RESPONSE_KEYS = (
    ("prompt", "response"),
    ("prompt", "completion"),
    ("question", "answer"),
    ("instruction", "response"),
)
PROMPT_KEYS = ("prompt", "question", "instruction")


def prompt_response(row: Fields) -> Demonstrations:
    """prompt/response, prompt/completion, question/answer, instruction/response; texts or turns."""
    prompt, response = next((keys for keys in PROMPT_RESPONSE_KEYS if row.keys() >= set(keys)), PROMPT_RESPONSE_KEYS[0])
    yield Demonstration(
        prompt=prompt_of_value(value_of(row, prompt)), response=response_of_value(value_of(row, response), response)
    )


def alpaca(row: Fields) -> Demonstrations:
    """instruction, input, output (or response); `system` and `history` [[question, answer], ...] where given."""
    turns: list[Message] = []
    for exchange in row.get("history") or ():
        if not (isinstance(exchange, list) and len(exchange) == 2):
            raise Malformed("field 'history' is not a list of [question, answer]")
        turns.append(Message(role="user", content=said(exchange[0], "user turn")))
        turns.append(Message(role="assistant", content=said(exchange[1], "assistant turn")))
    turns.extend(instruction_prompt(row).messages)
    response = text_of(row, "output" if "output" in row else "response")
    prompt = prompt_of_messages(with_system(optional_text(row, "system"), turns))
    yield Demonstration(prompt=prompt, response=Response(text=response))


def dolly(row: Fields) -> Demonstrations:
    """instruction, context, response."""
    yield Demonstration(
        prompt=instruction_prompt(row, context="context"), response=Response(text=text_of(row, "response"))
    )


def self_instruct(row: Fields) -> Demonstrations:
    """instruction, and instances of {input, output}: a demonstration for each."""
    for instance in list_of(row, "instances"):
        if not isinstance(instance, dict):
            raise Malformed("an instance is not an object with input and output")
        yield from alpaca({"instruction": row.get("instruction"), **instance})


def messages(row: Fields) -> Demonstrations:
    """messages of {role, content}."""
    yield from _every_assistant_turn(messages_of(list_of(row, "messages"), "messages"), _context_only(row, "messages"))


def messages_prompt(row: Fields) -> Iterator[Prompt]:
    """messages that end where the assistant is to answer."""
    turns = messages_of(list_of(row, "messages"), "messages")
    tags = row.get("tags")
    if turns and turns[-1].role != "assistant":
        yield Prompt(messages=turns, tags=tags if isinstance(tags, dict) else {})


def sharegpt(row: Fields) -> Demonstrations:
    """conversations of {from, value}; `system` where given."""
    turns = messages_of(list_of(row, "conversations"), "conversations")
    context_only = _context_only(row, "conversations")
    yield from _every_assistant_turn(with_system(optional_text(row, "system"), turns), context_only)


def prompt(row: Fields) -> Iterator[Prompt]:
    """prompt, question, instruction, or turns of which the first can be asked."""
    if "turns" in row:
        yield Prompt.from_text(said((list_of(row, "turns") or [""])[0], "prompt"))
    else:
        yield prompt_of_value(value_of(row, next((key for key in PROMPT_KEYS if key in row), "prompt")))


def text(row: Fields) -> Iterator[str]:
    """text, or sections that belong together (a title is left out: it is often a file's name)."""
    if "sections" not in row:
        yield text_of(row, "text")
        return
    sections = list_of(row, "sections")
    if not all(isinstance(section, str) for section in sections):
        raise Malformed("field 'sections' is not a list of texts")
    yield said("\n\n".join(section.strip() for section in sections if section.strip()), "text")


def _context_only(row: Fields, key: str) -> frozenset[int]:
    """Places of the assistant's turns that are not to be learned, counted among the assistant's turns."""
    turns = [turn for turn in row[key] if role_of(turn) == "assistant"]
    return frozenset(place for place, turn in enumerate(turns) if turn.get("weight") == 0)


def _every_assistant_turn(turns: Sequence[Message], context_only: frozenset[int]) -> Demonstrations:
    answers = [place for place, turn in enumerate(turns) if turn.role == "assistant"]
    for count, place in enumerate(answers):
        if count in context_only:
            continue
        if place == 0 or turns[place - 1].role == "assistant":
            yield Unusable("an assistant turn that answers nothing")
        else:
            yield Demonstration(
                prompt=Prompt(messages=tuple(turns[:place])), response=Response(text=turns[place].content)
            )
