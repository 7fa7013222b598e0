"""How a run ended: by its gate, then by its roll-out; and the launcher is told."""

from __future__ import annotations

from typing import Final, Protocol

import structlog

from fraudkit.client import Refused, patiently, send
from fraudkit.settings import Settings
from pipelines.controller import CHALLENGER, CHAMPION, ENDS, Hear, Rollout, begin, find, follow
from pipelines.launcher.backends import LONGEST_MESSAGE, Result

log = structlog.get_logger()

NO_GAIN: Final = "no_gain"
PROMOTED: Final = "promoted"
NOT_ROLLED_OUT: Final = "not_rolled_out"
_CONFLICT: Final = 409


class Concluded(Protocol):
    """What became of a run's model: its version where it was registered, and what is offered where it was not."""

    @property
    def version(self) -> str | None: ...  # noqa: D102
    @property
    def aliases(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def offer(self) -> str: ...  # noqa: D102


def result_of(reason: str, message: str, version: str, conclusion: Concluded) -> Result:
    """How a run that came to its end ended, without a roll-out.

    Args:
        reason: The gate's.
        message: The gate's.
        version: The version that was evaluated.
        conclusion: What became of it.
    """
    if conclusion.version is None:
        outcome, message = NO_GAIN if reason == NO_GAIN else "rejected", message + conclusion.offer
    else:
        outcome = PROMOTED if CHAMPION in conclusion.aliases else CHALLENGER
    return Result(outcome=outcome, reason=reason, message=message, version=version)


def rolled_out(result: Result, key: str, settings: Settings, hear: Hear) -> tuple[Result, Rollout | None]:
    """How a run ends with a roll-out under its key, where there is a controller and a model to roll out.

    An attempt before this one may have begun it, and even have brought its model to serve: then the gate sees no
    gain over it, and the run ends as the roll-out did.

    Raises:
        TemporaryError: The controller has been away for too long.
        PermanentError: It refuses the model.
    """
    if settings.rollout.url is None:
        return result, None
    url = settings.rollout.url.rstrip("/")
    if result.outcome == NO_GAIN:
        known = patiently(lambda: find(url, key))
        if known is None or known.version != result.version:
            return result, None
    elif result.outcome == CHALLENGER:
        try:
            patiently(lambda: begin(url, str(result.version), key, result.message))
        except Refused as error:
            if error.status != _CONFLICT:
                raise
            log.warning("no roll-out", key=key, reason=error.said)
            message = f"registered, and not rolled out: {error.said}"
            return result.model_copy(update={"reason": NOT_ROLLED_OUT, "message": message}), None
    else:
        return result, None
    rollout = follow(url, key, hear)
    ended = Result(
        outcome=ENDS[rollout.status],
        reason=rollout.said[1] or result.reason,
        message=rollout.said[2] or result.message,
        version=rollout.version,
    )
    return ended, rollout


def tell(result: Result, key: str, attempt: int, settings: Settings) -> None:
    """Tell the launcher how its run ended. A run that it did not start (attempt 0) is none of its own.

    Raises:
        TemporaryError: The launcher has been away for too long.
        PermanentError: It does not take the result.
    """
    if settings.launcher.results is None or not attempt:
        return
    url = f"{settings.launcher.results.rstrip('/')}/v1/runs/{key}/result"
    body = result.model_dump() | {"message": result.message[:LONGEST_MESSAGE], "attempt": attempt}
    patiently(lambda: send("PUT", url, body))
    log.info("launcher told", key=key, attempt=attempt, outcome=result.outcome)
