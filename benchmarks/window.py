"""What a window of 1,000 rows costs, engine by engine: the test alone, and all channels with pooling; CPU time."""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from detectors.engines import EngineName, load_engine
from detectors.reference import COLUMNS, HOURS, Reference
from detectors.watch import State, Watch, WindowFacts
from fraudkit.policy.drift import DriftRules
from fraudkit.schema import INPUTS, FloatArray
from fraudkit.scoring import TERMS, Scorer, Thresholds

ENGINES: tuple[EngineName, ...] = ("scipy", "alibi")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000, help="of the reference")
    parser.add_argument("--windows", type=int, default=30)
    options = parser.parse_args()
    random = np.random.default_rng(0)
    hours = np.sort(random.integers(0, HOURS, options.rows))
    values = random.normal(0, 1, (options.rows, len(COLUMNS))).astype(np.float32)
    reference = Reference(values, hours, by_time=True)
    weights = tuple(random.normal(0, 0.1, len(TERMS)).tolist())
    scorer = Scorer(weights, -6.0, 0.002, Thresholds(0.05, 0.5), (0.0,) * len(INPUTS))
    print("| engine | hours of day | test ms | all channels ms |")
    print("|---|---|---|---|")
    for name in ENGINES:
        engine = load_engine(name, reference)
        watch = Watch(scorer, reference, engine, DriftRules(), 200)
        for span in (1, 2):
            tests, whole, state = [], [], State()
            for number in range(options.windows):
                rows = window(span, number)
                matched, _ = reference.match(rows[:, 0])
                began = time.process_time()
                engine.test(rows[:, : len(COLUMNS)].astype(np.float32), matched)
                tests.append(time.process_time() - began)
                began = time.process_time()
                state = watch.read(WindowFacts(rows), state).state
                whole.append(time.process_time() - began)
            print(
                f"| {name} | {span} | {1e3 * statistics.median(tests):.1f} "
                f"| {1e3 * statistics.median(whole):.1f} |"
            )


def window(span: int, seed: int) -> FloatArray:
    """Rows [1000, 30] of `span` hours of day."""
    random = np.random.default_rng(1_000 + seed)
    rows = random.normal(0, 1, (1_000, len(INPUTS)))
    rows[:, 0] = random.uniform(0, span * 3_600, 1_000)
    rows[:, -1] = random.lognormal(3, 1, 1_000)
    return rows


if __name__ == "__main__":
    main()
