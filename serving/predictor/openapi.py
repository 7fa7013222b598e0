"""The predictor's OpenAPI document: what a client may send, and what it gets back.

A schema here is as exact as JSON Schema can be; what it has no words for (data that fill their shape, rows with
different ids) a description says.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from fraudkit.schema import INPUTS, LIMIT, NONNEGATIVE
from fraudkit.scoring import ALERTS
from fraudkit.settings import ServingSettings
from serving.predictor.request import MAX_ID, OUTPUTS
from serving.predictor.tensors import DTYPES

Schema = dict[str, Any]

_ABOUT: Final = """\
KServe's protocols V1 and V2 (Open Inference Protocol) for a model that scores card transactions.

A transaction is thirty numbers: `Time` in seconds, `V1` … `V28` and `Amount`. They are taken as written, in double
precision; null, NaN, text and booleans are refused. A body has at most {bytes:,} bytes, also once it is inflated
(`Content-Encoding: gzip` or `deflate`), and must arrive within {seconds:g} s. Members of a request that are not
named here are ignored.

Every answer names the model's version in `X-Model-Version`; one that is not a 200 is `{{"error": "what is
wrong"}}`. `HEAD` works wherever `GET` does."""
_ROWS: Final = """\
Transactions are lists in the order of the inputs, or objects by name, which may have an `id`. No two rows may have
the same id."""
_TENSORS: Final = """\
One tensor `[n, 30]` of any name, its columns in the order of the inputs, or thirty tensors `[n]` or `[n, 1]` named
like the inputs; if wanted a BYTES tensor `id` `[n]`, no two the same. The order of the tensors does not matter.
`data` fill the `shape`, row by row in one list or in one list per row. `reasons` are JSON, one text per row, and
bound a request to {explained:,} rows.

With the binary tensor data extension the body is `application/octet-stream`: JSON, whose length the header
`Inference-Header-Content-Length` gives, then the bytes of the tensors that have a `binary_data_size` among their
parameters in place of `data`. Outputs with the parameter `binary_data` are answered likewise."""
_ERRORS: Final = {
    "400": "The content is wrong; the text names row and field.",
    "404": "There is no such model or version here.",
    "405": "The path takes another method; `Allow` says which.",
    "408": "The body did not arrive in time.",
    "413": "More rows or bytes than fit in one request.",
    "415": "Another media type or encoding than those that are read.",
    "503": "The model is not ready, or too many large requests are at work.",
}
_READS: Final = ("400", "408", "413", "415", "503")
"""The errors of an operation that reads a body."""
_WIDTH: Final = len(INPUTS)
_ROW: Final = [3600.0, *((7 * i % 11 - 5) / 4 for i in range(28)), 12.5]
_NAMED: Final = dict(zip(INPUTS, _ROW, strict=True))
_TEXT: Final = {"type": "string", "minLength": 1}


def document(name: str, version: str, limits: ServingSettings) -> Schema:
    """The OpenAPI 3.1 document of a server of the model `name` in `version` that keeps to `limits`."""
    v1, v2 = f"/v1/models/{name}", f"/v2/models/{name}"
    paths = {
        f"{v1}:predict": _rows("predict", "Score transactions", "Prediction", limits.max_rows),
        f"{v1}:explain": _rows("explain", "Score transactions, with reasons", "Explanation", limits.max_explained),
        "/": _get("alive", "Is the server alive?", "Alive"),
        "/v1/models": _get("modelsV1", "The models of this server", "Models"),
        v1: _get("readyV1", "Is the model ready?", "Ready", "503"),
        "/v2": _get("server", "The server and its extensions of the protocol", "Server"),
        "/v2/health/live": _get("live", "Is the server alive?", "Live"),
        "/v2/health/ready": _get("ready", "Is the server ready, with a verified model?", "Ready", "503"),
        "/v2/models": _get("models", "The models of this server", "Models"),
        "/metrics": _get("metrics", "Metrics, as Prometheus reads them", "Metrics"),
        "/openapi.json": _get("document", "This document", "Document"),
    }
    versioned = f"{v2}/versions/{version}"
    for path, suffix, of, extra in ((v2, "", "the model", ()), (versioned, "Version", "this version", ("404",))):
        paths |= {
            path: _get(f"metadata{suffix}", f"Inputs and outputs of {of}", "Metadata", *extra),
            f"{path}/ready": _get(f"readyModel{suffix}", f"Is {of} ready?", "Ready", "503", *extra),
            f"{path}/infer": _tensors(f"infer{suffix}", f"Score tensors by {of}", limits.max_explained, *extra),
        }
    headers = {"X-Model-Version": _ref("Version"), "Allow": {"type": "string", "examples": ["POST"]}}
    about = _ABOUT.format(bytes=limits.max_bytes, seconds=limits.read_seconds)
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Predictor of the model {name}", "version": version, "description": about},
        "paths": paths,
        "components": {
            "headers": {key: {"required": True, "schema": schema} for key, schema in headers.items()},
            "responses": {status: _answer("Error", status) for status in _ERRORS},
            "schemas": _server_schemas(name, version)
            | _row_schemas(limits)
            | _tensor_schemas(name, limits.max_rows),
        },
    }


def _rows(verb: str, summary: str, row: str, most: int) -> Schema:
    """A path of V1 that takes rows."""
    body = _open({"instances": _list(_ref("Transaction"), 1, most), "id": _ref("RequestId")}, "instances")
    examples = {
        "lists": {"instances": [_ROW, _ROW]},
        "objects": {"instances": [_NAMED | {"id": "tx-1"}], "id": "batch-1"},
    }
    return _post(_operation("V1", verb, summary, f"{row}s", *_READS), _ROWS, body, examples)


def _tensors(name: str, summary: str, explained: int, *statuses: str) -> Schema:
    """A path of V2 that takes tensors."""
    matrix = {"name": "transactions", "shape": [2, _WIDTH], "datatype": "FP64", "data": [_ROW, _ROW]}
    ids = {"name": "id", "shape": [2], "datatype": "BYTES", "data": ["tx-1", "tx-2"]}
    columns = [{"name": key, "shape": [1], "datatype": "FP64", "data": [value]} for key, value in _NAMED.items()]
    examples = {
        "matrix": {"inputs": [matrix]},
        "reasons": {"inputs": [matrix, ids], "outputs": [{"name": "id"}, {"name": "reasons"}]},
        "columns": {"inputs": columns, "id": "batch-1"},
    }
    operation = _operation("V2", name, summary, "InferAnswer", *_READS, *statuses)
    operation["responses"]["200"]["content"]["application/octet-stream"] = {}
    return _post(operation, _TENSORS.format(explained=explained), _ref("InferRequest"), examples)


def _get(name: str, summary: str, answer: str, *statuses: str) -> Schema:
    return {"get": _operation("server", name, summary, answer, *statuses)}


def _post(operation: Schema, description: str, body: Schema, examples: Schema) -> Schema:
    content = {"schema": body, "examples": {name: {"value": value} for name, value in examples.items()}}
    ce_id = {
        "name": "Ce-Id",
        "in": "header",
        "description": "The request's id, which goes before the one in the body; UTF-8.",
        "schema": {"type": "string", "maxLength": MAX_ID, "pattern": "^[ -~]*$"},
        "example": "event-7",
    }
    request = {"required": True, "content": {"application/json": content}}
    return {"post": operation | {"description": description, "parameters": [ce_id], "requestBody": request}}


def _operation(tag: str, name: str, summary: str, answer: str, *statuses: str) -> Schema:
    errors = {status: _ref(status, "responses") for status in sorted({"405", *statuses})}
    return {
        "tags": [tag],
        "operationId": name,
        "summary": summary,
        "responses": {"200": _answer(answer, "200"), **errors},
    }


def _answer(schema: str, status: str) -> Schema:
    headers = ("X-Model-Version", "Allow") if status == "405" else ("X-Model-Version",)
    return {
        "description": _ERRORS.get(status, "What was asked for."),
        "headers": {name: _ref(name, "headers") for name in headers},
        "content": {"text/plain" if schema == "Metrics" else "application/json": {"schema": _ref(schema)}},
    }


def _ref(name: str, kind: str = "schemas") -> Schema:
    return {"$ref": f"#/components/{kind}/{name}"}


def _closed(properties: Schema, *optional: str) -> Schema:
    """An object with these properties alone."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _open(properties: Schema, *required: str) -> Schema:
    """An object with these properties, and others that are ignored."""
    return {"type": "object", "properties": properties, "required": list(required)}


def _parameters(**types: str | list[str]) -> Schema:
    """The parameters of a V2 request, tensor or output; others are ignored."""
    return {"type": ["object", "null"], "properties": {name: {"type": type_} for name, type_ in types.items()}}


def _list(items: Schema, least: int, most: int) -> Schema:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def _tuple(*items: Schema, least: int | None = None) -> Schema:
    """A list of these items, of which those after the first `least` may be left out."""
    least = len(items) if least is None else least
    return {"type": "array", "prefixItems": list(items), "minItems": least, "maxItems": len(items)}


def _number(least: float = -LIMIT, most: float = LIMIT, kind: str = "number") -> Schema:
    return {"type": kind, "minimum": least, "maximum": most}


def _one_of(*values: object, **more: object) -> Schema:
    return {"enum": list(values), **more}


def _server_schemas(name: str, version: str) -> Schema:
    shape = {"type": "array", "items": {"type": "integer"}}
    tensors = {"type": "array", "items": _closed({"name": _TEXT, "datatype": _TEXT, "shape": shape})}
    metadata = {"versions": _list(_ref("Version"), 1, 1), "platform": _TEXT, "inputs": tensors, "outputs": tensors}
    return {
        "Version": {"type": "string", "pattern": "^[0-9a-f]{12}$", "examples": [version]},
        "Error": _closed({"error": _TEXT}),
        "Alive": _closed({"status": {"const": "alive"}}),
        "Live": _closed({"live": {"const": True}}),
        "Ready": _closed({"name": {"const": name}, "ready": {"const": True}, "model_version": _ref("Version")}),
        "Models": _closed({"models": _list({"const": name}, 1, 1)}),
        "Server": _closed({"name": _TEXT, "version": _TEXT, "extensions": {"type": "array", "items": _TEXT}}),
        "Metadata": _closed({"name": {"const": name}, **metadata}),
        "Metrics": _TEXT,
        "Document": _open({"openapi": {"const": "3.1.0"}}, "openapi", "info", "paths", "components"),
    }


def _row_schemas(limits: ServingSettings) -> Schema:
    # What str.isprintable takes: letters, marks, numbers, punctuation, symbols, and of all spaces this one.
    text = {"type": "string", "maxLength": MAX_ID, "pattern": r"^[ \p{L}\p{M}\p{N}\p{P}\p{S}]*$"}
    inputs = {name: _number(0 if name in NONNEGATIVE else -LIMIT) for name in INPUTS}
    prediction = {
        "id": _TEXT | {"description": "The row's own, else the request's, `-` and the row's index."},
        "probability": _number(0, 1) | {"description": "Of fraud, at the natural rate."},
        "label": _one_of(0, 1, description="1 from the threshold `review` on."),
        "alert": _one_of(*ALERTS),
    }
    number = {"type": "number"}
    reason = {"feature": _one_of(*INPUTS), "contribution": number, "value": number, "typical": number}
    schemas = {
        "RowId": text | {"minLength": 1, "description": "Printable characters."},
        "RequestId": text
        | {"type": ["string", "null"], "description": "Printable characters; else a fresh UUID."},
        "Row": _tuple(*inputs.values()) | {"description": ", ".join(INPUTS)},
        "Transaction": {"anyOf": [_ref("Row"), _closed(inputs | {"id": _ref("RowId")}, "id")]},
        "Reason": _closed(reason)
        | {"description": "What an input adds to the log odds, against its typical value."},
        "Prediction": _closed(prediction),
        "Explanation": _closed(prediction | {"reasons": _list(_ref("Reason"), _WIDTH, _WIDTH)}),
    }
    for row, most in (("Prediction", limits.max_rows), ("Explanation", limits.max_explained)):
        answer = {"predictions": _list(_ref(row), 1, most), "model_version": _ref("Version")}
        schemas[f"{row}s"] = _closed(answer)
    return schemas


def _tensor_schemas(name: str, most: int) -> Schema:
    values = {"probability": _number(0, 1), "label": _one_of(0, 1), "alert": _one_of(*ALERTS)}
    outputs = []
    for output, datatype in OUTPUTS.items():
        shape, data = _tuple(_number(1, most, "integer")), _list(values.get(output, _TEXT), 1, most)
        tensor = {"name": {"const": output}, "datatype": {"const": datatype}, "shape": shape, "data": data}
        outputs.append(_closed(tensor))
    parameters = _parameters(binary_data=["boolean", "null"], classification="null", shared_memory_region="null")
    wanted = _list(_open({"name": _one_of(*OUTPUTS), "parameters": parameters}, "name"), 0, len(OUTPUTS))
    request = {
        "inputs": {"anyOf": [_ref("TensorsOfOne"), _ref("TensorsOfMany")]},
        "outputs": wanted | {"type": ["array", "null"], "description": "When left out, all but `reasons`."},
        "id": _ref("RequestId"),
        "parameters": _parameters(binary_data_output="boolean"),
    }
    answer = {"model_name": {"const": name}, "model_version": _ref("Version"), "id": _TEXT}
    integers = [_integers(datatype) for datatype in DTYPES if "INT" in datatype]
    return {
        "InferRequest": _open(request, "inputs"),
        "InferAnswer": _closed(answer | {"outputs": _list({"anyOf": outputs}, 1, len(OUTPUTS))}),
        "Integers": {"description": "Data of an integer type are integers in its range.", "allOf": integers},
        **_input_schemas("One", 1, 1),
        **_input_schemas("Many", 2, most),
    }


def _integers(datatype: str) -> Schema:
    bounds = np.iinfo(DTYPES[datatype])
    value = {"type": ["integer", "array"], "minimum": int(bounds.min), "maximum": int(bounds.max)}
    data = {"items": value | {"items": value | {"type": "integer"}}}
    return {"if": _open({"datatype": {"const": datatype}}), "then": {"properties": {"data": data}}}


def _input_schemas(count: str, least: int, most: int) -> Schema:
    """The input tensors of `least` to `most` rows. Of one row they are exact, whence two sets of schemas."""
    rows = _number(least, most, "integer")

    def tensor(name: Schema, types: list[str], shapes: list[Schema], data: list[Schema]) -> Schema:
        required = {"name": name, "shape": {"anyOf": shapes}, "datatype": _one_of(*types), "data": {"anyOf": data}}
        parameters = _parameters(binary_data_size="null", shared_memory_region="null")
        return _open(required | {"parameters": parameters}, *required)

    def column(types: list[str], value: Schema) -> Schema:
        data = [_list(value, least, most), _list(_tuple(value), least, most)]
        return tensor({"type": "string"}, types, [_tuple(rows), _tuple(rows, {"const": 1})], data)

    def named(kind: str, name: str, **data: Any) -> Schema:
        return _ref(f"{kind}Of{count}") | {"properties": {"name": {"const": name}, "data": data}}

    free = _TEXT | {"maxLength": MAX_ID, "not": _one_of("id", *INPUTS)}
    flat = _ref("Row") if most == 1 else _list(_number(), least * _WIDTH, most * _WIDTH)
    least_of = {name: {"minimum": 0} if name in NONNEGATIVE else {} for name in INPUTS}
    columns = [named("Column", name, items=least | {"items": least}) for name, least in least_of.items()]
    ids = named("Ids", "id", uniqueItems=True)
    matrix = tensor(free, list(DTYPES), [_tuple(rows, {"const": _WIDTH})], [flat, _list(_ref("Row"), least, most)])
    return {
        f"TensorsOf{count}": {
            "anyOf": [_tuple(_ref(f"MatrixOf{count}"), ids, least=1), _tuple(*columns, ids, least=_WIDTH)]
        },
        f"MatrixOf{count}": matrix | _ref("Integers"),
        f"ColumnOf{count}": column(list(DTYPES), _number()) | _ref("Integers"),
        f"IdsOf{count}": column(["BYTES"], _ref("RowId")),
    }
