"""Alert rate: how often the model finds a transaction suspicious.

Feature tests hardly see what fraud teams care about: fraud that goes from .2 to 1 % moves no column's distribution
by much. The rate of high scores moves several fold. A jump alone is a warning that calls a person: it may be an
attack, and a model that is trained anew does not help.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from detectors.channels import Level, Reading, warn
from detectors.channels.rate import Rate, RateState, RateTrace
from detectors.reference import COLUMNS, Reference
from fraudkit.policy.drift import RateRule

CHANNEL: Final = "alert_rate"
SHARE: Final = 0.005
"""Share of the reference that is suspicious."""
_SCORE: Final = COLUMNS.index("score")
_NOTHING: Final = RateTrace(np.empty(0), np.empty(0))


class AlertRate:
    """The channel of one model."""

    def __init__(self, reference: Reference, rule: RateRule) -> None:
        self.rate = Rate("suspicious", "score", reference.values[:, _SCORE], reference, SHARE, rule)

    def read(
        self, scores: NDArray[np.float32], hours: NDArray[np.int64], state: RateState
    ) -> tuple[Reading, RateState, RateTrace]:
        """What the scores [n] (log odds) of the rows that this model scored say, in the order of their time."""
        if not len(scores):
            return Reading(CHANNEL, Level.INSUFFICIENT_DATA, "no row was scored by this model"), state, _NOTHING
        said, after, trace = self.rate.read(scores, hours, state)
        return warn(CHANNEL, said.message, said.statistics), after, trace
