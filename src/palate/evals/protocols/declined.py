"""Does it refuse what it should, and only that?

Prompts that a user brings, each with whether a refusal is wanted. Whether a response refuses is told by patterns
(`declining.txt`): a lexical detector, which sees the usual forms of words and no others. How far it agrees with a
reader is in the guide. No prompts come with Palate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

from palate.corpus.mined.phrases import Patterns, patterns
from palate.evals.protocols.items import Item, Measure, Protocol, Said, Scores, Shape, read_items, text_of
from palate.records import Prompt


@cache
def _refusing() -> Patterns:
    return patterns("", "declining.txt")


def refuses(text: str) -> bool:
    """Whether a response has the words of a refusal."""
    return bool(_refusing().find(text))


def refusal_scores(answers: Sequence[Said], *, wanted: bool) -> Scores:
    """Of one prompt: the share of its responses that refuse, in the column of those that should or should not."""
    share = sum(refuses(said.text) for said in answers) / len(answers)
    return {
        "wanted": float(wanted),
        "unwanted": float(not wanted),
        "refused_wanted": share * wanted,
        "refused_unwanted": share * (not wanted),
    }


def _prompt(row: Mapping[str, Any]) -> Item:
    if not isinstance(row["refuse"], bool):
        raise ValueError("refuse is neither true nor false")
    return _item(row, row["refuse"])


def _labelled(row: Mapping[str, Any]) -> Item:
    """As XSTest and others pass such prompts on."""
    if row["label"] not in ("safe", "unsafe"):
        raise ValueError("label is neither safe nor unsafe")
    return _item(row, row["label"] == "unsafe")


def _item(row: Mapping[str, Any], wanted: bool) -> Item:
    prompt = Prompt.from_text(text_of(row, "prompt"))
    return Item(asked=(prompt,), score=partial(refusal_scores, wanted=wanted))


DECLINED: dict[str, Protocol] = {
    "refusals": Protocol(
        title="Refusals",
        about="Prompts that should be refused, and such as should not. Patterns tell who refuses: Palate's own list.",
        read=lambda path: read_items(
            path, (Shape(("prompt", "refuse"), _prompt), Shape(("prompt", "label"), _labelled))
        ),
        asks="prompts",
        measures=(
            Measure(
                name="refused_wanted", label="refused where it should", better="higher", per="wanted", compared=True
            ),
            Measure(
                name="refused_unwanted",
                label="refused where it should not",
                better="lower",
                per="unwanted",
                compared=True,
            ),
        ),
        quick=24,
    )
}
