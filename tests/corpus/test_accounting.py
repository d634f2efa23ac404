"""Every column is used, a tag, ignored or named; what matters and is not read stops every way of reading a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from palate.cli import main
from palate.corpus import read_demonstrations, read_prompts, read_rankings
from palate.corpus.accounting.account import Account
from palate.corpus.accounting.meanings import meanings
from palate.corpus.check import check_data, import_data
from palate.corpus.first_records import preview
from palate.corpus.reading import iterate
from palate.corpus.rows.fields import Tracked, plain
from palate.corpus.rows.rejections import Rejections
from palate.errors import DataError
from palate.feedback.tasks.importing import parse_file
from palate.recipe import Data
from palate.records import Demonstration, Ranking

Write = Callable[..., Path]
TURNS = [{"role": "user", "content": "Name a tree."}, {"role": "assistant", "content": "An oak."}]
SHOWN = {"prompt": "Name a tree.", "response": "An oak."}
PAIR = {"prompt": "Name a tree.", "chosen": "An oak.", "rejected": "A cow."}


def account_of(path: Path, **how: Any) -> Account:
    account = Account(path, stops=False)
    list(iterate(path, rejections=Rejections(), account=account, **how))
    return account


def test_what_was_read_is_known_at_every_depth() -> None:
    row = Tracked(
        {"a": {"b": 1, "c": None, "d": {"e": "x"}}, "f": [{"g": 1, "h": 2}, {"g": 3}], "i": "", "j": 0, "k": None}
    )
    assert [key in row for key in "ak"] == [True, False]
    assert row.get("k") is None
    assert row["a"]["b"] == 1
    assert [each["g"] for each in row["f"]] == [1, 3]
    assert list(row.unread()) == [("j", 0), ("a.d", {"e": "x"}), ("f.h", 2)]
    assert plain(row) == {"a": {"b": 1, "d": {"e": "x"}}, "f": [{"g": 1, "h": 2}, {"g": 3}], "i": "", "j": 0}
    assert list(row.unread()) == []


def test_columns_that_are_not_used_are_counted_and_named(write: Write) -> None:
    rows = [
        {**SHOWN, "page": 1, "meta": {"by": "me"}},
        {**SHOWN, "prompt": "b", "page": None, "meta": {}},
        {**SHOWN, "topic": "t"},
    ]
    account = account_of(write("rows.jsonl", rows), tags=())
    assert {name: unused.rows for name, unused in account.unused.items()} == {"page": 1, "meta": 1, "topic": 1}
    assert list(account.used) == ["prompt", "response"]
    assert account.stoppers == {}


STOPPED = [
    ({**SHOWN, "images": ["tree.jpg"]}, "'images' speaks of images"),
    ({**SHOWN, "picture_of_it": "tree.png"}, "'picture_of_it' speaks of images"),
    ({**SHOWN, "seen": "tree.webp"}, "'seen' speaks of images"),
    ({**SHOWN, "is_toxic": False}, "'is_toxic' speaks of a label"),
    ({**SHOWN, "stars": 4}, "'stars' speaks of a rating"),
    ({**SHOWN, "verdict": "x"}, "'verdict' speaks of a preference"),
    ({**SHOWN, "how": "thumbs_down"}, "'how' speaks of a verdict"),
    ({**SHOWN, "before": [TURNS[0], {"role": "assistant", "content": "No."}]}, "'before' speaks of a dialogue"),
    ({**SHOWN, "loss_mask": "x"}, "'loss_mask' speaks of what must not be learned"),
    ({**SHOWN, "meta": {"inner": {"userRating": 3}}}, "'meta.inner.userRating' speaks of a rating"),
    ({"messages": [TURNS[0], {**TURNS[1], "images": ["a.jpg"]}]}, "'messages.images' speaks of images"),
    ({"prompt": "Name a tree.", "reply": "An oak."}, "'reply' speaks of an answer"),
    ({"prompt": "Name a tree.", "oak": "An oak is a fine tree."}, "'oak' speaks of something said"),
    ({"prompt": "Name a tree.", "verifier": {"ground_truth": "oak"}}, "'verifier.ground_truth' speaks of a label"),
    ({"text": "An oak.", "label": 1}, "'label' speaks of a label"),
]


@pytest.mark.parametrize(("row", "reason"), STOPPED)
def test_a_column_that_matters_stops_every_way_of_reading(
    write: Write, tmp_path: Path, row: Mapping[str, Any], reason: str
) -> None:
    path = write("rows.jsonl", [row])
    column = reason.split("'")[1]
    readers: list[Callable[[], object]] = [
        lambda: import_data([path], out=tmp_path / "out.jsonl"),
        lambda: parse_file(path),
        lambda: (read_prompts if "prompt" in row else lambda data: list(iterate(path, rejections=Rejections())))(
            Data(path=str(path))
        ),
    ]
    for read in readers:
        with pytest.raises(DataError) as error:
            read()
        message = str(error.value)
        assert reason in message
        assert f"rows.jsonl:1: a column is not used when this is read as {account_of(path).format}" in message
        assert f"--ignore {column} leaves it out" in message
        assert "\n" not in message
    report = check_data([path])
    assert report.failed
    assert f"undecided  {column} (" in str(report)
    assert list(preview(path).account.stoppers) == [column]
    assert not check_data([path], ignore=[column]).failed
    assert import_data([path], out=tmp_path / "out.jsonl", ignore=[column]).accounts[0].ignored[column] == 1
    assert parse_file(path, ignore=[column]).records


HARMLESS = [
    {
        **SHOWN,
        "id": "good-1",
        "url": "https://example.org/tree.jpg",
        "category": "trees",
        "split": "train",
        "num_turns": 2,
    },
    {**SHOWN, "score_id": 3, "is_long": True, "created": "2020-01-01", "language": "en"},
    {**SHOWN, "has_context": True, "custom_instruction": False, "tools_used": 2},
    {"messages": TURNS, "prompt": "Name a tree.", "prompt_id": "x"},
    {**PAIR, "messages": TURNS},
    {"prompt": "Name a tree.", "category": "trees and cows", "idx": 3},
]


@pytest.mark.parametrize("row", HARMLESS)
def test_what_does_not_matter_or_repeats_what_is_read_never_stops(write: Write, tmp_path: Path, row: Any) -> None:
    report = import_data([write("rows.jsonl", [row])], out=tmp_path / "out.jsonl")
    assert not report.failed
    assert report.accounts[0].unused


def test_a_repetition_that_differs_in_one_row_stops_there(write: Write) -> None:
    other = [TURNS[0], {"role": "assistant", "content": "A pine."}]
    path = write("rows.jsonl", [{**PAIR, "messages": TURNS}, {**PAIR, "messages": other}])
    with pytest.raises(DataError, match=r"rows.jsonl:2: a column is not used .* 'messages' speaks of history"):
        read_rankings(Data(path=str(path), format="trl-explicit"))


def test_a_column_that_comes_late_stops_where_it_comes(write: Write, tmp_path: Path) -> None:
    rows = [{"prompt": f"p{number}", "response": "r"} for number in range(500)]
    path = write("rows.jsonl", [*rows, {**rows[0], "rating": 3}])
    with pytest.raises(DataError, match=r"rows.jsonl:501: a column is not used"):
        import_data([path], out=tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_of_rejected_rows_nothing_is_said_to_be_unused(write: Write) -> None:
    account = account_of(write("rows.jsonl", [{**PAIR, "chosen": ""}, PAIR]))
    assert account.unused == {}


def test_whoever_names_columns_is_asked_about_what_changes_their_meaning_only(write: Write) -> None:
    row = {"q": "Name a tree.", "a": "An oak.", "b": "A cow.", "won": "a", "stars": 5}
    fields = {"prompt": "q", "a": "a", "b": "b", "preferred": "won"}
    (ranking,) = read_rankings(Data(path=str(write("rows.jsonl", [row])), fields=fields)).records
    assert ranking.ranks == (1, 2)
    with pytest.raises(DataError, match="'system' speaks of a system prompt"):
        read_rankings(Data(path=str(write("s.jsonl", [{**row, "system": "Be kind."}])), fields=fields))
    with_system = {**fields, "system": "system"}
    (ranking,) = read_rankings(
        Data(path=str(write("s.jsonl", [{**row, "system": "Be kind."}])), fields=with_system)
    ).records
    assert [turn.role for turn in ranking.prompt.messages] == ["system", "user"]


def test_what_is_to_be_ignored_must_be_there(write: Write, tmp_path: Path) -> None:
    path = write("rows.jsonl", [{**SHOWN, "images": ["a.jpg"], "meta": {"stars": 1, "by": "me"}}])
    with pytest.raises(DataError, match=r"ignore: no row has a column 'respnse'; did you mean 'response'\?"):
        check_data([path], ignore=["images", "meta.stars", "respnse"])
    with pytest.raises(DataError, match=r"there is no 'imagse' so far, which was to be ignored"):
        import_data([path], out=tmp_path / "out.jsonl", ignore=["imagse", "meta"])
    account = account_of(path, ignore=["images", "meta.stars"])
    assert (account.stoppers, dict(account.ignored), list(account.unused)) == (
        {},
        {"images": 1, "meta.stars": 1},
        ["meta"],
    )


def test_an_ignored_column_may_be_in_one_of_several_files(write: Write) -> None:
    paths = [write("a.jsonl", [{**SHOWN, "stars": 1}]), write("b.jsonl", [{**SHOWN, "prompt": "b"}])]
    joined = ",".join(map(str, paths))
    assert len(read_demonstrations(Data(path=joined, ignore=("stars",))).records) == 2


def test_to_ignore_a_verdict_is_to_decide(write: Write) -> None:
    path = write("rows.jsonl", [{"prompt": "p", "completion": "c", "label": "bad"}])
    (thumb,) = [item for _, item in iterate(path, rejections=Rejections())]
    assert isinstance(thumb, Ranking)
    assert thumb.ratings == (1.0,)
    (shown,) = [item for _, item in iterate(path, rejections=Rejections(), ignore=["label"])]
    assert isinstance(shown, Demonstration)


def test_what_stands_around_all_rows_is_accounted_for(write: Write) -> None:
    path = write("rows.json", json.dumps({"version": 2, "rows": [SHOWN], "system": "Be kind."}))
    with pytest.raises(DataError, match=r"rows.json:1: a column is not used .* 'system' speaks of a system prompt"):
        read_demonstrations(Data(path=str(path)))
    report = check_data([path], ignore=["system"])
    assert not report.failed
    assert "rows       those in 'rows'" in str(report)
    assert "not used   version (once, beside the rows)" in str(report)


def test_marks_of_pictures_in_texts_are_counted(write: Write) -> None:
    path = write("rows.jsonl", [{**SHOWN, "prompt": "<image>Which tree?", "images": ["a.jpg"]}, SHOWN])
    account = account_of(path, ignore=["images"])
    assert account.marks == {"<image>": 1}
    with pytest.raises(DataError, match=r"'images' speaks of images \(texts hold <image>\)"):
        read_demonstrations(Data(path=str(path)))


def test_tags_and_fields_may_name_nested_columns(write: Write) -> None:
    row = {"data": {"q": "Name a tree.", "why": {"topic": " trees "}}, "answers": [{"text": "An oak."}, {"text": "x"}]}
    fields = {"prompt": "data.q", "response": "{answers.0.text} Yes."}
    data = Data(path=str(write("rows.jsonl", [row])), fields=fields, tags=("data.why.topic",))
    (shown,) = read_demonstrations(data).records
    assert shown.prompt.tags == {"data.why.topic": "trees"}
    assert (shown.prompt.text, shown.response.text) == ("Name a tree.", "An oak. Yes.")
    with pytest.raises(DataError, match=r"no column 'data\.qq'; did you mean 'data'"):
        read_demonstrations(data.model_copy(update={"fields": {**fields, "prompt": "data.qq"}}))


def test_complaints_call_a_column_what_the_file_calls_it(write: Write) -> None:
    path = write("rows.jsonl", [{"data": {"q": 3}, "a": "An oak."}])
    with pytest.raises(DataError, match=r"rows.jsonl:1: field 'data.q' is a number, not a list of turns"):
        read_demonstrations(Data(path=str(path), fields={"prompt": "data.q", "response": "a"}))


def test_what_a_name_means_is_told_by_its_words() -> None:
    assert [list(meanings(name, 1)) for name in ("userID_score", "underscore", "goodness", "trainable")] == [
        [],
        [],
        [],
        [("trainable", "what must not be learned")],
    ]


def test_the_command_line_and_a_recipe_say_the_same(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write("rows.jsonl", [{**SHOWN, "images": ["a.jpg"], "by": "me"}]), tmp_path / "out.jsonl"
    arguments = ["data", "import", str(path), "--out", str(out)]
    assert main(arguments) == 2
    stopped = capsys.readouterr().err
    with pytest.raises(DataError) as error:
        read_demonstrations(Data(path=str(path)))
    assert str(error.value) in stopped
    assert main([*arguments, "--ignore", "images", "--tag", "by"]) == 0
    assert "ignored    images (1 row)" in capsys.readouterr().out
    data = Data(path=str(path), ignore=("images",), tags=("by",))
    assert out.read_text() == "".join(record.to_json() + "\n" for record in read_demonstrations(data).records)
    parsed = parse_file(path, ignore=data.ignore, tags=data.tags)
    assert parsed.records == list(read_demonstrations(data).records)
