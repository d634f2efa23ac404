"""Message trees: three ways of writing them, demonstrations along the best answers, rankings at every turn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from palate.corpus.reading import iterate
from palate.corpus.rows.rejections import Rejections
from palate.records import Demonstration, Ranking

Write = Callable[..., Path]


def node(text: str, *replies: dict[str, Any], rank: int | None = None, **rest: Any) -> dict[str, Any]:
    return {"message_id": f"id-{text}", "text": text, "rank": rank, "replies": list(replies), **rest}


def tree() -> dict[str, Any]:
    """q - a0, a1, a2 ranked a1 < a0 < a2; follow-ups under a1 (best) and a0."""
    return node(
        "q",
        node("a0", node("f0", node("b0", rank=0), node("b1", rank=1)), rank=1),
        node("a1", node("f1", node("c0")), node("f2", node("d0"), node("d1")), rank=0),
        node("a2", rank=2),
        node("a3"),
        node("gone", rank=3, deleted=True),
    )


def with_roles(root: dict[str, Any], role: str = "prompter", parent: str | None = None) -> dict[str, Any]:
    """The tree with the fields of a full export."""
    other = {"prompter": "assistant", "assistant": "prompter"}[role]
    replies = [with_roles(reply, other, root["message_id"]) for reply in root["replies"]]
    return {**root, "role": role, "parent_id": parent, "lang": "en", "replies": replies}


def flat(root: dict[str, Any]) -> list[dict[str, Any]]:
    row = {key: value for key, value in root.items() if key != "replies"}
    return [row, *(below for reply in root["replies"] for below in flat(reply))]


def seen(path: Path) -> tuple[list[Any], list[Any], dict[str, int]]:
    rejections = Rejections()
    items = [item for _, item in iterate(path, rejections=rejections)]
    shown = [
        ([turn.content for turn in item.prompt.messages], item.response.text)
        for item in items
        if isinstance(item, Demonstration)
    ]
    ranked = [
        ([turn.content for turn in item.prompt.messages], [r.text for r in item.responses], item.ranks)
        for item in items
        if isinstance(item, Ranking)
    ]
    return shown, ranked, dict(rejections.unusable)


DEMONSTRATIONS = [(["q"], "a1"), (["q", "a1", "f1"], "c0")]
RANKINGS = [(["q"], ["a0", "a1", "a2"], (2, 1, 3)), (["q", "a0", "f0"], ["b0", "b1"], (1, 2))]
REJECTED = {
    "a message that was deleted or failed its review": 1,
    "several answers and none of them ranked": 1,
    "an answer without a rank among others": 3,
}


def test_three_ways_of_writing_a_tree_say_the_same(write: Write) -> None:
    root = with_roles(tree())
    nested = write("nested.jsonl", [root])
    inside = write("inside.jsonl", [{"message_tree_id": "id-q", "tree_state": "ready_for_export", "prompt": root}])
    rows = write("rows.jsonl.gz", "")
    rows = write("rows.jsonl", [{**row, "message_tree_id": "id-q"} for row in flat(root)])
    for path in (nested, inside, rows):
        assert seen(path) == (DEMONSTRATIONS, RANKINGS, REJECTED)


def test_flat_trees_follow_each_other_and_orphans_are_counted(write: Write) -> None:
    first, second = with_roles(node("p", node("x"))), with_roles(node("q", node("y")))
    orphan = {**flat(first)[1], "message_id": "late", "text": "late"}
    shown, ranked, rejected = seen(write("rows.jsonl", [*flat(first), *flat(second), orphan]))
    assert shown == [(["p"], "x"), (["q"], "y")]
    assert ranked == []
    assert rejected == {"its parent is missing, or does not stand above it in the same tree": 1}


def test_a_deep_tree_is_no_problem_when_flat(write: Write) -> None:
    rows = [
        {
            "message_id": str(depth),
            "parent_id": str(depth - 1) if depth else None,
            "text": f"turn {depth}",
            "role": "assistant" if depth % 2 else "prompter",
        }
        for depth in range(1500)
    ]
    rejections = Rejections()
    count = sum(1 for _ in iterate(write("rows.jsonl", rows), Demonstration, rejections=rejections))
    assert (count, rejections.total) == (750, 0)


def test_roles_that_do_not_alternate_are_malformed(write: Write) -> None:
    rejections = Rejections()
    path = write("rows.jsonl", [node("q", node("a", role="prompter"))])
    assert list(iterate(path, rejections=rejections)) == []
    assert dict(rejections.malformed) == {"field 'replies.role' is not 'assistant': they alternate in a tree": 1}


def test_answers_by_a_model_say_so(write: Write) -> None:
    path = write("rows.jsonl", [node("q", node("a", synthetic=True, model_name="parrot"))])
    (item,) = [item for _, item in iterate(path, Demonstration, rejections=Rejections())]
    assert isinstance(item, Demonstration)
    assert item.response.provenance is not None
    assert item.response.provenance.model == "parrot"


def test_what_reviewers_said_of_the_answers(write: Write) -> None:
    """Both ways in which labels are published; the quality is a rating if all answers have one."""
    by_list = {"name": ["quality", "spam", "humor"], "value": [0.5, 0.6, 1.0], "count": [3, 3, 3]}
    by_name = {"quality": {"value": 1.0, "count": 3}, "spam": {"value": 0.4, "count": 3}}
    root = with_roles(node("q", node("a", rank=1, labels=by_list), node("b", rank=0, labels=by_name, user_id="u1")))
    shown, ranking = (item for _, item in iterate(write("rows.jsonl", [root]), rejections=Rejections()))
    assert isinstance(ranking, Ranking)
    assert isinstance(shown, Demonstration)
    assert (ranking.ratings, ranking.flags, shown.author) == ((4.0, 7.0), (("spam",), ()), "u1")
    for unknown in (None, {}, {"quality": {"value": 3}}, {"quality": {"value": None}}, {"name": ["quality"]}, "x"):
        root["replies"][0]["labels"] = unknown
        _, ranking = (item for _, item in iterate(write("rows.jsonl", [root]), rejections=Rejections()))
        assert isinstance(ranking, Ranking)
        assert (ranking.ratings, ranking.flags) == (None, None)
