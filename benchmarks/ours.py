"""Our steps on a file, with a clock in each part that the plain script has no counterpart for.

Prints seconds without imports, as JSON: `core` is reading, validating, splitting, sampling, choosing the ratio,
fitting and point metrics; the rest is listed by name.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fraudkit.settings import load_settings
from pipelines import reference
from pipelines.evaluation import resampling
from pipelines.steps import evaluate, prepare, train

BESIDE: list[tuple[str, Any, str]] = [
    ("profile", prepare, "write_profile"),
    ("reference", reference, "write_reference"),
    ("comparison of samples", train, "_variants"),
    ("intervals", resampling, "_estimates"),
    ("report and plots", evaluate, "write_report"),
]


class NoRegistry:
    """A registry without models."""

    def champion(self) -> None:
        """There is none."""

    def first_of(self, data: str) -> None:
        """There is none."""


def main(path: str) -> None:
    seconds = dict.fromkeys((name for name, _, _ in BESIDE), 0.0)
    for name, module, function in BESIDE:
        setattr(module, function, timed(getattr(module, function), seconds, name))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        settings = load_settings(state=root / "state")
        began = time.perf_counter()
        prepare.prepare(path, settings, root / "prepare")
        prepared = time.perf_counter()
        train.train(root / "prepare", settings, root / "train")
        trained = time.perf_counter()
        found = evaluate.evaluate(root / "prepare", root / "train", settings, NoRegistry(), root / "evaluate")
        done = time.perf_counter()
    stages = {"prepare": prepared - began, "train": trained - prepared, "evaluate": done - trained}
    core = done - began - sum(seconds.values())
    auprc = found.natural.auprc.value
    print(json.dumps({"seconds": core, "beside": seconds, "stages": stages, "metrics": {"auprc": auprc}}))


def timed(function: Callable[..., Any], seconds: dict[str, float], name: str) -> Callable[..., Any]:
    """`function` that adds the time it takes to `seconds[name]`."""

    def wrapper(*arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            seconds[name] += time.perf_counter() - began

    return wrapper


if __name__ == "__main__":
    main(sys.argv[1])
