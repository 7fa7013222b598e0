"""Transactions: what was asked, what was answered, and what became of it.

A transaction is a row of a request that a model answered. Where two versions answered, the first counts. A request
whose id came with other rows too is left out: which of them was answered is not known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, Select, and_, func, or_, select

from detectors.store.database import Database
from detectors.store.labels import latest_labels
from detectors.store.log import inputs_of
from detectors.store.tables import ANSWERS, REQUESTS
from fraudkit.schema import FloatArray
from fraudkit.settings import LabelSettings

_CHUNK: Final = 2_000
"""Requests that are read at a time."""
_ROWS: Final = 20_000
"""Rows that they may have together; one request may have more."""
_CHUNKS: Final = 25
"""Most of them for one page of a list."""
DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True, eq=False)
class Transaction:
    """One of them.

    Attributes:
        id: Its id.
        time: When it was asked for [s, UTC].
        version: The model that answered.
        inputs: Its inputs [30].
        probability: Of fraud.
        alert: Index into `ALERTS`.
        label: 1 for a fraud, 0 for none; None while nothing was reported.
        source: Where the label is known from.
        labelled_at: When it was found out [s, UTC].
    """

    id: str
    time: float
    version: str
    inputs: FloatArray
    probability: float
    alert: int
    label: int | None
    source: str | None
    labelled_at: float | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which transactions.

    Attributes:
        version: Of one model.
        since: From this time on [s, UTC].
        until: Before this time [s, UTC].
        least_alert: With at least this alert.
        unlabelled: Of which nothing was reported.
        sampled: That are in the review sample.
    """

    version: str | None = None
    since: float | None = None
    until: float | None = None
    least_alert: int = 0
    unlabelled: bool = False
    sampled: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where a list goes on: after this row."""

    time: float
    id: str
    row: int


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Transactions that matured, as columns of the same length."""

    ids: list[str]
    times: FloatArray
    inputs: FloatArray
    labels: NDArray[np.int8]
    sources: list[str]
    matured: FloatArray
    weights: FloatArray


@dataclass(frozen=True, slots=True)
class Weights:
    """How many transactions one stands for whose silence does not count yet: with an alert, and in the sample."""

    alerted: float
    sampled: float


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What a version answered.

    Attributes:
        requests: How many.
        alerts: Rows by alert [3].
        scores: Rows by log odds, between the edges that were given; what is beyond is in the first and last.
    """

    requests: int
    alerts: NDArray[np.int64]
    scores: NDArray[np.int64]


class TransactionStore:
    """Reads transactions.

    Args:
        database: Where they are.
        settings: When silence is an outcome, and which are put up for review.
    """

    def __init__(self, database: Database, settings: LabelSettings) -> None:
        self._database = database
        self._settings = settings
        self._key = settings.seed.to_bytes(8, "little")

    def newest(self, wanted: Wanted, after: Place | None, limit: int) -> tuple[list[Transaction], Place | None]:
        """At most `limit` transactions, the newest first, and where the list goes on if it does.

        Where few are wanted, there may be fewer than `limit`, or none, and still more to come.
        """
        found: list[Transaction] = []
        place = after
        with self._database.read() as connection:
            for _ in range(_CHUNKS):
                rows, more = _page(connection, _joined(wanted, place))
                for here, transaction in self._opened(connection, rows, math.inf):
                    seen = place and (here.time, here.id) == (place.time, place.id) and here.row <= place.row
                    if seen or not self._fits(transaction, wanted):
                        continue
                    found.append(transaction)
                    if len(found) == limit:
                        return found, here
                if not more:
                    return found, None
                place = Place(rows[-1].time, rows[-1].id, rows[-1].rows)
        return found, place

    def matured(self, since: float, as_of: float) -> Iterator[Block]:
        """The transactions from `since` to before `as_of` whose outcome is known then, by time and id.

        All blocks are of one state of the database.
        """
        silent = as_of - DAY * self._settings.silence_days
        with self._database.read() as connection:
            weights = self._weights(connection, since, as_of, silent)
            for transactions in self._by_time(connection, since, as_of):
                known = [one for one in transactions if one.label is not None or one.time < silent]
                if known:
                    yield self._block(known, silent, weights)

    def evidence(self, version: str, since: float | None, until: float | None, edges: FloatArray) -> Evidence:
        """What `version` answered; `edges` [k] of log odds."""
        inside = [ANSWERS.c.version == version]
        if since is not None:
            inside.append(ANSWERS.c.time >= since)
        if until is not None:
            inside.append(ANSWERS.c.time < until)
        requests, alerts, scores = 0, np.zeros(3, dtype=np.int64), np.zeros(len(edges) - 1, dtype=np.int64)
        wanted = select(ANSWERS.c.probabilities, ANSWERS.c.alerts).where(*inside)
        with self._database.read() as connection:
            answers = connection.execution_options(yield_per=_CHUNK).execute(wanted)
            for part in answers.partitions():
                requests += len(part)
                alerts += np.bincount(np.frombuffer(b"".join(row.alerts for row in part), np.int8), minlength=3)
                chances = np.frombuffer(b"".join(row.probabilities for row in part), "<f8")
                scores += np.histogram(_log_odds(chances).clip(edges[0], edges[-1]), edges)[0]
        return Evidence(requests, alerts, scores)

    def sampled(self, row_id: str) -> bool:
        """Whether a transaction is in the review sample, should it have no alert."""
        digest = blake2b(row_id.encode(), digest_size=8, key=self._key).digest()
        return int.from_bytes(digest, "little") / 2.0**64 < self._settings.review_share

    def _fits(self, transaction: Transaction, wanted: Wanted) -> bool:
        return (
            transaction.alert >= wanted.least_alert
            and not (wanted.unlabelled and transaction.label is not None)
            and not (wanted.sampled and (transaction.alert or not self.sampled(transaction.id)))
        )

    def _weights(self, connection: Connection, since: float, as_of: float, silent: float) -> Weights:
        """From the counts of the transactions whose silence does not count yet, by stratum."""
        counts = np.zeros((3, 2), dtype=np.int64)  # with an alert, sampled, others; all and labelled
        for transactions in self._by_time(connection, max(since, silent), as_of):
            for one in transactions:
                stratum = 0 if one.alert else 1 if self.sampled(one.id) else 2
                counts[stratum] += (1, one.label is not None)
        (alerted, alerted_known), (sampled, sampled_known), (others, others_known) = counts.tolist()
        return Weights(
            alerted / alerted_known if alerted_known else 1.0,
            (sampled + others - others_known) / sampled_known if sampled_known else 1.0,
        )

    def _block(self, known: Sequence[Transaction], silent: float, weights: Weights) -> Block:
        silence = DAY * self._settings.silence_days

        def weight(one: Transaction) -> float:
            if one.time < silent:
                return 1.0
            if one.alert:
                return weights.alerted
            return weights.sampled if self.sampled(one.id) else 1.0

        return Block(
            [one.id for one in known],
            np.array([one.time for one in known]),
            np.stack([one.inputs for one in known]),
            np.array([one.label or 0 for one in known], dtype=np.int8),
            [one.source or "silence" for one in known],
            np.array([one.time + silence if one.labelled_at is None else one.labelled_at for one in known]),
            np.array([weight(one) for one in known]),
        )

    def _by_time(self, connection: Connection, since: float, as_of: float) -> Iterator[list[Transaction]]:
        after: tuple[float, str] | None = None
        while True:
            wanted = _joined(Wanted(since=since, until=as_of), None, newest=False)
            if after:
                time, name = after
                later = or_(REQUESTS.c.time > time, and_(REQUESTS.c.time == time, REQUESTS.c.id > name))
                wanted = wanted.where(later)
            rows, more = _page(connection, wanted)
            yield [transaction for _, transaction in self._opened(connection, rows, as_of)]
            if not more:
                return
            after = (rows[-1].time, rows[-1].id)

    def _opened(
        self, connection: Connection, rows: Sequence[Row[Any]], as_of: float
    ) -> Iterator[tuple[Place, Transaction]]:
        """The transactions of requests, each with its place."""
        names = [_names(row) for row in rows]
        labels = latest_labels(connection, [name for several in names for name in several], as_of)
        for row, own in zip(rows, names, strict=True):
            probabilities = np.frombuffer(row.probabilities, "<f8").tolist()
            answered = zip(own, inputs_of(row.inputs), probabilities, row.alerts, strict=True)
            for number, (name, inputs, probability, alert) in enumerate(answered):
                label, source, at = labels.get(name, (None, None, None))
                transaction = Transaction(
                    name, row.time, row.version, inputs, probability, alert, label, source, at
                )
                yield Place(row.time, row.id, number), transaction


def _log_odds(chances: FloatArray) -> FloatArray:
    bounded = np.clip(chances, 1e-300, 1 - 1e-16)
    return np.asarray(np.log(bounded) - np.log1p(-bounded))


def _page(connection: Connection, wanted: Select[Any]) -> tuple[Sequence[Row[Any]], bool]:
    """The first requests of those wanted, as many as have few rows together, and whether there are more."""
    sizes = wanted.with_only_columns(REQUESTS.c.rows, maintain_column_froms=True).limit(_CHUNK)
    rows = connection.execute(sizes).scalars().all()
    fitting = int((np.cumsum(rows) <= _ROWS).sum())
    count = max(fitting, 1)
    return connection.execute(wanted.limit(count)).all(), len(rows) > count or len(rows) == _CHUNK


def _names(row: Row[Any]) -> list[str]:
    """The ids of a request's rows, as the model answered them."""
    names = orjson.loads(row.row_ids) if row.row_ids else row.id
    return [f"{names}-{number}" for number in range(row.rows)] if isinstance(names, str) else names


def _joined(wanted: Wanted, after: Place | None, *, newest: bool = True) -> Select[Any]:
    """Requests with their answers, by time and id."""
    same = REQUESTS.alias()
    alone = select(func.count()).select_from(same).where(same.c.id == REQUESTS.c.id).scalar_subquery() == 1
    where = [alone, REQUESTS.c.rows == ANSWERS.c.rows]
    if wanted.version is None:
        other = ANSWERS.alias()
        earlier = or_(
            other.c.time < ANSWERS.c.time,
            and_(other.c.time == ANSWERS.c.time, other.c.version < ANSWERS.c.version),
        )
        where.append(~select(other.c.id).where(other.c.id == ANSWERS.c.id, earlier).exists())
    else:
        where.append(ANSWERS.c.version == wanted.version)
    if wanted.since is not None:
        where.append(REQUESTS.c.time >= wanted.since)
    if wanted.until is not None:
        where.append(REQUESTS.c.time < wanted.until)
    if wanted.least_alert:
        where.append(ANSWERS.c.alert >= wanted.least_alert)
    if after:
        # With the request itself: some of its rows may be still to come.
        where.append(
            or_(REQUESTS.c.time < after.time, and_(REQUESTS.c.time == after.time, REQUESTS.c.id >= after.id))
        )
    columns = (
        REQUESTS.c.id,
        REQUESTS.c.time,
        REQUESTS.c.rows,
        REQUESTS.c.inputs,
        ANSWERS.c.version,
        ANSWERS.c.probabilities,
        ANSWERS.c.alerts,
        ANSWERS.c.row_ids,
    )
    order = (REQUESTS.c.time.desc() if newest else REQUESTS.c.time, REQUESTS.c.id)
    return select(*columns).join(ANSWERS, ANSWERS.c.id == REQUESTS.c.id).where(*where).order_by(*order)
