"""Rankings out of annotation tools: several labelers in a row, ties, what was not handed in, what is no ranking."""

from __future__ import annotations

from typing import Any

import pytest

from palate.corpus.formats.labeling_tools import argilla, label_studio
from palate.corpus.rows.rejections import Malformed
from palate.records import Ranking

FIELDS = {"instruction": [{"role": "user", "content": "q"}], "a": "A", "b": "B", "c": "C"}
ITEMS = [{"id": name, "title": "x", "body": name.upper()} for name in "abc"]


def answer(user: Any, *value: tuple[str, int], **rest: Any) -> dict[str, Any]:
    ranked = [{"value": name, "rank": rank} for name, rank in value]
    return {"user_id": user, "values": {"comment": {"value": "ok"}, "ranking": {"value": ranked}}, **rest}


def annotation(by: Any, ranker: Any, **rest: Any) -> dict[str, Any]:
    return {"completed_by": by, "result": [{"type": "ranker", "value": {"ranker": ranker}}], **rest}


def seen(found: Any) -> list[Any]:
    return [
        ("".join(response.text for response in item.responses), item.ranks, item.labeler)
        if isinstance(item, Ranking)
        else str(item)
        for item in found
    ]


def test_argilla_has_an_answer_of_every_labeler() -> None:
    answers = [
        answer("ann", ("c", 1), ("a", 2), ("b", 2), status="submitted"),
        answer("bob", ("a", 1), ("c", 2)),
        answer("cid", ("a", 1), ("b", 2), status="draft"),
        {"user_id": "dot", "values": {"comment": {"value": ["x", "y"]}}},
        {"user_id": "eva", "values": None},
        answer("fay", ("a", 1)),
        answer(None, ("b", 3), ("a", 5)),
    ]
    assert seen(argilla({"fields": FIELDS, "responses": answers})) == [
        ("ABC", (2, 2, 1), "ann"),
        ("AC", (1, 2), "bob"),
        "a response that was not submitted",
        "a response without a ranking",
        "a response without a ranking",
        "a single response: nothing to compare",
        ("AB", (2, 1), ""),
    ]


def test_label_studio_has_an_annotation_of_every_labeler() -> None:
    annotations = [
        annotation({"id": 4, "email": "ann"}, {"_": [], "rank-1": ["b"], "rank-2": ["c", "a"]}),
        annotation({"id": 4}, {"best": ["c", "b", "a"]}),
        annotation(5, {"_": [], "Rank 2": ["a"], "1": ["b"]}, lead_time=1.5),
        annotation(6, {"_": ["c"], "1": ["a"], "2": ["b"]}),
        annotation(6, {"relevant": ["a"], "biased": ["b", "c"]}),
        annotation(6, {"1": ["a"], "2": []}),
        annotation(5, {"1": ["a", "b", "c"]}),
        annotation(None, {"1": ["a"]}, was_cancelled=True),
        {"result": [{"type": "choices", "value": {}}]},
    ]
    assert seen(label_studio({"data": {"prompt": "q", "items": ITEMS}, "annotations": annotations})) == [
        ("ABC", (2, 1, 2), "ann"),
        ("ABC", (3, 2, 1), "4"),
        "an item that was not ranked",
        ("AB", (2, 1), "5"),
        "an item that was not ranked",
        ("AB", (1, 2), "6"),
        "buckets that are no ranks: call them rank-1, rank-2, ...",
        *["an item that was not ranked"] * 2,
        "a single response: nothing to compare",
        ("ABC", (1, 1, 1), "5"),
        "a cancelled annotation",
        "an annotation without a ranking",
    ]


def test_an_empty_text_matters_to_those_who_ranked_it() -> None:
    answers = [answer("ann", ("a", 1), ("b", 2)), answer("bob", ("a", 1), ("c", 2))]
    assert seen(argilla({"fields": {**FIELDS, "b": " "}, "responses": answers})) == ["empty b", ("AC", (1, 2), "bob")]


MALFORMED: list[tuple[Any, dict[str, Any], str]] = [
    (argilla, {"fields": FIELDS, "responses": [answer("ann", ("a", 1), ("z", 2))]}, "a rank is given to 'z', which is"),
    (argilla, {"fields": {"a": "A"}, "responses": []}, "no field 'prompt'"),
    (argilla, {"fields": FIELDS, "responses": ["x"]}, "field 'responses' is a text, not an object"),
    (
        label_studio,
        {"data": {"prompt": "q", "items": ITEMS}, "annotations": [annotation(1, {"_": [], "rank-1": ["a", "z"]})]},
        "a rank is given to 'z', which is",
    ),
    (label_studio, {"data": {"prompt": "q", "items": ITEMS}, "annotations": [{}]}, "no field 'result'"),
    (label_studio, {"data": {"items": ITEMS}, "annotations": []}, "no field 'prompt'"),
]


@pytest.mark.parametrize(("parse", "row", "reason"), MALFORMED)
def test_what_breaks_the_format_is_malformed(parse: Any, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        list(parse(row))
