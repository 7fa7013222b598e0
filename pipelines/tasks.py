"""The tasks of the Kubeflow pipeline: steps with artifacts for inputs and outputs, made to be looked at in its UI.

Artifacts are used by their `path` and `metadata` alone, so that this module imports no KFP.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Protocol

from fraudkit.bundle import version_of
from fraudkit.estimate import Estimate
from fraudkit.settings import Settings, load_settings
from pipelines.evaluation.metrics import roc_curve
from pipelines.evaluation.report import CARD, REPORT
from pipelines.following import Artifact, print_rollout
from pipelines.outcome import result_of, rolled_out, tell
from pipelines.provenance import Run
from pipelines.sharding import print_progress, show, span_of
from pipelines.steps import conclude
from pipelines.steps import evaluate as evaluating
from pipelines.steps import prepare as preparing
from pipelines.steps import train as training
from pipelines.tracking import Tracking


class Metrics(Artifact, Protocol):
    """KFP's Metrics."""

    def log_metric(self, metric: str, value: float) -> None:
        """Show a number."""


class Classification(Artifact, Protocol):
    """KFP's ClassificationMetrics."""

    def log_roc_curve(self, fpr: list[float], tpr: list[float], threshold: list[float]) -> None:
        """Show a ROC curve."""

    def log_confusion_matrix(self, categories: list[str], matrix: list[list[int]]) -> None:
        """Show a confusion matrix."""


def prepare(data_uri: str, since: str, as_of: str, settings: str, prepared: Artifact, profile: Artifact) -> None:
    """Prepare the data; the profile is an HTML artifact of the run.

    Raises:
        InvalidInput: The data cannot be right, or only one of `since` and `as_of` is given.
    """
    span, loaded, output = span_of(since, as_of), _settings(settings), Path(prepared.path)
    show(preparing.prepare(data_uri, loaded, output, print_progress, span), prepared, profile)


def train(settings: str, prepared: Artifact, candidate: Artifact) -> None:
    """Train on the prepared data."""
    found = training.train(Path(prepared.path), _settings(settings), Path(candidate.path))
    candidate.metadata.update(framework="scikit-learn", ratio=found.ratio, c=found.c)


def evaluate(
    settings: str,
    prepared: Artifact,
    candidate: Artifact,
    evaluation: Artifact,
    metrics: Metrics,
    classification: Classification,
    report: Artifact,
    card: Artifact,
) -> bool:
    """Evaluate the candidate; whether the gate lets it pass."""
    loaded, output = _settings(settings), Path(evaluation.path)
    found = evaluating.evaluate(Path(prepared.path), Path(candidate.path), loaded, Tracking(loaded), output)
    verdict = found.verdict
    evaluation.metadata.update(outcome=verdict.outcome.value, reason=verdict.reason, message=verdict.message)
    for table in (found.balanced, found.natural):
        for name in table.__slots__:
            if isinstance(estimate := getattr(table, name), Estimate):
                metrics.log_metric(f"{type(table).__name__}.{name}", float(f"{estimate.value:.6g}"))
    (tn, fp), (fn, tp) = found.balanced.confusion_matrix
    classification.log_confusion_matrix(["legitimate", "fraud"], [[tn, fp], [fn, tp]])
    curve = roc_curve(found.scored.labels, found.scored.logits["challenger"])
    classification.log_roc_curve(list(curve.fpr), list(curve.tpr), list(curve.thresholds))
    shutil.copyfile(output / REPORT, report.path)
    shutil.copyfile(output / CARD, card.path)
    return verdict.passed


def register(
    run: str,
    trigger: str,
    settings: str,
    prepared: Artifact,
    candidate: Artifact,
    evaluation: Artifact,
    model: Artifact,
) -> None:
    """Register the candidate; the `model` artifact says which version and where its bundle is."""
    found = _conclude(conclude.register, run, trigger, settings, prepared, candidate, evaluation)
    document = json.loads(found.model_dump_json())
    model.metadata.update({key: str(value) for key, value in document.items()})
    Path(model.path).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def reject(
    run: str,
    trigger: str,
    attempt: int,
    settings: str,
    prepared: Artifact,
    candidate: Artifact,
    evaluation: Artifact,
) -> None:
    """Log the run and tell the launcher; nothing is registered."""
    conclusion = _conclude(conclude.reject, run, trigger, settings, prepared, candidate, evaluation)
    loaded, verdict = _settings(settings), evaluation.metadata
    result = result_of(verdict["reason"], verdict["message"], version_of(Path(candidate.path)), conclusion)
    tell(rolled_out(result, trigger, loaded, print_rollout)[0], trigger, attempt, loaded)


def _conclude(
    step: conclude.Step,
    run: str,
    trigger: str,
    settings: str,
    prepared: Artifact,
    candidate: Artifact,
    evaluation: Artifact,
) -> conclude.Conclusion:
    loaded = _settings(settings)
    folders = conclude.Folders(Path(prepared.path), Path(candidate.path), Path(evaluation.path))
    return step(Run(name=run, trigger=trigger, kfp=run), folders, loaded, Tracking(loaded))


def _settings(text: str) -> Settings:
    return load_settings(**json.loads(text))
