"""The words that all protocols share: what is asked, what is answered, and what is measured.

A protocol reads a file into items. An item is one thing that counts once: a question with its choices, a passage, a
document, a prompt. It says what to ask, and holds the pure function from the answers to its scores. A measure is a mean
of one score over items, or the ratio of two sums.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from palate.corpus.containers.files import read_rows
from palate.errors import DataError
from palate.records import Prompt


@dataclass(frozen=True, slots=True)
class Continuation:
    """How likely is this text after that context? An empty context is the beginning of a document."""

    context: str
    text: str


@dataclass(frozen=True, slots=True)
class Reply:
    """How likely is this response to that prompt, in the model's own chat form, without the end of its turn?"""

    prompt: Prompt
    text: str


@dataclass(frozen=True, slots=True)
class Opening:
    """How does this go on, token for token the most likely one? A document; or a response to the prompt, if any."""

    prompt: Prompt | None
    text: str


@dataclass(frozen=True, slots=True)
class Likelihood:
    """The answer to that.

    Attributes:
        logprob: of the whole continuation, in nats.
        greedy: every token of it was the most likely one.
    """

    logprob: float
    greedy: bool


@dataclass(frozen=True, slots=True)
class Said:
    """A response to a prompt.

    Attributes:
        ended: by a stop token; otherwise it was cut off.
        tokens: those that were drawn, the stop token among them; empty where nothing was drawn.
        logprob: of all of them as they were drawn, in nats.
    """

    text: str
    ended: bool
    tokens: Sequence[int] = ()
    logprob: float = 0.0


Scores: TypeAlias = Mapping[str, float]
Score: TypeAlias = Callable[[Sequence[Any]], Scores]
"""From an item's answers to its scores by name: of `Likelihood` for continuations and replies, of `Said` otherwise."""
Across: TypeAlias = Callable[[Sequence[Scores]], Sequence[Scores]]
"""From the scores of all items to those of each: what one is worth beside the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing that is asked and counts once.

    Attributes:
        asked: continuations or replies, each with one answer; an opening, with one; or a prompt, with as many as there
            are responses to it.
        score: from the answers, in the same order.
    """

    asked: tuple[Continuation, ...] | tuple[Reply, ...] | tuple[Opening] | tuple[Prompt]
    score: Score


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A number about a model.

    Attributes:
        name: of the score that is averaged.
        label: what a reader calls it.
        better: in which direction; `neither` where a change is worth knowing and no fault by itself.
        per: the score whose sum it is divided by; empty: by the number of items.
        unit: of the number; `share` if it lies between 0 and 1.
        compared: it belongs to the summary, whose probabilities are corrected for their number.
        trifle: a smaller change is not worth a verdict, however sure it is: likelihoods are told apart to many digits.
        luck: the score whose mean is what guessing comes to; empty where there is no such thing.
    """

    name: str
    label: str
    better: Literal["higher", "lower", "neither"]
    per: str = ""
    unit: str = "share"
    compared: bool = False
    trifle: float = 0.0
    luck: str = ""


Asks: TypeAlias = Literal["continuations", "documents", "replies", "openings", "prompts", "nothing"]
"""Of the model: how likely continuations are; documents, as long as they may be; responses to prompts; how an opening
goes on; to respond; or nothing, where others have judged already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """A section of the card.

    Attributes:
        title: its heading.
        about: how it is measured, and where it departs from others; what it reads.
        measures: the compared ones first.
        quick: items in the quick form.
        across: scores that need those of the other items.
        read_control: the items of a file that everything is compared with, where a section has one.
        as_in: the section whose choice of a file's prompts is this one's too, so that they are responded to once.
    """

    title: str
    about: str
    read: Callable[[Path], Sequence[Item]]
    asks: Asks
    measures: tuple[Measure, ...]
    quick: int
    across: Across | None = None
    read_control: Callable[[Path], Sequence[Item]] | None = None
    as_in: str = ""


@dataclass(frozen=True, slots=True)
class Shape:
    """A shape of row that is understood.

    Attributes:
        columns: all of which it has.
        item: what is made of it; a ValueError says what is wrong with the row.
    """

    columns: tuple[str, ...]
    item: Callable[[Mapping[str, Any]], Item]


def read_items(path: Path, shapes: Sequence[Shape]) -> list[Item]:
    """The items of a file, one a row, each in the first shape whose columns it has.

    Raises:
        DataError: a file that cannot be read or is empty, or a row that is in no shape; with its line.
    """
    items = []
    for row in read_rows(path):
        if row.problem is not None:
            raise DataError(str(row.problem), path=path, line=row.line)
        shape = next((each for each in shapes if row.fields.keys() >= set(each.columns)), None)
        if shape is None:
            known = "; or ".join(", ".join(each.columns) for each in shapes)
            raise DataError(
                f"the row has the columns {', '.join(row.fields)}; expected {known}", path=path, line=row.line
            )
        try:
            items.append(shape.item(row.fields))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise DataError(f"the row cannot be used: {error}", path=path, line=row.line) from None
    if not items:
        raise DataError("there is nothing in it", path=path)
    return items


def text_of(row: Mapping[str, Any], column: str) -> str:
    """A column that holds a text.

    Raises:
        ValueError: it holds something else, or nothing.
    """
    value = row[column]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{column} holds no text")
    return value
