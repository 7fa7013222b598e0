"""A KServe predictor as KServe's documentation teaches it, around a scikit-learn pipeline.

KServe 0.20 runs on asyncio's own loop whatever `--event-loop` says; on uvloop it takes as much CPU time.
"""

from __future__ import annotations

import argparse
from typing import Any

import joblib
import kserve
import numpy as np
from kserve import InferOutput, InferRequest, InferResponse
from kserve.utils.utils import generate_uuid

from benchmarks.peers.terms import terms


class Fraud(kserve.Model):  # type: ignore[misc]  # KServe has no types
    """Probability and label of each row."""

    def __init__(self, name: str, path: str) -> None:
        super().__init__(name)
        self.path = path
        self.load()

    def load(self) -> bool:
        """Read the fitted pipeline."""
        self.pipeline = joblib.load(self.path)
        self.ready = True
        return self.ready

    def predict(
        self,
        payload: dict[str, Any] | InferRequest,
        headers: dict[str, str] | None = None,  # noqa: ARG002  # KServe gives them
    ) -> dict[str, Any] | InferResponse:
        """Answer in the protocol of the request."""
        if isinstance(payload, InferRequest):
            rows = payload.inputs[0].as_numpy()
        else:
            rows = np.array(payload["instances"], dtype=np.float64)
        probability = self.pipeline.predict_proba(terms(rows))[:, 1]
        label = (probability >= 0.5).astype(np.int64)
        if not isinstance(payload, InferRequest):
            pairs = zip(probability.tolist(), label.tolist(), strict=True)
            return {"predictions": [{"probability": p, "label": called} for p, called in pairs]}
        return InferResponse(
            response_id=payload.id or generate_uuid(),
            model_name=self.name,
            infer_outputs=[
                InferOutput("probability", list(probability.shape), "FP64", probability),
                InferOutput("label", list(label.shape), "INT64", label),
            ],
            use_binary_outputs=payload.use_binary_outputs,
            requested_outputs=payload.request_outputs,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[kserve.model_server.parser])
    parser.add_argument("--model_dir", required=True)
    options = parser.parse_args()
    kserve.ModelServer().start([Fraud(options.model_name, options.model_dir)])
