"""What a conversation may be written as: parts, tools, marks, transcripts in one text, system and history columns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.corpus.test_formats import CASES

from palate.corpus import read_demonstrations
from palate.corpus.reading import iterate
from palate.corpus.rows.rejections import Rejections
from palate.recipe import Data
from palate.records import Demonstration, Message, Prompt, Ranking, ToolCall

Write = Callable[..., Path]
ASK, SAY = {"role": "user", "content": "Warm?"}, {"role": "assistant", "content": "Yes."}


def read(path: Path, **how: Any) -> tuple[list[Any], Rejections]:
    rejections = Rejections()
    return [item for _, item in iterate(path, rejections=rejections, **how)], rejections


def test_text_parts_are_joined_and_others_stop_with_their_kind(write: Write) -> None:
    parts = [{"type": "text", "text": "Is it", "image": None}, "warm?"]
    picture = {"type": "image_url", "image_url": {"url": "https://example.org/a.jpg"}}
    rows = [
        {"messages": [{"role": "user", "content": content}, SAY]} for content in (parts, [*parts, picture], [picture])
    ]
    items, rejections = read(write("rows.jsonl", rows))
    assert [item.prompt.text for item in items] == ["Is it\nwarm?"]
    assert dict(rejections.malformed) == {
        "a part of kind 'image_url' in 'messages.content': only text parts can be read": 2
    }


OURS = ToolCall(name="heat", arguments='{"city": "Oslo"}', id="c1")
HEAT = {"name": "heat", "arguments": '{"city": "Oslo"}'}
CALLS: list[tuple[dict[str, Any], ToolCall]] = [
    (
        {
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "heat", "arguments": '{"city": "Oslo"}'}}
            ]
        },
        OURS,
    ),
    (
        {"tool_calls": [{"id": "c1", "function": {"name": "heat", "arguments": {"city": "Oslo"}}}], "content": None},
        OURS,
    ),
    ({"tool_calls": '[{"id": "c1", "name": "heat", "arguments": {"city": "Oslo"}}]', "content": ""}, OURS),
    ({"function_call": HEAT}, OURS.model_copy(update={"id": ""})),
]


@pytest.mark.parametrize(("said", "call"), CALLS)
def test_calls_of_tools_and_their_results_are_kept(write: Write, said: dict[str, Any], call: ToolCall) -> None:
    tools = [{"type": "function", "function": {"name": "heat", "parameters": {"x": None}}}]
    result = {"role": "tool", "tool_call_id": "c1", "content": {"degrees": 7}}
    row = {"messages": [ASK, {"role": "assistant", **said}, result, SAY], "tools": tools}
    (first, second), rejections = read(write("rows.jsonl", [row]))
    assert rejections.total == 0
    assert (first.response.text, first.response.tool_calls) == ("", (call,))
    assert second.prompt.messages[1:] == (
        Message(role="assistant", content="", tool_calls=(call,), learn=False),
        Message(role="tool", content='{"degrees": 7}', tool_call_id="c1"),
    )
    assert second.prompt.tools == ({"type": "function", "function": {"name": "heat", "parameters": {}}},)
    assert second.prompt.has_tools


def test_calls_in_the_words_of_sharegpt(write: Write) -> None:
    talk = [
        {"from": "human", "value": "Warm?"},
        {"from": "function_call", "value": '{"name": "heat", "arguments": {"city": "Oslo"}}'},
        {"from": "observation", "value": "7"},
        {"from": "gpt", "value": "Yes."},
    ]
    (first, second), _ = read(write("rows.jsonl", [{"conversations": talk, "tools": '[{"name": "heat"}]'}]))
    assert first.response.tool_calls == (OURS.model_copy(update={"id": ""}),)
    assert [turn.role for turn in second.prompt.messages] == ["user", "assistant", "tool"]
    assert second.prompt.tools == ({"name": "heat"},)
    broken = [talk[0], {"from": "function_call", "value": "call me"}]
    _, rejections = read(write("broken.jsonl", [{"conversations": broken}]))
    assert list(rejections.malformed) == ["field 'conversations.value' is a text that is no JSON list or object"]


def test_a_dialogue_may_end_with_a_tool_result_and_is_then_a_prompt(write: Write) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "heat"}}]}
    items, _ = read(write("rows.jsonl", [{"messages": [ASK, call, {"role": "tool", "content": "7"}]}] * 2))
    assert [type(item) for item in items] == [Demonstration, Prompt] * 2


MARKED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    *(({key: False}, {key: True}) for key in ("train", "train_on_turn", "trainable", "loss", "learn")),
    ({"train": "false"}, {"train": "true"}),
    ({"weight": 0}, {"weight": 1}),
    ({"loss_weight": "0.0"}, {"loss_weight": 1.0}),
    ({"mask": True}, {"mask": False}),
    ({"masked": 1}, {"masked": 0}),
    ({"loss_mask": 0}, {"loss_mask": 1}),
]


@pytest.mark.parametrize(("off", "on"), MARKED)
def test_a_marked_turn_is_context_and_not_learned(write: Write, off: dict[str, Any], on: dict[str, Any]) -> None:
    talk = [ASK, {**SAY, "content": "No.", **off}, ASK, {**SAY, **on}]
    (shown,), rejections = read(write("rows.jsonl", [{"messages": talk}]))
    assert rejections.total == 0
    assert shown.response.text == "Yes."
    assert [turn.learn for turn in shown.prompt.messages] == [True, False, True]


@pytest.mark.parametrize(
    "mark",
    [
        {"loss_mask": [0, 0, 0, 1]},
        {"loss_mask": [0, 1]},
        {"weights": [1, 0, 1, 1]},
        {"train": [False, False, False, True]},
        {"mask": [1, 1, 1, 0]},
        {"masks": [0, 0, 0, 1]},
        {"mask": "User", "loss": [0, 1]},
    ],
)
def test_marks_may_stand_in_a_list_on_the_row(write: Write, mark: dict[str, Any]) -> None:
    talk = [ASK, {**SAY, "content": "No."}, ASK, SAY]
    (shown,), _ = read(write("rows.jsonl", [{"messages": talk, **mark}]))
    assert (shown.response.text, shown.prompt.messages[1].learn) == ("Yes.", False)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [ASK, {**SAY, "weight": 0.5}]}, "field 'messages.weight' is a weight between 0 and 1"),
        (
            {"messages": [ASK, SAY], "loss_mask": [1, 1, 1]},
            "field 'loss_mask' has 3 marks for 2 turns, 1 the assistant's",
        ),
        (
            {"messages": [ASK, SAY, ASK, SAY], "mask": [1, 0, 0, 1]},
            "field 'mask' does not say whether 1 or 0 masks a turn",
        ),
        ({"messages": [ASK, {**SAY, "train": "maybe"}]}, "field 'messages.train' is not a number"),
    ],
)
def test_marks_that_say_nothing_clear_are_malformed(write: Write, row: dict[str, Any], reason: str) -> None:
    _, rejections = read(write("rows.jsonl", [row]))
    (found,) = rejections.malformed
    assert found.startswith(reason)


def test_a_dialogue_of_which_nothing_is_to_be_learned_is_counted(write: Write) -> None:
    items, rejections = read(write("rows.jsonl", [{"messages": [ASK, {**SAY, "train": False}]}]))
    assert (items, dict(rejections.unusable)) == ([], {"no turn of 'messages' is to be learned": 1})


def test_transcripts_in_one_text_become_turns(write: Write) -> None:
    marked = "Warm?\n<extra_id_1>Assistant\nYes.\n<extra_id_1>User\nSure?"
    spoken = "\n\nHuman: Warm?\n\nAssistant: Yes.\n\nHuman: Sure?\n\nAssistant: "
    for text in (marked, spoken, spoken.strip()):
        (shown,), _ = read(write("rows.jsonl", [{"prompt": text, "response": "Quite."}]))
        assert [(turn.role, turn.content) for turn in shown.prompt.messages] == [
            ("user", "Warm?"),
            ("assistant", "Yes."),
            ("user", "Sure?"),
        ]
    (plain,), _ = read(write("rows.jsonl", [{"prompt": "Human: a word for a person?", "response": " Yes."}]))
    assert (plain.prompt.text, plain.response.text) == ("Human: a word for a person?", " Yes.")


WITHOUT = {
    "palate",
    "text",
    "argilla",
    "argilla-2",
    "label-studio",
    "label-studio-pairwise",
    "open-webui",
    "squality",
}


@pytest.mark.parametrize("case", [case for case in CASES if case[0] not in WITHOUT], ids=lambda case: case[0])
def test_every_format_with_a_prompt_honours_a_system_column(
    write: Write, case: tuple[str, dict[str, Any], Any]
) -> None:
    name, row, expected = case
    system = "Be brief." if "Be brief." in str(row) else "s" if row.get("system") == "s" else "Be kind."
    items, rejections = read(write("rows.jsonl", [{**row, "system": system}]), format=name)
    assert (len(items), rejections.malformed.total()) == (len(expected), 0)
    for item in items:
        prompt = item if isinstance(item, Prompt) else item.prompt
        assert prompt.messages[0] == Message(role="system", content=system)


WITH_HISTORY = [
    case
    for case in CASES
    if case[0] not in WITHOUT | {"shp", "helpsteer3"} and "history" not in case[1] and "Be brief" not in str(case[1])
]


@pytest.mark.parametrize(
    "history", [[["Hot?", "No."]], [{"role": "user", "content": "Hot?"}, {**SAY, "content": "No."}]]
)
def test_history_is_honoured_where_there_is_a_prompt(write: Write, history: Any) -> None:
    for name, row, _ in WITH_HISTORY:
        items, _ = read(write("rows.jsonl", [{**row, "history": history}]), format=name)
        prompt = items[-1] if isinstance(items[-1], Prompt) else items[-1].prompt
        assert [turn.content for turn in prompt.messages[:2]] == ["Hot?", "No."], name


def test_history_in_a_cell_and_history_that_is_none(write: Write) -> None:
    table = (
        'prompt,response,history,system\nSure?,Yes.,"[[""Hot?"", ""No.""]]",\nSure?,Yes.,[],\nSure?,Yes.,so it was,\n'
    )
    items, rejections = read(write("rows.csv", table))
    assert [len(item.prompt.messages) for item in items] == [3, 1]
    assert list(rejections.malformed) == ["field 'history' is a text that is no JSON list or object"]


def test_two_system_prompts_that_differ_are_for_the_user_to_decide(write: Write) -> None:
    row = {"messages": [{"role": "system", "content": "Be kind."}, ASK, SAY], "system": "Be brief."}
    _, rejections = read(write("rows.jsonl", [row]))
    assert list(rejections.malformed) == [
        "field 'system' and the conversation's own system turn differ: --ignore one of them"
    ]
    (shown,), _ = read(write("rows.jsonl", [row]), ignore=["system"])
    assert shown.prompt.messages[0].content == "Be kind."


SPELLED = "[{'role': 'user', 'content': 'Warm?'}, {'role': 'assistant', 'content': \"It's so.\"}]"


@pytest.mark.parametrize(
    "cell", [SPELLED, SPELLED.replace("}, {", "}\n {"), SPELLED.replace("'", '"').replace('"It"s so."', '"It\'s so."')]
)
def test_conversations_spelled_out_in_cells(write: Write, cell: str) -> None:
    doubled = cell.replace('"', '""')
    (shown,), _ = read(write("rows.csv", f'messages\n"{doubled}"\n'))
    assert (shown.prompt.text, shown.response.text) == ("Warm?", "It's so.")


def test_a_spelled_column_is_spelled_in_every_row(write: Write) -> None:
    pair = {"chosen": SPELLED, "rejected": SPELLED.replace("so.", "not.")}
    items, rejections = read(
        write("rows.jsonl", [pair, pair, {**pair, "chosen": "[{'role': 'user', 'content': array([1])}]"}])
    )
    assert [isinstance(item, Ranking) for item in items] == [True, True]
    assert list(rejections.malformed) == [
        "field 'chosen' is no list of turns, as it is in other rows: neither in JSON nor as Python prints it"
    ]


def test_one_answer_that_happens_to_be_json_stays_a_text(write: Write) -> None:
    answers = ["Yes.", '[{"role": "user", "content": "Warm?"}]']
    rows = [{"prompt": f"p{place}", "response": text} for place, text in enumerate(answers)]
    shown = read_demonstrations(Data(path=str(write("rows.jsonl", rows)))).records
    assert [each.response.text for each in shown] == answers
