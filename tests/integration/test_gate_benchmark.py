"""The simulation of the gate runs, and what it judges are the models that the pipeline makes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gate import NEW_KIND, draw, era, learn, learner
from fraudkit.bundle import SCORER
from fraudkit.scoring import Scorer
from fraudkit.settings import load_settings
from pipelines.data.recent import Recent
from pipelines.data.synthesize import synthesize, write
from pipelines.records import PREPARED
from pipelines.steps.prepare import prepare
from pipelines.steps.train import train

ROOT = Path(__file__).parents[2]
ROWS, SEED = 150_000, 3


def test_the_simulation_prints_its_table() -> None:
    command = [sys.executable, "-m", "benchmarks.gate", "--worlds", "1", "--rows", "40000", "--workers", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 + 20
    assert {line.count("|") for line in lines} == {6}


def test_its_models_are_those_of_the_pipeline_before_and_after_a_drift(tmp_path: Path) -> None:
    settings = load_settings(state=tmp_path / "state", data={"reference_rows": 1_000})
    write(tmp_path / "base.parquet", synthesize(ROWS, SEED))
    prepared = prepare(str(tmp_path / "base.parquet"), settings, tmp_path / "prepared")
    world, new = draw(ROWS, SEED, settings), era(100, SEED, NEW_KIND)
    assert (world.prepared.training, world.labels.sum()) == (prepared.training, prepared.holdout.frauds)
    given = learner(settings, world.prepared, world.kept)

    train(tmp_path / "prepared", settings, tmp_path / "first")
    assert_same(learn(given), tmp_path / "first")

    labels = np.concatenate([new.training.labels, new.held.labels])
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    live = Recent(
        since=moment,
        as_of=moment,
        identity="",
        natural_rate=labels.mean(),
        training=(0, 0),
        held=(0, 0),
        logged=0,
        reference=False,
    )
    drifted = prepared.model_copy(update={"recent": live, "natural_rate": live.natural_rate})
    (tmp_path / "prepared" / PREPARED).write_text(drifted.model_dump_json())
    np.savez(tmp_path / "prepared" / "recent-training.npz", **asdict(new.training))
    train(tmp_path / "prepared", settings, tmp_path / "renewed")
    assert_same(learn(given, new), tmp_path / "renewed")


def assert_same(simulated: Scorer, candidate: Path) -> None:
    made = Scorer.from_json((candidate / SCORER).read_bytes())
    assert simulated.weights == pytest.approx(made.weights, rel=1e-9)
    assert simulated.intercept == pytest.approx(made.intercept, rel=1e-9)
    assert (simulated.natural_rate, simulated.thresholds.review) == pytest.approx(
        (made.natural_rate, made.thresholds.review), rel=1e-9
    )
