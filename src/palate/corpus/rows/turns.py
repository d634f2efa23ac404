"""Conversations out of a row: turns in every usual spelling, what is said, called and answered in them, and prompts.

turns            {role, content} or {from, value}; content as a text or as a list of text parts
tools            `tool_calls`, `function_call`, turns by function_call and observation, a column `tools`
marks            turns of the assistant's that must not be learned (see `marks`)
prompts          a text, a transcript in one text or a list of turns, below the row's `system` and `history`
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from palate.corpus.rows.fields import is_null, label, plain
from palate.corpus.rows.marks import MARKS, is_learned, learned_by_row
from palate.corpus.rows.rejections import Malformed, Unusable
from palate.corpus.rows.values import (
    Fields,
    kind_of,
    list_of,
    object_of,
    optional_text,
    said,
    structure_in,
    text_of,
    value_of,
)
from palate.records import Message, Prompt, Provenance, Response, Role, ToolCall

_SPEAKERS: Mapping[Role, str] = {
    "system": "system developer",
    "user": "user human prompter",
    "assistant": "assistant gpt chatgpt bot model chatbot ai function_call function-call tool_call",
    "tool": "tool function observation ipython function_response tool_response",
}
_ROLES = {name: role for role, names in _SPEAKERS.items() for name in names.split()}
_CALLERS = frozenset({"function_call", "function-call", "tool_call"})
_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})
_SYSTEM = ("system", "system_prompt", "system_message")
_TOOLS = ("tools", "functions")
_DIALOGUES = ("messages", "conversations")
_SPOKEN = re.compile(r"\n\n(Human|Assistant):")
_SPOKEN_FIRST = re.compile(r"\s*Human:")
_MARKED = re.compile(r"\n?<extra_id_1>(Assistant|User)\n")


def messages_of(value: Any, name: str) -> tuple[Message, ...]:
    """Turns, several or a single one; a blank system turn is left away."""
    turns = [value] if isinstance(value, Mapping) else value
    if not isinstance(turns, list | tuple):
        raise Malformed(f"field {name!r} is {kind_of(value)}, not a list of turns")
    messages = (_message(turn, name) for turn in turns)
    return tuple(message for message in messages if message is not None)


def is_turn(value: Any) -> bool:
    """Whether an object is a turn: somebody's, with something said or called."""
    if not isinstance(value, Mapping):
        return False
    speaker = value.get("role") or value.get("from")
    return isinstance(speaker, str) and speaker.lower() in _ROLES and not value.keys().isdisjoint(_SAID)


_SAID = ("content", "value", "tool_calls", "function_call")
TURN_KEYS = frozenset(("role", "from", *_SAID, "tool_call_id", "name", *MARKS))


def is_dialogue(value: Any) -> bool:
    """Whether a value is a list of turns, or an object that holds one."""
    if isinstance(value, Mapping):
        return any(is_dialogue(value.get(key)) for key in _DIALOGUES)
    return isinstance(value, list) and bool(value) and all(map(is_turn, value))


def dialogue_in(value: Any, name: str) -> tuple[tuple[Message, ...], Fields]:
    """The turns of a list, or of an object that holds one, and the fields beside it (such as its tools)."""
    if isinstance(value, Mapping):
        for key in _DIALOGUES:
            if key in value:
                return messages_of(value[key], f"{name}.{key}"), value
    return messages_of(value, name), {}


def conversation_of(row: Fields, key: str) -> tuple[Message, ...]:
    """The turns in a field; those that the row or they themselves mark are not to be learned."""
    name = label(row, key)
    turns = [_message(turn, name) for turn in list_of(row, key)]
    learned = learned_by_row(row, ["system" if turn is None else turn.role for turn in turns])
    return tuple(
        turn if mark or turn.role != "assistant" else turn.model_copy(update={"learn": False})
        for turn, mark in zip(turns, learned, strict=True)
        if turn is not None
    )


def _message(turn: Any, name: str) -> Message | None:
    if not isinstance(turn, Mapping):
        raise Malformed(f"a turn of {name!r} is {kind_of(turn)}, not an object with role and content")
    speaker, role = _speaker(turn, name)
    calls = _calls(turn, name, speaker)
    content = (
        "" if speaker in _CALLERS else _content(turn, name, may_be_empty=bool(calls) or role in ("system", "tool"))
    )
    if role == "system" and not content.strip():
        return None
    return Message(
        role=role,
        content=content,
        tool_calls=calls,
        tool_call_id=optional_text(turn, "tool_call_id"),
        name=optional_text(turn, "name"),
        learn=is_learned(turn) or role != "assistant",
    )


def _speaker(turn: Fields, name: str) -> tuple[str, Role]:
    key = next((key for key in ("role", "from") if key in turn), None)
    if key is None:
        raise Malformed(f"a turn of {name!r} has neither role nor from, but {', '.join(turn) or 'nothing'}")
    speaker = str(turn[key])
    role = _ROLES.get(speaker.strip().lower())
    if role is None:
        raise Unusable(f"a turn of {name!r} by {speaker!r}: neither system, user, assistant nor tool")
    return speaker.strip().lower(), role


def role_of(speaker: str) -> Role | None:
    """The role of a speaker under any of its names."""
    return _ROLES.get(speaker.strip().lower())


def _content(turn: Fields, name: str, *, may_be_empty: bool) -> str:
    key = "content" if "content" in turn or "value" not in turn else "value"
    where = f"{name}.{key}"
    if key not in turn:
        if may_be_empty:
            return ""
        raise Malformed(f"field {where!r} is null" if is_null(turn, key) else f"no field {where!r}")
    value = turn[key]
    if isinstance(value, list):
        value = _joined(value, where)
    elif isinstance(value, Mapping) and _speaker(turn, name)[1] == "tool":
        value = json.dumps(plain(value), ensure_ascii=False)  # a tool's result may be an object
    return value if may_be_empty and isinstance(value, str) else said(value, where)


def _joined(parts: Sequence[Any], where: str) -> str:
    """The texts of a list of content parts."""
    texts = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = str(object_of(part, where).get("type", "text" if "text" in part else "of no type"))
        if kind not in _TEXT_PARTS:
            raise Malformed(f"a part of kind {kind!r} in {where!r}: only text parts can be read")
        key = "text" if "text" in part or "value" not in part else "value"
        texts.append(said(part.get(key), f"{where}.{key}") if part.get(key) != "" else "")
    return "\n".join(texts)


def _calls(turn: Fields, name: str, speaker: str) -> tuple[ToolCall, ...]:
    if speaker in _CALLERS:
        key = "content" if "content" in turn else "value"
    else:
        key = next((key for key in ("tool_calls", "function_call") if key in turn), "")
    if not key or not turn.get(key):
        return ()
    value = _structure(turn[key], f"{name}.{key}")
    return tuple(_call(each, f"{name}.{key}") for each in (value if isinstance(value, list) else [value]))


def _call(value: Any, name: str) -> ToolCall:
    call = object_of(value, name)
    if call.get("type", "function") != "function":
        raise Malformed(f"a call of kind {call['type']!r} in {name!r}: only functions can be called")
    function = object_of(call["function"], f"{name}.function") if "function" in call else call
    arguments = function.get("arguments", "{}")
    if not isinstance(arguments, str):
        arguments = json.dumps(plain(arguments), ensure_ascii=False)
    call_id = call.get("id")
    return ToolCall(name=text_of(function, "name"), arguments=arguments, id="" if call_id is None else str(call_id))


def _structure(value: Any, name: str) -> Any:
    """A list or an object, also one that is spelled out in a text."""
    if not isinstance(value, str):
        return value
    found = structure_in(value)
    if found is None:
        raise Malformed(f"field {name!r} is a text that is no JSON list or object", found=value)
    return found


def system_of(row: Fields) -> tuple[str, str]:
    """The row's own system prompt and the name of its column; empty where there is none."""
    for key in _SYSTEM:
        if key in row and (text := optional_text(row, key)).strip():
            return text, label(row, key)
    return "", ""


def tools_of(*rows: Fields) -> tuple[Mapping[str, Any], ...]:
    """The tools that may be called, of the first object that defines any."""
    for row in rows:
        for key in _TOOLS:
            if key in row and (value := row[key]):
                found = plain(_structure(value, label(row, key)))
                if found:
                    return tuple(object_of(tool, label(row, key)) for tool in _as_list(found))
    return ()


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def history_of(row: Fields) -> tuple[Message, ...]:
    """What was said before: `history` as [[user, assistant], ...] or as turns."""
    if "history" not in row or not row["history"]:
        return ()
    name = label(row, "history")
    value = _structure(row["history"], name)
    if is_dialogue(value):
        return dialogue_in(value, name)[0]
    turns: list[Message] = []
    for exchange in _as_list(value):
        if not (isinstance(exchange, list) and len(exchange) == 2):
            raise Malformed(f"field {name!r} is neither a list of [user, assistant] nor of turns", found=exchange)
        turns.append(Message(role="user", content=said(exchange[0], name)))
        turns.append(Message(role="assistant", content=said(exchange[1], name)))
    return tuple(turns)


def with_system(row: Fields, messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages below the row's system prompt, if it has one that they do not begin with."""
    system, name = system_of(row)
    if not system:
        return tuple(messages)
    if messages and messages[0].role == "system":
        if messages[0].content.strip() == system.strip():
            return tuple(messages)
        raise Malformed(f"field {name!r} and the conversation's own system turn differ: --ignore one of them")
    return (Message(role="system", content=system), *messages)


def asked(row: Fields, messages: Iterable[Message], name: str, *beside: Fields) -> Prompt:
    """A conversation that the assistant is to continue, with the row's system prompt and tools.

    Args:
        name: of the field that holds the messages.
        beside: other objects that may define the tools.
    """
    turns = with_system(row, tuple(messages))
    if not turns:
        raise Unusable(f"empty {name}")
    if turns[-1].role == "assistant":
        raise Malformed(f"field {name!r} ends with the assistant's turn: nothing is left to be answered")
    return Prompt(messages=turns, tools=tools_of(row, *beside))


def prompt_of(row: Fields, key: str = "prompt", *, history: bool = True) -> Prompt:
    """The prompt in a field: a text is a user turn or a transcript, a list is a conversation."""
    value = value_of(row, key)
    name = label(row, key)
    beside: Fields = {}
    if isinstance(value, str):
        turns = transcript(value, name) or (Message(role="user", content=said(value, name)),)
    else:
        turns, beside = dialogue_in(value, name)
    return asked(row, (*history_of(row), *turns) if history and turns else turns, name, beside)


def transcript(text: str, name: str) -> tuple[Message, ...] | None:
    """The turns of a prompt that is written as one text with the speaker's name before each; None if it is not.

    Two ways are known: `Human:` and `Assistant:` after blank lines, open at the end for the next answer, and
    `<extra_id_1>User` and `<extra_id_1>Assistant` between turns.
    """
    if _MARKED.search(text):
        first, *parts = _MARKED.split(text)
        speakers, contents = ["User", *parts[::2]], [first, *parts[1::2]]
    elif is_spoken(text):
        _, *parts = _SPOKEN.split("\n\n" + text.lstrip())
        speakers, contents = parts[::2], [part.strip() for part in parts[1::2]]
    else:
        return None
    if speakers[-1] == "Assistant" and not contents[-1].strip():
        speakers, contents = speakers[:-1], contents[:-1]
    said_by = zip(speakers, contents, strict=True)
    return tuple(Message(role=_SPOKEN_ROLES[who], content=said(what, name)) for who, what in said_by)


def is_spoken(text: str) -> bool:
    """Whether a text has `Human:` and `Assistant:` before its turns."""
    begins = _SPOKEN_FIRST.match(text) is not None
    return begins and (text.startswith("\n\n") or _SPOKEN.search(text.strip()) is not None)


_SPOKEN_ROLES: Mapping[str, Role] = {"Human": "user", "User": "user", "Assistant": "assistant"}


def instruction_prompt(row: Fields, *, context: str = "input", given: Fields | None = None) -> Prompt:
    """An instruction and, below a blank line, what it is to be applied to.

    Args:
        given: the object that holds the latter, if it is not the row.
    """
    instruction = text_of(row, "instruction")
    extra = optional_text(row if given is None else given, context)
    text = f"{instruction}\n\n{extra}" if extra.strip() else instruction
    name = label(row, "instruction")
    return asked(row, (*history_of(row), *(transcript(text, name) or (Message(role="user", content=text),))), name)


def response_of(value: Any, name: str, *, model: str = "", strip: bool = False) -> Response:
    """A text, or one turn of the assistant's.

    Args:
        strip: it answers a transcript, so the blanks at its ends are the transcript's.
    """
    provenance = Provenance(model=model) if model else None
    if isinstance(value, str):
        text = said(value, name)
        return Response(text=text.strip() if strip else text, provenance=provenance)
    turns, _ = dialogue_in(value, name)
    if len(turns) != 1 or turns[0].role != "assistant":
        raise Malformed(f"field {name!r} is not one turn of the assistant's", found=[turn.role for turn in turns])
    return answer(turns[0], provenance)


def answer(turn: Message, provenance: Provenance | None = None) -> Response:
    """A turn of the assistant's as a response."""
    return Response(text=turn.content, tool_calls=turn.tool_calls, provenance=provenance)
