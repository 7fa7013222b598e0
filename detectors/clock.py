"""When buckets close: time is that of the events, not of this machine, unless no event comes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClockRule:
    """When a bucket closes.

    Attributes:
        width: Of a bucket [s].
        lateness: How much later than newer events an event may come [s].
        idle: When no event has come for so long [s], buckets close with the machine's clock.
    """

    width: float
    lateness: float
    idle: float

    def bucket(self, time: float) -> int:
        """The bucket of a time [s, UTC]."""
        return int(time // self.width)

    def closed(self, high: float, received: float, now: float) -> int:
        """Below which bucket all are closed.

        Args:
            high: The latest time of an event.
            received: When the last event was stored.
            now: The time of the machine.
        """
        by_events = self.bucket(high - self.lateness)
        if now - received < self.idle:
            return by_events
        # Nothing is on its way any more: what is open ends as it would have with newer events.
        return max(by_events, self.bucket(now - self.lateness))
