"""What tests of several parts share: a small bundle that is a real one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import numpy as np
import pytest
import structlog

from fraudkit.bundle import Bundle, Origin, seal
from fraudkit.schema import INPUTS
from fraudkit.scoring import TERMS, Scorer, Thresholds

if TYPE_CHECKING:
    import grpc
    import httpx
    from databases import Postgres
    from predictors import Server

    from detectors.store.database import Database

# A shared machine stalls now and then, and a red run must be one that can be had again.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A sealed bundle with a scorer of random weights; its other files only stand there."""
    draft = tmp_path_factory.mktemp("draft")
    random = np.random.default_rng(7)
    scorer = Scorer(
        weights=tuple(random.normal(0, 0.5, len(TERMS)).tolist()),
        intercept=-3.0,
        natural_rate=0.002,
        thresholds=Thresholds(review=0.05, block=0.6),
        typical=tuple(np.abs(random.normal(0, 0.3, len(INPUTS))).tolist()),
    )
    (draft / "scorer.json").write_bytes(scorer.rounded().to_json())
    (draft / "reference").mkdir()
    for name in ("holdout.parquet", "model.skops", "metrics.json", "card.md", "reference/rows.parquet"):
        (draft / name).write_text(f"{name} of a test\n")
    origin = Origin(
        run="test", trigger="manual-test", data="none", code="none", libraries={}, created=datetime.now(UTC)
    )
    return seal(draft, tmp_path_factory.mktemp("bundles"), origin)


@pytest.fixture(scope="session")
def predictor(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A predictor of `bundle` in a process of its own; whatever it is asked, it logs its start and its stop."""
    from predictors import running

    with running(bundle.path, tmp_path_factory.mktemp("predictor")) as server:
        yield server
    assert server.events() == ["predictor started", "predictor stopped"]


@pytest.fixture(scope="session")
def client(predictor: Server) -> Iterator[httpx.Client]:
    """HTTP to `predictor`."""
    import httpx

    with httpx.Client(base_url=predictor.url, timeout=60) as connected:
        yield connected


@pytest.fixture(scope="session")
def channel(predictor: Server) -> Iterator[grpc.Channel]:
    """gRPC to `predictor`."""
    import grpc
    from predictors import UNLIMITED

    with grpc.insecure_channel(predictor.target, UNLIMITED) as connected:
        yield connected


@pytest.fixture(scope="session")
def real_sample() -> Path:
    """10,118 real transactions, where they are at hand."""
    path = Path(__file__).parents[2] / "shared" / "data" / "creditcard_sample.csv.gz"
    if not path.is_file():
        pytest.skip(f"the real transactions are not at hand ({path})")
    return path


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """One PostgreSQL for all tests that do not stop it."""
    from databases import Postgres

    server = Postgres(tmp_path_factory.mktemp("postgres") / "data")
    yield server
    server.end()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'detector.db'}"
    url: str = request.getfixturevalue("postgres").new()
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database at the schema of this version."""
    from detectors.store.database import Database

    made = Database(database_url)
    made.migrate()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """A test that runs a process's `main` leaves no log behind that writes elsewhere."""
    yield
    if structlog.is_configured():
        structlog.reset_defaults()
