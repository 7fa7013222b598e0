"""Engine `alibi`: alibi-detect's KSDrift.

alibi-detect from 0.11.5 on is under the Business Source License 1.1: production use needs a licence from Seldon.
Engine `scipy` needs none and decides alike.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

# It imports a library for language models, which would say on import that it has no framework to run them.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
from alibi_detect.cd import KSDrift
from alibi_detect.saving import save_detector

from detectors.engines import Tested
from detectors.reference import Matched, Reference, Values, check_window


class AlibiEngine:
    """One KSDrift for each window, because each window has its own matched reference."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference

    def test(self, values: Values, matched: Matched) -> Tested:
        """See `Engine`."""
        check_window(values)
        # What it decides itself is left alone: thresholds and their corrections are the same for both engines.
        detector = KSDrift(self._reference.rows(matched), p_val=0.05, correction="bonferroni")
        data = detector.predict(values, drift_type="feature", return_p_val=True, return_distance=True)["data"]
        return Tested(data["distance"].astype(np.float64), data["p_val"].astype(np.float64))


def export(reference: Reference, folder: Path, matched: Matched | None = None) -> None:
    """Write a KSDrift to `folder` in alibi-detect's own format, for use elsewhere; its `load_detector` reads it.

    The files are `config.toml` and arrays: nothing that is unpickled. Its columns are `reference.COLUMNS`, at the
    precision of float32.

    Args:
        reference: The reference.
        folder: Where to write.
        matched: What a window is held against, for the record of that window; else it is all of the reference,
            whatever the hours of day.

    Raises:
        InvalidInput: Nothing is matched.
    """
    rows = reference.values if matched is None else reference.rows(matched)
    detector = KSDrift(rows, p_val=0.05, correction="bonferroni")
    save_detector(detector, folder)
