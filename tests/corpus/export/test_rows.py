"""Every format's rows, written out by hand, with the field names of the real data sets."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from palate.corpus.export import EXPORTERS, export_records
from palate.corpus.export.table import DETAILS
from palate.errors import DataError
from palate.records import Demonstration, Message, Prompt, Provenance, Ranking, Record, Response

FRUIT = Prompt.from_text("Name a fruit.")
CHAT = Prompt(
    messages=tuple(
        Message(role=role, content=text)
        for role, text in (("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "A fruit?"))
    )
)
SYSTEM, HI, HELLO, ASKED = ({"role": turn.role, "content": turn.content} for turn in CHAT.messages)
USER = {"role": "user", "content": "Name a fruit."}
PEAR, BRICK = ({"role": "assistant", "content": text} for text in ("A pear.", "A brick."))


def ranked(prompt: Prompt, ranks: tuple[int, ...], *texts: str, **rest: Any) -> Ranking:
    """By models m1, m2, ..."""
    responses = tuple(
        Response(text=text, provenance=Provenance(model=f"m{place}")) for place, text in enumerate(texts, 1)
    )
    return Ranking(prompt=prompt, responses=responses, ranks=ranks, labeler="ann", **rest)


PAIR = ranked(FRUIT, (2, 1), "A brick.", "A pear.", strength=2, ratings=(2, 6))
TALK = ranked(CHAT, (2, 1), "A brick.", "A pear.")
THREE = ranked(FRUIT, (3, 1, 1), "A brick.", "A pear.", "A fig.", ratings=(1, 7, 7), seconds=9.5)
TIE = ranked(FRUIT, (1, 1), "A fig.", "A pear.")
CUT_OFF = Ranking(
    prompt=FRUIT,
    responses=(Response(text="A pear, which", provenance=Provenance(model="m1", ended=False)),),
    ranks=(1,),
    ratings=(7,),
)
SHOWN = Demonstration(prompt=FRUIT, response=Response(text="A pear."), author="ann")
TOLD = Demonstration(prompt=CHAT, response=Response(text="A pear."))
POST = Prompt.from_text("SUBREDDIT: r/food\n\nTITLE: Lunch\n\nPOST: I ate a pear.\n\nTL;DR:")
NOT_RATED = {name: {"Rating": "N/A"} for name in ("helpfulness", "honesty", "instruction_following", "truthfulness")}
RATED = {"correctness": None, "coherence": None, "complexity": None, "verbosity": None}

ROWS: list[tuple[str, Record, list[dict[str, Any]]]] = [
    ("palate", SHOWN, [json.loads(SHOWN.to_json())]),
    ("trl-explicit", PAIR, [{"prompt": "Name a fruit.", "chosen": "A pear.", "rejected": "A brick.", "margin": 2.0}]),
    ("trl-conversational", TALK, [{"prompt": [SYSTEM, HI, HELLO, ASKED], "chosen": [PEAR], "rejected": [BRICK]}]),
    ("trl-implicit", PAIR, [{"chosen": [USER, PEAR], "rejected": [USER, BRICK], "margin": 2.0}]),
    (
        "trl-implicit-text",
        ranked(FRUIT, (1, 2), "Pear.", "Brick."),
        [{"chosen": "Name a fruit.\n\nPear.", "rejected": "Name a fruit.\n\nBrick."}],
    ),
    (
        "trl-kto",
        PAIR,
        [
            {"prompt": [USER], "completion": [BRICK], "label": False},
            {"prompt": [USER], "completion": [PEAR], "label": True},
        ],
    ),
    (
        "trl-kto-text",
        PAIR,
        [
            {"prompt": "Name a fruit.", "completion": "A brick.", "label": False},
            {"prompt": "Name a fruit.", "completion": "A pear.", "label": True},
        ],
    ),
    ("trl-prompt-completion", TOLD, [{"prompt": [SYSTEM, HI, HELLO, ASKED], "completion": [PEAR]}]),
    ("trl-prompt-completion-text", SHOWN, [{"prompt": "Name a fruit.", "completion": "A pear."}]),
    ("messages", TOLD, [{"messages": [SYSTEM, HI, {**HELLO, "weight": 0}, ASKED, PEAR]}]),
    ("messages", FRUIT, [{"messages": [USER]}]),
    (
        "sharegpt",
        TOLD,
        [
            {
                "conversations": [
                    {"from": "system", "value": "Be brief."},
                    {"from": "human", "value": "Hi"},
                    {"from": "gpt", "value": "Hello", "weight": 0},
                    {"from": "human", "value": "A fruit?"},
                    {"from": "gpt", "value": "A pear."},
                ]
            }
        ],
    ),
    (
        "alpaca",
        TOLD,
        [
            {
                "instruction": "A fruit?",
                "input": "",
                "output": "A pear.",
                "system": "Be brief.",
                "history": [["Hi", "Hello"]],
            }
        ],
    ),
    (
        "hh",
        PAIR,
        [
            {
                "chosen": "\n\nHuman: Name a fruit.\n\nAssistant: A pear.",
                "rejected": "\n\nHuman: Name a fruit.\n\nAssistant: A brick.",
            }
        ],
    ),
    (
        "rankings",
        THREE,
        [
            {
                "prompt": [USER],
                "responses": ["A brick.", "A pear.", "A fig."],
                "ranks": [3, 1, 1],
                "ratings": [1.0, 7.0, 7.0],
                "labeler": "ann",
                "source": "human",
            }
        ],
    ),
    (
        "ultrafeedback",
        THREE,
        [
            {
                "instruction": "Name a fruit.",
                "completions": [
                    {"response": "A brick.", "model": "m1", "annotations": NOT_RATED, "overall_score": 1.0},
                    {"response": "A pear.", "model": "m2", "annotations": NOT_RATED, "overall_score": 10.0},
                    {"response": "A fig.", "model": "m3", "annotations": NOT_RATED, "overall_score": 10.0},
                ],
            }
        ],
    ),
    (
        "ultrafeedback-binarized",
        PAIR,
        [
            {
                "prompt": "Name a fruit.",
                "chosen": [USER, PEAR],
                "rejected": [USER, BRICK],
                "score_chosen": 8.5,
                "score_rejected": 2.5,
            }
        ],
    ),
    (
        "helpsteer2",
        THREE,
        [
            {"prompt": "Name a fruit.", "response": "A brick.", "helpfulness": 0.0, **RATED},
            {"prompt": "Name a fruit.", "response": "A pear.", "helpfulness": 4.0, **RATED},
            {"prompt": "Name a fruit.", "response": "A fig.", "helpfulness": 4.0, **RATED},
        ],
    ),
    (
        "helpsteer2-preference",
        PAIR,
        [{"prompt": "Name a fruit.", "response_1": "A brick.", "response_2": "A pear.", "preference_strength": 2}],
    ),
    (
        "helpsteer2-preference",
        TIE,
        [{"prompt": "Name a fruit.", "response_1": "A fig.", "response_2": "A pear.", "preference_strength": 0}],
    ),
    (
        "shp",
        PAIR,
        [
            {
                "history": "Name a fruit.",
                "human_ref_A": "A brick.",
                "human_ref_B": "A pear.",
                "labels": 0,
                "score_A": None,
                "score_B": None,
            }
        ],
    ),
    (
        "webgpt",
        PAIR,
        [
            {
                "question": {"dataset": "palate", "id": FRUIT.id, "full_text": "Name a fruit."},
                "answer_0": "A brick.",
                "answer_1": "A pear.",
                "score_0": -1.0,
                "score_1": 1.0,
            }
        ],
    ),
    (
        "stiennon",
        PAIR,
        [
            {
                "info": {"post": "Name a fruit."},
                "summaries": [
                    {"text": "A brick.", "policy": "m1", "note": ""},
                    {"text": "A pear.", "policy": "m2", "note": ""},
                ],
                "choice": 1,
                "worker": "ann",
                "extra": {"confidence": None},
            }
        ],
    ),
    (
        "stiennon",
        ranked(POST, (1, 2), "Fruit.", "A."),
        [
            {
                "info": {"subreddit": "food", "title": "Lunch", "post": "I ate a pear."},
                "summaries": [
                    {"text": "Fruit.", "policy": "m1", "note": ""},
                    {"text": "A.", "policy": "m2", "note": ""},
                ],
                "choice": 0,
                "worker": "ann",
                "extra": {"confidence": None},
            }
        ],
    ),
    (
        "arena",
        TALK,
        [
            {
                "model_a": "m1",
                "model_b": "m2",
                "winner": "model_b",
                "judge": "ann",
                "conversation_a": [SYSTEM, HI, HELLO, ASKED, BRICK],
                "conversation_b": [SYSTEM, HI, HELLO, ASKED, PEAR],
            }
        ],
    ),
    (
        "argilla",
        THREE,
        [
            {
                "external_id": THREE.id,
                "fields": {
                    "prompt": [USER],
                    "response-1": "A brick.",
                    "response-2": "A pear.",
                    "response-3": "A fig.",
                },
                "metadata": {},
                "responses": [
                    {
                        "user_id": "ann",
                        "status": "submitted",
                        "values": {
                            "ranking": {
                                "value": [
                                    {"value": "response-1", "rank": 2},
                                    {"value": "response-2", "rank": 1},
                                    {"value": "response-3", "rank": 1},
                                ]
                            }
                        },
                    }
                ],
            }
        ],
    ),
    (
        "label-studio",
        THREE,
        [
            {
                "data": {
                    "prompt": [USER],
                    "items": [
                        {"id": "response-1", "title": "Response 1", "body": "A brick."},
                        {"id": "response-2", "title": "Response 2", "body": "A pear."},
                        {"id": "response-3", "title": "Response 3", "body": "A fig."},
                    ],
                },
                "annotations": [
                    {
                        "completed_by": {"email": "ann"},
                        "lead_time": 9.5,
                        "was_cancelled": False,
                        "result": [
                            {
                                "from_name": "rank",
                                "to_name": "responses",
                                "type": "ranker",
                                "value": {
                                    "ranker": {
                                        "_": [],
                                        "rank-1": ["response-2", "response-3"],
                                        "rank-2": ["response-1"],
                                    }
                                },
                            }
                        ],
                    }
                ],
            }
        ],
    ),
]


def exported(format: str, *records: Record) -> tuple[list[dict[str, Any]], dict[str, int], dict[str, int]]:
    """Rows, what was refused, what was noted."""
    stream = io.StringIO()
    report = export_records(records, format=format, out=stream)
    rows = [json.loads(line) for line in stream.getvalue().splitlines()]
    return rows, dict(report.rejections.unusable), dict(report.notes)


@pytest.mark.parametrize(("format", "record", "rows"), ROWS, ids=[f"{i}-{case[0]}" for i, case in enumerate(ROWS)])
def test_rows(format: str, record: Record, rows: list[dict[str, Any]]) -> None:
    assert exported(format, record)[:2] == (rows, {})


def test_every_format_has_a_row() -> None:
    assert {case[0] for case in ROWS} | {"oasst", "csv"} == set(EXPORTERS)


def test_the_guide_has_every_format_and_how_it_is_read() -> None:
    guide = Path(__file__).parents[3] / "docs" / "guides" / "export.md"
    rows = re.findall(r"^\| `([\w-]+)` \| `([\w-]+)` \|", guide.read_text(encoding="utf-8"), flags=re.M)
    assert set(rows) == {(target.name, target.read_as) for target in EXPORTERS.values()}


def test_oasst_is_the_dialogue_and_the_answers_below_it() -> None:
    prompt = Prompt(messages=CHAT.messages[1:])
    flags = (("spam", "violent"), ())
    (rows, refused, _) = exported("oasst", ranked(prompt, (2, 1), "A brick.", "A pear.", ratings=(1, 4), flags=flags))
    assert refused == {}
    ids = [row["message_id"] for row in rows]
    assert len(set(ids)) == 5
    assert {row["message_tree_id"] for row in rows} == {ids[0]}
    assert {row["tree_state"] for row in rows} == {"ready_for_export"}
    assert [row["parent_id"] for row in rows] == [None, ids[0], ids[1], ids[2], ids[2]]
    assert [(row["role"], row["text"], row["rank"]) for row in rows] == [
        ("prompter", "Hi", None),
        ("assistant", "Hello", None),
        ("prompter", "A fruit?", None),
        ("assistant", "A brick.", 1),
        ("assistant", "A pear.", 0),
    ]
    assert [(row["synthetic"], row["model_name"]) for row in rows[2:]] == [(False, None), (True, "m1"), (True, "m2")]
    assert [row["labels"] for row in rows[2:]] == [
        {"name": [], "value": [], "count": []},
        {"name": ["quality", "spam", "violent"], "value": [0.0, 1.0, 1.0], "count": [1, 1, 1]},
        {"name": ["quality"], "value": [0.5], "count": [1]},
    ]
    assert exported("oasst", SHOWN)[0][1]["user_id"] == "ann"


CONTRADICTORY = ranked(FRUIT, (1, 2), "A pear.", "A brick.", ratings=(5, 5))
UNSAID: list[tuple[str, Record, str]] = [
    ("trl-explicit", THREE.model_copy(update={"ranks": (1, 1, 1)}), "a tie: the format has none"),
    ("trl-explicit", ranked(FRUIT, (1,), "A pear."), "a single response: no pair in it"),
    ("trl-explicit", ranked(FRUIT, (1, 2), "A pear.", " "), "an empty response"),
    ("trl-explicit", ranked(FRUIT, (1, 2), "A pear.", "A pear."), "two identical responses"),
    ("trl-explicit", ranked(Prompt.from_text(" "), (1, 2), "a", "b"), "a prompt with an empty turn"),
    ("trl-explicit", TALK, "a prompt of several turns: the format has a single text for it"),
    (
        "trl-conversational",
        ranked(Prompt(messages=CHAT.messages[:1]), (1, 2), "a", "b"),
        "a prompt that ends with a system turn, which TRL does not answer",
    ),
    (
        "trl-implicit-text",
        PAIR,
        "texts that do not show where the prompt ends, such as responses that begin alike",
    ),
    ("trl-kto", TIE, "neither good nor bad: no thumb"),
    ("trl-kto", CUT_OFF, "a response that was cut off, which the format cannot say"),
    ("palate", ranked(FRUIT, (1, 2), "A pear.", "A pear."), "two identical responses"),
    ("rankings", ranked(FRUIT, (1, 2), "A pear.", ""), "an empty response"),
    ("messages", Demonstration(prompt=FRUIT, response=Response(text="")), "an empty response"),
    ("sharegpt", FRUIT, "the format has no place for prompts"),
    ("ultrafeedback", TIE, "no ratings: the format has scores and no ranks"),
    ("ultrafeedback", CONTRADICTORY, "ratings that do not give its ranks: the format has scores and no ranks"),
    ("helpsteer2", CONTRADICTORY, "ratings that do not give its ranks: the format has scores and no ranks"),
    ("shp", TIE, "a tie: the format has none"),
    ("stiennon", TIE, "a tie: the format has none"),
    ("oasst", TALK, "turns that do not alternate between user and assistant"),
    (
        "oasst",
        Demonstration(prompt=Prompt(messages=CHAT.messages[1:]), response=SHOWN.response),
        "an earlier turn of the assistant's: the format would take it for a demonstration",
    ),
]


@pytest.mark.parametrize(("format", "record", "reason"), UNSAID)
def test_what_a_format_cannot_say_is_refused(format: str, record: Record, reason: str) -> None:
    with pytest.raises(DataError, match=f"nothing in it can be written as {format}") as error:
        exported(format, record)
    assert f": {reason} (record:1" in str(error.value)


def plain(ranks: tuple[int, int], strength: float | None) -> Ranking:
    return Ranking(prompt=FRUIT, responses=(Response(text="a"), Response(text="b")), ranks=ranks, strength=strength)


@pytest.mark.parametrize(
    ("format", "strength", "said", "note"),
    [
        ("helpsteer2-preference", 3.0, -3, None),
        ("helpsteer2-preference", None, -2, "no strength given: written as 2, better"),
        ("helpsteer2-preference", 0.0, -2, "no strength given: written as 2, better"),
        ("helpsteer2-preference", 9.0, -3, "a strength other than 1, 2, 3: written as the nearest of them"),
        ("helpsteer2-preference", 0.2, -1, "a strength other than 1, 2, 3: written as the nearest of them"),
        ("webgpt", 1.5, 0.75, None),
        ("webgpt", None, 0.5, "no strength given: written as a difference of 1"),
        ("webgpt", 3.0, 1.0, "a strength of more than 2: written as a difference of 2, the most there is"),
    ],
)
def test_a_strength_that_a_scale_does_not_have_is_noted(
    format: str, strength: float | None, said: float, note: str | None
) -> None:
    number = "score_0" if format == "webgpt" else "preference_strength"
    ((row,), _, notes) = exported(format, plain((1, 2), strength))
    assert row[number] == said
    assert notes == ({note: 1} if note else {})
    ((row,), _, _) = exported(format, plain((2, 1), strength))
    assert row[number] == -said


def test_margins_are_in_every_row_or_in_none() -> None:
    """TRL's reward trainer makes a tensor of them."""
    with_one, without = plain((1, 2), 2.0), plain((2, 1), None)
    rows, _, notes = exported("trl-explicit", with_one, without, with_one)
    assert [row["margin"] for row in rows] == [2.0, 0.0, 2.0]
    assert notes == {"no strength given: margin 0, since the file's first pair has one": 1}
    rows, _, notes = exported("trl-implicit", without, with_one, without)
    assert not any("margin" in row for row in rows)
    assert notes == {"strength left out, since the file's first pair has none": 1}


def test_the_best_of_an_unrated_ranking_is_a_thumb_up_and_the_worst_a_thumb_down() -> None:
    """Ties at either end are all of it; what lies between is counted, and so is a ranking that prefers nothing."""
    five = ranked(FRUIT, (2, 3, 1, 1, 4), "second", "third", "best", "as good", "worst")
    tied_below = ranked(FRUIT, (2, 1, 2), "bad", "good", "as bad")
    rows, refused, notes = exported("trl-kto-text", five, tied_below, ranked(FRUIT, (1, 1, 1), "a", "b", "c"))
    said = [(row["completion"], row["label"]) for row in rows]
    assert said[:3] == [("best", True), ("as good", True), ("worst", False)]
    assert said[3:] == [("bad", False), ("good", True), ("as bad", False)]
    assert refused == {
        "between the best and the worst of a ranking: no thumb": 2,
        "neither good nor bad: no thumb": 3,
    }
    assert notes["no ratings: the best of a ranking is a thumb up, the worst a thumb down"] == 6


def test_an_unrated_pair_is_a_thumb_up_and_a_thumb_down() -> None:
    rated = ranked(FRUIT, (1, 2, 3), "a", "b", "c", ratings=(6, 4, 1))
    rows, refused, notes = exported("trl-kto-text", plain((2, 1), None), rated)
    assert [(row["completion"], row["label"]) for row in rows] == [("a", False), ("b", True), ("a", True), ("c", False)]
    assert refused == {"neither good nor bad: no thumb": 1}
    assert notes["no ratings: the best of a ranking is a thumb up, the worst a thumb down"] == 2
    assert notes["a rating other than 1 and 7: written as a thumb"] == 1


def test_judgements_of_one_prompt_do_not_run_together() -> None:
    """Rows of a prompt that stand together are one judgement when they are read, until a response comes again."""

    def rated(texts: str, *ratings: int) -> Ranking:
        order = sorted(set(ratings), reverse=True)
        ranks = tuple(order.index(rating) + 1 for rating in ratings)
        return Ranking(prompt=FRUIT, responses=tuple(Response(text=t) for t in texts), ranks=ranks, ratings=ratings)

    items = [rated("ab", 7, 1), rated("cb", 4, 1), rated("de", 1, 7), rated("bc", 7, 1)]
    rows, refused, _ = exported("helpsteer2", *items)
    assert [(row["response"], row["helpfulness"]) for row in rows] == [
        ("a", 4.0),
        ("b", 0.0),
        ("b", 0.0),
        ("c", 2.0),
        ("b", 4.0),
        ("c", 0.0),
    ]
    assert refused == {"other responses to the prompt of the ranking before: the format would take both for one": 1}


FULL = Ranking(
    prompt=Prompt(
        messages=tuple(turn.model_copy(update={"name": "zoe"}) for turn in FRUIT.messages), tags={"topic": "food"}
    ),
    responses=(Response(text="a", provenance=Provenance(model="m1", seed=3)), Response(text="b")),
    ranks=(1, 2),
    ratings=(7, 1),
    flags=(("spam",), ()),
    strength=2,
    labeler="ann",
    shown_order=(1, 0),
    guideline_version="2",
    seconds=3.0,
    source="simulated",
)


@pytest.mark.parametrize(
    "format",
    [name for name in EXPORTERS if "completion" not in name and name not in ("messages", "sharegpt", "alpaca", "csv")],
)
def test_details_that_a_format_has_no_place_for_are_noted(format: str) -> None:
    rows, refused, notes = exported(format, FULL)
    assert rows
    assert refused == {}
    missing = set(DETAILS) - EXPORTERS[format].keeps - {"author"}
    assert {note.removesuffix(" left out") for note in notes if note.endswith(" left out")} == missing
    text = json.dumps(rows)
    marks = {"labeler": '"ann"', "model": '"m1"', "flags": '"spam"', "tags": '"food"', "source": '"simulated"'}
    assert {name for name, mark in marks.items() if mark in text} == set(marks) - missing


def test_a_model_is_all_that_is_known_of_some_responses() -> None:
    assert exported("arena", TALK)[2] == {}
    assert exported("shp", PAIR)[2] == {
        "model left out": 1,
        "labeler left out": 1,
        "strength left out": 1,
        "ratings left out": 1,
    }


def test_a_demonstration_loses_its_author_where_nobody_is_named() -> None:
    assert exported("alpaca", SHOWN)[2] == {"author left out": 1}
    assert exported("oasst", SHOWN)[2] == {}
