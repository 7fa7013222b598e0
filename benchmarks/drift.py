"""How often clean traffic raises an alarm, and how many rows a change takes to be seen.

Each reference is that of a model trained on a data set of its own; clean weeks and changes are drawn from other
seeds.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from detectors.channels import Level
from detectors.engines import EngineName, load_engine
from detectors.reference import COLUMNS, Reference, window_values
from detectors.watch import State, Watch, WindowFacts
from detectors.windows import WindowRule, cut
from fraudkit.bundle import Bundle, load
from fraudkit.policy.drift import DriftRules
from fraudkit.schema import INPUTS, FloatArray
from fraudkit.settings import load_settings
from pipelines.data.synthesize import NO_SHIFT, Shift, synthesize, write
from pipelines.local import run_pipeline
from pipelines.provenance import Run

SEED = 100
"""Of the first reference of the final run: rules are chosen on other ones, from 10,000 on."""
DAY_ROWS = 142_404
TRAINING_ROWS = 2 * DAY_ROWS
BUCKET = 60.0
DAY_BUCKETS = 1_440
RULE = WindowRule()
NAIVE_ROWS = 20_000
"""Rows after a change for which rules that are not ours are looked at, once ours has seen it."""
CHANGES = {
    "+.1 σ on three": (Level.DRIFT, Shift(mean=0.1)),
    "+.25 σ on one": (Level.DRIFT, Shift(mean=0.25, features=("V4",))),
    "variance × 1.5 on three": (Level.DRIFT, Shift(variance=1.5)),
    "broken correlation": (Level.WARNING, Shift(broken_correlation=True)),
    "fraud .5 %": (Level.WARNING, Shift(fraud_rate=0.005)),
    "fraud 1 %": (Level.WARNING, Shift(fraud_rate=0.01)),
    "fraud 5 %": (Level.WARNING, Shift(fraud_rate=0.05)),
}
"""Each change, and the level at which it counts as seen."""


RULES = ("ours", "naive", "balanced")
"""Ours; |mean shift| > 2 σ of any column; KSDrift with the balanced training sample as reference at p < .05."""


class Effort(NamedTuple):
    """How much is simulated."""

    references: int
    weeks: int
    runs: int


@dataclass(frozen=True, slots=True)
class Alarms:
    """Of clean traffic: times that a rule began to say drift or warning, and windows of which it said drift."""

    drift: int = 0
    warning: int = 0
    flagged: int = 0
    windows: int = 0

    def __add__(self, other: Alarms) -> Alarms:
        return Alarms(
            self.drift + other.drift,
            self.warning + other.warning,
            self.flagged + other.flagged,
            self.windows + other.windows,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--references", type=int, default=8)
    parser.add_argument("--weeks", type=int, default=4, help="clean weeks for each reference")
    parser.add_argument("--runs", type=int, default=8, help="runs of each change for each reference")
    parser.add_argument(
        "--alibi", type=int, default=2, help="how many references engine alibi is run with, a week each"
    )
    parser.add_argument("--seed", type=int, default=SEED, help="of the first reference; its traffic goes with it")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    if options.seed < SEED:
        parser.error(f"--seed must be at least {SEED}")
    efforts: dict[EngineName, Effort] = {
        "scipy": Effort(options.references, options.weeks, options.runs),
        "alibi": Effort(min(options.alibi, options.references), 1, 1),
    }
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(options.processes) as pool:
        seeds = range(options.seed, options.seed + options.references)
        paths = dict(zip(seeds, pool.map(trained, seeds, [Path(folder)] * len(seeds)), strict=True))
        columns: dict[str, list[str]] = {}
        for engine, effort in efforts.items():
            if effort.references:
                columns |= measured(pool, paths, engine, effort)
    print_table(columns)


def measured(pool: Executor, paths: dict[int, Path], engine: EngineName, effort: Effort) -> dict[str, list[str]]:
    """A column of the table for each rule; those that are not ours only once, they have no engine.

    References are given by their seeds, which decide on their traffic too.
    """
    used = [(seed - SEED, path) for seed, path in paths.items()][: effort.references]
    weeks = [(path, engine, 1_000 * n + week) for n, path in used for week in range(effort.weeks)]
    alarms = list(pool.map(clean_week, *zip(*weeks, strict=True)))
    note(f"{engine}: {len(weeks)} clean weeks are done")
    cells = {rule: alarm_cells([week[rule] for week in alarms]) for rule in RULES}
    for name in CHANGES:
        runs = [(path, engine, name, 1_000 * n + run) for n, path in used for run in range(effort.runs)]
        delays = list(pool.map(rows_until_seen, *zip(*runs, strict=True)))
        note(f"{engine}: {name} is done")
        for rule in RULES:
            cells[rule].append(delay_cell([delay[rule] for delay in delays]))
    named = {f"ours, {engine}": cells["ours"]}
    return named | ({"naive": cells["naive"], "balanced KSDrift": cells["balanced"]} if engine == "scipy" else {})


def trained(seed: int, folder: Path) -> Path:
    """The bundle of a model trained on data of its own, with a balanced sample of these beside it."""
    home = folder / str(seed)
    home.mkdir()
    data = home / "data.parquet"
    write(data, synthesize(TRAINING_ROWS, seed))
    rows = pq.read_table(data).to_pandas()
    frauds = rows[rows["Class"] == 1]
    legitimate = rows[rows["Class"] == 0].sample(len(frauds), random_state=seed)
    sample = np.concatenate([frauds[list(INPUTS)].to_numpy(), legitimate[list(INPUTS)].to_numpy()])
    np.save(home / "balanced.npy", sample.astype(np.float64))
    settings = load_settings(state=home / "state")
    finished = run_pipeline(str(data), settings, Run(name=f"reference-{seed}", trigger="benchmark"))
    assert finished.conclusion.version is not None  # noqa: S101
    return settings.bundle_folder / finished.conclusion.version


def clean_week(path: Path, engine: EngineName, seed: int) -> dict[str, Alarms]:
    """Alarms in a week without a change."""
    rows = traffic(7 * DAY_ROWS, seed, 0.0, 7 * 86_400.0)
    alarms = dict.fromkeys(RULES, Alarms())
    former = dict.fromkeys(RULES, Level.STABLE)
    for said, _ in levels(path, engine, rows):
        for rule, level in said.items():
            drift = level is Level.DRIFT
            began = drift and former[rule] is not Level.DRIFT
            warned = level is Level.WARNING and former[rule] is Level.STABLE
            alarms[rule] += Alarms(int(began), int(warned), int(drift), 1)
            former[rule] = level
    return alarms


def rows_until_seen(path: Path, engine: EngineName, change: str, seed: int) -> dict[str, float]:
    """Rows from the change on until each rule sees it; infinite where a day does not show it."""
    wanted, shift = CHANGES[change]
    rng = np.random.default_rng([7, seed])
    start = float(rng.integers(0, 86_400))
    before = traffic(DAY_ROWS // 6, 50_000 + seed, start, 14_400.0)
    after = traffic(DAY_ROWS, 60_000 + seed, start + 14_400.0, 86_400.0, shift)
    rows = np.concatenate([before, after])
    delays = dict.fromkeys(RULES, math.inf)
    for said, end in levels(path, engine, rows):
        for rule, level in said.items():
            if end > len(before) and (level is wanted or level is Level.DRIFT):
                delays[rule] = min(delays[rule], end - len(before))
        if math.isfinite(delays["ours"]) and end > len(before) + NAIVE_ROWS:
            break
    return delays


def levels(path: Path, engine: EngineName, rows: FloatArray) -> Iterator[tuple[dict[str, Level], int]]:
    """What each rule says of each fast window of `rows` in the order of their time, and the row it ends with."""
    bundle = load(path)
    reference = Reference.of(bundle)
    watch = Watch(bundle.scorer, reference, load_engine(engine, reference), DriftRules(), RULE.least)
    others = Others(bundle, reference)
    numbers, counts = np.unique((rows[:, 0] // BUCKET).astype(int), return_counts=True)
    state, end = State(), 0
    for window in cut(zip(numbers.tolist(), counts.tolist(), strict=True), int(numbers[-1]) + 1, RULE).ended:
        first, end = end, end + window.rows
        seen = watch.read(WindowFacts(rows[first:end], (), window.start // DAY_BUCKETS), state)
        state = seen.state
        said = {reading.level for reading in seen.readings}
        ours = next((level for level in (Level.DRIFT, Level.WARNING) if level in said), Level.STABLE)
        yield {"ours": ours, **others.read(rows[first:end])}, end


class Others:
    """What a user would pick instead."""

    def __init__(self, bundle: Bundle, reference: Reference) -> None:
        self._scorer = bundle.scorer
        self._mean, self._sd = reference.values.mean(axis=0), reference.values.std(axis=0)
        sample = np.load(bundle.path.parent.parent.parent / "balanced.npy")
        values = window_values(sample, bundle.scorer.logits(sample))
        self._balanced = Reference(values, np.zeros(len(values), dtype=np.int64), by_time=False)
        self._engine = load_engine("scipy", self._balanced)

    def read(self, rows: FloatArray) -> dict[str, Level]:
        """What the naive rule and a balanced reference say of a window."""
        values = window_values(rows, self._scorer.logits(rows))
        moved = bool((np.abs(values.mean(axis=0) - self._mean) > 2 * self._sd).any())
        matched, _ = self._balanced.match(np.zeros(len(rows)))
        differs = bool(self._engine.test(values, matched).p_values.min() < 0.05 / len(COLUMNS))
        return {
            rule: Level.DRIFT if said else Level.STABLE for rule, said in (("naive", moved), ("balanced", differs))
        }


def traffic(rows: int, seed: int, start: float, span: float, shift: Shift = NO_SHIFT) -> FloatArray:
    """Inputs [n, 30] in the order of their time."""
    batches = synthesize(rows, seed, start=start, span=span, shift=shift)
    return np.concatenate([np.column_stack([batch[name].to_numpy() for name in INPUTS]) for batch in batches])


def alarm_cells(weeks: list[Alarms]) -> list[str]:
    """False alarms a week with their exact Poisson interval, and the share of windows that were flagged."""
    total = sum(weeks, Alarms())
    cells = []
    for count in (total.drift, total.warning):
        low, high = (number / len(weeks) for number in poisson_interval(count))
        cells.append(f"{count / len(weeks):.2f} ({low:.2f} – {high:.2f})")
    return [f"{len(weeks)} ({total.windows:,})", *cells, f"{total.flagged / total.windows:.2%}"]


def delay_cell(delays: list[float]) -> str:
    """Median rows until a change is seen, and in how many runs it was seen within a day."""
    seen = sum(math.isfinite(delay) for delay in delays)
    median = statistics.median(delays)
    return f"{median:,.0f} ({seen}/{len(delays)})" if math.isfinite(median) else f"never ({seen}/{len(delays)})"


def print_table(columns: dict[str, list[str]]) -> None:
    """Markdown."""
    rows = ["clean weeks (windows)", "drift a week", "warning a week", "clean windows flagged"]
    rows += [f"{name}: rows until {level}" for name, (level, _) in CHANGES.items()]
    print(f"| | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 1) + "|")
    for number, name in enumerate(rows):
        print(f"| {name} | {' | '.join(cells[number] for cells in columns.values())} |")


def note(text: str) -> None:
    """Progress, for who waits."""
    print(text, file=sys.stderr, flush=True)


def poisson_interval(count: int) -> tuple[float, float]:
    """The exact 95 % interval of a Poisson mean."""
    from scipy.stats import chi2

    low = float(chi2.ppf(0.025, 2 * count)) / 2 if count else 0.0
    return low, float(chi2.ppf(0.975, 2 * count + 2)) / 2


if __name__ == "__main__":
    main()
