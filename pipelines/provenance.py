"""Which code and which libraries made a model, and what asked for it."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import subprocess
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

LIBRARIES: Final = ("fraud-platform", "numpy", "scikit-learn", "skops", "pyarrow", "mlflow", "kfp")
_ROOT: Final = Path(__file__).parents[1]


class Run(BaseModel):
    """A run of the pipeline.

    Attributes:
        name: Its name, unique among runs.
        trigger: Key of what started it: `manual-…`, `schedule-2026-11`, `drift-…`, `bootstrap`.
        kfp: Name of the run on Kubeflow Pipelines; empty for one on this machine.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    trigger: str
    kfp: str = ""


@functools.cache
def code_commit() -> str:
    """Commit of this code: `FRAUD_CODE_COMMIT` (set in images), else the checkout's, else the release.

    A checkout with uncommitted changes says so.
    """
    told = os.environ.get("FRAUD_CODE_COMMIT")
    if told:
        return told
    commit = _git("rev-parse", "HEAD") if (_ROOT / ".git").exists() else None
    if commit is None:
        return f"release {importlib.metadata.version('fraud-platform')}"
    return f"{commit}+changes" if _git("status", "--porcelain", "--untracked-files=no") else commit


def libraries() -> dict[str, str]:
    """Versions of the libraries that decide what a model is."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def _git(*arguments: str) -> str | None:
    """What git says of this checkout, or None without git."""
    command = ["git", "-C", str(_ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
