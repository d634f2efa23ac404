"""Rows out of files: every kind, their line numbers, what is broken, and memory."""

from __future__ import annotations

import gzip
import json
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.corpus.containers import files, json_text
from palate.corpus.containers.files import escape_cell, file_suffix, read_rows, sha256, unescape_cell
from palate.corpus.rows.row import Wrapper
from palate.errors import DataError, MissingExtraError

Write = Callable[..., Path]
ROWS = [{"a": "x\u2028y", "b": [1, {"c": None}]}, {"a": '"]},', "b": []}, {"a": "\U0001f600 é", "b": {}}]


def seen(path: Path) -> list[tuple[int, Any]]:
    """(line, fields or reason) of every row."""
    return [(row.line, str(row.problem) if row.problem else dict(row.fields)) for row in read_rows(path)]


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.ndjson"])
def test_json_lines(write: Write, name: str, suffix: str) -> None:
    text = json.dumps(ROWS[0]) + "\n\n" + json.dumps(ROWS[1], ensure_ascii=False) + "\r\n" + json.dumps(ROWS[2])
    assert seen(write(name + suffix, text)) == [(1, ROWS[0]), (3, ROWS[1]), (4, ROWS[2])]


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_json_array(write: Write, name: str, indent: int | None, suffix: str) -> None:
    path = write(name + suffix, "\ufeff \n" + json.dumps(ROWS, indent=indent) + "\n")
    assert seen(path) == list(enumerate(ROWS, 1))


def test_an_empty_array_and_an_empty_file_have_no_rows(write: Write) -> None:
    assert seen(write("a.json", " [ ] ")) == []
    assert seen(write("b.jsonl", "\n \n")) == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    rows=st.lists(st.dictionaries(st.text(max_size=5), json_values, max_size=3), max_size=6),
    chunk=st.integers(1, 40),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
)
def test_an_array_reads_the_same_through_any_window(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], chunk: int, indent: int | None, ascii_only: bool
) -> None:
    path = tmp_path_factory.mktemp("array") / "rows.json"
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=ascii_only), encoding="utf-8", errors="surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_text, "_CHUNK", chunk)
        assert seen(path) == list(enumerate(json.loads(json.dumps(rows)), 1))


def test_broken_lines_are_rows_with_a_problem_and_reading_goes_on(write: Write) -> None:
    text = b'{"a": 1}\n{"a": \n[1]\n{"a": "\xff"}\n' + b"[" * 5000 + b'\n{"a": 2}\n'
    assert seen(write("rows.jsonl", text)) == [
        (1, {"a": 1}),
        (2, "broken JSON (Expecting value)"),
        (3, "a list where a row is an object {...} or a list of turns"),
        (4, "not UTF-8 text"),
        (5, "JSON nested too deeply to be read"),
        (6, {"a": 2}),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[{"a": 1}, {"a": }, {"a": 3}]', "broken JSON (Expecting value)"),
        ('[{"a": 1} {"a": 2}]', "broken JSON (no comma between two elements)"),
        ('[{"a": 1}, {"a": "2', "broken JSON (Unterminated string starting at)"),
        ('[{"a": 1}', "broken JSON (the array does not end)"),
    ],
)
def test_a_broken_array_ends_where_it_breaks(write: Write, text: str, reason: str) -> None:
    rows = seen(write("rows.json", text))
    assert rows[0] == (1, {"a": 1})
    assert len(rows) == 2
    assert rows[1][1] == reason + "; what follows in this file cannot be read"


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "\\ud800"}\n{"a": "\\ud83d\\ude42"}\n',
        '[{"a": ["\\ud800"]}, {"a": "\\ud83d\\ude42"}]',
        '{"data": [{"a": ["\\ud800"]}, {"a": "\\ud83d\\ude42"}]}',
    ],
)
def test_half_a_character_is_a_problem_and_two_halves_are_none(write: Write, text: str) -> None:
    torn, whole = read_rows(write("rows.json", text))
    assert "half a character" in str(torn.problem)
    assert whole.fields == {"a": "🙂"}


def test_a_string_that_never_closes_is_given_up(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "_CHUNK", 10)
    monkeypatch.setattr(json_text, "_LONGEST_ELEMENT", 100)
    rows = seen(write("rows.json", '[{"a": "' + "x" * 100_000 + '"}]'))
    assert [str(reason)[:11] for _, reason in rows] == ["broken JSON"]


@pytest.mark.parametrize(("name", "mark"), [("rows.csv", ","), ("rows.tsv.gz", "\t")])
def test_tables(write: Write, name: str, mark: str) -> None:
    text = "\ufeffprompt,response\r\n" + 'one,"two, ""2""\r\nlines"\r\n\r\n' + "=x,'=y\n'=z,''=z\n"
    rows = seen(write(name, text.replace(",", mark)))
    assert rows == [
        (2, {"prompt": "one", "response": f'two{mark} "2"\r\nlines'}),
        (5, {"prompt": "=x", "response": "=y"}),
        (6, {"prompt": "=z", "response": "'=z"}),
    ]


def test_a_cell_may_be_long(write: Write) -> None:
    assert len(seen(write("rows.csv", "a\n" + "x" * 200_000 + "\n"))[0][1]["a"]) == 200_000


def test_bad_table_rows_are_problems(write: Write) -> None:
    rows = seen(write("rows.csv", 'a,b\n1\n1,2,3\n"x"y,2\n3,4\n"open,5\n'))
    assert rows == [
        (2, "not as many cells as the 2 columns"),
        (3, "not as many cells as the 2 columns"),
        (4, "broken CSV (',' expected after '\"')"),
        (5, {"a": "3", "b": "4"}),
        (6, "broken CSV (unexpected end of data)"),
    ]


@pytest.mark.parametrize(
    ("header", "message"),
    [("a,a", "the first line names 'a' more than once"), (",", "the first line must name the columns")],
)
def test_columns_must_have_distinct_names(write: Write, header: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"rows\.csv:1: {message}"):
        seen(write("rows.csv", header + "\n1,2\n"))


def test_a_column_without_a_name_is_called_by_its_place(write: Write) -> None:
    assert seen(write("rows.csv", ",a\n0,x\n")) == [(2, {"(column 1, without a name)": "0", "a": "x"})]


TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    ("content", "rows", "around"),
    [
        ({"prompt": "a", "ranks": [1, 2]}, [{"prompt": "a", "ranks": [1, 2]}], Wrapper()),
        ({"version": 1, "data": ROWS, "by": "me"}, ROWS, Wrapper("data", {"version": 1, "by": "me"})),
        ({"my rows": ROWS, "by": ["me"]}, ROWS, Wrapper("my rows", {"by": ["me"]})),
        ({"instruction": "a", "instances": [{"b": "c"}]}, [{"instruction": "a", "instances": [{"b": "c"}]}], Wrapper()),
        ({"messages": TURNS, "train": [True]}, [{"messages": TURNS, "train": [True]}], Wrapper()),
        ({"context": TURNS, "marks": [{"score": 1}]}, [{"context": TURNS, "marks": [{"score": 1}]}], Wrapper()),
        (TURNS, [{"messages": TURNS}], Wrapper()),
        ([TURNS, TURNS], [{"messages": TURNS}] * 2, Wrapper()),
        (json.dumps({"a": 1}), [{"a": 1}], Wrapper()),
    ],
)
def test_one_json_value_holds_a_row_or_wraps_the_rows(
    write: Write, content: Any, rows: list[Any], around: Wrapper, indent: int | None
) -> None:
    found = Wrapper()
    read = read_rows(write("rows.json", json.dumps(content, indent=indent)), around=found)
    assert [dict(row.fields) for row in read] == rows
    assert found == around


def test_a_conversation_on_each_line_and_rows_spelled_out_in_strings(write: Write) -> None:
    lines = [TURNS, TURNS, json.dumps({"a": 1}), "no row"]
    rows = seen(write("rows.jsonl", "".join(json.dumps(line) + "\n" for line in lines)))
    assert rows[:3] == [(1, {"messages": TURNS}), (2, {"messages": TURNS}), (3, {"a": 1})]
    assert rows[3] == (4, "a text where a row is an object {...} or a list of turns")


def test_objects_over_several_lines_follow_each_other(write: Write) -> None:
    text = "\n".join(json.dumps(row, indent=2) for row in ROWS)
    assert seen(write("rows.json", text)) == list(enumerate(ROWS, 1))
    assert seen(write("cut.json", text[:-2]))[-1] == (
        3,
        "broken JSON (the object does not end); what follows in this file cannot be read",
    )


def test_rows_under_two_keys_are_not_guessed_at(write: Write) -> None:
    with pytest.raises(
        DataError, match=r"rows\.json: holds rows in 'train' and in 'test': write each to a file of its own"
    ):
        seen(write("rows.json", json.dumps({"train": ROWS, "test": ROWS})))


def test_whoever_watches_is_told_every_byte(write: Write) -> None:
    for name in ("rows.jsonl", "rows.jsonl.gz", "rows.csv"):
        path, told = write(name, '{"a": 1}\n' * 3000), []
        list(read_rows(path, watch=told.append))
        assert path.stat().st_size <= sum(told) <= 2 * path.stat().st_size


@given(st.text(alphabet="'=+-@\t\rab", max_size=6))
def test_escaping_a_cell_is_undone_exactly(text: str) -> None:
    assert unescape_cell(escape_cell(text)) == text
    assert escape_cell(text)[:1] not in set("=+-@\t\r")


def test_plain_text_is_cut_at_blank_lines(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_TEXT_CHUNK", 20)
    text = "first paragraph\nof two lines\n\nsecond\n\nthird one is here\n\n\nlast"
    rows = seen(write("tale.txt.gz", text))
    assert rows == [
        (1, {"text": "first paragraph\nof two lines"}),
        (4, {"text": "second\n\nthird one is here"}),
        (8, {"text": "last"}),
    ]


@given(text=st.text(alphabet="ab \n\r\u2028", max_size=200), size=st.integers(1, 30))
def test_plain_text_loses_nothing_but_blanks(tmp_path_factory: pytest.TempPathFactory, text: str, size: int) -> None:
    path = tmp_path_factory.mktemp("text") / "tale.txt"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_TEXT_CHUNK", size)
        rows = seen(path)
    assert "".join("".join(row["text"].split()) for _, row in rows) == "".join(text.split())
    assert all(len(row["text"]) <= 4 * size for _, row in rows)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.xlsx", "", r"its name should end in one of \.jsonl, "),
        ("rows.jsonl.gz", None, "no such file"),
        ("rows.csv", b"a\n\xff\n", "not UTF-8 text"),
    ],
)
def test_files_that_cannot_be_read(write: Write, tmp_path: Path, name: str, content: Any, message: str) -> None:
    path = tmp_path / name if content is None else write(name, content)
    with pytest.raises(DataError, match=message):
        seen(path)


def test_damaged_archives(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    whole = gzip.compress(b'{"a": 1}\n' * 1000)
    for data in (b"no archive", whole[:-20]):
        path.write_bytes(data)
        with pytest.raises(DataError, match="damaged or cut-off gzip"):
            seen(path)


def test_parquet_without_pyarrow_says_what_to_install(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"palate\[parquet\]"):
        seen(write("rows.parquet", b"PAR1"))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_parquet(tmp_path: Path, suffix: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"prompt": "one", "responses": ["a", "b"]}, {"prompt": "two", "responses": []}]
    plain = tmp_path / "plain.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), plain)
    path = tmp_path / f"rows.parquet{suffix}"
    path.write_bytes(gzip.compress(plain.read_bytes()) if suffix else plain.read_bytes())
    assert seen(path) == list(enumerate(rows, 1))
    path.write_bytes(gzip.compress(b"PAR1 no") if suffix else b"PAR1 no")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        seen(path)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.txt"])
def test_memory_does_not_grow_with_the_file(write: Write, name: str) -> None:
    line = "word " * 40
    rows = [{"text": f"{line}{number}"} for number in range(20_000)]
    content: Any = {
        "rows.jsonl": rows,
        "rows.json": json.dumps(rows),
        "rows.csv": "text\n" + "\n".join(row["text"] for row in rows),
        "rows.txt": "\n\n".join(row["text"] for row in rows),
    }[name]
    path = write(name, content)
    del content, rows
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_rows(path)) > 900
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 4_000_000
    assert peak < 1_000_000


def test_suffix_and_hash(write: Write) -> None:
    assert file_suffix(Path("a.b/pairs.JSONL.GZ")) == ".jsonl"
    assert sha256(write("empty.txt", "")) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_semicolons_stand_for_commas_where_there_are_none(write: Write) -> None:
    """Spreadsheets write them where the comma divides decimals; a text may hold either."""
    assert seen(write("rows.csv", 'a;b\n"x;y";1,5\n')) == [(2, {"a": "x;y", "b": "1,5"})]
    assert seen(write("more.csv", "a,b;c\n1,2\n")) == [(2, {"a": "1", "b;c": "2"})]
