"""Real transactions that nothing has happened to raise no drift, whichever engine tests them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from detectors.channels import Level
from detectors.engines import EngineName, load_engine
from detectors.reference import Reference
from detectors.watch import State, Watch, WindowFacts
from fraudkit.bundle import Bundle, load
from fraudkit.policy.drift import DriftRules
from fraudkit.schema import INPUTS
from fraudkit.settings import load_settings
from pipelines.local import run_pipeline
from pipelines.provenance import Run

WINDOWS, ROWS = 20, 1_000


@pytest.fixture(scope="module")
def model(real_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    settings = load_settings(state=tmp_path_factory.mktemp("real"))
    finished = run_pipeline(str(real_sample), settings, Run(name="real", trigger="manual-real"))
    assert finished.conclusion.version
    return load(settings.bundle_folder / finished.conclusion.version)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["alibi", "scipy"])
def test_rows_of_the_holdout_at_the_rate_of_the_reference_raise_no_drift(
    engine: EngineName, model: Bundle
) -> None:
    [holdout] = (model.path.parent / "holdouts").glob("*/holdout.parquet")
    table = pq.read_table(holdout).to_pandas()
    rows, labels = table[list(INPUTS)].to_numpy(np.float64), table["Class"].to_numpy()
    reference = Reference.of(model)
    watch = Watch(model.scorer, reference, load_engine(engine, reference), DriftRules(), 200)
    rate, random, state = model.scorer.natural_rate, np.random.default_rng(0), State()
    drifted = []
    for number in range(WINDOWS):
        frauds = random.binomial(ROWS, rate)
        drawn = np.concatenate(
            [
                random.choice(rows[labels == 1], frauds),
                random.choice(rows[labels == 0], ROWS - frauds),
            ]
        )
        seen = watch.read(WindowFacts(random.permutation(drawn), (), number // 10), state)
        state = seen.state
        drifted += [(number, reading) for reading in seen.readings if reading.level is Level.DRIFT]
    assert not drifted
