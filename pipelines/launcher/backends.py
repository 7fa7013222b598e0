"""What runs the pipeline for the launcher: this machine, or Kubeflow Pipelines."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, Protocol

from pydantic import BaseModel, ConfigDict

LONGEST_MESSAGE: Final = 4_000
"""Characters of a message that a run tells."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be run.

    Attributes:
        key: Of the trigger; the run's own name is made of it.
        attempt: From 1; another one after a failure of what runs it, with the same data.
        data_uri: The base data.
        since: From when on logged transactions are added to them; None adds none.
        as_of: What matured later is not known to the run.
    """

    key: str
    attempt: int
    data_uri: str
    since: datetime | None
    as_of: datetime


class Phase(StrEnum):
    """How far a run has come."""

    RUNNING = "running"
    ENDED = "ended"
    FAILED = "failed"


class Result(BaseModel):
    """How a run ended that came to its end.

    Attributes:
        outcome: `promoted`, `challenger`, `no_gain`, `rejected` or `rolled_back`.
        reason: Name of the check that decided.
        message: One sentence for a person.
        version: The model that it trained.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    outcome: str
    reason: str
    message: str
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """What a backend says of a run.

    Attributes:
        phase: How far it is.
        message: Why it failed.
        retry: Whether the same again may succeed.
        result: How it ended, where the backend knows.
    """

    phase: Phase
    message: str = ""
    retry: bool = False
    result: Result | None = None


class Backend(Protocol):
    """Runs the pipeline. Its methods raise TemporaryError when they should be called again later."""

    def start(self, order: Order) -> str:
        """Start the run of an order, unless it was started before; returns what finds it again.

        Raises:
            TemporaryError: Whether it was started is not known; call again.
            PermanentError: It cannot be started; the message says what to change.
        """

    def look(self, order: Order, handle: str) -> Progress:
        """How far the run is.

        Raises:
            TemporaryError: It cannot be said now.
        """

    def close(self) -> bool:
        """Stop what would otherwise be left behind on this machine; whether there was something."""
