"""What the exporters share: the pieces of a record, each with the reason why it cannot be written.

An exporter is a function from a record to rows. It says no to a record, or to one pair of it, by an `Unusable` that is
raised or yielded; it says a thing otherwise than the record does only with a `Note`. Both are counted.

Every reader of ours refuses a blank text, so no exporter writes one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any, TypeAlias

from palate.corpus.catalogue.format import KIND_NAMES, Item
from palate.corpus.rows.rejections import Unusable
from palate.corpus.rows.turns import transcript
from palate.corpus.rows.values import ranks_by
from palate.records import Demonstration, Message, Prompt, Ranking, Response

Row: TypeAlias = dict[str, Any]
_TOOLS = "tools, calls or results of them, for which the format has no place"


@dataclass(frozen=True, slots=True)
class Note:
    """What a row that was written says in its own way."""

    text: str


Exported: TypeAlias = Iterator[Row | Unusable | Note]
Exporter: TypeAlias = Callable[[Item], Exported]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two responses of one ranking.

    Attributes:
        lead: 1 where the first is better, -1 where the second is, 0 for a tie.
        strength: of a ranking of two, if it says so.
        ratings: of the first and the second.
        labeler: who compared them.
    """

    prompt: Prompt
    first: Response
    second: Response
    lead: int
    strength: float | None
    ratings: tuple[float, float] | None
    labeler: str


def in_pairs(write: Callable[[Comparison], Exported]) -> Exporter:
    """An exporter of ordered pairs, the better response first; ties are counted."""
    return partial(_each, ordered_pairs, write)


def in_comparisons(write: Callable[[Comparison], Exported]) -> Exporter:
    """An exporter of all pairs, the responses in the order of the record, ties among them."""
    return partial(_each, comparisons, write)


def _each(
    split: Callable[[Ranking], Iterator[Comparison | Unusable]], write: Callable[[Comparison], Exported], item: Item
) -> Exported:
    for comparison in split(ranking_of(item)):
        try:
            if isinstance(comparison, Unusable):
                raise comparison
            yield from write(comparison)
        except Unusable as problem:
            yield problem


def ordered_pairs(ranking: Ranking) -> Iterator[Comparison | Unusable]:
    """Every strictly ordered pair, the better response first; then the ties, as problems."""
    _at_least_two(ranking)
    for better, worse in ranking.pairs:
        yield _comparison(ranking, better, worse)
    num_ties = sum(first == second for first, second in combinations(ranking.ranks, 2))
    yield from [Unusable("a tie: the format has none")] * num_ties


def comparisons(ranking: Ranking) -> Iterator[Comparison | Unusable]:
    """Every pair in the order of the record, tied or not."""
    _at_least_two(ranking)
    for first, second in combinations(range(len(ranking.ranks)), 2):
        yield _comparison(ranking, first, second)


def _comparison(ranking: Ranking, i: int, j: int) -> Comparison | Unusable:
    first, second = ranking.responses[i], ranking.responses[j]
    if first.tool_calls or second.tool_calls:
        return Unusable(_TOOLS)
    if not (first.text.strip() and second.text.strip()):
        return Unusable("an empty response")
    if first.text == second.text:
        return Unusable("two identical responses")
    ratings = ranking.ratings
    return Comparison(
        prompt=ranking.prompt,
        first=first,
        second=second,
        lead=(ranking.ranks[j] > ranking.ranks[i]) - (ranking.ranks[j] < ranking.ranks[i]),
        strength=ranking.strength if len(ranking.ranks) == 2 else None,
        ratings=(ratings[i], ratings[j]) if ratings is not None else None,
        labeler=ranking.labeler,
    )


def _at_least_two(ranking: Ranking) -> None:
    if len(ranking.responses) == 1:
        raise Unusable("a single response: no pair in it")


def whole_ranking(item: Item) -> tuple[Ranking, tuple[int, ...]]:
    """A ranking of two or more responses, and its ranks with none left out."""
    ranking = answered(ranking_of(item))
    _at_least_two(ranking)
    return ranking, ranks_by(ranking.ranks, lowest_first=True)


def answered(ranking: Ranking) -> Ranking:
    """The ranking, if all of its responses can be written side by side."""
    if any(response.tool_calls for response in ranking.responses):
        raise Unusable(_TOOLS)
    texts = [response.text for response in ranking.responses]
    if not all(text.strip() for text in texts):
        raise Unusable("an empty response")
    if len(texts) == 2 and texts[0] == texts[1]:
        raise Unusable("two identical responses")
    return ranking


def ranking_of(item: Item) -> Ranking:
    """The item, if it is a ranking."""
    if not isinstance(item, Ranking):
        raise Unusable(f"the format has no place for {KIND_NAMES[type(item)]}")
    _check(item.prompt)
    return item


def demonstration_of(item: Item) -> Demonstration:
    """The item, if it is a demonstration."""
    if not isinstance(item, Demonstration):
        raise Unusable(f"the format has no place for {KIND_NAMES[type(item)]}")
    _check(item.prompt)
    if item.response.tool_calls:
        raise Unusable(_TOOLS)
    if not item.response.text.strip():
        raise Unusable("an empty response")
    return item


def _check(prompt: Prompt) -> None:
    if prompt.has_tools:
        raise Unusable(_TOOLS)
    if not all(turn.content.strip() for turn in prompt.messages):
        raise Unusable("a prompt with an empty turn")


def single_turn(prompt: Prompt) -> str:
    """The prompt as one text."""
    if len(prompt.messages) > 1 or prompt.messages[0].role != "user":
        raise Unusable("a prompt of several turns: the format has a single text for it")
    if transcript(prompt.text, "prompt"):
        raise Unusable("a prompt in which a speaker's name stands before each turn, which is read as several turns")
    return prompt.text


def turns(prompt: Prompt) -> list[Row]:
    """The prompt as {role, content}."""
    _check(prompt)
    return [{"role": turn.role, "content": turn.content} for turn in prompt.messages]


def turn_with_tools(turn: Message) -> Row:
    """A turn as hosted services write it, with calls of tools and their results."""
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in turn.tool_calls
    ]
    more = {"tool_calls": calls, "tool_call_id": turn.tool_call_id, "name": turn.name}
    return {"role": turn.role, "content": turn.content} | {name: value for name, value in more.items() if value}


def answer(response: Response) -> Row:
    """The response as {role, content}."""
    return {"role": "assistant", "content": response.text}


def model_of(response: Response) -> str:
    """Who wrote the response, if a model did."""
    return response.provenance.model if response.provenance else ""


def trl_turns(prompt: Prompt) -> list[Row]:
    """The same for TRL, whose chat templates answer the user only."""
    if prompt.messages[-1].role == "system":
        raise Unusable("a prompt that ends with a system turn, which TRL does not answer")
    return turns(prompt)
