"""What people see of a response they judge blind: its text, without the names of the models that answered.

A model that introduces itself would give away which one it is. Its name is blotted out on the screen; the log keeps
the text as it was. Names that are ordinary words ("base") are left alone, since they would hide half of the language;
what a model calls itself under another name than the workspace's is not recognised.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePath

from sqlalchemy import select
from sqlalchemy.orm import Session

from palate.feedback.store.tables import Item, Model, ResponseRow
from palate.feedback.tasks.judgements import responses_of

BLOT = "[name hidden]"


def texts_of(session: Session, item: Item) -> list[str]:
    """[K] the responses' texts, in the item's order, with the models' names blotted out."""
    responses = responses_of(session, item)
    given = select(Model.name).join(ResponseRow, ResponseRow.model_id == Model.id)
    names = {PurePath(response.provenance.model).name for response in responses if response.provenance}
    names |= set(session.scalars(given.where(ResponseRow.id.in_(item.response_ids))))
    return [hide_names(response.text, names) for response in responses]


def hide_names(text: str, names: Iterable[str]) -> str:
    """The text without these names, however they are cased and joined.

    >>> hide_names("I am SmolLM2 135M, or SmolLM2.", ["smollm2-135m"])
    'I am [name hidden], or [name hidden].'
    """
    patterns = sorted({_pattern(parts) for name in names for parts in _telling(name)}, key=len, reverse=True)
    if not patterns:
        return text
    return re.sub(rf"(?<!\w)(?:{'|'.join(patterns)})(?!\w)", BLOT, text, flags=re.IGNORECASE)


def _telling(name: str) -> list[list[str]]:
    """The name, and its first part where that alone says it: letters with a digit, as in "smollm2"."""
    parts = re.findall(r"[^\W_]+", name)
    return [given for given in (parts, parts[:1]) if _is_telling(given)]


def _is_telling(parts: Sequence[str]) -> bool:
    """More than a word, a number or a few letters."""
    joined = "".join(parts)
    is_plain = len(parts) == 1 and (joined.isalpha() or joined.isdigit())
    return len(joined) >= 4 and not is_plain and not joined.isdigit()


def _pattern(parts: Sequence[str]) -> str:
    return r"[\W_]{0,2}".join(map(re.escape, parts))
