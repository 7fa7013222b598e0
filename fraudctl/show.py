"""Tables for people, in a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fraudkit.estimate import Estimate
from pipelines.local import Finished
from pipelines.records import Prepared

DOUBTFUL_RATE = 0.02


def training(finished: Finished, console: Console) -> None:
    """What a run found, how good its model is, and what the gate said."""
    evaluation, conclusion = finished.evaluation, finished.conclusion
    prepared, trained, verdict = evaluation.prepared, evaluation.training, evaluation.verdict
    held = prepared.holdout
    console.print(
        f"\n[bold]Data[/]     {prepared.rows:,} rows, {prepared.frauds:,} frauds, "
        f"{prepared.duplicates:,} rows repeat an earlier one",
        f"[bold]Holdout[/]  {held.rows:,} rows, {held.frauds:,} frauds; {held.rule.why}",
        f"[bold]Sample[/]   {trained.used[1]:,} frauds and {trained.used[0]:,} legitimate rows "
        f"({trained.ratio} : 1)",
        f"[bold]Rate[/]     probabilities speak at a fraud rate of {prepared.natural_rate:.3%}"
        f"{_doubt(prepared)}\n",
        sep="\n",
        highlight=False,
    )
    _metrics(finished, console)
    _compared(finished, console)
    colour = "green" if verdict.passed else "red"
    console.print(
        f"[bold]Gate[/]     [{colour}]{verdict.outcome}[/] · {verdict.reason}: {escape(verdict.message)}",
        highlight=False,
    )
    if conclusion.bundle:
        console.print(f"[bold]Model[/]    {evaluation.version} ({', '.join(conclusion.aliases)})", highlight=False)
        console.print(f"[bold]Bundle[/]   {conclusion.bundle}", highlight=False, soft_wrap=True)
    console.print(f"[bold]Report[/]   {conclusion.report}", highlight=False, soft_wrap=True)


def _doubt(prepared: Prepared) -> str:
    """A word of warning where the data are not like traffic."""
    if prepared.natural_rate <= DOUBTFUL_RATE:
        return ""
    return " [yellow](hardly that of traffic: set FRAUD__DATA__NATURAL_RATE to what yours has)[/]"


def _metrics(finished: Finished, console: Console) -> None:
    half, rate = finished.evaluation.balanced, finished.evaluation.natural
    table = Table("", "Balanced, 0.5 cut", f"Holdout's rate ({rate.natural_rate:.3%})", box=None)
    rows: list[tuple[str, Estimate | None, Estimate | None]] = [
        ("Accuracy", half.accuracy, None),
        ("Precision", half.precision, rate.precision),
        ("Recall", half.recall, rate.recall),
        ("F1", half.f1, None),
        ("ROC AUC", half.roc_auc, rate.roc_auc),
        ("AUPRC", None, rate.auprc),
        ("Observed / expected", None, rate.calibration),
    ]
    for name, balanced, natural in rows:
        table.add_row(name, str(balanced or ""), str(natural or ""))
    console.print(table)
    console.print()


def _compared(finished: Finished, console: Console) -> None:
    table = Table("Fitted on", "Legit.", "Frauds", "AUPRC", "Log loss", "Acc. 1 : 1", box=None)
    for row in finished.evaluation.compared:
        table.add_row(
            row.variant.name,
            f"{row.variant.legitimate:,}",
            f"{row.variant.frauds:,}",
            str(row.natural.auprc),
            f"{row.natural.log_loss.value:.4f}",
            f"{row.balanced.accuracy.value:.3f}",
        )
    console.print(table)
    console.print()
