"""Every format: a row of its shape is recognised and gives exactly these records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from palate.corpus.accounting.account import Account
from palate.corpus.catalogue.all_formats import FORMATS
from palate.corpus.catalogue.format import Item
from palate.corpus.reading import iterate
from palate.corpus.rows.rejections import Rejections
from palate.errors import DataError
from palate.records import Demonstration, Message, Prompt, Provenance, Ranking, Response, Role

Write = Callable[..., Path]
USER = {"role": "user", "content": "Name a fruit."}
GOOD = {"role": "assistant", "content": "A pear."}
BAD = {"role": "assistant", "content": "A brick."}
SYSTEM = {"role": "system", "content": "Be brief."}
HUMAN, GPT = {"from": "human", "value": "Name a fruit."}, {"from": "gpt", "value": "A pear."}
FRUIT = Prompt.from_text("Name a fruit.")


def prompt(*turns: str, system: str = "") -> Prompt:
    roles: tuple[Role, Role] = ("user", "assistant")
    head = (Message(role="system", content=system),) if system else ()
    return Prompt(messages=(*head, *(Message(role=roles[i % 2], content=turn) for i, turn in enumerate(turns))))


def context(prompt: Prompt) -> Prompt:
    """The prompt with the assistant's turns as context: each has a demonstration of its own, or is not learned."""
    turns = (turn.model_copy(update={"learn": turn.role != "assistant"}) for turn in prompt.messages)
    return prompt.model_copy(update={"messages": tuple(turns)})


def shown(prompt: Prompt, response: str) -> Demonstration:
    return Demonstration(prompt=context(prompt), response=Response(text=response))


def ranked(prompt: Prompt, *responses: str, ranks: tuple[int, ...] = (1, 2), **rest: Any) -> Ranking:
    return Ranking(prompt=prompt, responses=tuple(Response(text=text) for text in responses), ranks=ranks, **rest)


def by_models(ranking: Ranking, *models: str) -> Ranking:
    responses = tuple(
        Response(text=response.text, provenance=Provenance(model=model))
        for response, model in zip(ranking.responses, models, strict=True)
    )
    return ranking.model_copy(update={"responses": responses})


PEAR = shown(FRUIT, "A pear.")


def waiting(*turns: str) -> Prompt:
    """A conversation that waits for an answer; what the assistant said is context."""
    messages = [m.model_copy(update={"learn": m.role != "assistant"}) for m in prompt(*turns).messages]
    return Prompt(messages=tuple(messages))


PAIR = ranked(FRUIT, "A pear.", "A brick.")
UP, DOWN = (ranked(FRUIT, "A pear.", ranks=(1,), ratings=(rating,)) for rating in (7.0, 1.0))
HH = "\n\nHuman: Name a fruit.\n\nAssistant: A pear.\n\nHuman: Another!\n\nAssistant: "

CASES: list[tuple[str, dict[str, Any], list[Item]]] = [
    ("palate", PEAR.model_dump(), [PEAR]),
    ("palate", PAIR.model_dump(mode="json"), [PAIR]),
    ("palate", {"messages": [USER], "tags": {"topic": "food"}}, [FRUIT.model_copy(update={"tags": {"topic": "food"}})]),
    ("messages", {"messages": [USER, GOOD]}, [PEAR]),
    (
        "messages",
        {"messages": [{"role": "System", "content": " "}, USER, GOOD], "prompt_id": 3, "prompt": "Name a fruit."},
        [PEAR],
    ),
    (
        "messages",
        {"messages": [{"role": "system", "content": "Be brief."}, USER, GOOD, USER, GOOD, {**USER, "id": 7}]},
        [
            shown(prompt("Name a fruit.", system="Be brief."), "A pear."),
            shown(prompt("Name a fruit.", "A pear.", "Name a fruit.", system="Be brief."), "A pear."),
            context(
                prompt("Name a fruit.", "A pear.", "Name a fruit.", "A pear.", "Name a fruit.", system="Be brief.")
            ),
        ],
    ),
    (
        "messages",
        {"messages": [USER, {**BAD, "weight": 0}, USER, {**GOOD, "weight": 1}]},
        [shown(prompt("Name a fruit.", "A brick.", "Name a fruit."), "A pear.")],
    ),
    ("prompt-response", {"prompt": "Name a fruit.", "response": "A pear."}, [PEAR]),
    ("prompt-response", {"prompt": [USER], "completion": [GOOD], "flavour": "sweet"}, [PEAR]),
    ("prompt-response", {"question": "Name a fruit.", "answer": "A pear."}, [PEAR]),
    ("prompt-response", {"system_prompt": "", "question": "Name a fruit.", "response": "A pear."}, [PEAR]),
    ("prompt-response", {"input": "Name a fruit.", "output": "A pear."}, [PEAR]),
    ("prompt-response", {"instruction": "Name a fruit.", "response": "A pear.", "category": "food"}, [PEAR]),
    ("alpaca", {"instruction": "Name a fruit.", "input": "", "output": "A pear.", "text": "whole"}, [PEAR]),
    ("alpaca", {"instruction": "Name a fruit.", "output": "A pear."}, [PEAR]),
    (
        "alpaca",
        {"instruction": "Translate.", "input": "pomme", "response": "apple"},
        [shown(prompt("Translate.\n\npomme"), "apple")],
    ),
    (
        "alpaca",
        {"instruction": "b", "input": None, "output": "c", "system": "s", "history": [["q", "a"]]},
        [Demonstration(prompt=prompt("q", "a", "b", system="s"), response=Response(text="c"))],
    ),
    (
        "dolly",
        {"instruction": "Which?", "context": "Pears are fruit.", "response": "A pear.", "category": "qa"},
        [shown(prompt("Which?\n\nPears are fruit."), "A pear.")],
    ),
    (
        "self-instruct",
        {
            "id": "seed_0",
            "instruction": "Add.",
            "instances": [{"input": "1 1", "output": "2"}, {"input": "", "output": "?"}],
        },
        [shown(prompt("Add.\n\n1 1"), "2"), shown(prompt("Add."), "?")],
    ),
    ("sharegpt", {"id": "x", "conversations": [HUMAN, GPT]}, [PEAR]),
    (
        "sharegpt",
        {"conversations": [HUMAN, GPT, HUMAN]},
        [PEAR, waiting("Name a fruit.", "A pear.", "Name a fruit.")],
    ),
    (
        "sharegpt",
        {"conversations": [HUMAN, GPT], "system": "Be brief."},
        [shown(prompt("Name a fruit.", system="Be brief."), "A pear.")],
    ),
    (
        "sharegpt",
        {"conversations": [HUMAN, {**GPT, "weight": 0}, HUMAN, GPT]},
        [shown(prompt("Name a fruit.", "A pear.", "Name a fruit."), "A pear.")],
    ),
    (
        "hh",
        {"chosen": HH + "A plum.", "rejected": HH + " A wall.\n"},
        [ranked(prompt("Name a fruit.", "A pear.", "Another!"), "A plum.", "A wall.")],
    ),
    ("trl-explicit", {"prompt": "Name a fruit.", "chosen": "A pear.", "rejected": "A brick."}, [PAIR]),
    (
        "trl-explicit",
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD], "margin": 2},
        [PAIR.model_copy(update={"strength": 2.0})],
    ),
    (
        "trl-explicit",
        {
            "prompt": "Name a fruit.",
            "chosen": [USER, GOOD],
            "rejected": [USER, BAD],
            "score_chosen": 8,
            "score_rejected": 6,
        },
        [PAIR.model_copy(update={"strength": 2.0})],
    ),
    ("trl-implicit", {"chosen": [USER, GOOD], "rejected": [USER, BAD]}, [PAIR]),
    (
        "trl-implicit",
        {"chosen": "The sky is blue.", "rejected": "The sky is blond.", "margin": 0.5},
        [ranked(prompt("The sky is"), "blue.", "blond.", strength=0.5)],
    ),
    ("trl-kto", {"prompt": "Name a fruit.", "completion": "A pear.", "label": True}, [UP]),
    ("trl-kto", {"prompt": [USER], "completion": [GOOD], "label": False}, [DOWN]),
    (
        "llama-factory",
        {"conversations": [HUMAN], "chosen": GPT, "rejected": {"from": "gpt", "value": "A brick."}},
        [PAIR],
    ),
    ("llama-factory", {"messages": [USER, GOOD], "label": True}, [UP]),
    ("llama-factory", {"instruction": "Name a fruit.", "input": "", "output": "A pear.", "kto_tag": False}, [DOWN]),
    ("llama-factory", {"instruction": "Name a fruit.", "output": "A pear.", "label": "good"}, [UP]),
    ("trl-kto", {"prompt": "Name a fruit.", "completion": "A pear.", "label": "undesirable"}, [DOWN]),
    ("ms-swift", {"messages": [USER, GOOD], "rejected_response": "A brick."}, [PAIR]),
    ("ms-swift", {"messages": [USER, GOOD], "rejected_messages": [USER, BAD]}, [PAIR]),
    ("trl-explicit", {"question": "Name a fruit.", "chosen": "A pear.", "rejected": "A brick."}, [PAIR]),
    (
        "trl-explicit",
        {"prompt": "Name a fruit.", "chosen": [SYSTEM, USER, GOOD], "rejected": [SYSTEM, USER, BAD]},
        [ranked(prompt("Name a fruit.", system="Be brief."), "A pear.", "A brick.")],
    ),
    (
        "trl-explicit",
        {"prompt": "\n\nHuman: Name a fruit.\n\nAssistant:", "chosen": " A pear.", "rejected": " A brick."},
        [PAIR],
    ),
    ("llama-factory", {"conversations": [HUMAN, GPT], "label": False}, [DOWN]),
    (
        "alpaca-preference",
        {
            "instruction": "Name a fruit.",
            "input": "",
            "output": "A pear.",
            "rejected": "A brick.",
            "chosen": "A pear.",
        },
        [PEAR, PAIR],
    ),
    ("alpaca-preference", {"instruction": "Name a fruit.", "chosen": "A pear.", "rejected": "A brick."}, [PAIR]),
    (
        "rankings",
        {"prompt": "Name a fruit.", "responses": ["a", "b", "c"], "ranks": [3, 1, 1], "labeler": "ann", "source": "ai"},
        [ranked(FRUIT, "a", "b", "c", ranks=(2, 1, 1), labeler="ann", source="ai")],
    ),
    (
        "ultrafeedback",
        {
            "instruction": "Name a fruit.",
            "completions": [
                {"response": text, "model": f"model-{text}", "overall_score": score, "annotations": {}}
                for text, score in (("a", 6.5), ("b", 8.0), ("c", 6.5))
            ],
        },
        [by_models(ranked(FRUIT, "a", "b", "c", ranks=(2, 1, 2), source="ai"), "model-a", "model-b", "model-c")],
    ),
    (
        "helpsteer2",
        {"prompt": "Name a fruit.", "response_1": "A brick.", "response_2": "A pear.", "preference_strength": 2},
        [ranked(FRUIT, "A brick.", "A pear.", ranks=(2, 1), strength=2.0)],
    ),
    (
        "helpsteer2",
        {"prompt": "Name a fruit.", "response_1": "A plum.", "response_2": "A pear.", "preference_strength": 0},
        [ranked(FRUIT, "A plum.", "A pear.", ranks=(1, 1), strength=0.0)],
    ),
    (
        "shp",
        {
            "history": "Name a fruit.",
            "human_ref_A": "A brick.",
            "human_ref_B": "A pear.",
            "labels": 0,
            "score_A": 2,
            "score_B": 9,
        },
        [ranked(FRUIT, "A brick.", "A pear.", ranks=(2, 1), source="forum")],
    ),
    (
        "webgpt",
        {
            "question": {"full_text": "Name a fruit.", "id": "q"},
            "answer_0": "A pear.",
            "answer_1": "A brick.",
            "score_0": 0.25,
            "score_1": -0.25,
        },
        [ranked(FRUIT, "A pear.", "A brick.", strength=0.5)],
    ),
    (
        "webgpt",
        {"question": "Name a fruit.", "answer_0": "A pear.", "answer_1": "A fig.", "score_0": 0, "score_1": 0},
        [ranked(FRUIT, "A pear.", "A fig.", ranks=(1, 1), strength=0.0)],
    ),
    (
        "stiennon",
        {
            "info": {"post": "I ate a pear.", "title": "Lunch", "subreddit": "food"},
            "summaries": [{"text": "Fruit.", "policy": "ref"}, {"text": "A pear.", "policy": "sup4"}],
            "choice": 1,
            "worker": "w7",
            "extra": {"confidence": 8},
        },
        [
            by_models(
                ranked(
                    prompt("SUBREDDIT: r/food\n\nTITLE: Lunch\n\nPOST: I ate a pear.\n\nTL;DR:"),
                    "Fruit.",
                    "A pear.",
                    ranks=(2, 1),
                    labeler="w7",
                ),
                "ref",
                "sup4",
            )
        ],
    ),
    (
        "stiennon",
        {
            "info": {"id": "x", "post": None, "title": None, "subreddit": None, "article": "A pear fell."},
            "summaries": [{"text": "Fruit."}, {"text": "A pear."}],
            "choice": 0,
        },
        [ranked(prompt("POST: A pear fell.\n\nTL;DR:"), "Fruit.", "A pear.")],
    ),
    (
        "stiennon",
        {"info": {"post": "Name a fruit."}, "summaries": [{"text": "A pear."}, {"text": "A brick."}], "choice": 0},
        [PAIR],
    ),
    (
        "arena",
        {
            "model_a": "one",
            "model_b": "two",
            "winner": "tie (bothbad)",
            "judge": "arena_user_1",
            "conversation_a": [USER, GOOD],
            "conversation_b": [USER, BAD],
        },
        [
            by_models(
                ranked(
                    FRUIT,
                    "A pear.",
                    "A brick.",
                    ranks=(1, 1),
                    labeler="arena_user_1",
                    flags=(("both bad",), ("both bad",)),
                ),
                "one",
                "two",
            )
        ],
    ),
    (
        "argilla",
        {
            "fields": {"prompt": "Name a fruit.", "r1": "A brick.", "r2": "A pear."},
            "responses": [
                {
                    "user_id": "u1",
                    "status": "submitted",
                    "values": {
                        "quality": {"value": 4},
                        "order": {"value": [{"value": "r2", "rank": 1}, {"value": "r1", "rank": 2}]},
                    },
                }
            ],
        },
        [ranked(FRUIT, "A brick.", "A pear.", ranks=(2, 1), labeler="u1")],
    ),
    (
        "label-studio",
        {
            "data": {"prompt": "Name a fruit.", "items": [{"id": 1, "body": "A brick."}, {"id": 2, "body": "A pear."}]},
            "annotations": [
                {
                    "completed_by": 7,
                    "lead_time": 3.5,
                    "result": [{"type": "choices"}, {"type": "ranker", "value": {"ranker": {"rank": [2, 1]}}}],
                }
            ],
        },
        [ranked(FRUIT, "A brick.", "A pear.", ranks=(2, 1), labeler="7", seconds=3.5)],
    ),
    ("prompt", {"prompt": "Name a fruit.", "id": 3}, [FRUIT]),
    ("prompt", {"question_id": 81, "category": "food", "turns": ["Name a fruit."]}, [FRUIT]),
    ("prompt", {"instruction": "Name a fruit."}, [FRUIT]),
    ("text", {"text": "Once upon a time.", "source": 1}, ["Once upon a time."]),
    ("text", {"title": "a-tale", "sections": ["Once ", "upon."]}, ["Once\n\nupon."]),
]


@pytest.mark.parametrize(("name", "row", "expected"), CASES, ids=[f"{i}-{case[0]}" for i, case in enumerate(CASES)])
def test_a_row_is_recognised_and_read(write: Write, name: str, row: dict[str, Any], expected: list[Item]) -> None:
    path = write("rows.jsonl", [row] * 3)
    rejections = Rejections()
    assert [item for _, item in iterate(path, rejections=rejections)] == expected * 3
    assert [item for _, item in iterate(path, rejections=rejections, format=name)] == expected * 3
    assert rejections.total == 0


_ELSEWHERE = """helpsteer3 pku-saferlhf openai-preference message-pairs arena-turns prometheus sides better-worse list
    all-generated best-and-rest thumbs steps summary-axes absolute argilla-2 label-studio-pairwise open-webui
    squality"""
ELSEWHERE = set(_ELSEWHERE.split())  # in test_shapes


def test_every_format_but_pairs_has_a_case() -> None:
    assert {case[0] for case in CASES} | {"oasst", "pairs"} | ELSEWHERE == set(FORMATS)


REFUSED = [
    ("messages", {"messages": [GOOD]}, "unusable", "an assistant turn in 'messages' that answers nothing"),
    ("messages", {"messages": [USER, {**GOOD, "weight": 0}, BAD]}, "unusable", "an assistant turn in 'messages' that"),
    (
        "messages",
        {"messages": [USER, {"role": "critic", "content": "x"}]},
        "unusable",
        "a turn of 'messages' by 'critic'",
    ),
    (
        "messages",
        {"messages": [USER, {"role": "assistant", "content": 3}]},
        "malformed",
        "field 'messages.content' is a n",
    ),
    ("messages", {"messages": [USER, {"role": "assistant"}]}, "malformed", "no field 'messages.content'"),
    (
        "messages",
        {"messages": [USER, {"by": "me"}]},
        "malformed",
        "a turn of 'messages' has neither role nor from, but by",
    ),
    ("messages", {"messages": "hello"}, "malformed", "field 'messages' is a text, not a list"),
    ("prompt-response", {"prompt": "a", "response": " \n"}, "unusable", "empty response"),
    ("prompt-response", {"prompt": "", "response": "b"}, "unusable", "empty prompt"),
    ("prompt-response", {"prompt": None, "response": "b"}, "malformed", "field 'prompt' is null"),
    (
        "prompt-response",
        {"prompt": "a", "response": 3},
        "malformed",
        "field 'response' is a number, not a list of turns",
    ),
    ("prompt-response", {"prompt": [USER, GOOD], "response": "b"}, "malformed", "field 'prompt' ends with the assist"),
    ("prompt-response", {"prompt": [], "response": "b"}, "unusable", "empty prompt"),
    ("alpaca", {"instruction": "a", "input": 3, "output": "b"}, "malformed", "field 'input' is a number, not a text"),
    ("alpaca", {"instruction": "a", "input": "", "output": ""}, "unusable", "empty output"),
    ("self-instruct", {"instruction": "a", "instances": []}, "unusable", "holds no record"),
    ("sharegpt", {"conversations": [GPT, HUMAN]}, "unusable", "an assistant turn in 'conversations' that answers"),
    ("hh", {"chosen": HH + "x", "rejected": HH + "x"}, "unusable", "identical responses"),
    ("hh", {"chosen": HH + "x", "rejected": HH}, "unusable", "a dialogue that does not end with the assistant's turn"),
    ("hh", {"chosen": HH + "x\n\nHuman: y", "rejected": HH + "z"}, "unusable", "a dialogue that does not end with the"),
    (
        "hh",
        {"chosen": HH + "x", "rejected": "\n\nHuman: Name a fruit.\n\nAssistant: A wall."},
        "unusable",
        "the two dialogues part before their last turn: no shared prompt",
    ),
    (
        "hh",
        {"chosen": "Hi" + HH + "x", "rejected": HH + "y"},
        "unusable",
        "a transcript in 'chosen' that does not begin with",
    ),
    (
        "trl-explicit",
        {"prompt": [USER], "chosen": [BAD], "rejected": [BAD]},
        "unusable",
        "identical responses",
    ),
    (
        "trl-explicit",
        {"prompt": "a", "chosen": "b", "rejected": "c", "margin": -1},
        "malformed",
        "field 'margin' is negative",
    ),
    (
        "trl-explicit",
        {"prompt": "a", "chosen": "b", "rejected": "c", "margin": "x"},
        "malformed",
        "field 'margin' is not",
    ),
    (
        "trl-explicit",
        {"prompt": "a", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        "unusable",
        "the two dialogues part before their last turn",
    ),
    ("trl-implicit", {"chosen": "blue", "rejected": "green"}, "unusable", "the two texts begin differently"),
    ("trl-implicit", {"chosen": "same", "rejected": "same"}, "unusable", "identical responses"),
    ("trl-implicit", {"chosen": "The sky ", "rejected": "The sky is"}, "unusable", "empty chosen"),
    ("llama-factory", {"messages": [USER], "label": True}, "unusable", "a dialogue in 'messages' that does not"),
    (
        "rankings",
        {"prompt": "a", "responses": ["b", "c"], "ranks": [1]},
        "malformed",
        "ranks has 1 entries for 2 responses",
    ),
    (
        "ultrafeedback",
        {"instruction": "a", "completions": [{"response": "b", "overall_score": float("nan")}] * 2},
        "malformed",
        "field 'completions.overall_score' is not a number",
    ),
    (
        "ultrafeedback",
        {"instruction": "a", "completions": [{"response": "b", "overall_score": 1}]},
        "unusable",
        "a single response: nothing to compare",
    ),
    (
        "arena",
        {
            "winner": "model_a",
            "conversation_a": [USER, GOOD, USER, GOOD],
            "conversation_b": [USER, BAD, USER, BAD],
        },
        "unusable",
        "the two dialogues part before their last turn",
    ),
    ("palate", {**PAIR.model_dump(mode="json"), "ranks": [2, 3]}, "malformed", "the best response has rank 1"),
    ("palate", {**PEAR.model_dump(), "extra": 1}, "malformed", "field 'extra': Extra inputs are not permitted"),
    ("text", {"sections": [" "]}, "unusable", "empty text"),
    ("text", {"sections": [3]}, "malformed", "field 'sections' is not a list of texts"),
]


@pytest.mark.parametrize(("name", "row", "kind", "reason"), REFUSED)
def test_a_bad_row_is_counted_with_its_reason(
    write: Write, name: str, row: dict[str, Any], kind: str, reason: str
) -> None:
    path = write("rows.jsonl", [row])
    rejections = Rejections()
    assert [item for _, item in iterate(path, rejections=rejections, format=name)] == []
    (found,) = getattr(rejections, kind)
    assert found.startswith(reason)
    assert rejections.total == 1
    assert rejections.examples[found] == [f"{path}:1"]


def test_thumbs_of_a_table_are_words(write: Write) -> None:
    path = write("thumbs.csv", "prompt,completion,label\nName a fruit.,A pear.,TRUE\nName a fruit.,A pear.,0\n")
    assert [item for _, item in iterate(path, rejections=Rejections())] == [UP, DOWN]


def test_rated_responses_that_stand_together_are_one_ranking(write: Write) -> None:
    rows = [
        {"prompt": prompt, "response": response, "helpfulness": score, "correctness": 4}
        for prompt, response, score in (("p", "a", 1), ("p", "b", 4), ("q", "c", 3), ("r", "d", 2), ("r", "e", 2))
    ]
    rejections = Rejections()
    path = write("rated.jsonl", rows)
    found = [(line, item) for line, item in iterate(path, rejections=rejections)]
    assert found == [
        (1, ranked(prompt("p"), "a", "b", ranks=(2, 1))),
        (4, ranked(prompt("r"), "d", "e", ranks=(1, 1))),
    ]
    assert rejections.examples == {"a single response: nothing to compare": [f"{path}:3"]}


def test_a_rated_response_that_comes_again_begins_another_ranking(write: Write) -> None:
    rows = [
        {"prompt": "p", "response": text, "helpfulness": score}
        for text, score in zip("abba", (4, 1, 3, 2), strict=True)
    ]
    found = [item for _, item in iterate(write("rated.jsonl", rows), rejections=Rejections())]
    assert found == [ranked(prompt("p"), "a", "b"), ranked(prompt("p"), "b", "a")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"foo": 1, "bar": 2}], r"rows.jsonl:1: no known format has the fields foo, bar; name"),
        (
            [{"instruction": "a", "output": "b", "question": "c", "answer": "d"}],
            "could be prompt-response .which leaves instruction out., or alpaca",
        ),
        (
            [{"question": "a", "answer": "b"}, {"instruction": "a", "response": "b", "context": "c"}],
            r"rows of several formats: prompt-response \(row 1\) and dolly \(row 2\); divide the file",
        ),
        ([], "holds no rows"),
    ],
)
def test_the_user_is_asked_when_the_format_is_unclear(write: Write, rows: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(iterate(write("rows.jsonl", rows), rejections=Rejections()))


def test_rows_that_lack_a_field_do_not_change_the_format(write: Write) -> None:
    rows = [
        {"prompt": "Name a fruit."},
        {"chosen": "x"},
        {"prompt": "Name a fruit.", "chosen": "A pear.", "rejected": "A brick."},
    ]
    rejections = Rejections()
    assert [item for _, item in iterate(write("rows.jsonl", rows), rejections=rejections)] == [PAIR]
    assert dict(rejections.malformed) == {"no field 'chosen'": 1, "no field 'prompt'": 1}


def test_a_row_with_a_prompt_alone_does_not_change_the_format(write: Write) -> None:
    pair = {"prompt": "Name a fruit.", "chosen": "A pear.", "rejected": "A brick."}
    rejections = Rejections()
    rows = [{"question": "Name a fruit.", "chosen": "A pear."}, pair]
    assert [item for _, item in iterate(write("rows.jsonl", rows), rejections=rejections)] == [PAIR]
    assert dict(rejections.malformed) == {"no field 'rejected'": 1}


def test_what_else_a_file_could_be_is_said(write: Write) -> None:
    row = {"prompt": "Name a fruit.", "chosen": [USER, GOOD], "rejected": [USER, BAD], "messages": [USER, GOOD]}
    account = Account(write("rows.jsonl", [row]))
    assert [item for _, item in iterate(Path(account.path), rejections=Rejections(), account=account)] == [PAIR]
    assert account.format == "trl-explicit"
    assert account.why.endswith("in 1 of the 1 rows looked at")
    assert "messages (messages)" in account.also


def test_the_error_lists_every_format(write: Write) -> None:
    with pytest.raises(DataError) as error:
        list(iterate(write("rows.jsonl", [{"foo": 1}]), rejections=Rejections()))
    assert all(f"\n  {name}" in str(error.value) for name in FORMATS)


def test_a_misspelt_format_is_named(write: Write) -> None:
    with pytest.raises(DataError, match=r"no format 'alpca'; did you mean 'alpaca'\?"):
        list(iterate(write("rows.jsonl", [{}]), rejections=Rejections(), format="alpca"))


def test_broken_rows_do_not_hide_the_format(write: Write) -> None:
    rejections = Rejections()
    path = write("rows.jsonl", '{"prompt"\n' * 30 + '{"prompt": "Name a fruit.", "response": "A pear."}\n')
    assert [item for _, item in iterate(path, rejections=rejections)] == [PEAR]
    assert rejections.malformed.total() == 30
    with pytest.raises(DataError, match=r"broken.jsonl:1: no row can be read: broken JSON"):
        list(iterate(write("broken.jsonl", "{\n{\n"), rejections=rejections))


def test_our_own_prompts_and_demonstrations_may_share_a_file(write: Write) -> None:
    rows = "\n".join([FRUIT.to_json(), PEAR.to_json(), PAIR.to_json()])
    path = write("log.jsonl", rows)
    assert [item for _, item in iterate(path, rejections=Rejections())] == [FRUIT, PEAR, PAIR]


def test_messages_with_and_without_an_answer_may_share_a_file(write: Write) -> None:
    path = write("rows.jsonl", [{"messages": [USER]}, {"messages": [USER, GOOD]}])
    assert [item for _, item in iterate(path, rejections=Rejections())] == [FRUIT, PEAR]
