"""Published shapes of preferences: a row of each is recognised by its columns and values and gives exactly this."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palate.corpus.accounting.duplicates import Unique
from palate.corpus.catalogue.all_formats import FORMATS
from palate.corpus.reading import iterate
from palate.corpus.recognition import open_format
from palate.corpus.rows.rejections import Rejections
from palate.errors import DataError
from palate.records import Message, Prompt, Provenance, Ranking, Response, Role

Write = Callable[..., Path]
USER = {"role": "user", "content": "Name a bird."}
SYSTEM = {"role": "system", "content": "Be brief."}
GOOD = {"role": "assistant", "content": "A wren."}
BAD = {"role": "assistant", "content": "A spoon."}
UP, DOWN = 7.0, 1.0


def asked(*turns: str, system: str = "", **tags: str) -> Prompt:
    roles: tuple[Role, Role] = ("user", "assistant")
    head = (Message(role="system", content=system),) if system else ()
    messages = (*head, *(Message(role=roles[place % 2], content=turn) for place, turn in enumerate(turns)))
    return Prompt(messages=messages, tags=tags)


def ranked(prompt: Prompt, *responses: str, ranks: tuple[int, ...] = (1, 2), models: str = "", **rest: Any) -> Ranking:
    names = models.split() or [""] * len(responses)
    made = tuple(
        Response(text=text, provenance=Provenance(model=model) if model else None)
        for text, model in zip(responses, names, strict=True)
    )
    return Ranking(prompt=prompt, responses=made, ranks=ranks, **rest)


BIRD = asked("Name a bird.")
PAIR = ranked(BIRD, "A wren.", "A spoon.")


def thumb(rating: float, prompt: Prompt = BIRD, text: str = "A wren.", **rest: Any) -> Ranking:
    return ranked(prompt, text, ranks=(1,), ratings=(rating,), **rest)


CASES: list[tuple[str, dict[str, Any], list[Ranking]]] = [
    (
        "sides",
        {"prompt": "Name a bird.", "left": "A spoon.", "right": "A wren.", "winner": "right", "worker": "w"},
        [ranked(BIRD, "A spoon.", "A wren.", ranks=(2, 1), labeler="w")],
    ),
    (
        "trl-explicit",
        {"prompt": "Name a bird.", "chosen": "A wren.", "rejected": "A spoon.", "annotator_id": 7},
        [ranked(BIRD, "A wren.", "A spoon.", labeler="7")],
    ),
    (
        "list",
        {
            "instruction": "Name a bird.",
            "generations": ["A wren.", "A spoon."],
            "ratings": [4, 2],
            "model_names": ["x", "y"],
        },
        [ranked(BIRD, "A wren.", "A spoon.", models="x y", strength=2.0)],
    ),
    (
        "helpsteer3",
        {
            "domain": "general",
            "language": "english",
            "context": [SYSTEM, USER],
            "response1": "A spoon.",
            "response2": "A wren.",
            "overall_preference": 2,
            "individual_preference": [
                {"score": 2, "reasoning": "A spoon is no bird.", "feedback1": "", "feedback2": ""}
            ],
        },
        [ranked(asked("Name a bird.", system="Be brief."), "A spoon.", "A wren.", ranks=(2, 1), strength=2.0)],
    ),
    (
        "helpsteer3",
        {"context": [USER], "response1": "A wren.", "response2": "A spoon.", "overall_preference": 0},
        [ranked(BIRD, "A wren.", "A spoon.", ranks=(1, 1), strength=0.0)],
    ),
    (
        "helpsteer3",
        {"context": [USER], "original_response": "A", "good_edited_response": "A wren.", "feedback": ["Finish it."]}
        | {"bad_edited_response": "A spoon."},
        [PAIR],
    ),
    (
        "sides",
        {"prompt": "Name a bird.", "response_a": "A wren.", "response_b": "A spoon.", "chosen": "response_b"}
        | {"rejected": "response_a"},
        [ranked(BIRD, "A wren.", "A spoon.", ranks=(2, 1))],
    ),
    (
        "pku-saferlhf",
        {
            "prompt": "Name a bird.",
            "response_0": "A spoon.",
            "response_1": "A wren.",
            "response_0_source": "one",
            "response_1_source": "two",
            "is_response_0_safe": False,
            "is_response_1_safe": True,
            "better_response_id": 0,
            "safer_response_id": 1,
        },
        [ranked(BIRD, "A spoon.", "A wren.", models="one two", flags=(("unsafe",), ("safe", "safer")))],
    ),
    (
        "openai-preference",
        {
            "input": {"messages": [SYSTEM, USER], "tools": [], "parallel_tool_calls": True},
            "preferred_output": [GOOD],
            "non_preferred_output": [BAD],
        },
        [ranked(asked("Name a bird.", system="Be brief."), "A wren.", "A spoon.")],
    ),
    ("message-pairs", {"chosen_messages": [USER, GOOD], "rejected_messages": [USER, BAD]}, [PAIR]),
    (
        "message-pairs",
        {
            f"{which}_messages": [
                {"role": turn["role"], "content": [{"type": "text", "value": turn["content"]}], "loss_weight": weight}
                for turn, weight in ((USER, 0.0), (last, 1.0))
            ]
            for which, last in (("chosen", GOOD), ("rejected", BAD))
        },
        [PAIR],
    ),
    (
        "arena-turns",
        {
            "id": 4,
            "model_a": "one",
            "model_b": "two",
            "prompt": json.dumps(["Name a bird.", "Another?"]),
            "response_a": json.dumps(["A wren.", "A crow."]),
            "response_b": json.dumps(["A wren.", "A fork."]),
            "winner_model_a": 0,
            "winner_model_b": 0,
            "winner_tie": 1,
        },
        [ranked(asked("Name a bird.", "A wren.", "Another?"), "A crow.", "A fork.", models="one two", ranks=(1, 1))],
    ),
    (
        "arena-turns",
        {"id": 4, "model_a": "one", "model_b": "two", "prompt": ["Name a bird."], "response_a": ["A wren."]}
        | {"response_b": ["A spoon."], "winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0},
        [ranked(BIRD, "A wren.", "A spoon.", models="one two")],
    ),
    (
        "prometheus",
        {
            "instruction": "Judge these two.",
            "output": "Feedback. [RESULT] B",
            "orig_instruction": "Name a bird.",
            "orig_response_A": "A spoon.",
            "orig_response_B": "A wren.",
            "orig_preference": "B",
        },
        [ranked(BIRD, "A spoon.", "A wren.", ranks=(2, 1), source="ai")],
    ),
    (
        "sides",
        {"question": "Name a bird.", "answer_x": "A wren.", "answer_y": "A spoon.", "winner": "LEFT", "worker": 8},
        [ranked(BIRD, "A wren.", "A spoon.", labeler="8")],
    ),
    (
        "sides",
        {
            "Instruction": "Name a bird.",
            "Response A": "A wren.",
            "Response B": "A spoon.",
            "Model A": "one",
            "Model B": "two",
            "Preference": "two",
            "seconds": 3,
        },
        [ranked(BIRD, "A wren.", "A spoon.", ranks=(2, 1), models="one two", seconds=3.0)],
    ),
    (
        "sides",
        {"prompt": 9, "text": "Name a bird.", "result_x": "A wren.", "result_y": "A spoon.", "winner": "right"}
        | {"model_x": 31, "model_y": 32, "left": "Heron", "right": "Otter", "worker": "w"},
        [ranked(BIRD, "A wren.", "A spoon.", ranks=(2, 1), models="Heron Otter", labeler="w")],
    ),
    (
        "sides",
        {"prompt": "Name a bird.", "output_1": "A wren.", "output_2": "A spoon.", "score_1": 4, "score_2": 1.5},
        [ranked(BIRD, "A wren.", "A spoon.", strength=2.5)],
    ),
    (
        "sides",
        {"prompt": "Name a bird.", "response_a": "A wren.", "response_b": "A spoon.", "response_c": "A jay."}
        | {"rank_a": 2, "rank_b": 3, "rank_c": 1},
        [ranked(BIRD, "A wren.", "A spoon.", "A jay.", ranks=(2, 3, 1))],
    ),
    (
        "sides",
        {"prompt": "Name a bird.", "answer1": "A wren.", "answer2": "A spoon.", "comparison": [{"selected": "left"}]}
        | {"annotator": 5, "lead_time": 4.5},
        [ranked(BIRD, "A wren.", "A spoon.", labeler="5", seconds=4.5)],
    ),
    (
        "sides",
        {"prompt": "Name a bird.", "completion_a": "A wren.", "completion_b": "A spoon.", "votes": ["a", "b", "tie"]},
        [
            ranked(BIRD, "A wren.", "A spoon.", ranks=ranks, labeler=f"vote-{place}")
            for place, ranks in enumerate([(1, 2), (2, 1), (1, 1)], 1)
        ],
    ),
    (
        "better-worse",
        {
            "instruction": "Name a bird.",
            "chosen_response": "A wren.",
            "rejected_response": "A spoon.",
            "chosen_model": "one",
            "rejected_model": "two",
            "chosen_avg_rating": 5,
            "rejected_avg_rating": 1.5,
        },
        [ranked(BIRD, "A wren.", "A spoon.", models="one two", strength=3.5)],
    ),
    ("better-worse", {"question": "Name a bird.", "response_j": "A wren.", "response_k": "A spoon.", "qid": 3}, [PAIR]),
    (
        "sides",
        {"prompt": "Name a bird.", "response_a": "A spoon.", "response_b": "A wren.", "preferred_response": "A wren."},
        [ranked(BIRD, "A spoon.", "A wren.", ranks=(2, 1))],
    ),
    (
        "sides",
        {"user_prompt": "Name a bird.", "model_a_response": "A wren.", "model_b_response": "A spoon."}
        | {"model_a_name": "one", "model_b_name": "two", "preferred_model": "two"},
        [ranked(BIRD, "A wren.", "A spoon.", ranks=(2, 1), models="one two")],
    ),
    ("better-worse", {"prompt": "Name a bird.", "y_w": "A wren.", "y_l": "A spoon."}, [PAIR]),
    ("better-worse", {"prompt": [USER], "preferred": "A wren.", "dispreferred": "A spoon."}, [PAIR]),
    (
        "list",
        {
            "prompt": "Name a bird.",
            "answers": [
                {"answer": "A spoon.", "model": "one", "rank": 3.0},
                {"answer": "A wren.", "model": "two", "rank": 1.0},
                {"answer": "A hen.", "model": "three", "rank": 2.0},
            ],
            "turns": 1,
        },
        [ranked(BIRD, "A spoon.", "A wren.", "A hen.", ranks=(3, 1, 2), models="one two three")],
    ),
    (
        "list",
        {"prompt": "Name a bird.", "responses": ["A wren.", "A spoon.", "A jay."], "rewards": [0.5, -1, 0.5]},
        [ranked(BIRD, "A wren.", "A spoon.", "A jay.", ranks=(1, 2, 1), source="ai")],
    ),
    (
        "list",
        {
            "question": "Name a bird.",
            "completions": ["A wren.", "A spoon."],
            "scores": [1, 4],
            "models": ["one", "two"],
        },
        [ranked(BIRD, "A wren.", "A spoon.", ranks=(2, 1), models="one two", strength=3.0)],
    ),
    (
        "list",
        {"prompt": "Name a bird.", "responses": ["A wren.", "A spoon.", "A jay."], "best": "C", "annotator": 4},
        [ranked(BIRD, "A wren.", "A spoon.", "A jay.", ranks=(2, 2, 1), labeler="4")],
    ),
    (
        "all-generated",
        {
            "prompt": "Name a bird.",
            "chosen": [USER, GOOD],
            "rejected": [USER, BAD],
            "all_generated_responses": ["A spoon.", "A wren.", "A jay."],
            "all_rm_scores": [0.1, 0.5, 0.25],
        },
        [ranked(BIRD, "A spoon.", "A wren.", "A jay.", ranks=(3, 1, 2), source="ai")],
    ),
    (
        "best-and-rest",
        {"prompt": "Name a bird.", "chosen": [USER, GOOD], "rejected": [[USER, BAD], [USER, GOOD]]},
        [ranked(BIRD, "A wren.", "A spoon.", "A wren.", ranks=(1, 2, 2))],
    ),
    (
        "best-and-rest",
        {
            "id": "7",
            "prompt": "Name a bird.",
            "chosen": ["A wren."],
            "rejected": ["A spoon.", "A fork."],
            "chosen_model": ["h"],
            "rejected_model": ["a", "b"],
        },
        [ranked(BIRD, "A wren.", "A spoon.", "A fork.", ranks=(1, 2, 2), models="h a b")],
    ),
    (
        "best-and-rest",
        {"prompt": "Name a bird.", "chosen": "A wren.", "rejected": ["A spoon.", "A fork."]},
        [ranked(BIRD, "A wren.", "A spoon.", "A fork.", ranks=(1, 2, 2))],
    ),
    ("thumbs", {"instruction": "Name a bird.", "input": "", "output": "A wren.", "kto_tag": True}, [thumb(UP)]),
    (
        "thumbs",
        {"messages": [SYSTEM, USER, GOOD, USER, BAD], "rating": "thumbs_down", "user_id": "u"},
        [
            thumb(
                DOWN,
                asked("Name a bird.", "A wren.", "Name a bird.", system="Be brief."),
                "A spoon.",
                labeler="u",
            )
        ],
    ),
    (
        "thumbs",
        {"prompt": "Name a bird.", "response": "A wren.", "feedback": "Good", "model": "m"},
        [thumb(UP, models="m")],
    ),
    (
        "trl-explicit",
        {
            "id": "x",
            "prompt": "Name a bird.",
            "chosen": [USER, GOOD],
            "chosen_rating": 4.5,
            "chosen_model": "one",
            "rejected": [USER, BAD],
            "rejected_rating": 2.0,
            "rejected_model": "two",
        },
        [ranked(BIRD, "A wren.", "A spoon.", models="one two", strength=2.5)],
    ),
    (
        "trl-explicit",
        {"prompt": "Name a bird.", "chosen": [SYSTEM, USER, GOOD], "rejected": [SYSTEM, USER, BAD]},
        [ranked(asked("Name a bird.", system="Be brief."), "A wren.", "A spoon.")],
    ),
    (
        "trl-explicit",
        {"prompt": "Name a bird.", "chosen": [USER, GOOD], "rejected": [USER, BAD], "messages": [USER, GOOD]},
        [PAIR],
    ),
    (
        "arena",
        {
            "question_id": 81,
            "model_a": "one",
            "model_b": "two",
            "winner": "model_b",
            "judge": ["gpt", "pair"],
            "conversation_a": [USER, BAD, USER, GOOD],
            "conversation_b": [USER, GOOD, USER, BAD],
            "turn": 1,
        },
        [ranked(BIRD, "A spoon.", "A wren.", ranks=(2, 1), models="one two", labeler="gpt-pair")],
    ),
    (
        "arena",
        {"id": 1, "winner": "both_bad", "conversation_a": [USER, GOOD], "conversation_b": [USER, BAD]}
        | {"evaluation_session_id": "s3"},
        [ranked(BIRD, "A wren.", "A spoon.", ranks=(1, 1), flags=(("both bad",),) * 2, labeler="s3")],
    ),
    (
        "argilla-2",
        {
            "id": "r",
            "status": "completed",
            "fields": {"prompt": "Name a bird.", "one": "A spoon.", "two": "A wren."},
            "metadata": {},
            "suggestions": {},
            "responses": {
                "order": [
                    {"value": ["two", "one"], "user_id": "ann", "status": "submitted"},
                    {"value": [{"value": "one", "rank": 1}, {"value": "two", "rank": 1}], "user_id": "bea"},
                ],
                "better": [{"value": "two", "user_id": "cid"}],
            },
            "vectors": {},
        },
        [
            ranked(BIRD, "A spoon.", "A wren.", ranks=(2, 1), labeler="ann"),
            ranked(BIRD, "A spoon.", "A wren.", ranks=(1, 1), labeler="bea"),
            ranked(BIRD, "A spoon.", "A wren.", ranks=(2, 1), labeler="cid"),
        ],
    ),
    (
        "argilla-2",
        {
            "id": "r",
            "status": "completed",
            "prompt": "Name a bird.",
            "one": "A spoon.",
            "two": "A wren.",
            "order.responses": [["two", "one"], ["one", "two"]],
            "order.responses.users": ["ann", "bea"],
            "order.responses.status": ["submitted", "submitted"],
        },
        [
            ranked(BIRD, "A spoon.", "A wren.", ranks=ranks, labeler=labeler)
            for labeler, ranks in (("ann", (2, 1)), ("bea", (1, 2)))
        ],
    ),
    (
        "label-studio-pairwise",
        {
            "id": 1,
            "data": {"prompt": "Name a bird.", "one": "A spoon.", "two": "A wren."},
            "annotations": [
                {
                    "completed_by": {"id": 2, "email": "ann@here"},
                    "lead_time": 4.25,
                    "result": [{"type": "pairwise", "value": {"selected": "right"}, "to_name": "one,two"}],
                }
            ],
            "predictions": [],
        },
        [ranked(BIRD, "A spoon.", "A wren.", ranks=(2, 1), labeler="ann@here", seconds=4.25)],
    ),
    (
        "label-studio-pairwise",
        {
            "data": {"question": "Name a bird.", "answer_a": "A spoon.", "answer_b": "A wren."},
            "annotations": [
                {"completed_by": 2, "result": [{"type": "choices", "value": {"choices": [choice]}, "to_name": "x"}]}
                for choice in ("answer_b", "Tie")
            ],
        },
        [ranked(BIRD, "A spoon.", "A wren.", ranks=ranks, labeler="2") for ranks in ((2, 1), (1, 1))],
    ),
    (
        "list",
        {
            "instruction": "Name a bird.",
            "completions": [{"response": "A spoon.", "score": 1}, {"response": "A wren.", "score": 3}],
        },
        [ranked(BIRD, "A spoon.", "A wren.", ranks=(2, 1), strength=2.0)],
    ),
    (
        "open-webui",
        {
            "id": "f",
            "user_id": "u",
            "type": "rating",
            "data": {"rating": -1, "model_id": "m", "reason": "being_lazy", "comment": "Try again."},
            "meta": {"chat_id": "c", "message_id": "3", "message_index": 1},
            "snapshot": {
                "chat": {
                    "chat": {
                        "history": {
                            "messages": {
                                "1": {"id": "1", "parentId": None, **USER},
                                "2": {"id": "2", "parentId": "1", **GOOD},
                                "3": {"id": "3", "parentId": "1", **BAD},
                            }
                        },
                        "messages": [{"id": "1", **USER}, {"id": "2", **GOOD}],
                    }
                }
            },
        },
        [
            thumb(
                DOWN,
                asked("Name a bird.", comment="Try again."),
                "A spoon.",
                models="m",
                labeler="u",
                flags=(("being_lazy",),),
            )
        ],
    ),
    (
        "squality",
        {
            "passage-id": "12",
            "questions": {
                "0": {
                    system: {
                        "response": f"By {system}.",
                        "reviews": [
                            {"worker_id": worker, "overall-rank": rank, "correctness-rank": 1}
                            for worker, rank in ranks.items()
                        ],
                        "overall": {"overall-ranking": 1},
                    }
                    for system, ranks in {"bart": {"3": 2, "6": 1}, "human": {"3": 1, "6": 1}}.items()
                }
            },
        },
        [
            ranked(asked("Passage 12, question 0"), "By bart.", "By human.", ranks=ranks, labeler=worker).model_copy(
                update={
                    "responses": (
                        Response(text="By bart.", provenance=Provenance(model="bart")),
                        Response(text="By human."),
                    )
                }
            )
            for worker, ranks in (("3", (2, 1)), ("6", (1, 1)))
        ],
    ),
]


@pytest.mark.parametrize(("name", "row", "expected"), CASES, ids=[f"{i}-{case[0]}" for i, case in enumerate(CASES)])
def test_a_row_is_recognised_and_read(write: Write, name: str, row: dict[str, Any], expected: list[Ranking]) -> None:
    path = write("rows.jsonl", [row] * 2)
    rejections = Rejections()
    assert [item for _, item in iterate(path, rejections=rejections)] == expected * 2
    assert [item for _, item in iterate(path, rejections=rejections, format=name)] == expected * 2
    assert rejections.total == 0


UNUSABLE = [
    (
        "steps",
        {"prompt": "2+2?", "completions": ["First, 2.", "Then 4."], "labels": [True, True]},
        "labels of the steps of one answer",
    ),
    (
        "summary-axes",
        {"info": {"post": "x"}, "summary": {"text": "y", "axes": {"overall": 5}}, "worker": "w"},
        "points on several axes for one summary",
    ),
    (
        "absolute",
        {"instruction": "Judge.", "output": "4", "orig_instruction": "a", "orig_response": "b", "orig_score": "4"},
        "one answer and its score",
    ),
    (
        "arena-turns",
        {"model_a": "m", "model_b": "n", "prompt": ["a"], "response_a": ["b"], "response_b": [None]}
        | {"winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0},
        "a null among the turns of 'response_b'",
    ),
    ("best-and-rest", {"prompt": "a", "chosen": ["b"], "rejected": []}, "nothing chosen, or nothing rejected"),
    (
        "argilla-2",
        {"fields": {"prompt": "a", "r1": "b", "r2": "c"}, "responses": {"q": [{"value": 4, "user_id": "u"}]}},
        "a response without a ranking",
    ),
    (
        "open-webui",
        {
            "data": {"rating": None},
            "meta": {"message_index": 1},
            "snapshot": {"chat": {"chat": {"messages": [USER, GOOD]}}},
        },
        "no thumb given",
    ),
]


@pytest.mark.parametrize(("name", "row", "reason"), UNUSABLE, ids=[case[0] for case in UNUSABLE])
def test_a_row_that_compares_nothing_says_so(write: Write, name: str, row: dict[str, Any], reason: str) -> None:
    rejections = Rejections()
    path = write("rows.jsonl", [row])
    assert not list(iterate(path, rejections=rejections))
    (found,) = rejections.unusable
    assert found.startswith(reason)
    assert not list(iterate(path, rejections=rejections, format=name))


def test_the_winners_column_may_be_named(write: Write) -> None:
    rows = [
        {"prompt": "Name a bird.", "response_a": "A wren.", "response_b": "A spoon.", "preferred_response": column}
        for column in ("response_b", "response_a")
    ]
    found = [item for _, item in iterate(write("rows.jsonl", rows), rejections=Rejections())]
    assert found == [ranked(BIRD, "A wren.", "A spoon.", ranks=ranks) for ranks in ((2, 1), (1, 2))]


def test_a_number_into_a_list_may_count_from_0_or_from_1(write: Write) -> None:
    path = write("rows.jsonl", [{"prompt": "Name a bird.", "responses": ["A wren.", "A spoon."], "best": 1}])
    with pytest.raises(DataError, match=r"'best' says '1' .1., which may mean anything"):
        list(iterate(path, rejections=Rejections()))
    ((_, found),) = iterate(path, rejections=Rejections(), verdicts={"1": "b"})
    assert found == ranked(BIRD, "A wren.", "A spoon.", ranks=(2, 1))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a", "chosen": "b", "rejected": "c", "chosen_score": 1, "rejected_score": 2},
        {"prompt": "a", "y_w": "b", "y_l": "c", "score_w": 1, "score_l": 2},
    ],
)
def test_scores_that_contradict_the_choice(write: Write, row: dict[str, Any]) -> None:
    rejections = Rejections()
    assert not list(iterate(write("rows.jsonl", [row]), rejections=rejections))
    assert dict(rejections.unusable) == {"the better response has the lower score": 1}


def test_scores_that_contradict_the_verdict(write: Write) -> None:
    row = {"prompt": "a", "response_a": "b", "response_b": "c", "winner": "a", "score_a": 4, "score_b": 3}
    rejections = Rejections()
    path = write("rows.jsonl", [row, {**row, "winner": "b"}, {**row, "winner": "tie"}])
    found = [item for _, item in iterate(path, rejections=rejections)]
    assert found == [ranked(asked("a"), "b", "c", strength=1.0), ranked(asked("a"), "b", "c", ranks=(1, 1))]
    assert dict(rejections.unusable) == {"the scores say the opposite of the verdict": 1}


def test_two_models_that_say_the_same_are_two_responses() -> None:
    rejections = Rejections()
    unique = Unique(rejections)
    rankings = [
        ranked(BIRD, "A wren.", "A spoon.", models=models, labeler="ann") for models in ("one two", "one three")
    ]
    assert [unique(ranking) for ranking in [*rankings, rankings[0]]] == [True, True, False]
    tie = ranked(BIRD, "A wren.", "A spoon.", ranks=(1, 1), labeler="bea")
    assert unique(tie)
    assert unique(tie.model_copy(update={"flags": (("both bad",),) * 2}))


CROWD = "id,prompt,model_x,model_y,worker,winner\n" + "".join(
    f"{task},1,31,32,{worker},{vote}\n"
    for task, worker, vote in ((0, 5, "left"), (0, 6, "tie"), (1, 5, "right"), (2, 5, "left"))
)


def test_judgements_without_their_answers_say_what_is_missing(write: Write) -> None:
    rejections = Rejections()
    assert not list(iterate(write("crowd.csv", CROWD), rejections=rejections))
    (reason,) = rejections.malformed
    assert reason.startswith("'winner' says which of 'model_x' and 'model_y' is better, but what they answered is not")
    assert "--join COLUMN=FILE" in reason


def test_answers_are_joined_to_judgements(write: Write) -> None:
    answers = [
        {"id": task, "prompt": 1, "text": "Name a bird.", "result_x": f"A wren {task}.", "result_y": "A spoon."}
        for task in (0, 1)
    ]
    join = {"id": str(write("answers.jsonl", answers))}
    rejections = Rejections()
    found = [item for _, item in iterate(write("crowd.csv", CROWD), rejections=rejections, join=join)]
    assert found == [
        ranked(BIRD, f"A wren {task}.", "A spoon.", ranks=ranks, models="31 32", labeler=worker)
        for task, worker, ranks in ((0, "5", (1, 2)), (0, "6", (1, 1)), (1, "5", (2, 1)))
    ]
    assert dict(rejections.malformed) == {f"{join['id']} has no row with this 'id'": 1}


SCALARS = st.none() | st.booleans() | st.integers(-3, 9) | st.floats() | st.text(max_size=3) | st.just("a")
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
)


@st.composite
def spoiled(draw: st.DrawFn, value: Any) -> Any:
    """The value with something in it replaced, removed or renamed."""
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 3)) == 0:
        return draw(VALUES)
    copy: Any = value.copy()
    place = draw(st.sampled_from(list(value) if isinstance(value, dict) else range(len(value))))
    what = draw(st.sampled_from(["spoil", "spoil", "remove", "rename"]))
    if what == "spoil":
        copy[place] = draw(spoiled(value[place]))
    else:
        taken = copy.pop(place)
        if what == "rename" and isinstance(copy, dict):
            copy[draw(st.sampled_from(["label", "winner", "responses", "messages", "score_a", "x"]))] = taken
    return copy


@pytest.mark.parametrize(
    ("name", "row"), [case[:2] for case in CASES], ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)]
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_spoiled_row_is_read_or_counted_or_refused(
    write: Write, name: str, row: dict[str, Any], data: st.DataObject
) -> None:
    path = write("rows.jsonl", [row, data.draw(spoiled(row).filter(lambda spoilt: isinstance(spoilt, dict)))])
    for format_ in (name, "auto"):
        rejections = Rejections()
        try:
            lines = {line for line, _ in iterate(path, rejections=rejections, format=format_)}
        except DataError:
            continue
        assert len(lines) + rejections.total >= 2


NEW = {case[0] for case in [*CASES, *UNUSABLE]}


def test_the_formats_of_this_page_are_there() -> None:
    assert set(FORMATS) >= NEW
    assert all(open_format(Path("x"), iter(()), name, {}).format.name == name for name in NEW)
