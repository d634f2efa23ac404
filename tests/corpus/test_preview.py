"""What a page shows of a file before somebody decides how to read it, and how far the reading has come."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from palate.corpus.check import check_data
from palate.corpus.first_records import preview
from palate.corpus.reading_bar import progress
from palate.records import Demonstration

Write = Callable[..., Path]


def test_the_first_records_as_they_will_be_read(write: Write) -> None:
    rows = [{"prompt": f"p{number}", "response": "" if number == 1 else "r", "stars": number} for number in range(100)]
    found = preview(write("rows.jsonl", rows), count=3)
    assert [(line, type(record)) for line, record in found.records] == [(n, Demonstration) for n in (1, 3, 4)]
    assert found.columns == {"prompt": "'p0'", "response": "'r'", "stars": "0"}
    assert found.rejections.unusable.total() == 1
    assert (found.account.format, list(found.account.stoppers), found.problem) == ("prompt-response", ["stars"], "")


def test_a_file_that_is_not_recognised_shows_its_columns_and_is_read_as_it_is_told(write: Write) -> None:
    path = write("rows.csv", "frage,antwort\nWarum?,Darum.\n")
    unknown = preview(path)
    assert unknown.columns == {"frage": "'Warum?'", "antwort": "'Darum.'"}
    assert unknown.records == []
    assert "no known format has the fields frage, antwort" in unknown.problem
    told = preview(path, fields={"prompt": "frage", "response": "antwort"})
    assert [record.prompt.text for _, record in told.records if isinstance(record, Demonstration)] == ["Warum?"]
    assert told.problem == ""


@pytest.mark.parametrize("name", ["none.jsonl", "rows.xyz", "rows.json"])
def test_nothing_that_is_wrong_with_a_file_raises(write: Write, tmp_path: Path, name: str) -> None:
    if name == "rows.json":
        write(name, '[{"a": ')
    assert name in preview(tmp_path / name).problem


def test_a_bar_on_a_terminal_alone(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write("rows.jsonl", [{"prompt": f"p{number}"} for number in range(5000)])
    with progress([path], "reading") as watch:
        assert watch is None
    monkeypatch.setattr("palate.corpus.reading_bar._QUIET_SECONDS", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert check_data([path]).counts["prompts"] == 5000
    written = capsys.readouterr()
    assert written.out == ""
