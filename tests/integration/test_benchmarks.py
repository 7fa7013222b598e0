"""The benchmarks run; what they measure is not looked at here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.data.synthesize import synthesize, write

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("module", ["plain", "ours", "prepare"])
def test_a_benchmark_runs_and_prints_its_seconds(module: str, tmp_path: Path) -> None:
    path = tmp_path / "transactions.csv"
    write(path, synthesize(20_000, 3, fraud_rate=0.02))
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", path], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["seconds"] > 0


@pytest.mark.parametrize(
    "command", [["window", "--rows", "5000", "--windows", "2"], ["intake", "--events", "2000"]]
)
def test_a_benchmark_of_the_detector_prints_its_table(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{command[0]}", *command[1:]], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("| ")
