"""One small function per format that shows how to answer: a demonstration in, a row out.

Where a format takes every turn of the assistant's for a demonstration, the earlier ones have weight 0: they are
context, and what was demonstrated is the last one.
"""

from __future__ import annotations

from typing import Any

from palate.corpus.catalogue.format import KIND_NAMES, Item
from palate.corpus.export.parts import (
    Exported,
    Note,
    Row,
    answer,
    demonstration_of,
    single_turn,
    trl_turns,
    turn_with_tools,
    turns,
)
from palate.corpus.rows.rejections import Unusable
from palate.records import Demonstration, Prompt


def messages(item: Item) -> Exported:
    """messages of {role, content}, and tools; a prompt alone ends where the assistant is to answer."""
    if isinstance(item, Prompt):
        prompt, said = item, item.messages
    elif isinstance(item, Demonstration):
        prompt, said = item.prompt, item.messages
    else:
        raise Unusable(f"the format has no place for {KIND_NAMES[type(item)]}")
    for turn in said:
        if not (turn.content.strip() or turn.tool_calls):
            raise Unusable("a prompt with an empty turn" if turn in prompt.messages else "an empty response")
    rows = [turn_with_tools(turn) for turn in said]
    for row in rows[: len(prompt.messages)]:
        row |= {"weight": 0} if row["role"] == "assistant" else {}
    yield {"messages": rows} | ({"tools": list(prompt.tools)} if prompt.tools else {})


def sharegpt(item: Item) -> Exported:
    """conversations of {from, value}."""
    shown = demonstration_of(item)
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    said = [*_weightless(shown.prompt), answer(shown.response)]
    yield {
        "conversations": [
            {"from": names[turn.pop("role")], "value": turn.pop("content"), **turn}
            for turn in said  # and the weight
        ]
    }


def _weightless(prompt: Prompt) -> list[Row]:
    return [{**turn, "weight": 0} if turn["role"] == "assistant" else turn for turn in turns(prompt)]


def trl_prompt_completion(item: Item) -> Exported:
    """prompt, completion as turns."""
    shown = demonstration_of(item)
    yield {"prompt": trl_turns(shown.prompt), "completion": [answer(shown.response)]}


def trl_prompt_completion_text(item: Item) -> Exported:
    """prompt, completion as texts."""
    shown = demonstration_of(item)
    yield {"prompt": single_turn(shown.prompt), "completion": shown.response.text}


def alpaca(item: Item) -> Exported:
    """instruction, input, output; earlier turns go into `history`, a system turn into `system`."""
    shown = demonstration_of(item)
    asked = list(shown.prompt.messages)
    system = asked.pop(0).content if asked[0].role == "system" else ""
    if [turn.role for turn in asked] != (["user", "assistant"] * len(asked))[: len(asked)] or not len(asked) % 2:
        raise Unusable("turns that do not alternate between user and assistant")
    history = [[asked[place].content, asked[place + 1].content] for place in range(0, len(asked) - 1, 2)]
    if not all(turn.learn for turn in asked):
        yield Note("earlier turns of the assistant's are context, and learned by whoever reads `history`")
    row: dict[str, Any] = {"instruction": asked[-1].content, "input": "", "output": shown.response.text}
    yield row | ({"system": system} if system else {}) | ({"history": history} if history else {})
