"""Evaluate: score the frozen holdout with everything that is compared, measure, and let the gate decide."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fraudkit import bundle
from fraudkit.bundle_store import HOLDOUTS, BundleStore
from fraudkit.errors import BundleError
from fraudkit.estimate import Estimate
from fraudkit.policy.gate import GateFacts, RecentFacts, decide
from fraudkit.schema import FloatArray
from fraudkit.scoring import Scorer, sigmoid
from fraudkit.settings import Settings
from pipelines.data import holdout, recent
from pipelines.data.rowhash import content_hash, keyed
from pipelines.evaluation.metrics import (
    BalancedMetrics,
    NaturalMetrics,
    balanced,
    calibration,
    natural,
    paired_log_loss,
)
from pipelines.evaluation.report import write_report
from pipelines.evaluation.resampling import paired_auprc
from pipelines.evaluation.result import Compared, Evaluation, Scored
from pipelines.model import load, terms
from pipelines.records import Prepared, Training, Variant

METRICS: Final = "metrics.json"
SCORES: Final = "holdout.parquet"
VERDICT: Final = "verdict.json"


class Registry(Protocol):
    """What the evaluation asks the model registry."""

    def champion(self) -> str | None:
        """Version of the champion."""

    def first_of(self, data: str) -> str | None:
        """Version of the first model of a data set."""


def evaluate(
    prepared_folder: Path, candidate: Path, settings: Settings, registry: Registry, output: Path
) -> Evaluation:
    """Evaluate the candidate in its folder against the frozen holdout, champion and first model.

    Writes `metrics.json`, `verdict.json`, `holdout.parquet`, the model card and the report to `output`.
    """
    prepared = Prepared.read(prepared_folder)
    training = Training.read(candidate)
    scorer = Scorer.from_json((candidate / bundle.SCORER).read_bytes())
    champion = registry.champion()
    first = registry.first_of(prepared.data) or champion
    models, store = {"challenger": scorer}, BundleStore.of(settings)
    models |= {
        name: store.load(version).scorer for name, version in (("champion", champion), ("first", first)) if version
    }
    folder = store.find(f"{HOLDOUTS}/{prepared.data}", holdout.RECORD)
    if folder is None:
        raise BundleError(f"the holdout that was frozen for these data is not at {store} any more")
    scored = _score(folder, models, training.variants, candidate / "model.skops", training.added)
    live = _recently(models, recent.held_rows(prepared_folder), settings) if prepared.recent else None
    version = bundle.version_of(candidate)
    evaluation = _measure(version, prepared, training, scorer, scored, settings, champion, live)
    _write(evaluation, output)
    return evaluation


def legit_weight(prepared: Prepared, settings: Settings) -> float:
    """Weight of a legitimate holdout row that reads the holdout at the natural rate that was set; else 1."""
    rate = settings.data.natural_rate
    if rate is None:
        return 1.0
    held = prepared.holdout
    return held.frauds * (1.0 - rate) / (rate * (held.rows - held.frauds))


def _score(
    folder: Path, models: Mapping[str, Scorer], variants: tuple[Variant, ...], model: Path, added: float
) -> Scored:
    """One pass over the frozen holdout with every scorer, and with the fitted pipeline to prove the scorer."""
    pipeline = load(model)
    labels, orders, error = [], [], 0.0
    parts: dict[str, list[FloatArray]] = {name: [] for name in (*models, *(v.name for v in variants))}
    for block in holdout.read_blocks(folder):
        rows = np.ascontiguousarray(block.rows)
        for name, scorer in models.items():
            parts[name].append(scorer.logits(rows))
        for variant in variants:
            parts[variant.name].append(terms(rows) @ np.asarray(variant.weights) + variant.intercept)
        fitted = sigmoid(pipeline.decision_function(rows) + added)
        error = max(error, float(np.abs(fitted - sigmoid(parts["challenger"][-1])).max()))
        labels.append(block.labels.astype(np.int8))
        orders.append(keyed(content_hash(block.columns), "balanced-test", 0))
    logits = {name: np.concatenate(part) for name, part in parts.items()}
    return Scored(np.concatenate(labels), np.concatenate(orders), logits, error)


def _measure(
    version: str,
    prepared: Prepared,
    training: Training,
    scorer: Scorer,
    scored: Scored,
    settings: Settings,
    champion: str | None,
    live: RecentFacts | None,
) -> Evaluation:
    even = np.log(scorer.natural_rate / (1.0 - scorer.natural_rate))
    rows = scored.balanced_rows()
    labels, seed = scored.labels, settings.sampling.seed
    weight = legit_weight(prepared, settings)

    def at_half(logits: FloatArray) -> BalancedMetrics:
        return balanced(labels[rows], sigmoid(logits[rows] - even), seed=seed)

    def at_rate(logits: FloatArray) -> NaturalMetrics:
        alerts = settings.alerts
        return natural(
            labels,
            sigmoid(logits),
            scorer.thresholds.review,
            scorer.thresholds.block,
            cost_missed=alerts.cost_missed,
            cost_review=alerts.cost_review,
            cost_block=alerts.cost_block,
            legit_weight=weight,
            seed=seed,
        )

    own = scored.logits["challenger"]
    half, rate = at_half(own), at_rate(own)
    facts = GateFacts(
        challenger=version,
        converged=training.converged,
        leaks=tuple(n for n, auc in prepared.separations.items() if auc >= settings.data.leak_auc),
        scorer_error=scored.scorer_error,
        holdout_rows=rate.rows,
        holdout_frauds=rate.frauds,
        roc_auc=half.roc_auc,
        auprc=rate.auprc,
        natural_rate=rate.natural_rate,
        calibration=rate.calibration,
        champion=champion,
        against_champion=_against("champion", scored, weight, seed),
        against_first=_against("first", scored, weight, seed),
        recent=live,
    )
    return Evaluation(
        version=version,
        prepared=prepared,
        training=training,
        scorer=scorer,
        scored=scored,
        balanced=half,
        balanced_at_review=balanced(labels[rows], sigmoid(own[rows]), scorer.thresholds.review, seed=seed),
        natural=rate,
        compared=tuple(
            Compared(v, at_half(scored.logits[v.name]), at_rate(scored.logits[v.name])) for v in training.variants
        ),
        verdict=decide(facts, settings.gate),
    )


def _recently(models: Mapping[str, Scorer], held: recent.Rows, settings: Settings) -> RecentFacts | None:
    """Challenger beside champion on the recent holdout; None where there is no champion."""
    if "champion" not in models:
        return None
    inputs = np.ascontiguousarray(held.inputs)
    old, new = (models[name].logits(inputs) for name in ("champion", "challenger"))
    fraud = held.labels == 1
    # One weight for all legitimate rows: exact once silence has matured them, an approximation before.
    weight = float(held.weights[~fraud].mean() / held.weights[fraud].mean())
    return RecentFacts(
        auprc=paired_auprc(held.labels, old, new, weight, seed=settings.sampling.seed),
        log_loss=paired_log_loss(held.labels, sigmoid(old), sigmoid(new), weight),
        calibration=calibration(held.labels, sigmoid(new), weight),
    )


def _against(name: str, scored: Scored, weight: float, seed: int) -> Estimate | None:
    """ΔAUPRC of the challenger less another model, or None where there is no such model."""
    other = scored.logits.get(name)
    if other is None:
        return None
    return paired_auprc(scored.labels, other, scored.logits["challenger"], weight, seed=seed)


def _write(evaluation: Evaluation, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    (output / METRICS).write_text(_json(evaluation.document()), encoding="utf-8")
    (output / VERDICT).write_text(_json(asdict(evaluation.verdict)), encoding="utf-8")
    scored = evaluation.scored
    table = pa.table({"probability": sigmoid(scored.logits["challenger"]), "label": scored.labels})
    pq.write_table(table, output / SCORES)
    write_report(evaluation, output)


def _json(document: object) -> str:
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
