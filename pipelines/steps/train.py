"""Train: choose how to balance, fit the logistic regression, fold it into a scorer, and draw its reference."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from fraudkit.bundle import REFERENCE, SCORER
from fraudkit.schema import FloatArray
from fraudkit.scoring import Scorer, Thresholds, sigmoid
from fraudkit.settings import AlertSettings, Settings
from pipelines import eras, reference
from pipelines.data import recent
from pipelines.evaluation.resampling import average_precision
from pipelines.model import correction, fit, save
from pipelines.records import TRAINING, Kept, Prepared, Training, Trial, Variant, load_prepared

RATIOS: Final = (1, 3, 10, 30)
PENALTIES: Final = tuple(10.0**i for i in range(-4, 3))
VALIDATION_EVERY: Final = 5
TYPICAL_ROWS: Final = 20_000
"""Rows that the typical values are medians of."""


def train(prepared_folder: Path, settings: Settings, output: Path) -> Training:
    """Train on what `prepare` left; the candidate's scorer, model and reference go to the folder `output`.

    Raises:
        PermanentError: The optimizer did not converge.
    """
    prepared, kept = load_prepared(prepared_folder)
    trials = _trials(kept, prepared, settings)
    best = max(trials, key=lambda trial: trial.auprc) if trials else None
    ratio = best.ratio if best else settings.sampling.ratio or 1
    c = best.c if best else settings.training.c
    legitimate, frauds = _sample(kept, settings.sampling.per_class, ratio)
    used = len(legitimate), len(frauds)
    ratio = used[0] // used[1]  # fewer than asked for where there are not so many
    if prepared.recent is None:
        fitted = fit(legitimate, frauds, c, settings.training.iterations)
        added, learned = correction(used, prepared.training, prepared.natural_rate), (0, 0)
    else:
        live = recent.training_rows(prepared_folder)
        sample = eras.mixed((legitimate, frauds), live, ratio, settings.sampling)
        fitted = fit(sample.legitimate, sample.fraud, c, settings.training.iterations, sample.weights)
        added, learned = eras.correction(sample, prepared.natural_rate), sample.recent
    rows = reference.draw(kept.legitimate, kept.fraud, prepared.training, settings.data.reference_rows)
    few = reference.draw(kept.legitimate, kept.fraud, prepared.training, TYPICAL_ROWS)
    by_time = prepared.holdout.rule.kind == "time"
    if prepared.recent and prepared.recent.reference:
        rows, by_time = recent.reference_rows(prepared_folder), True
        few = rows[:TYPICAL_ROWS]
    scorer = Scorer(
        weights=tuple(float(weight) for weight in fitted.weights),
        intercept=fitted.intercept + added,
        natural_rate=prepared.natural_rate,
        thresholds=thresholds(settings.alerts, sigmoid(fitted.logits(rows) + added)),
        typical=reference.typical(few),
    ).rounded()

    output.mkdir(parents=True, exist_ok=True)
    (output / SCORER).write_bytes(scorer.to_json())
    reference.write_reference(rows, scorer, by_time, output / REFERENCE)
    save(fitted.pipeline, output / "model.skops")
    training = Training(
        per_class=settings.sampling.per_class,
        ratio=ratio,
        c=c,
        used=used,
        recent=learned,
        trials=tuple(trials),
        variants=_variants(kept, prepared, settings, ratio, c),
        per_deviation=tuple(float(value) for value in fitted.per_deviation),
        added=added,
        converged=True,
    )
    (output / TRAINING).write_text(training.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return training


def thresholds(alerts: AlertSettings, probabilities: FloatArray) -> Thresholds:
    """Where alerts begin.

    By costs: a review pays from p · missed = review on, and blocking is cheaper than a review from
    (1 - p) · block = review on. By budget: `review` is the probability that the budget's share of transactions
    exceeds.

    Args:
        alerts: Policy and costs.
        probabilities: Scores [n] of rows at the natural rate.
    """
    block = 1.0 - alerts.cost_review / alerts.cost_block
    review = alerts.cost_review / alerts.cost_missed
    if alerts.policy == "budget":
        review = float(np.quantile(probabilities, 1.0 - alerts.budget, method="higher"))
    return Thresholds(review=min(review, block * 0.999), block=block)


def _sample(kept: Kept, per_class: int, ratio: int) -> tuple[FloatArray, FloatArray]:
    """The balanced sample: at most `per_class` frauds, `ratio` legitimate rows for each."""
    frauds = kept.fraud[: min(per_class, len(kept.legitimate))]
    return kept.legitimate[: ratio * len(frauds)], frauds


def _trials(kept: Kept, prepared: Prepared, settings: Settings) -> list[Trial]:
    """Ratios and penalties tried on a validation slice; none where nothing is to be chosen or rows are too few."""
    sampling, training = settings.sampling, settings.training
    enough = len(kept.fraud) >= sampling.per_class
    ratios = [ratio for ratio in RATIOS if ratio == 1 or ratio * len(kept.fraud) <= len(kept.legitimate)]
    if sampling.ratio or enough:
        ratios = [sampling.ratio or 1]
        if not training.tune:
            return []
    rest, held = _slice(kept)
    if not all(map(len, (rest.legitimate, rest.fraud, held.legitimate, held.fraud))):
        return []
    weight = prepared.training[0] / prepared.kept[0] / (prepared.training[1] / prepared.kept[1])

    labels = np.repeat([0, 1], [len(held.legitimate), len(held.fraud)])

    def attempt(ratio: int, c: float) -> Trial:
        model = fit(*_sample(rest, sampling.per_class, ratio), c, training.iterations)
        scores = np.concatenate([model.logits(held.legitimate), model.logits(held.fraud)])
        auprc = average_precision(labels, scores, weight)
        return Trial(ratio=ratio, c=c, auprc=auprc)

    trials = [attempt(ratio, training.c) for ratio in ratios]
    if training.tune:
        ratio = max(trials, key=lambda trial: trial.auprc).ratio
        trials += [attempt(ratio, c) for c in PENALTIES if c != training.c]
    return trials


def _slice(kept: Kept) -> tuple[Kept, Kept]:
    """The kept rows without the validation slice, and the slice: every fifth row in the order of the hash."""
    held = [np.arange(len(rows)) % VALIDATION_EVERY == 0 for rows in (kept.legitimate, kept.fraud)]
    return (
        Kept(kept.legitimate[~held[0]], kept.fraud[~held[1]]),
        Kept(kept.legitimate[held[0]], kept.fraud[held[1]]),
    )


def _variants(kept: Kept, prepared: Prepared, settings: Settings, ratio: int, c: float) -> tuple[Variant, ...]:
    """The model at 1 : 1, at the chosen ratio, and on every row that was kept."""
    samples = {f"{n} : 1": _sample(kept, settings.sampling.per_class, n) for n in (1, ratio)}
    samples["all rows"] = kept.legitimate, kept.fraud
    variants = []
    for name, sample in samples.items():
        fitted = fit(*sample, c, settings.training.iterations)
        used = len(sample[0]), len(sample[1])
        added = correction(used, prepared.training, prepared.natural_rate)
        variants.append(
            Variant(
                name=name,
                legitimate=used[0],
                frauds=used[1],
                weights=tuple(float(weight) for weight in fitted.weights),
                intercept=fitted.intercept + added,
            )
        )
    return tuple(variants)
