"""Score one transaction: typed or pasted, with an answer that says why."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from fraudkit.bundle import Bundle
from fraudkit.errors import FraudError, InvalidInput, InvalidRows
from fraudkit.schema import COMPONENTS, INPUTS, check_rows
from fraudkit.scoring import TERMS, Scorer
from fraudkit.settings import MODEL_NAME
from serving.console import charts
from serving.console.comparing import sealed
from serving.console.context import Console
from serving.console.form import fields_of
from serving.console.page import page
from serving.console.peers import PeerError, attempt
from serving.console.records import Read, ServingRecord

SHOWN: Final = 12
"""Reasons that are drawn; all are in the answer."""
EXAMPLES: Final = ("normal", "borderline", "fraud")


class ReasonRecord(Read):
    """What an input adds to the log odds."""

    feature: str
    contribution: float
    value: float
    typical: float


class PredictionRecord(Read):
    """An answer of `:explain`."""

    probability: float
    label: int
    alert: str
    reasons: tuple[ReasonRecord, ...]


class _Predictions(Read):
    predictions: tuple[PredictionRecord, ...]


@dataclass(frozen=True, slots=True)
class Scored:
    """An answer as it is shown."""

    prediction: PredictionRecord
    version: str
    server: str
    scale: str
    reasons: str
    curl: str


def routes(console: Console) -> Sequence[BaseRoute]:
    """The routes."""

    async def show(request: Request) -> Response:
        wanted = request.query_params.get("example")
        values: Mapping[str, str] = {}
        problem = ""
        if wanted in EXAMPLES:
            try:
                values = await _example(console, wanted)
            except (FraudError, PeerError) as error:
                problem = f"there is no example yet: {error}"
        return page(request, "score.html", values=values, mistakes={}, problem=problem, line="", scored=None)

    async def score(request: Request) -> Response:
        given = await fields_of(request)
        pasted = given.get("line", "").strip()
        values: Mapping[str, str] = {name: given.get(name, "") for name in INPUTS}
        mistakes: dict[str, str] = {}
        scored, problem = None, ""
        try:
            if pasted:
                values = read_line(pasted)
            numbers = checked(values)
            scored = await explained(console, numbers)
        except InvalidRows as error:
            mistakes = {violation.column or "line": violation.problem for violation in error.violations}
            problem = "some fields are not right"
        except (FraudError, PeerError) as error:
            problem = str(error)
        shown = {"values": values, "mistakes": mistakes, "problem": problem, "line": "", "scored": scored}
        return page(request, "score.html", 422 if problem else 200, **shown)

    return [Route("/score", show), Route("/score", score, methods=["POST"])]


def read_line(pasted: str) -> dict[str, str]:
    """The inputs of a pasted line: a JSON object or list, or CSV in the order of inputs, below a header or not.

    Raises:
        InvalidInput: It is neither.
    """
    if pasted.startswith(("{", "[")):
        return _read_json(pasted)
    rows = [row for row in csv.reader(pasted.splitlines()) if row]
    names: Sequence[str] = INPUTS
    if len(rows) == 2:
        names, rows = [name.strip() for name in rows[0]], rows[1:]
    if len(rows) != 1:
        raise InvalidInput("paste one transaction: a JSON object, or one line of CSV, below a header or not")
    values = dict(zip(names, (cell.strip() for cell in rows[0]), strict=False))
    if len(rows[0]) not in (len(names), len(names) + 1):
        raise InvalidInput(f"the line has {len(rows[0])} values; {len(names)} are needed: {', '.join(names)}")
    return {name: values.get(name, "") for name in INPUTS}


def checked(values: Mapping[str, str]) -> dict[str, float]:
    """The inputs as numbers.

    Raises:
        InvalidRows: Naming each field that is wrong.
    """
    from fraudkit.errors import Violation

    numbers, wrong = {}, []
    for name in INPUTS:
        try:
            numbers[name] = float(values[name])
        except ValueError:
            said = "is not a number" if values[name].strip() else "is needed"
            wrong.append(Violation(said, column=name))
    if wrong:
        raise InvalidRows(wrong)
    check_rows(np.array([[numbers[name] for name in INPUTS]]))
    return numbers


def example(scorer: Scorer, wanted: str) -> dict[str, str]:
    """A made-up transaction: the typical one, moved as little as leads to the wanted probability."""
    row = np.array(scorer.typical)
    row[0], row[-1] = 50_000.0, 88.5
    if wanted != "normal":
        review, block = scorer.thresholds.review, scorer.thresholds.block
        target = (review * block) ** 0.5 if wanted == "borderline" else 1.0 - (1.0 - block) / 10.0
        weights = np.array([scorer.weights[TERMS.index(name)] for name in COMPONENTS])
        missing = np.log(target / (1.0 - target)) - scorer.logits(row[None, :])[0]
        row[1:29] += weights * missing / (weights @ weights)
    return {name: f"{value:.4f}".rstrip("0").rstrip(".") for name, value in zip(INPUTS, row.tolist(), strict=True)}


async def _example(console: Console, wanted: str) -> Mapping[str, str]:
    return example((await _champion(console)).scorer, wanted)


async def _champion(console: Console) -> Bundle:
    serving = await console.peers.controller.get("/v1/models", ServingRecord)
    if serving.champion is None:
        raise InvalidInput("no model serves")
    return await run_in_threadpool(sealed, console.bundles, serving.champion)


async def explained(console: Console, numbers: Mapping[str, float | str]) -> Scored:
    """What the model says of one transaction, by the names of its inputs, and its `id` where it has one."""
    body = json.dumps({"instances": [numbers]})
    path = f"/v1/models/{MODEL_NAME}:explain"
    headers = {"content-type": "application/json"}
    answer = await console.peers.model.send("POST", path, content=body, headers=headers)
    (prediction,) = console.peers.model.read(answer, _Predictions).predictions
    version = answer.headers.get("x-model-version", "unknown")
    serving = await attempt(console.peers.controller.get("/v1/models", ServingRecord))
    thresholds = (await run_in_threadpool(sealed, console.bundles, version)).scorer.thresholds
    reasons = sorted(prediction.reasons, key=lambda one: -abs(one.contribution))[:SHOWN]
    bars = [
        charts.Bar(one.feature, one.contribution, f"{_brief(one.value)} (typical {_brief(one.typical)})")
        for one in reasons
    ]
    return Scored(
        prediction=prediction,
        version=version,
        server=_server(version, serving),
        scale=charts.scale(prediction.probability, thresholds.review, thresholds.block),
        reasons=charts.bars(bars, "What each input adds to the log odds, the most first"),
        curl=f"curl -s {console.peers.model.url}{path} -d {shlex.quote(body)}",
    )


def _brief(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000.0 else f"{value:.4g}"


def _server(version: str, serving: ServingRecord | PeerError) -> str:
    if isinstance(serving, PeerError):
        return "whether stable or canary is not known"
    return {serving.champion: "stable", serving.challenger: "canary"}.get(
        version, "a version that serves no longer"
    )


def _read_json(pasted: str) -> dict[str, str]:
    try:
        found: Any = json.loads(pasted)
    except ValueError as error:
        raise InvalidInput(f"the line is not JSON: {error}") from error
    if isinstance(found, dict) and "instances" in found:
        found = found["instances"]
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    if isinstance(found, list) and len(found) == len(INPUTS):
        found = dict(zip(INPUTS, found, strict=True))
    if not isinstance(found, dict):
        raise InvalidInput("paste one transaction: an object with the inputs by name, or a list of all of them")
    return {name: "" if found.get(name) is None else str(found[name]) for name in INPUTS}
