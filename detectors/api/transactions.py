"""Transactions, labels, and what a version has answered."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain
from typing import Any, Final

import numpy as np
import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from detectors.labels import Label, Mistake, TooManyLabels, read_csv, read_json
from detectors.store.labels import LabelStore
from detectors.store.transactions import Block, Place, Transaction, TransactionStore, Wanted
from fraudkit.api import document, limit, only, printable, seconds
from fraudkit.bundle_store import BundleStore
from fraudkit.errors import FraudError, InvalidInput
from fraudkit.estimate import wilson
from fraudkit.events import rfc3339
from fraudkit.schema import INPUTS, FloatArray
from fraudkit.scoring import ALERTS, Scorer
from fraudkit.settings import MODEL_NAME

MAX_LABEL_BYTES: Final = 16 * 1024 * 1024
READ_SECONDS: Final = 60.0
MAX_MISTAKES: Final = 100
"""Mistakes that are told of one request; all are counted."""
SCORE_EDGES: Final = tuple(float(edge) for edge in np.linspace(-15.0, 10.0, 51))
"""Edges of the score histogram, in log odds; what is beyond is in the first and last bin."""
_ALERTS: Final = {name: frozenset({level}) for level, name in enumerate(ALERTS)} | {"any": frozenset({1, 2})}
"""What `alert` may be: one of the alerts, or `any`, which is review or block."""


@dataclass(frozen=True, slots=True)
class TransactionsApi:
    """The routes, and what they need.

    Attributes:
        store: Transactions.
        labels: Outcomes.
        bundles: Where the models are, for reasons.
        clock: The time [s, UTC].
    """

    store: TransactionStore
    labels: LabelStore
    bundles: BundleStore
    clock: Callable[[], float] = time.time

    def routes(self) -> list[Route]:
        """For Starlette, which runs those that are no coroutine beside its event loop."""
        return [
            Route("/v1/transactions", self._transactions),
            Route("/v1/review", self._review),
            Route("/v1/labels", self._label, methods=["POST"]),
            Route("/v1/labelled", self._labelled),
            Route("/v1/logged", self._logged),
            Route(f"/v1/models/{MODEL_NAME}/versions/{{version}}/evidence", self._evidence),
        ]

    def _transactions(self, request: Request) -> Response:
        only(request, "id", "version", "since", "until", "alert", "cursor", "limit")
        wanted = Wanted(
            version=_text(request, "version"),
            since=seconds(request, "since"),
            until=seconds(request, "until"),
            id=_text(request, "id"),
        )
        alert = request.query_params.get("alert")
        if alert is None:
            return self._listed(wanted, request)
        if alert not in _ALERTS:
            raise InvalidInput(f"alert: {alert!r} must be one of {', '.join(_ALERTS)}")
        return self._listed(replace(wanted, alerts=_ALERTS[alert]), request)

    def _review(self, request: Request) -> Response:
        only(request, "cursor", "limit")
        return self._listed(Wanted(to_review=True), request)

    def _listed(self, wanted: Wanted, request: Request) -> Response:
        found, place = self.store.newest(wanted, _place(request), limit(request, 100, 1_000))
        cursor = None
        if place:
            cursor = base64.urlsafe_b64encode(orjson.dumps([place.time, place.id, place.row])).decode()
        return document({"transactions": [self._told(one) for one in found], "cursor": cursor})

    def _told(self, one: Transaction) -> dict[str, Any]:
        scorer = scorer_of(self.bundles, one.version)
        reasons = scorer.reasons(one.inputs[None, :])[0] if scorer else None
        return {
            "id": one.id,
            "ce_time": rfc3339_of(one.time),
            "version": one.version,
            "inputs": dict(zip(INPUTS, one.inputs.tolist(), strict=True)),
            "probability": one.probability,
            "alert": ALERTS[one.alert],
            "label": one.reported and one.reported.label,
            "label_source": one.reported and one.reported.source,
            "label_by": one.reported and one.reported.by,
            "label_at": one.reported and rfc3339_of(one.reported.at),
            "reasons": reasons
            and [
                {
                    "feature": reason.feature,
                    "contribution": reason.contribution,
                    "value": reason.value,
                    "typical": reason.typical,
                }
                for reason in reasons
            ],
        }

    async def _label(self, request: Request) -> Response:
        only(request)
        body = bytearray()
        try:
            async with asyncio.timeout(READ_SECONDS):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > MAX_LABEL_BYTES:
                        said = f"labels have at most {MAX_LABEL_BYTES:,} bytes; send them in several requests"
                        return document({"error": said}, 413)
        except TimeoutError:
            return document({"error": f"the labels did not arrive within {READ_SECONDS:g} seconds"}, 408)
        except ClientDisconnect:
            return Response(status_code=400)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        return await run_in_threadpool(self._keep, bytes(body), kind == "text/csv")

    def _keep(self, body: bytes, is_csv: bool) -> Response:
        try:
            read = list(read_csv(body) if is_csv else read_json(body))
        except TooManyLabels as error:
            return document({"error": str(error)}, 413)
        labels = [one for one in read if isinstance(one, Label)]
        mistakes = [one for one in read if isinstance(one, Mistake)]
        added = self.labels.add(labels, self.clock())
        told = [{"row": one.row, "field": one.field, "problem": one.problem} for one in mistakes[:MAX_MISTAKES]]
        counts = {"accepted": added.accepted, "repeated": added.repeated, "unknown": added.unknown}
        answer = counts | {"rejected": len(mistakes), "mistakes": told}
        if mistakes and not labels:
            first = mistakes[0]
            said = f"row {first.row}, {first.field or 'label'}: {first.problem}"
            return document(answer | {"error": said}, 400)
        return document(answer)

    def _labelled(self, request: Request) -> Response:
        only(request, "since", "as_of")
        since, as_of = seconds(request, "since"), seconds(request, "as_of")
        blocks = self.store.matured(0.0 if since is None else since, self.clock() if as_of is None else as_of)
        return _streamed(_labelled_parquet(blocks), "labelled.parquet")

    def _logged(self, request: Request) -> Response:
        only(request, "version", "since", "until")
        wanted = Wanted(
            version=_text(request, "version"), since=seconds(request, "since"), until=seconds(request, "until")
        )
        return _streamed(_logged_parquet(self.store.logged(wanted)), "logged.parquet")

    def _evidence(self, request: Request) -> Response:
        only(request, "since", "until", "labelled")
        version = printable("version", request.path_params["version"])
        since, until = seconds(request, "since"), seconds(request, "until")
        evidence = self.store.evidence(version, since, until, np.array(SCORE_EDGES))
        labelled = None
        if request.query_params.get("labelled") != "no":  # which takes far longer than the rest
            facts = self.labels.facts(version, since or 0.0, self.clock(), until)
            labelled = {
                "frauds": facts.frauds,
                "alerts": facts.alerts,
                "recall": _share(facts.caught, facts.frauds),
                "precision": _share(facts.true_alerts, facts.alerts),
            }
        rows, alerts = int(evidence.alerts.sum()), evidence.alerts.tolist()
        return document(
            {
                "version": version,
                "requests": evidence.requests,
                "rows": rows,
                "alerts": dict(zip(ALERTS, alerts, strict=True)),
                "alert_rate": _share(rows - alerts[0], rows),
                "score_histogram": {"edges": SCORE_EDGES, "counts": evidence.scores.tolist()},
                "labelled": labelled,
            }
        )


def rfc3339_of(moment: float) -> str:
    """A time [s, UTC] as people and programs read it."""
    return rfc3339(datetime.fromtimestamp(moment, UTC))


def scorer_of(bundles: BundleStore, version: str) -> Scorer | None:
    """The scorer of a version, which an answer names and may be any text; None where it is not to be had."""
    try:
        return _loaded(bundles, version)
    except FraudError:
        return None


@lru_cache(maxsize=16)
def _loaded(bundles: BundleStore, version: str) -> Scorer:
    return bundles.load(version).scorer


def _share(count: int, of: int) -> dict[str, float] | None:
    """A share with Wilson's 95 % interval; None of nothing."""
    return asdict(wilson(count, of)) if of else None


def _text(request: Request, name: str) -> str | None:
    text = request.query_params.get(name)
    return None if text is None else printable(name, text)


def _place(request: Request) -> Place | None:
    text = request.query_params.get("cursor")
    if text is None:
        return None
    try:
        moment, name, row = orjson.loads(base64.urlsafe_b64decode(text))
        place = Place(float(moment), str(name), int(row))
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInput("cursor: is not one that this list gave") from error
    if not place.id.isprintable():
        raise InvalidInput("cursor: is not one that this list gave")
    return place


def _streamed(parts: Iterator[bytes], name: str) -> Response:
    begun = chain([next(parts)], parts)  # a database that is away is said before the answer has begun
    head = {"content-disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(begun, media_type="application/vnd.apache.parquet", headers=head)


class _Pipe(io.RawIOBase):
    """Takes what is written, and gives it away."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        self._size += len(self._parts[-1])
        return len(self._parts[-1])

    def tell(self) -> int:
        return self._size

    def take(self) -> bytes:
        content = b"".join(self._parts)
        self._parts.clear()
        return content


def _labelled_parquet(blocks: Iterator[Block]) -> Iterator[bytes]:
    import pyarrow as pa

    stamp = pa.timestamp("us", tz="UTC")
    fields = [("id", pa.string()), ("ce_time", stamp), *((name, pa.float64()) for name in INPUTS)]
    fields += [
        ("label", pa.int8()),
        ("source", pa.string()),
        ("matured_at", stamp),
        ("inclusion_weight", pa.float64()),
    ]

    def columns(block: Block) -> list[Any]:
        inputs = (pa.array(column) for column in block.inputs.T)
        return [
            pa.array(block.ids),
            _microseconds(block.times).cast(stamp),
            *inputs,
            pa.array(block.labels),
            pa.array(block.sources),
            _microseconds(block.matured).cast(stamp),
            pa.array(block.weights),
        ]

    return _parquet(pa.schema(fields), map(columns, blocks))


def _logged_parquet(lists: Iterator[list[Transaction]]) -> Iterator[bytes]:
    import pyarrow as pa

    stamp = pa.timestamp("us", tz="UTC")
    fields = [("id", pa.string()), ("ce_time", stamp), ("version", pa.string())]
    fields += [*((name, pa.float64()) for name in INPUTS), ("probability", pa.float64()), ("alert", pa.int8())]

    def columns(transactions: list[Transaction]) -> list[Any]:
        inputs = np.array([one.inputs for one in transactions]).reshape(-1, len(INPUTS))
        return [
            pa.array([one.id for one in transactions], pa.string()),
            _microseconds(np.array([one.time for one in transactions])).cast(stamp),
            pa.array([one.version for one in transactions], pa.string()),
            *(pa.array(column) for column in inputs.T),
            pa.array([one.probability for one in transactions], pa.float64()),
            pa.array([one.alert for one in transactions], pa.int8()),
        ]

    return _parquet(pa.schema(fields), map(columns, lists))


def _microseconds(moments: FloatArray) -> Any:
    import pyarrow as pa

    return pa.array((moments * 1e6).round().astype(np.int64))


def _parquet(schema: Any, parts: Iterator[list[Any]]) -> Iterator[bytes]:
    """A file of columns, a part at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pipe = _Pipe()
    with pq.ParquetWriter(pa.PythonFile(pipe, mode="w"), schema) as writer:
        for columns in parts:
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            yield pipe.take()
    yield pipe.take()
