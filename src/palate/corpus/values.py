"""From the loosely typed values of a row to texts, numbers, conversations and ranks.

Every function says no in one of two ways (see `rejections`): Malformed for what should not be there, Unusable for what
may be there and is of no use. Texts are kept as they are, blanks at their ends included.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from palate.corpus.rejections import Malformed, Unusable
from palate.records import Message, Prompt, Provenance, Response, Role

Fields: TypeAlias = Mapping[str, Any]

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}


def value_of(row: Fields, key: str) -> Any:
    """A field that must be there."""
    if row.get(key) is None:
        raise Malformed(f"no field {key!r}" if key not in row else f"field {key!r} is null")
    return row[key]


def text_of(row: Fields, key: str) -> str:
    """A text that must be there and say something."""
    return said(value_of(row, key), key)


def optional_text(row: Fields, key: str) -> str:
    """A text, or the empty one where the field is absent or null."""
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise Malformed(f"field {key!r} is not a text")
    return value or ""


def said(value: Any, name: str) -> str:
    """A text that is not blank."""
    if not isinstance(value, str):
        raise Malformed(f"field {name!r} is not a text")
    if not value.strip():
        raise Unusable(f"empty {name}")
    return value


def number_of(value: Any, name: str) -> float:
    """A finite number, also when it is written as a text, as CSV does."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise Malformed(f"field {name!r} is not a number")
    return number


def optional_number(row: Fields, key: str) -> float | None:
    """A number, or None where the field is absent, null or an empty cell."""
    return None if row.get(key) in (None, "") else number_of(row[key], key)


def truth_of(value: Any, name: str) -> bool:
    """True or false, 1 or 0, also written as texts."""
    spelled = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
    truth = spelled.get(str(value).strip().lower())
    if truth is None:
        raise Malformed(f"field {name!r} is not true or false")
    return truth


def list_of(row: Fields, key: str) -> list[Any]:
    """A list that must be there."""
    value = value_of(row, key)
    if not isinstance(value, list):
        raise Malformed(f"field {key!r} is not a list")
    return value


def object_of(value: Any, name: str) -> Fields:
    """An object."""
    if not isinstance(value, Mapping):
        raise Malformed(f"field {name!r} is not an object")
    return value


def objects_of(row: Fields, key: str) -> list[Fields]:
    """A list of objects that must be there."""
    return [object_of(each, key) for each in list_of(row, key)]


def messages_of(value: Any, name: str) -> tuple[Message, ...]:
    """Turns written {role, content} or {from, value}, several or a single one; a blank system turn is left away."""
    turns = [value] if isinstance(value, Mapping) else value
    if not isinstance(turns, list | tuple):
        raise Malformed(f"field {name!r} is not a list of turns")
    messages = (_message(turn, name) for turn in turns)
    return tuple(message for message in messages if message is not None)


def role_of(turn: Fields) -> Role | None:
    """Who speaks; None for a tool or another role that we have no use for."""
    return _ROLES.get(str(value_of(turn, "role" if "role" in turn else "from")).lower())


def _message(turn: Any, name: str) -> Message | None:
    if not isinstance(turn, Mapping):
        raise Malformed(f"a turn of {name!r} is not an object with role and content")
    content = "content" if "role" in turn else "value"
    role = role_of(turn)
    if role is None:
        raise Unusable(f"a turn of {name!r} by a role other than system, user and assistant")
    text = value_of(turn, content)
    if role == "system" and isinstance(text, str) and not text.strip():
        return None
    return Message(role=role, content=said(text, f"{role} turn"))


def with_system(system: str, messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages after a system turn, if there is one to add."""
    return (Message(role="system", content=system), *messages) if system.strip() else tuple(messages)


def prompt_of_messages(messages: Iterable[Message], name: str = "prompt") -> Prompt:
    """A conversation that the assistant is to continue."""
    turns = tuple(messages)
    if not turns:
        raise Unusable(f"empty {name}")
    if turns[-1].role == "assistant":
        raise Malformed(f"field {name!r} ends with the assistant's turn")
    return Prompt(messages=turns)


def prompt_of_value(value: Any, name: str = "prompt") -> Prompt:
    """A text is a single user turn; a list is a conversation."""
    if isinstance(value, str):
        return Prompt.from_text(said(value, name))
    return prompt_of_messages(messages_of(value, name), name)


def response_of_value(value: Any, name: str, *, model: str = "") -> Response:
    """A text, or one turn of the assistant's."""
    if not isinstance(value, str):
        turns = messages_of(value, name)
        if len(turns) != 1 or turns[0].role != "assistant":
            raise Malformed(f"field {name!r} is not one turn of the assistant's")
        value = turns[0].content
    provenance = Provenance(model=model) if model else None
    return Response(text=said(value, "response"), provenance=provenance)


def instruction_prompt(row: Fields, *, context: str = "input") -> Prompt:
    """An instruction and, below a blank line, what it is to be applied to."""
    instruction, extra = text_of(row, "instruction"), optional_text(row, context)
    return Prompt.from_text(f"{instruction}\n\n{extra}" if extra.strip() else instruction)


def ranks_by(scores: Sequence[float], *, lowest_first: bool = False) -> tuple[int, ...]:
    """Rank 1 for the best score; equal scores tie and no rank is left out."""
    order = sorted(set(scores), reverse=not lowest_first)
    return tuple(order.index(score) + 1 for score in scores)
