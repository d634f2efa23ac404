"""Documents that are nearly the same as an earlier one.

Two documents are as alike as the sets of their runs of n words: the part that both share of all that either has
(Jaccard). Those that may be alike are found by MinHash in bands (Broder 1997, "On the resemblance and containment of
documents"; the `datasketch` library), and then compared for real: nothing is dropped on an estimate. A pair at the
threshold is found with high probability, not with certainty.
"""

from __future__ import annotations

from collections.abc import Hashable
from hashlib import blake2b

import numpy as np
from datasketch import MinHash, MinHashLSH
from numpy.typing import NDArray

from palate.words import split_words

NUM_HASHES = 128
MARGIN = 0.1
"""Candidates are looked for this far below the threshold, so that few above it are missed."""
WEIGHTS = (0.1, 0.9)
"""Of candidates that are none, which cost a comparison, and of near duplicates that are missed."""

Shingles = NDArray[np.uint64]


class NearDuplicates:
    """The documents that were kept so far.

    Args:
        threshold: two documents that are so alike, or more, are near duplicates.
        words: n, of a run.
    """

    def __init__(self, threshold: float, words: int) -> None:
        self.threshold, self.words = threshold, words
        self._shingles: dict[Hashable, Shingles] = {}
        self._index = MinHashLSH(threshold=max(0.1, threshold - MARGIN), num_perm=NUM_HASHES, weights=WEIGHTS)

    def find(self, text: str, name: Hashable) -> tuple[Hashable, float] | None:
        """The kept document that this one is most alike, and how much; without such a one it is kept itself."""
        shingles = shingles_of(text, self.words)
        sketch = MinHash(num_perm=NUM_HASHES, hashfunc=int)
        sketch.update_batch((shingles & np.uint64(0xFFFFFFFF)).tolist())
        alike = [(jaccard(shingles, self._shingles[other]), other) for other in self._index.query(sketch)]
        closest = max(alike, key=lambda pair: pair[0], default=(0.0, None))
        if closest[0] >= self.threshold:
            return closest[1], closest[0]
        self._index.insert(name, sketch, check_duplication=False)
        self._shingles[name] = shingles
        return None


def shingles_of(text: str, words: int) -> Shingles:
    """[S] sorted hashes of its distinct runs of so many words, in lower case, without punctuation around them.

    A text of fewer words is one run.
    """
    found = split_words(text)
    runs = {" ".join(found[place : place + words]) for place in range(max(1, len(found) - words + 1))}
    digests = b"".join(blake2b(run.encode(), digest_size=8).digest() for run in runs)
    return np.unique(np.frombuffer(digests, dtype=np.uint64))


def jaccard(a: Shingles, b: Shingles) -> float:
    """Of all that either has, the part that both have."""
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both)
