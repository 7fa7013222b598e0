"""Runs that learn from live traffic: the base data and what the detector's log brought since a drift began."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import uvicorn
from log_events import HOUR, answer, request
from starlette.applications import Starlette

from detectors.api.transactions import TransactionsApi
from detectors.labels import Label
from detectors.store.database import Database
from detectors.store.labels import LabelStore
from detectors.store.log import RequestLog
from detectors.store.transactions import TransactionStore
from fraudkit.bundle import load
from fraudkit.bundle_store import BundleStore
from fraudkit.errors import PermanentError, TemporaryError
from fraudkit.http import listen
from fraudkit.schema import FloatArray
from fraudkit.settings import LabelSettings, Settings, load_settings
from pipelines.controller import Models
from pipelines.data import recent
from pipelines.data.recent import Span
from pipelines.data.sources import Shard
from pipelines.data.synthesize import Shift, synthesize, write
from pipelines.local import Finished, run_pipeline
from pipelines.outcome import result_of
from pipelines.provenance import Run
from pipelines.steps.conclude import Folders, reject
from pipelines.steps.shards import merge, prepare_shard
from pipelines.tracking import Tracking

BASE_ROWS, LIVE_ROWS, ROWS_OF_REQUEST = 120_000, 24_000, 100
NEW_WORLD = Shift(mean=0.5, new_fraud=0.015)
SPAN = Span(datetime.fromtimestamp(HOUR, UTC), datetime.fromtimestamp(HOUR + 86_400, UTC))


@dataclass(frozen=True)
class World:
    settings: Settings
    base: str
    rows: FloatArray
    labels: FloatArray


def table_of(batches: Iterator[pa.RecordBatch]) -> FloatArray:
    return np.column_stack([column.to_numpy() for column in pa.Table.from_batches(list(batches)).columns])


@contextmanager
def detector_of(database: Database) -> Iterator[str]:
    api = TransactionsApi(
        TransactionStore(database, LabelSettings()), LabelStore(database), BundleStore(Path("none"))
    )
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=api.routes()), log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()


def log_and_label(database: Database, rows: FloatArray, labels: FloatArray) -> None:
    entries, reported = [], []
    for number, start in enumerate(range(0, len(rows), ROWS_OF_REQUEST)):
        part, time = rows[start : start + ROWS_OF_REQUEST], HOUR + 1.0 + number
        entries += [
            request(f"q{number}", time, part),
            answer(f"q{number}", time + 0.01, (0.1,) * len(part), (1,) * len(part), "0123456789ab"),
        ]
        reported += [
            Label(f"q{number}-{i}", int(label), "chargeback", "bank", time + 60)
            for i, label in enumerate(labels[start : start + ROWS_OF_REQUEST])
        ]
    RequestLog(database, 60.0, "replica").store(entries, HOUR + 86_400)
    LabelStore(database).add(reported, HOUR + 86_400)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A first model on the old world, and a labelled day of a new one in the log."""
    folder = tmp_path_factory.mktemp("recent")
    base = folder / "base.parquet"
    write(base, synthesize(BASE_ROWS, 3))
    live = table_of(synthesize(LIVE_ROWS, 4, shift=NEW_WORLD, span=86_400.0))
    database = Database(f"sqlite:///{folder / 'detector.db'}")
    database.migrate()
    log_and_label(database, live[:, :-1], live[:, -1])
    with detector_of(database) as url:
        settings = load_settings(state=folder / "state", detector={"url": url})
        run_pipeline(str(base), settings, Run(name="first", trigger="bootstrap"))
        yield World(settings, str(base), live[:, :-1], live[:, -1])
    database.close()


@pytest.fixture(scope="module")
def renewed(world: World) -> Finished:
    return run_pipeline(world.base, world.settings, Run(name="drift", trigger="drift-x"), span=SPAN)


def test_a_model_that_has_seen_the_new_world_is_surely_better_there_and_passes(renewed: Finished) -> None:
    verdict = renewed.evaluation.verdict
    assert (verdict.outcome, verdict.reason) == ("pass", "better")
    assert verdict.facts.recent is not None
    assert verdict.facts.recent.auprc.low > 0.1
    assert verdict.facts.recent.log_loss.low > 0
    assert verdict.facts.against_champion is not None
    assert verdict.facts.against_champion.value > -0.05


def test_the_natural_rate_is_that_of_the_new_world(renewed: Finished, world: World) -> None:
    assert renewed.evaluation.scorer.natural_rate == pytest.approx(world.labels.mean(), rel=1e-9)


def test_probabilities_mean_what_they_say_on_new_rows(renewed: Finished) -> None:
    fresh = table_of(synthesize(LIVE_ROWS, 5, shift=NEW_WORLD, span=86_400.0))
    expected = renewed.evaluation.scorer.probabilities(np.ascontiguousarray(fresh[:, :-1])).sum()
    assert 1 / 3 < expected / fresh[:, -1].sum() < 3


def test_the_reference_is_the_new_world(renewed: Finished, world: World) -> None:
    assert renewed.conclusion.bundle
    rows = np.load(renewed.conclusion.bundle / "reference" / "rows.npy")
    assert len(rows) == LIVE_ROWS
    np.testing.assert_allclose(rows[:, 3].mean(), world.rows[:, 4].mean(), atol=1e-6)


def test_what_was_learned_from_is_in_the_identity_of_the_data(renewed: Finished) -> None:
    prepared = renewed.evaluation.prepared
    assert prepared.recent is not None
    assert prepared.identity != prepared.data
    assert renewed.conclusion.bundle
    assert load(renewed.conclusion.bundle).manifest.data == prepared.identity
    assert sum(prepared.recent.training) + sum(prepared.recent.held) == LIVE_ROWS
    assert sum(prepared.recent.held) / LIVE_ROWS == pytest.approx(0.3, abs=0.02)


def test_the_same_log_gives_the_same_version(renewed: Finished, world: World) -> None:
    again = run_pipeline(world.base, world.settings, Run(name="again", trigger="drift-y"), span=SPAN)
    assert again.evaluation.version == renewed.evaluation.version


def test_shards_take_live_traffic_once_they_are_merged_and_give_what_one_pass_gives(
    renewed: Finished, world: World, tmp_path: Path
) -> None:
    away = load_settings(state=tmp_path, detector={"url": "http://127.0.0.1:9"})
    for i in range(2):
        prepare_shard(world.base, Shard(i, 2), away, tmp_path / str(i))
    found = merge(world.base, [tmp_path / "1", tmp_path / "0"], world.settings, tmp_path / "merged", SPAN)
    assert found == renewed.evaluation.prepared
    assert len(recent.reference_rows(tmp_path / "merged")) == LIVE_ROWS


def test_what_matured_later_is_not_known(world: World, tmp_path: Path) -> None:
    half = Span(SPAN.since, SPAN.since + timedelta(seconds=180))
    few = load_settings(state=tmp_path, detector={"url": world.settings.detector.url}, retrain={"frauds": 1})
    found = recent.gather(half, few, tmp_path)
    assert found is not None
    assert sum(found.training) + sum(found.held) == 120 * ROWS_OF_REQUEST


def test_too_few_frauds_leave_the_base_data_alone(world: World, tmp_path: Path) -> None:
    assert recent.gather(Span(SPAN.since, SPAN.since + timedelta(seconds=90)), world.settings, tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_a_detector_that_is_away_is_worth_another_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "TRIES", 1)
    settings = load_settings(state=tmp_path, detector={"url": "http://127.0.0.1:9"})
    with pytest.raises(TemporaryError, match="does not answer"):
        recent.gather(SPAN, settings, tmp_path)


def test_what_is_no_detector_is_said(world: World, tmp_path: Path) -> None:
    wrong = load_settings(state=tmp_path, detector={"url": f"{world.settings.detector.url}/v1"})
    with pytest.raises(PermanentError, match="404"):
        recent.gather(SPAN, wrong, tmp_path)


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the steps of `unneeded` leave."""
    return tmp_path_factory.mktemp("steps")


@pytest.fixture(scope="module")
def unneeded(world: World, renewed: Finished, steps: Path) -> Finished:
    """A drift's run that finds no gain over a champion which has seen the new world already."""
    Tracking(world.settings).mirror(Models(champion=renewed.evaluation.version), ())
    earlier, run = Span(SPAN.since, SPAN.since + timedelta(seconds=235)), Run(name="late-1", trigger="drift-late")
    return run_pipeline(world.base, world.settings, run, span=earlier, keep=steps)


def test_a_drift_without_a_gain_offers_the_champion_with_a_new_reference(
    unneeded: Finished, renewed: Finished, world: World
) -> None:
    verdict, conclusion = unneeded.evaluation.verdict, unneeded.conclusion
    assert (verdict.reason, verdict.facts.champion) == ("no_gain", renewed.evaluation.version)
    assert (conclusion.version, conclusion.aliases) == (None, ())
    assert conclusion.offered
    folder = world.settings.bundle_folder
    champion, child = load(folder / renewed.evaluation.version), load(folder / conclusion.offered)
    assert child.manifest.parent == champion.version
    assert child.manifest.files["scorer.json"] == champion.manifest.files["scorer.json"]
    assert (child.manifest.run, child.manifest.trigger) == ("late-1", "drift-late")
    assert (child.manifest.data, child.manifest.learned) == (champion.manifest.data, champion.manifest.learned)
    assert (child.manifest.reason, child.manifest.gate) == (verdict.message, None)
    rows = np.load(child.path / "reference" / "rows.npy")
    recently = unneeded.evaluation.prepared.recent
    assert recently
    assert len(rows) == recently.logged < LIVE_ROWS
    summary = json.loads((child.path / "reference" / "summary.json").read_bytes())
    scores = champion.scorer.probabilities(np.ascontiguousarray(world.rows[: len(rows)]))
    assert summary["score"][summary["quantiles"].index(0.5)] == pytest.approx(np.median(scores))


def test_what_is_offered_is_said_with_how_to_accept_it(unneeded: Finished, world: World) -> None:
    from mlflow import MlflowClient

    offered, verdict, version = (
        unneeded.conclusion.offered,
        unneeded.evaluation.verdict,
        unneeded.evaluation.version,
    )
    result = result_of(verdict.reason, verdict.message, version, unneeded.conclusion)
    assert (result.outcome, result.version) == ("no_gain", version)
    assert result.message.startswith(verdict.message)
    assert f"POST /v1/bundles/{offered}/reference" in result.message
    client = MlflowClient(world.settings.tracking_uri)
    tags = client.get_run(unneeded.conclusion.mlflow_run).data.tags
    assert (tags["offered_version"], tags["mlflow.note.content"]) == (offered, result.message)
    assert not client.search_model_versions(f"tags.bundle_version = '{offered}'"), "it is no challenger"


def test_what_was_learned_and_what_the_gate_said_is_in_the_bundle(renewed: Finished) -> None:
    verdict, training = renewed.evaluation.verdict, renewed.evaluation.training
    assert renewed.conclusion.bundle
    manifest = load(renewed.conclusion.bundle).manifest
    assert manifest.gate
    assert manifest.learned
    assert (manifest.gate.outcome, manifest.gate.reason, manifest.gate.message) == (
        "pass",
        "better",
        verdict.message,
    )
    assert (manifest.learned.base, manifest.learned.recent) == (training.used, training.recent)
    assert (manifest.learned.since, manifest.learned.as_of) == (SPAN.since, SPAN.as_of)


def test_a_run_that_no_drift_asked_for_offers_nothing(world: World, unneeded: Finished, steps: Path) -> None:
    folders = Folders(steps / "prepare", steps / "train", steps / "evaluate")
    assert unneeded.conclusion.offered
    run = Run(name="monthly-1", trigger="schedule-2026-12")
    monthly = reject(run, folders, world.settings, Tracking(world.settings))
    assert (monthly.offered, monthly.offer) == (None, "")
