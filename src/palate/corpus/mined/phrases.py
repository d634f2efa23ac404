"""Lists of sentences: templates that are filled in, and regular expressions by which a text is recognised.

Palate's own are in `lists/`; a file of the user's takes the place of one. A line is one entry; blank lines and those
that begin with # are none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

from palate.errors import DataError
from palate.records import Prompt, content_id

LISTS = Path(__file__).parent / "lists"
_APOSTROPHES = str.maketrans("\u2019\u2018\u02bc", "'''")


@dataclass(frozen=True, slots=True, kw_only=True)
class Templates:
    """Sentences with places to be filled in."""

    texts: Sequence[str]
    seed: int

    def filled(self, prompt: Prompt) -> str:
        """One of them, by hash of seed and prompt, with `{prompt}` and the prompt's tags in their places.

        Raises:
            KeyError: the prompt has no such tag; the tag is its argument.
        """
        place = int(content_id("template", str(self.seed), prompt.id), 16) % len(self.texts)
        return self.texts[place].format_map({**prompt.tags, "prompt": prompt.text})


def templates(path: str, own: str, seed: int) -> Templates:
    """Those of a file, or of ours.

    Raises:
        DataError: a file that cannot be read or is empty, or a line with braces that name nothing.
    """
    found = []
    for line, text in _lines(path, own):
        try:
            parts = list(Formatter().parse(text))
        except ValueError as error:
            raise DataError(f"{error}: write {{{{ and }}}} for braces", path=path, line=line) from None
        if wrong := [name for _, name, spec, kind in parts if name is not None and (not name or spec or kind)]:
            raise DataError(f"{{{wrong[0]}}}: name `prompt` or a tag between the braces", path=path, line=line)
        found.append(text)
    return Templates(texts=found, seed=seed)


@dataclass(frozen=True, slots=True)
class Patterns:
    """Regular expressions; which of them a text has."""

    expressions: Sequence[re.Pattern[str]]

    def find(self, text: str) -> str:
        """What the first one found; empty where none did."""
        plain = " ".join(text.translate(_APOSTROPHES).split())
        found = (each.search(plain) for each in self.expressions)
        return next((match.group() for match in found if match), "")


def patterns(path: str, own: str) -> Patterns:
    """Those of a file, or of ours; case does not matter.

    Raises:
        DataError: a file that cannot be read or is empty, or a line that is no regular expression.
    """
    found = []
    for line, text in _lines(path, own):
        try:
            found.append(re.compile(text, re.IGNORECASE))
        except re.error as error:
            raise DataError(f"no regular expression: {error}", path=path, line=line) from None
    return Patterns(found)


def _lines(path: str, own: str) -> Iterator[tuple[int, str]]:
    file = Path(path) if path else LISTS / own
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise DataError(f"cannot be read ({reason})", path=file) from None
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    said = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not said:
        raise DataError("no line in it says anything", path=file)
    yield from said
