"""What may be asked, in which words it is refused, and where a stop string ends a response."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from tests.studio.fake import done

from palate.records import Message, ToolCall
from palate.studio.chat.endpoint.errors import ApiError
from palate.studio.chat.endpoint.replies import Bit, ChatReply, TextReply, UntilStop
from palate.studio.chat.endpoint.requests import IGNORED, NEUTRAL, ChatRequest, CompletionRequest
from palate.studio.chat.endpoint.routes import Route
from palate.studio.chat.wire import Chosen, Piece, Token

HI = [{"role": "user", "content": "Hi"}]


def asked(**changes: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": HI, **changes})


@pytest.fixture(scope="module")
def client() -> TestClient:
    """A server that reads requests, and says nothing."""
    app = FastAPI()
    app.router.route_class = Route

    @app.post("/chat")
    def chat(asked: ChatRequest) -> None: ...

    @app.post("/text")
    def text(asked: CompletionRequest) -> None: ...

    return TestClient(app)


def said(client: TestClient, **body: Any) -> dict[str, Any]:
    """The error that a request gets."""
    response = client.post("/chat", json={"model": "m", "messages": HI, **body})
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    return error


def test_messages() -> None:
    parts = [{"type": "text", "text": "How "}, {"type": "text", "text": "are you?"}]
    roles = [{"role": "developer", "content": "Be kind."}, {"role": "assistant", "content": "Hi"}]
    request = asked(messages=[*roles, {"role": "user", "content": parts, "name": "ada"}])
    assert request.prompt_messages == [
        Message(role="system", content="Be kind."),
        Message(role="assistant", content="Hi"),
        Message(role="user", content="How are you?"),
    ]


@pytest.mark.parametrize(
    ("message", "content"),
    [
        ({"content": "Hi", "refusal": None, "annotations": [], "audio": None, "tool_calls": None}, "Hi"),
        ({"content": "Hi", "function_call": None, "tool_calls": [], "annotations": None}, "Hi"),
        ({"content": None, "refusal": "I cannot."}, "I cannot."),
        ({"content": [{"type": "refusal", "refusal": "I cannot."}]}, "I cannot."),
        ({"content": ""}, ""),
    ],
)
def test_what_clients_keep_of_a_reply_is_accepted(message: dict[str, Any], content: str) -> None:
    first, _ = asked(messages=[{"role": "assistant", **message}, *HI]).prompt_messages
    assert first == Message(role="assistant", content=content)


def test_every_parameter_of_the_protocol_is_known() -> None:
    """One that the client library may send is a field, changes nothing, or is refused as what it is."""
    from openai.types import completion_create_params as text
    from openai.types.chat import completion_create_params as chat

    for model, params in ((ChatRequest, chat), (CompletionRequest, text)):
        known = model.model_fields.keys() | IGNORED | NEUTRAL.keys()
        assert not params.CompletionCreateParamsBase.__annotations__.keys() - known


CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}, "strict": True}}


def test_tools_and_what_came_of_them() -> None:
    called = {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None}
    request = asked(messages=[*HI, called, {"role": "tool", "tool_call_id": "c1", "content": "rain"}], tools=[TOOL])
    _, call, result = request.prompt_messages
    assert call.tool_calls == (ToolCall(name="weather", arguments='{"city": "Ulm"}', id="c1"),)
    assert result == Message(role="tool", content="rain", tool_call_id="c1", name="weather")
    assert request.definitions == [TOOL]
    assert asked(tools=[TOOL], tool_choice="none").definitions == []


def test_sampling() -> None:
    assert (asked().sampling.temperature, asked().sampling.max_new_tokens) == (1.0, 256)
    assert asked(temperature=0, max_tokens=5).sampling.temperature == 0
    assert asked(max_tokens=5).sampling.max_new_tokens == 5
    assert asked(max_tokens=5, max_completion_tokens=7).sampling.max_new_tokens == 7
    assert asked(max_tokens=20_000).sampling.max_new_tokens == 20_000
    assert asked().sampling.shaping == {}
    assert asked(top_p=1, presence_penalty=0, logit_bias={}, logprobs=False).sampling.shaping == {}
    shaped = asked(
        top_p=0.0, presence_penalty=-1, frequency_penalty=0.5, logit_bias={"7": -100}, logprobs=True, top_logprobs=3
    )
    assert shaped.sampling.shaping == {
        "top_p": 0.0,
        "presence_penalty": -1,
        "frequency_penalty": 0.5,
        "logit_bias": {7: -100},
        "num_likely": 3,
    }
    assert asked(logprobs=True).sampling.num_likely == 0
    assert [asked(stop=stop).stops for stop in (None, "a", ["a", "b"], [])] == [[], ["a"], ["a", "b"], []]


def test_a_text_to_be_continued() -> None:
    request = CompletionRequest.model_validate({"model": "m", "prompt": ["Once upon"], "logprobs": 2, "best_of": 1})
    assert request.prompt_messages == [Message(role="user", content="Once upon")]
    assert (request.sampling.max_new_tokens, request.sampling.num_likely) == (16, 2)


@pytest.mark.parametrize(
    "given",
    [{"user": "x"}, {"metadata": {}}, {"tools": None}, {"tool_choice": "auto"}, {"response_format": {"type": "text"}}],
)
def test_what_changes_nothing_is_accepted(given: dict[str, Any]) -> None:
    asked(**given)


@pytest.mark.parametrize(
    "given", [{"response_format": {"type": "json_object"}}, {"reasoning_effort": "low"}, {"audio": {}}]
)
def test_what_would_change_the_response_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ApiError, match="is not supported here: leave it out") as caught:
        asked(**given)
    (name,) = given
    assert caught.value.status == 400
    assert caught.value.body()["error"] == {
        "message": f"Unsupported parameter: '{name}' is not supported here: leave it out.",
        "type": "invalid_request_error",
        "param": name,
        "code": "unsupported_parameter",
    }


INVALID_TYPE = "Invalid type for '{}': expected {}, but got {} instead."
WORDS: list[tuple[dict[str, Any], str, str, str]] = [
    (
        {"messages": [{"role": "user", "content": 5}]},
        "Invalid type for 'messages[0].content': expected a string or an array, but got an integer instead.",
        "messages[0].content",
        "invalid_type",
    ),
    (
        {"messages": [*HI, {"role": "user", "content": [{"type": "text", "text": ["x"]}]}]},
        "Invalid type for 'messages[1].content[0].text': expected a string, but got an array instead.",
        "messages[1].content[0].text",
        "invalid_type",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "Invalid value: 'image_url'. Supported values are: 'text', and 'refusal'.",
        "messages[0].content[0].type",
        "invalid_value",
    ),
    (
        {"messages": [{"content": "Hi"}]},
        "Missing required parameter: 'messages[0].role'.",
        "messages[0].role",
        "missing_required_parameter",
    ),
    (
        {"messages": [{"role": "user"}]},
        "Invalid 'messages[0]': a message needs content: a string or an array of objects.",
        "messages[0]",
        "invalid_value",
    ),
    (
        {"messages": [{"role": "user", "content": "Hi", "colour": 1}]},
        "Unknown parameter: 'messages[0].colour'.",
        "messages[0].colour",
        "unknown_parameter",
    ),
    (
        {"messages": []},
        "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.",
        "messages",
        "empty_array",
    ),
    ({"messages": "Hi"}, INVALID_TYPE.format("messages", "an array", "a string"), "messages", "invalid_type"),
    ({"model": None}, "Invalid type for 'model': expected a string, but got null instead.", "model", "invalid_type"),
    (
        {"n": 5},
        "Invalid 'n': integer above maximum value. Expected a value <= 4, but got 5 instead.",
        "n",
        "integer_above_max_value",
    ),
    (
        {"temperature": 2.5},
        "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 2.5 instead.",
        "temperature",
        "decimal_above_max_value",
    ),
    (
        {"max_tokens": 0},
        "Invalid 'max_tokens': integer below minimum value. Expected a value >= 1, but got 0 instead.",
        "max_tokens",
        "integer_below_min_value",
    ),
    (
        {"max_tokens": "many"},
        "Invalid type for 'max_tokens': expected an integer, but got a string instead.",
        "max_tokens",
        "invalid_type",
    ),
    (
        {"stop": ["a"] * 5},
        "Invalid 'stop': array too long. Expected an array with maximum length 4, "
        "but got an array with length 5 instead.",
        "stop",
        "array_above_max_length",
    ),
    (
        {"stop": ""},
        "Invalid 'stop': empty string. Expected a string with minimum length 1, but got an empty string instead.",
        "stop",
        "empty_string",
    ),
    (
        {"top_logprobs": 2},
        "Invalid 'top_logprobs': 'logprobs' must be true when it is given.",
        "top_logprobs",
        "invalid_value",
    ),
    (
        {"tools": [{"type": "function", "function": {}}]},
        "Missing required parameter: 'tools[0].function.name'.",
        "tools[0].function.name",
        "missing_required_parameter",
    ),
    (
        {"tool_choice": "required"},
        "Invalid value: 'required'. Supported values are: 'none', and 'auto'.",
        "tool_choice",
        "invalid_value",
    ),
    (
        {"messages": [{"role": "tool", "content": "rain"}]},
        "Invalid 'messages[0]': a tool's message needs the tool_call_id of the call that it answers.",
        "messages[0]",
        "invalid_value",
    ),
    ({"no_such_thing": None}, "Unknown parameter: 'no_such_thing'.", "no_such_thing", "unknown_parameter"),
    (
        {"logit_bias": {"x": 1}},
        INVALID_TYPE.format("logit_bias.x", "an integer", "a string"),
        "logit_bias.x",
        "invalid_type",
    ),
]


@pytest.mark.parametrize(("body", "message", "param", "code"), WORDS)
def test_errors_are_in_the_protocols_words(
    client: TestClient, body: dict[str, Any], message: str, param: str, code: str
) -> None:
    assert said(client, **body) == {
        "message": message,
        "type": "invalid_request_error",
        "param": param,
        "code": code,
    }


def test_a_turn_of_the_assistants_alone_cannot_be_continued(client: TestClient) -> None:
    error = said(client, messages=[{"role": "assistant", "content": "Hi"}])
    assert "can only be continued after a turn" in error["message"]


@pytest.mark.parametrize("body", ["{", "[]", '"x"', ""])
def test_a_body_that_is_no_object(client: TestClient, body: str) -> None:
    response = client.post("/chat", content=body, headers={"Content-Type": "application/json"})
    assert response.json()["error"]["message"].startswith("We could not parse the JSON body of your request")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-9, 9) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "name"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(JSON, st.sampled_from(sorted(ChatRequest.model_fields)))
def test_no_words_of_the_validator_come_through(client: TestClient, value: Any, name: str) -> None:
    """Whatever stands in whatever field: the parameter that is named is one that was sent, in the protocol's words."""
    response = client.post("/chat", json={"model": "m", "messages": HI, name: value})
    assert response.status_code in {200, 400}
    if response.status_code == 400:
        error = response.json()["error"]
        assert error["param"].startswith(name) or error["param"] == "top_logprobs"
        assert not any(part in error["message"] for part in ("list[", "constrained", "function-", "Input should"))


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
    reply = ChatReply(asked(n=2, stop="."))
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
    both = ChatReply(asked(n=2))
    for index, text in ((0, "Yes."), (1, "No")):
        both.take(done(index, text, model="m"))
    assert both.usage() == {"prompt_tokens": 7, "completion_tokens": 6, "total_tokens": 13}


def chosen(text: str, logprob: float = -0.5) -> Chosen:
    return Chosen(text=text, logprob=logprob, likely=(Token(text="z", logprob=-0.1),))


def bits(choice: Any, *pieces: str) -> list[Bit]:
    return [choice.take(Piece(id="1", index=0, text=text, chosen=chosen(text))) for text in pieces]


def test_tokens_go_with_their_text() -> None:
    """A token that may begin a stop string waits with it, and one behind a stop string is never told."""
    reply = ChatReply(asked(stop="##", logprobs=True))
    told = bits(reply.choices[0], "a", "#", "b", "c#", "#d")
    assert [bit.text for bit in told] == ["a", "", "#b", "c", ""]
    assert [[each.token.text for each in bit.tokens] for bit in told] == [["a"], [], ["#", "b"], ["c#"], []]
    content = reply.whole()["choices"][0]["logprobs"]["content"]
    assert [token["token"] for token in content] == ["a", "#", "b", "c#"]
    assert content[0] == {
        "token": "a",
        "logprob": -0.5,
        "bytes": [97],
        "top_logprobs": [{"token": "z", "logprob": -0.1, "bytes": [122]}],
    }


def test_tokens_without_text_are_told_at_the_end() -> None:
    reply = ChatReply(asked(logprobs=True))
    told = [*bits(reply.choices[0], "a", ""), reply.take(done(0, "a", model="m"))]
    assert [len(bit.tokens) for bit in told] == [1, 0, 1]


def test_logprobs_of_a_text() -> None:
    reply = TextReply(CompletionRequest.model_validate({"model": "m", "prompt": "x", "logprobs": 1}))
    bits(reply.choices[0], "ab", "c")
    reply.take(done(0, "abc", model="m"))
    (choice,) = reply.whole()["choices"]
    assert choice == {
        "index": 0,
        "finish_reason": "stop",
        "text": "abc",
        "logprobs": {
            "tokens": ["ab", "c"],
            "token_logprobs": [-0.5, -0.5],
            "top_logprobs": [{"z": -0.1}, {"z": -0.1}],
            "text_offset": [0, 2],
        },
    }


def test_a_part_of_a_character_has_no_bytes_to_tell() -> None:
    reply = ChatReply(asked(logprobs=True))
    reply.take(Piece(id="1", index=0, text="", chosen=chosen("\ufffd")))
    reply.take(done(0, "", model="m"))
    (token,) = reply.whole()["choices"][0]["logprobs"]["content"]
    assert (token["token"], token["bytes"]) == ("\ufffd", None)
