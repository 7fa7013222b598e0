"""How often clean traffic raises an alarm, and how many rows a change takes to be seen.

Each reference is that of a model trained on a data set of its own; clean weeks and changes are drawn from other
seeds.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detectors.channels import Level
from detectors.engines import EngineName, load_engine
from detectors.reference import Reference
from detectors.watch import State, Watch, WindowFacts
from detectors.windows import WindowRule, cut
from fraudkit.bundle import Bundle, load
from fraudkit.policy.drift import DriftRules
from fraudkit.schema import INPUTS, FloatArray
from fraudkit.settings import load_settings
from pipelines.data.synthesize import NO_SHIFT, Shift, synthesize, write
from pipelines.local import run_pipeline
from pipelines.provenance import Run

DAY_ROWS = 142_404
TRAINING_ROWS = 2 * DAY_ROWS
BUCKET = 60.0
DAY_BUCKETS = 1_440
RULE = WindowRule()
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


@dataclass(frozen=True, slots=True)
class Alarms:
    """Episodes of clean traffic that began with a window at the level."""

    drift: int
    warning: int
    windows: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--references", type=int, default=8)
    parser.add_argument("--weeks", type=int, default=4, help="clean weeks for each reference")
    parser.add_argument("--runs", type=int, default=8, help="runs of each change for each reference")
    parser.add_argument("--seed", type=int, default=100, help="of the first reference")
    parser.add_argument("--engine", choices=["alibi", "scipy"], default="scipy")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(options.processes) as pool:
        seeds = range(options.seed, options.seed + options.references)
        paths = list(pool.map(trained, seeds, [Path(folder)] * len(seeds)))
        weeks = [
            (path, options.engine, 1_000 * n + week)
            for n, path in enumerate(paths)
            for week in range(options.weeks)
        ]
        print_alarms(list(pool.map(clean_week, *zip(*weeks, strict=True))))
        for name in CHANGES:
            runs = [
                (path, options.engine, name, 1_000 * n + run)
                for n, path in enumerate(paths)
                for run in range(options.runs)
            ]
            print_delay(name, list(pool.map(rows_until_seen, *zip(*runs, strict=True))))


def trained(seed: int, folder: Path) -> Path:
    """The bundle of a model trained on data of its own."""
    home = folder / str(seed)
    home.mkdir()
    write(home / "data.parquet", synthesize(TRAINING_ROWS, seed))
    settings = load_settings(state=home / "state")
    finished = run_pipeline(
        str(home / "data.parquet"), settings, Run(name=f"reference-{seed}", trigger="benchmark")
    )
    assert finished.conclusion.version is not None  # noqa: S101
    return settings.bundle_folder / finished.conclusion.version


def clean_week(path: Path, engine: EngineName, seed: int) -> Alarms:
    """Alarms in a week without a change."""
    rows = traffic(7 * DAY_ROWS, seed, 0.0, 7 * 86_400.0)
    drift = warning = windows = 0
    former = Level.STABLE
    for level, _ in levels(load(path), engine, rows):
        drift += level is Level.DRIFT and former is not Level.DRIFT
        warning += level is Level.WARNING and former is Level.STABLE
        windows += 1
        former = level
    return Alarms(drift, warning, windows)


def rows_until_seen(path: Path, engine: EngineName, change: str, seed: int) -> float:
    """Rows from the change on until it is seen; infinite where a day does not show it."""
    wanted, shift = CHANGES[change]
    rng = np.random.default_rng([7, seed])
    start = float(rng.integers(0, 86_400))
    before = traffic(DAY_ROWS // 6, 50_000 + seed, start, 14_400.0)
    after = traffic(DAY_ROWS, 60_000 + seed, start + 14_400.0, 86_400.0, shift)
    rows = np.concatenate([before, after])
    for level, end in levels(load(path), engine, rows):
        if end > len(before) and (level is wanted or level is Level.DRIFT):
            return end - len(before)
    return math.inf


def levels(bundle: Bundle, engine: EngineName, rows: FloatArray) -> Iterator[tuple[Level, int]]:
    """The level after each fast window of `rows` in the order of their time, and the row it ends with."""
    reference = Reference.of(bundle)
    watch = Watch(bundle.scorer, reference, load_engine(engine, reference), DriftRules(), RULE.least)
    numbers, counts = np.unique((rows[:, 0] // BUCKET).astype(int), return_counts=True)
    state, end = State(), 0
    for window in cut(zip(numbers.tolist(), counts.tolist(), strict=True), int(numbers[-1]) + 1, RULE).ended:
        first, end = end, end + window.rows
        seen = watch.read(WindowFacts(rows[first:end], (), window.start // DAY_BUCKETS), state)
        state = seen.state
        said = {reading.level for reading in seen.readings}
        yield next((level for level in (Level.DRIFT, Level.WARNING) if level in said), Level.STABLE), end


def traffic(rows: int, seed: int, start: float, span: float, shift: Shift = NO_SHIFT) -> FloatArray:
    """Inputs [n, 30] in the order of their time."""
    batches = synthesize(rows, seed, start=start, span=span, shift=shift)
    return np.concatenate([np.column_stack([batch[name].to_numpy() for name in INPUTS]) for batch in batches])


def print_alarms(weeks: list[Alarms]) -> None:
    """False alarms a week, with the exact Poisson interval."""
    print(f"{len(weeks)} clean weeks, {sum(week.windows for week in weeks):,} windows")
    for name in ("drift", "warning"):
        count = sum(getattr(week, name) for week in weeks)
        low, high = poisson_interval(count)
        scaled = [number / len(weeks) for number in (count, low, high)]
        print("  {:24} {:.2f} a week ({:.2f} to {:.2f})".format(name, *scaled), flush=True)


def print_delay(name: str, delays: list[float]) -> None:
    """Median rows until a change is seen, and how many runs saw it within a day."""
    seen = sum(math.isfinite(delay) for delay in delays)
    print(f"  {name:24} {statistics.median(delays):8,.0f} rows, seen in {seen} of {len(delays)} runs", flush=True)


def poisson_interval(count: int) -> tuple[float, float]:
    """The exact 95 % interval of a Poisson mean."""
    from scipy.stats import chi2

    low = float(chi2.ppf(0.025, 2 * count)) / 2 if count else 0.0
    return low, float(chi2.ppf(0.975, 2 * count + 2)) / 2


if __name__ == "__main__":
    main()
