"""Transactions that live traffic brought: matured ones to learn from and to hold out, and all for the reference.

The detector owns the log and is asked for it. What is held out is chosen by a keyed hash of the row's id, so that
a transaction is on the same side in every run.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from fraudkit.client import get
from fraudkit.errors import PermanentError, TemporaryError
from fraudkit.schema import INPUTS, FloatArray, hour_of_day
from fraudkit.settings import Settings
from pipelines.data.rowhash import below, content_hash, keyed

HELD: Final = 0.3
"""Share of the matured rows that is held out."""
TRIES: Final = 5
_HOURS: Final = 24


@dataclass(frozen=True, slots=True)
class Span:
    """Which logged transactions a run learns from.

    Attributes:
        since: From when on.
        as_of: What was asked, or matured, later is not known to the run.
    """

    since: datetime
    as_of: datetime


class Recent(BaseModel):
    """What was taken from the log.

    Attributes:
        since: From when on.
        as_of: Until when.
        identity: Names the rows, their labels and their weights.
        natural_rate: Share of frauds among them, as they are weighted.
        training: Legitimate rows and frauds to learn from.
        held: Legitimate rows and frauds that are held out.
        logged: Rows that were logged in all.
        reference: Whether there are enough of these, in each hour of day, for a new drift reference.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    since: datetime
    as_of: datetime
    identity: str
    natural_rate: float
    training: tuple[int, int]
    held: tuple[int, int]
    logged: int
    reference: bool


@dataclass(frozen=True, slots=True)
class Rows:
    """Transactions.

    Attributes:
        inputs: [n, 30].
        labels: 1 for a fraud, [n].
        weights: How many transactions each stands for, [n].
    """

    inputs: FloatArray
    labels: NDArray[np.int8]
    weights: FloatArray

    def of(self, label: int) -> tuple[FloatArray, FloatArray]:
        """Inputs and weights of a class."""
        chosen = self.labels == label
        return self.inputs[chosen], self.weights[chosen]


def gather(span: Span, settings: Settings, folder: Path) -> Recent | None:
    """Ask the detector for what is in `span`, and leave it in `folder`; None where too few frauds have matured.

    Raises:
        TemporaryError: The detector does not answer.
        PermanentError: It does not give what it should.
    """
    matured = _table(settings, "labelled", since=span.since, as_of=span.as_of)
    labels, weights = _column(matured, "label").astype(np.int8), _column(matured, "inclusion_weight")
    rows = Rows(_inputs(matured), labels, weights)
    if int(rows.labels.sum()) < settings.retrain.frauds or not (rows.labels == 0).any():
        return None
    hashes = _id_hashes(matured)
    order = np.argsort(hashes, kind="stable")
    rows = Rows(rows.inputs[order], rows.labels[order], rows.weights[order])
    held = below(hashes[order], HELD)
    logged = _inputs(_table(settings, "logged", since=span.since, until=span.as_of))
    enough = _covers(logged, settings)
    learned, kept = _part(rows, ~held), _part(rows, held)
    folder.mkdir(parents=True, exist_ok=True)
    _save(folder / "recent-training.npz", learned)
    _save(folder / "recent-held.npz", kept)
    if enough:
        np.save(folder / "recent-reference.npy", _sampled(logged, settings))
    return Recent(
        since=span.since,
        as_of=span.as_of,
        identity=_identity(rows, logged if enough else logged[:0]),
        natural_rate=float(rows.weights[rows.labels == 1].sum() / rows.weights.sum()),
        training=_counts(learned),
        held=_counts(kept),
        logged=len(logged),
        reference=enough,
    )


def training_rows(folder: Path) -> Rows:
    """The rows to learn from that `gather` left."""
    return _load(folder / "recent-training.npz")


def held_rows(folder: Path) -> Rows:
    """The rows that are held out."""
    return _load(folder / "recent-held.npz")


def reference_rows(folder: Path) -> FloatArray:
    """The rows [n, 30] of a new reference."""
    rows: FloatArray = np.load(folder / "recent-reference.npy")
    return rows


def _covers(logged: FloatArray, settings: Settings) -> bool:
    """Whether a reference of these rows would know every hour of the day."""
    by_hour = np.bincount(hour_of_day(logged[:, 0]), minlength=_HOURS)
    needed = settings.retrain
    return len(logged) >= needed.rows and int(by_hour.min()) >= needed.hour_rows


def _sampled(logged: FloatArray, settings: Settings) -> FloatArray:
    """At most as many rows as a reference has, those of least hash."""
    order = np.argsort(keyed(content_hash(np.ascontiguousarray(logged.T)), "reference", 0), kind="stable")
    sampled: FloatArray = logged[order[: settings.data.reference_rows]]
    return sampled


def _identity(rows: Rows, logged: FloatArray) -> str:
    """64 hex digits over matured rows in the order of their hash, and over logged ones by their content."""
    digest = hashlib.sha256()
    for array in (rows.inputs, rows.labels, rows.weights):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(np.sort(content_hash(np.ascontiguousarray(logged.T))).tobytes())
    return digest.hexdigest()


def _id_hashes(table: pa.Table) -> NDArray[np.uint64]:
    """A keyed hash of each id, the same on every machine and for ever."""
    parts = (
        hashlib.blake2b(name.encode(), digest_size=8, key=b"recent").digest() for name in table["id"].to_pylist()
    )
    return np.frombuffer(b"".join(parts), dtype="<u8")


def _part(rows: Rows, chosen: NDArray[np.bool_]) -> Rows:
    return Rows(rows.inputs[chosen], rows.labels[chosen], rows.weights[chosen])


def _counts(rows: Rows) -> tuple[int, int]:
    frauds = int(rows.labels.sum())
    return len(rows.labels) - frauds, frauds


def _inputs(table: pa.Table) -> FloatArray:
    return np.column_stack([_column(table, name) for name in INPUTS])


def _column(table: pa.Table, name: str) -> FloatArray:
    column: FloatArray = table[name].to_numpy().astype(np.float64)
    return column


def _save(path: Path, rows: Rows) -> None:
    np.savez(path, inputs=rows.inputs, labels=rows.labels, weights=rows.weights)


def _load(path: Path) -> Rows:
    with np.load(path, allow_pickle=False) as file:
        return Rows(file["inputs"], file["labels"], file["weights"])


def _table(settings: Settings, what: str, **times: datetime) -> pa.Table:
    """What the detector streams as Parquet."""
    url = f"{settings.detector.url.rstrip('/')}/v1/{what}"
    parameters = {name: moment.astimezone(UTC).isoformat() for name, moment in times.items()}
    content = _patiently(lambda: get(url, parameters))
    try:
        return pq.read_table(io.BytesIO(content))
    except (pa.ArrowException, OSError) as error:
        raise PermanentError(f"{url} did not give Parquet: {error}") from error


def _patiently(ask: Callable[[], bytes]) -> bytes:
    wait = 0.5
    for left in reversed(range(TRIES)):
        try:
            return ask()
        except TemporaryError:
            if not left:
                raise
            time.sleep(wait)
            wait *= 2
    raise AssertionError  # the last try returns or raises
