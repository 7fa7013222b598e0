"""The contenders of the serving benchmark answer the same questions alike; how fast is not looked at here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path

import numpy as np
import orjson
import pytest

from benchmarks.serving import answer_bytes
from benchmarks.serving_contenders import Answer, Server, make_models, start, wait_ready
from benchmarks.serving_load import Disturbance, Window, probe
from benchmarks.serving_report import Results, goals, markdown
from benchmarks.serving_requests import FORMATS, Case, spoiled, transactions

ROOT = Path(__file__).parents[2]
WITH_MODEL = ("ours", "stock", "fastapi")
ROWS = 7
POSTS = {form: make(transactions(ROWS)) for form, make in FORMATS.items()}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """All four contenders."""
    folder = tmp_path_factory.mktemp("benchmark")
    cores = cycle(os.sched_getaffinity(0))
    models = make_models(folder)
    with ExitStack() as stack:
        running = {}
        for name in WITH_MODEL:
            running[name] = start(name, models, folder, next(cores))
            stack.callback(running[name].stop)
        for server in running.values():
            wait_ready(server)
        answers = answer_bytes([running["ours"]], list(POSTS.values()))
        running["floor"] = start("floor", models, folder, next(cores), answers)
        stack.callback(running["floor"].stop)
        wait_ready(running["floor"])
        yield running


def outputs(form: str, answer: Answer) -> dict[str, list[float]]:
    """Probability and label of each row, from an answer in the format of the request."""
    length = int(answer.headers.get("inference-header-content-length", len(answer.body)))
    document = orjson.loads(answer.body[:length])
    if form == "v1":
        return {name: [row[name] for row in document["predictions"]] for name in ("probability", "label")}
    found, start_at = {}, length
    for tensor in document["outputs"]:
        assert tensor["shape"] == [ROWS]
        size = tensor["parameters"]["binary_data_size"] if form == "binary" else 0
        data = answer.body[start_at : start_at + size]
        start_at += size
        if kind := {"probability": "<f8", "label": "<i8"}.get(tensor["name"]):
            found[tensor["name"]] = np.frombuffer(data, kind).tolist() if size else tensor["data"]
    return found


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("peer", ["stock", "fastapi"])
def test_a_peer_scores_as_ours_does(servers: dict[str, Server], peer: str, form: str) -> None:
    ours, theirs = (servers[name].post(POSTS[form]) for name in ("ours", peer))
    assert (ours.status, theirs.status) == (200, 200), (ours.body, theirs.body)
    expected, found = outputs(form, ours), outputs(form, theirs)
    assert found["label"] == expected["label"]
    assert found["probability"] == pytest.approx(expected["probability"], rel=1e-9)


@pytest.mark.parametrize("form", FORMATS)
def test_the_floor_answers_as_many_bytes_as_ours(servers: dict[str, Server], form: str) -> None:
    ours, floor = (servers[name].post(POSTS[form]) for name in ("ours", "floor"))
    assert (ours.status, floor.status) == (200, 200)
    assert len(floor.body) == len(ours.body)


@pytest.mark.parametrize("form", FORMATS)
def test_ours_refuses_every_spoiled_body(servers: dict[str, Server], form: str) -> None:
    statuses = {
        name: servers["ours"].post(post).status for name, post in spoiled(form, transactions(ROWS)).items()
    }
    assert statuses == dict.fromkeys(statuses, 400)


def test_the_probe_has_answers_from_every_contender(servers: dict[str, Server]) -> None:
    for name, server in servers.items():
        before = server.cpu_seconds()
        assert len(probe(server, POSTS["v1"], 0.05)) > 1, name
        assert server.cpu_seconds() > before
        resident, proportional = server.memory()
        assert 0 < proportional <= resident


def test_the_background_client_reports_what_it_was_answered(servers: dict[str, Server]) -> None:
    command = [sys.executable, "-m", "benchmarks.serving_background", "ours", str(servers["ours"].port), "v1"]
    done = subprocess.run(command, cwd=ROOT, input="", capture_output=True, text=True, check=True)
    begun, report = done.stdout.splitlines()
    assert begun == "begun"
    assert json.loads(report).keys() <= {"200", "400"}


def windows(cpu_us: float, p99: float = 1.0) -> list[Window]:
    return [Window(1_000, 1.0, cpu_us / 1e3, 1.0, p99, 9.0)] * 3


def test_goals_are_judged_by_ratios() -> None:
    results = Results()
    results.windows[Case("v1", 1)] = {
        "ours": windows(50, p99=5.0),
        "stock": windows(500),
        "fastapi": windows(90),
        "floor": windows(40, p99=3.5),
    }
    results.windows[Case("v2", 1_000)] = {"ours": windows(1_000), "floor": windows(900)}
    results.startup = {"ours": [1.5, 1.5], "stock": [3.0, 3.0], "import kserve": [1.0, 1.0]}
    results.disturbance = {"ours": Disturbance([1.0] * 10, [31.0] * 10, Counter())}
    verdicts = [(goal.measured, goal.holds) for goal in goals(results)]
    expected = [(10, True), (1.8, False), (1.25, True), (5, True), (1.11, True), (30, False), (1.5, False)]
    assert [holds for _, holds in verdicts] == [holds for _, holds in expected]
    assert [measured for measured, _ in verdicts] == pytest.approx([value for value, _ in expected], abs=0.01)


def test_a_refused_case_misses_its_goals_and_is_named() -> None:
    case = Case("binary", 1)
    results = Results(windows={case: {"ours": [], "floor": windows(40)}}, refused={case: {"ours": 415}})
    assert [goal.holds for goal in goals(results)] == [False, False]
    assert "refused: 415" in markdown(results, "No windows.")
