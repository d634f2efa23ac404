"""An endpoint asked for real: patience, budget, cache, and a key that is in no file and no message."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.scripted_endpoint import ScriptedEndpoint, serving

from palate.errors import BudgetError, EndpointError, RecipeError
from palate.recipe import Endpoint, parse_recipe
from palate.rewards.judges import endpoint_client
from palate.rewards.judges.endpoint_client import EndpointClient

KEY = "nobodys-key-4711"
QUESTIONS = [{"messages": [{"role": "user", "content": f"What of {n}?"}]} for n in range(8)]


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedEndpoint]:
    monkeypatch.setenv("NOBODYS_KEY", KEY)
    monkeypatch.setattr(endpoint_client, "LONGEST_WAIT", 0.0)
    with serving() as served:
        yield served


def client(endpoint: ScriptedEndpoint, directory: Path, **settings: Any) -> EndpointClient:
    return EndpointClient(parse_recipe(Endpoint, {"url": endpoint.url, **settings}), "m", directory)


def test_an_answer_to_each_question_in_its_order(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.says = lambda messages: messages[-1]["content"].upper()
    replies = client(endpoint, tmp_path, at_once=3).ask(QUESTIONS)
    assert [reply.text for reply in replies] == [f"WHAT OF {n}?" for n in range(8)]
    assert {asked["path"] for asked in endpoint.asked} == {"/v1/chat/completions"}
    assert {asked["model"] for asked in endpoint.asked} == {"m"}


def test_nothing_is_asked_twice(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    first = client(endpoint, tmp_path)
    replies = first.ask(QUESTIONS)
    assert (first.requests, first.tokens, first.from_cache) == (8, 56, 0)
    second = client(endpoint, tmp_path)
    assert second.ask(QUESTIONS) == replies
    assert (second.requests, second.from_cache, len(endpoint.asked)) == (0, 8, 8)


@pytest.mark.parametrize("other", [{"temperature": 0.3}, {"seed": 1}, {"messages": [{"role": "user", "content": "?"}]}])
def test_what_is_asked_otherwise_is_asked(other: dict[str, Any], endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    asks = client(endpoint, tmp_path)
    asks.ask([QUESTIONS[0], QUESTIONS[0] | other, QUESTIONS[0]])
    assert len({str(asked) for asked in endpoint.asked}) == 2
    EndpointClient(asks.settings, "another model", tmp_path).ask(QUESTIONS[:1])
    assert endpoint.asked[-1]["model"] == "another model"


def test_a_torn_line_is_asked_again_and_the_next_one_stands_on_its_own(
    endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    client(endpoint, tmp_path, at_once=1).ask(QUESTIONS[:3])
    path = tmp_path / "answers.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    again = client(endpoint, tmp_path)
    again.ask(QUESTIONS[:4])
    assert (again.requests, again.from_cache) == (2, 2)
    last = client(endpoint, tmp_path)
    last.ask(QUESTIONS[:4])
    assert last.from_cache == 4


def test_what_passes_is_asked_again(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.failures = [(429, {}), (503, {}), (500, {})]
    asks = client(endpoint, tmp_path, at_once=1)
    assert asks.ask(QUESTIONS[:1])[0].text == "On 1 turns."
    assert asks.requests == 4


def test_it_waits_longer_each_time_or_as_it_is_told(
    endpoint: ScriptedEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(endpoint_client, "LONGEST_WAIT", 20.0)
    monkeypatch.setattr(endpoint_client.time, "sleep", waited.append)
    endpoint.failures = [(503, {}), (503, {}), (429, {"Retry-After": "17"}), (429, {"Retry-After": "999"}), (503, {})]
    client(endpoint, tmp_path, at_once=1).ask(QUESTIONS[:1])
    assert [wait for wait in waited if wait] == [1.0, 2.0, 17.0, 20.0, 16.0]


def test_what_does_not_pass_is_one_line(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.failures = [(503, {})] * 3
    with pytest.raises(EndpointError, match=r"asked 3 times, at last 503 .*go on with --resume$"):
        client(endpoint, tmp_path, retries=2, at_once=1).ask(QUESTIONS[:1])


def test_an_endpoint_that_says_nothing_is_one_line(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.silent = 0.5
    with pytest.raises(EndpointError) as caught:
        client(endpoint, tmp_path, retries=1, timeout_s=0.05, at_once=1).ask(QUESTIONS[:1])
    assert "asked 2 times, at last no answer within 0.05 seconds (endpoint.timeout_s)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nobody_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_client, "LONGEST_WAIT", 0.0)
    with socket.socket() as taken:  # bound and not listening: nobody else gets the port meanwhile
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(EndpointError, match=r"asked once, at last no answer: .*refused"):
            EndpointClient(Endpoint(url=url, retries=0), "m", tmp_path).ask(QUESTIONS[:1])


@pytest.mark.parametrize("status", [401, 403, 404, 301])
def test_a_refusal_is_told_once_and_without_the_key(status: int, endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    """The endpoint repeats the key in its message, as some do."""
    endpoint.failures = [(status, {"Location": "http://127.0.0.1:9/elsewhere"})] * 8
    with pytest.raises(EndpointError) as caught:
        client(endpoint, tmp_path, key_variable="NOBODYS_KEY", at_once=1).ask(QUESTIONS[:1])
    assert f": {status} " in str(caught.value)
    assert "no: Bearer ***" in str(caught.value)
    assert KEY not in str(caught.value)
    assert len(endpoint.asked) == 1
    assert endpoint.headers[0]["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_question_that_is_not_taken_has_the_reason(status: int, endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.failures = [(status, {})]
    replies = client(endpoint, tmp_path, at_once=1).ask(QUESTIONS[:2])
    assert replies[0].refusal.startswith(f"{status} ")
    assert (replies[1].refusal, replies[1].text) == ("", "On 1 turns.")
    assert client(endpoint, tmp_path).ask(QUESTIONS[:1])[0].text == "On 1 turns."  # it is asked again another time


def answer(content: str, *logprobs: str) -> bytes:
    tops = ", ".join(f'{{"token": "A", "logprob": {logprob}}}' for logprob in logprobs)
    choice = f'{{"message": {{"content": "{content}"}}, "logprobs": {{"content": [{{"top_logprobs": [{tops}]}}]}}}}'
    return f'{{"choices": [{choice}]}}'.encode()


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{"message": 3}]}',
        b"[1]",
        answer("A", "NaN"),
        answer("A", "3.5"),
        answer("A", "null"),
    ],
)
def test_what_is_no_answer_is_one_line(
    body: bytes, endpoint: ScriptedEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_client, "send", lambda *_: body)
    with pytest.raises(EndpointError, match="not an answer of an OpenAI-compatible API"):
        client(endpoint, tmp_path).ask(QUESTIONS[:1])
    assert not (tmp_path / "answers.jsonl").exists()


def test_what_no_file_can_hold_is_replaced(
    endpoint: ScriptedEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_client, "send", lambda *_: answer("half a \\ud83d", "-Infinity", "-0.5"))
    (reply,) = client(endpoint, tmp_path).ask(QUESTIONS[:1])
    assert (reply.text, reply.first_tokens) == ("half a ?", {"A": -0.5})
    assert client(endpoint, tmp_path).ask(QUESTIONS[:1]) == [reply]


@pytest.mark.parametrize(("setting", "used"), [("max_requests", 3), ("max_tokens", 21)])
def test_a_budget_stops_keeps_what_was_answered_and_has_as_much_again(
    setting: str, used: int, endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    for begun in (0, 3):
        asks = client(endpoint, tmp_path, at_once=1, **{setting: used})
        with pytest.raises(BudgetError, match=f"endpoint.{setting} = {used}.*--resume"):
            asks.ask(QUESTIONS)
        assert (asks.requests, asks.from_cache) == (3, begun)
    last = client(endpoint, tmp_path, at_once=1, **{setting: used})
    assert len(last.ask(QUESTIONS)) == 8
    assert (last.requests, last.from_cache, len(endpoint.asked)) == (2, 6, 8)


def test_tokens_that_nobody_counts_have_no_budget(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.counts_tokens = False
    assert client(endpoint, tmp_path).ask(QUESTIONS[:1])[0].tokens is None
    with pytest.raises(EndpointError, match="does not count tokens"):
        client(endpoint, tmp_path, max_tokens=9).ask(QUESTIONS[1:2])


def test_no_key_where_one_is_named(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    with pytest.raises(EndpointError, match="PALATE_NO_SUCH_KEY is not set in the environment"):
        client(endpoint, tmp_path, key_variable="PALATE_NO_SUCH_KEY")


@pytest.mark.parametrize(("key", "said"), [("sk-secret\n", ""), ("sk-\nsecret", "no key"), ("sk-sécret", "no key")])
def test_a_key_that_no_header_takes_is_not_repeated(
    key: str, said: str, endpoint: ScriptedEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOBODYS_KEY", key)
    if not said:
        client(endpoint, tmp_path, key_variable="NOBODYS_KEY").ask(QUESTIONS[:1])
        assert endpoint.headers[0]["Authorization"] == "Bearer sk-secret"
        return
    with pytest.raises(EndpointError, match=said) as caught:
        client(endpoint, tmp_path, key_variable="NOBODYS_KEY")
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "localhost:8000"},
        {"url": "http://ann:secret@host/v1"},
        {"url": "http://host/v1?key=secret"},
        {"url": "http://host/v1", "key_variable": "sk-secret"},
        {"url": "http://host/v1", "key_variable": "gsk_secret"},
    ],
)
def test_a_recipe_holds_no_secret_and_an_error_repeats_none(settings: dict[str, str]) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(Endpoint, settings)
    assert "secret" not in str(caught.value)
