"""The Kubeflow pipeline, compiled and run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fraudkit.settings import load_settings
from pipelines.local import run_pipeline
from pipelines.provenance import Run
from pipelines.training import COMPILED, compile_pipeline


def run_with_kfp(data: Path, state: Path, name: str) -> dict[str, Any]:
    output = state.parent / f"{name}.json"
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "kfp_run.py", data, state, name, output],
        capture_output=True,
        text=True,
        env=os.environ | {"FRAUD_STATE": str(state)},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return found


def test_the_compiled_pipeline_is_not_stale(tmp_path: Path) -> None:
    compile_pipeline(tmp_path / "fresh.yaml")
    fresh = (tmp_path / "fresh.yaml").read_text(encoding="utf-8")
    assert COMPILED.read_text(encoding="utf-8") == fresh, "run `fraudctl compile`"


def test_no_task_of_the_compiled_pipeline_caches_or_installs() -> None:
    text = COMPILED.read_text(encoding="utf-8")
    assert "enableCache" not in text
    assert "pip install" not in text
    assert text.count("cachingOptions: {}") == 5


@pytest.mark.slow
def test_kfp_and_this_process_give_the_same_version_and_the_same_verdict(
    real_sample: Path, tmp_path: Path
) -> None:
    here = run_pipeline(
        str(real_sample), load_settings(state=tmp_path / "here"), Run(name="here", trigger="manual-here")
    )
    first = run_with_kfp(real_sample, tmp_path / "kfp", "first")
    assert first["gate"] == here.evaluation.verdict.reason == "first_model"
    assert first["model"]["version"] == here.conclusion.version
    assert "register" in first["tasks"]
    assert "reject" not in first["tasks"]
    matrix = first["artifacts"]["classification"]["confusionMatrix"]
    assert [row["row"] for row in matrix["rows"]] == [
        list(map(float, row)) for row in here.evaluation.balanced.confusion_matrix
    ]
    assert first["artifacts"]["evaluation"]["outcome"] == "pass"

    second = run_with_kfp(real_sample, tmp_path / "kfp", "second")
    assert second["gate"] == "no_gain"
    assert "reject" in second["tasks"]
    assert "register" not in second["tasks"], "both branches of a condition must never run"
