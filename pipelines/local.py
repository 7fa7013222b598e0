"""A whole run in this process: the same steps as the Kubeflow pipeline, in a folder of the run's own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fraudkit.settings import Settings
from pipelines.data.recent import Span
from pipelines.evaluation.result import Evaluation
from pipelines.provenance import Run
from pipelines.steps.conclude import Conclusion, Folders, register, reject
from pipelines.steps.evaluate import evaluate
from pipelines.steps.prepare import prepare
from pipelines.steps.train import train
from pipelines.tracking import Tracking, preload

Report = Callable[[str, int, int | None], None]
"""Called with the step, rows done and rows in all where known; once with (step, 0, None) when a step begins."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A run that came to its end."""

    evaluation: Evaluation
    conclusion: Conclusion


def run_pipeline(
    uri: str,
    settings: Settings,
    run: Run,
    report: Report = lambda *_: None,
    keep: Path | None = None,
    span: Span | None = None,
) -> Finished:
    """Prepare, train, evaluate, and register or reject. Bad data leave nothing behind.

    Args:
        uri: The data.
        settings: The settings.
        run: Name and trigger of the run.
        report: Hears of progress.
        keep: Folder to copy profile, report and the steps' files to.
        span: Which logged transactions are learned from as well.

    Raises:
        FraudError: Saying what is wrong with the data, the settings or a peer.
    """
    with tempfile.TemporaryDirectory(prefix="fraud-run-") as scratch, ThreadPoolExecutor(1) as background:
        folder = Path(scratch)
        folders = Folders(folder / "prepare", folder / "train", folder / "evaluate")
        report("prepare", 0, None)
        preloading: list[Future[None]] = []

        def reading(done: int, total: int | None) -> None:
            if not preloading:  # the data can be read: what takes seconds to import may be imported beside that
                preloading.append(background.submit(preload))
            report("prepare", done, total)

        prepare(uri, settings, folders.prepared, reading, span)
        # The data are good: MLflow may now make its files, beside the training.
        tracking = background.submit(Tracking, settings)
        report("train", 0, None)
        train(folders.prepared, settings, folders.candidate)
        report("evaluate", 0, None)
        evaluation = evaluate(folders.prepared, folders.candidate, settings, tracking.result(), folders.evaluation)
        report("conclude", 0, None)
        conclude = register if evaluation.verdict.passed else reject
        conclusion = conclude(run, folders, settings, tracking.result())
        if keep:
            shutil.copytree(folder, keep, dirs_exist_ok=True)
    return Finished(evaluation, conclusion)
