"""Labels: whether the model still finds the frauds that it found on its holdout, and how many alerts are true.

Exact tests of two samples, because frauds are few and the holdout's own rates are estimates too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from detectors.channels import Level, Reading, Statistic
from fraudkit.policy.drift import LabelsRule

CHANNEL: Final = "labels"


@dataclass(frozen=True, slots=True)
class LabelFacts:
    """Transactions whose outcome is known.

    Attributes:
        frauds: Frauds.
        caught: Those of them with an alert.
        alerts: Alerts.
        true_alerts: Those of them that were frauds.
    """

    frauds: int
    caught: int
    alerts: int
    true_alerts: int

    def __post_init__(self) -> None:
        if not (0 <= self.caught <= self.frauds and 0 <= self.true_alerts <= self.alerts):
            raise ValueError(f"of frauds and alerts there cannot be more caught or true than there are: {self}")


def read(facts: LabelFacts, holdout: LabelFacts, rule: LabelsRule) -> Reading:
    """What matured labels say beside those of the model's holdout.

    A precision that did not fall does not speak for a recall that cannot be judged.
    """
    recall = _fall("recall", facts.caught, facts.frauds, holdout.caught, holdout.frauds, rule)
    precision = _fall("precision", facts.true_alerts, facts.alerts, holdout.true_alerts, holdout.alerts, rule)
    statistics = tuple(check for check in (recall, precision) if check)
    fell = any(check.beyond for check in statistics)
    if not recall and not fell:
        of_holdout = f"; the holdout has {holdout.frauds}" if holdout.frauds < rule.least else ""
        said = f"{facts.frauds} frauds have matured, {rule.least} are needed{of_holdout}"
        return Reading(CHANNEL, Level.INSUFFICIENT_DATA, said, statistics)
    drifted = recall is not None and recall.value < rule.alpha
    level = Level.DRIFT if drifted else Level.WARNING if fell else Level.STABLE
    said = f"{facts.caught} of {facts.frauds} frauds caught, {facts.true_alerts} of {facts.alerts} alerts true; "
    said += f"on the holdout {holdout.caught} of {holdout.frauds} and {holdout.true_alerts} of {holdout.alerts}"
    return Reading(CHANNEL, level, said, statistics)


def _fall(name: str, good: int, of: int, before: int, of_before: int, rule: LabelsRule) -> Statistic | None:
    from scipy.stats import fisher_exact

    if of < rule.least or of_before < rule.least:
        return None
    p = float(fisher_exact([[good, of - good], [before, of_before - before]], alternative="less").pvalue)
    return Statistic("p_value", name, p, rule.warning, p < rule.warning)
