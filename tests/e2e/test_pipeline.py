"""The Kubeflow pipeline, compiled and run: by hand, and for a launcher beside a controller."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from controllers import RULES, arrive, served
from kfp_stand_in import KfpStandIn
from kfp_stand_in import running as kfp_running
from starlette.applications import Starlette

from detectors.api.transactions import TransactionsApi
from detectors.store.database import Database as Log
from detectors.store.labels import LabelStore
from detectors.store.transactions import TransactionStore
from fraudctl.__main__ import main
from fraudkit.bundle_store import BundleStore
from fraudkit.database import Database
from fraudkit.settings import EventSettings, LabelSettings, LauncherSettings, load_settings
from pipelines.data.synthesize import synthesize, write
from pipelines.launcher.__main__ import backend_of
from pipelines.launcher.app import LauncherApi
from pipelines.launcher.asking import Asking
from pipelines.launcher.store import MIGRATIONS, RunStore
from pipelines.launcher.worker import Loop, Worker, now
from pipelines.local import run_pipeline
from pipelines.provenance import Run
from pipelines.steps.prepare import prepare
from pipelines.training import COMPILED, compile_pipeline
from serving.rollout.app import RolloutApi
from serving.rollout.controller import Controller
from serving.rollout.evidence import Evidence
from serving.rollout.store import FileStore
from serving.rollout.targets.local import NOBODY, LocalTarget


def run_with_kfp(folder: Path, name: str, parameters: dict[str, object]) -> dict[str, Any]:
    output = folder / f"{name}.json"
    command = [sys.executable, Path(__file__).parent / "kfp_run.py", folder / "kfp" / name, json.dumps(parameters)]
    done = subprocess.run(
        [*command, output], capture_output=True, text=True, env=os.environ | {"FRAUD_STATE": str(folder / "kfp")}
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return found | {"stdout": done.stdout}


def test_the_compiled_pipeline_is_not_stale(tmp_path: Path) -> None:
    compile_pipeline(tmp_path / "fresh.yaml")
    fresh = (tmp_path / "fresh.yaml").read_text(encoding="utf-8")
    assert COMPILED.read_text(encoding="utf-8") == fresh, "run `fraudctl compile`"


def test_no_task_of_the_compiled_pipeline_caches_or_installs() -> None:
    text = COMPILED.read_text(encoding="utf-8")
    assert "enableCache" not in text
    assert "pip install" not in text
    assert text.count("cachingOptions: {}") == 6


def test_with_shards_another_file_is_written_and_the_checked_in_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = COMPILED.read_bytes()
    monkeypatch.setenv("FRAUD__DATA__SHARDS", "5")
    for options, code in (([], 2), (["-o", "five.yaml"], 0), (["-o", "one.yaml", "--shards", "1"], 0)):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["fraudctl", "compile", *options])
        with pytest.raises(SystemExit) as ended:
            main()
        assert (ended.value.code or 0) == code
    assert "the checked-in pipeline has one shard, not 5" in capsys.readouterr().err
    assert COMPILED.read_bytes() == before == (tmp_path / "one.yaml").read_bytes()
    five = (tmp_path / "five.yaml").read_text(encoding="utf-8")
    assert "raw: '[0, 1, 2, 3, 4]'" in five
    assert "enableCache" not in five
    assert five.count("cachingOptions: {}") == 7


def test_shards_on_kfp_leave_the_bytes_that_one_process_leaves(tmp_path: Path) -> None:
    data = tmp_path / "data.parquet"
    write(data, synthesize(70_000, 0, fraud_rate=0.01))
    prepare(str(data), load_settings(state=tmp_path / "here"), tmp_path / "prepared")
    command = [sys.executable, Path(__file__).parent / "kfp_prepare.py", "2", data, tmp_path / "kfp"]
    there = os.environ | {"FRAUD_STATE": str(tmp_path / "there")}
    done = subprocess.run(command, capture_output=True, text=True, env=there)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (run,) = (tmp_path / "kfp").iterdir()
    assert len(list(run.glob("*/prepare-shard/part/shard.json"))) == 2
    wanted = contents(tmp_path / "prepared")
    assert {"prepared.json", "profile.html", "kept-fraud.npy"} < set(wanted)
    assert contents(run / "merge-shards" / "prepared") == wanted
    assert (run / "merge-shards" / "profile").read_bytes() == wanted["profile.html"]
    assert contents(tmp_path / "there") == contents(tmp_path / "here") != {}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass
class Cluster:
    """A launcher whose runs are KFP's, beside a controller that tells it of promotions."""

    kfp: KfpStandIn
    launcher: str
    controller: str

    def start(self, key: str) -> dict[str, object]:
        """Ask for a run; the parameters that KFP gets."""
        before = len(self.kfp.runs)
        asked = httpx.post(f"{self.launcher}/v1/runs", json={"key": key, "by": "a test", "reason": "to see"})
        assert asked.status_code == 201, asked.text
        wait_until(lambda: len(self.kfp.runs) > before)
        parameters: dict[str, object] = self.kfp.runs[-1]["runtime_config"]["parameters"]
        return parameters

    def record(self, key: str) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.launcher}/v1/runs/{key}").json()
        return found

    def ended(self, key: str) -> dict[str, Any]:
        """KFP says that the run has succeeded; what the launcher makes of that."""
        self.kfp.set_state("SUCCEEDED")
        wait_until(lambda: self.record(key)["status"] == "ended")
        return self.record(key)


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@contextmanager
def cluster(folder: Path, state: Path, data: Path) -> Iterator[Cluster]:
    with ExitStack() as stack:
        kfp = stack.enter_context(kfp_running())
        controller = stack.enter_context(rollouts(folder, state / "bundles"))
        tasks = {
            "state": str(state),
            "rollout": {"url": controller},
            "detector": {"url": stack.enter_context(served(empty_log(folder)))},
        }
        database = Database(f"sqlite:///{folder / 'launcher.db'}", MIGRATIONS, "launcher.database")
        stack.callback(database.close)
        database.migrate()
        own = LauncherSettings(data=str(data))
        store = RunStore(database)
        asking = Asking(store, own, now)
        launcher = stack.enter_context(served(LauncherApi(store, asking).app()))
        settings = {
            "backend": "kfp",
            "results": launcher,
            "poll_seconds": 0.2,
            "kfp": {"url": kfp.url, "settings": json.dumps(tasks)},
        }
        loaded = load_settings(state=state, launcher=settings)
        failures: list[str] = []
        worker = Worker(store, backend_of(loaded), loaded.launcher, now)
        loop = Loop(database, worker, asking, loaded.launcher, lambda: failures.append("the loop has failed"))
        loop.start()
        stack.callback(loop.stop, 30)
        yield Cluster(kfp, launcher, controller)
        assert not failures


@contextmanager
def rollouts(folder: Path, bundles: Path) -> Iterator[str]:
    """The URL of a controller without a model, where traffic is soon wherever it is wanted."""
    store, target = (
        FileStore(folder / "rollout.json"),
        LocalTarget(BundleStore(bundles), NOBODY, folder / "servers"),
    )
    evidence = Evidence(BundleStore(bundles), NOBODY, RULES.skew_tolerance)
    controller = Controller(store, target, evidence, RULES, EventSettings(), 30.0, time.time)
    controller.load()
    over = threading.Event()

    def flow() -> None:
        while not over.wait(0.2):
            if controller.state.going_on:
                arrive(controller)

    thread = threading.Thread(target=flow)
    thread.start()
    try:
        with served(RolloutApi(controller, BundleStore(bundles)).app()) as url:
            yield url
    finally:
        over.set()
        thread.join()
        target.close()
        store.close()


def empty_log(folder: Path) -> Starlette:
    """A detector that has logged nothing."""
    database = Log(f"sqlite:///{folder / 'detector.db'}")
    database.migrate()
    store = TransactionStore(database, LabelSettings())
    return Starlette(routes=TransactionsApi(store, LabelStore(database), BundleStore(Path("none"))).routes())


@pytest.mark.slow
def test_a_run_on_kfp_ends_as_one_in_this_process_is_rolled_out_and_tells_the_launcher(
    real_sample: Path, tmp_path: Path
) -> None:
    here = run_pipeline(
        str(real_sample), load_settings(state=tmp_path / "here"), Run(name="here", trigger="manual-here")
    )
    state = tmp_path / "kfp" / "state"
    with cluster(tmp_path, state, real_sample) as platform:
        first = run_with_kfp(tmp_path, "first", platform.start("bootstrap"))
        version = first["model"]["version"]
        assert first["gate"] == here.evaluation.verdict.reason == "first_model"
        assert version == here.conclusion.version
        assert {"register", "roll-out"} <= set(first["tasks"])
        assert "reject" not in first["tasks"]
        matrix = first["artifacts"]["classification"]["confusionMatrix"]
        assert [row["row"] for row in matrix["rows"]] == [
            list(map(float, row)) for row in here.evaluation.balanced.confusion_matrix
        ]
        assert first["artifacts"]["evaluation"]["outcome"] == "pass"

        assert httpx.get(f"{platform.controller}/v1/models").json()["champion"] == version
        assert f"Roll-out of {version}" in first["page"]
        assert "as the first model" in first["page"]
        assert "roll-out bootstrap: confirmed" in first["stdout"]
        record = platform.record("bootstrap")
        assert (record["status"], record["outcome"]) == ("running", None), "KFP has not said that it has ended"
        record = platform.ended("bootstrap")
        assert (record["outcome"], record["version"], record["attempt"]) == ("promoted", version, 1)

        second = run_with_kfp(tmp_path, "second", platform.start("manual-second"))
        assert second["gate"] == "no_gain"
        assert "reject" in second["tasks"]
        assert not {"register", "roll-out"} & set(second["tasks"]), "both branches of a condition must never run"
        record = platform.ended("manual-second")
        assert (record["outcome"], record["outcome_reason"], record["version"]) == ("no_gain", "no_gain", version)
