"""The contenders: one model for all of them, and each server as a process of its own on one core."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import joblib
import numpy as np
import psutil
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.peers.terms import terms
from benchmarks.serving_requests import Post, as_sent_to, transactions
from fraudkit.bundle import Origin, seal
from fraudkit.schema import INPUTS
from fraudkit.scoring import Scorer, Thresholds

PEERS: Final = ("stock", "fastapi", "floor")
"""All contenders but ours."""
HOST: Final = "127.0.0.1"
_ROOT: Final = Path(__file__).parents[1]
_QUIET: Final = _ROOT / "benchmarks" / "peers" / "quiet.json"


class Unmeasurable(Exception):
    """Something is not as a measurement needs it to be."""


@dataclass(frozen=True, slots=True)
class Models:
    """One fitted model, in the form that each contender loads.

    Attributes:
        bundle: Folder of the sealed bundle, for ours.
        pipeline: The fitted scikit-learn pipeline, for stock.
        weights: Intercept and 31 weights, for fastapi.
    """

    bundle: Path
    pipeline: Path
    weights: Path


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said to a request."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Server:
    """A contender that runs; `log` is what it wrote on stdout and stderr."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def post(self, post: Post) -> Answer:
        """The answer to one request."""
        post = as_sent_to(self.name, post)
        return self._exchange("POST", post.path, post.body, post.headers)

    def ready(self) -> bool:
        """Whether the server says that it is ready."""
        with suppress(OSError, http.client.HTTPException):
            return self._exchange("GET", "/v2/health/ready", b"", {}).status == 200
        return False

    def _exchange(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        with closing(http.client.HTTPConnection(HOST, self.port, timeout=60)) as connection:
            connection.request(method, path, body, headers)
            with connection.getresponse() as response:
                found = {name.lower(): value for name, value in response.getheaders()}
                return Answer(response.status, found, response.read())

    def cpu_seconds(self) -> float:
        """CPU time so far of the process and its children, all threads, to the nanosecond."""
        # The CPU clock of another process, as clock_getcpuclockid(3) makes it.
        return sum(time.clock_gettime((~process.pid << 3) | 2) for process in self._tree())

    def memory(self) -> tuple[float, float]:
        """Resident and proportional memory of the process and its children in MB."""
        sizes = [process.memory_full_info() for process in self._tree()]
        return sum(size.rss for size in sizes) / 1e6, sum(size.pss for size in sizes) / 1e6

    def stop(self) -> None:
        """End the process, gently if it can be."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _tree(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]


def make_models(folder: Path) -> Models:
    """Fit one model on rows made from a seed and write it to `folder` in all three forms."""
    rows = transactions(4_000, seed=1)
    random = np.random.default_rng(2)
    logits = terms(rows) @ random.normal(0, 0.5, 31) - 3.0
    labels = random.random(len(rows)) < 1 / (1 + np.exp(-logits))
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000)).fit(terms(rows), labels)
    scaler, regression = pipeline[0], pipeline[1]
    weights = regression.coef_[0] / scaler.scale_
    intercept = float(regression.intercept_[0] - weights @ scaler.mean_)
    models = Models(
        _bundle(folder, weights.tolist(), intercept), folder / "pipeline.joblib", folder / "weights.npy"
    )
    joblib.dump(pipeline, models.pipeline)
    np.save(models.weights, [intercept, *weights])
    return models


def _bundle(folder: Path, weights: list[float], intercept: float) -> Path:
    draft = folder / "draft"
    scorer = Scorer(
        weights=tuple(weights),
        intercept=intercept,
        natural_rate=0.002,
        thresholds=Thresholds(review=0.5, block=0.9),
        typical=(0.0,) * len(INPUTS),
    )
    (draft / "reference").mkdir(parents=True)
    (draft / "scorer.json").write_bytes(scorer.rounded().to_json())
    for name in ("holdout.parquet", "model.skops", "metrics.json", "card.md", "reference/rows.parquet"):
        (draft / name).write_text("of a benchmark\n")
    origin = Origin(
        run="benchmark", trigger="manual", data="none", code="none", libraries={}, created=datetime.now(UTC)
    )
    return seal(draft, folder / "bundles", origin).path


def start(name: str, models: Models, folder: Path, core: int, answers: Mapping[int, int] | None = None) -> Server:
    """Start a contender on `core`; it may not be ready yet.

    Args:
        name: Which.
        models: What it serves.
        folder: Where it runs its log to.
        core: The core it has to itself.
        answers: For the floor: bytes of the answer by bytes of the request.
    """
    port = _free_port()
    log = folder / f"{name}.log"
    # What would change the defaults of ours, or keep Python from storing what it compiled, stays out.
    environment = {
        variable: value
        for variable, value in os.environ.items()
        if not variable.startswith("FRAUD") and variable != "PYTHONDONTWRITEBYTECODE"
    }
    environment["WEIGHTS"] = str(models.weights)
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *_arguments(name, models, port, answers or {})],
            cwd=_ROOT,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    os.sched_setaffinity(process.pid, {core})
    return Server(name, process, port, log)


def _arguments(name: str, models: Models, port: int, answers: Mapping[int, int]) -> list[str]:
    """What follows `python` on the command line."""
    kserve = [f"--http_port={port}", f"--grpc_port={_free_port()}"]
    return {
        "ours": ["-m", "serving.predictor", f"--bundle={models.bundle}", *kserve],
        "stock": [
            *("-W", "ignore", "-m", "benchmarks.peers.stock", f"--model_dir={models.pipeline}", *kserve),
            *("--model_name=fraud", "--enable_latency_logging=false", f"--log_config_file={_QUIET}"),
        ],
        "fastapi": [
            *("-m", "uvicorn", "benchmarks.peers.fastapi_app:app"),
            *(f"--port={port}", "--workers=1", "--log-level=warning", "--no-access-log"),
        ],
        "floor": ["-m", "benchmarks.peers.floor", f"--port={port}", f"--answers={json.dumps(answers)}"],
    }[name]


def wait_ready(server: Server, seconds: float = 30) -> None:
    """Return as soon as the server says that it is ready."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.process.poll() is None:
        if server.ready():
            return
        time.sleep(0.005)
    server.stop()
    raise Unmeasurable(f"{server.name} did not start: {server.log.read_text()[-2_000:]}")


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
