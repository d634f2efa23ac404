"""Records to files, streams and pieces of text; what is left out, and whose names are in it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from palate.corpus.catalogue.format import Item
from palate.corpus.export import EXPORTERS, ExportReport, Pseudonyms, export_data, export_lines, export_records
from palate.corpus.reading import iterate
from palate.corpus.rows.rejections import Rejections
from palate.errors import DataError
from palate.records import Candidates, Demonstration, Message, Prompt, Ranking, Record, Response

Write = Callable[..., Path]


def export_and_read(tmp_path: Path, items: Sequence[Record], format: str, suffix: str = "") -> tuple[list[Item], Any]:
    source = tmp_path / "source.jsonl"
    source.write_text("".join(item.to_json() + "\n" for item in items), encoding="utf-8")
    out = tmp_path / f"out.{'csv' if format == 'csv' else 'jsonl'}{suffix}"
    report = export_data(source, format=format, out=out)
    rejections = Rejections()
    found = [item for _, item in iterate(out, rejections=rejections)]
    assert rejections.total == 0
    return found, report


PROMPT = Prompt.from_text("p")
CHAT = Prompt(messages=tuple(Message(role=role, content=role) for role in ("system", "user", "assistant", "user")))


def ranking(prompt: Prompt, ranks: tuple[int, ...], **rest: Any) -> Ranking:
    return Ranking(prompt=prompt, responses=tuple(Response(text=c) for c in "abcd"[: len(ranks)]), ranks=ranks, **rest)


def test_a_ranking_becomes_all_its_pairs_and_ties_are_counted(tmp_path: Path) -> None:
    found, report = export_and_read(tmp_path, [ranking(PROMPT, (2, 1, 2, 3))], "trl-explicit")
    pairs = [tuple(response.text for response in item.responses) for item in found if isinstance(item, Ranking)]
    assert pairs == [("a", "d"), ("b", "a"), ("b", "c"), ("b", "d"), ("c", "d")]
    assert dict(report.rejections.unusable) == {"a tie: the format has none": 1}


SHOWN = Demonstration(prompt=PROMPT, response=Response(text="r"))
UNSAID: list[tuple[str, Record, str]] = [
    ("trl-explicit", ranking(PROMPT, (1,)), "a single response: no pair in it"),
    ("trl-explicit", ranking(CHAT, (1, 2)), "a prompt of several turns"),
    ("csv", ranking(CHAT, (1, 2)), "a prompt of several turns"),
    ("csv", SHOWN, "another kind of record than the table's first"),
    ("hh", ranking(CHAT, (1, 2)), "a system turn"),
    ("hh", ranking(Prompt.from_text("p\n\nAssistant: x"), (1, 2)), "a text with Human: or Assistant: in it"),
    ("alpaca", ranking(PROMPT, (1, 2)), "the format has no place for rankings"),
    (
        "alpaca",
        Demonstration(prompt=Prompt(messages=PROMPT.messages * 2), response=SHOWN.response),
        "turns that do not",
    ),
    ("rankings", SHOWN, "the format has no place for demonstrations"),
    ("messages", Candidates(prompt=PROMPT, responses=(SHOWN.response,)), "the format has no place for candidates"),
]


@pytest.mark.parametrize(("format", "item", "reason"), UNSAID)
def test_what_a_format_cannot_say_is_counted(tmp_path: Path, format: str, item: Record, reason: str) -> None:
    good: Record = SHOWN if format in ("alpaca", "messages") else ranking(PROMPT, (1, 2))
    _, report = export_and_read(tmp_path, [good, item], format)
    (found,) = report.rejections.unusable
    assert found.startswith(reason)
    assert report.num_rows == 1
    assert str(report).startswith(f"written    1 rows to {report.out}\nunusable 1: {reason}")
    assert report.rejections.examples[found] == [f"{tmp_path / 'source.jsonl'}:2"]


def test_cells_that_look_like_formulas_are_escaped(tmp_path: Path) -> None:
    item = Demonstration(prompt=Prompt.from_text("=cmd()"), response=Response(text="+1"))
    export_and_read(tmp_path, [item], "csv")
    assert (tmp_path / "out.csv").read_text() == '"prompt","response"\n"\'=cmd()","\'+1"\n'


def test_any_format_can_be_exported(write: Write, tmp_path: Path) -> None:
    source = write("source.csv", "prompt,chosen,rejected\np,a,b\n")
    export_data(source, format="rankings", out=tmp_path / "out.jsonl")
    assert json.loads((tmp_path / "out.jsonl").read_text()) == {
        "prompt": [{"role": "user", "content": "p"}],
        "responses": ["a", "b"],
        "ranks": [1, 2],
        "source": "human",
    }


@pytest.mark.parametrize(
    ("format", "out", "message"),
    [
        ("trl", "out.jsonl", "no export format 'trl'; there are palate, trl-explicit"),
        ("csv", "out.jsonl", r"format csv is written to a file that ends in \.csv, or \.gz"),
        ("hh", "out.csv", r"format hh is written to a file that ends in \.jsonl or \.json, or \.gz"),
        ("hh", "source.jsonl", "would be overwritten by its own export"),
        ("alpaca", "out.jsonl", r"nothing in it can be written as alpaca\nunusable 1: the format has no place"),
        ("hh", "nowhere/out.jsonl", "cannot be written"),
    ],
)
def test_exports_that_cannot_be(write: Write, tmp_path: Path, format: str, out: str, message: str) -> None:
    source = write("source.jsonl", [{"prompt": "p", "chosen": "a", "rejected": "b"}])
    with pytest.raises(DataError, match=message):
        export_data(source, format=format, out=tmp_path / out)
    assert [path.name for path in tmp_path.iterdir()] == ["source.jsonl"]


def test_a_json_array(tmp_path: Path) -> None:
    items = [ranking(Prompt.from_text(text), (1, 2)) for text in "pqr"]
    report = export_records(items, format="rankings", out=tmp_path / "out.json")
    assert [row["prompt"][0]["content"] for row in json.loads((tmp_path / "out.json").read_text())] == ["p", "q", "r"]
    assert report.num_rows == 3


def test_a_stream_gets_what_a_file_gets(tmp_path: Path) -> None:
    items = [ranking(PROMPT, (1, 2)), ranking(PROMPT, (1, 1)), ranking(CHAT, (2, 1))]
    stream = io.StringIO()
    to_stream = export_records(items, format="trl-conversational", out=stream)
    to_file = export_records(iter(items), format="trl-conversational", out=tmp_path / "out.jsonl")
    assert stream.getvalue() == (tmp_path / "out.jsonl").read_text()
    assert to_stream.out is None
    assert str(to_stream) == "written    2 rows\nunusable 1: a tie: the format has none (record:2)"
    assert to_file.rejections == to_stream.rejections


def test_pieces_come_while_records_are_read() -> None:
    """A web server sends an export of any size without holding it."""
    taken = 0

    def records() -> Iterator[Ranking]:
        nonlocal taken
        for _ in range(3):
            taken += 1
            yield ranking(PROMPT, (1, 2))

    report = ExportReport()
    lines = export_lines(records(), format="hh", report=report, array=True)
    assert taken == 0
    first = next(lines)
    assert (first[:3], taken, report.num_rows) == ("[\n{", 1, 1)
    assert len(json.loads(first + "".join(lines))) == report.num_rows == 3


def test_nothing_to_export_leaves_a_stream_and_a_folder_empty(tmp_path: Path) -> None:
    stream = io.StringIO()
    for out in (stream, tmp_path / "out.jsonl"):
        with pytest.raises(DataError, match=r"nothing in it can be written as hh\nunusable 1: a tie"):
            export_records([ranking(PROMPT, (1, 1))], format="hh", out=out)
    assert stream.getvalue() == ""
    assert list(tmp_path.iterdir()) == []
    assert "".join(export_lines([], format="palate", report=ExportReport(), array=True)) == ""
    with pytest.raises(DataError, match="no export format 'trl'"):
        export_lines([], format="trl", report=ExportReport())


SECRET = b"sixteen bytes and a few"
RATED = ranking(PROMPT, (1, 2), ratings=(7, 1), strength=1, labeler="Zoë Müller", seconds=2.0)
WRITTEN = Demonstration(prompt=PROMPT, response=SHOWN.response, author="Zoë Müller")


@pytest.mark.parametrize("format", EXPORTERS)
def test_no_format_names_a_labeler_where_pseudonyms_are_asked_for(format: str) -> None:
    pseudonyms = Pseudonyms(SECRET)
    for record in (RATED, WRITTEN):
        texts = []
        for given in (None, pseudonyms):
            try:
                stream = io.StringIO()
                export_records([record], format=format, out=stream, pseudonyms=given)
                texts.append(stream.getvalue())
            except DataError:  # the format has no place for such a record
                break
        else:
            named, hidden = texts
            assert "Zo" not in hidden
            assert (pseudonyms.name("Zoë Müller") in hidden) == ("Zoë" in named)


def test_formats_that_name_labelers_do() -> None:
    """The test above would be empty if none did."""
    for format in ("palate", "rankings", "stiennon", "arena", "argilla", "label-studio"):
        stream = io.StringIO()
        export_records([RATED], format=format, out=stream)
        assert "Zoë Müller" in stream.getvalue(), format


def test_a_pseudonym_depends_on_name_and_secret_alone() -> None:
    pseudonyms = Pseudonyms(SECRET)
    found = pseudonyms.name("ann")
    assert (
        found == Pseudonyms(SECRET).name("ann") == pseudonyms.apply(RATED.model_copy(update={"labeler": "ann"})).labeler
    )
    assert found.startswith("labeler-")
    assert len(found) == len("labeler-") + 16
    assert len({found, pseudonyms.name("Ann"), pseudonyms.name("bob"), Pseudonyms(SECRET + b".").name("ann")}) == 4
    assert pseudonyms.name("") == ""
    assert pseudonyms.apply(WRITTEN).author == pseudonyms.apply(RATED).labeler
    assert pseudonyms.apply(PROMPT) is PROMPT
    with pytest.raises(ValueError, match="at least 16 bytes; this one has 3"):
        Pseudonyms(b"abc")


def test_pseudonyms_reach_files(write: Write, tmp_path: Path) -> None:
    source = write("source.jsonl", RATED.to_json())
    export_data(source, format="palate", out=tmp_path / "out.jsonl", pseudonyms=Pseudonyms(SECRET))
    assert json.loads((tmp_path / "out.jsonl").read_text())["labeler"] == Pseudonyms(SECRET).name("Zoë Müller")
