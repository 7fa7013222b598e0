"""What a roll-out acts on: an InferenceService of KServe, or the servers of this machine.

A target is told what is wanted, as often as one likes, and brings it about step by step; it is asked what is. It
decides nothing, and keeps nothing that the controller's own state does not have too, so that either may be killed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Side(StrEnum):
    """One of the two servers of a model."""

    STABLE = "stable"
    CANARY = "canary"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Who is to serve.

    Attributes:
        stable: Version that serves what the canary does not.
        canary: Version that is tried; None when no roll-out goes on.
        percent: Share of the requests that the canary gets, 0 to 100; 0 without a canary.
        template: What the service is made from beside the version, as the target takes it; it stays the same
            through a roll-out.
    """

    stable: str
    canary: str | None = None
    percent: int = 0
    template: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """What is.

    Attributes:
        settled: Traffic flows as wanted, and who is to serve is ready.
        ready: Whether the canary is ready; None without a canary, or when that is not known yet.
        problem: Why something does not become ready, for a person; empty where nothing is known to be wrong.
        foreign: What another hand changed; empty where none did.
        mark: Names the state that was seen, so that a change by another hand can be told from one's own.
    """

    settled: bool
    ready: bool | None
    problem: str = ""
    foreign: str = ""
    mark: str = ""


class Target(Protocol):
    """A place where models serve. Its methods raise TemporaryError when they should be called again later."""

    def apply(self, wanted: Wanted, mark: str) -> str:
        """Go a step towards what is wanted; nothing happens where all is as wanted already.

        Args:
            wanted: What is wanted. It was written down before.
            mark: Of what was seen or done last.

        Returns:
            The mark of what is there now.

        Raises:
            TemporaryError: It cannot be done now; call again.
            PermanentError: It cannot be done; the message says what a person has to do.
        """

    def observe(self, wanted: Wanted, mark: str) -> Observed:
        """What is, beside what is wanted.

        Raises:
            TemporaryError: It cannot be said now.
        """

    def servers(self, wanted: Wanted) -> dict[Side, tuple[str, ...]]:
        """URLs of the predictors of each side, whose `/metrics` are read; pods come and go.

        Raises:
            TemporaryError: It cannot be said now.
        """

    def fallbacks(self) -> int:
        """Counter of the requests that stable answered because the canary did not.

        Raises:
            TemporaryError: It cannot be said now.
        """

    def close(self) -> None:
        """Let go of what this process holds; who serves goes on where it can."""
