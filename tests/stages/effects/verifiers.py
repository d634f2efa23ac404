"""Rows of the keys of a verifier: what is said is given, and what must come of it is written down.

They are read in one place whatever the stage (`rewards/verifiers/verified.py`), so they have their rows where a policy
learns from them, in `reinforce`; of the other stages `scoring.verifying` shows that they let a verifier judge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from tests.stages.effects.rows import Effect, Row
from tests.stages.effects.runs import Outcome, Spoil
from tests.stages.effects.shared import close

from palate.rollout.engine import Rollout

NAME = "rewards.0.verifier"
OF_THE_SUM, OTHERWISE = "The sum: 18", 'As "the lamp is lit tonight" says, 17 it is'


def reinforce() -> list[Row]:
    """Keys of a verifier."""
    number, quotes, pattern, shape = ({"kind": kind} for kind in ("number", "quotes", "pattern", "shape"))
    return [
        row("tag", ("known", "other"), number, gives(lambda t: "18" in t, lambda t: "17" in t)),
        row("fewest_words", (5, 6), quotes, gives(lambda t: '"' in t, lambda t: False)),
        row("without_quotes", (0.25, 0.75), quotes, gives(without(0.25), without(0.75))),
        row(
            "must_match",
            (["^The"], ["says, "]),
            pattern | {"must_not_match": ["!"]},
            gives(the_sum, lambda t: "says" in t),
        ),
        row("must_not_match", (["^The"], ["nothing"]), pattern, gives(lambda t: not the_sum(t), lambda t: True)),
        row("starts_with", ("The", "As"), shape, gives(the_sum, lambda t: not the_sum(t))),
        row("ends_with", ("18", "is"), shape, gives(the_sum, lambda t: not the_sum(t))),
        row("max_words", (3, 30), shape, gives(the_sum, lambda t: True)),
        row("sections", (["The sum: 18"], ["Sum"]), shape, gives(the_sum, lambda t: False)),
        row(
            "json_schema",
            ({"type": "integer"}, {"not": {"type": "integer"}, "type": "string"}),
            {"kind": "schema", "tag": ""},
            gives(lambda t: t == "18", lambda t: False),
        ),
        row("seconds", (30.0, 0.2), code("import time; time.sleep(0.5)"), gives(the_sum, lambda t: False)),
        row("memory_mb", (512, 100), code("bytearray(200 << 20)"), gives(the_sum, lambda t: False)),
        row("isolation", ("full", "limits"), code(ELSEWHERE), gives(the_sum, lambda t: False)),
    ]


ELSEWHERE = "import os; assert os.getpid() == 1"
"""Passes in a process namespace of its own alone."""


def code(tests: str) -> dict[str, Any]:
    """Settings under which the code of `says` is tested so; the tests are the tag's name, so that both are one key."""
    return {"kind": "tests", "tag": tests}


def row(key: str, values: tuple[Any, Any], settings: Mapping[str, Any], effect: Effect) -> Row:
    """Of one key, under the others; one response of three or so says the sum."""
    given = {f"{NAME}.{name}": value for name, value in settings.items()} | {"rewards.0.function": None, "steps": 1}
    return Row(f"{NAME}.{key}", values, effect, given, spoil=saying(settings))


def saying(settings: Mapping[str, Any]) -> Spoil:
    """Code, where tests are to run: one that works, and some that is none. Otherwise two sentences."""
    tests = settings["tag"] if settings["kind"] == "tests" else ""
    texts = (OF_THE_SUM, OTHERWISE, OTHERWISE) if not tests else ("x = 18", "", "")
    texts = ("18", "no JSON", "no JSON") if settings["kind"] == "schema" else texts

    def says(rollout: Rollout) -> Rollout:
        tags = {"known": "the lamp is lit tonight, and 18", "other": "17", **({tests: tests} if tests else {})}
        return replace(
            rollout,
            prompts=tuple(
                prompt.model_copy(
                    update={
                        "tags": tags,
                        "messages": (
                            *prompt.messages[:-1],
                            prompt.messages[-1].model_copy(update={"content": "the lamp is lit tonight"}),
                        ),
                    }
                )
                for prompt in rollout.prompts
            ),
            texts=tuple(texts[number % 3] for number in range(len(rollout.texts))),
        )

    return says


def the_sum(text: str) -> bool:
    """Whether it is the response that says 18."""
    return "18" in text


def without(score: float) -> Callable[[str], float]:
    """What a response scores that quotes nothing, where the other one quotes what stands there."""
    return lambda text: 1.0 if '"' in text else score


def gives(first: Callable[[str], float], second: Callable[[str], float]) -> Effect:
    """What a verifier with the first and with the second value says of a text."""

    def effect(a: Outcome, b: Outcome) -> None:
        for outcome, score in ((a, first), (b, second)):
            scores = torch.tensor([float(score(text)) for text in outcome.rollouts[0].texts])
            assert close(outcome.metrics[0]["objective/score"], scores.mean())
        assert a.metrics[0]["objective/score"] != b.metrics[0]["objective/score"]

    return effect
