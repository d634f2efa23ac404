"""An endpoint to be asked, a constitution, and candidates with people's rankings of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.scripted_endpoint import ScriptedEndpoint, serving

from palate.records import Candidates, Message, Prompt, Ranking, Response
from palate.rewards.judges import endpoint_client

ANSWERS = ("It is good.", "It is bad and goes on for rather too long.", "Hm.")
PROMPTS = tuple(Prompt.from_text(f"What do you think of {subject}?") for subject in ("mills", "rain", "moss", "ink"))

CONSTITUTION = """
[[principles]]
name = "long"
compare = "Which answer is longer?"

[[principles]]
name = "short"
compare = "Which answer is shorter?"
critique = "Say where your last answer is too long."
revise = "Write it anew, shorter."

[[principles]]
name = "calm"
compare = "Which answer is calmer?"
critique = "Say where your last answer is excited."
revise = "Write it anew, calmly."
"""


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedEndpoint]:
    """Its model goes by length as it is asked to, and by the place where it is asked for calm."""
    monkeypatch.setattr(endpoint_client, "LONGEST_WAIT", 0.0)

    def rule(first: str, second: str, asked: str) -> float:
        if "calmer" in asked:
            return 0.75
        return 0.9 if (len(first) > len(second)) == ("longer" in asked) else 0.1

    with serving() as served:
        served.rule = rule
        yield served


@pytest.fixture
def written(tmp_path: Path) -> dict[str, str]:
    """Paths of a constitution, candidates, and rankings by two people of the first three prompts."""

    def write(name: str, lines: list[str]) -> str:
        path = tmp_path / name
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return str(path)

    responses = tuple(Response(text=text) for text in ANSWERS)
    tools = Prompt(messages=(Message(role="user", content="Weather?"),), tools=({"name": "weather"},))
    candidates = [Candidates(prompt=prompt, responses=(*responses, responses[0])) for prompt in PROMPTS]
    candidates += [
        Candidates(prompt=tools, responses=responses),
        Candidates(prompt=Prompt.from_text("Alone?"), responses=(responses[0], responses[0])),
    ]
    people = [
        Ranking(prompt=prompt, responses=responses, ranks=ranks, labeler=labeler)
        for prompt in PROMPTS[:3]
        for labeler, ranks in (("ann", (2, 1, 3)), ("bob", (1, 2, 3)))
    ]
    return {
        "constitution": write("constitution.toml", CONSTITUTION.splitlines()),
        "candidates": write("candidates.jsonl", [item.to_json() for item in candidates]),
        "prompts": write("prompts.jsonl", [prompt.to_json() for prompt in PROMPTS]),
        "people": write("people.jsonl", [item.to_json() for item in people]),
    }


@pytest.fixture
def judging(written: dict[str, str]) -> dict[str, Any]:
    """A recipe."""
    return {"model": "big", "constitution": written["constitution"], "candidates": {"path": written["candidates"]}}


def expected(first: str, second: str, principle: str) -> tuple[int, int]:
    """The ranks that the endpoint's model gives two answers in the end."""
    if principle == "calm":
        return (1, 1)
    return (1, 2) if (len(first) > len(second)) == (principle == "long") else (2, 1)
