"""Does it say that it does not know where nobody can know, and still say what it knows?

Questions with and without an answer, as in SelfAware (Yin et al. 2023, arXiv 2305.18153). Whether a response says so is
told by patterns, whether it is right by the words of the answer, as in `palate data abstention`; what gives a known
answer and doubts it all the same is right. So a variant: the original uses embeddings of sentences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

from palate.corpus.mined.known_answers import is_right, normalized
from palate.corpus.mined.phrases import Patterns, patterns
from palate.evals.protocols.items import Item, Measure, Protocol, Said, Scores, Shape, read_items, text_of
from palate.records import Prompt


@cache
def _says_so() -> Patterns:
    return patterns("", "unsure.txt")


def unsure_scores(answers: Sequence[Said], *, known: frozenset[str]) -> Scores:
    """Of one question; without known answers it has none."""
    right = [bool(known) and is_right(said.text, known, "contains") for said in answers]
    unsure = [not fine and bool(_says_so().find(said.text)) for said, fine in zip(answers, right, strict=True)]
    share = sum(unsure) / len(answers)
    return {
        "with": float(bool(known)),
        "without": float(not known),
        "unsure_without": share * (not known),
        "unsure_with": share * bool(known),
        "right": sum(right) / len(answers),
        "made_up": 1 - share - sum(right) / len(answers),
    }


def _question(row: Mapping[str, Any]) -> Item:
    known = frozenset(normalized(str(answer)) for answer in row["answer"] or ()) if row["answerable"] else frozenset()
    if row["answerable"] and not known:
        raise ValueError("it is answerable and holds no answer")
    prompt = Prompt.from_text(text_of(row, "question"))
    return Item(asked=(prompt,), score=partial(unsure_scores, known=known))


UNSURE: dict[str, Protocol] = {
    "abstention": Protocol(
        title="Abstention",
        about="Questions that nobody can answer, and such as have an answer. A variant: patterns tell who is unsure.",
        read=lambda path: read_items(path, (Shape(("question", "answer", "answerable"), _question),)),
        asks="prompts",
        measures=(
            Measure(
                name="unsure_without",
                label="unsure where nobody can know",
                better="higher",
                per="without",
                compared=True,
            ),
            Measure(
                name="unsure_with", label="unsure where there is an answer", better="lower", per="with", compared=True
            ),
            Measure(name="made_up", label="neither unsure nor right: made up", better="lower", compared=True),
            Measure(name="right", label="right where there is an answer", better="higher", per="with", compared=True),
        ),
        quick=32,
    )
}
