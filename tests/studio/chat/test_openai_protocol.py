"""What may be asked, and where a stop string ends a response."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.studio.fake import done

from palate.records import Message
from palate.studio.chat.openai_protocol import ApiError, ChatRequest, Reply, UntilStop
from palate.studio.chat.wire import Piece


def asked(**changes: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **changes})


def test_messages() -> None:
    parts = [{"type": "text", "text": "How "}, {"type": "text", "text": "are you?"}]
    roles = [{"role": "developer", "content": "Be kind."}, {"role": "assistant", "content": "Hi"}]
    request = asked(messages=[*roles, {"role": "user", "content": parts, "name": "ada"}])
    assert [message.record() for message in request.messages] == [
        Message(role="system", content="Be kind."),
        Message(role="assistant", content="Hi"),
        Message(role="user", content="How are you?"),
    ]


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "assistant", "content": "Hi"}],
        [{"role": "tool", "content": "Hi"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        [{"role": "user"}],
    ],
)
def test_messages_that_cannot_be_answered(messages: list[Any]) -> None:
    with pytest.raises(ValidationError):
        asked(messages=messages)


def test_sampling() -> None:
    assert (asked().sampling.temperature, asked().sampling.max_new_tokens) == (1.0, 256)
    assert (asked(temperature=0, max_tokens=5).sampling.temperature, asked(max_tokens=5).sampling.max_new_tokens) == (
        0,
        5,
    )
    assert asked(max_tokens=5, max_completion_tokens=7).sampling.max_new_tokens == 7
    assert [asked(stop=stop).stops for stop in (None, "a", ["a", "b"], [])] == [[], ["a"], ["a", "b"], []]


@pytest.mark.parametrize(
    "given", [{"user": "x"}, {"metadata": {}}, {"top_p": 1.0}, {"tools": None}, {"response_format": {"type": "text"}}]
)
def test_what_changes_nothing_is_accepted(given: dict[str, Any]) -> None:
    asked(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"top_p": 0.9},
        {"logprobs": True},
        {"presence_penalty": 0.5},
        {"response_format": {"type": "json_object"}},
        {"tools": [{"type": "function"}]},
        {"reasoning_effort": "low"},
        {"no_such_thing": None},
    ],
)
def test_what_would_change_the_response_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ApiError, match="is not supported here: leave it out") as caught:
        asked(**given)
    (name,) = given
    assert caught.value.status == 400
    assert caught.value.body()["error"] == {
        "message": f"{name} is not supported here: leave it out",
        "type": "invalid_request_error",
        "param": name,
        "code": "unsupported_parameter",
    }


@pytest.mark.parametrize(
    "given",
    [
        {"n": 5},
        {"n": 0},
        {"temperature": -1},
        {"temperature": 2.5},
        {"max_tokens": 0},
        {"stop": ["a"] * 5},
        {"stop": ""},
    ],
)
def test_what_is_out_of_bounds(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        asked(**given)


def test_what_may_begin_a_stop_string_waits() -> None:
    until = UntilStop(["###", "\n\n"])
    assert [until.add(piece) for piece in ("a#", "#", "b#", "\n", "c\n", "\nd", "e")] == [
        "a",
        "",
        "##b",
        "#",
        "\nc",
        "",
        "",
    ]
    assert until.ended
    assert until.text == "a##b#\nc"


def test_what_waited_is_said_at_the_end() -> None:
    until = UntilStop(["###"])
    assert (until.add("a##"), until.finish(), until.ended) == ("a", "##", False)


@given(st.lists(st.text("ab", max_size=4)), st.lists(st.text("ab", min_size=1, max_size=3), max_size=3))
def test_pieces_make_the_text_before_the_first_stop_string(pieces: list[str], stops: list[str]) -> None:
    whole, until = "".join(pieces), UntilStop(stops)
    said = "".join([until.add(piece) for piece in pieces] + [until.finish()])
    ends = [(at + len(stop), at) for stop in stops if (at := whole.find(stop)) >= 0]
    assert said == until.text == whole[: min(ends)[1] if ends else len(whole)]
    assert until.ended == bool(ends)


def test_usage_is_not_guessed() -> None:
    reply = Reply(asked(n=2, stop="."))
    for index, text in ((0, "Yes. And"), (1, "No")):
        reply.take(Piece(id="1", index=index, text=text))
    assert reply.usage() is None
    reply.take(done(1, "No", model="m"))
    assert reply.is_complete
    assert [(c["message"]["content"], c["finish_reason"]) for c in reply.whole()["choices"]] == [
        ("Yes", "stop"),
        ("No", "stop"),
    ]
    assert reply.usage() is None
    both = Reply(asked(n=2))
    for index, text in ((0, "Yes."), (1, "No")):
        both.take(done(index, text, model="m"))
    assert both.usage() == {"prompt_tokens": 7, "completion_tokens": 6, "total_tokens": 13}
