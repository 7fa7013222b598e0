"""What a run asks the roll-out controller: who serves, and a roll-out of its own, followed to its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from fraudkit.client import get, patiently, send
from fraudkit.errors import PermanentError

CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
POLL_SECONDS: Final = 1.0
TELL_SECONDS: Final = 60.0
"""How often a roll-out that does not change is told of."""
ENDS: Final = {
    "provisional": "promoted",
    "confirmed": "promoted",
    "superseded": "promoted",
    "rolled_back": "rolled_back",
    "reversed": "rolled_back",
}
"""How a run ends whose roll-out has come to one of these."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Counted(_Record):
    """Requests of a side, and those that failed."""

    requests: int = 0
    errors: int = 0


class Tally(_Record):
    """What a side counted in this step, and before it."""

    step: Counted = Counted()
    before: Counted = Counted()


class Counts(_Record):
    """What was counted; `fallbacks` are requests that stable answered for the canary."""

    stable: Tally = Tally()
    canary: Tally = Tally()
    fallbacks: int = 0
    skew_rows: int = 0
    skew_differing: int = 0


class Step(_Record):
    """A step that is over. Times are seconds UTC."""

    percent: int
    began: float
    ended: float
    requests: int
    outcome: str
    reason: str
    message: str


class Hand(_Record):
    """What a person did, and why."""

    at: float
    action: str
    by: str
    reason: str


class Rollout(_Record):
    """What a run tells of its roll-out; the controller's API has more.

    Attributes:
        key: Of the trigger.
        version: The challenger.
        champion: Who served when it began; None for a first model.
        status: How far it is.
        step: Index of the step.
        counts: What was counted.
        steps: The steps that are over.
        hands: What people did.
        said: Outcome, reason and message of the last verdict.
    """

    key: str
    version: str
    champion: str | None
    status: str
    step: int = 0
    counts: Counts = Counts()
    steps: tuple[Step, ...] = ()
    hands: tuple[Hand, ...] = ()
    said: tuple[str, str, str]


class _Rollouts(_Record):
    rollouts: tuple[Rollout, ...]


class Model(_Record):
    """A model that was rolled out, and how far that came."""

    version: str
    status: str


class Models(_Record):
    """Who serves, who is tried, and who was."""

    champion: str | None
    challenger: str | None = None
    models: tuple[Model, ...] = ()


Hear = Callable[[Rollout], None]
"""Called when there is something to tell of a roll-out."""
_Read = TypeVar("_Read", bound=_Record)


def models(url: str) -> Models:
    """Who serves.

    Raises:
        FraudError: The controller does not say.
    """
    return _read(Models, get(f"{url}/v1/models"), url)


def find(url: str, key: str) -> Rollout | None:
    """The roll-out that a key began, if it did.

    Raises:
        FraudError: The controller does not say.
    """
    known = _read(_Rollouts, get(f"{url}/v1/rollouts"), url).rollouts
    return next((one for one in known if one.key == key), None)


def begin(url: str, version: str, key: str, reason: str) -> Rollout:
    """Ask for a roll-out; the same key again finds the one that it began.

    Raises:
        TemporaryError: The controller is away.
        Refused: It cannot begin; 409 where it could have at another time.
    """
    body = {"version": version, "key": key, "by": "the pipeline", "reason": reason[:1_000]}
    return _read(Rollout, send("POST", f"{url}/v1/rollouts", body), url)


def follow(url: str, key: str, hear: Hear) -> Rollout:
    """Follow a roll-out until a version has all the traffic.

    Raises:
        TemporaryError: The controller has been away for too long.
        PermanentError: It does not know the roll-out any more.
    """
    said, told = ("", 0, ""), 0.0
    while True:
        rollout = _read(Rollout, patiently(lambda: get(f"{url}/v1/rollouts/{key}")), url)
        state = (rollout.status, rollout.step, rollout.said[1])
        if state != said or time.monotonic() - told > TELL_SECONDS:
            said, told = state, time.monotonic()
            hear(rollout)
        if rollout.status in ENDS:
            return rollout
        time.sleep(POLL_SECONDS)


def _read(kind: type[_Read], content: bytes, url: str) -> _Read:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise PermanentError(f"{url} does not answer as a roll-out controller does") from error
