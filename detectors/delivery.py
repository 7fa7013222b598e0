"""Sends events to their sinks, each until it acknowledges."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import httpx
import structlog

from fraudkit.events import CONTENT_TYPE
from fraudkit.settings import EventSettings

log = structlog.get_logger()

_FIRST_WAIT = 1.0
_AGAIN = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event on its way to a sink."""

    id: str
    sink: str
    body: str
    tries: int


class Outbox(Protocol):
    """Where deliveries wait."""

    def due(self, now: float, limit: int) -> Sequence[Delivery]:
        """Deliveries whose time has come, the oldest first."""

    def delivered(self, delivery: Delivery, now: float) -> None:
        """The sink has acknowledged."""

    def failed(self, delivery: Delivery, next_try: float, error: str) -> None:
        """It has not."""


def deliver_due(outbox: Outbox, client: httpx.Client, settings: EventSettings, now: float) -> int:
    """Try each delivery that is due once; returns how many were acknowledged.

    A sink that does not answer is not asked again in this round, so that it does not hold up the others.
    """
    silent: set[str] = set()
    acknowledged = 0
    for delivery in outbox.due(now, 100):
        if delivery.sink in silent:
            continue
        error, hopeless = _post(client, delivery)
        if error is None:
            outbox.delivered(delivery, now)
            acknowledged += 1
            continue
        silent.add(delivery.sink)
        wait = settings.longest_wait_seconds if hopeless else _wait(delivery.tries, settings)
        outbox.failed(delivery, now + wait, error)
        report = log.error if hopeless else log.warning
        report("event not delivered", id=delivery.id, sink=delivery.sink, error=error, tries=delivery.tries + 1)
    return acknowledged


def _post(client: httpx.Client, delivery: Delivery) -> tuple[str | None, bool]:
    """What went wrong, if anything did, and whether trying again soon is of no use."""
    try:
        answer = client.post(delivery.sink, content=delivery.body.encode(), headers={"content-type": CONTENT_TYPE})
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"{type(error).__name__}: {error}", isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol)
    if answer.is_success:
        return None, False
    hopeless = answer.is_client_error and answer.status_code not in _AGAIN
    return f"{answer.status_code}: {answer.text[:200]}", hopeless


def _wait(tries: int, settings: EventSettings) -> float:
    most = min(_FIRST_WAIT * 2.0 ** min(tries, 30), settings.longest_wait_seconds)
    return random.uniform(most / 2, most)  # noqa: S311  # spreads the tries of many events
