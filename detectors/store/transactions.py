"""Transactions: what was asked, what was answered, and what became of it.

A transaction is a row of a request that a model answered. Where two versions answered, the first counts. A request
whose id came with other rows too is left out: which of them was answered is not known. A transaction whose id
stands in several places is listed, but has no outcome, and is no part of the traffic that labelled rows stand for.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, Select, literal, select, tuple_

from detectors.labels import Outcome, is_silent, mature
from detectors.store.database import Database
from detectors.store.labels import came_once, known_of, place_of
from detectors.store.log import inputs_of
from detectors.store.tables import ANSWERS, REQUESTS, ROW_IDS
from fraudkit.schema import FloatArray
from fraudkit.settings import LabelSettings

_CHUNK: Final = 2_000
"""Requests that are read at a time."""
_ROWS: Final = 20_000
"""Rows that they may have together; one request may have more."""
_CHUNKS: Final = 25
"""Most of them for one page of a list."""
DAY: Final = 86_400.0
_ALL: Final = sys.maxsize
"""As a place's row: after all rows of its request."""


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
        reported: The label that counts; None while there is none.
        doubtful: Its id stands in several places: it never has one.
    """

    id: str
    time: float
    version: str
    inputs: FloatArray
    probability: float
    alert: int
    reported: Outcome | None
    doubtful: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which transactions.

    Attributes:
        version: Of one model.
        since: From this time on [s, UTC].
        until: Before this time [s, UTC].
        alerts: With one of these alerts.
        to_review: That are in the review sample, and of which nothing was reported.
        id: With this id.
    """

    version: str | None = None
    since: float | None = None
    until: float | None = None
    alerts: frozenset[int] = frozenset({0, 1, 2})
    to_review: bool = False
    id: str | None = None


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
        self._silence = DAY * settings.silence_days

    def newest(self, wanted: Wanted, after: Place | None, limit: int) -> tuple[list[Transaction], Place | None]:
        """At most `limit` transactions, the newest first, and where the list goes on if it does.

        Where few are wanted, there may be fewer than `limit`, or none, and still more to come.
        """
        found: list[Transaction] = []
        place, most = after, limit
        # Most of the traffic is not in the sample, and is not looked at any closer.
        of = self.sampled if wanted.to_review else None
        with self._database.read() as connection:
            for _ in range(_CHUNKS):
                page = _page(connection, _newest(wanted, place), wanted, most)
                for here, transaction in self._opened(connection, page.rows, math.inf, of):
                    if not _is_before(after, here) and self._fits(transaction, wanted):
                        found.append(transaction)
                    if len(found) == limit:
                        return found, here
                if page.last is None:
                    return found, None
                place, most = Place(*page.last, _ALL), _CHUNK
        return found, place

    def matured(self, since: float, as_of: float) -> Iterator[Block]:
        """The transactions from `since` to before `as_of` whose outcome is known then, by time and id.

        All blocks are of one state of the database.
        """
        with self._database.read() as connection:
            weights = self._weights(connection, since, as_of)
            for transactions in self._by_time(connection, Wanted(since=since, until=as_of), as_of):
                sure = (one for one in transactions if not one.doubtful)
                outcomes = ((one, mature(one.time, one.reported, as_of, self._silence)) for one in sure)
                known = [(one, outcome) for one, outcome in outcomes if outcome]
                if known:
                    yield self._block(known, as_of, weights)

    def logged(self, wanted: Wanted) -> Iterator[list[Transaction]]:
        """All that was answered in a span, whatever became of it, by time and id."""
        with self._database.read() as connection:
            yield from self._by_time(connection, wanted, -math.inf)

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
        if transaction.alert not in wanted.alerts or wanted.id not in (None, transaction.id):
            return False
        if not wanted.to_review:
            return True
        open_ = not (transaction.alert or transaction.reported or transaction.doubtful)
        return open_ and self.sampled(transaction.id)

    def _weights(self, connection: Connection, since: float, as_of: float) -> Weights:
        """From the counts of the transactions whose silence does not count yet, by stratum."""
        counts = np.zeros((3, 2), dtype=np.int64)  # with an alert, sampled, others; all and labelled
        span = Wanted(since=max(since, as_of - self._silence), until=as_of)
        for transactions in self._by_time(connection, span, as_of):
            for one in transactions:
                if not one.doubtful and not is_silent(one.time, as_of, self._silence):
                    stratum = 0 if one.alert else 1 if self.sampled(one.id) else 2
                    counts[stratum] += (1, one.reported is not None)
        (alerted, alerted_known), (sampled, sampled_known), (others, others_known) = counts.tolist()
        return Weights(
            alerted / alerted_known if alerted_known else 1.0,
            (sampled + others - others_known) / sampled_known if sampled_known else 1.0,
        )

    def _block(self, known: Sequence[tuple[Transaction, Outcome]], as_of: float, weights: Weights) -> Block:
        def weight(one: Transaction) -> float:
            if is_silent(one.time, as_of, self._silence):
                return 1.0
            if one.alert:
                return weights.alerted
            return weights.sampled if self.sampled(one.id) else 1.0

        return Block(
            [one.id for one, _ in known],
            np.array([one.time for one, _ in known]),
            np.stack([one.inputs for one, _ in known]),
            np.array([outcome.label for _, outcome in known], dtype=np.int8),
            [outcome.source for _, outcome in known],
            np.array([outcome.at for _, outcome in known]),
            np.array([weight(one) for one, _ in known]),
        )

    def _by_time(self, connection: Connection, span: Wanted, as_of: float) -> Iterator[list[Transaction]]:
        """Those of a span, by time and id, with what was reported of them until `as_of`."""
        after = None
        while True:
            page = _page(connection, _oldest(span, after), span, _CHUNK)
            yield [transaction for _, transaction in self._opened(connection, page.rows, as_of)]
            if page.last is None:
                return
            after = page.last

    def _opened(
        self,
        connection: Connection,
        rows: Sequence[Row[Any]],
        as_of: float,
        of: Callable[[str], bool] | None = None,
    ) -> Iterator[tuple[Place, Transaction]]:
        """The transactions of requests, each with its place; with `of`, of requests that have one that it says."""
        names = [_names(row) for row in rows]
        looked_up = [name for several in names for name in several if of is None or of(name)]
        known, few = known_of(connection, looked_up, as_of), set(looked_up)
        for row, own in zip(rows, names, strict=True):
            if of and few.isdisjoint(own):
                continue
            probabilities = np.frombuffer(row.probabilities, "<f8").tolist()
            answered = zip(own, inputs_of(row.inputs), probabilities, row.alerts, strict=True)
            for number, (name, inputs, probability, alert) in enumerate(answered):
                reported, doubtful = known.reported.get(name), name in known.doubtful
                transaction = Transaction(
                    name, row.time, row.version, inputs, probability, alert, reported, doubtful
                )
                yield Place(row.time, row.id, number), transaction


@dataclass(frozen=True, slots=True)
class _Page:
    """Some answered requests; `last`, time and id, is where the next ones begin: None at the end."""

    rows: Sequence[Row[Any]]
    last: tuple[float, str] | None


def _log_odds(chances: FloatArray) -> FloatArray:
    bounded = np.clip(chances, 1e-300, 1 - 1e-16)
    return np.asarray(np.log(bounded) - np.log1p(-bounded))


def _page(connection: Connection, asked: Select[Any], wanted: Wanted, most: int) -> _Page:
    """The answers to the first of the requests, `most` of them or as many as have few rows together."""
    sizes = asked.with_only_columns(REQUESTS.c.time, REQUESTS.c.id, REQUESTS.c.rows).limit(most)
    ahead = connection.execute(sizes).all()
    if not ahead:
        return _Page((), None)
    count = max(int((np.cumsum([row.rows for row in ahead]) <= _ROWS).sum()), 1)
    last = ahead[count - 1]
    more = len(ahead) > count or len(ahead) == most
    place = {row.id: number for number, row in enumerate(ahead)}
    rows = sorted(connection.execute(_answered(asked.limit(count), wanted)), key=lambda row: place[row.id])
    return _Page(rows, (last.time, last.id) if more else None)


def _is_before(after: Place | None, here: Place) -> bool:
    """Whether the list has told of a row of the request at which it goes on."""
    return after is not None and (after.time, after.id) == (here.time, here.id) and here.row <= after.row


def _names(row: Row[Any]) -> list[str]:
    """The ids of a request's rows, as the model answered them."""
    names = orjson.loads(row.row_ids) if row.row_ids else row.id
    return [f"{names}-{number}" for number in range(row.rows)] if isinstance(names, str) else names


def _newest(wanted: Wanted, after: Place | None) -> Select[Any]:
    """Requests, the newest first; with that of `after`, unless all of its rows have been told of."""
    asked = _asked(wanted)
    if after:
        here, there = tuple_(REQUESTS.c.time, REQUESTS.c.id), (after.time, after.id)
        asked = asked.where(here < there if after.row == _ALL else here <= there)
    return asked.order_by(REQUESTS.c.time.desc(), REQUESTS.c.id.desc())


def _oldest(wanted: Wanted, after: tuple[float, str] | None) -> Select[Any]:
    """Requests, the oldest first."""
    asked = _asked(wanted)
    if after:
        asked = asked.where(tuple_(REQUESTS.c.time, REQUESTS.c.id) > after)
    return asked.order_by(REQUESTS.c.time, REQUESTS.c.id)


def _asked(wanted: Wanted) -> Select[Any]:
    asked = select(REQUESTS)
    if wanted.since is not None:
        asked = asked.where(REQUESTS.c.time >= wanted.since)
    if wanted.until is not None:
        asked = asked.where(REQUESTS.c.time < wanted.until)
    if wanted.id is not None:
        begun, _ = place_of(wanted.id)
        named = select(ROW_IDS.c.id).where(ROW_IDS.c.row_id.in_((wanted.id, begun)))
        asked = asked.where(REQUESTS.c.id.in_(named.union(select(literal(begun)))))
    return asked


def _answered(asked: Select[Any], wanted: Wanted) -> Select[Any]:
    """Requests, which a limit bounds, with their answers, in any order.

    What is inside the limit is joined alone: else the whole log would be, and sorted, for each page.
    """
    page, other = asked.subquery(), ANSWERS.alias()
    version: Any = wanted.version
    if version is None:
        version = (
            select(other.c.version)
            .where(other.c.id == page.c.id, other.c.rows == page.c.rows)
            .order_by(other.c.time, other.c.version)
            .limit(1)
            .scalar_subquery()
        )
    columns = (
        page.c.id,
        page.c.time,
        page.c.rows,
        page.c.inputs,
        ANSWERS.c.version,
        ANSWERS.c.probabilities,
        ANSWERS.c.alerts,
        ANSWERS.c.row_ids,
    )
    least = min(wanted.alerts)
    return (
        select(*columns)
        .join(ANSWERS, (ANSWERS.c.id == page.c.id) & (ANSWERS.c.rows == page.c.rows))
        .where(ANSWERS.c.version == version, ANSWERS.c.alert >= least, came_once(page))
    )
