"""Events as the detector stores them, and as KServe's logger posts them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import blake2b

import numpy as np
import orjson

from detectors.events import REQUEST, RESPONSE, LoggedRequest, LoggedResponse
from fraudkit.schema import INPUTS, FloatArray

HOUR = 1_763_996_400.0
"""A full hour [s, UTC]."""


def rows_of(count: int, seed: int = 0, hour: int = 0) -> FloatArray:
    random = np.random.default_rng(seed)
    rows = random.normal(0, 1, (count, len(INPUTS)))
    rows[:, 0] = hour * 3_600 + random.uniform(0, 3_600, count)
    rows[:, -1] = random.lognormal(3, 1, count)
    return rows


def request(
    name: str, time: float, rows: FloatArray | None = None, row_ids: tuple[str, ...] | None = None
) -> LoggedRequest:
    content = rows_of(1, seed=len(name)) if rows is None else rows
    digest = blake2b(content.tobytes(), digest_size=8).digest()
    return LoggedRequest(name, time, "fraud", content, row_ids, digest)


def answer(
    name: str,
    time: float,
    probabilities: Sequence[float] = (0.01,),
    alerts: Sequence[int] = (0,),
    version: str = "0123456789ab",
    row_ids: tuple[str, ...] | None = None,
) -> LoggedResponse:
    ids = row_ids or tuple(f"{name}-{row}" for row in range(len(probabilities)))
    levels = np.array(alerts, dtype=np.int8)
    return LoggedResponse(name, time, "fraud", version, np.array(probabilities), levels, ids)


def frame(kind: str, name: str, time: float, **changes: str) -> dict[str, str]:
    """The headers of an event in binary mode."""
    headers = {
        "content-type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": name,
        "ce-type": kind,
        "ce-time": datetime.fromtimestamp(time, UTC).isoformat(),
        "ce-source": "http://localhost:9081/",
        "ce-endpoint": "",
        "ce-inferenceservicename": "fraud",
        "ce-namespace": "default",
    }
    return headers | changes


def posted_request(name: str, time: float, rows: FloatArray) -> tuple[dict[str, str], bytes]:
    return frame(REQUEST, name, time), orjson.dumps({"instances": rows.tolist()})


def posted_answer(
    name: str, time: float, probabilities: Sequence[float], version: str = "0123456789ab"
) -> tuple[dict[str, str], bytes]:
    predictions = [
        {"id": f"{name}-{row}", "probability": value, "label": int(value >= 0.5), "alert": "normal"}
        for row, value in enumerate(probabilities)
    ]
    return frame(RESPONSE, name, time), orjson.dumps({"predictions": predictions, "model_version": version})
