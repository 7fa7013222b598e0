"""The leakage lint: an input that alone separates the classes is not information, it is the label."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from fraudkit.errors import InvalidInput
from fraudkit.schema import INPUTS, FloatArray

FEWEST: Final = 10


def separation(legitimate: FloatArray, fraud: FloatArray) -> dict[str, float]:
    """AUC of each raw input alone, in the direction that separates better: 0.5 … 1.

    Args:
        legitimate: Inputs [30, n] of legitimate rows.
        fraud: Inputs [30, m] of frauds.
    """
    return {name: _auc(legitimate[i], fraud[i]) for i, name in enumerate(INPUTS)}


def refuse_leaks(separations: dict[str, float], limit: float, counts: tuple[int, int], uri: str) -> None:
    """Raise InvalidInput naming each input whose AUC is `limit` or more.

    With fewer than `FEWEST` of the `counts` (legitimate rows, frauds) an input may reach it by chance, so nothing
    is refused; the gate then has too little data anyway.
    """
    if min(counts) < FEWEST:
        return
    leaks = {name: auc for name, auc in separations.items() if auc >= limit}
    if leaks:
        named = ", ".join(f"{name} (AUC {auc:.4f})" for name, auc in leaks.items())
        raise InvalidInput(
            f"{uri}: {named} alone separates fraud from legitimate; that is a leak of the label "
            f"(a row number, an id, rows sorted by {'label' if 'Time' in leaks else 'class'}), not an input"
        )


def _auc(legitimate: FloatArray, fraud: FloatArray) -> float:
    """Mann-Whitney: the chance that a fraud ranks above a legitimate row, ties counted half."""
    ordered: NDArray[np.float64] = np.sort(legitimate)
    less = np.searchsorted(ordered, fraud, side="left")
    ties = np.searchsorted(ordered, fraud, side="right") - less
    auc = float((less + ties / 2).mean() / ordered.size)
    return max(auc, 1.0 - auc)
