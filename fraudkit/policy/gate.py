"""The gate: may a challenger take traffic?

Checks run in order and the first that objects decides. A first model has floors only; later ones must not be
worse than the champion or than the first model on the frozen holdout, and must be better somewhere: on recent
rows after a drift, else on the frozen holdout. The bounds on "not worse" are wide on purpose: at some 95 frauds a
tighter one is a coin toss for the very model that repairs a drift.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from fraudkit.estimate import Estimate
from fraudkit.policy.verdict import Outcome, Verdict


class GateThresholds(BaseModel):
    """What the gate asks for.

    Attributes:
        scorer_error: Largest difference of probability between `scorer.json` and the fitted pipeline.
        holdout_frauds: Fewest frauds in the frozen holdout.
        roc_auc: Floor of ROC AUC on the balanced test set.
        auprc_lift: Floor of AUPRC as a multiple of the holdout's fraud rate, and …
        auprc_enough: … the AUPRC that is enough where frauds are so common that the multiple is out of reach.
        calibration: Observed over expected frauds must not lie surely outside [1/this, this].
        worse_low: Lower bound of ΔAUPRC on the frozen holdout must be above minus this.
        worse_value: ΔAUPRC itself must be above minus this.
        gain: A sure gain in AUPRC counts from here on, …
        recalibration: … a sure fall of the log loss, as a share of the champion's: less is not worth a roll-out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scorer_error: float = Field(1e-9, gt=0)
    holdout_frauds: int = Field(50, ge=1)
    roc_auc: float = Field(0.85, ge=0, le=1)
    auprc_lift: float = Field(10.0, ge=1)
    auprc_enough: float = Field(0.5, ge=0, le=1)
    calibration: float = Field(3.0, gt=1)
    worse_low: float = Field(0.10, ge=0)
    worse_value: float = Field(0.05, ge=0)
    gain: float = Field(0.01, ge=0)
    recalibration: float = Field(0.05, ge=0)


@dataclass(frozen=True, slots=True)
class RecentFacts:
    """Challenger against champion on matured logged rows that neither was trained on.

    Attributes:
        auprc: Challenger's AUPRC less the champion's.
        log_loss: Champion's log loss less the challenger's, as a share of the champion's: positive is better.
        calibration: Observed over expected frauds there, by the challenger.
    """

    auprc: Estimate
    log_loss: Estimate
    calibration: Estimate


@dataclass(frozen=True, slots=True)
class GateFacts:
    """What is known of a challenger when the gate decides.

    Attributes:
        challenger: Its version.
        converged: Whether the optimizer did.
        leaks: Inputs that alone separate the classes.
        scorer_error: Largest difference of probability between scorer and pipeline over the holdout.
        holdout_rows: Rows of the frozen holdout.
        holdout_frauds: Frauds of the frozen holdout.
        roc_auc: On the balanced test set.
        auprc: On the frozen holdout, at the natural rate.
        natural_rate: The rate that `auprc` was measured at.
        calibration: Observed over expected frauds on the frozen holdout.
        champion: Version that serves now; None for a first model.
        against_champion: ΔAUPRC (challenger less champion) on the frozen holdout.
        against_first: ΔAUPRC (challenger less the lineage's first model) on the frozen holdout.
        recent: The comparison on recent rows; only a run after a drift has one.
    """

    challenger: str
    converged: bool
    leaks: tuple[str, ...]
    scorer_error: float
    holdout_rows: int
    holdout_frauds: int
    roc_auc: Estimate
    auprc: Estimate
    natural_rate: float
    calibration: Estimate
    champion: str | None = None
    against_champion: Estimate | None = None
    against_first: Estimate | None = None
    recent: RecentFacts | None = None


GateVerdict = Verdict[GateFacts]
_Objection = tuple[Outcome, str, str] | None
_Check = Callable[[GateFacts, GateThresholds], _Objection]


def decide(facts: GateFacts, thresholds: GateThresholds) -> GateVerdict:
    """The verdict on a challenger: the first objection, else the reason to promote it."""
    for check in (*_SOUND, *(_COMPARED if facts.champion else ())):
        objection = check(facts, thresholds)
        if objection:
            return Verdict(*objection, facts)
    return Verdict(*_gain(facts, thresholds), facts)


def _scorer_mismatch(facts: GateFacts, thresholds: GateThresholds) -> _Objection:
    if facts.scorer_error <= thresholds.scorer_error:
        return None
    return _fail(
        "scorer_mismatch",
        f"scorer.json and the fitted pipeline differ by {facts.scorer_error:.1e} in probability; "
        f"at most {thresholds.scorer_error:.0e} is allowed",
    )


def _not_converged(facts: GateFacts, _: GateThresholds) -> _Objection:
    return None if facts.converged else _fail("not_converged", "the logistic regression did not converge")


def _leak(facts: GateFacts, _: GateThresholds) -> _Objection:
    if not facts.leaks:
        return None
    return _fail("leak", f"{', '.join(facts.leaks)} alone separates the classes")


def _too_little_data(facts: GateFacts, thresholds: GateThresholds) -> _Objection:
    if facts.holdout_frauds >= thresholds.holdout_frauds:
        return None
    return (
        Outcome.INCONCLUSIVE,
        "too_little_data",
        f"the holdout has {facts.holdout_frauds} frauds; a verdict needs {thresholds.holdout_frauds}",
    )


def _same_version(facts: GateFacts, _: GateThresholds) -> _Objection:
    if facts.champion != facts.challenger:
        return None
    return _fail("no_gain", f"the challenger is the champion itself ({facts.challenger}): nothing to promote")


def _below_floor(facts: GateFacts, thresholds: GateThresholds) -> _Objection:
    if not facts.roc_auc.value >= thresholds.roc_auc:  # written so that NaN is below
        return _fail(
            "below_floor",
            f"ROC AUC on the balanced test set is {facts.roc_auc}; the floor is {thresholds.roc_auc:g}",
        )
    floor = min(thresholds.auprc_lift * facts.natural_rate, thresholds.auprc_enough)
    if not facts.auprc.value >= floor:
        return _fail("below_floor", f"AUPRC on the holdout is {facts.auprc}; the floor is {floor:.3g}")
    return None


def _miscalibrated(facts: GateFacts, thresholds: GateThresholds) -> _Objection:
    # Probabilities speak at the fraud rate of recent rows, where there are some: not at that of the frozen ones.
    ratio, where = (facts.recent.calibration, "recent") if facts.recent else (facts.calibration, "frozen")
    if ratio.low <= thresholds.calibration and ratio.high >= 1 / thresholds.calibration:
        return None
    return _fail(
        "miscalibrated",
        f"the {where} holdout has {ratio} frauds for each that the model expects; "
        f"between 1/{thresholds.calibration:g} and {thresholds.calibration:g} is allowed",
    )


def _worse(who: str, delta: Estimate | None, thresholds: GateThresholds) -> _Objection:
    if delta is None:
        return Outcome.INCONCLUSIVE, f"not_compared_with_{who}", f"there is no comparison with the {who}"
    if delta.low > -thresholds.worse_low and delta.value > -thresholds.worse_value:
        return None
    return _fail(
        f"worse_than_{who}",
        f"AUPRC on the frozen holdout is {delta} against the {who}; it must be above "
        f"{-thresholds.worse_value:g}, its lower bound above {-thresholds.worse_low:g}",
    )


def _worse_than_champion(facts: GateFacts, thresholds: GateThresholds) -> _Objection:
    return _worse("champion", facts.against_champion, thresholds)


def _worse_than_first(facts: GateFacts, thresholds: GateThresholds) -> _Objection:
    return _worse("first_model", facts.against_first, thresholds)


def _gain(facts: GateFacts, thresholds: GateThresholds) -> tuple[Outcome, str, str]:
    if facts.champion is None:
        return Outcome.PASS, "first_model", f"a first model, above every floor: AUPRC {facts.auprc}"
    gain, where = facts.against_champion, "the frozen holdout"
    if facts.recent:
        gain, where = facts.recent.auprc, "recent rows"
    if gain and _sure(gain, thresholds.gain):
        return Outcome.PASS, "better", f"AUPRC on {where} is {gain} above the champion's"
    if facts.recent and _recalibrated(facts.recent, thresholds):
        message = f"log loss on recent rows falls by a share of {facts.recent.log_loss}, AUPRC is not worse"
        return Outcome.PASS, "recalibrated", message
    message = f"AUPRC on {where} is {gain} above the champion's: no sure gain of {thresholds.gain:g}"
    return Outcome.FAIL, "no_gain", message


def _recalibrated(recent: RecentFacts, thresholds: GateThresholds) -> bool:
    return (
        _sure(recent.log_loss, thresholds.recalibration) and _worse("champion", recent.auprc, thresholds) is None
    )


def _sure(gain: Estimate, least: float) -> bool:
    """Whether there is one, and it is of interest."""
    return gain.low > 0 and gain.value >= least


def _fail(reason: str, message: str) -> tuple[Outcome, str, str]:
    return Outcome.FAIL, reason, message


_SOUND: tuple[_Check, ...] = (
    _scorer_mismatch,
    _not_converged,
    _same_version,
    _too_little_data,
    _leak,
    _below_floor,
    _miscalibrated,
)
_COMPARED: tuple[_Check, ...] = (_worse_than_champion, _worse_than_first)
