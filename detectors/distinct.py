"""How many different rows there were, in a kilobyte: HyperLogLog (Flajolet et al., 2007), which merges by maximum.

A day's rows are too many to keep, and rows that come again, window after window, are no further evidence.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from detectors.reference import Values

BITS: Final = 10
REGISTERS: Final = 1 << BITS
_ALPHA: Final = 0.7213 / (1 + 1.079 / REGISTERS)
_REST: Final = 64 - BITS

Sketch = NDArray[np.uint8]
"""For each of `REGISTERS` parts of the hashes, the longest run of leading zeros, and one."""


def empty() -> Sketch:
    """Of no rows."""
    return np.zeros(REGISTERS, dtype=np.uint8)


def sketch(values: Values) -> Sketch:
    """Of rows [n, k]."""
    hashes = _hashes(values)
    rest = (hashes & np.uint64((1 << _REST) - 1)).astype(np.float64)
    ranks = (_REST + 1 - np.frexp(rest)[1]).astype(np.uint8)  # the exponent is the length in bits
    registers = empty()
    np.maximum.at(registers, (hashes >> np.uint64(_REST)).astype(np.intp), ranks)
    return registers


def estimate(registers: Sketch) -> float:
    """How many different rows a sketch has seen, to some 3 %."""
    count = _ALPHA * REGISTERS**2 / float(np.exp2(-registers.astype(np.float64)).sum())
    unseen = int((registers == 0).sum())
    if count <= 2.5 * REGISTERS and unseen:
        return float(REGISTERS * np.log(REGISTERS / unseen))
    return count


def _hashes(values: Values) -> NDArray[np.uint64]:
    """A hash [n] of each row: its bits times odd numbers that do not change, mixed as in SplitMix64."""
    bits = np.ascontiguousarray(values).view(np.uint32).astype(np.uint64)
    odd = np.random.default_rng(0).integers(1 << 62, size=bits.shape[1], dtype=np.uint64) * np.uint64(
        2
    ) + np.uint64(1)
    mixed: NDArray[np.uint64] = (bits * odd).sum(axis=1, dtype=np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))
