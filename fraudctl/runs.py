"""Runs on this machine."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from rich.console import Console

from fraudctl.progress import StepProgress
from fraudkit.bundle import Bundle
from fraudkit.bundle_store import BundleStore
from fraudkit.errors import InvalidInput
from fraudkit.settings import Settings
from pipelines.data.synthesize import synthesize, write
from pipelines.local import Finished, run_pipeline
from pipelines.provenance import Run
from pipelines.tracking import Tracking

SYNTHETIC_ROWS = 284_807


def train_here(data: str | None, settings: Settings, console: Console, keep: Path | None = None) -> Finished:
    """Run the pipeline once in this process, on synthesized transactions where there are none."""
    name = f"train-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(3)}"
    with StepProgress(console) as progress:
        uri = data or str(_made(settings, progress))
        return run_pipeline(uri, settings, Run(name=name, trigger=f"manual-{name}"), progress, keep)


def find_bundle(version: str | None, settings: Settings) -> Bundle:
    """The verified bundle of a version, or of the champion.

    Raises:
        InvalidInput: There is no such version, or no champion yet.
    """
    # To ask is not to write: MLflow would make its database.
    untouched = settings.tracking.uri is None and not (settings.state / "mlflow.db").exists()
    named = version or (None if untouched else Tracking(settings).champion())
    if named is None:
        raise InvalidInput(f"there is no model in {settings.state} yet; `fraudctl train` makes one")
    store = BundleStore.of(settings)
    if not store.has(named):
        raise InvalidInput(f"there is no version {named} in {store}")
    return store.load(named)


def synthesized_path(settings: Settings) -> Path:
    """Where the synthesized transactions of a seed are, in the state folder."""
    return settings.state / "data" / f"synthesized-{SYNTHETIC_ROWS}-{settings.sampling.seed}.parquet"


def synthesized(settings: Settings, console: Console) -> Path:
    """The synthesized transactions of the state folder, made where they are missing."""
    with StepProgress(console) as progress:
        return _made(settings, progress).absolute()


def _made(settings: Settings, progress: StepProgress) -> Path:
    """The synthesized transactions of the state folder, made once for each seed."""
    seed, path = settings.sampling.seed, synthesized_path(settings)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write(
            path,
            synthesize(SYNTHETIC_ROWS, seed),
            lambda done: progress("synthesize", done, SYNTHETIC_ROWS),
        )
    return path
