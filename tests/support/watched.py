"""A model that is watched: a sealed bundle whose reference and holdout are real, and traffic to hold to it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from log_events import HOUR, request
from sqlalchemy import select

from detectors.evaluation import Evaluator
from detectors.records import HistoryRecord
from detectors.store.database import Database
from detectors.store.labels import LabelStore
from detectors.store.log import Binding, Entry, RequestLog
from detectors.store.tables import EVENTS, WINDOWS
from detectors.store.verdicts import Span, VerdictStore
from detectors.store.windows import WindowStore
from fraudkit.bundle import Bundle, Origin, seal
from fraudkit.events import ModelPromoted, encode
from fraudkit.schema import INPUTS, FloatArray
from fraudkit.scoring import Scorer
from fraudkit.settings import Settings, load_settings
from pipelines.data.synthesize import NO_SHIFT, Shift, synthesize
from pipelines.reference import write_reference

REFERENCE_ROWS = 60_000
START = HOUR - HOUR % 86_400
"""A midnight [s, UTC]."""


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


def settings_of(watched: Bundle, **sections: Any) -> Settings:
    detector = {"engine": "scipy", "idle_seconds": 1e9, **sections.pop("detector", {})}
    return load_settings(bundles=watched.path.parent, detector=detector, **sections)


def events_of(rows: FloatArray, name: str = "r", each: int = 5, shift: float = 0.0) -> list[Entry]:
    """Requests of `each` rows, logged at their `Time` of the day that begins at START."""
    return [
        request(f"{name}{first}", START + shift + rows[first, 0], rows[first : first + each])
        for first in range(0, len(rows), each)
    ]


def bind(version: str, time: float = START - 60, key: str = "one") -> Binding:
    return Binding(f"promoted-{key}", version, time)


class Detector:
    """The store and the evaluator on it."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database = database
        self.settings = settings
        self.log = RequestLog(database, settings.detector.bucket_seconds, "replica")

    def store(self, events: list[Entry]) -> None:
        for start in range(0, len(events), 500):
            self.log.store(events[start : start + 500], START)

    def evaluator(self) -> Evaluator:
        return Evaluator(WindowStore(self.database), LabelStore(self.database), self.settings, lambda: START)

    def run(self, restart: bool = False) -> None:
        evaluator = self.evaluator()
        while evaluator.advance():
            if restart:
                evaluator = self.evaluator()

    def history(self) -> HistoryRecord:
        return VerdictStore(self.database).history(Span(limit=1_000))

    def written(self) -> tuple[list[Any], list[Any]]:
        """All that was written of windows and events, but for when."""
        with self.database.read() as connection:
            columns = [column for column in WINDOWS.c if column.name != "evaluated"]
            windows = connection.execute(select(*columns).order_by(WINDOWS.c.id)).all()
            events = connection.execute(select(EVENTS.c.id, EVENTS.c.body).order_by(EVENTS.c.id)).all()
        return [tuple(row) for row in windows], [tuple(row) for row in events]


def levels(history: HistoryRecord) -> list[str]:
    return [str(window.verdict.level) for window in reversed(history.windows)]
