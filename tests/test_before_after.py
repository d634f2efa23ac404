"""Answers before and after by several judges: whose means they are, and that prompts are matched, not counted off."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from palate.corpus import read_candidates
from palate.errors import DataError
from palate.recipe import Data
from palate.records import Candidates, Message, Prompt, Response

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def before_after(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import before_after

    return before_after


def answered(path: Path, *rows: tuple[str, str, tuple[str, ...]]) -> str:
    """Candidates, each of a question, its tag and the answers to it."""
    lines = [
        Candidates(
            prompt=Prompt(messages=(Message(role="user", content=question),), tags={"answer": known}),
            responses=tuple(Response(text=text) for text in texts),
        ).to_json()
        for question, known, texts in rows
    ]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return str(path)


def test_two_judges_of_the_same_answers(
    before_after: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the sums one of four answers is right before, three after; well-formed are none and two."""
    before = answered(tmp_path / "a.jsonl", ("1 + 1?", "2", ("2", "3")), ("2 + 2?", "4", ("It is 5.", "no")))
    after = answered(tmp_path / "b.jsonl", ("2 + 2?", "4", ("#### 4", "#### 5")), ("1 + 1?", "2", ("2", "2.")))
    judges = ["right={ verifier = { kind = 'number' } }"]
    judges += ["formed={ verifier = { kind = 'pattern', must_match = ['(?m)^#### '] } }"]
    out = tmp_path / "bars.svg"
    monkeypatch.setattr(
        sys, "argv", ["x", before, after, "--judge", judges[0], "--judge", judges[1], "--out", str(out)]
    )
    before_after.main()
    right, formed = capsys.readouterr().out.splitlines()
    assert right.startswith("right: 0.250 (")
    assert " before, 0.750 (" in right
    assert formed.startswith("formed: 0.000 (")
    assert " before, 0.500 (" in formed
    picture = out.read_text(encoding="utf-8")
    assert all(f">{name}, {when}<" in picture for name in ("right", "formed") for when in ("before", "after"))
    assert ">75.0%<" in picture


def test_scores_that_are_no_shares_are_drawn_as_numbers(
    before_after: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a mean between 0 and 1 that single scores leave."""
    files = [answered(tmp_path / name, ("Say.", "x", ("a b c", "a"))) for name in ("a.jsonl", "b.jsonl")]
    out = tmp_path / "bars.svg"
    monkeypatch.setattr(
        sys, "argv", ["x", *files, "--judge", "short={ length = 1.0 , weight = -7.5 }", "--out", str(out)]
    )
    before_after.main()
    picture = out.read_text(encoding="utf-8")
    assert ">0.75<" in picture
    assert "%<" not in picture


def test_answers_are_paired_by_what_was_asked(before_after: ModuleType, tmp_path: Path) -> None:
    """In another order in the other file: the interval of a change hangs on it, its value does not."""
    rows = [(f"{number} + 0?", str(number), (str(number),)) for number in range(5)]
    before, after = (
        read_candidates(Data(path=answered(tmp_path / name, *order))).records
        for name, order in (("a.jsonl", rows), ("b.jsonl", rows[::-1]))
    )
    assert [item.prompt.id for item in after] != [item.prompt.id for item in before]
    assert [item.prompt.id for item in before_after.same_prompts(before, after)] == [item.prompt.id for item in before]


def test_other_prompts_are_refused(before_after: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = answered(tmp_path / "a.jsonl", ("1 + 1?", "2", ("2",)))
    after = answered(tmp_path / "b.jsonl", ("2 + 2?", "4", ("4",)))
    judge = "right={ verifier = { kind = 'number' } }"
    monkeypatch.setattr(sys, "argv", ["x", before, after, "--judge", judge, "--out", str(tmp_path / "o.svg")])
    with pytest.raises(DataError, match="do not have the same prompts"):
        before_after.main()
