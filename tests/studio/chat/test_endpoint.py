"""The endpoint, asked by the real `openai` client over real HTTP, and answered by a real model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import openai
import pytest
from openai import OpenAI
from tests.studio.conftest import ClientOf, Studio
from tests.studio.fake import Fake, failed
from tests.studio.live import TIMEOUT, Live

from palate.feedback.store import policies
from palate.lm.sources.builtin import byte_tokenizer
from palate.studio.chat import wire

HI = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def client(live: Live) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{live.url}/v1", api_key=live.token("chat"), max_retries=0, timeout=TIMEOUT) as client:
        yield client


def test_models(live: Live, client: OpenAI) -> None:
    models = {model.id: model for model in client.models.list()}
    assert {"tiny", "talker"} <= models.keys()
    assert (models["tiny"].object, models["tiny"].owned_by) == ("model", "Palate")
    assert client.models.retrieve("tiny") == models["tiny"]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no/such/model")


def test_a_response(client: OpenAI) -> None:
    reply = client.chat.completions.create(model="talker", messages=HI, max_tokens=9, seed=3)
    (choice,) = reply.choices
    assert choice.message.role == "assistant"
    assert len(choice.message.content or "") == 9
    assert choice.finish_reason == "length"
    assert (reply.object, reply.model) == ("chat.completion", "talker")
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 9
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 9
    assert len(reply.system_fingerprint or "") > 8
    again = client.chat.completions.create(model="talker", messages=HI, max_completion_tokens=9, seed=3)
    assert again.choices[0].message.content == choice.message.content
    other = client.chat.completions.create(model="talker", messages=HI, max_tokens=9, seed=4)
    assert other.choices[0].message.content != choice.message.content


def test_temperature_zero_is_greedy(client: OpenAI) -> None:
    replies = client.chat.completions.create(model="talker", messages=HI, max_tokens=9, temperature=0, n=4)
    assert [choice.index for choice in replies.choices] == [0, 1, 2, 3]
    assert len({choice.message.content for choice in replies.choices}) == 1
    assert replies.usage is not None
    assert replies.usage.completion_tokens == 36


def test_a_stream(client: OpenAI) -> None:
    options = {"include_usage": True}
    whole = client.chat.completions.create(model="talker", messages=HI, max_tokens=9, seed=3, n=2)
    texts, reasons, roles, usage = ["", ""], ["", ""], [], None
    with client.chat.completions.create(
        model="talker", messages=HI, max_tokens=9, seed=3, n=2, stream=True, stream_options=options
    ) as stream:
        chunks = list(stream)
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] += choice.finish_reason or ""
            roles += [choice.delta.role] if choice.delta.role else []
    assert texts == [choice.message.content for choice in whole.choices]
    assert texts[0] != texts[1]
    assert (reasons, roles) == (["length", "length"], ["assistant", "assistant"])
    assert usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1
    assert sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in chunks) == 18


def test_a_stop_string(client: OpenAI) -> None:
    whole = (
        client.chat.completions.create(model="talker", messages=HI, max_tokens=60, seed=3).choices[0].message.content
    )
    assert whole is not None
    stop = whole[20:22]
    expected = whole.split(stop)[0]
    cut = client.chat.completions.create(model="talker", messages=HI, max_tokens=60, seed=3, stop=stop)
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason, cut.usage) == (expected, "stop", None)
    with client.chat.completions.create(
        model="talker", messages=HI, max_tokens=60, seed=3, stop=[stop, "@@"], stream=True
    ) as stream:
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == expected


def test_errors(live: Live, client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="'reasoning_effort' is not supported here") as bad:
        client.chat.completions.create(model="talker", messages=HI, reasoning_effort="low")
    assert (bad.value.code, bad.value.param, bad.value.type) == (
        "unsupported_parameter",
        "reasoning_effort",
        "invalid_request_error",
    )
    with pytest.raises(openai.BadRequestError, match="Expected a value <= 4, but got 9 instead"):
        client.chat.completions.create(model="talker", messages=HI, n=9)
    with pytest.raises(openai.BadRequestError, match="there is no token 5000 to bias") as bias:
        client.chat.completions.create(model="talker", messages=HI, logit_bias={"5000": 1})
    assert bias.value.param == "logit_bias"
    with pytest.raises(openai.NotFoundError, match="The model `gpt` does not exist") as missing:
        client.chat.completions.create(model="gpt", messages=HI)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="do not fit the model's context") as long:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "a" * 3000}])
    assert long.value.code == "context_length_exceeded"
    stranger = OpenAI(base_url=f"{live.url}/v1", api_key="wrong", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError) as nobody:
        stranger.models.list()
    assert nobody.value.code == "invalid_api_key"


def test_a_loop_of_five_turns_with_the_clients_own_messages(client: OpenAI) -> None:
    """As every tutorial writes it: the reply's message, as the client built it, goes back with the next turn."""
    messages: list[Any] = []
    for turn in range(5):
        messages.append({"role": "user", "content": f"Turn {turn}"})
        reply = client.chat.completions.create(
            model="talker", messages=messages, max_tokens=4, seed=turn, logprobs=True, top_logprobs=2
        )
        message, logprobs = reply.choices[0].message, reply.choices[0].logprobs
        assert logprobs is not None
        assert "".join(token.token for token in logprobs.content or ()) == message.content
        messages.append(message if turn % 2 else message.model_dump())
    assert [message["role"] if isinstance(message, dict) else message.role for message in messages] == [
        "user",
        "assistant",
    ] * 5


def test_a_loop_of_five_turns_streamed(client: OpenAI) -> None:
    messages: list[Any] = []
    for turn in range(5):
        messages.append({"role": "user", "content": f"Turn {turn}"})
        with client.chat.completions.create(
            model="talker", messages=messages, max_tokens=4, seed=turn, stream=True
        ) as stream:
            pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
        assert len("".join(pieces)) == 4
        messages.append({"role": "assistant", "content": "".join(pieces), "refusal": None, "tool_calls": None})
    assert len(messages) == 10


def test_logprobs_in_a_stream_are_those_of_the_whole(client: OpenAI) -> None:
    settings: dict[str, Any] = {"model": "talker", "messages": HI, "max_tokens": 6, "seed": 3, "logprobs": True}
    whole = client.chat.completions.create(**settings, top_logprobs=3).choices[0].logprobs
    with client.chat.completions.create(**settings, top_logprobs=3, stream=True) as stream:
        told = [
            token for chunk in stream if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content or ()
        ]
    assert whole is not None
    assert whole.content == told
    assert [len(token.top_logprobs) for token in told] == [3] * 6
    for token in told:
        best = [each.logprob for each in token.top_logprobs]
        assert best == sorted(best, reverse=True)
        assert token.logprob <= best[0] < 0


def test_what_shapes_a_response(client: OpenAI) -> None:
    settings: dict[str, Any] = {"model": "talker", "messages": HI, "max_tokens": 12, "seed": 3}
    (letter,) = byte_tokenizer()("q").input_ids
    (plain, likeliest, biased) = (
        client.chat.completions.create(**settings, **changes).choices[0].message.content or ""
        for changes in ({"temperature": 0}, {"top_p": 0}, {"logit_bias": {str(letter): 100}})
    )
    assert likeliest == plain  # the most likely token alone is kept
    assert biased == "q" * 12
    penal = client.chat.completions.create(**settings, temperature=0, frequency_penalty=2, presence_penalty=2)
    assert len(set(penal.choices[0].message.content or "")) >= len(set(plain))


def test_the_assistants_turn_is_continued(client: OpenAI) -> None:
    """What follows the beginning comes back, and with it made longer by that the rest is the same."""
    settings: dict[str, Any] = {"model": "talker", "temperature": 0}
    begun = [*HI, {"role": "assistant", "content": "Well"}]
    longer = client.chat.completions.create(**settings, messages=begun, max_tokens=8).choices[0].message.content
    assert longer is not None
    begun[-1]["content"] = "Well" + longer[:3]
    rest = client.chat.completions.create(**settings, messages=begun, max_tokens=5).choices[0].message.content
    assert rest == longer[3:]


def test_a_text_is_continued(client: OpenAI) -> None:
    settings: dict[str, Any] = {"model": "talker", "prompt": "Once upon a", "max_tokens": 6, "seed": 5, "logprobs": 2}
    reply = client.completions.create(**settings)
    (choice,) = reply.choices
    assert (reply.object, choice.finish_reason, len(choice.text)) == ("text_completion", "length", 6)
    assert choice.logprobs is not None
    assert "".join(choice.logprobs.tokens or ()) == choice.text
    assert choice.logprobs.text_offset == [0, 1, 2, 3, 4, 5]
    assert all(likely and len(likely) == 2 for likely in choice.logprobs.top_logprobs or ())
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == len("Once upon a")
    with client.completions.create(**settings, stream=True) as stream:
        assert "".join(chunk.choices[0].text for chunk in stream) == choice.text
    with pytest.raises(openai.BadRequestError, match="'echo' is not supported here"):
        client.completions.create(**settings, echo=True)


def test_streams_are_bounded_for_each_person(client: OpenAI) -> None:
    long = {"model": "talker", "messages": HI, "max_tokens": 1900, "stream": True}
    with client.chat.completions.create(**long) as one, client.chat.completions.create(**long) as two:
        next(iter(one)), next(iter(two))
        for stream in (True, False):
            with pytest.raises(openai.RateLimitError, match="being written for you already") as busy:
                client.chat.completions.create(**(long | {"stream": stream}))
            assert busy.value.response.headers["retry-after"] == "1"
            assert busy.value.code == "rate_limit_exceeded"


@pytest.mark.parametrize("stream", [True, False])
def test_it_ends_with_its_reader(live: Live, stream: bool) -> None:
    headers = {"Authorization": f"Bearer {live.token('chat')}"}
    body = {"model": "talker", "messages": HI, "max_tokens": 1900, "stream": stream}
    users = live.studio.app.state.generator._users
    _until(lambda: not users)
    with httpx.Client(base_url=live.url, headers=headers, timeout=TIMEOUT) as client:
        if stream:
            with client.stream("POST", "/v1/chat/completions", json=body) as response:
                reading = response.iter_bytes()  # kept: once nobody holds it, the response is closed
                next(reading)
                assert users
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post("/v1/chat/completions", json=body, timeout=httpx.Timeout(TIMEOUT, read=0.3))
    _until(lambda: not users)


def _until(true: object) -> None:
    end = time.monotonic() + TIMEOUT
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


def _post(client: object, **body: object) -> httpx.Response:
    return client.post("/v1/chat/completions", json={"model": "base", "messages": HI, **body})  # type: ignore[attr-defined]


def test_a_loop_with_tools(studio: Studio, client_of: ClientOf) -> None:
    """The client's own messages with a call and its result, and the tools: all of it reaches the model."""
    fake = studio.app.state.generator = Fake("It rains.")
    with studio.store.write() as session:
        policies.base_policy(session, "base")
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    tool = {"type": "function", "function": {"name": "weather"}}
    messages = [*HI, {"role": "assistant", "content": None, "tool_calls": [call], "audio": None}]
    messages.append({"role": "tool", "tool_call_id": "c1", "content": "rain"})
    reply = _post(client_of("chat"), messages=messages, tools=[tool], tool_choice="auto")
    assert reply.json()["choices"][0]["message"]["content"] == "It rains."
    assert fake.tools == [tool]
    assert fake.asked == [("base", [("user", "Hi"), ("assistant", ""), ("tool", "rain")])]


def test_tools_are_refused_where_the_template_does_not_know_them(client: OpenAI) -> None:
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    with pytest.raises(openai.BadRequestError, match="the chat template does not show definitions of tools"):
        client.chat.completions.create(model="talker", messages=HI, tools=[tool])


def test_failures_of_the_worker(studio: Studio, client_of: ClientOf) -> None:
    client = client_of("chat")
    with studio.store.write() as session:
        policies.base_policy(session, "base")
    cases = [
        (failed("TemplateError", "no system turns"), 400, "invalid_request_error"),
        (failed("ModelError", "no weights"), 404, "invalid_request_error"),
        (failed("WorkerDied", "it died"), 503, "server_error"),
        (failed("KeyError", "a bug"), 503, "server_error"),
    ]
    for failure, status, kind in cases:
        studio.app.state.generator = Fake(failure)
        response = _post(client)
        assert (response.status_code, response.json()["error"]["type"]) == (status, kind)


def test_a_failure_in_the_middle_of_a_stream_is_an_event(studio: Studio, client_of: ClientOf) -> None:
    class Breaks(Fake):
        async def stream(self, *args, **kwargs):
            yield wire.Piece(id="1", index=0, text="Hel")
            yield failed("WorkerDied", "it died")

    with studio.store.write() as session:
        policies.base_policy(session, "base")
    studio.app.state.generator = Breaks()
    text = _post(client_of("chat"), stream=True).text
    assert '"content": "Hel"' in text
    assert '"error": {"message": "it died"' in text
    assert "[DONE]" not in text
