"""How often the gate passes a model that repairs a drift, an equal one and a worse one, in simulated worlds.

A world is 284,807 transactions at the natural rate, split by time as `prepare` does it, and days that followed,
70 % to learn from, 30 % held out by chance, as by the keyed hash of row ids. All labels have come and are right.
Models are fitted by the parts that `train` is made of; `_measure`, the paired intervals and `decide` judge them.
What no row is about is left out: files between the steps, drift reference, report. The champion is the first model
as well.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.rollout import rate
from fraudkit.policy.gate import GateFacts, GateVerdict, RecentFacts, decide
from fraudkit.schema import INPUTS, FloatArray
from fraudkit.scoring import Scorer, sigmoid
from fraudkit.settings import SamplingSettings, Settings, load_settings
from pipelines import eras
from pipelines.data import holdout
from pipelines.data.recent import HELD, Rows
from pipelines.data.rowhash import Hashes, content_hash, keyed
from pipelines.data.sources import Block
from pipelines.data.synthesize import NATURAL_RATE, NO_SHIFT, Shift, synthesize
from pipelines.evaluation.metrics import calibration, paired_log_loss
from pipelines.evaluation.resampling import Labels, paired_auprc
from pipelines.evaluation.result import Scored
from pipelines.model import correction, fit
from pipelines.records import Kept, Prepared, Training
from pipelines.steps.evaluate import _measure
from pipelines.steps.train import _sample, _trials, thresholds

SEED: Final = 0
FRAUDS: Final = (100, 200, 500)
"""Labelled frauds of an era; the retrain policy asks for 100."""
SOME: Final = 200
"""As many where a row is not about their number."""
NEW_KIND: Final = Shift(mean=0.5, new_fraud=0.01)
TRAINED: Final = Training(
    per_class=1, ratio=1, c=1.0, used=(0, 0), trials=(), variants=(), per_deviation=(), added=0.0, converged=True
)
"""What `_measure` is told of the training: it converged, and there are no variants to compare."""


class World(NamedTuple):
    """The base data, split.

    Attributes:
        prepared: What `prepare` would say of it.
        kept: Training rows by class, in the order of their hash.
        frozen: Inputs [n, 30] of the frozen holdout, …
        labels: … their labels [n], …
        order: … and the hash [n] that picks the balanced test set.
    """

    prepared: Prepared
    kept: Kept
    frozen: FloatArray
    labels: NDArray[np.int8]
    order: Hashes


class Era(NamedTuple):
    """Matured rows since a drift: to learn from, and held out."""

    training: Rows
    held: Rows


class Row(NamedTuple):
    """A row of the table: the challenger, labelled frauds of the era (0 without one), what the gate should say."""

    challenger: str
    frauds: int
    should: str


class Case(NamedTuple):
    """A challenger beside its champion.

    Attributes:
        row: Where it counts.
        champion: Serves now.
        challenger: Is judged.
        held: Rows held out of the era; None where the run is not after a drift.
        lost: Recall that the challenger loses on the frozen holdout, and on the recent one: frauds that it would
            have caught get scores of legitimate rows.
    """

    row: Row
    champion: Scorer
    challenger: Scorer
    held: Rows | None = None
    lost: tuple[float, float] = (0.0, 0.0)


def draw(rows: int, seed: int, settings: Settings) -> World:
    """Draw base data and split them as `prepare` does."""
    columns = _columns(rows, seed, NO_SHIFT, 172_792.0)
    rule = holdout.time_rule((float(columns[0].min()), float(columns[0].max())), settings.data.holdout)
    if rule is None:
        raise AssertionError("the data have a time span")
    content = content_hash(columns)
    out = rule.held_out(Block(columns, 1), content)
    learned = columns[:, ~out][:, np.argsort(keyed(content[~out], "sample", settings.sampling.seed))]
    kept = Kept(*(_inputs(learned[:, learned[-1] == label]) for label in (0, 1)))
    counts, labels = (len(kept.legitimate), len(kept.fraud)), columns[-1, out].astype(np.int8)
    frauds = int(labels.sum())
    prepared = Prepared(
        uri="",
        data="",
        rows=rows,
        frauds=counts[1] + frauds,
        duplicates=0,
        training=counts,
        kept=counts,
        natural_rate=counts[1] / sum(counts),
        separations={},
        holdout=holdout.Record(data="", rule=rule, rows=labels.size, frauds=frauds, sha256=""),
        seed=settings.sampling.seed,
    )
    return World(prepared, kept, _inputs(columns[:, out]), labels, keyed(content[out], "balanced-test", 0))


def era(frauds: int, seed: int, shift: Shift) -> Era:
    """Draw a day since a drift, with so many frauds, and split it."""
    known = NATURAL_RATE if shift.fraud_rate is None else shift.fraud_rate
    rows = round(frauds / (known + shift.new_fraud))
    random = np.random.default_rng(seed)
    columns = _columns(rows, seed, shift, 86_400.0)[:, random.permutation(rows)]
    held = random.random(rows) < HELD
    sides = (columns[:, ~held], columns[:, held])
    return Era(*(Rows(_inputs(side), side[-1].astype(np.int8), np.ones(side.shape[1])) for side in sides))


def _columns(rows: int, seed: int, shift: Shift, span: float) -> FloatArray:
    """Inputs and label [31, rows]."""
    table = pa.Table.from_batches(list(synthesize(rows, seed, shift=shift, span=span)))
    return np.stack([column.to_numpy().astype(np.float64) for column in table.columns])


def _inputs(columns: FloatArray) -> FloatArray:
    """Inputs [n, 30] of columns [31, n]."""
    return np.ascontiguousarray(columns[:-1].T)


class Learner(NamedTuple):
    """What models are fitted with: settings, base data, and the ratio that is best on their validation slice."""

    settings: Settings
    prepared: Prepared
    kept: Kept
    ratio: int


def learner(settings: Settings, prepared: Prepared, kept: Kept) -> Learner:
    """Choose the ratio as `train` does."""
    trials = _trials(kept, prepared, settings)
    return Learner(settings, prepared, kept, max(trials, key=lambda trial: trial.auprc).ratio)


def learn(given: Learner, new: Era | None = None) -> Scorer:
    """Fit as `train` does, on base data alone or with an era."""
    settings, prepared, kept, ratio = given
    c, most = settings.training.c, settings.training.iterations
    legitimate, frauds = _sample(kept, settings.sampling.per_class, ratio)
    used = len(legitimate), len(frauds)
    if new is None:
        natural = prepared.natural_rate
        fitted = fit(legitimate, frauds, c, most)
        added = correction(used, prepared.training, natural)
    else:
        natural = float(np.concatenate([new.training.labels, new.held.labels]).mean())
        sample = eras.mixed((legitimate, frauds), new.training, used[0] // used[1], settings.sampling)
        fitted = fit(sample.legitimate, sample.fraud, c, most, sample.weights)
        added = eras.correction(sample, natural)
    return _scorer(fitted.weights, fitted.intercept + added, natural, settings)


def alone(new: Era, settings: Settings) -> Scorer:
    """Fit on an era alone."""
    (legitimate, _), (frauds, _) = new.training.of(0), new.training.of(1)
    fitted = fit(legitimate, frauds, settings.training.c, settings.training.iterations)
    return _scorer(fitted.weights, fitted.intercept, len(frauds) / len(new.training.labels), settings)


def _scorer(weights: FloatArray, intercept: float, natural: float, settings: Settings) -> Scorer:
    cuts = thresholds(settings.alerts, np.zeros(1))
    return Scorer(tuple(weights.tolist()), intercept, natural, cuts, (0.0,) * len(INPUTS))


def cases(world: World, settings: Settings, random: np.random.Generator) -> Iterator[Case]:
    """The rows of the table in a world."""
    kept = world.kept

    def given(rows: Kept) -> Learner:
        counts = len(rows.legitimate), len(rows.fraud)
        return learner(settings, world.prepared.model_copy(update={"kept": counts}), rows)

    usual = given(kept)
    champion, few = learn(usual), learn(given(Kept(kept.legitimate, kept.fraud[::5])))

    def renewed(frauds: int, shift: Shift) -> tuple[Scorer, Era]:
        new = era(frauds, int(random.integers(2**32)), shift)
        return learn(usual, new), new

    drifts = {frauds: renewed(frauds, NEW_KIND) for frauds in FRAUDS}
    for frauds, (challenger, new) in drifts.items():
        yield Case(Row("repairs: +.5 σ, new fraud 1 %", frauds, "pass"), champion, challenger, new.held)
    challenger, new = renewed(SOME, Shift(mean=0.5, new_fraud=0.03))
    yield Case(Row("repairs: +.5 σ, new fraud 3 %", SOME, "pass"), champion, challenger, new.held)
    for frauds in FRAUDS[:2]:
        challenger, new = renewed(frauds, Shift(mean=-2.0, features=("V14",)))
        yield Case(Row("recalibrates: V14 −2 σ", frauds, "pass"), champion, challenger, new.held)
    yield Case(Row("learned from five times the frauds", 0, "pass"), few, champion)

    challenger, new = renewed(SOME, Shift(mean=0.5))
    yield Case(Row("nothing to repair: +.5 σ", SOME, "–"), champion, challenger, new.held)
    challenger, calm = renewed(SOME, NO_SHIFT)
    yield Case(Row("nothing to repair: false alarm", SOME, "–"), champion, challenger, calm.held)
    other = learn(given(_shuffled(kept, random)))
    noise = np.array(champion.weights) * random.normal(1.0, 0.01, len(champion.weights))
    noisy = _scorer(noise, champion.intercept, champion.natural_rate, settings)
    yield Case(Row("equal: another sample", 0, "fail"), champion, other)
    yield Case(Row("equal: another sample, false alarm", SOME, "fail"), champion, other, calm.held)
    yield Case(Row("equal: weights × (1 ± .01), false alarm", SOME, "fail"), champion, noisy, calm.held)

    repairing, drift = drifts[SOME]
    yield Case(Row("repairs nothing: another sample, new fraud 1 %", SOME, "fail"), champion, other, drift.held)
    yield Case(
        Row("repairs, but knows the new days alone", SOME, "fail"), champion, alone(drift, settings), drift.held
    )
    for fall in (0.05, 0.10):
        partly = Row(f"repairs, but recall −{fall:.2f} on the frozen holdout", SOME, "fail")
        yield Case(partly, champion, repairing, drift.held, (fall, 0.0))
    yield Case(Row("worse: learned from a fifth of the frauds", 0, "fail"), champion, few)
    wrong = learn(given(_mislabelled(kept)))
    yield Case(Row("worse: a fifth of the labels wrong, false alarm", SOME, "fail"), champion, wrong, calm.held)
    for fall in (0.05, 0.10):
        worse = Row(f"worse: recall −{fall:.2f}, false alarm", SOME, "fail")
        yield Case(worse, champion, champion, calm.held, (fall, fall))


def _shuffled(kept: Kept, random: np.random.Generator) -> Kept:
    """In another order, as another seed's hash gives it."""
    return Kept(random.permutation(kept.legitimate), random.permutation(kept.fraud))


def _mislabelled(kept: Kept) -> Kept:
    """Every fifth fraud changes places with a legitimate row."""
    frauds, legitimate = kept.fraud.copy(), kept.legitimate.copy()
    frauds[::5] = kept.legitimate[: len(frauds[::5])]
    legitimate[: len(frauds[::5])] = kept.fraud[::5]
    return Kept(legitimate, frauds)


class Judge:
    """The gate in one world; what it saw on the frozen holdout is kept, because rows share challengers."""

    def __init__(self, world: World, settings: Settings, random: np.random.Generator) -> None:
        self._world = world
        self._settings = settings
        self._random = random
        self._seen: dict[tuple[Scorer, Scorer, float], GateFacts] = {}

    def verdict(self, case: Case) -> GateVerdict:
        """What the gate says."""
        key = case.champion, case.challenger, case.lost[0]
        facts = self._seen[key] if key in self._seen else self._seen.setdefault(key, self._frozen(case))
        if case.held is not None:
            facts = replace(facts, recent=self._recent(case, case.held))
        return decide(facts, self._settings.gate)

    def _frozen(self, case: Case) -> GateFacts:
        world = self._world
        logits = {
            "challenger": self._scores(case.challenger, world.frozen, world.labels, case.lost[0]),
            "champion": case.champion.logits(world.frozen),
        }
        scored = Scored(world.labels, world.order, logits, scorer_error=0.0)
        facts = _measure(
            "new", world.prepared, TRAINED, case.challenger, scored, self._settings, "old", None
        ).verdict.facts
        return replace(facts, against_first=facts.against_champion)

    def _recent(self, case: Case, held: Rows) -> RecentFacts:
        old = case.champion.logits(held.inputs)
        new = self._scores(case.challenger, held.inputs, held.labels, case.lost[1])
        return RecentFacts(
            auprc=paired_auprc(held.labels, old, new, seed=self._settings.sampling.seed),
            log_loss=paired_log_loss(held.labels, sigmoid(old), sigmoid(new)),
            calibration=calibration(held.labels, sigmoid(new)),
        )

    def _scores(self, scorer: Scorer, inputs: FloatArray, labels: Labels, lost: float) -> FloatArray:
        """Log odds [n], after a loss of recall."""
        logits = scorer.logits(inputs)
        if lost:
            caught = np.flatnonzero((labels == 1) & (sigmoid(logits) >= scorer.thresholds.review))
            missed = caught[self._random.random(caught.size) * caught.size < lost * labels.sum()]
            logits[missed] = self._random.choice(logits[labels == 0], missed.size)
        return logits


def run(number: int, rows: int, seed: int, weight: float) -> list[tuple[Row, GateVerdict]]:
    """The verdict on each case of a world."""
    settings = load_settings(sampling={"recent": weight})
    random = np.random.default_rng([seed, number])
    with threadpool_limits(1):
        world = draw(rows, int(random.integers(2**32)), settings)
        judge = Judge(world, settings, random)
        return [(case.row, judge.verdict(case)) for case in cases(world, settings, random)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=200)
    parser.add_argument("--rows", type=int, default=284_807, help="of the base data")
    parser.add_argument("--recent", type=float, default=SamplingSettings().recent, help="`sampling.recent`")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    passed, reasons = Counter[Row](), defaultdict[Row, Counter[str]](Counter)
    simulate = partial(run, rows=options.rows, seed=options.seed, weight=options.recent)
    with ProcessPoolExecutor(options.workers) as pool:
        for number, verdicts in enumerate(pool.map(simulate, range(options.worlds)), 1):
            for row, verdict in verdicts:
                passed[row] += verdict.passed
                reasons[row][verdict.reason] += 1
            print(f"{number} of {options.worlds} worlds", file=sys.stderr)
    print("| challenger | labelled frauds | should | passes | reasons |")
    print("|---|---|---|---|---|")
    for row, counts in reasons.items():
        shares = ", ".join(f"`{name}` {n / options.worlds:.1%}" for name, n in counts.most_common())
        passes = rate(passed[row], options.worlds)
        print(f"| {row.challenger} | {row.frauds or '–'} | {row.should} | {passes} | {shares} |")


if __name__ == "__main__":
    main()
