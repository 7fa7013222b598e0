"""Triton's own clients against a predictor, in a process of their own: their messages have the names of KServe's.

    python triton_clients.py HTTP_HOST:PORT GRPC_HOST:PORT < rows.json

Standard output is JSON: what each way of asking came to, by its name.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http

DTYPES = {"FP64": np.float64, "FP32": np.float32, "INT64": np.int64}
NAMES = ("probability", "label", "alert", "id")


def inputs(library: Any, rows: np.ndarray[Any, Any], datatype: str = "FP64", **options: Any) -> list[Any]:
    transactions = library.InferInput("transactions", list(rows.shape), datatype)
    transactions.set_data_from_numpy(rows.astype(DTYPES[datatype]), **options)
    return [transactions]


def with_ids(library: Any, rows: np.ndarray[Any, Any], **options: Any) -> list[Any]:
    ids = library.InferInput("id", [len(rows)], "BYTES")
    ids.set_data_from_numpy(np.array([f"tx-{row}" for row in range(len(rows))], dtype=object), **options)
    return [*inputs(library, rows, **options), ids]


def columns(library: Any, rows: np.ndarray[Any, Any], **options: Any) -> list[Any]:
    names = ["Time", *(f"V{i}" for i in range(1, 29)), "Amount"]
    tensors = [library.InferInput(name, [len(rows), 1], "FP64") for name in names]
    for tensor, column in zip(tensors, rows.T, strict=True):
        tensor.set_data_from_numpy(column[:, np.newaxis], **options)
    return tensors


def outputs(result: Any) -> dict[str, Any]:
    """The outputs of an answer as lists, and its version."""
    found: dict[str, Any] = {}
    for name in (*NAMES, "reasons"):
        values = result.as_numpy(name)
        if values is not None:
            texts = values.dtype == object
            found[name] = [v.decode() if isinstance(v, bytes) else v for v in values] if texts else values.tolist()
    return found


def over_http(url: str, rows: np.ndarray[Any, Any]) -> Iterator[tuple[str, Any]]:
    library = tritonclient.http
    wanted = [library.InferRequestedOutput(name, binary_data=name != "label") for name in NAMES]
    as_json = [library.InferRequestedOutput(name, binary_data=False) for name in NAMES]
    reasons = [library.InferRequestedOutput("reasons"), library.InferRequestedOutput("probability")]
    with library.InferenceServerClient(url) as client:
        yield "live", client.is_server_live()
        yield "ready", client.is_server_ready()
        yield "model ready", client.is_model_ready("fraud")
        yield "other model ready", client.is_model_ready("other")
        yield "server metadata", client.get_server_metadata()
        metadata = client.get_model_metadata("fraud")
        yield "metadata", metadata
        yield "version ready", client.is_model_ready("fraud", metadata["versions"][0])
        asked: dict[str, dict[str, Any]] = {
            "binary": {"inputs": inputs(library, rows)},
            "FP32": {"inputs": inputs(library, rows, "FP32")},
            "binary, outputs chosen": {"inputs": inputs(library, rows), "outputs": wanted},
            "JSON": {"inputs": inputs(library, rows, binary_data=False), "outputs": as_json},
            "JSON in, binary out": {"inputs": inputs(library, rows, binary_data=False), "outputs": wanted},
            "binary in, JSON out": {"inputs": inputs(library, rows), "outputs": as_json},
            "columns": {"inputs": columns(library, rows)},
            "ids": {"inputs": with_ids(library, rows)},
            "ids as JSON": {"inputs": with_ids(library, rows, binary_data=False)},
            "gzip": {"inputs": inputs(library, rows), "request_compression_algorithm": "gzip"},
            "deflate": {"inputs": inputs(library, rows), "request_compression_algorithm": "deflate"},
            "gzip wanted": {"inputs": inputs(library, rows), "response_compression_algorithm": "gzip"},
            "version": {"inputs": inputs(library, rows), "model_version": metadata["versions"][0]},
            "reasons": {"inputs": inputs(library, rows), "outputs": reasons},
        }
        for name, options in asked.items():
            result = client.infer("fraud", request_id="triton", **options)
            yield name, outputs(result) | {"version": result.get_response()["model_version"]}
        yield "refused", refused(library, client, rows)
        yield "sixty-four at once", at_once(library, url, rows)


def at_once(library: Any, url: str, rows: np.ndarray[Any, Any]) -> list[Any]:
    """What each row comes to that is asked for alone, with eight connections."""
    with library.InferenceServerClient(url, concurrency=8) as client:
        waiting = [client.async_infer("fraud", inputs(library, rows[i : i + 1])) for i in range(len(rows))]
        return [outputs(asked.get_result())["probability"][0] for asked in waiting]


def over_grpc(url: str, rows: np.ndarray[Any, Any]) -> Iterator[tuple[str, Any]]:
    library = tritonclient.grpc
    wanted = [library.InferRequestedOutput(name) for name in ("reasons", "probability")]
    with library.InferenceServerClient(url) as client:
        yield "live", client.is_server_live()
        yield "ready", client.is_server_ready()
        yield "model ready", client.is_model_ready("fraud")
        yield "server metadata", client.get_server_metadata(as_json=True)
        metadata = client.get_model_metadata("fraud", as_json=True)
        yield "metadata", metadata
        yield "version ready", client.is_model_ready("fraud", metadata["versions"][0])
        asked: dict[str, dict[str, Any]] = {
            "raw": {"inputs": inputs(library, rows)},
            "FP32": {"inputs": inputs(library, rows, "FP32")},
            "columns": {"inputs": columns(library, rows)},
            "ids": {"inputs": with_ids(library, rows)},
            "gzip": {"inputs": inputs(library, rows), "compression_algorithm": "gzip"},
            "version": {"inputs": inputs(library, rows), "model_version": metadata["versions"][0]},
            "reasons": {"inputs": inputs(library, rows), "outputs": wanted},
        }
        for name, options in asked.items():
            result = client.infer("fraud", request_id="triton", **options)
            yield name, outputs(result) | {"version": result.get_response().model_version}
        yield "refused", refused(library, client, rows)


def refused(library: Any, client: Any, rows: np.ndarray[Any, Any]) -> list[str]:
    """What the client is told of NaN in row 3."""
    wrong = rows.copy()
    wrong[3, 5] = np.nan
    try:
        client.infer("fraud", inputs(library, wrong))
    except library.InferenceServerException as error:
        return [str(error.status()), error.message()]
    return []


if __name__ == "__main__":
    matrix = np.array(json.load(sys.stdin))
    found = {f"http {name}": value for name, value in over_http(sys.argv[1], matrix)}
    found |= {f"grpc {name}": value for name, value in over_grpc(sys.argv[2], matrix)}
    sys.stdout.write(json.dumps(found))
