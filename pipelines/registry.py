"""Bring MLflow's aliases to what the roll-out controller says, and end; at any time, as often as one likes.

A process of its own, because it imports MLflow; the launcher starts it when a model was promoted or rolled back.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Final

import structlog

from fraudkit import logs
from fraudkit.errors import FraudError, InvalidInput
from fraudkit.settings import Settings, load_settings
from pipelines.controller import models
from pipelines.launcher.moves import Move
from pipelines.tracking import Tracking

log = structlog.get_logger()

NICE: Final = 10
"""Nobody waits for it."""


def main(arguments: list[str] | None = None) -> int:
    """Repair; 0 when MLflow shows what serves, 1 when it does not yet, 2 on wrong use."""
    logs.configure()
    os.nice(NICE)
    parser = argparse.ArgumentParser("python -m pipelines.registry", description=__doc__)
    parser.add_argument(
        "--moves", action="store_true", help="Read what happened from standard input, a JSON a line."
    )
    told = parser.parse_args(arguments).moves
    try:
        moves = [Move.model_validate_json(line) for line in sys.stdin.buffer] if told else []
        repair(load_settings(), moves)
    except FraudError as error:
        log.error("MLflow was not repaired", reason=str(error))  # noqa: TRY400  # a line says it
        return 2 if isinstance(error, InvalidInput) else 1
    return 0


def repair(settings: Settings, moves: Sequence[Move]) -> None:
    """Bring the aliases to what serves, and note the moves as tags.

    Raises:
        InvalidInput: No controller is named.
        FraudError: It or MLflow is away, or refuses.
    """
    if settings.rollout.url is None:
        raise InvalidInput("rollout.url names no roll-out controller, which alone knows what serves")
    serving = models(settings.rollout.url.rstrip("/"))
    Tracking(settings).mirror(serving, [(move.version, move.tag, move.said) for move in moves])
    log.info(
        "MLflow shows what serves", champion=serving.champion, challenger=serving.challenger, moves=len(moves)
    )


if __name__ == "__main__":
    sys.exit(main())
