"""The page of a report, tag by tag."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from palate.errors import PalateError
from palate.evals.page import Report, format_number, read_object


def parts(report: Report) -> str:
    """What stands between the header and the end."""
    return report.html().split("</header>\n", 1)[1].split("\n</main>", 1)[0]


def test_a_card_says_name_value_interval_and_note() -> None:
    report = Report("t")
    report.number("win_rate", 0.5, low=0.25, high=0.75, label="Won", note="of all")
    report.number("num_steps", 3)
    assert parts(report) == (
        '<dl class="numbers">'
        '<div class="number"><dt>Won</dt><dd class="value">0.5</dd>'
        '<dd class="interval">0.25 to 0.75</dd><dd class="note">of all</dd></div>'
        '<div class="number"><dt>Num steps</dt><dd class="value">3</dd></div>'
        "</dl>"
    )
    assert report.numbers == {"win_rate": 0.5, "win_rate_low": 0.25, "win_rate_high": 0.75, "num_steps": 3}


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "undefined"),
        (math.inf, "undefined"),
        (0.12345, "0.123"),
        (-0.12345, "-0.123"),
        (12.345, "12.35"),
        (-12.345, "-12.35"),
        (999.96, "1000"),
        (1234.5, "1,234"),
        (-1234.5, "-1,234"),
        (-2.0, "-2"),
    ],
)
def test_numbers_are_written_alike_on_both_sides_of_zero(value: float | None, written: str) -> None:
    assert format_number(value) == written


@pytest.mark.parametrize("sides", [{"low": 0.1}, {"high": 0.9}, {}])
def test_half_an_interval_is_none(sides: dict[str, float]) -> None:
    report = Report("t")
    report.number("x", 0.5, **sides)
    assert report.numbers == {"x": 0.5}
    assert "interval" not in parts(report)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_undefined(value: float | None) -> None:
    report = Report("t")
    report.number("x", value, low=value, high=0.5)
    assert report.numbers == {"x": None} | ({} if value is None else {"x_low": None, "x_high": 0.5})
    assert '<dd class="value">undefined</dd>' in parts(report)


def test_a_key_is_given_once() -> None:
    report = Report("t")
    report.data("x", [1])
    with pytest.raises(AssertionError, match="'x' already"):
        report.number("x", 1.0)


def test_a_figure_has_its_title_and_caption() -> None:
    report = Report("t")
    report.figure("Title", "<svg/>", "Caption")
    report.figure("", "<svg/>")
    assert parts(report) == (
        '\n<section><h2>Title</h2><figure><div class="wide"><svg/></div>'
        "<figcaption>Caption</figcaption></figure></section>\n"
        '<section><figure><div class="wide"><svg/></div></figure></section>'
    )


def test_a_table_has_its_caption_and_numbers_flush_right() -> None:
    report = Report("t")
    rows = [["a", 0.5, "12%", "1,000", 7], ["b", None, "3%", "2.5", "x"]]
    report.table("Title", ["", "value", "share", "text", "mixed"], rows, "Caption")
    assert parts(report) == (
        '\n<section><h2>Title</h2><div class="wide"><table class=""><caption>Caption</caption>'
        '<thead><tr><th></th><th class="figure">value</th><th class="figure">share</th>'
        '<th class="figure">text</th><th>mixed</th></tr></thead>'
        '<tbody><tr><td>a</td><td class="figure">0.5</td><td class="figure">12%</td>'
        '<td class="figure">1,000</td><td>7</td></tr>\n'
        '<tr><td>b</td><td class="figure">undefined</td><td class="figure">3%</td>'
        '<td class="figure">2.5</td><td>x</td></tr></tbody></table></div></section>'
    )


def test_texts_side_by_side_have_a_column_for_every_key() -> None:
    report = Report("t")
    report.side_by_side("Title", [{"the_prompt": "p", "score": 0.5}, {"score": None, "other": "o"}], "Caption")
    assert parts(report) == (
        '\n<section><h2>Title</h2><div class="wide"><table class="texts"><caption>Caption</caption>'
        '<thead><tr><th>the prompt</th><th class="figure">score</th><th>other</th></tr></thead>'
        '<tbody><tr><td>p</td><td class="figure">0.5</td><td></td></tr>\n'
        '<tr><td></td><td class="figure">undefined</td><td>o</td></tr></tbody></table></div></section>'
    )


def test_a_table_without_rows_has_its_header() -> None:
    report = Report("t")
    report.table("Title", ["a"], [])
    report.side_by_side("Title", [])
    assert parts(report).count("<thead><tr><th>a</th></tr></thead><tbody></tbody>") == 1
    assert '<table class="texts"><thead><tr></tr></thead><tbody></tbody>' in parts(report)


def test_paragraphs() -> None:
    report = Report("t")
    report.text("Title", "one\n\n\n\ntwo")
    report.text("", "three")
    assert parts(report) == ("\n<section><h2>Title</h2><p>one</p><p>two</p></section>\n<section><p>three</p></section>")


def test_the_head_forbids_to_load_anything() -> None:
    page = Report("Title", "Sub").html()
    assert page.startswith('<!doctype html>\n<html lang="en"><head><meta charset="utf-8">')
    assert "content=\"default-src 'none'; style-src 'unsafe-inline'\"" in page
    assert "<title>Title</title>" in page
    assert '<header><h1>Title</h1><p class="subtitle">Sub</p></header>' in page
    assert '<p class="subtitle">' not in Report("Title").html()


def test_written_into_folders_that_are_not_there_yet(tmp_path: Path) -> None:
    report = Report("t")
    report.number("x", 1.0)
    report.write(tmp_path / "a" / "b")
    written = (tmp_path / "a" / "b" / "report.json").read_text()
    assert written == '{\n  "title": "t",\n  "x": 1.0\n}\n'
    (tmp_path / "file").write_text("")
    with pytest.raises(PalateError, match="file"):
        report.write(tmp_path / "file" / "b")


@pytest.mark.parametrize("text", ["[1]", "{", "3"])
def test_what_is_no_object_is_read_as_an_empty_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    assert read_object(tmp_path / "x.json") == read_object(tmp_path / "absent.json") == {}
    (tmp_path / "x.json").write_text(json.dumps({"a": 1}))
    assert read_object(tmp_path / "x.json") == {"a": 1}
