"""Randomness as a pure function of names and numbers; there is no generator state to save.

Every draw is keyed by what it is for, e.g. ``uniforms(n, seed, "rollout", prompt.id, sample_index)``. The key is hashed
into Philox, a counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), whose i-th
number depends on key and i alone. So a sample does not depend on the batch it was in, and a resumed run draws what the
run that was never stopped would have drawn.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def _generator(key: tuple[int | str, ...]) -> np.random.Generator:
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64)))


def derive_seed(*key: int | str) -> int:
    """A 63-bit seed for a library that wants one."""
    return int(_generator(key).integers(2**63 - 1))


def uniforms(n: int, *key: int | str) -> NDArray[np.float64]:
    """[n] numbers in [0, 1); the first m of n are the same for every n >= m."""
    return _generator(key).random(n)


def normals(n: int, *key: int | str) -> NDArray[np.float64]:
    """[n] standard normal numbers."""
    return _generator(key).standard_normal(n)


def permutation(n: int, *key: int | str) -> NDArray[np.int64]:
    """The numbers 0 to n - 1 in random order."""
    return np.asarray(_generator(key).permutation(n), dtype=np.int64)
