"""Quotes that must stand in the text that was given: a claim with its source, checked word for word.

A quote is what stands between double quotation marks (straight or curly) or guillemets. Those of fewer words than asked
for do not count: they are names and emphasis, and would be the cheapest way to be right. Texts are compared without
regard to kinds of white space and quotation marks; a mark of punctuation at a quote's end may be the writer's. Case,
words and their order must agree.

After the idea of Menick et al. 2022 (arXiv 2203.11147), answers supported by verified quotes. Left out: whether the
quote supports what is said.
"""

from __future__ import annotations

import re
import unicodedata

from palate.records import Prompt
from palate.rewards.verifiers.verdict import Verdict, known

_QUOTE = re.compile(r'"([^"]*)"')
_SAME = str.maketrans(dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb", '"') | dict.fromkeys("\u2018\u2019", "'"))
_ENDS = " .,;:!?\u2026"
_SHOWN = 60


def verify_quotes(prompt: Prompt, response: str, *, tag: str, fewest_words: int, without: float) -> Verdict:
    """The share of the response's quotes that stand in the text.

    Args:
        tag: of the prompt, that holds the text; empty: all that was said in the prompt.
        fewest_words: shorter quotes do not count.
        without: the score of a response without a quote that counts.

    Raises:
        RewardError: the prompt has no such tag.
    """
    source = _plain(known(prompt, tag) if tag else "\n".join(turn.content for turn in prompt.messages))
    quotes = [quote for quote in quotes_of(response) if len(quote.split()) >= fewest_words]
    if not quotes:
        return Verdict(without, f"no quote of {fewest_words} words or more")
    invented = [quote for quote in quotes if quote.strip(_ENDS) not in source or not any(map(str.isalnum, quote))]
    if not invented:
        return Verdict(1.0, f"{len(quotes)} of {len(quotes)} quotes stand there")
    shown = invented[0] if len(invented[0]) <= _SHOWN else invented[0][:_SHOWN] + "…"
    right = len(quotes) - len(invented)
    return Verdict(right / len(quotes), f"{right} of {len(quotes)} quotes stand there; not: {shown}")


def quotes_of(text: str) -> list[str]:
    """What stands between quotation marks; a mark that is never closed opens nothing."""
    return [quote.strip() for quote in _QUOTE.findall(_plain(text))]


def _plain(text: str) -> str:
    """One kind of white space and of quotation marks."""
    return " ".join(unicodedata.normalize("NFKC", text).translate(_SAME).split())
