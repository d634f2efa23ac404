"""Thumbs to pairs or to thumbs: by hand, and nothing lost without a count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.cli import main
from palate.corpus import read_rankings
from palate.corpus.formats.thumbs import thumb
from palate.corpus.mined.mining_report import Mining
from palate.corpus.mined.thumb_pairs import thumb_preferences
from palate.recipe import Data, ThumbMining
from palate.records import Prompt, Ranking, Response

THUMBS = [("p", "good", True), ("p", "bad", False), ("p", "worse", False), ("q", "good", True), ("r", "hm", True)]
THUMBS += [("r", "hm", False), ("r", "yes", True), ("r", "no", False), ("r", "no", False), ("r", "no", True)]


def mined(thumbs: list[tuple[str, str, bool]], **settings: Any) -> tuple[list[Ranking], Mining]:
    report = Mining(title="", out=Path("out"), directory=Path())
    items = [
        (f"f:{line}", thumb(Prompt.from_text(prompt), Response(text=text), up))
        for line, (prompt, text, up) in enumerate(thumbs, 1)
    ]
    return list(thumb_preferences(items, ThumbMining(**settings), report)), report


def test_liked_over_disliked_by_hand() -> None:
    rankings, report = mined(THUMBS)
    pairs = {(ranking.prompt.text, *(each.text for each in ranking.responses)) for ranking in rankings}
    assert pairs == {("p", "good", "bad"), ("p", "good", "worse"), ("r", "yes", "no")}
    assert {(ranking.ranks, ranking.source) for ranking in rankings} == {((1, 2), "thumbs")}
    assert report.left_out == {
        ("responses", "nothing disliked to the same prompt"): 1,
        ("responses", "as many thumbs up as down"): 1,
    }


def test_thumbs_stay_thumbs_with_the_majority() -> None:
    rankings, report = mined(THUMBS, to="thumbs")
    assert [(each.prompt.text, each.responses[0].text, each.ratings) for each in rankings] == [
        ("p", "good", (7,)),
        ("p", "bad", (1,)),
        ("p", "worse", (1,)),
        ("q", "good", (7,)),
        ("r", "yes", (7,)),
        ("r", "no", (1,)),
    ]
    assert report.left_out == {("responses", "as many thumbs up as down"): 1}


@given(
    st.lists(st.tuples(st.sampled_from("pq"), st.sampled_from("abcd"), st.booleans()), max_size=20), st.integers(1, 3)
)
def test_no_more_than_max_pairs_and_the_rest_is_counted(thumbs: list[tuple[str, str, bool]], most: int) -> None:
    everything, _ = mined(thumbs, max_pairs=99)
    some, report = mined(thumbs, max_pairs=most)
    assert {ranking.id for ranking in some} <= {ranking.id for ranking in everything}
    assert len(everything) - len(some) == report.left_out["pairs", "the prompt has max_pairs others"]
    for prompt in "pq":
        of_all = sum(ranking.prompt.text == prompt for ranking in everything)
        assert sum(ranking.prompt.text == prompt for ranking in some) == min(most, of_all)


def test_the_command_reads_what_chats_export_and_kto_reads_what_it_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": prompt, "completion": text, "label": up} for prompt, text, up in THUMBS]
    Path("thumbs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["data", "mine", "thumbs", "thumbs.jsonl", "--out", "out.jsonl", "--set", "to=thumbs"]) == 0
    said = capsys.readouterr().out
    assert "made       3 thumbs up, 3 thumbs down" in said
    assert "left out 1 responses: as many thumbs up as down (thumbs.jsonl:5)" in said
    assert {each.source for each in read_rankings(Data(path="out.jsonl")).records} == {"thumbs"}
    figures = json.loads(Path("out-report/report.json").read_text())
    assert (figures["made_thumbs_up"], figures["read_judgements"]) == (3, 10)
    assert figures["left_out"] == [{"what": "responses", "reason": "as many thumbs up as down", "count": 1}]
    assert "as many thumbs up as down" in Path("out-report/report.html").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["mine", "tumbs"], "choose from"),
        (["mine", "thumbs", "t.jsonl", "--out", "o.txt"], "name the output something.jsonl"),
        (["mine", "thumbs", "t.jsonl", "--out", "t.jsonl"], "would be overwritten"),
        (["mine", "thumbs", "t.jsonl", "--out", "o.jsonl", "--set", "too=pairs"], "did you mean 'to'?"),
        (["mine", "thumbs", "t.jsonl", "--out", "o.jsonl"], "t.jsonl:2: "),
    ],
)
def test_mistakes_are_one_line(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = '{"prompt": "p", "completion": "a", "label": true}\n{"prompt": "p", "completion": "b", "label"\n'
    Path("t.jsonl").write_text(rows)
    try:
        status = main(["data", *options])
    except SystemExit as stop:
        status = int(stop.code or 0)
    assert status == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
