"""Format and length: how a response begins and ends, how many words it has, which headings stand in it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from palate.rewards.verifiers.verdict import Verdict
from palate.words import count_words


def verify_shape(
    response: str, *, starts_with: str = "", ends_with: str = "", max_words: int | None = None, sections: Sequence[str]
) -> Verdict:
    """The share of the demands that the response meets; white space around it is no part of it.

    Args:
        sections: each is a demand of its own: a line that is this heading, in this order after the one before.
    """
    text, words = response.strip(), count_words(response)
    demands = {f"does not start with {starts_with!r}": text.startswith(starts_with)} if starts_with else {}
    demands |= {f"does not end with {ends_with!r}": text.endswith(ends_with)} if ends_with else {}
    demands |= {f"{words} words, more than {max_words}": words <= max_words} if max_words is not None else {}
    lines = [heading_of(line) for line in text.splitlines()]
    place = 0
    for section in sections:
        found = heading_of(section) in lines[place:]
        place = lines.index(heading_of(section), place) + 1 if found else place
        demands[f"no section {section!r}"] = found
    unmet = [reason for reason, met in demands.items() if not met]
    return Verdict(1 - len(unmet) / len(demands), "; ".join(unmet) or "as asked for")


def heading_of(line: str) -> str:
    """Without the marks of Markdown, the colon and regard to case."""
    return re.sub(r"^[#*_\s]+|[*_:\s]+$", "", line).casefold()
