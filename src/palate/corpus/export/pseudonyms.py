"""Labelers' names replaced by pseudonyms that stay the same as long as the secret does.

A name is short and easily guessed, so a plain hash of it hides nobody; with a secret key it can only be recomputed by
those who hold the key. The same person has the same pseudonym in every record, format and export, whether as labeler or
as author.

Left out: names that people write into their texts, and tags, which are the user's own columns.
"""

from __future__ import annotations

from hashlib import blake2b

from palate.corpus.catalogue.format import Item
from palate.records import Demonstration, Ranking

_SHORTEST = 16


class Pseudonyms:
    """A mapping from names to pseudonyms.

    Args:
        secret: at least 16 bytes that nobody can guess, kept by the caller; another secret gives other pseudonyms.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) < _SHORTEST:
            raise ValueError(f"a secret for pseudonyms has at least {_SHORTEST} bytes; this one has {len(secret)}")
        self._key = blake2b(secret, digest_size=32).digest()

    def name(self, name: str) -> str:
        """The pseudonym; nobody stays nobody."""
        if not name:
            return ""
        return f"labeler-{blake2b(name.encode(), key=self._key, digest_size=8, person=b'palate labeler').hexdigest()}"

    def apply(self, item: Item) -> Item:
        """The record with pseudonyms for everybody who is named in it."""
        if isinstance(item, Ranking):
            return item.model_copy(update={"labeler": self.name(item.labeler)})
        if isinstance(item, Demonstration):
            return item.model_copy(update={"author": self.name(item.author)})
        return item
