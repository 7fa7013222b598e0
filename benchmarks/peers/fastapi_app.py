"""The model in a bare FastAPI app: numpy alone, no checks but pydantic's, no metrics.

    WEIGHTS=weights.npy uvicorn benchmarks.peers.fastapi_app:app

Binary V2 has a path of its own: one path for both would make JSON slower.
"""

from __future__ import annotations

import json
import os
import uuid
from typing import Annotated

import numpy as np
from fastapi import FastAPI, Header, Request, Response
from pydantic import BaseModel

from benchmarks.peers.terms import FloatArray, terms

MODEL = np.load(os.environ["WEIGHTS"])
INTERCEPT, WEIGHTS = MODEL[0], MODEL[1:]

app = FastAPI()


class V1Request(BaseModel):
    """Rows, each a list of thirty numbers."""

    instances: list[list[float]]


class Prediction(BaseModel):
    """The answer to a row."""

    probability: float
    label: int


class V1Response(BaseModel):
    """The answers to the rows, in order."""

    predictions: list[Prediction]


class InputTensor(BaseModel):
    """Rows, one after the other in one list."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class V2Request(BaseModel):
    """One tensor [n, 30]."""

    id: str | None = None
    inputs: list[InputTensor]


class OutputTensor(BaseModel):
    """One output of each row."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float] | list[int]


class V2Response(BaseModel):
    """Both outputs."""

    model_name: str
    id: str
    outputs: list[OutputTensor]


def score(rows: FloatArray) -> FloatArray:
    """Probability [n] of each row."""
    return np.asarray(1 / (1 + np.exp(-(terms(rows) @ WEIGHTS + INTERCEPT))))


@app.get("/v2/health/ready")
async def ready() -> dict[str, bool]:
    """Ready from the start."""
    return {"ready": True}


@app.post("/v1/models/fraud:predict")
async def predict(body: V1Request) -> V1Response:
    """V1."""
    probabilities = score(np.array(body.instances)).tolist()
    return V1Response(predictions=[Prediction(probability=p, label=p >= 0.5) for p in probabilities])


@app.post("/v2/models/fraud/infer")
async def infer(body: V2Request) -> V2Response:
    """V2, JSON."""
    tensor = body.inputs[0]
    probability = score(np.array(tensor.data).reshape(tensor.shape))
    label = (probability >= 0.5).astype(np.int64)
    return V2Response(
        model_name="fraud",
        id=body.id or str(uuid.uuid4()),
        outputs=[
            OutputTensor(name="probability", shape=[len(label)], datatype="FP64", data=probability.tolist()),
            OutputTensor(name="label", shape=[len(label)], datatype="INT64", data=label.tolist()),
        ],
    )


@app.post("/v2/models/fraud/infer-binary")
async def infer_binary(request: Request, inference_header_content_length: Annotated[int, Header()]) -> Response:
    """V2, numbers as bytes behind the JSON, in both directions."""
    body = await request.body()
    document = json.loads(body[:inference_header_content_length])
    rows = np.frombuffer(body, offset=inference_header_content_length).reshape(document["inputs"][0]["shape"])
    probability = score(rows)
    label = (probability >= 0.5).astype(np.int64)
    outputs = [
        {
            "name": name,
            "shape": [len(rows)],
            "datatype": datatype,
            "parameters": {"binary_data_size": 8 * len(rows)},
        }
        for name, datatype in (("probability", "FP64"), ("label", "INT64"))
    ]
    answer = {"model_name": "fraud", "id": document.get("id") or str(uuid.uuid4()), "outputs": outputs}
    head = json.dumps(answer).encode()
    return Response(
        head + probability.tobytes() + label.tobytes(),
        media_type="application/octet-stream",
        headers={"Inference-Header-Content-Length": str(len(head))},
    )
