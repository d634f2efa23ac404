"""Files joined to others, and the user's words through the command line and a recipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from palate.cli import main
from palate.corpus import read_rankings
from palate.corpus.explaining import joined
from palate.corpus.rows.row import Row
from palate.errors import DataError
from palate.recipe import Data

Write = Callable[..., Path]
JUDGED = [
    {"id": 1, "winner": "lft", "worker": "ann"},
    {"id": 2, "winner": "rgt", "worker": "ann"},
    {"id": 1, "winner": "tie", "worker": "bea"},
]
ANSWERS = [{"id": "1", "question": "q1", "answer_a": "x", "answer_b": "y"}]
ANSWERS += [{"id": "2", "question": "q2", "answer_a": "x", "answer_b": "z"}]


def read(path: Path, rows: list[dict[str, Any]], column: str = "id") -> list[Row]:
    return list(joined((Row(line, row) for line, row in enumerate(rows, 1)), {column: str(path)}))


def test_columns_of_the_same_value_are_added(write: Write) -> None:
    rows = read(write("answers.jsonl", ANSWERS), JUDGED)
    assert [row.fields["question"] for row in rows] == ["q1", "q2", "q1"]
    assert rows[0].fields == {**ANSWERS[0], **JUDGED[0]}


def test_a_column_of_both_files_is_the_rows_own(write: Write) -> None:
    path = write("answers.jsonl", [{"id": 1, "note": "theirs", "topic": "Tea "}])
    (row,) = read(path, [{"id": 1, "note": "own", "topic": "tea"}])
    assert row.fields == {"id": 1, "note": "own", "topic": "tea", "joined.note": "theirs"}


def test_a_row_without_its_other_half_is_malformed(write: Write) -> None:
    path = write("answers.jsonl", ANSWERS)
    rows = read(path, [{"id": 3}, {"worker": "ann"}])
    assert [str(row.problem) for row in rows] == [f"{path} has no row with this 'id'", "no field 'id' to join by"]


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([*ANSWERS, {**ANSWERS[0], "answer_a": "w"}], "answers.jsonl:3: 'id' is '1' in several rows"),
        ([{"key": 1}], "answers.jsonl:1: no column 'id' to join by; columns: key"),
    ],
)
def test_a_file_that_cannot_be_joined_to(write: Write, answers: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(write("answers.jsonl", answers), JUDGED)


def test_the_same_row_twice_is_no_contradiction(write: Write) -> None:
    assert len(read(write("answers.jsonl", [*ANSWERS, ANSWERS[0]]), JUDGED)) == 3


def test_the_command_line(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judged, answers, out = write("judged.jsonl", JUDGED), write("answers.jsonl", ANSWERS), tmp_path / "out.jsonl"
    command = ["data", "import", str(judged), "--join", f"id={answers}", "--out", str(out)]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "'winner' says 'lft' (1), 'rgt' (1), which may mean anything" in error
    assert "--verdict lft=a --verdict rgt=b" in error
    assert len(error.strip().splitlines()) == 1
    assert not out.exists()
    assert main([*command, "--verdict", "lft=a", "--verdict", "rgt=b"]) == 0
    report = capsys.readouterr().out
    assert "\nties       1\nlabelers   2\n" in report
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(record["ranks"], record["labeler"]) for record in records] == [
        ([1, 2], "ann"),
        ([2, 1], "ann"),
        ([1, 1], "bea"),
    ]


def test_a_recipe(write: Write) -> None:
    judged, answers = write("judged.jsonl", JUDGED), write("answers.jsonl", ANSWERS)
    data = Data(path=str(judged), join={"id": str(answers)}, verdicts={"lft": "b", "rgt": "skip"})
    found = read_rankings(data)
    assert [ranking.ranks for ranking in found.records] == [(2, 1), (1, 1)]
    assert dict(found.rejected.unusable) == {"'winner' says 'rgt', which is left out": 1}
    assert set(found.files) == {str(judged), str(answers)}
