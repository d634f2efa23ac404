"""The user's own columns: placeholders, the preferred one, votes, tags, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from palate.corpus.reading import iterate
from palate.corpus.rows.rejections import Rejections
from palate.errors import DataError
from palate.records import Demonstration, Prompt, Ranking

Write = Callable[..., Path]
FIELDS = {"prompt": "Speak for {side} on {topic}.", "a": "a1", "b": "a2", "preferred": "label"}
ROW = {"id": 7, "topic": "tea ", "side": "yes", "label": "a2", "a1": "Cold.", "a2": "Warm."}


def read(path: Path, fields: Mapping[str, str], **rest: Any) -> tuple[list[Any], Rejections]:
    rejections = Rejections()
    return [item for _, item in iterate(path, rejections=rejections, fields=fields, **rest)], rejections


def test_argument_pairs(write: Write) -> None:
    (item,), _ = read(write("rows.jsonl", [ROW]), FIELDS, format="pairs", tags=["topic", "id"])
    assert item.prompt == Prompt.from_text("Speak for yes on tea.", tags={"topic": "tea", "id": "7"})
    assert [response.text for response in item.responses] == ["Cold.", "Warm."]
    assert item.ranks == (2, 1)


@pytest.mark.parametrize(
    ("label", "ranks"),
    [
        *((label, (1, 2)) for label in ("a1", "a", "A", "1", 1, " a1 ")),
        *((label, (2, 1)) for label in ("a2", "b", "B", "2", 2)),
        *((label, (1, 1)) for label in ("tie", "equal", "TIE")),
    ],
)
def test_what_preferred_may_be(write: Write, label: Any, ranks: tuple[int, int]) -> None:
    (item,), _ = read(write("rows.jsonl", [{**ROW, "label": label}]), FIELDS)
    assert item.ranks == ranks


@pytest.mark.parametrize("label", ["0", 0, "a3", "yes", 1.5, True])
def test_what_preferred_may_not_be(write: Write, label: Any) -> None:
    with pytest.raises(DataError, match=r"rows.jsonl:1: 'label' says .*, which may mean anything"):
        read(write("rows.jsonl", [{**ROW, "label": label}]), FIELDS)


@pytest.mark.parametrize("label", [None, "", " "])
def test_an_undecided_pair_is_unusable(write: Write, label: Any) -> None:
    _, rejections = read(write("rows.jsonl", [{**ROW, "label": label}]), FIELDS)
    assert dict(rejections.unusable) == {"no preference given in 'label'": 1}


def test_columns_named_after_each_other_are_taken_at_their_name(write: Write) -> None:
    row = {"q": "Which?", "b": "first", "a": "second", "label": "a"}
    (item,), _ = read(write("rows.jsonl", [row]), {"prompt": "q", "a": "b", "b": "a", "preferred": "label"})
    assert [response.text for response in item.responses] == ["first", "second"]
    assert item.ranks == (2, 1)


def test_votes_are_rankings_of_their_own(write: Write) -> None:
    row = {**ROW, "label": ["a1", "a1", "equal", None], "team": "red"}
    items, rejections = read(write("rows.jsonl", [row]), {**FIELDS, "labeler": "team"})
    assert [(item.ranks, item.labeler) for item in items] == [
        ((1, 2), "red-vote-1"),
        ((1, 2), "red-vote-2"),
        ((1, 1), "red-vote-3"),
    ]
    assert dict(rejections.unusable) == {"no preference given in 'label'": 1}
    assert len({item.to_json() for item in items}) == 3


def test_without_preferred_the_first_is(write: Write) -> None:
    path = write("rows.csv", "prompt,chosen,rejected,size\nWhich?,this,that,3\n")
    (item,), _ = read(path, {}, format="pairs")
    assert (item.ranks, item.strength) == ((1, 2), None)
    mapping = {"prompt": "prompt", "a": "rejected", "b": "chosen", "strength": "size"}
    (item,), _ = read(path, mapping, format="pairs")
    assert ([response.text for response in item.responses], item.ranks, item.strength) == (["that", "this"], (1, 2), 3)


def test_everything_else_a_judgement_may_say(write: Write) -> None:
    row = {**ROW, "label": "heron", "who": 4, "took": "2.5", "m1": "heron", "m2": "otter", "sure": 3}
    fields = {**FIELDS, "labeler": "who", "seconds": "took", "model_a": "m1", "model_b": "m2", "strength": "sure"}
    (item,), _ = read(write("rows.jsonl", [row]), fields)
    assert (item.ranks, item.labeler, item.seconds, item.strength) == ((1, 2), "4", 2.5, 3.0)
    assert [response.provenance.model for response in item.responses] == ["heron", "otter"]


def test_placeholders(write: Write) -> None:
    row = {"Best Answer": "42", "n": 3, "list": [1]}
    fields = {"prompt": "{{{n}}} {Best Answer}", "response": "Best Answer"}
    (item,), _ = read(write("rows.jsonl", [row]), fields)
    assert isinstance(item, Demonstration)
    assert item.prompt.text == "{3} 42"
    _, rejections = read(write("rows.jsonl", [row]), {"prompt": "{list}"})
    assert dict(rejections.malformed) == {"column 'list' is a list, not a text": 1}


@pytest.mark.parametrize("source", ["{topik}", "topik"])
def test_a_misspelt_column_is_named(write: Write, source: str) -> None:
    _, rejections = read(write("rows.jsonl", [ROW]), {"prompt": source})
    assert dict(rejections.malformed) == {"no column 'topik'; did you mean 'topic'?": 1}


def test_fields_alone_say_the_format(write: Write) -> None:
    path = write("rows.jsonl", [ROW])
    kinds = [
        type(read(path, fields)[0][0]) for fields in (FIELDS, {"prompt": "a1", "response": "a2"}, {"prompt": "a1"})
    ]
    assert kinds == [Ranking, Demonstration, Prompt]
    assert read(path, {"text": "a1"})[0] == ["Cold."]


@pytest.mark.parametrize(
    ("fields", "format", "message"),
    [
        ({"prompt": "a", "b": "a2"}, "auto", "fields prompt, b fit no format"),
        ({"prompt": "a", "b": "a2"}, "pairs", "format pairs needs the field 'a'"),
        (
            {**FIELDS, "prefered": "label"},
            "pairs",
            "format pairs has no field 'prefered'; its fields: prompt, a, b, pr",
        ),
        ({"prompt": "a"}, "hh", "format hh takes no fields"),
    ],
)
def test_mappings_that_mean_nothing(write: Write, fields: dict[str, str], format: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(write("rows.jsonl", [ROW]), fields, format=format)


def test_tags(write: Write) -> None:
    path = write("rows.jsonl", [{"prompt": "a", "response": "b", "n": None, "m": 2}])
    (item,), _ = read(path, {}, tags=["n", "m"])
    assert item.prompt.tags == {"n": "", "m": "2"}
    _, rejections = read(path, {}, tags=["promt"])
    assert dict(rejections.malformed) == {"tag: no column 'promt'; did you mean 'prompt'?": 1}
    own = write("own.jsonl", item.to_json() + "\n" + item.prompt.to_json())
    assert [found.tags for found in read(own, {}, tags=["m"], kind=Prompt)[0]] == [item.prompt.tags] * 2
