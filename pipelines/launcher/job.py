"""The process of one run: what the order in its folder asks for, once; how it ended stays in the folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

import structlog

from fraudkit import logs
from fraudkit.errors import FraudError, TemporaryError
from fraudkit.policy.gate import GateVerdict
from fraudkit.settings import Settings, load_settings
from pipelines.controller import roll_out
from pipelines.data.recent import Span
from pipelines.launcher.backends import Order, Result
from pipelines.launcher.local import Ended, alone, read_ended, read_order, write_ended
from pipelines.local import Finished, run_pipeline
from pipelines.provenance import Run
from pipelines.tracking import Tracking

log = structlog.get_logger()

NO_GAIN: Final = "no_gain"
CHALLENGER: Final = "challenger"


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
    result = result_of(run_pipeline(order.data_uri, settings, named, _log_progress, span=span))
    if result.outcome != CHALLENGER or settings.rollout.url is None:
        return result
    rolled_out = roll_out(settings.rollout.url, result, order.key)
    if rolled_out.outcome == "promoted" and rolled_out.version:
        Tracking(settings).promoted(rolled_out.version)
    return rolled_out


def result_of(finished: Finished) -> Result:
    """How a run that came to its end ended, without a roll-out."""
    verdict: GateVerdict = finished.evaluation.verdict
    version = finished.conclusion.version
    if version is None:
        outcome = NO_GAIN if verdict.reason == NO_GAIN else "rejected"
        return Result(
            outcome=outcome, reason=verdict.reason, message=verdict.message, version=finished.evaluation.version
        )
    outcome = "promoted" if "champion" in finished.conclusion.aliases else CHALLENGER
    return Result(outcome=outcome, reason=verdict.reason, message=verdict.message, version=version)


def _log_progress(step: str, done: int, total: int | None) -> None:
    if not done:
        log.info("step", step=step, rows=total)


if __name__ == "__main__":
    sys.exit(main())
