"""What a model knows, from planted knowledge: who is preferred follows from it, and every question is accounted for."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.cli import main
from palate.corpus import read_rankings
from palate.corpus.mined.abstention import abstention_pairs
from palate.corpus.mined.known_answers import is_right, normalized, read_answers
from palate.corpus.mined.mining_report import Mining
from palate.corpus.mined.phrases import patterns
from palate.corpus.rows.rejections import Rejections
from palate.errors import DataError
from palate.recipe import AbstentionMining, Data
from palate.records import Candidates, Prompt, Provenance, Ranking, Response

UNSURE = patterns("", "unsure.txt")


def told() -> Mining:
    return Mining(title="", out=Path("out"), directory=Path())


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The Eiffel Tower!", "eiffel tower"),
        ("  an  apple,  a day ", "apple day"),
        ("\u201cO\u2019Neill\u201d", "oneill"),
        ("Theatre", "theatre"),
        ("A", "a"),
        ("?!", ""),
    ],
)
def test_normalisation_by_hand(text: str, plain: str) -> None:
    assert normalized(text) == plain


@pytest.mark.parametrize(
    ("response", "exact", "contains"),
    [
        ("The Paris.", True, True),
        ("It is Paris, I think.", False, True),
        ("Parisian ways", False, False),
        ("paris", True, True),
        ("Rome", False, False),
        ("City of Light!", True, True),
    ],
)
def test_a_match_is_of_whole_words_and_of_every_alias(response: str, exact: bool, contains: bool) -> None:
    answers = frozenset({"paris", "city of light"})
    assert is_right(response, answers, "exact") is exact
    assert is_right(response, answers, "contains") is contains


@given(st.text(max_size=40))
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    once = normalized(text)
    assert normalized(once) == once
    assert is_right(text, frozenset({once}), "exact")


@pytest.fixture
def answers(tmp_path: Path) -> str:
    rows = [
        {"question": "Capital of France?", "answer": {"value": "Paris", "aliases": ["City of Light"]}},
        {"question": "Capital of Chad?", "answer": ["N'Djamena"]},
        {"question": "Capital of Peru?", "answer": "Lima"},
        {"question": "Why are we here?", "answer": None},
        {"question": "Two and two?", "answers": [4]},
    ]
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def sampled(question: str, *texts: str, cut: str = "") -> Candidates:
    responses = tuple(
        Response(text=text, provenance=Provenance(model="m", sample_index=index, ended=text != cut))
        for index, text in enumerate(texts)
    )
    return Candidates(prompt=Prompt.from_text(question), responses=responses)


def mined(answers: str, *records: Candidates, **settings: Any) -> tuple[list[Ranking], Mining]:
    report = told()
    items = [(f"f:{line}", record) for line, record in enumerate(records, 1)]
    return list(abstention_pairs(items, AbstentionMining(answers=answers, **settings), report)), report


def texts(rankings: list[Ranking]) -> list[tuple[str, ...]]:
    """Of each pair, with ? for a text that says it does not know."""
    assert {(each.ranks, each.source) for each in rankings} <= {((1, 2), "abstention")}
    return [tuple("?" if UNSURE.find(r.text) else r.text for r in each.responses) for each in rankings]


def test_who_knows_is_to_answer_and_who_does_not_is_to_say_so(answers: str) -> None:
    rankings, report = mined(
        answers,
        sampled("Capital of France?", "Paris.", "paris", "It is the City of Light", "Lyon"),
        sampled("capital of  chad?", "Lagos", "Cairo", "I don\u2019t know.", "Lagos"),
        sampled("Capital of Peru?", "Lima", "Quito", "Lima", "Cuzco"),
        sampled("Two and two?", "4", "four", "5", "It is 4", "4!"),
    )
    assert texts(rankings) == [
        ("Paris.", "?"),
        ("paris", "?"),
        ("Paris.", "Lyon"),
        ("?", "Lagos"),
        ("?", "Cairo"),
    ]
    assert report.left_out == {
        ("pairs", "the question has max_pairs others of its kind"): 1,
        ("samples", "says by itself that it does not know"): 1,
        ("questions", "between knowing and not knowing"): 2,
    }
    assert (report.read["questions that it knows"], report.read["questions that it does not know"]) == (1, 1)
    assert rankings[0].responses[0].provenance is not None
    assert rankings[0].responses[1].provenance is None


def test_questions_that_nothing_can_be_said_of_are_counted(answers: str) -> None:
    _, report = mined(
        answers,
        sampled("Why are we here?", "a", "b", "c", "d"),
        sampled("Who?", "a", "b", "c", "d"),
        sampled("Capital of Peru?", "Lima"),
        sampled("Capital of Chad?", *["I have no idea."] * 4),
        sampled("Capital of France?", *["It is Paris and"] * 4, cut="It is Paris and"),
    )
    assert {reason: count for (what, reason), count in report.left_out.items() if what == "questions"} == {
        "no known answer": 1,
        "not among the questions with answers": 1,
        "fewer samples than min_samples": 1,
        "no sample that can be used": 2,
    }
    assert report.left_out["samples", "was cut off"] == 4


@pytest.mark.parametrize(
    ("settings", "pairs"),
    [
        ({}, []),
        ({"knows": 0.5}, [("Lima", "?"), ("Lima", "Quito"), ("Lima", "Cuzco")]),
        ({"knows": 0.5, "max_pairs": 1}, [("Lima", "?"), ("Lima", "Quito")]),
        ({"does_not_know": 0.5}, [("?", "Quito"), ("?", "Cuzco")]),
        ({"knows": 0.5, "match": "exact"}, [("Lima", "?"), ("Lima", "Quito"), ("Lima", "Cuzco")]),
        ({"min_samples": 5, "knows": 0.5}, []),
    ],
)
def test_thresholds_are_heeded(settings: dict[str, Any], pairs: list[tuple[str, str]], answers: str) -> None:
    rankings, _ = mined(answers, sampled("Capital of Peru?", "Lima", "Quito", "Lima", "Cuzco"), **settings)
    assert texts(rankings) == pairs


UNKNOWN = [sampled("Capital of Chad?", "Lagos", "Cairo", "Lagos", "Cairo")]
KNOWN = [sampled("Capital of Peru?", *["Lima"] * 4), sampled("Capital of France?", "Paris", "paris", "Paris", "Rome")]


@pytest.mark.parametrize(
    ("most", "unsure", "gone"), [(1.0, 2, 0), (0.5, 2, 0), (0.29, 1, 1), (0.2, 1, 1), (0.19, 0, 2), (0.0, 0, 2)]
)
def test_saying_so_is_preferred_in_no_more_than_its_share(most: float, unsure: int, gone: int, answers: str) -> None:
    """Beside four pairs of other kinds; which of two goes is the same each time."""
    rankings, report = mined(answers, *UNKNOWN, *KNOWN, max_unsure_share=most)
    found = texts(rankings)
    assert found == texts(mined(answers, *UNKNOWN, *KNOWN, max_unsure_share=most)[0])
    assert [pair for pair in found if pair[0] != "?"] == [
        ("Lima", "?"),
        ("Paris", "?"),
        ("paris", "?"),
        ("Paris", "Rome"),
    ]
    assert len(found) - 4 == unsure == report.made["saying that it does not know over wrong answers"]
    assert report.left_out["pairs", "saying so is preferred in more than max_unsure_share"] == gone


def test_a_question_without_an_answer_is_unanswerable_if_the_file_is_said_to_mean_that(answers: str) -> None:
    asked = sampled("Why are we here?", "For love", "For love", "I don't know", "By chance")
    rankings, report = mined(answers, asked, unanswerable=True)
    assert texts(rankings) == [("?", "For love"), ("?", "By chance")]
    assert report.read["questions that nobody can answer"] == 1
    assert mined(answers, asked)[0] == []


def test_planted_knowledge_is_found_again(tmp_path: Path) -> None:
    """300 questions, each known in 95% or 2% of its samples, by a model of ours: precision and recall of both kinds."""
    chance = random.Random(5)
    truth = {f"What is number {n}?": chance.random() < 0.5 for n in range(300)}
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"question": q, "answer": f"word{n}"}) + "\n" for n, q in enumerate(truth)))
    records = [
        sampled(
            q, *(f"It is word{n}." if chance.random() < (0.95 if knows else 0.02) else "It is late." for _ in range(8))
        )
        for n, (q, knows) in enumerate(truth.items())
    ]
    rankings, report = mined(str(file), *records)
    abstains = {each.prompt.text for each in rankings if UNSURE.find(each.responses[0].text)}
    answers = {each.prompt.text for each in rankings} - abstains
    known = {question for question, knows in truth.items() if knows}
    assert not abstains & known  # precision 1 of both
    assert answers <= known
    assert len(answers) / len(known) > 0.97
    assert len(abstains) / (300 - len(known)) > 0.8  # 0.98 to the eighth are never right by luck: 85%
    between = report.left_out["questions", "between knowing and not knowing"]
    assert between + len(abstains) + len(answers) == 300


def test_the_command_from_samples_to_a_file_that_trains(
    answers: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    records = [sampled("Capital of Peru?", *["Lima"] * 4), sampled("Capital of Chad?", *["Lagos"] * 4)]
    Path("candidates.jsonl").write_text("".join(each.to_json() + "\n" for each in records))
    command = ["data", "mine", "abstention", "candidates.jsonl", "--out", "o.jsonl"]
    assert main([*command, "--set", f"answers={answers}"]) == 0
    said = capsys.readouterr().out
    assert (
        "1 right answers over saying that it does not know, 1 saying that it does not know over wrong answers" in said
    )
    assert "1 questions without a known answer" in said
    assert texts(list(read_rankings(Data(path="o.jsonl")).records)) == [("Lima", "?"), ("?", "Lagos")]
    assert main(command) == 2
    assert "name the file of questions with their answers: --set answers=FILE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"question": "Why?"}', "a.jsonl:1: no question"),
        ('{"question": "Why?", "answer": true}', "a.jsonl:1: field 'answer' holds what is no answer; found True"),
        ('{"question": "Why?"', "a.jsonl:1: "),
    ],
)
def test_a_bad_row_of_answers_says_where(row: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(row + "\n")
    with pytest.raises(DataError) as error:
        read_answers(str(tmp_path / "a.jsonl"), Counter(), Rejections())
    assert said in str(error.value)
