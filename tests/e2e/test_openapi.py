"""The predictor's OpenAPI document, and the running server held to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
import requests
import schemathesis
from predictors import Server, in_process, running

from fraudkit.bundle import Bundle
from serving.predictor import app
from serving.predictor.metrics import Metrics
from serving.predictor.model import FraudModel

LIMITS = {"FRAUD__SERVING__MAX_ROWS": "8", "FRAUD__SERVING__MAX_EXPLAINED": "4"}
"""So small that generated requests reach them, and go beyond."""
LEAST_CASES = 5_000
CONFIG = """\
hooks = "ids"

[checks.negative_data_rejection]
expected-statuses = [400, 413, 415]

# Cases depend on the document alone, not on what was answered before: they are the same in every run.
[phases]
examples.extra-data-sources.responses = false
coverage.extra-data-sources.responses = false
fuzzing.extra-data-sources.responses = false
fuzzing.error-feedback.enabled = false

# Shapes that the data fill, and tensors of equally many rows, are beyond JSON Schema.
[[operations]]
include-path-regex = "/infer$"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 413]

# The path with the version takes the same body: there only unsound ones, of which there are few elsewhere.
[[operations]]
include-path-regex = "/versions/[0-9a-f]+/infer$"
phases.coverage.enabled = false
phases.fuzzing.generation = { mode = "negative", max-examples = 400 }
"""
HOOK = '''\
"""Ids that differ are beyond JSON Schema, and Schemathesis takes some characters without meaning for marks."""

import schemathesis


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.meta.generation.mode.is_positive and isinstance(case.body, dict):
        seen = set()
        for row in (case.body, *case.body.get("instances", ())):
            text = row.get("id") if isinstance(row, dict) else None
            if text is not None and (text in seen or not text.isprintable()):
                del row["id"]
            seen.add(text)
'''


@pytest.fixture(scope="module")
def server(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in LIMITS.items():
            patch.setenv(name, value)
        folder = tmp_path_factory.mktemp("openapi")
        with running(bundle.path, folder, "--enable_grpc", "false") as started:
            yield started
    assert started.events() == ["predictor started", "predictor stopped"]


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.get(f"{server.url}/openapi.json").raise_for_status().json()
    return answer


def test_the_document_is_sound_openapi_about_the_model_that_is_served(
    document: dict[str, Any], bundle: Bundle
) -> None:
    schemathesis.openapi.from_dict(document).validate()
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate(schema)
    names = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(set(names)) == len(names)
    assert document["info"]["version"] == bundle.version


def test_the_document_has_the_paths_of_the_server_and_no_others(document: dict[str, Any], bundle: Bundle) -> None:
    routes = in_process(FraudModel(bundle.path, Metrics()))._endpoints
    assert document["paths"].keys() == routes.keys() | set(app._KSERVE)


def test_every_operation_answers_its_examples_as_the_document_says(server: Server) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    with requests.Session() as session:
        for result in schema.get_all_operations():
            operation = result.ok()
            content = operation.definition.raw.get("requestBody", {}).get("content", {})
            examples = content.get("application/json", {}).get("examples", {"none": {}})
            for example in examples.values():
                body = {"body": example["value"], "media_type": "application/json"} if example else {}
                response = operation.Case(**body).call_and_validate(base_url=server.url, session=session)
                assert response.status_code == 200, operation.label


def test_every_path_refuses_other_methods_and_answers_head_where_it_answers_get(
    server: Server, document: dict[str, Any]
) -> None:
    with httpx.Client(base_url=server.url) as client:
        for path, operations in document["paths"].items():
            [method] = operations
            refused = client.delete(path)
            assert (refused.status_code, refused.json().keys()) == (405, {"error"})
            assert method.upper() in refused.headers["allow"].split(", ")
            headless = client.head(path)
            assert (headless.status_code, headless.content) == (200 if method == "get" else 405, b"")


@pytest.mark.slow
def test_thousands_of_generated_requests_are_answered_as_the_document_says(server: Server, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    (tmp_path / "ids.py").write_text(HOOK)
    options = ["--checks", "all", "--phases", "examples,coverage,fuzzing", "--max-examples", "250"]
    options += ["--generation-deterministic", "--suppress-health-check", "all", "--no-color"]
    options += ["--report", "json", "--report-json-path", "report.json"]
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["failures"], report["errors"], report["stop_reason"]) == ([], [], "completed")
    assert report["operations"]["tested"] == report["operations"]["total"]
    assert [name for name, found in report["warnings"].items() if found] == []
    assert report["test_cases"]["generated"] >= LEAST_CASES
    for rates in report["valid_rates"].values():
        # A server that refused whatever it was asked would pass as well.
        assert all(rate["accepted"] > rate["rejected"] for rate in rates.values())
