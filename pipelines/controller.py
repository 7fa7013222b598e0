"""What a run asks the roll-out controller: who serves, and a roll-out of its own, followed to its end."""

from __future__ import annotations

import time
from typing import Final

import httpx
import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from fraudkit.client import get
from fraudkit.errors import PermanentError, TemporaryError
from pipelines.launcher.backends import Result

log = structlog.get_logger()

POLL_SECONDS: Final = 1.0
SECONDS: Final = 30.0
GIVE_UP_SECONDS: Final = 3_600.0
"""How long a controller may be away."""
_OUTCOMES: Final = {
    "provisional": "promoted",
    "confirmed": "promoted",
    "superseded": "promoted",
    "rolled_back": "rolled_back",
    "reversed": "rolled_back",
}


class _Rollout(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    status: str
    said: tuple[str, str, str]


class _Models(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    champion: str | None


def champion(url: str) -> str | None:
    """The version that serves, as the controller says.

    Raises:
        FraudError: It does not say.
    """
    try:
        return _Models.model_validate_json(get(f"{url.rstrip('/')}/v1/models")).champion
    except ValidationError as error:
        raise PermanentError(f"{url} does not answer as a roll-out controller does") from error


def roll_out(url: str, result: Result, key: str) -> Result:
    """Have the model of a run rolled out under the run's key; how that ended.

    The same key again finds the roll-out that it began, so a run that was interrupted goes on following it.

    Raises:
        TemporaryError: The controller has been away for too long.
        PermanentError: It refuses.
    """
    url = url.rstrip("/")
    _ask(url, result, key)
    said, away_since = "", None
    while True:
        time.sleep(POLL_SECONDS)
        try:
            rollout = _Rollout.model_validate_json(get(f"{url}/v1/rollouts/{key}"))
        except TemporaryError:
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > GIVE_UP_SECONDS:
                raise
            continue
        away_since = None
        if f"{rollout.status} {rollout.said[1]}" != said:
            said = f"{rollout.status} {rollout.said[1]}"
            log.info("roll-out", key=key, status=rollout.status, reason=rollout.said[1], message=rollout.said[2])
        if rollout.status in _OUTCOMES:
            reason, message = rollout.said[1] or result.reason, rollout.said[2] or result.message
            outcome = _OUTCOMES[rollout.status]
            return result.model_copy(update={"outcome": outcome, "reason": reason, "message": message})


def _ask(url: str, result: Result, key: str) -> None:
    body = {"version": result.version, "key": key, "by": "the pipeline", "reason": result.message[:1_000]}
    try:
        answer = httpx.post(f"{url}/v1/rollouts", json=body, timeout=SECONDS, trust_env=False)
    except httpx.HTTPError as error:
        raise TemporaryError(f"the roll-out controller at {url} does not answer: {error}") from error
    if answer.is_server_error:
        raise TemporaryError(
            f"the roll-out controller at {url} answered {answer.status_code}: {answer.text[:300]}"
        )
    if not answer.is_success:
        raise PermanentError(f"the roll-out controller refuses {result.version}: {answer.text[:500]}")
