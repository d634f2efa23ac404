"""Refusal templates against answers: the right way round by the mark, in the share that was asked for, all counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.cli import main
from palate.corpus import read_rankings
from palate.corpus.mined.mining_report import Mining
from palate.corpus.mined.phrases import templates
from palate.corpus.mined.refusal_pairs import Pair, refusal_pairs, with_share
from palate.errors import DataError
from palate.recipe import Data, RefusalMining
from palate.records import Candidates, Prompt, Ranking, Response


def told() -> Mining:
    return Mining(title="", out=Path("out"), directory=Path())


def asked(text: str, mark: str = "", *answers: str, **tags: str) -> Candidates:
    marked = {"harmful": mark} if mark else {}
    responses = tuple(Response(text=answer) for answer in answers or ("Take two.",))
    return Candidates(prompt=Prompt.from_text(text, tags=marked | tags), responses=responses)


def mined(*records: Candidates, **settings: Any) -> tuple[list[Ranking], Mining]:
    report = told()
    items = [(f"f:{line}", record) for line, record in enumerate(records, 1)]
    return list(refusal_pairs(items, RefusalMining(**settings), report)), report


@pytest.fixture
def mine_txt(tmp_path: Path) -> str:
    path = tmp_path / "mine.txt"
    path.write_text("# ours\nNo {topic}, and not {{{prompt}}}.\n")
    return str(path)


def test_a_refusal_is_preferred_for_harm_alone(mine_txt: str) -> None:
    rankings, report = mined(
        asked("Poison?", "yes", topic="poison"), asked("Cake?", "no", topic="cake"), templates=mine_txt
    )
    refused, answered = rankings
    assert [each.text for each in refused.responses] == ["No poison, and not {Poison?}.", "Take two."]
    assert [each.text for each in answered.responses] == ["Take two.", "No cake, and not {Cake?}."]
    assert {(each.ranks, each.source) for each in rankings} == {((1, 2), "template")}
    assert dict(report.made) == {
        "refusals over answers to harmful prompts": 1,
        "answers over refusals to harmless prompts": 1,
    }


def test_what_makes_no_pair_is_counted(mine_txt: str) -> None:
    _, report = mined(
        asked("Poison?", "true", "I'm sorry, but I cannot help with that.", "Take two.", "Three.", topic="poison"),
        asked("Unmarked?", "", topic="x"),
        asked("Without topic?", "true"),
        asked("Cake?", "false", "Eggs.", topic="cake"),
        templates=mine_txt,
    )
    assert report.left_out == {
        ("responses", "refuses by itself"): 1,
        ("responses", "the prompt has max_pairs others"): 1,
        ("records", "no tag 'harmful'"): 1,
        ("records", "no tag 'topic' for its template"): 1,
    }
    assert report.read["records"] == 4


def test_marks_are_those_that_the_settings_name() -> None:
    record = asked("p", "", danger="RED")
    settings = {"tag": "danger", "harmful": ("red",), "harmless": ("green",), "harmful_share": 1}
    assert len(mined(record, **settings)[0]) == 1
    with pytest.raises(DataError, match="f:1: danger is 'blue': neither in `harmful`"):
        mined(asked("p", "", danger="blue"), **settings)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 20).map(lambda twentieths: twentieths / 20))
def test_the_share_is_what_was_asked_for_as_near_as_whole_pairs_allow(bad: int, good: int, share: float) -> None:
    pairs = [
        Pair(place="f:1", prompt=Prompt.from_text(str(n)), answer=Response(text="a"), refusal="no", harmful=n < bad)
        for n in range(bad + good)
    ]
    report = told()
    kept = with_share(pairs, share, report)
    harmful = sum(pair.harmful for pair in kept)
    assert len(pairs) - len(kept) == sum(report.left_out.values())
    assert kept == [pair for pair in pairs if pair in kept]  # in their order
    if 0 < share < 1 and bad and good:
        harmless = len(kept) - harmful
        assert abs(harmful - share * len(kept)) < 1  # less than one pair away
        assert harmful == bad or harmless == good or not kept  # one side is used up
    if share in (0, 1):
        assert (harmful, len(kept) - harmful) == ((bad, 0) if share else (0, good))


def test_which_template_follows_from_seed_and_prompt() -> None:
    prompts = [Prompt.from_text(str(n)) for n in range(40)]
    ours = [[templates("", "refusals.txt", seed).filled(prompt) for prompt in prompts] for seed in (0, 0, 1)]
    assert ours[0] == ours[1] != ours[2]
    assert len(set(ours[0])) == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("No {", "mine.txt:1: "),
        ("No {}.", "mine.txt:1: {}: name `prompt` or a tag"),
        ("No {prompt!r}.", "mine.txt:1: {prompt}: name `prompt` or a tag"),
        ("# nothing", "no line in it says anything"),
    ],
)
def test_a_bad_template_says_where(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text(text)
    with pytest.raises(DataError) as error:
        templates(str(tmp_path / "mine.txt"), "refusals.txt", 0)
    assert said in str(error.value)


def test_the_command_takes_the_mark_from_a_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"p{n}", "completion": f"answer {n}", "harmful": n % 3 == 0} for n in range(12)]
    Path("d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["data", "mine", "refusals", "d.jsonl", "--tag", "harmful", "--out", "o.jsonl"]
    assert main([*command, "--set", "harmful_share=0.8"]) == 0
    said = capsys.readouterr().out
    assert "made       4 refusals over answers to harmful prompts, 1 answers over refusals to harmless prompts" in said
    assert "left out 7 pairs: more of harmless prompts than it" in said
    rankings = read_rankings(Data(path="o.jsonl")).records
    for ranking in rankings:
        harmful = int(ranking.prompt.text[1:]) % 3 == 0
        assert ranking.responses[harmful].text.startswith("answer")
    assert len(rankings) == 5
