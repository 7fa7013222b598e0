"""A model that is watched: a sealed bundle whose reference and holdout are real, and traffic to hold to it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fraudkit.bundle import Bundle, Origin, seal
from fraudkit.events import ModelPromoted, encode
from fraudkit.schema import INPUTS, FloatArray
from fraudkit.scoring import Scorer
from pipelines.data.synthesize import NO_SHIFT, Shift, synthesize
from pipelines.reference import write_reference

REFERENCE_ROWS = 60_000


def traffic(
    rows: int, seed: int, start: float = 0.0, span: float = 86_400.0, shift: Shift = NO_SHIFT
) -> FloatArray:
    """Inputs [n, 30] in the order of their `Time`."""
    batches = synthesize(rows, seed, start=start, span=span, shift=shift)
    return np.concatenate([np.column_stack([batch[name].to_numpy() for name in INPUTS]) for batch in batches])


def watched_bundle(scorer: Scorer, folder: Path, seed: int = 1) -> Bundle:
    """A bundle in `folder`/bundles."""
    draft = folder / f"draft-{seed}"
    draft.mkdir(parents=True)
    rows = traffic(REFERENCE_ROWS, seed, 0.0, 172_800.0)
    (draft / "scorer.json").write_bytes(scorer.rounded().to_json())
    write_reference(rows, scorer.rounded(), by_time=True, folder=draft / "reference")
    for name in ("model.skops", "metrics.json", "card.md"):
        (draft / name).write_text(f"{name} of a test\n")
    probabilities = scorer.probabilities(rows[:5_000])
    table = pa.table({"probability": probabilities, "label": (np.arange(5_000) % 50 == 0).astype(np.int8)})
    pq.write_table(table, draft / "holdout.parquet")
    origin = Origin(
        run="test", trigger="manual-test", data="none", code="none", libraries={}, created=datetime.now(UTC)
    )
    (folder / "bundles").mkdir(exist_ok=True)
    return seal(draft, folder / "bundles", origin)


def promoted(version: str, time: float, key: str = "bootstrap") -> tuple[dict[str, str], bytes]:
    """The event that binds a detector to a version."""
    data = ModelPromoted(model="fraud", version=version, key=key, by="a test")
    body = encode(data, "/test", datetime.fromtimestamp(time, UTC)).encode()
    return {"content-type": "application/cloudevents+json"}, body
