"""A term of a reward that checks: the verifier that a recipe names, over a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from palate.recipe import Verifier
from palate.records import Prompt
from palate.rewards.verifiers.json_schema import schema_of, verify_json
from palate.rewards.verifiers.number import verify_number
from palate.rewards.verifiers.pattern import verify_patterns
from palate.rewards.verifiers.quotes import verify_quotes
from palate.rewards.verifiers.sandbox import Sandbox
from palate.rewards.verifiers.shape import verify_shape
from palate.rewards.verifiers.unit_tests import verify_code
from palate.rewards.verifiers.verdict import Verdict

Check = Callable[[Verifier, Sequence[Prompt], Sequence[str]], list[Verdict]]


def verify(settings: Verifier, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Verdict]:
    """[B] a verdict on each response.

    Raises:
        RewardError: a prompt has not what the verifier needs, or what checks cannot run here.
    """
    return CHECKS[settings.kind](settings, prompts, responses)


def _numbers(settings: Verifier, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Verdict]:
    tag = settings.tag or "answer"
    return [verify_number(prompt, text, tag=tag) for prompt, text in zip(prompts, responses, strict=True)]


def _quotes(settings: Verifier, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Verdict]:
    return [
        verify_quotes(
            prompt, text, tag=settings.tag, fewest_words=settings.fewest_words, without=settings.without_quotes
        )
        for prompt, text in zip(prompts, responses, strict=True)
    ]


def _patterns(settings: Verifier, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Verdict]:
    return verify_patterns(responses, must_match=settings.must_match, must_not_match=settings.must_not_match)


def _shapes(settings: Verifier, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Verdict]:
    return [
        verify_shape(
            text,
            starts_with=settings.starts_with,
            ends_with=settings.ends_with,
            max_words=settings.max_words,
            sections=settings.sections,
        )
        for text in responses
    ]


def _schemas(settings: Verifier, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Verdict]:
    return [
        verify_json(text, schema_of(prompt, settings.tag) if settings.tag else settings.json_schema)
        for prompt, text in zip(prompts, responses, strict=True)
    ]


def _tests(settings: Verifier, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Verdict]:
    sandbox = Sandbox(seconds=settings.seconds, memory_mb=settings.memory_mb, isolated=settings.isolation == "full")
    return verify_code(prompts, responses, sandbox, tag=settings.tag or "tests")


CHECKS: Mapping[str, Check] = {
    "number": _numbers,
    "quotes": _quotes,
    "pattern": _patterns,
    "shape": _shapes,
    "schema": _schemas,
    "tests": _tests,
}
"""By kind."""
