"""What does not work at the moment, for `/health`, metrics and log; said once, and when it is over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import structlog

from fraudkit.errors import FraudError

log = structlog.get_logger()

OF: Final = ("state", "target", "evidence", "template", "foreign", "sinks")
"""What it may be of: the place of the state, what serves, detector and bundles, the template's file, what another
hand did, who hears of promotions."""


class Troubles:
    """Kept by one thread, read by others."""

    def __init__(self) -> None:
        self._now: dict[str, str] = {}
        self._errors = dict.fromkeys(OF, 0)

    @property
    def now(self) -> Mapping[str, str]:
        """What is wrong, by what it is of."""
        return dict(self._now)

    @property
    def errors(self) -> Mapping[str, int]:
        """How often it was, by what it is of."""
        return self._errors

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        """Notes an error that passes, or that all is well."""
        try:
            yield
        except FraudError as error:
            self.say(what, str(error))
            raise
        self.say(what, "")

    def say(self, what: str, reason: str) -> None:
        """Note what is wrong; nothing where it is empty."""
        before = self._now.get(what, "")
        if reason:
            self._errors[what] += 1
            self._now[what] = reason
        else:
            self._now.pop(what, None)
        if reason and reason != before:
            log.warning("the roll-out has to wait", of=what, reason=reason)
        elif before and not reason:
            log.info("the roll-out goes on", of=what)
