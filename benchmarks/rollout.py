"""How often a worse challenger is promoted and stays, and a sound one rolled back, in simulated roll-outs.

Each goes through `decide` and `confirm` with the default rules, poll by poll. Some 16,000 rows in requests of five
pass it: 800 requests a step, split at random, with latencies that are lognormal about a load which both servers
share. Half of the labelled frauds arrive within the roll-out, the others while the promotion is provisional.
Beside it the rule that one would write first: roll back where at a step's end the canary's error rate or mean
latency is more than three standard errors above stable's.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fraudkit.policy.rollout import (
    DISAGREEMENT,
    NO_REQUESTS,
    WHOLE,
    Facts,
    Labelled,
    RolloutRules,
    Server,
    Skew,
    confirm,
    decide,
    frauds_needed,
)
from fraudkit.policy.verdict import Outcome
from serving.predictor.metrics import SECONDS

SEED: Final = 100
"""Of the table: rules were chosen on other ones, from 10,000 on."""
RULES: Final = RolloutRules()
CHUNK: Final = 500
"""Roll-outs that are drawn together."""
POLL: Final = 200
"""Requests, and seconds, between two looks."""
POLLS: Final = 4
"""Looks of a step that has its requests by then; a step whose share was unlucky waits for …"""
MORE: Final = 2
"""… so many more."""
ROWS: Final = 5
"""Of a request."""
SPELL: Final = 20
"""Requests in a row that meet the same load."""
CONFIRMATIONS: Final = 4
"""Looks at a provisional promotion, the last at the end of its time."""
LEGITIMATE: Final = 100
"""Labelled legitimate transactions for each labelled fraud."""
MEDIAN: Final = 0.002
"""Latency without load [s]."""

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


class World(NamedTuple):
    """A challenger beside its champion.

    Attributes:
        name: In the table.
        worse: Then a promotion that stays is wrong, else a rollback.
        frauds: Labelled frauds scored by both in the end.
        lost: Share of frauds that the champion alone catches, …
        won: … and the challenger alone.
        recall: The champion's.
        latency: The canary's over stable's.
        errors: Share of the canary's requests that fail, …
        usual_errors: … and of stable's.
        skew: Share of rows whose live score is not the offline one.
        alarms: Share of legitimate transactions that the challenger alerts, …
        usual_alarms: … and the champion.
    """

    name: str
    worse: bool
    frauds: int = 0
    lost: float = DISAGREEMENT / 2
    won: float = DISAGREEMENT / 2
    recall: float = 0.8
    latency: float = 1.0
    errors: float = 1e-4
    usual_errors: float = 1e-4
    skew: float = 0.0
    alarms: float = 0.005
    usual_alarms: float = 0.005


def worlds() -> Iterator[World]:
    for fall in (0.05, 0.10):
        for frauds in (100, 300, 500):
            yield World(f"recall −{fall:.2f}", True, frauds, lost=DISAGREEMENT / 2 + fall)
    yield World("latency × 2", True, latency=2.0)
    yield World("1 % errors", True, errors=0.01)
    yield World("serving skew in 1 % of rows", True, skew=0.01)
    yield World("false alarms × 5", True, 300, alarms=0.025)
    yield World("equal", False, 300)
    yield World("equal, without labels", False)
    yield World("equal, disagree on 10 % of frauds", False, 500, lost=0.05, won=0.05)
    yield World("equal, both fail 1 % of requests", False, 300, errors=0.01, usual_errors=0.01)
    yield World(
        "repairs: recall +.30, alerts × 2", False, 300, won=DISAGREEMENT / 2 + 0.3, recall=0.5, alarms=0.01
    )
    yield World(
        "repairs: recall +.70, alerts × 6",
        False,
        300,
        won=0.7,
        lost=0.01,
        recall=0.2,
        alarms=0.006,
        usual_alarms=0.001,
    )


@dataclass(frozen=True)
class Drawn:
    """What was counted between two looks, by roll-out, step, look and server (canary, stable).

    Attributes:
        latency: Histograms [n, steps, looks, 2, buckets].
        seconds: Sums of the latency, and of its square [n, steps, looks, 2, 2].
        errors: Failed requests [n, steps, looks, 2].
        differing: Rows of the canary with another score [n, steps, looks].
        labelled: The eight counts of `Labelled`, in sum until each look with new labels [n, labelled looks, 8].
    """

    latency: Counts
    seconds: Floats
    errors: Counts
    differing: Counts
    labelled: Counts


class Ends(NamedTuple):
    """How roll-outs ended: reasons by rule, and how many of a rule's were wrong."""

    reasons: Counter[str]
    ours: int
    plain: int


def draw(world: World, random: np.random.Generator, count: int) -> Drawn:
    """Draw `count` roll-outs, each of them whole: what follows a rollback is not looked at."""
    steps, looks, buckets = len(RULES.steps), POLLS + MORE, len(SECONDS) + 1
    shape = (count, steps, looks, POLL)
    percents = np.array([step.percent for step in RULES.steps])[:, None, None]
    stable = (random.random(shape) * WHOLE >= percents).astype(np.int64)
    seconds = MEDIAN * np.exp(random.normal(0.0, 0.5, shape) + _load(random, count, steps * looks).reshape(shape))
    seconds *= np.where(stable == 0, world.latency, 1.0)
    cell = np.arange(count * steps * looks).reshape(count, steps, looks, 1) * 2 + stable
    bucket = np.searchsorted(SECONDS, seconds, side="left")  # as the predictor's histogram
    cells = 2 * count * steps * looks
    latency = np.bincount((cell * buckets + bucket).ravel(), minlength=cells * buckets)
    sums = [np.bincount(cell.ravel(), weights=(seconds**power).ravel(), minlength=cells) for power in (1, 2)]
    latency = latency.reshape(count, steps, looks, 2, buckets)
    requests = latency.sum(-1)
    return Drawn(
        latency,
        np.stack(sums, -1).reshape(count, steps, looks, 2, 2).astype(np.float64),
        random.binomial(requests, [world.errors, world.usual_errors]),
        random.binomial(ROWS * requests[..., 0], world.skew),
        _labels(world, random, count),
    )


def _load(random: np.random.Generator, count: int, looks: int) -> Floats:
    """Log of the load that both servers meet [count, looks · POLL]: autoregressive, in spells."""
    spells = looks * POLL // SPELL
    load = np.empty((count, spells))
    load[:, 0] = random.normal(0.0, 0.25, count)
    for spell in range(1, spells):
        load[:, spell] = 0.9 * load[:, spell - 1] + random.normal(0.0, 0.25 * math.sqrt(1 - 0.9**2), count)
    return np.repeat(load, SPELL, axis=1)


def _labels(world: World, random: np.random.Generator, count: int) -> Counts:
    """Labels in sum until each look: half come evenly within the roll-out, half while it is provisional."""
    steady = np.linspace(0.0, 0.5, len(RULES.steps) * POLLS + 1)[1:]
    later = np.linspace(0.5, 1.0, CONFIRMATIONS + 1)[1:]
    frauds = np.floor(world.frauds * np.concatenate([steady, later])).astype(np.int64)
    # Of models with so few false alarms most are common to both: a fifth are their own.
    common = 0.8 * min(world.alarms, world.usual_alarms)
    parts = []
    for number, lost, won, both in (
        (frauds, world.lost, world.won, world.recall - world.lost),
        (LEGITIMATE * frauds, world.usual_alarms - common, world.alarms - common, common),
    ):
        split = random.multinomial(
            np.diff(number, prepend=0), [lost, won, both, 1 - lost - won - both], (count, len(number))
        )
        lost_, won_, both_ = np.moveaxis(split.cumsum(1), -1, 0)[:3]
        parts += [np.broadcast_to(number, lost_.shape), lost_ + both_, won_ + both_, both_]
    return np.stack(parts, -1)


def ours(drawn: Drawn, number: int) -> str:
    """How one roll-out ends under `decide` and `confirm`: the reason of the last verdict."""
    before, skew, labels = (NO_REQUESTS, NO_REQUESTS), Skew(0, 0, 0.0), drawn.labelled[number].tolist()
    latency = drawn.latency[number].cumsum(1).tolist()
    errors = drawn.errors[number].cumsum(1).tolist()
    differing = drawn.differing[number].tolist()
    for step in range(len(RULES.steps)):
        rows = skew.rows
        for look in range(POLLS + MORE):
            canary, stable = (
                Server(sum(counts), failed, tuple(counts))
                for counts, failed in zip(latency[step][look], errors[step][look], strict=True)
            )
            wrong = skew.differing + differing[step][look]
            skew = Skew(rows + ROWS * canary.requests, wrong, 1e-3 if wrong else 0.0)
            labelled = Labelled(*labels[step * POLLS + min(look, POLLS - 1)])
            facts = Facts(step, 0.0, True, "", canary, stable, SECONDS, skew, labelled, 0, *before)
            verdict = decide(facts, RULES, float(POLL * (look + 1)))
            if verdict.outcome is Outcome.FAIL:
                return verdict.reason
            if verdict.passed:
                break
        else:
            return "out_of_time"
        before = (_sum(before[0], canary), _sum(before[1], stable))
    for look in range(CONFIRMATIONS):
        labelled = Labelled(*labels[look - CONFIRMATIONS])
        final = confirm(labelled, 0.0, RULES, RULES.confirm_seconds * (look + 1) / CONFIRMATIONS)
        if final.outcome is not Outcome.INCONCLUSIVE:
            return final.reason
    raise AssertionError("the last look is at the end of the time")


def _sum(one: Server, other: Server) -> Server:
    latency = tuple(a + b for a, b in zip(one.latency or (0,) * len(other.latency), other.latency, strict=True))
    return Server(one.requests + other.requests, one.errors + other.errors, latency)


def plain(drawn: Drawn) -> NDArray[np.bool_]:
    """Which roll-outs [n] the plain rule promotes.

    At 100 percent it compares errors with stable's before, and latency not at all: the load has changed since.
    """
    requests = drawn.latency.sum(-1).cumsum(2)
    errors, seconds = drawn.errors.cumsum(2), drawn.seconds.cumsum(2)
    least = np.array([step.requests for step in RULES.steps])[:, None]
    end = np.argmax(requests[..., 0] >= least, axis=2)[:, :, None, None]  # [n, steps, 1, 1]
    n = np.take_along_axis(requests, end, 2)[:, :, 0].astype(float)
    failed = np.take_along_axis(errors, end, 2)[:, :, 0].astype(float)
    sums = np.take_along_axis(seconds, end[..., None], 2)[:, :, 0]
    for values in (n, failed, sums):
        values[:, -1, 1] = values[:, :-1, 1].sum(1)
    rate, mean = failed / n, sums[..., 0] / n
    harmful = np.zeros(len(n), dtype=np.bool_)
    for value, variance, judged in (
        (rate, rate * (1 - rate), slice(None)),
        (mean, sums[..., 1] / n - mean**2, slice(-1)),
    ):
        error = np.sqrt((variance / n).sum(-1))
        harmful |= (value[..., 0] - value[..., 1] > 3 * error)[:, judged].any(1)
    return ~harmful


def run(world: World, seed: np.random.SeedSequence, count: int) -> Ends:
    """Simulate `count` roll-outs of a world."""
    drawn = draw(world, np.random.default_rng(seed), count)
    reasons = Counter(ours(drawn, number) for number in range(count))
    stays = reasons["confirmed"] + reasons["unconfirmed"]
    promoted = int(plain(drawn).sum())
    if world.worse:
        return Ends(reasons, stays, promoted)
    return Ends(reasons, count - stays, count - promoted)


def simulate(count: int, seed: int, workers: int) -> Iterator[tuple[World, Ends]]:
    """All worlds, with `count` roll-outs of each."""
    sizes = [min(CHUNK, count - begun) for begun in range(0, count, CHUNK)]
    with ProcessPoolExecutor(workers) as pool:
        for place, world in enumerate(worlds()):
            seeds = np.random.SeedSequence([seed, place]).spawn(len(sizes))
            ends = list(pool.map(partial(run, world), seeds, sizes))
            reasons = sum((end.reasons for end in ends), Counter[str]())
            yield world, Ends(reasons, sum(end.ours for end in ends), sum(end.plain for end in ends))


def rate(wrong: int, of: int) -> str:
    """Percent with its 95 % interval (Wilson)."""
    share, z = wrong / of, 1.96
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    return f"{share:.2%} ({max(0.0, middle - half):.2%} – {middle + half:.2%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="roll-outs of each row")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    print("| challenger | labelled frauds | wrong is | ours | plain rule |")
    print("|---|---|---|---|---|")
    for world, ends in simulate(options.count, options.seed, options.workers):
        wrong = "promoted and stays" if world.worse else "rolled back"
        ours_, plain_ = rate(ends.ours, options.count), rate(ends.plain, options.count)
        print(f"| {world.name} | {world.frauds or '–'} | {wrong} | {ours_} | {plain_} |", flush=True)
        print(world.name, world.frauds, dict(ends.reasons.most_common()), file=sys.stderr)
    print("\n| fall of the recall | disagreement beyond it 1.4 % | 5 % | 10 % |")
    print("|---|---|---|---|")
    for fall in (0.03, 0.05, 0.10, 0.15):
        needed = (f"{frauds_needed(fall, share, RULES.labels_alpha):,}" for share in (DISAGREEMENT, 0.05, 0.1))
        print(f"| {fall:.2f} | {' | '.join(needed)} |")


if __name__ == "__main__":
    main()
