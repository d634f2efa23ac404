"""How well a model foretells text: the last word of a passage (LAMBADA), and whole documents in bits per byte.

LAMBADA (Paperno et al. 2016, arXiv 1606.06031): right if the last word is what greedy decoding says, token for token;
and its surprise in nats. Documents are read in windows, each token foretold once, from as many tokens before it as the
window has; bits per byte can be compared between models with different tokenizers, which a perplexity cannot. Both as
lm-evaluation-harness 0.4.13 computes them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from palate.evals.protocols.items import (
    Continuation,
    Item,
    Likelihood,
    Measure,
    Protocol,
    Scores,
    Shape,
    read_items,
    text_of,
)


def word_scores(answers: Sequence[Likelihood]) -> Scores:
    """Of one passage's last word."""
    (word,) = answers
    return {"acc": float(word.greedy), "nats": -word.logprob}


def document_scores(answers: Sequence[Likelihood], *, size: int) -> Scores:
    """Of one document of ``size`` bytes."""
    (document,) = answers
    return {"bits": -document.logprob / math.log(2), "bytes": float(size)}


def _passage(row: Mapping[str, Any]) -> Item:
    return _last_word(text_of(row, "context"), text_of(row, "continuation").strip())


def _whole_passage(row: Mapping[str, Any]) -> Item:
    context, blank, word = text_of(row, "text").rpartition(" ")
    if not blank:
        raise ValueError("the text is a single word")
    return _last_word(context, word)


def _last_word(context: str, word: str) -> Item:
    return Item(asked=(Continuation(context, f" {word}"),), score=word_scores)


def _document(row: Mapping[str, Any]) -> Item:
    text = text_of(row, "text")
    return Item(asked=(Continuation("", text),), score=partial(document_scores, size=len(text.encode())))


TEXTS: dict[str, Protocol] = {
    "lambada": Protocol(
        title="LAMBADA",
        about="The last word of a passage, by greedy decoding. As in lm-evaluation-harness 0.4.13 (lambada_openai).",
        read=lambda path: read_items(
            path, (Shape(("context", "continuation"), _passage), Shape(("text",), _whole_passage))
        ),
        asks="continuations",
        measures=(
            Measure(name="acc", label="last words foretold", better="higher", compared=True),
            Measure(name="nats", label="surprise, nats a word", better="lower", unit="nats"),
        ),
        quick=100,
    ),
    "held_out_text": Protocol(
        title="Held-out text",
        about="Documents that nobody trained on, foretold token by token in windows. As in lm-evaluation-harness "
        "0.4.13 (loglikelihood_rolling).",
        read=lambda path: read_items(path, (Shape(("text",), _document),)),
        asks="documents",
        measures=(
            Measure(
                name="bits",
                label="bits a byte",
                better="lower",
                per="bytes",
                unit="bits a byte",
                compared=True,
                trifle=0.002,
            ),
        ),
        quick=12,
    ),
}
