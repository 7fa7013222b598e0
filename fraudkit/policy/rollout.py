"""The roll-out: does a canary take more traffic, is it promoted, or is it rolled back?

Harm is looked for first, and however often one looks: each test is a betting martingale (an e-value), whose chance
to ever exceed 1/α is at most α where there is no harm, so that polls need no schedule and no correction. One
closed form serves all of them: of events that either bundle may have (errors, slow requests, missed frauds, false
alarms) more are the canary's than its share. Errors and latency also need an effect, so that millions of requests
do not make a difference of no interest a reason.

Score distribution and alert rate of the canary are never compared with stable's: after a drift they must differ,
and the comparison would roll back the very model that repairs it. Stable is the baseline for errors and latency;
the canary's own offline scores are it for its live scores; labels are the verdict on the model.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fraudkit.policy.verdict import Outcome, Verdict

Alpha = Annotated[float, Field(gt=0, lt=1)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]

DISAGREEMENT: Final = 0.014
"""Share of frauds on which two models of equal quality disagree, at the least."""
POWER: Final = 0.99
"""With which a fall of the recall is to be seen."""
WHOLE: Final = 100
"""Percent of the traffic."""
MEDIAN: Final = 0.5
TAIL: Final = 0.95
_TILT: Final = 2
_DAY: Final = 86_400.0
_MOST_FRAUDS: Final = 1_000_000


class Step(BaseModel):
    """A share of the traffic, and what the canary must go through with it.

    Attributes:
        percent: Of the traffic.
        requests: Least requests that the canary answered in this step.
        bake_seconds: Least time in this step.
        limit_seconds: Rolled back where the step has not passed by then.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    percent: Annotated[int, Field(ge=1, le=WHOLE)]
    requests: Annotated[int, Field(ge=1)]
    bake_seconds: Seconds = 600.0
    limit_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = _DAY

    @model_validator(mode="after")
    def _passable(self) -> Step:
        if self.limit_seconds <= self.bake_seconds:
            raise ValueError(f"limit_seconds ({self.limit_seconds:g}) must be above bake_seconds")
        return self


class RolloutRules(BaseModel):
    """How a canary is judged. Each α is for the whole roll-out, however often one looks.

    Attributes:
        steps: Rising to 100 percent; the first below it, or stable would answer nothing to compare with.
        labels_alpha: Chance that a model which is not worse is rolled back for its recall; confirmation included.
        errors_alpha: The same for errors, …
        latency_alpha: … for latency, and …
        false_alarms_alpha: … for false alarms.
        error_rate_margin: Errors matter where the canary's rate is so much above stable's.
        latency_factor: Latency matters where a quantile is beyond this times stable's, and …
        latency_floor: … so many seconds beyond it.
        skew_tolerance: Largest difference of probability between a live score and the bundle's own offline score.
        skew_rows: Least rows of which both are known.
        frauds: Fewest labelled frauds scored by both bundles that confirm a promotion.
        least_frauds: With fewer, recall is not judged.
        recall_fall: Fall of the recall that a confirmation has to exclude.
        false_alarm_factor: False alarms matter beyond this times stable's, and …
        false_alarms_per_fraud: … beyond so many more for each fraud more that the canary surely catches: a model
            that sees a new kind of fraud has more of them, and is worth it. At the default costs 20 pay for one.
        least_false_alarms: With fewer of the canary's they are not judged.
        confirm_seconds: How long a promotion may stay provisional.
        rejected: So many rejected challengers in a row stop the loop: a person is called.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: tuple[Step, ...] = (
        Step(percent=10, requests=80),
        Step(percent=25, requests=200),
        Step(percent=50, requests=400),
        Step(percent=100, requests=800),
    )
    labels_alpha: Alpha = 0.03
    errors_alpha: Alpha = 0.03
    latency_alpha: Alpha = 0.01
    false_alarms_alpha: Alpha = 0.01
    error_rate_margin: Annotated[float, Field(ge=0, lt=1)] = 0.002
    latency_factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.5
    latency_floor: Seconds = 0.001
    skew_tolerance: Annotated[float, Field(ge=0, lt=1)] = 1e-6
    skew_rows: Annotated[int, Field(ge=1)] = 300
    frauds: Annotated[int, Field(ge=1)] = 300
    least_frauds: Annotated[int, Field(ge=1)] = 30
    recall_fall: Annotated[float, Field(ge=0.01, le=0.5)] = 0.10
    false_alarm_factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.5
    false_alarms_per_fraud: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 10.0
    least_false_alarms: Annotated[int, Field(ge=1)] = 20
    confirm_seconds: Seconds = 30 * _DAY
    rejected: Annotated[int, Field(ge=1)] = 3

    @model_validator(mode="after")
    def _rising(self) -> RolloutRules:
        percents = [step.percent for step in self.steps]
        if not percents or percents[-1] != WHOLE or any(low >= high for low, high in pairwise(percents)):
            raise ValueError(f"steps must rise and end at {WHOLE} percent, got {percents}")
        if percents[0] == WHOLE:
            raise ValueError(
                "the first step must leave stable some traffic: errors and latency are compared with it"
            )
        return self


@dataclass(frozen=True, slots=True)
class Server:
    """What a predictor counted.

    Attributes:
        requests: Answered, whatever the answer was.
        errors: Those of them that failed by the server's fault (5xx).
        latency: Requests up to each of `Facts.bounds`, and beyond the last; empty where it is not known.
    """

    requests: int
    errors: int
    latency: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.errors <= self.requests or any(count < 0 for count in self.latency):
            raise ValueError(f"counts cannot be negative, nor errors more than requests: {self}")


NO_REQUESTS: Final = Server(0, 0, ())


@dataclass(frozen=True, slots=True)
class Skew:
    """The canary's live scores beside its bundle's offline scores of the same rows, over the whole roll-out.

    Attributes:
        rows: Of which both are known.
        differing: Those of them that differ by more than is allowed.
        largest: Largest difference of probability.
    """

    rows: int
    differing: int
    largest: float

    def __post_init__(self) -> None:
        if not 0 <= self.differing <= self.rows:
            raise ValueError(f"there cannot be more differing rows than rows: {self}")


@dataclass(frozen=True, slots=True)
class Labelled:
    """Transactions with a label, scored by both bundles and used in the training of neither; never fewer later.

    Attributes:
        frauds: Frauds.
        stable_caught: Frauds with an alert by stable (confirming: the former champion), …
        canary_caught: … by the canary (confirming: the promoted bundle), …
        both_caught: … by both.
        legitimate: Legitimate transactions.
        stable_alerts: Those of them with an alert by stable, …
        canary_alerts: … by the canary, …
        both_alerts: … by both.
    """

    frauds: int
    stable_caught: int
    canary_caught: int
    both_caught: int
    legitimate: int
    stable_alerts: int
    canary_alerts: int
    both_alerts: int

    def __post_init__(self) -> None:
        for of, one, other, both in (
            (self.frauds, self.stable_caught, self.canary_caught, self.both_caught),
            (self.legitimate, self.stable_alerts, self.canary_alerts, self.both_alerts),
        ):
            if not 0 <= both <= min(one, other) or one + other - both > of:
                raise ValueError(f"counts of what both bundles alerted do not fit together: {self}")

    @property
    def lost(self) -> int:
        """Frauds that stable alone caught."""
        return self.stable_caught - self.both_caught

    @property
    def won(self) -> int:
        """Frauds that the canary alone caught."""
        return self.canary_caught - self.both_caught

    @property
    def surely_more(self) -> int:
        """Frauds that the canary catches more, less two standard deviations of equal models' difference."""
        return max(0, math.floor(self.won - self.lost - 2.0 * math.sqrt(self.won + self.lost)))


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a canary at one moment.

    Errors are judged over the whole roll-out, latency within the step: servers share the noise of an hour, not
    that of a day. `canary` and `stable` are therefore of this step, and what was before it stands beside them.

    Attributes:
        step: Index of the step.
        began: When it began [s, UTC].
        ready: Whether the canary is; None where nobody could say.
        problem: Why it is not, in the target's words.
        canary: What it counted in this step.
        stable: What stable counted in this step.
        bounds: Upper bounds of the latency histograms, rising [s].
        skew: Live scores beside offline ones, over the whole roll-out.
        labelled: What labels say, over the whole roll-out.
        fallbacks: Requests that the canary left unanswered and stable answered, over the whole roll-out.
        canary_before: What the canary counted in the steps before, in sum.
        stable_before: What stable counted in the steps before, in sum.
        same_model: Stable and canary are one version, made differently: what they score says nothing new.
    """

    step: int
    began: float
    ready: bool | None
    problem: str
    canary: Server
    stable: Server
    bounds: tuple[float, ...]
    skew: Skew
    labelled: Labelled
    fallbacks: int
    canary_before: Server = NO_REQUESTS
    stable_before: Server = NO_REQUESTS
    same_model: bool = False

    def __post_init__(self) -> None:
        if self.fallbacks < 0:
            raise ValueError(f"there cannot be {self.fallbacks} fallbacks")
        if not all(0 < low < high for low, high in pairwise((*self.bounds, math.inf))):
            raise ValueError(f"bounds must be above 0 and rise, got {self.bounds}")
        for server in (self.canary, self.stable, self.canary_before, self.stable_before):
            if server.latency and len(server.latency) != len(self.bounds) + 1:
                raise ValueError(f"{len(self.bounds)} bounds make {len(self.bounds) + 1} counts, got {server}")


@dataclass(frozen=True, slots=True)
class Check:
    """A thing that a canary is judged by, with its numbers.

    Attributes:
        name: What it is.
        outcome: `fail` rolls back, `inconclusive` has too little yet.
        canary: The canary's number, or how much there is; None where there is none.
        stable: Stable's, where they are compared.
        limit: What the canary's may be at the most, or, where `at_least`, must be at the least.
        at_least: Which of both.
        message: More, in words.
    """

    name: str
    outcome: Outcome
    canary: float | None = None
    stable: float | None = None
    limit: float | None = None
    at_least: bool = False
    message: str = ""


RolloutVerdict = Verdict[Facts]
_Said = tuple[Outcome, str, str]
_Harm = Callable[[Facts, RolloutRules], _Said | None]


def decide(facts: Facts, rules: RolloutRules, now: float) -> RolloutVerdict:
    """What becomes of a canary at `now` [s, UTC].

    Outcome `pass` goes on: to the next step, or after the last one to a promotion, which is provisional until
    `confirm` says more. `fail` rolls back. `inconclusive` waits, but not beyond the step's limit.
    """
    for check in _HARM:
        objection = check(facts, rules)
        if objection:
            return Verdict(*objection, facts)
    step, elapsed = rules.steps[facts.step], now - facts.began
    waiting = _not_ready(facts) or _baking(elapsed, step) or _too_little(facts, rules)
    if waiting is None:
        return Verdict(*_go_on(facts, rules), facts)
    reason, message = waiting
    if elapsed >= step.limit_seconds:
        late = f"; {elapsed:,.0f} s have passed, {step.limit_seconds:,.0f} s are the limit"
        return Verdict(Outcome.FAIL, reason if reason == "not_ready" else "out_of_time", message + late, facts)
    return Verdict(Outcome.INCONCLUSIVE, reason, message, facts)


def confirm(labelled: Labelled, promoted_at: float, rules: RolloutRules, now: float) -> Verdict[Labelled]:
    """Whether labels confirm a promotion of `promoted_at` [s, UTC] at `now`; those of the roll-out count too.

    Outcome `pass` makes it final; `fail` brings the former champion back; `inconclusive` leaves it provisional.
    """
    for harm in (_recall_fell(labelled, rules), _false_alarms_rose(labelled, rules)):
        if harm:
            return Verdict(Outcome.FAIL, "contradicted", harm, labelled)
    needed = _needed(labelled, rules)
    if labelled.frauds >= needed:
        message = f"{_caught(labelled)}; {needed:,} show a fall of {rules.recall_fall:.2f}"
        return Verdict(Outcome.PASS, "confirmed", message, labelled)
    missing = _missing(labelled, rules)
    if now - promoted_at >= rules.confirm_seconds:
        message = f"{rules.confirm_seconds / _DAY:g} days have passed without a confirmation: {missing}"
        return Verdict(Outcome.PASS, "unconfirmed", message, labelled)
    return Verdict(Outcome.INCONCLUSIVE, "provisional", missing, labelled)


def checks(facts: Facts, rules: RolloutRules, now: float) -> tuple[Check, ...]:
    """What `decide` looks at, one by one with its numbers, for who follows a canary."""
    step, elapsed = rules.steps[facts.step], now - facts.began
    failed = {said[1] for check in _HARM if (said := check(facts, rules))}
    requests = min(facts.canary.requests, sum(facts.canary.latency))
    counted = [
        _enough("requests", requests, step.requests),
        _enough("bake_seconds", elapsed, step.bake_seconds),
    ]
    ready = Check("ready", Outcome.PASS if facts.ready else Outcome.INCONCLUSIVE, message=facts.problem)
    if not facts.same_model:
        counted.append(_enough("scores", facts.skew.rows, rules.skew_rows))
    judged = [_errors_check(facts, rules, failed), *_latency_checks(facts, rules, failed)]
    if not facts.same_model:
        outcome = Outcome.FAIL if "skew" in failed else _known(facts.skew.rows)
        judged.append(Check("skew", outcome, facts.skew.largest, None, rules.skew_tolerance))
        judged += label_checks(facts.labelled, rules)
    return ready, *counted, *judged


def label_checks(labelled: Labelled, rules: RolloutRules) -> tuple[Check, ...]:
    """What `confirm` looks at."""
    frauds, legitimate = labelled.frauds, labelled.legitimate
    recall = Outcome.FAIL if _recall_fell(labelled, rules) else _known(frauds >= rules.least_frauds)
    alarms = Outcome.FAIL if _false_alarms_rose(labelled, rules) else _known(legitimate)
    canary, stable = labelled.canary_caught, labelled.stable_caught
    told = _caught(labelled) if frauds else ""
    return (
        Check("recall", recall, frauds and canary / frauds, frauds and stable / frauds, message=told),
        Check("false_alarms", alarms, labelled.canary_alerts, labelled.stable_alerts),
        _enough("frauds", frauds, _needed(labelled, rules)),
    )


def evidence(canary: int, stable: int, share: float) -> float:
    """Log of the e-value against "an event is the canary's with a probability of at most `share`".

    The likelihood ratio of θ to `share`, averaged over θ in [share, 1] with a density that grows as θ², since harm
    is lopsided, has a closed form. Each θ is a bet on every event that does not gain on average where the claim
    holds; so the chance that it ever was beyond 1/α, whenever one looks, is at most α (Ville's inequality). Of
    pairs, with `share` = 1/2, it is McNemar's exact test for any number of looks.

    Args:
        canary: Events of the canary.
        stable: Events of stable.
        share: Share of the events that is the canary's where it is not worse, in (0, 1).

    Returns:
        log e; each event of the canary raises it and each of stable lowers it.
    """
    if not 0.0 < share < 1.0:
        return -math.inf
    more, less = canary + _TILT + 1, stable + 1
    beta = math.lgamma(more) + math.lgamma(less) - math.lgamma(more + less)
    beyond = log_at_most(more - 1, more + less - 1, share)  # P(θ > share), θ ~ Beta(more, less)
    density = math.log(_TILT + 1) - math.log1p(-(share ** (_TILT + 1)))
    return density + beta + beyond - canary * math.log(share) - stable * math.log1p(-share)


def log_at_most(most: int, of: int, chance: float) -> float:
    """Logarithm of P(X ≤ most) of X ~ Binomial(of, chance), chance in (0, 1); to rounding.

    Terms are added from the largest one outwards, so that a million trials take some thousand of them.
    """
    if most >= of:
        return 0.0
    if most < 0:
        return -math.inf
    start = min(most, int((of + 1) * chance))
    odds = chance / (1.0 - chance)
    total = term = 1.0
    for count in range(start, 0, -1):
        term *= count / (of - count + 1) / odds
        total += term
        if term < 1e-17 * total:
            break
    term = 1.0
    for count in range(start, most):
        term *= (of - count) / (count + 1) * odds
        total += term
        if term < 1e-17 * total:
            break
    return min(0.0, _log_mass(start, of, chance) + math.log(total))


@lru_cache(maxsize=256)
def frauds_needed(fall: float, disagreement: float, alpha: float, power: float = POWER) -> int:
    """Labelled frauds scored by both models that show a fall of the recall.

    Args:
        fall: Recall of stable less the canary's, in (0, 1).
        disagreement: Share of frauds beyond the fall that one of both alone catches, half of them each; > 0.
        alpha: Of the whole roll-out.
        power: Chance that the fall is seen.

    Returns:
        The number, by bisection; a million where even that is too few.
    """
    if not (fall > 0.0 and disagreement > 0.0 and fall + disagreement <= 1.0):
        raise ValueError(f"a fall of {fall:g} with a disagreement of {disagreement:g} cannot be")
    low, high = 0, 1
    while _power(high, fall, disagreement, alpha) < power:
        low, high = high, 2 * high
        if high > _MOST_FRAUDS:
            return _MOST_FRAUDS
    while high - low > 1:
        middle = (low + high) // 2
        if _power(middle, fall, disagreement, alpha) < power:
            low = middle
        else:
            high = middle
    return high


def _power(frauds: int, fall: float, disagreement: float, alpha: float) -> float:
    """Chance that `frauds` show the fall in one look; looks before it only add to it."""
    discordant = fall + disagreement
    theirs = disagreement / 2 / discordant  # of discordant frauds: caught by the canary alone
    middle, spread = frauds * discordant, 5.0 * math.sqrt(frauds * discordant * (1.0 - discordant)) + 1.0
    least, needed = max(0, int(middle - spread)), -math.log(alpha)
    chance = 0.0
    # Fewest of the pairs that are evidence where stable alone caught them; with each pair it grows by one or not.
    critical = bisect_left(range(least + 1), needed, key=lambda lost: evidence(lost, least - lost, 0.5))
    for pairs in range(least, min(frauds, int(middle + spread) + 1) + 1):
        while critical <= pairs and evidence(critical, pairs - critical, 0.5) < needed:
            critical += 1
        if critical <= pairs:
            seen = log_at_most(pairs - critical, pairs, theirs)
            chance += math.exp(seen + _log_mass(pairs, frauds, discordant))
    return chance


def _log_mass(count: int, of: int, chance: float) -> float:
    if not 0.0 < chance < 1.0:
        return 0.0 if count == round(of * chance) else -math.inf
    ways = math.lgamma(of + 1) - math.lgamma(count + 1) - math.lgamma(of - count + 1)
    return ways + count * math.log(chance) + (of - count) * math.log1p(-chance)


def _skewed(facts: Facts, rules: RolloutRules) -> _Said | None:
    skew = facts.skew
    if not skew.rows or (not skew.differing and skew.largest <= rules.skew_tolerance):  # NaN is beyond
        return None
    return _fail(
        "skew",
        f"live and offline scores differ by up to {skew.largest:.1e} in probability in {skew.differing:,} of "
        f"{skew.rows:,} rows; at most {rules.skew_tolerance:.0e} is allowed",
    )


def _recall(facts: Facts, rules: RolloutRules) -> _Said | None:
    said = _recall_fell(facts.labelled, rules)
    return _fail("recall", said) if said else None


def _recall_fell(labelled: Labelled, rules: RolloutRules) -> str | None:
    if labelled.frauds < rules.least_frauds:
        return None
    found = evidence(labelled.lost, labelled.won, 0.5)
    if not _sure(found, rules.labels_alpha):
        return None
    return f"{_caught(labelled)}; {_weight(found, rules.labels_alpha)}"


def _false_alarms(facts: Facts, rules: RolloutRules) -> _Said | None:
    said = _false_alarms_rose(facts.labelled, rules)
    return _fail("false_alarms", said) if said else None


def _false_alarms_rose(labelled: Labelled, rules: RolloutRules) -> str | None:
    canary, stable, factor = labelled.canary_alerts, labelled.stable_alerts, rules.false_alarm_factor
    if canary < rules.least_false_alarms:
        return None
    paid = math.floor(rules.false_alarms_per_fraud * labelled.surely_more)
    # What both alert counts on both sides, and what is paid for on none, which can only lower the evidence.
    found = evidence(max(canary - paid, 0), stable, factor / (1.0 + factor))
    if not _sure(found, rules.false_alarms_alpha):
        return None
    worth = f", and {paid:,} for the {labelled.surely_more:,} frauds that it surely catches more" if paid else ""
    return (
        f"of {labelled.legitimate:,} legitimate transactions the canary alerted {canary:,} and stable {stable:,}; "
        f"at most {factor:g} times as many are allowed{worth}; {_weight(found, rules.false_alarms_alpha)}"
    )


def _errors(facts: Facts, rules: RolloutRules) -> _Said | None:
    """Over the whole roll-out; a request that fell back to stable is an error of the canary."""
    requests, errors, usual_requests, usual_errors = _faults(facts)
    if not (requests and usual_requests):
        return None
    if errors / requests <= usual_errors / usual_requests + rules.error_rate_margin:
        return None
    found = evidence(errors, usual_errors, requests / (requests + usual_requests))
    if not _sure(found, rules.errors_alpha):
        return None
    fell = f" ({facts.fallbacks:,} of them fell back to stable)" if facts.fallbacks else ""
    return _fail(
        "errors",
        f"{errors:,} of {requests:,} requests to the canary failed{fell}, {usual_errors:,} of {usual_requests:,} "
        f"to stable; at most {rules.error_rate_margin:.1%} more are allowed; {_weight(found, rules.errors_alpha)}",
    )


def _faults(facts: Facts) -> tuple[int, int, int, int]:
    """Requests and errors of the canary, and of stable, over the whole roll-out."""
    canary, before, fallbacks = facts.canary, facts.canary_before, facts.fallbacks
    stable, earlier = facts.stable, facts.stable_before
    return (
        canary.requests + before.requests + fallbacks,
        canary.errors + before.errors + fallbacks,
        stable.requests + earlier.requests,
        stable.errors + earlier.errors,
    )


def _latency(facts: Facts, rules: RolloutRules) -> _Said | None:
    """Within the step: a spell that slows both servers is not the canary's fault, nor is a cold start harm.

    At 100 percent stable answers nothing and stands as it was before. A spell of the machine is then in one of
    both alone, so only the median is asked for, which a short one leaves where it is, at the factor's square.
    """
    canary, stable = _timed(facts, rules)
    requests, usual_requests = sum(canary), sum(stable)
    if requests < rules.steps[facts.step].requests or not usual_requests:
        return None
    alpha = rules.latency_alpha / (2 * len(rules.steps) - 1)
    for share, took, usual, limit in _quantiles(facts, rules):
        if took <= limit:
            continue
        bound = min(range(len(facts.bounds)), key=lambda at: abs(math.log(facts.bounds[at] / limit)))
        slow, usual_slow = sum(canary[bound + 1 :]), sum(stable[bound + 1 :])
        found = evidence(slow, usual_slow, requests / (requests + usual_requests))
        if _sure(found, alpha):
            slowest = f"{took:.2g} s" if took < math.inf else f"more than {facts.bounds[-1]:g} s"
            return _fail(
                "latency",
                f"{share:.0%} of {requests:,} requests to the canary took up to {slowest}, of "
                f"{usual_requests:,} to stable {usual:.2g} s; at most {limit:.2g} s is allowed; "
                f"{_weight(found, alpha)}",
            )
    return None


def _timed(facts: Facts, rules: RolloutRules) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The canary's latency histogram and the one of stable that it is compared with."""
    whole = rules.steps[facts.step].percent == WHOLE
    stable = _sum(facts.stable_before.latency, facts.stable.latency) if whole else facts.stable.latency
    return facts.canary.latency, stable


def _quantiles(facts: Facts, rules: RolloutRules) -> Iterator[tuple[float, float, float, float]]:
    """Each share that is judged with the canary's quantile, stable's, and what is allowed [s]."""
    whole = rules.steps[facts.step].percent == WHOLE
    factor = rules.latency_factor**2 if whole else rules.latency_factor
    canary, stable = _timed(facts, rules)
    for share in (MEDIAN,) if whole else (MEDIAN, TAIL):
        usual = _quantile(stable, facts.bounds, share)
        limit = max(factor * usual, usual + rules.latency_floor)
        yield share, _quantile(canary, facts.bounds, share), usual, limit


_HARM: tuple[_Harm, ...] = (_skewed, _errors, _recall, _false_alarms, _latency)


def _errors_check(facts: Facts, rules: RolloutRules, failed: set[str]) -> Check:
    requests, errors, usual_requests, usual_errors = _faults(facts)
    if not (requests and usual_requests):
        return Check("errors", Outcome.INCONCLUSIVE)
    usual = usual_errors / usual_requests
    outcome = Outcome.FAIL if "errors" in failed else Outcome.PASS
    return Check("errors", outcome, errors / requests, usual, usual + rules.error_rate_margin)


def _latency_checks(facts: Facts, rules: RolloutRules, failed: set[str]) -> Iterator[Check]:
    canary, stable = map(sum, _timed(facts, rules))
    if not (canary and stable):
        yield Check("latency", Outcome.INCONCLUSIVE)
        return
    usual = Outcome.FAIL if "latency" in failed else _known(canary >= rules.steps[facts.step].requests)
    for share, took, usually, limit in _quantiles(facts, rules):
        outcome = Outcome.PASS if usual is Outcome.FAIL and took <= limit else usual
        yield Check(f"latency_{100 * share:.0f}", outcome, took, usually, limit)


def _enough(name: str, there: float, needed: float) -> Check:
    return Check(name, _known(there >= needed), there, None, needed, at_least=True)


def _known(enough: float) -> Outcome:
    return Outcome.PASS if enough else Outcome.INCONCLUSIVE


def _not_ready(facts: Facts) -> tuple[str, str] | None:
    if facts.ready:
        return None
    said = "is not ready" if facts.ready is False else "does not say whether it is ready"
    return "not_ready", f"the canary {said}" + (f": {facts.problem}" if facts.problem else "")


def _baking(elapsed: float, step: Step) -> tuple[str, str] | None:
    if elapsed >= step.bake_seconds:
        return None
    return "baking", f"{elapsed:,.0f} s of {step.bake_seconds:,.0f} s at {step.percent} % have passed"


def _too_little(facts: Facts, rules: RolloutRules) -> tuple[str, str] | None:
    """What is missing for a verdict on the servers; labels are not asked for."""
    step = rules.steps[facts.step]
    answered = min(facts.canary.requests, sum(facts.canary.latency))
    if answered < step.requests:
        message = f"needs {step.requests:,} requests with their latency at {step.percent} %, has {answered:,}"
        return "too_few_requests", message
    before, least = facts.stable_before, rules.steps[0].requests
    usual = min(facts.stable.requests + before.requests, sum(facts.stable.latency) + sum(before.latency))
    if usual < least or (step.percent < WHOLE and not any(facts.stable.latency)):
        message = f"needs {least:,} requests to stable to compare with, some of them in this step; has {usual:,}"
        return "no_baseline", message
    if facts.skew.rows < rules.skew_rows and not facts.same_model:
        message = f"needs {rules.skew_rows:,} rows with a live and an offline score, has {facts.skew.rows:,}"
        return "too_few_scores", message
    return None


def _go_on(facts: Facts, rules: RolloutRules) -> _Said:
    step, canary, labelled = rules.steps[facts.step], facts.canary, facts.labelled
    enough = labelled.frauds >= _needed(labelled, rules)
    scored = f"{facts.skew.rows:,} rows scored as offline; "
    scored += _caught(labelled) if enough else _missing(labelled, rules)
    said = f"{canary.requests:,} requests at {step.percent} %, {canary.errors:,} failed; "
    said += "the model is the one that serves" if facts.same_model else scored
    if facts.step + 1 < len(rules.steps):
        return Outcome.PASS, "step_passed", f"{said}; {rules.steps[facts.step + 1].percent} % is next"
    return Outcome.PASS, "all_steps_passed", said


def _needed(labelled: Labelled, rules: RolloutRules) -> int:
    """Frauds that confirm: more where the models often disagree, which makes a fall harder to see."""
    both_ways = 2 * min(labelled.lost, labelled.won)
    seen = both_ways / labelled.frauds if labelled.frauds >= rules.least_frauds else 0.0
    # In percent, rounded up, that few different numbers are computed; frauds are finite, and so is what is left.
    disagreement = min(max(DISAGREEMENT, math.ceil(100 * seen) / 100), 1.0 - rules.recall_fall)
    return max(rules.frauds, frauds_needed(rules.recall_fall, disagreement, rules.labels_alpha))


def _missing(labelled: Labelled, rules: RolloutRules) -> str:
    needed = _needed(labelled, rules)
    return (
        f"needs {needed:,} labelled frauds to see recall fall by {rules.recall_fall:.2f}; has {labelled.frauds:,}"
    )


def _caught(labelled: Labelled) -> str:
    return (
        f"of {labelled.frauds:,} labelled frauds the canary caught {labelled.canary_caught:,} and stable "
        f"{labelled.stable_caught:,} (alone {labelled.won:,} and {labelled.lost:,})"
    )


def _quantile(counts: tuple[int, ...], bounds: tuple[float, ...], share: float) -> float:
    """Quantile of a histogram [s], spread evenly in log seconds within a bucket; infinite beyond the bounds."""
    left = share * sum(counts)
    for place, (count, bound) in enumerate(zip(counts, bounds, strict=False)):
        if count and left <= count:
            low = bounds[place - 1] if place else bound / 2
            return float(low * (bound / low) ** (left / count))
        left -= count
    return math.inf


def _sum(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True)) if one and other else one or other


def _sure(found: float, alpha: float) -> bool:
    return found >= -math.log(alpha)


def _weight(found: float, alpha: float) -> str:
    return f"evidence {math.exp(min(found, 100.0)):.3g}, {1 / alpha:,.0f} decides"


def _fail(reason: str, message: str) -> _Said:
    return Outcome.FAIL, reason, message
