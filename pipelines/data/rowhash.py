"""A 64-bit hash of a row's content, vectorized, the same on every machine and for ever.

Samples and splits are taken by it, so they do not depend on the order, chunking or sharding of the rows. It is
keyed (another purpose or seed gives an unrelated order) and well mixed, and it is not a cryptographic hash.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fraudkit.schema import FloatArray

Hashes = NDArray[np.uint64]

_GOLDEN: Final = 0x9E3779B97F4A7C15
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)
_WORD: Final = (1 << 64) - 1


def content_hash(columns: FloatArray) -> Hashes:
    """Hash [n] of each row of `columns` [m, n]; 0.0 and -0.0 are the same number."""
    state = np.zeros(columns.shape[1], dtype=np.uint64)
    for i, column in enumerate(columns):
        bits = (column + 0.0).view(np.uint64)
        bits ^= bits >> np.uint64(32)  # the low half of a double is often zero: fold before multiplying
        bits *= np.uint64((_GOLDEN * (2 * i + 1)) & _WORD | 1)
        bits ^= bits >> np.uint64(29)
        state ^= bits
        state *= _MIX_1
        state ^= state >> np.uint64(31)
    return state


def keyed(content: Hashes, purpose: str, seed: int) -> Hashes:
    """The order [n] that `content` hashes take for a purpose and a seed (splitmix64's finalizer)."""
    key = hashlib.blake2b(f"{purpose}:{seed}".encode(), digest_size=8).digest()
    state: Hashes = content + np.frombuffer(key, dtype="<u8")[0]
    state ^= state >> np.uint64(30)
    state *= _MIX_1
    state ^= state >> np.uint64(27)
    state *= _MIX_2
    state ^= state >> np.uint64(31)
    return state


def below(hashes: Hashes, share: float) -> NDArray[np.bool_]:
    """Which of `hashes` [n] fall into the lowest `share` of all hashes."""
    lowest: NDArray[np.bool_] = hashes < np.uint64(int(share * 2.0**64))
    return lowest
