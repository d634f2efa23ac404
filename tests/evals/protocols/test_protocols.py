"""Rows to questions, answers to scores: by hand."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest

from palate.errors import DataError
from palate.evals.protocols.all_protocols import PROTOCOLS
from palate.evals.protocols.choices import choice_scores
from palate.evals.protocols.items import Continuation, Likelihood, Said
from palate.evals.protocols.truthful import truth_scores
from palate.recipe.evaluation import ProtocolName
from palate.records import Prompt


def written(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def asked(section: str, path: Path, row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The contexts and continuations of a file of one row."""
    (item,) = PROTOCOLS[section].read(written(path / "rows.jsonl", [row]))
    return [(each.context, each.text) for each in item.asked if isinstance(each, Continuation)]


def answers(*logprobs: float) -> list[Likelihood]:
    return [Likelihood(logprob, greedy=False) for logprob in logprobs]


def test_a_recipe_may_name_every_protocol() -> None:
    assert set(get_args(ProtocolName)) == set(PROTOCOLS)
    for protocol in PROTOCOLS.values():
        assert protocol.measures[0].compared
        assert not [measure for measure in protocol.measures[1:] if measure.compared and measure.name == "acc_norm"]


def test_the_likeliest_choice_and_the_likeliest_by_character() -> None:
    found = choice_scores(answers(-4.0, -6.0, -9.0), gold=1, characters=[2, 6, 6])
    assert (found["acc"], found["acc_norm"]) == (0.0, 1.0)  # -2, -1 and -1.5 a character
    assert (found["picked"], found["gold"]) == (0.0, 1.0)
    weights = [1.0, math.exp(-2), math.exp(-5)]
    shares = [weight / sum(weights) for weight in weights]
    assert found["confidence"] == pytest.approx(shares[0])
    assert found["brier"] == pytest.approx(shares[0] ** 2 + (1 - shares[1]) ** 2 + shares[2] ** 2)


def test_of_equals_the_first_is_taken_and_no_sum_is_too_small() -> None:
    found = choice_scores(answers(-3000.0, -3000.0), gold=0, characters=[1, 1])
    assert (found["acc"], found["acc_norm"], found["confidence"], found["brier"]) == (1.0, 1.0, 0.5, 0.5)


GIVEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "arc_easy": (
        {"question": "Why?", "choices": {"label": ["A", "B"], "text": ["so", "no"]}, "answerKey": "B"},
        {"query": "Question: Why?", "choices": ["so", "no"], "gold": 1},
    ),
    "piqa": (
        {"goal": "Tea.", "sol1": "Boil.", "sol2": "Freeze.", "label": 0},
        {"query": "Question: Tea.\n", "choices": ["Boil.", "Freeze."], "gold": 0},
    ),
    "openbookqa": (
        {"question_stem": "Foxes eat", "choices": {"label": ["A", "B"], "text": ["tea", "mice"]}, "answerKey": "B "},
        {"query": "Foxes eat", "choices": ["tea", "mice"], "gold": 1},
    ),
    "boolq": (
        {"passage": "It is.", "question": "is it", "answer": True},
        {"query": "Passage: It is.\nQuestion: is it?", "choices": ["no", "yes"], "gold": 1},
    ),
    "commonsense_qa": (
        {"question": "Where?", "choices": {"label": ["A", "B"], "text": ["here", "there"]}, "answerKey": "A"},
        {"query": "Question: Where?\nChoices:\nA. here\nB. there\nAnswer:", "choices": ["A", "B"], "gold": 0},
    ),
    "winogrande": (
        {"sentence": "Ann saw Bea and _ waved.", "option1": "Ann", "option2": "Bea", "answer": "2"},
        {
            "context_options": ["Ann saw Bea and Ann", "Ann saw Bea and Bea"],
            "continuation": "waved.",
            "gold": 1,
        },
    ),
    "hellaswag": (
        {"activity_label": "Tea", "ctx_a": "He boils.", "ctx_b": "he", "endings": ["sips.", "[x] runs."], "label": "0"},
        {"query": "Tea: He boils. He", "choices": ["sips.", " runs."], "gold": 0},
    ),
    "lambada": ({"text": "over the river"}, {"context": "over the", "continuation": "river"}),
}


@pytest.mark.parametrize("section", GIVEN)
def test_a_row_as_published_and_as_passed_on_ask_the_same(section: str, tmp_path: Path) -> None:
    published, given = (asked(section, tmp_path, row) for row in GIVEN[section])
    assert published == given
    if section != "lambada":
        read = [PROTOCOLS[section].read(written(tmp_path / "rows.jsonl", [row])) for row in GIVEN[section]]
        assert [item.score(answers(-1, -2))["gold"] for (item,) in read] == [GIVEN[section][1]["gold"]] * 2


def test_what_is_asked_to_the_letter(tmp_path: Path) -> None:
    rows = {section: asked(section, tmp_path, published) for section, (published, _) in GIVEN.items()}
    assert rows["arc_easy"] == [("Question: Why?\nAnswer:", " so"), ("Question: Why?\nAnswer:", " no")]
    assert rows["boolq"][1] == ("It is.\nQuestion: is it?\nAnswer:", " yes")
    assert rows["winogrande"] == [("Ann saw Bea and Ann", " waved."), ("Ann saw Bea and Bea", " waved.")]
    assert rows["openbookqa"][0] == ("Foxes eat", " tea")
    assert rows["lambada"] == [("over the", " river")]


def test_a_choice_is_as_long_as_its_characters_without_the_blank_before_it(tmp_path: Path) -> None:
    row = {"query": "Where?", "choices": ["ööö", "over"], "gold": 0}
    (item,) = PROTOCOLS["arc_easy"].read(written(tmp_path / "rows.jsonl", [row]))
    assert item.score(answers(-3.0, -3.9))["acc_norm"] == 0.0  # -1 and -0.975 a character
    assert item.score(answers(-2.9, -3.9))["acc_norm"] == 1.0  # 6 bytes or 4 characters would be other numbers


def test_hellaswag_in_six_lines_a_question(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    path.write_text("Tea: A man boils. he\n2\na.\nb.\nc.\nd.\n" * 2, encoding="utf-8")
    items = PROTOCOLS["hellaswag"].read(path)
    assert len(items) == 2
    assert items[1].asked[3] == Continuation("Tea: A man boils. he", " d.")
    assert items[0].score(answers(-5, -5, -1, -5))["acc"] == 1
    path.write_text("Tea: A man boils. he\n2\na.\nb.\n", encoding="utf-8")
    with pytest.raises(DataError, match="4 lines are no whole number of questions"):
        PROTOCOLS["hellaswag"].read(path)


MISTAKES: dict[str, tuple[str, dict[str, Any], str]] = {
    "other columns": ("piqa", {"q": "x"}, r"rows.jsonl:2: the row has the columns q; expected goal, sol1, sol2, label"),
    "no such choice": (
        "arc_easy",
        {"query": "x", "choices": ["a", "b"], "gold": 2},
        "the right choice is number 2 of 2, counted from 0",
    ),
    "one choice": ("arc_easy", {"query": "x", "choices": ["a"], "gold": 0}, "there must be two choices at least"),
    "an empty choice": ("arc_easy", {"query": "x", "choices": ["a", " "], "gold": 0}, "a choice holds no text"),
    "no gap": ("winogrande", {"sentence": "x", "option1": "a", "option2": "b", "answer": "1"}, "has no gap"),
    "no label": ("arc_easy", {"question": "x", "choices": {"label": ["A"], "text": ["a"]}, "answerKey": "C"}, "C"),
    "one word": ("lambada", {"text": "x"}, "the text is a single word"),
    "no number": ("gsm8k", {"question": "x", "answer": "many"}, "the answer holds no number"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_row_that_cannot_be_used_is_named_by_its_line(mistake: str, tmp_path: Path) -> None:
    section, row, message = MISTAKES[mistake]
    sound = GIVEN["piqa" if section == "piqa" else "arc_easy"][0]
    if section in ("winogrande", "lambada"):
        sound = GIVEN[section][0]
    if section == "gsm8k":
        sound = {"question": "x", "answer": "#### 3"}
    with pytest.raises(DataError, match=message):
        PROTOCOLS[section].read(written(tmp_path / "rows.jsonl", [sound, row]))


def test_an_empty_file_and_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is nothing in it"):
        PROTOCOLS["piqa"].read(written(tmp_path / "rows.jsonl", []))
    with pytest.raises(DataError, match="no such file"):
        PROTOCOLS["piqa"].read(tmp_path / "nowhere.jsonl")


def test_last_words_and_documents(tmp_path: Path) -> None:
    (word,) = PROTOCOLS["lambada"].read(written(tmp_path / "rows.jsonl", [{"text": "a b"}]))
    assert word.score([Likelihood(-2.0, greedy=True)]) == {"acc": 1.0, "nats": 2.0}
    assert word.score([Likelihood(-0.5, greedy=False)]) == {"acc": 0.0, "nats": 0.5}
    (document,) = PROTOCOLS["held_out_text"].read(written(tmp_path / "rows.jsonl", [{"text": "Köln"}]))
    assert document.asked == (Continuation("", "Köln"),)
    assert document.score([Likelihood(-10 * math.log(2), greedy=False)]) == pytest.approx({"bits": 10.0, "bytes": 5.0})


def test_truthfulqa_from_its_table(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["Question", "Best Answer", "Correct Answers", "Incorrect Answers"])
        table.writerow(["Why?", "Since.", "As so; Since.; It is", "No; Never; "])
    (item,) = PROTOCOLS["truthfulqa"].read(path)
    assert [each.text for each in item.asked if isinstance(each, Continuation)] == [
        " Since.", " As so", " It is", " No", " Never",
    ]  # fmt: skip
    (context,) = {each.context for each in item.asked if isinstance(each, Continuation)}
    assert context.endswith("\n\nQ: Why?\nA:")
    assert context.count("Q: ") == 7
    found = item.score(answers(-2.0, -1.0, -9.0, -1.5, -3.0))
    weights = [math.exp(logprob) for logprob in (-2.0, -1.0, -9.0, -1.5, -3.0)]
    chance = 1 / 3  # of the best answer beside two that are not true
    assert found == pytest.approx({"mc1": 0.0, "mc2": sum(weights[:3]) / sum(weights), "chance": chance})
    assert truth_scores(answers(-1.0, -9.0, -2.0), num_true=2)["mc1"] == 1.0
    assert truth_scores(answers(-2.0, -1.0, -3.0), num_true=2)["mc1"] == 1.0  # another true one may be likelier


def test_sums_and_the_form_of_text(tmp_path: Path) -> None:
    (item,) = PROTOCOLS["gsm8k"].read(
        written(tmp_path / "rows.jsonl", [{"question": "6 x 3?", "answer": "So.\n#### 18"}])
    )
    assert isinstance(item.asked[0], Prompt)
    said = [Said("It is 18.", ended=True), Said("18 - 1 = 17", ended=False)]
    assert item.score(said) == {"right": 0.5, "cut_off": 0.5}
    (form,) = PROTOCOLS["form"].read(written(tmp_path / "prompts.jsonl", [{"prompt": "Tea?"}]))
    found = form.score([Said("one two three one two three.", ended=True), Said("one two", ended=False)])
    assert found["mean_words"] == 4
    assert found["repeated_3"] == pytest.approx(0.125)  # one of four runs, and none
    assert found["finished"] == 0.5
    assert found["said_once"] == pytest.approx(2 / 3)  # "two three" and "three one"; "one two" is said by both


def test_who_is_unsure_where_nobody_can_know_and_where_one_can(tmp_path: Path) -> None:
    rows = [
        {"question": "Who sang it?", "answer": ["The Beatles"], "answerable": True},
        {"question": "Where does time go?", "answer": None, "answerable": False},
    ]
    known, unknown = PROTOCOLS["abstention"].read(written(tmp_path / "rows.jsonl", rows))
    said = [Said("I don't know.", ended=True), Said("I am not sure, but it was Beatles.", ended=True)]
    assert known.score(said) == {
        "with": 1,
        "without": 0,
        "unsure_with": 0.5,
        "unsure_without": 0,
        "right": 0.5,
        "made_up": 0,
    }
    assert unknown.score([said[0], Said("To France.", ended=True)]) == {
        "with": 0, "without": 1, "unsure_with": 0, "unsure_without": 0.5, "right": 0, "made_up": 0.5,
    }  # fmt: skip
    with pytest.raises(DataError, match="it is answerable and holds no answer"):
        PROTOCOLS["abstention"].read(written(tmp_path / "rows.jsonl", [rows[0] | {"answer": []}]))
