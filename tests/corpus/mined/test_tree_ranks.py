"""Ranks among siblings of message trees: marked by their source, the rest counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from palate.corpus import read_rankings
from palate.corpus.mined.miners import mine
from palate.errors import DataError
from palate.recipe import Data, TreeMining


def node(text: str, role: str = "assistant", rank: int | None = None, *replies: dict[str, Any]) -> dict[str, Any]:
    return {"text": text, "role": role, "rank": rank, "replies": list(replies)}


FOLLOW_UP = node("And then?", "prompter", None, node("c", rank=2), node("d", rank=0), node("e", rank=1))
TREES = [
    {
        "message_tree_id": "1",
        "prompt": node("Why?", "prompter", None, node("a", "assistant", 1, FOLLOW_UP), node("b", rank=0)),
    },
    {"message_tree_id": "2", "prompt": node("How?", "prompter", None, node("a", rank=0), node("b", rank=0))},
    {"message_tree_id": "3", "prompt": node("Who?", "prompter", None, node("a", rank=0), node("b"), node("c", rank=1))},
]


@pytest.fixture
def trees(tmp_path: Path) -> Path:
    path = tmp_path / "trees.jsonl"
    path.write_text("".join(json.dumps(tree) + "\n" for tree in TREES))
    return path


def test_ranked_siblings_by_hand(trees: Path, tmp_path: Path) -> None:
    report = mine("trees", [trees], out=tmp_path / "out.jsonl", settings=TreeMining())
    rankings = read_rankings(Data(path=str(tmp_path / "out.jsonl"))).records
    assert [(each.prompt.text, [r.text for r in each.responses], each.ranks) for each in rankings] == [
        ("Why?", ["a", "b"], (2, 1)),
        ("And then?", ["c", "d", "e"], (3, 1, 2)),
        ("Who?", ["a", "c"], (1, 2)),
    ]
    assert {each.source for each in rankings} == {"trees"}
    assert report.left_out == {("turns", "all answers have the same rank"): 1}
    assert report.rejections.unusable == {"an answer without a rank among others": 1}
    assert report.read == {"turns with ranked answers": 4, "trees": 2}


@pytest.mark.parametrize(
    ("settings", "texts", "reason"),
    [
        ({"min_responses": 3}, ["And then?"], "fewer ranked answers than min_responses"),
        ({"max_per_tree": 1}, ["Why?", "Who?"], "the tree has max_per_tree others above it"),
    ],
)
def test_settings_are_heeded(
    settings: dict[str, int], texts: list[str], reason: str, trees: Path, tmp_path: Path
) -> None:
    report = mine("trees", [trees], out=tmp_path / "out.jsonl", settings=TreeMining(**settings))
    rankings = read_rankings(Data(path=str(tmp_path / "out.jsonl"))).records
    assert [each.prompt.text for each in rankings] == texts
    assert ("turns", reason) in report.left_out


def test_what_is_no_tree_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n')
    with pytest.raises(DataError, match=r"is in the format .*, not oasst"):
        mine("trees", [path], out=tmp_path / "out.jsonl", settings=TreeMining())
