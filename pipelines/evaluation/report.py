"""What people look at: the plots of an evaluation, one page of them, and the model card."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Final

import numpy as np

from fraudkit.estimate import Estimate
from fraudkit.scoring import TERMS
from pipelines.evaluation import plots
from pipelines.evaluation.metrics import precision_recall_curve, roc_curve
from pipelines.evaluation.result import Evaluation
from pipelines.page import page

CARD: Final = "card.md"
REPORT: Final = "report.html"
PLOTS: Final = "plots"


def write_report(evaluation: Evaluation, output: Path) -> None:
    """Write `card.md`, `report.html` and the plots as SVG files into the folder `output`."""
    figures = _figures(evaluation)
    (output / PLOTS).mkdir(exist_ok=True)
    for name, (_, _, svg) in figures.items():
        (output / PLOTS / f"{name}.svg").write_text(svg, encoding="utf-8")
    sections = [
        ("At the natural rate", _natural_caption(evaluation), _table(_natural_rows(evaluation))),
        ("Balanced test set", _balanced_caption(evaluation), _table(_balanced_rows(evaluation))),
        ("What balancing costs", "The same model on other samples, on the same holdout.", _compared(evaluation)),
        *figures.values(),
    ]
    lead = f"<p>Gate: {escape(_verdict(evaluation))}</p>"
    html = page(f"Fraud model {evaluation.version}", sections, lead)
    (output / REPORT).write_text(html, encoding="utf-8")
    (output / CARD).write_text(model_card(evaluation), encoding="utf-8")


def model_card(evaluation: Evaluation) -> str:
    """The model card, in Markdown."""
    prepared, training, scorer = evaluation.prepared, evaluation.training, evaluation.scorer
    held = prepared.holdout
    return f"""\
# Fraud model `{evaluation.version}`

**Gate: {_verdict(evaluation)}**

A logistic regression on thirty inputs of a card transaction (Time, V1 … V28, Amount). It answers the probability
of fraud at the natural rate, an alert, and what each input adds to the log odds.

## Data
- Source: `{prepared.uri}`; identity `{prepared.data}`
- {prepared.rows:,} rows, {prepared.frauds:,} frauds ({prepared.frauds / prepared.rows:.3%}); \
{prepared.duplicates:,} rows repeat an earlier one
- Holdout, frozen: {held.rows:,} rows, {held.frauds:,} frauds; {held.rule.why}
- Natural rate: {scorer.natural_rate:.4%}

## Training
- {training.used[1]:,} frauds and {training.used[0]:,} legitimate rows ({training.ratio} : 1), \
C = {training.c:g}; the intercept is corrected to the natural rate
- Review from a probability of {scorer.thresholds.review:.3g}, block from {scorer.thresholds.block:.3g}

## At the natural rate
{_natural_caption(evaluation)}

{_markdown(_natural_rows(evaluation))}

## Balanced test set
{_balanced_caption(evaluation)}

{_markdown(_balanced_rows(evaluation))}

## Limits
- Metrics speak for transactions like the holdout's; drift is watched in service.
- Labels are known late, and better where alerts were examined.
- A bundle holds customers' rows (reference, holdout): guard it like the data.
"""


def _figures(evaluation: Evaluation) -> dict[str, tuple[str, str, str]]:
    """Heading, caption and SVG of each plot by its name."""
    scored, rate = evaluation.scored, evaluation.natural
    logits, labels = scored.logits["challenger"], scored.labels
    weight = rate.frauds * (1 / rate.natural_rate - 1) / (rate.rows - rate.frauds)
    roc = roc_curve(labels, logits)
    pr = precision_recall_curve(labels, logits, weight)
    bins = rate.reliability
    edges = [
        float(np.log(t / (1 - t)))
        for t in (evaluation.scorer.thresholds.review, evaluation.scorer.thresholds.block)
    ]
    return {
        "precision_recall": (
            "Precision and recall",
            "The dot is the threshold from which transactions are reviewed.",
            plots.precision_recall(
                pr.recall, pr.precision, rate.auprc, (rate.recall.value, rate.precision.value), rate.natural_rate
            ),
        ),
        "roc": (
            "ROC",
            "How many frauds are caught for how many false alarms.",
            plots.roc(roc.fpr, roc.tpr, rate.roc_auc),
        ),
        "calibration": (
            "Calibration",
            "Share of frauds among transactions of about the same probability.",
            plots.calibration(bins.expected, bins.observed, bins.rows),
        ),
        "scores": (
            "Scores",
            "Log odds by class, with the thresholds.",
            plots.scores(logits[labels == 0], logits[labels == 1], edges[0], edges[1]),
        ),
        "coefficients": (
            "Coefficients",
            "Log odds per standard deviation of each term.",
            plots.coefficients(TERMS, evaluation.training.per_deviation),
        ),
    }


def _verdict(evaluation: Evaluation) -> str:
    verdict = evaluation.verdict
    return f"{verdict.outcome} ({verdict.reason}): {verdict.message}"


def _natural_caption(evaluation: Evaluation) -> str:
    rate = evaluation.natural
    return (
        f"{rate.rows:,} holdout rows with {rate.frauds:,} frauds, read at a fraud rate of {rate.natural_rate:.4%}."
    )


def _balanced_caption(evaluation: Evaluation) -> str:
    return (
        f"{evaluation.balanced.rows:,} holdout rows, 1 : 1. The 0.5 cut is at 1 : 1 odds, not corrected to the "
        "natural rate, as the field reports it: it says how well the classes come apart, not what an alert is "
        "worth."
    )


def _natural_rows(evaluation: Evaluation) -> Iterable[tuple[str, ...]]:
    rate = evaluation.natural
    yield "Metric", "Value", "95 % interval"
    yield from (
        (name, f"{e.value:.4g}", f"{e.low:.4g} to {e.high:.4g}")
        for name, e in (
            ("AUPRC", rate.auprc),
            ("ROC AUC", rate.roc_auc),
            ("Precision at review", rate.precision),
            ("Recall at review", rate.recall),
            ("Share alerted", rate.alert_rate),
            ("Precision at block", rate.block_precision),
            ("Recall at block", rate.block_recall),
            *((f"Precision at {k}", e) for k, e in rate.precision_at_k.items()),
            ("Brier score", rate.brier),
            ("Log loss", rate.log_loss),
            ("Observed / expected frauds", rate.calibration),
            ("Cost per 1,000 transactions", rate.cost_per_thousand),
        )
    )


def _balanced_rows(evaluation: Evaluation) -> Iterable[tuple[str, ...]]:
    half, review = evaluation.balanced, evaluation.balanced_at_review
    yield "Metric", "At the 0.5 cut", f"At review ({review.cut:.3g})"
    for name in ("accuracy", "precision", "recall", "f1", "roc_auc"):
        one: Estimate = getattr(half, name)
        other: Estimate = getattr(review, name)
        yield name.replace("_", " "), str(one), str(other)
    cells = [" · ".join(f"{n:,}" for row in m.confusion_matrix for n in row) for m in (half, review)]
    yield "tn · fp · fn · tp", *cells


def _compared(evaluation: Evaluation) -> str:
    rows = [("Sample", "Legitimate", "Frauds", "AUPRC", "Log loss", "Balanced accuracy")]
    rows += [
        (
            row.variant.name,
            f"{row.variant.legitimate:,}",
            f"{row.variant.frauds:,}",
            str(row.natural.auprc),
            f"{row.natural.log_loss.value:.4g}",
            f"{row.balanced.accuracy.value:.3f}",
        )
        for row in evaluation.compared
    ]
    return _table(rows)


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    head, *body = rows
    header = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = (
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, *cells in body
    )
    return f"<table><thead><tr>{header}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _markdown(rows: Iterable[tuple[str, ...]]) -> str:
    head, *body = rows
    return "\n".join(" | ".join(row) for row in (head, ("---",) * len(head), *body))
