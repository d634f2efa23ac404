"""What may be a score: one finite number for each response.

Functions that people write return None for an empty text, a pair of score and reason, too few numbers, NaN for a mean
over nothing; reward models give NaN once their weights are. Each of these ends the run in one line that names who
gave it, for which response and what it was. Nothing is repaired: a NaN that went on would win every best-of-n.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, TypeVar

from palate.errors import RewardError
from palate.records import Prompt

T = TypeVar("T")

LARGEST = 3.4028234e38
"""Of what fits the 32 bits in which rewards are computed."""

MEND = "mend the function, then go on with --resume"


def ask(name: str, judge: Callable[[Any, Any], object], prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
    """The scores that a user's function of (prompts, responses) gives, [B].

    Raises:
        RewardError: it raised, or gave something else than a finite number for each response.
    """
    return one_number_each(repr(name), call(name, judge, prompts, texts), texts, advice=MEND)


def call(name: str, judge: Callable[[Any, Any], T], prompts: Sequence[Prompt], texts: Sequence[str]) -> T:
    """Whatever a user's function of (prompts, responses) gives.

    Raises:
        RewardError: it raised.
    """
    try:
        return judge(prompts, texts)
    except (Exception, SystemExit) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise RewardError(
            f"{name!r} raised {_line(f'{type(error).__name__}: {error}')} ({where.filename}:{where.lineno}) for "
            f"{_met_by(judge, prompts, texts)}: {MEND}"
        ) from error


def one_number_each(source: str, returned: object, responses: Sequence[str], *, advice: str) -> list[float]:
    """What ``source`` returned as numbers, [B]: a list, a tuple, an array or a tensor of them.

    Raises:
        RewardError: it is something else, or a number is not finite.
    """
    values = _plain(returned)
    if not isinstance(values, list | tuple):
        raise RewardError(
            f"{source} returned {_line(repr(returned))} for {len(responses)} responses, "
            f"not a list with a number for each: {advice}"
        )
    if len(values) != len(responses):
        raise RewardError(f"{source} returned {len(values)} scores for {len(responses)} responses: {advice}")
    scores = [_plain(value) for value in values]
    for number, score in enumerate(scores):
        if not _is_finite(score):
            raise RewardError(
                f"{source} returned {_line(repr(score))} for {_named(responses, number)}, "
                f"where a score is one finite number: {advice}"
            )
    return [float(score) for score in scores]


def _is_finite(score: object) -> bool:
    """Whether it is a number, fits, and is not NaN, which is never below anything."""
    try:
        return isinstance(score, Real) and abs(float(score)) <= LARGEST
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _plain(value: Any) -> Any:
    """An array or a number of numpy or torch as Python's own."""
    return value.tolist() if hasattr(value, "tolist") else value


def _met_by(judge: Callable[[Any, Any], object], prompts: Sequence[Prompt], texts: Sequence[str]) -> str:
    """The response for which a function raises: it is asked again about each alone, until it does."""
    for number, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        try:
            judge([prompt], [text])
        except (Exception, SystemExit):
            return _named(texts, number)
    return f"{len(texts)} responses together, for none of them alone"


def _named(responses: Sequence[str], number: int) -> str:
    return f"response {number + 1} of {len(responses)} ({_line(repr(responses[number]), 60)})"


def _line(text: str, width: int = 120) -> str:
    """In one line, the rest left off."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[:width] + "…"
