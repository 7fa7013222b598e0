"""The process of one run: what the order in its folder asks for, once; how it ended stays in the folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import structlog

from fraudkit import logs
from fraudkit.errors import FraudError, TemporaryError
from fraudkit.settings import Settings, load_settings
from pipelines.controller import Rollout
from pipelines.data.recent import Span
from pipelines.launcher.backends import Order, Result
from pipelines.launcher.local import Ended, alone, read_ended, read_order, write_ended
from pipelines.local import run_pipeline
from pipelines.outcome import result_of, rolled_out
from pipelines.provenance import Run

log = structlog.get_logger()


def main(arguments: list[str] | None = None) -> int:
    """Run; 0 when the folder says how it ended."""
    logs.configure()
    parser = argparse.ArgumentParser("python -m pipelines.launcher.job", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args(arguments).folder
    with alone(folder) as mine:
        if mine and read_ended(folder) is None:
            write_ended(folder, _ended(folder))
    return 0


def _ended(folder: Path) -> Ended:
    try:
        return Ended(result=run(read_order(folder), load_settings()))
    except TemporaryError as error:
        return Ended(error=str(error), retry=True)
    except FraudError as error:
        return Ended(error=str(error))


def run(order: Order, settings: Settings) -> Result:
    """Run the pipeline as ordered.

    Raises:
        FraudError: Saying what is wrong with the data, the settings or a peer.
    """
    named = Run(name=f"{order.key}-{order.attempt}", trigger=order.key)
    span = None if order.since is None else Span(order.since, order.as_of)
    finished = run_pipeline(order.data_uri, settings, named, _log_progress, span=span)
    verdict = finished.evaluation.verdict
    result = result_of(verdict.reason, verdict.message, finished.evaluation.version, finished.conclusion)
    return rolled_out(result, order.key, settings, _log_rollout)[0]


def _log_progress(step: str, done: int, total: int | None) -> None:
    if not done:
        log.info("step", step=step, rows=total)


def _log_rollout(rollout: Rollout) -> None:
    said = {"reason": rollout.said[1], "message": rollout.said[2]}
    log.info("roll-out", key=rollout.key, status=rollout.status, step=rollout.step, **said)


if __name__ == "__main__":
    sys.exit(main())
