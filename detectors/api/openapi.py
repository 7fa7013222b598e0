"""The detector's API as OpenAPI 3.1, at `/openapi.json`."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from detectors.records import DriftRecord, HistoryRecord, WindowEvidence
from fraudkit.api import document, only
from fraudkit.settings import MODEL_NAME

_DRIFT: Final = f"/v1/models/{MODEL_NAME}/drift"
_RECORDS: Final = (DriftRecord, HistoryRecord, WindowEvidence)
_TIME: Final = {"oneOf": [{"type": "string", "format": "date-time"}, {"type": "number"}]}
_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 1, "maximum": 1000}
_ALERT: Final = {"type": "string", "enum": ["any", "normal", "review", "block"]}
_ERROR: Final = {"type": "object", "properties": {"error": _TEXT}, "required": ["error"]}
_LABEL: Final = {
    "type": "object",
    "properties": {
        "id": _TEXT,
        "label": {"type": "integer", "enum": [0, 1]},
        "source": _TEXT,
        "by": _TEXT,
        "at": _TIME,
    },
    "required": ["id", "label"],
}


@cache
def description() -> dict[str, Any]:
    """The document."""
    _, definitions = models_json_schema(
        [(record, "serialization") for record in _RECORDS], ref_template="#/components/schemas/{model}"
    )
    paths = {
        "/": {"post": _event()},
        _DRIFT: {"get": _get("What live traffic looks like now.", "DriftRecord")},
        f"{_DRIFT}/history": {
            "get": _get(
                "Windows, events and decisions, newest first.",
                "HistoryRecord",
                version=_TEXT,
                since=_TIME,
                until=_TIME,
                limit=_COUNT,
            )
        },
        "/v1/windows/{id}": {"get": _get("A window with its evidence.", "WindowEvidence", "id")},
        "/v1/transactions": {
            "get": _get(
                "Transactions, newest first, with reasons.",
                None,
                id=_TEXT,
                version=_TEXT,
                since=_TIME,
                until=_TIME,
                alert=_ALERT,
                cursor=_TEXT,
                limit=_COUNT,
            )
        },
        "/v1/review": {
            "get": _get(
                "The sample without alert and label that is to be reviewed.", None, cursor=_TEXT, limit=_COUNT
            )
        },
        "/v1/labels": {"post": _labels()},
        "/v1/labelled": {"get": _parquet("Transactions whose outcome has matured.", since=_TIME, as_of=_TIME)},
        "/v1/logged": {"get": _parquet("What was asked and answered.", version=_TEXT, since=_TIME, until=_TIME)},
        f"/v1/models/{MODEL_NAME}/versions/{{version}}/evidence": {
            "get": _get(
                "What a version has answered; without what labels say where `labelled` is `no`.",
                None,
                "version",
                since=_TIME,
                until=_TIME,
                labelled={"type": "string", "enum": ["no"]},
            )
        },
        "/health": {"get": _get("Ready as soon as events are taken.", None)},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Fraud platform: detector", "version": "1"},
        "paths": paths,
        "components": {"schemas": definitions["$defs"] | {"Error": _ERROR, "Label": _LABEL}},
    }


def routes() -> list[Route]:
    """Where it is to be had."""

    def answer(request: Request) -> Response:
        only(request)
        return document(description())

    return [Route("/openapi.json", answer)]


def _get(summary: str, record: str | None, path: str | None = None, **query: object) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{record}"} if record else {"type": "object"}
    parameters = [{"name": name, "in": "query", "schema": kind} for name, kind in query.items()]
    if path:
        parameters.append({"name": path, "in": "path", "required": True, "schema": _TEXT})
    responses = {"200": {"description": "Done.", "content": {"application/json": {"schema": schema}}}, **_errors()}
    return {"summary": summary, "parameters": parameters, "responses": responses}


def _event() -> dict[str, Any]:
    numbers = {
        name: {"schema": {"type": "integer" if name.endswith("seq") else "string"}, "description": said}
        for name, said in (
            ("intake-seq", "Number of the event in this process; missing when it was dropped."),
            ("durable-seq", "Up to this number all events survive anything."),
            ("intake-replica", "The process whose numbers these are."),
            ("intake-dropped", "Why the event was not taken."),
        )
    }
    return {
        "summary": "A CloudEvent in binary or structured mode: of KServe's payload logger, or a promotion.",
        "requestBody": {"content": {"*/*": {"schema": {}}}},
        "responses": {
            "200": {"description": "Taken, or dropped; without a body.", "headers": numbers},
            **_errors(),
        },
    }


def _labels() -> dict[str, Any]:
    label = {"$ref": "#/components/schemas/Label"}
    several = {"type": "array", "items": label}
    named = {"type": "object", "properties": {"labels": several}, "required": ["labels"]}
    body = {"anyOf": [label, several, named]}
    content = {"application/json": {"schema": body}, "text/csv": {"schema": _TEXT}}
    return {
        "summary": "Outcomes of transactions: late, repeated or corrected.",
        "requestBody": {"required": True, "content": content},
        "responses": {
            "200": {
                "description": "What became of them.",
                "content": {"application/json": {"schema": {"type": "object"}}},
            },
            "413": {"description": "Too many labels, or too many bytes; send them in several requests."},
            **_errors(),
        },
    }


def _parquet(summary: str, **schemas: dict[str, Any]) -> dict[str, Any]:
    parameters = [{"name": name, "in": "query", "schema": schema} for name, schema in schemas.items()]
    content = {"application/vnd.apache.parquet": {"schema": {"type": "string", "format": "binary"}}}
    responses = {"200": {"description": "Parquet.", "content": content}, **_errors()}
    return {"summary": summary, "parameters": parameters, "responses": responses}


def _errors() -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        "400": {"description": "A mistake, which is named.", "content": content},
        "503": {"description": "The database is away; try again.", "content": content},
    }
