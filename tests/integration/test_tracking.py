"""MLflow on SQLite: what a run leaves, and which aliases it moves."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from fraudkit.errors import PermanentError, TemporaryError
from fraudkit.settings import Settings, load_settings
from pipelines.controller import CHALLENGER, CHAMPION
from pipelines.data.synthesize import synthesize, write
from pipelines.local import Finished, run_pipeline
from pipelines.provenance import Run
from pipelines.tracking import Tracking


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load_settings(state=tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module")
def runs(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> list[Finished]:
    """A first model; the same again; and one from twenty thousand other rows."""
    folder = tmp_path_factory.mktemp("data")
    uris = []
    for seed in (1, 2):
        path = folder / f"{seed}.parquet"
        write(path, synthesize(20_000, seed, fraud_rate=0.02))
        uris.append(str(path))
    order = [uris[0], uris[0], uris[1]]
    return [
        run_pipeline(uri, settings, Run(name=f"run-{i}", trigger=f"manual-{i}")) for i, uri in enumerate(order)
    ]


def test_a_first_model_becomes_champion_and_challenger(runs: list[Finished]) -> None:
    assert runs[0].evaluation.verdict.reason == "first_model"
    assert set(runs[0].conclusion.aliases) == {CHALLENGER, CHAMPION}


def test_the_champions_own_version_again_registers_nothing(runs: list[Finished], settings: Settings) -> None:
    assert runs[1].evaluation.verdict.reason == "no_gain"
    assert runs[1].conclusion.version is None
    assert runs[1].evaluation.version == runs[0].evaluation.version


def test_a_model_of_other_data_is_compared_with_the_champion_on_the_new_holdout(
    runs: list[Finished], settings: Settings
) -> None:
    facts = runs[2].evaluation.verdict.facts
    assert facts.champion == runs[0].conclusion.version
    assert facts.against_champion is not None
    assert facts.against_first == facts.against_champion, (
        "without a first model of its own data, the champion stands in"
    )
    assert Tracking(settings).champion() == runs[0].conclusion.version, "without a roll-out the champion stays"


def test_the_run_in_mlflow_has_metrics_parameters_tags_report_and_bundle(
    runs: list[Finished], settings: Settings
) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(settings.tracking_uri)
    run = client.get_run(runs[0].conclusion.mlflow_run)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["natural.auprc"] == pytest.approx(runs[0].evaluation.natural.auprc.value)
    assert run.data.metrics["natural.auprc_low"] < run.data.metrics["natural.auprc_high"]
    assert run.data.params["data.rows"] == "20000"
    tags = run.data.tags
    assert tags["trigger_key"] == "manual-0"
    assert tags["seed"] == "0"
    assert tags["data_sha256"] == runs[0].evaluation.prepared.data
    assert tags["gate_reason"] == "first_model"
    assert len(tags["code_commit"]) >= 12
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"profile.html", "report.html", "card.md", "metrics.json", "verdict.json", "plots", "bundle"} <= files
    version = client.get_model_version_by_alias("fraud", CHAMPION)
    assert version.tags["bundle_version"] == runs[0].conclusion.version
    assert version.run_id == run.info.run_id


def test_artifacts_stay_in_the_state_folder(runs: list[Finished], settings: Settings) -> None:
    assert (settings.state / "mlartifacts").is_dir()
    assert runs[0].conclusion.report.startswith(settings.state.absolute().as_uri())
    assert not Path("mlruns").exists()


def test_a_tracking_server_that_is_away_is_a_temporary_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = load_settings(state=tmp_path, tracking={"uri": "http://127.0.0.1:9"})
    with pytest.raises(TemporaryError, match=r"MLflow at http://127\.0\.0\.1:9 did not do what was asked"):
        Tracking(away).champion()


def test_an_alias_that_names_a_missing_version_is_an_error_and_no_first_model(
    runs: list[Finished], settings: Settings, tmp_path: Path
) -> None:
    shutil.copytree(settings.state, tmp_path / "state")
    other = load_settings(state=tmp_path / "state")
    with sqlite3.connect(tmp_path / "state" / "mlflow.db") as database:
        database.execute("update registered_model_aliases set version = 99 where alias = 'champion'")
    database.close()
    with pytest.raises(PermanentError, match="alias champion names version 99 of fraud, which is not there"):
        Tracking(other).champion()


def test_what_mlflow_refuses_for_good_is_permanent(runs: list[Finished], settings: Settings) -> None:
    with pytest.raises(PermanentError, match=r"MLflow at sqlite:.* did not do what was asked: .*not found"):
        Tracking(settings).register("0" * 32, "0" * 12, {})


def test_a_database_that_is_none_is_an_error_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(PermanentError, match=r"MLflow's database sqlite:.*file is not a database"):
        Tracking(load_settings(state=tmp_path))


def test_two_processes_may_make_the_database_at_the_same_moment(tmp_path: Path) -> None:
    code = "import sys; from fraudkit.settings import load_settings; from pipelines.tracking import Tracking; "
    code += "print(Tracking(load_settings(state=sys.argv[1])).champion())"
    command = [sys.executable, "-c", code, str(tmp_path / "state")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out) == (0, "None\n"), err
