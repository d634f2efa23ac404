"""Conversations as text, turn by turn, through whatever chat template a model has.

A template lays out whole conversations, and some change what came before once they know what follows: thoughts are
taken out of earlier turns, blanks are cut, an empty thought is put before the last response. A prompt that changes is
no prefix of anything. So a template is asked for one thing at a time: what stands between the end of one response and
the beginning of the next. Earlier responses are stood in for by a mark, and what the template writes behind the last
mark is the new part. The parts in a row are the conversation, whoever asks for it: a sampler, a loss or a reward model.

Where a response begins and ends is read off one small conversation when a template is first met. A response that calls
tools is the template's own wording: what its `{% generation %}` marks enclose, or by difference what a whole
conversation has more than its prompt.

Left out: images and other parts that are no text, documents, and templates that write the assistant's words differently
from how they are given in any other way than by cutting blanks at their ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from palate.errors import TemplateError
from palate.records import Message, ToolCall

BREAK = "\ufdd0"
"""A character that no text may hold (Unicode keeps it free); tokens are never merged across it, and it makes none."""

_LAST, _EARLIER = "\ufdd1", "\ufdd2"
"""Two more of those: what stands in for the last response before the new part, and for the ones before it."""

_MARKS = str.maketrans("", "", BREAK + _LAST + _EARLIER)

QUESTION = Message(role="user", content="What is red?")
REPLY = Message(role="assistant", content="Roses are.")
_OTHER = Message(role="user", content="Name a fish")
PROBE = (QUESTION, REPLY, _OTHER, Message(role="assistant", content="The perch."))
"""A small conversation that every template can hold."""

_SYSTEM = Message(role="system", content="Be kind.")
_THOUGHT = "<think>"

Tools: TypeAlias = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A response of a conversation and what stands before it.

    Attributes:
        before: from the end of the response before it, or from the beginning.
        said: the response's text, without its stop token; None where one is to come.
        message: the assistant's turn; None where it is to come.
    """

    before: str
    said: str = ""
    message: Message | None = None


class Layout:
    """A tokenizer's chat template, and what it does with a conversation.

    Args:
        tokenizer: a Hugging Face tokenizer with a template.
        ends: names of tokens that can end a response.
        specials: names of special tokens, of which a turn's header has at least one.
        spelled: breaks up such names in what people and models wrote.

    Attributes:
        stop: the token that ends a response, as text.
        opening: how every prompt ends, as far as it is always the same.
        header: what the template has before every response and does not put at a prompt's end when asked to.
        lead, trail: what the template puts before and after the words of a response.
        trims: it cuts blanks at the ends of a response.
        opens_thought: a prompt ends within a thought, which the response has to close.
        merges_system: it has no system turn; one is put at the beginning of the user's turn that follows.
    """

    def __init__(
        self, tokenizer: Any, *, ends: re.Pattern[str], specials: re.Pattern[str], spelled: Callable[[str], str]
    ) -> None:
        self.tokenizer, self._spelled = tokenizer, spelled
        self.header = ""
        opened = self._opened([QUESTION])
        before, after = self._around_response([QUESTION, REPLY.model_copy(update={"content": _LAST})])
        self.stop, self.trail = self._end(after, ends)
        self.header, self.lead = self._beginning(opened, before, specials)
        self.opening = _common_end(opened, self._opened([_OTHER])) + self.header
        blank = REPLY.model_copy(update={"content": f"\t{_LAST}\t"})
        self.trims = blank.content not in self._render([QUESTION, blank])
        self.opens_thought = _THOUGHT in self.opening.rpartition("</think>")[2]
        self._puts_system_before_user = not self._shows_system()
        self.merges_system = self._puts_system_before_user or self._system_is_users()

    def turns(self, messages: Sequence[Message], tools: Tools = ()) -> Iterator[Turn]:
        """Every response with what stands before it; last, what stands before the one to come, if one is to come.

        Raises:
            TemplateError: the template cannot hold the conversation.
        """
        self._check_tools(messages, tools)
        messages = self._without_system([_unmarked(message) for message in messages])
        for index, message in enumerate(messages):
            if message.role == "assistant":
                before = self._before(messages[:index], tools)
                yield Turn(before=before, said=self._said(messages[: index + 1], tools), message=message)
        if messages[-1].role != "assistant":
            yield Turn(before=self._before(messages, tools))

    def response(self, text: str) -> str:
        """The words of a response as they follow a prompt."""
        text = text.translate(_MARKS)
        if self.trims:
            text = text.strip()
        if self.opens_thought:
            text = re.sub(r"^\s*<think>\n?", "", text)
        lead = "" if self.lead.strip() and text.startswith(self.lead.strip()) else self.lead
        return lead + self._spelled(text) + self.trail

    def closes_thought(self, text: str) -> bool:
        """Whether a response can be learned as one: it closes the thought that its prompt has opened."""
        return not self.opens_thought or "</think>" in text

    def own(self, messages: Sequence[Message], tools: Tools = ()) -> str:
        """The model's own rendering of a whole conversation, up to the end of its last response."""
        text = self._render(self._without_system([_unmarked(message) for message in messages]), tools)
        return text[: text.rindex(self.stop) + len(self.stop)] if self.stop in text else text

    @cached_property
    def writes_dates(self) -> bool:
        """Whether what it writes depends on the day."""
        return "strftime_now" in str(self.tokenizer.chat_template)

    def _before(self, messages: Sequence[Message], tools: Tools) -> str:
        last = max((index for index, turn in enumerate(messages) if turn.role == "assistant"), default=None)
        stood_in = [
            _stood_in(turn, _LAST if index == last else _EARLIER) if turn.role == "assistant" else turn
            for index, turn in enumerate(messages)
        ]
        text = self._opened(stood_in, tools)
        if last is not None:
            _, found, text = text.rpartition(_LAST)
            if not found:
                raise TemplateError("the chat template leaves an earlier response out: name another by chat_template")
            text = self._after_stop(text, calls=bool(messages[last].tool_calls))
        for turn in messages if last is None else messages[last + 1 :]:
            if turn.role in ("system", "user") and self._spelled(turn.content).strip() not in text:
                raise TemplateError(f"the chat template leaves a {turn.role} turn out, or changes its words")
        return text

    def _after_stop(self, text: str, *, calls: bool) -> str:
        """Without the end of the response, which the response has already; a template may have left it out."""
        if calls:
            return text.partition(self.stop)[2]
        return text.removeprefix(self.trail).removeprefix(self.stop)

    def _said(self, messages: Sequence[Message], tools: Tools) -> str:
        if not messages[-1].tool_calls:
            return self.response(messages[-1].content)
        stood_in = [_stood_in(turn, _EARLIER) if turn.role == "assistant" else turn for turn in messages[:-1]]
        opened = self._opened(stood_in, tools)
        text, marks = self._marked([*stood_in, messages[-1]], tools)
        if marks:
            said = text[slice(*marks[-1])]
        elif text.startswith(opened):
            said = text[len(opened) :]
        else:
            raise TemplateError("the chat template does not show where a response with a tool call begins")
        return said.rpartition(self.stop)[0] if self.stop in said else said

    def _without_system(self, messages: Sequence[Message]) -> list[Message]:
        """System turns at the beginning of the user's turn that follows, for a template that has none."""
        if not self._puts_system_before_user:
            return list(messages)
        turns: list[Message] = []
        waiting: list[str] = []
        for message in messages:
            if message.role == "system":
                waiting.append(message.content)
            elif waiting and message.role != "user":
                break
            else:
                content = "\n\n".join([*waiting, message.content])
                turns.append(message.model_copy(update={"content": content}) if waiting else message)
                waiting = []
        if waiting:
            raise TemplateError("the chat template has no system turn, and no turn of the user's follows to put it in")
        return turns

    def _shows_system(self) -> bool:
        try:
            return _SYSTEM.content in self._opened([_SYSTEM, QUESTION])
        except TemplateError:
            return False

    def _system_is_users(self) -> bool:
        """The template does by itself what `_without_system` does."""
        merged = QUESTION.model_copy(update={"content": f"{_SYSTEM.content}\n\n{QUESTION.content}"})
        return self._opened([_SYSTEM, QUESTION]) == self._opened([merged])

    def _around_response(self, messages: Sequence[Message]) -> tuple[str, str]:
        before, found, after = self._render(messages).partition(_LAST)
        if not found:
            raise TemplateError("the chat template leaves the assistant's words out: name another by chat_template")
        return before, after

    def _end(self, after: str, ends: re.Pattern[str]) -> tuple[str, str]:
        """The stop token's text, and the blanks before it."""
        rest = after.lstrip()
        found = ends.match(rest)
        if found is None:
            raise TemplateError(
                f"the chat template must end a response with a special token such as {self.tokenizer.eos_token!r}, "
                f"but {after[:40]!r} follows it, and this tokenizer knows none there: name another by chat_template"
            )
        return found[0], after[: len(after) - len(rest)]

    def _beginning(self, opened: str, before: str, specials: re.Pattern[str]) -> tuple[str, str]:
        """What a prompt lacks that comes before every response, and what belongs to the response.

        Blanks belong to the response, as does what the template marks as the assistant's; a header does not. Anything
        else, such as an empty thought before the last response, is left out: no prompt ends that way.
        """
        if not before.startswith(opened):
            return "", ""
        gap = before[len(opened) :]
        if specials.search(gap):
            return gap, ""
        _, marks = self._marked([QUESTION, REPLY])
        return "", gap if not gap.strip() or (marks and marks[0][0] == len(opened)) else ""

    @cached_property
    def _argument_form(self) -> Callable[[str], Any] | None:
        """How the template takes the arguments of a call; None if it does not show calls."""
        return next((form for form in (_as_object, str) if self._shows_call(form)), None)

    def _shows_call(self, form: Callable[[str], Any]) -> bool:
        call = ToolCall(name="shade_of", arguments='{"flower": "poppy"}', id="callnum01")
        calling = REPLY.model_copy(update={"content": "", "tool_calls": (call,)})
        try:
            text = self._apply([_as_turn(turn, form) for turn in (QUESTION, calling)], _TOOLS, opened=False)
        except TemplateError:
            return False
        return '"poppy"' in text  # and not a dict as Python prints it

    @cached_property
    def _shows_tools(self) -> bool:
        try:
            return "shade_of" in self._opened([QUESTION], _TOOLS)
        except TemplateError:
            return False

    @cached_property
    def _shows_results(self) -> bool:
        call = ToolCall(name="shade_of", arguments="{}", id="callnum01")
        result = Message(role="tool", content="scarlet", tool_call_id=call.id, name=call.name)
        try:
            calling = REPLY.model_copy(update={"content": "", "tool_calls": (call,)})
            return "scarlet" in self._opened([QUESTION, calling, result], _TOOLS)
        except TemplateError:
            return False

    def _check_tools(self, messages: Sequence[Message], tools: Tools) -> None:
        calls = any(turn.tool_calls for turn in messages)
        missing = [
            *(["definitions of tools"] if tools and not self._shows_tools else []),
            *(["calls of tools"] if calls and self._argument_form is None else []),
            *(
                ["results of tools"]
                if any(turn.role == "tool" for turn in messages) and not self._shows_results
                else []
            ),
        ]
        if missing:
            raise TemplateError(f"the chat template does not show {missing[0]}: name one that does by chat_template")

    def _opened(self, messages: Sequence[Message], tools: Tools = ()) -> str:
        return self._apply(self._as_turns(messages), tools, opened=True) + self.header

    def _render(self, messages: Sequence[Message], tools: Tools = ()) -> str:
        return self._apply(self._as_turns(messages), tools, opened=False)

    def _marked(self, messages: Sequence[Message], tools: Tools = ()) -> tuple[str, list[tuple[int, int]]]:
        """The text, and where its `{% generation %}` marks begin and end."""
        from transformers.utils import chat_template_utils

        render: Any = chat_template_utils.render_jinja_template  # by itself apply_chat_template gives tokens alone
        text = self._render(messages, tools)
        template = self.tokenizer.get_chat_template(None, list(tools) or None)
        if not re.search(r"\{%-?\s*generation\s*-?%\}", template):
            return text, []
        _, marks = render(
            conversations=[_cleaned(self._as_turns(messages), self._spelled)],
            tools=_cleaned([*tools], self._spelled) or None,
            chat_template=template,
            return_assistant_tokens_mask=True,
            **self.tokenizer.special_tokens_map,
        )
        return text, [(int(start), int(end)) for start, end in marks[0]]

    def _as_turns(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        calls = any(message.tool_calls for message in messages)
        form = (self._argument_form if calls else None) or _as_object
        return [_as_turn(message, form) for message in messages]

    def _apply(self, turns: list[dict[str, Any]], tools: Tools, *, opened: bool) -> str:
        definitions = _cleaned([*tools], self._spelled) or None
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    _cleaned(turns, self._spelled), tools=definitions, tokenize=False, add_generation_prompt=opened
                )
            )
        except Exception as error:  # a template is a program of its author's, and may fail in any way
            roles = [turn["role"] for turn in turns]
            shown = ", ".join(["...", *roles[-3:]] if len(roles) > 4 else roles)
            said = " ".join(str(error).split())
            raise TemplateError(f"the chat template refuses a conversation of {shown}: {said}") from None


_TOOLS: Tools = (
    {
        "type": "function",
        "function": {
            "name": "shade_of",
            "description": "The shade of a flower.",
            "parameters": {
                "type": "object",
                "properties": {"flower": {"type": "string", "description": "Its name."}},
                "required": ["flower"],
            },
        },
    },
)


def _stood_in(message: Message, mark: str) -> Message:
    """The assistant's turn with a mark in the place of its words: of its last call's name, if it calls tools."""
    if not message.tool_calls:
        return message.model_copy(update={"content": mark})
    *others, call = message.tool_calls
    return message.model_copy(update={"tool_calls": (*others, call.model_copy(update={"name": mark}))})


def _unmarked(message: Message) -> Message:
    """Without the characters that stand for something here; nobody who writes a message can mean them."""
    text = message.model_dump_json()
    return message if text.isascii() else Message.model_validate_json(text.translate(_MARKS))


def _as_turn(message: Message, form: Callable[[str], Any]) -> dict[str, Any]:
    """As the template takes it."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": form(call.arguments)}}
            | ({"id": call.id} if call.id else {})
            for call in message.tool_calls
        ]
    names = {"tool_call_id": message.tool_call_id, "name": message.name}
    return turn | {key: value for key, value in names.items() if value}


def _cleaned(value: Any, spelled: Callable[[str], str]) -> Any:
    """Plain JSON in which the names of special tokens are broken up."""
    if isinstance(value, str):
        return spelled(value)
    if isinstance(value, Mapping):
        return {spelled(key): _cleaned(item, spelled) for key, item in value.items()}
    return [_cleaned(item, spelled) for item in value] if isinstance(value, list | tuple) else value


def _as_object(arguments: str) -> Any:
    """What the text says, as most templates take it; the text itself if it is not JSON."""
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def _common_end(one: str, other: str) -> str:
    length = 0
    while length < min(len(one), len(other)) and one[-1 - length] == other[-1 - length]:
        length += 1
    return one[len(one) - length :]
