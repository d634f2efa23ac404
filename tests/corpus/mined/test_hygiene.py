"""Planted poor demonstrations are found and good ones stay, whatever each rule is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from palate.cli import main
from palate.corpus import read_demonstrations
from palate.corpus.mined.hygiene import DUPLICATE, FLIPPED, REFUSAL, TRUNCATED, clean_demonstrations, cut_off
from palate.corpus.mined.mining_report import Mining
from palate.recipe import Data, Hygiene
from palate.records import Demonstration, Prompt, Response

PROSE = (
    "The baker counted her loaves before dawn, put the darkest ones aside for the children of the street, and opened "
    "the shutters while the first of the fishermen came home from the sea with wet boots."
)
GOOD = [
    ("What is the capital of Peru?", "Lima"),
    (
        "Name three fruits.",
        "- a yellow banana from the garden\n- pears\n- one of the apples that grow beside the house",
    ),
    ("Tell me of bakers.", PROSE),
    ("Add a line to it.", PROSE + " She sang\u2026"),
    ("Write code.", "It is this:\n```\nprint(1)\n```"),
    ("Write a letter.", PROSE + " Yours sincerely, Ann of the Mill"),
    ("May I be sorry?", "Sorry, I forgot: there is a play in which a man cannot help himself."),
    ("Who are you?", "People call it artificial intelligence, and an AI can err."),
    ("Tell me of users.", "A user: somebody who uses something."),
    ("Sure, why not?", "Because of the rain."),
    ("Sum it up.", "The table is below.\n| a | b |\n| the first of them all and | the second of them all and |"),
]
POOR = {
    REFUSAL: [
        ("Weather?", "I'm sorry, but I cannot assist with that."),
        ("Weather in Rome?", "As an AI language model, I don't have access to it."),
        ("Weather in Paris?", "I\u2019m just an AI and do not have eyes."),
        ("Draw a cat.", "Unfortunately, I am unable to create pictures."),
        ("Draw a dog.", "It would be against my programming to do so."),
    ],
    FLIPPED: [
        ("Sure, here is your poem about the sea.", "Thanks, that is nice."),
        ("Assistant: How was your day?", "It was good."),
        ("How can I help you today?", "I want to cancel my order."),
        ("Go on.", "Yes.\nUser: and what then?\nIt ended."),
    ],
    TRUNCATED: [
        ("Tell me of fishermen.", PROSE[:-1]),
        ("Tell me of the sea.", "The sea is wide and blue and there are ships of"),
        ("Tell me of ships.", "There are some that sail, some that row, and,"),
        ("More code.", "It is this:\n```\nprint(2)\n"),
    ],
    DUPLICATE: [("what is the capital  of Peru?", "LIMA"), ("Tell me of bakers.", PROSE)],
}


def cleaned(rows: list[tuple[str, str]], **settings: Any) -> tuple[list[tuple[str, str]], Mining]:
    report = Mining(title="", out=Path("out"), directory=Path())
    items = [
        (f"f:{line}", Demonstration(prompt=Prompt.from_text(prompt), response=Response(text=text)))
        for line, (prompt, text) in enumerate(rows, 1)
    ]
    kept = clean_demonstrations(items, Hygiene(**settings), report)
    return [(each.prompt.text, each.response.text) for each in kept], report


def test_what_was_planted_is_found_by_its_name_and_nothing_else() -> None:
    """Precision and recall are 1 of 15 planted ones and 11 good ones made for these rules."""
    rows = GOOD + [row for rows in POOR.values() for row in rows]
    kept, report = cleaned(rows)
    assert kept == GOOD
    assert report.left_out == {("demonstrations", reason): len(rows) for reason, rows in POOR.items()}
    found = {reason: [each.place for each in examples] for (_, reason), examples in report.examples.items()}
    assert found[DUPLICATE] == ["f:25", "f:26"]
    assert [each.about for each in report.examples["demonstrations", DUPLICATE]] == ["as f:1", "as f:3"]


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("drop_refusals", REFUSAL),
        ("drop_flipped", FLIPPED),
        ("drop_truncated", TRUNCATED),
        ("drop_duplicates", DUPLICATE),
    ],
)
def test_each_rule_can_be_turned_off(key: str, reason: str) -> None:
    kept, _ = cleaned(GOOD + POOR[reason], **{key: False})
    assert kept == GOOD + POOR[reason]


def test_prose_has_to_be_as_long_as_is_said() -> None:
    text = "one two three four five six seven eight nine ten"
    assert cut_off(text, 10)
    assert not cut_off(text, 11)


def test_refusals_are_those_of_the_users_list(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("# of ours\n\n^yes\\b\n")
    kept, report = cleaned(
        [("p", "Yes, of course."), ("q", "I'm sorry, but I cannot assist.")], patterns=str(tmp_path / "mine.txt")
    )
    assert kept == [("q", "I'm sorry, but I cannot assist.")]
    assert report.examples["demonstrations", REFUSAL][0].about == "Yes"


def test_the_command_shows_examples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = GOOD + [row for rows in POOR.values() for row in rows]
    Path("d.jsonl").write_text("".join(json.dumps({"prompt": p, "completion": r}) + "\n" for p, r in rows))
    assert main(["data", "mine", "hygiene", "d.jsonl", "--out", "clean.jsonl"]) == 0
    said = capsys.readouterr().out
    assert "made       11 clean demonstrations" in said
    assert "left out 5 demonstrations: a canned refusal (d.jsonl:12)" in said
    page = Path("clean-report/report.html").read_text()
    assert "As an AI language model, I don" in page
    assert "Assistant:" in page
    assert len(read_demonstrations(Data(path="clean.jsonl")).records) == 11


@pytest.mark.parametrize(
    ("text", "said"), [("(", "mine.txt:2: no regular expression"), ("", "mine.txt: no line in it says anything")]
)
def test_a_bad_list_says_where(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("d.jsonl").write_text('{"prompt": "p", "completion": "r"}\n')
    Path("mine.txt").write_text(f"# mine\n{text}\n")
    assert main(["data", "mine", "hygiene", "d.jsonl", "--out", "o.jsonl", "--set", "patterns=mine.txt"]) == 2
    assert said in capsys.readouterr().err
