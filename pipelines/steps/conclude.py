"""Conclude: seal and register what passed the gate, and log every run, passed or not."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from fraudkit import bundle
from fraudkit.bundle_store import BundleStore
from fraudkit.settings import Settings
from pipelines.data import recent
from pipelines.evaluation.report import CARD, PLOTS, REPORT
from pipelines.launcher.triggers import Kind
from pipelines.provenance import Run, code_commit, libraries
from pipelines.records import Prepared, Training
from pipelines.reference import write_reference
from pipelines.steps.evaluate import METRICS, SCORES, VERDICT
from pipelines.steps.prepare import PROFILE
from pipelines.tracking import BASE_TAG, DATA_TAG, LoggedRun, Tracking

_FROM_CANDIDATE: Final = (bundle.SCORER, "model.skops")
_FROM_EVALUATION: Final = (METRICS, SCORES, CARD)
_NO_GAIN: Final = "no_gain"


class Conclusion(BaseModel):
    """How a run ended.

    Attributes:
        run: Name of the run.
        version: Version of the registered model; None where the gate said no.
        bundle: Its folder.
        aliases: The aliases it was given.
        mlflow_run: MLflow's id of the run.
        report: Where MLflow keeps the report.
        offered: Version of a child of the champion with a new reference, which a person may accept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    version: str | None
    bundle: Path | None
    aliases: tuple[str, ...]
    mlflow_run: str
    report: str
    offered: str | None = None

    @property
    def offer(self) -> str:
        """What to do with what is offered, as a sentence after another one; empty where nothing is."""
        return _offer(self.offered)


@dataclass(frozen=True, slots=True)
class Folders:
    """What the steps before left."""

    prepared: Path
    candidate: Path
    evaluation: Path


Step = Callable[[Run, Folders, Settings, Tracking], Conclusion]


def register(run: Run, folders: Folders, settings: Settings, tracking: Tracking) -> Conclusion:
    """Seal the candidate as a bundle, log the run, and register the version as challenger.

    A first model becomes champion as well: there is nothing that it could be rolled out against.
    """
    sealed = _seal(run, folders, settings)
    logged = _log(run, folders, settings, tracking, {"bundle": sealed.path})
    aliases = tracking.register(logged.run_id, sealed.version, _tags(run, folders, settings))
    return Conclusion(
        run=run.name,
        version=sealed.version,
        bundle=sealed.path,
        aliases=aliases,
        mlflow_run=logged.run_id,
        report=f"{logged.artifacts}/{REPORT}",
    )


def reject(run: Run, folders: Folders, settings: Settings, tracking: Tracking) -> Conclusion:
    """Log a run whose candidate the gate did not pass; nothing is registered.

    Where a drift's candidate brought no gain, the champion with the new reference is offered: without it the alarm
    would stand for ever.
    """
    offered = _renewed_champion(run, folders, settings)
    logged = _log(run, folders, settings, tracking, {"bundle": offered.path} if offered else {}, offered)
    return Conclusion(
        run=run.name,
        version=None,
        bundle=None,
        aliases=(),
        mlflow_run=logged.run_id,
        report=f"{logged.artifacts}/{REPORT}",
        offered=offered.version if offered else None,
    )


def _renewed_champion(run: Run, folders: Folders, settings: Settings) -> bundle.Bundle | None:
    """A child of the champion with the run's new reference, where a drift's candidate brought no gain."""
    verdict, live = _verdict(folders), Prepared.read(folders.prepared).recent
    champion = verdict["facts"]["champion"]
    drifted = run.trigger.startswith(f"{Kind.DRIFT}-") and live is not None and live.reference
    if verdict["reason"] != _NO_GAIN or champion is None or not drifted:
        return None
    store = BundleStore.of(settings)
    parent = store.load(champion)
    with bundle.child_of(parent) as draft:
        shutil.rmtree(draft / bundle.REFERENCE)
        rows = recent.reference_rows(folders.prepared)
        write_reference(rows, parent.scorer, by_time=True, folder=draft / bundle.REFERENCE)
        if bundle.version_of(draft) == champion:
            return None
        what = f"its reference is {len(rows):,} transactions of live traffic. Scorer and metrics are the parent's."
        origin = bundle.child_origin(
            draft,
            parent,
            what=what,
            by="the pipeline",
            reason=verdict["message"],
            run=(run.name, run.trigger),
        )
        return store.seal(draft, origin)


def _offer(version: str | None) -> str:
    if version is None:
        return ""
    accept = f"POST /v1/bundles/{version}/reference {{by, reason}} at the roll-out controller accepts it"
    return f"; {version}, the champion with a new reference, is offered: {accept}"


def _verdict(folders: Folders) -> dict[str, Any]:
    verdict: dict[str, Any] = json.loads((folders.evaluation / VERDICT).read_bytes())
    return verdict


def _seal(run: Run, folders: Folders, settings: Settings) -> bundle.Bundle:
    prepared, training = Prepared.read(folders.prepared), Training.read(folders.candidate)
    live = prepared.recent
    learned = bundle.Learned(
        uri=prepared.uri,
        base=training.used,
        recent=training.recent,
        since=live.since if live else None,
        as_of=live.as_of if live else None,
    )
    verdict = _verdict(folders)
    origin = bundle.Origin(
        run=run.name,
        trigger=run.trigger,
        data=prepared.identity,
        code=code_commit(),
        libraries=libraries(),
        created=datetime.now(UTC),
        learned=learned,
        gate=bundle.Gate(**{name: verdict[name] for name in bundle.Gate.model_fields}),
    )
    with tempfile.TemporaryDirectory(prefix="fraud-bundle-") as scratch:
        draft = Path(scratch)
        shutil.copytree(folders.candidate / bundle.REFERENCE, draft / bundle.REFERENCE)
        for folder, names in ((folders.candidate, _FROM_CANDIDATE), (folders.evaluation, _FROM_EVALUATION)):
            for name in names:
                shutil.copyfile(folder / name, draft / name)
        return BundleStore.of(settings).seal(draft, origin)


def _log(
    run: Run,
    folders: Folders,
    settings: Settings,
    tracking: Tracking,
    more: Mapping[str, Path],
    offered: bundle.Bundle | None = None,
) -> LoggedRun:
    """Log parameters, metrics, plots, profile and verdict."""
    prepared = Prepared.read(folders.prepared)
    training = Training.read(folders.candidate)
    verdict = _verdict(folders)
    parameters = {
        "data.uri": prepared.uri,
        "data.rows": str(prepared.rows),
        "data.frauds": str(prepared.frauds),
        "data.natural_rate": f"{prepared.natural_rate:.6g}",
        "holdout.rule": prepared.holdout.rule.kind,
        "sample.per_class": str(training.per_class),
        "sample.ratio": str(training.ratio),
        "training.c": f"{training.c:g}",
        "training.frauds": str(training.used[1]),
    }
    if prepared.recent:
        live = prepared.recent
        parameters |= {
            "recent.since": live.since.isoformat(),
            "recent.as_of": live.as_of.isoformat(),
            "recent.frauds": str(training.recent[1]),
            "recent.held_frauds": str(live.held[1]),
        }
    tags = _tags(run, folders, settings) | {
        "gate_outcome": verdict["outcome"],
        "gate_reason": verdict["reason"],
        "mlflow.note.content": verdict["message"] + _offer(offered.version if offered else None),
    }
    if offered:
        tags["offered_version"] = offered.version
    with tempfile.TemporaryDirectory(prefix="fraud-log-") as scratch:
        report = Path(scratch)
        shutil.copyfile(folders.prepared / PROFILE, report / PROFILE)
        for name in (REPORT, CARD, METRICS, VERDICT):
            shutil.copyfile(folders.evaluation / name, report / name)
        shutil.copytree(folders.evaluation / PLOTS, report / PLOTS)
        metrics = _flat(json.loads((folders.evaluation / METRICS).read_bytes()))
        return tracking.log_run(run.name, parameters, metrics, tags, {"": report, **more})


def _tags(run: Run, folders: Folders, settings: Settings) -> dict[str, str]:
    prepared = Prepared.read(folders.prepared)
    return {
        BASE_TAG: prepared.data,
        DATA_TAG: prepared.identity,
        "code_commit": code_commit(),
        "seed": str(settings.sampling.seed),
        "trigger_key": run.trigger,
        "kfp_run": run.kfp or "none",
    }


def _flat(metrics: Mapping[str, Mapping[str, object]]) -> dict[str, float]:
    """Metrics with an interval as `natural.auprc`, `natural.auprc_low`, `natural.auprc_high`."""
    flat = {}
    for table in ("balanced", "balanced_at_review", "natural"):
        for name, value in metrics[table].items():
            if isinstance(value, dict) and value.keys() == {"value", "low", "high"}:
                flat[f"{table}.{name}"] = value["value"]
                flat |= {f"{table}.{name}_{bound}": value[bound] for bound in ("low", "high")}
    return flat
