"""Our own records, as `Record.to_json` writes them, told apart from rows of others that look alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from palate.corpus.catalogue.format import Item, OwnKind, Parser
from palate.corpus.rows.fields import plain
from palate.corpus.rows.rejections import Malformed
from palate.corpus.rows.values import Fields
from palate.records import Candidates, Demonstration, Message, Prompt, Ranking

OWN_KINDS: Mapping[str, OwnKind] = {
    "ranks": Ranking,
    "responses": Candidates,
    "response": Demonstration,
    "messages": Prompt,
}
_PROMPT_KEYS = Prompt.model_fields.keys()


def own_records(kind: OwnKind) -> Parser:
    """Our own records, as `Record.to_json` writes them; a file may hold several kinds."""

    def parse(row: Fields) -> Iterator[Item]:
        if _own_kind(row) is kind:
            yield kind.model_validate(plain(row))

    return parse


def _own_kind(row: Fields) -> OwnKind:
    for key, kind in OWN_KINDS.items():
        if key in row:
            return kind
    raise Malformed("none of our own records: no ranks, responses, response or messages")


def is_own(row: Fields) -> bool:
    """Whether a row is one of our records."""
    prompt = plain(row.get("prompt", row), read=False)
    if not (isinstance(prompt, dict) and prompt.keys() <= _PROMPT_KEYS and _awaits_answer(prompt.get("messages"))):
        return False
    return "prompt" in row or all(map(_is_plain, prompt["messages"])) or any(map(_is_ours, prompt["messages"]))


def _awaits_answer(turns: Any) -> bool:
    """Whether these could be the messages of a prompt of ours, and not somebody's whole conversation."""
    if not isinstance(turns, list) or not turns:
        return False
    known = Message.model_fields.keys()
    own = all(isinstance(turn, dict) and {"role", "content"} <= turn.keys() <= known for turn in turns)
    return own and turns[-1]["role"] != "assistant"


def _is_plain(turn: Mapping[str, Any]) -> bool:
    return turn.keys() == {"role", "content"}


def _is_ours(turn: Mapping[str, Any]) -> bool:
    """Whether a turn has what nobody else writes."""
    calls = turn.get("tool_calls")
    return "learn" in turn or (isinstance(calls, list) and any(isinstance(c, dict) and "name" in c for c in calls))
