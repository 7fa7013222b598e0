"""Runs on this machine."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from rich.console import Console

from fraudctl.progress import StepProgress
from fraudkit.settings import Settings
from pipelines.data.synthesize import synthesize, write
from pipelines.local import Finished, run_pipeline
from pipelines.provenance import Run

SYNTHETIC_ROWS = 284_807


def train_here(data: str | None, settings: Settings, console: Console, keep: Path | None = None) -> Finished:
    """Run the pipeline once in this process, on synthesized transactions where there are none."""
    name = f"train-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(3)}"
    with StepProgress(console) as progress:
        uri = data or str(_synthesized(settings, progress))
        return run_pipeline(uri, settings, Run(name=name, trigger=f"manual-{name}"), progress, keep)


def _synthesized(settings: Settings, progress: StepProgress) -> Path:
    """The synthesized transactions of the state folder, made once for each seed."""
    seed = settings.sampling.seed
    path = settings.state / "data" / f"synthesized-{SYNTHETIC_ROWS}-{seed}.parquet"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write(
            path,
            synthesize(SYNTHETIC_ROWS, seed),
            lambda done: progress("synthesize", done, SYNTHETIC_ROWS),
        )
    return path
