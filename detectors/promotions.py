"""The event that binds the detector to a model: from then on traffic is held against that model's reference."""

from __future__ import annotations

from collections.abc import Mapping

from detectors.events import Ignored, IgnoredReason, Rejected, RejectedReason
from detectors.store.log import Binding
from fraudkit.errors import InvalidInput
from fraudkit.events import ModelPromoted, decode, event_type


def promotion(headers: Mapping[str, str], body: bytes, model: str) -> Binding | Ignored | Rejected:
    """What an event that is not the logger's comes to; `headers` by lower-case name."""
    try:
        if event_type(headers, body) != ModelPromoted.type:
            return Ignored(IgnoredReason.OTHER_TYPE)
        received, promoted = decode(ModelPromoted, headers, body)
    except InvalidInput as error:
        return Rejected(RejectedReason.BAD_ENVELOPE, str(error))
    if promoted.model != model:
        return Ignored(IgnoredReason.OTHER_MODEL)
    return Binding(received.id, promoted.version, received.time.timestamp())
