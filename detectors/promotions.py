"""The event that binds the detector to a model: from then on traffic is held against that model's reference."""

from __future__ import annotations

from collections.abc import Mapping

from detectors.events import Ignored, IgnoredReason, Rejected
from detectors.store.log import Binding


def promotion(headers: Mapping[str, str], body: bytes, model: str) -> Binding | Ignored | Rejected:
    """What an event that is not the logger's comes to."""
    return Ignored(IgnoredReason.OTHER_TYPE)
