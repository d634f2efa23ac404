"""Message trees as Open-Assistant exports them (Köpf et al. 2023).

A tree alternates people's turns and answers to them; answers to the same turn were ranked against each other (rank 0 is
the best). Three ways of writing one are read: a root message with nested `replies`, the same inside `prompt`, and one
message per row with the rows of a tree one below the other.

A ranking is made of every turn with at least two ranked answers, with ratings if the reviewers gave all of them a
`quality`, and flags where they agreed on another label. A demonstration is the best answer to a turn, as long
as every earlier answer in the dialogue is the best one too: nobody is shown how to go on after a poor answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from palate.corpus.rows.fields import label
from palate.corpus.rows.rejections import Malformed, Unusable
from palate.corpus.rows.row import Row
from palate.corpus.rows.values import Fields, is_number, number_of, object_of, optional_text, ranks_by, text_of
from palate.records import Demonstration, Message, Prompt, Provenance, Ranking, Response

_SCALES = frozenset({"quality", "helpfulness", "creativity", "humor"})  # labels that are no complaint

_Node: TypeAlias = Fields
_Turn: TypeAlias = tuple[Prompt, list[_Node], bool]  # a dialogue, the answers to it, whether it was the best all along


def oasst(row: Fields) -> Iterator[Demonstration | Unusable]:
    """The best answer to every turn of the best dialogue."""
    for turn in _turns(row):
        if isinstance(turn, Unusable):
            yield turn
            continue
        prompt, answers, best_so_far = turn
        best = _best(answers)
        if answers and best is None and best_so_far:
            yield Unusable("several answers and none of them ranked")
        elif best is not None and best_so_far:
            author = optional_text(best, "user_id")
            yield Demonstration(prompt=prompt, response=_response(best), author=author)


def oasst_rankings(row: Fields) -> Iterator[Ranking | Unusable]:
    """The ranked answers to every turn."""
    for turn in _turns(row):
        if isinstance(turn, Unusable):
            yield turn
            continue
        prompt, answers, _ = turn
        ranked = [answer for answer in answers if answer.get("rank") is not None]
        if len(answers) > 1:
            yield from [Unusable("an answer without a rank among others")] * (len(answers) - len(ranked))
        if len(ranked) > 1:
            ranks = ranks_by([number_of(answer["rank"], "rank") for answer in ranked], lowest_first=True)
            labels = [_labels(answer) for answer in ranked]
            yield Ranking(
                prompt=prompt,
                responses=tuple(map(_response, ranked)),
                ranks=ranks,
                ratings=_ratings(labels),
                flags=_flags(labels),
            )


def oasst_trees(rows: Iterator[Row]) -> Iterator[Row]:
    """Make one nested row of the flat rows of every tree; nested rows pass."""
    root: Row | None = None
    nodes: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row.problem or "prompt" in row.fields or "replies" in row.fields:
            yield row
            continue
        node = {**row.fields, "replies": []}
        parent = str(node.get("parent_id"))
        if node.get("parent_id") is None:
            if root is not None:
                yield root
            root, nodes = replace(row, fields=node, members="replies."), {}
        elif parent in nodes:
            nodes[parent]["replies"].append(node)
        else:
            yield replace(row, problem=Unusable("its parent is missing, or does not stand above it in the same tree"))
        nodes[str(node.get("message_id"))] = node
    if root is not None:
        yield root


def _turns(row: Fields) -> Iterator[_Turn | Unusable]:
    """Every turn of a person's, top down; without recursion, since a tree may be deep."""
    stack: list[tuple[tuple[Message, ...], _Node, bool]] = [((), object_of(row.get("prompt", row), "prompt"), True)]
    while stack:
        dialogue, node, best_so_far = stack.pop()
        prompt = Prompt(messages=(*dialogue, Message(role="user", content=text_of(node, "text"))))
        replies = _replies(node, "assistant")
        answers = [reply for reply in replies if not isinstance(reply, Unusable)]
        yield from (reply for reply in replies if isinstance(reply, Unusable))
        yield prompt, answers, best_so_far
        best = _best(answers)
        for answer in reversed(answers):
            after = (*prompt.messages, Message(role="assistant", content=text_of(answer, "text")))
            for reply in reversed(_replies(answer, "prompter")):
                if isinstance(reply, Unusable):
                    yield reply
                else:
                    stack.append((after, reply, best_so_far and answer is best))


def _replies(node: _Node, role: str) -> list[_Node | Unusable]:
    replies = node.get("replies") or []
    if not isinstance(replies, list):
        raise Malformed("field 'replies' is not a list of messages")
    return [_checked(object_of(reply, "replies"), role) for reply in replies]


def _checked(node: _Node, role: str) -> _Node | Unusable:
    if node.get("role", role) != role:
        raise Malformed(f"field {label(node, 'role')!r} is not {role!r}: they alternate in a tree", found=node["role"])
    if node.get("deleted") or node.get("review_result") is False:
        return Unusable("a message that was deleted or failed its review")
    return node if optional_text(node, "text").strip() else Unusable("empty message in a tree")


def _best(answers: list[_Node]) -> _Node | None:
    ranked = [answer for answer in answers if answer.get("rank") is not None]
    if ranked:
        return min(ranked, key=lambda answer: number_of(answer["rank"], "rank"))
    return answers[0] if len(answers) == 1 else None


def _response(answer: _Node) -> Response:
    model = optional_text(answer, "model_name") if answer.get("synthetic") else ""
    return Response(text=text_of(answer, "text"), provenance=Provenance(model=model) if model else None)


def _labels(answer: _Node) -> dict[str, float]:
    """Labels written {name: [...], value: [...]} or {name: {value}}; those that are neither are nobody's loss."""
    labels = answer.get("labels")
    if not isinstance(labels, Mapping):
        return {}
    if isinstance(labels.get("name"), list) and isinstance(labels.get("value"), list):
        named = list(zip(labels["name"], labels["value"], strict=False))
    else:
        named = [(name, each.get("value")) for name, each in labels.items() if isinstance(each, Mapping)]
    return {str(name): float(value) for name, value in named if is_number(value)}


def _ratings(labels: list[dict[str, float]]) -> tuple[float, ...] | None:
    qualities = [named.get("quality", -1.0) for named in labels]
    return tuple(rating_of_label(each) for each in qualities) if all(0 <= each <= 1 for each in qualities) else None


def _flags(labels: list[dict[str, float]]) -> tuple[tuple[str, ...], ...] | None:
    flags = [tuple(name for name, value in named.items() if name not in _SCALES and value >= 0.5) for named in labels]
    return tuple(flags) if any(flags) else None


def rating_of_label(quality: float) -> float:
    """0 to 1 -> 1 to 7."""
    return 1 + 6 * quality


def label_of_rating(rating: float) -> float:
    """1 to 7 -> 0 to 1."""
    return (rating - 1) / 6
