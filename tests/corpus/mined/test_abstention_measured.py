"""Responses of a model before and after, by the command: what each counts as, what changed, and what is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from palate.cli import main
from palate.corpus.mined.abstention_measured import MEANING, kind_of, measure_abstention
from palate.corpus.mined.phrases import patterns
from palate.recipe import AbstentionMeasuring
from palate.records import Candidates, Prompt, Provenance, Response

UNSURE = patterns("", "unsure.txt")
ANSWERS = {"Capital of France?": "Paris", "Capital of Peru?": ["Lima"], "Why are we?": None, "What is next?": []}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Of answers, of responses before and of responses after."""

    def write(name: str, rows: list[str]) -> str:
        path = tmp_path / name
        path.write_text("".join(row + "\n" for row in rows), encoding="utf-8")
        return str(path)

    def said(question: str, text: str, ended: bool = True) -> str:
        response = Response(text=text, provenance=Provenance(model="m", ended=ended))
        return Candidates(prompt=Prompt.from_text(question), responses=(response,)).to_json()

    before = [
        said("Capital of France?", "It is Paris."),
        said("Capital of Peru?", "It is Quito."),
        said("Why are we?", "Because of <b>"),
        said("What is next?", "The moon."),
        said("Who?", "He."),
    ]
    after = [
        said("What is next?", "I don't know."),
        said("Why are we?", "To love", ended=False),
        said("Capital of Peru?", "I am not sure."),
        said("capital of france?", "I think Paris, but I'm not sure."),
        said("Which?", "This."),
    ]
    answers = [json.dumps({"question": question, "answer": answer}) for question, answer in ANSWERS.items()]
    return {
        "answers": write("answers.jsonl", [*answers, json.dumps({"question": "Unasked?", "answer": "x"})]),
        "before": write("before.jsonl", before),
        "after": write("after.jsonl", after),
    }


def measured(files: dict[str, str], out: Path, *more: str) -> dict[str, Any]:
    command = ["data", "abstention", files["after"], "--out", str(out), "--set", f"answers={files['answers']}"]
    assert main([*command, *more]) == 0
    found: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return found


def test_before_and_after_by_hand(files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(files, tmp_path / "out", "--before", files["before"])
    assert {name: found[name] for name in ("f1", "precision", "recall", "confident_wrong", "right", "kept")} == {
        "f1": 0.5,
        "precision": 0.5,
        "recall": 0.5,
        "confident_wrong": 0.25,
        "right": 0.5,
        "kept": 1.0,
    }
    assert (found["unsure_answerable"], found["right_when_answering"], found["withheld"]) == (0.5, 1.0, 0.0)
    assert found["before"]["confident_wrong"]["value"] == 0.75
    assert found["change"]["confident_wrong"]["value"] == -0.5
    assert found["f1_of_always"] == pytest.approx(4 / 6)
    assert found["read"] == {
        "questions with answers": 3,
        "questions without a known answer": 2,
        "questions measured": 4,
        "of them without an answer": 2,
        "responses before": 4,
        "cut off before": 0,
        "responses after": 4,
        "cut off after": 1,
    }
    assert found["left_out"] == {"not among the questions with answers": 2}
    said = capsys.readouterr().out
    assert "confident_wrong, change" in said
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for text in ("I think Paris", "Because of &lt;b&gt;", "right before, and withheld now", "Before and after"):
        assert text in page


def test_no_label_is_cut_short_in_the_picture(files: dict[str, str]) -> None:
    found = measure_abstention(
        files["after"], AbstentionMeasuring(answers=files["answers"]), before=files["before"]
    ).picture()
    assert "\u2026" not in found
    assert all(f">{label}, {when}<" in found for label in list(MEANING.values())[:7] for when in ("before", "after"))


def test_one_model_alone(files: dict[str, str], tmp_path: Path) -> None:
    found = measured(files, tmp_path / "out")
    assert (found["f1"], found["change"], found["before"]) == (0.5, {}, {})
    assert "kept" not in found


def test_other_settings_count_otherwise(files: dict[str, str], tmp_path: Path) -> None:
    exact = measured(files, tmp_path / "exact", "--set", "match=exact")
    assert (exact["right"], exact["unsure_answerable"]) == (0.0, 1.0)
    lists = tmp_path / "patterns.txt"
    lists.write_text("\\bto love\\b\n", encoding="utf-8")
    own = measured(files, tmp_path / "own", "--set", f"patterns={lists}")
    assert (own["recall"], own["unsure_answerable"]) == (0.5, 0.0)


def test_questions_that_only_one_model_answered_are_counted(files: dict[str, str], tmp_path: Path) -> None:
    rows = Path(files["before"]).read_text(encoding="utf-8").splitlines()
    Path(files["before"]).write_text("".join(row + "\n" for row in rows if "Peru" not in row), encoding="utf-8")
    found = measured(files, tmp_path / "out", "--before", files["before"])
    assert found["read"]["questions measured"] == 3
    assert found["left_out"]["answered by one of the two models alone"] == 1


def test_nothing_to_measure_is_one_line(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(files["answers"]).write_text('{"question": "Else?", "answer": "x"}\n', encoding="utf-8")
    command = ["data", "abstention", files["after"], "--out", str(tmp_path / "out")]
    assert main([*command, "--set", f"answers={files['answers']}"]) == 2
    assert "nothing in it is among the questions of" in capsys.readouterr().err
    assert main(command) == 2
    assert "name the file of questions with their answers" in capsys.readouterr().err


def test_an_answer_with_doubts_is_right_where_it_is() -> None:
    assert kind_of("I'm not sure, Paris?", frozenset({"paris"}), "contains", UNSURE) == "right"
    assert kind_of("I'm not sure, Rome?", frozenset({"paris"}), "contains", UNSURE) == "unsure"
    assert kind_of("Rome!", frozenset({"paris"}), "contains", UNSURE) == "wrong"
    assert kind_of("Paris", frozenset(), "contains", UNSURE) == "wrong"
