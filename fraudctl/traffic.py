"""Callers of the demo: transactions of a world that changes, and what is found out about them later."""

from __future__ import annotations

import http.client
import json
import time
from bisect import bisect_right
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, Protocol
from urllib.parse import urlsplit

import httpx
import numpy as np
from numpy.typing import NDArray

from fraudkit.errors import InvalidInput, TemporaryError
from fraudkit.schema import COMPONENTS, INPUTS, LABEL, FloatArray, hour_of_day
from fraudkit.settings import MODEL_NAME
from pipelines.data.sources import open_source
from pipelines.data.synthesize import NEW_FRAUD, NO_SHIFT, Shift, synthesize

DAY: Final = 86_400
DAY_ROWS: Final = 20_000
"""Transactions of a day of `Time`."""
RATE: Final = 200
"""Requests a second."""
ROWS: Final = 5
"""Rows of a request."""
MOVED: Final = 0.5
"""By how many σ V4, V10 and V14 move in the new world."""
NEW_SHARE: Final = 0.01
"""Share of the new world's transactions that are frauds of a kind that was not there before."""
JITTER: Final = 0.01
"""By how many σ a transaction that is drawn again differs: a replay would be an alarm of its own."""
MOST_ROWS: Final = 1_000_000
_SHIFT: Final = Shift(mean=MOVED, new_fraud=NEW_SHARE)
_SENDERS: Final = 2
_SECONDS: Final = 30.0

Labels = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Transactions:
    """Some transactions, in the order of their `Time`.

    Attributes:
        rows: Inputs [n, 30].
        labels: 1 for a fraud, [n].
    """

    rows: FloatArray
    labels: Labels


class World(Protocol):
    """Where transactions come from."""

    def day(self, number: int, *, new: bool) -> Transactions:
        """The transactions of a day, as the world was or as it is anew."""


@dataclass(frozen=True, slots=True)
class Synthesized:
    """A world made from a seed."""

    seed: int

    def day(self, number: int, *, new: bool) -> Transactions:
        """`DAY_ROWS` transactions that are in no training data."""
        shift = _SHIFT if new else NO_SHIFT
        seed = int(np.random.SeedSequence(self.seed, spawn_key=(number, 1)).generate_state(1)[0])
        batches = list(synthesize(DAY_ROWS, seed, shift=shift, span=DAY))
        rows = np.concatenate([np.column_stack([batch[name].to_numpy() for name in INPUTS]) for batch in batches])
        return Transactions(rows, np.concatenate([batch[LABEL].to_numpy() for batch in batches]))


class Resampled:
    """A world like the transactions of a file, at its fraud rate: drawn from them again, with their hours of day.

    Args:
        uri: The transactions.
        seed: Of what is drawn.

    Raises:
        InvalidInput: The file cannot be read, or is too long to be held in memory.
    """

    def __init__(self, uri: str, seed: int) -> None:
        with open_source(uri) as source:
            blocks, rows = [], 0
            for block in source.blocks():
                blocks.append(block.columns)
                rows += block.columns.shape[1]
                if rows > MOST_ROWS:
                    raise InvalidInput(f"{uri} has more than {MOST_ROWS:,} rows: the demo holds them in memory")
        columns = np.concatenate(blocks, axis=1)
        self._rows, self._labels = columns[:-1].T.copy(), columns[-1].astype(np.int8)
        self._sigma = self._rows[self._labels == 0].std(axis=0)
        self._seed = seed

    def day(self, number: int, *, new: bool) -> Transactions:
        """`DAY_ROWS` transactions, drawn with replacement; hour follows hour, and none is the same as another."""
        rng = np.random.default_rng((self._seed, number))
        drawn = rng.integers(0, len(self._rows), DAY_ROWS)
        drawn = drawn[np.argsort(hour_of_day(self._rows[drawn, 0]), kind="stable")]
        rows, labels = self._rows[drawn], self._labels[drawn]
        rows[:, 1:-1] += JITTER * self._sigma[1:-1] * rng.standard_normal((DAY_ROWS, len(COMPONENTS)))
        if new:
            for name in _SHIFT.features:
                rows[:, INPUTS.index(name)] += MOVED * self._sigma[INPUTS.index(name)]
            legitimate = np.flatnonzero(labels == 0)
            changed = rng.choice(legitimate, min(round(NEW_SHARE * DAY_ROWS), len(legitimate)), replace=False)
            labels[changed] = 1
            for component, by in NEW_FRAUD.items():
                rows[changed, component + 1] += by * self._sigma[component + 1]
        return Transactions(rows, labels)


@dataclass(slots=True)
class Sent:
    """What was sent in an act.

    Attributes:
        began: When [s, UTC].
        times: When each request was answered [s, UTC].
        parts: The transactions, in order.
        outcomes: Id and label of those whose outcome has not come back yet.
    """

    began: float = field(default_factory=time.time)
    times: list[float] = field(default_factory=list)
    parts: list[Transactions] = field(default_factory=list)
    outcomes: list[tuple[str, int]] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Transactions that were sent."""
        return len(self.times) * ROWS

    def until(self, moment: float) -> int:
        """Transactions that were sent until `moment` [s, UTC]."""
        return bisect_right(sorted(self.times), moment) * ROWS

    def transactions(self) -> Transactions:
        """All of them."""
        return Transactions(
            np.concatenate([part.rows for part in self.parts]),
            np.concatenate([part.labels for part in self.parts]),
        )


class Callers:
    """Clients that ask at a steady rate, and people who find out what became of each transaction.

    Args:
        url: Where the model is.
        detector: Who hears of outcomes.
        world: Where the transactions come from.
    """

    def __init__(self, url: str, detector: str, world: World) -> None:
        address = urlsplit(url)
        self._host, self._port = address.hostname or "", address.port or 80
        self._detector = detector
        self._world = world
        self._days, self._new = 0, False
        self._day = Transactions(np.empty((0, len(INPUTS))), np.empty(0, np.int8))
        self._pool = ThreadPoolExecutor(_SENDERS)
        self.sent = 0
        self.failed: list[str] = []

    def __enter__(self) -> Callers:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def flow(self, *, new: bool, over: Callable[[Sent], bool], labels: int = 0, rate: int = RATE) -> Sent:
        """Send transactions until it is over.

        Args:
            new: From the world as it is anew.
            over: Asked twice a second whether it is; may look at what was sent.
            labels: How many outcomes come back while it goes on.
            rate: Requests a second; half of them must be a whole number, and a part of a day's.
        """
        sent = Sent()
        while True:
            part = self._next(rate // 2 * ROWS, new=new)
            first = self.sent
            self._block(part, rate, sent)
            if labels:
                labels -= self.report(sent, labels)
            outcomes = enumerate(part.labels.tolist())
            sent.outcomes += [(f"t{first + i // ROWS}-{i % ROWS}", label) for i, label in outcomes]
            if over(sent):
                return sent

    def report(self, sent: Sent, most: int | None = None) -> int:
        """Report outcomes that have not come back yet, oldest first and at most so many; how many.

        Raises:
            TemporaryError: The detector does not take them.
        """
        told = sent.outcomes[:most]
        labels = [{"id": name, "label": label, "source": "chargeback"} for name, label in told]
        for first in range(0, len(labels), DAY_ROWS):
            try:
                answer = httpx.post(
                    f"{self._detector}/v1/labels",
                    json=labels[first : first + DAY_ROWS],
                    timeout=_SECONDS,
                    trust_env=False,
                )
                answer.raise_for_status()
            except httpx.HTTPError as error:
                raise TemporaryError(f"the detector at {self._detector} did not take outcomes: {error}") from error
        del sent.outcomes[: len(told)]
        return len(labels)

    def _next(self, rows: int, *, new: bool) -> Transactions:
        """The next transactions of the day; another one begins when it is over, or when the world changes."""
        if new != self._new or len(self._day.labels) < rows:
            self._day, self._new = self._world.day(self._days, new=new), new
            self._days += 1
        part = Transactions(self._day.rows[:rows], self._day.labels[:rows])
        self._day = Transactions(self._day.rows[rows:], self._day.labels[rows:])
        return part

    def _block(self, part: Transactions, rate: int, sent: Sent) -> None:
        begins = time.monotonic()
        requests = len(part.rows) // ROWS
        bodies = [
            json.dumps({"instances": part.rows[i * ROWS : (i + 1) * ROWS].tolist()}).encode()
            for i in range(requests)
        ]
        first = self.sent
        self.sent += requests
        shares = [range(sender, requests, _SENDERS) for sender in range(_SENDERS)]
        done = [self._pool.submit(self._send, share, bodies, first, begins, rate) for share in shares]
        for one in done:
            sent.times += one.result()
        sent.parts.append(part)

    def _send(self, share: range, bodies: list[bytes], first: int, begins: float, rate: int) -> list[float]:
        """Send some of a block's requests, each at its time; when they were answered."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=_SECONDS)
        times = []
        for i in share:
            time.sleep(max(begins + i / rate - time.monotonic(), 0.0))
            try:
                headers = {"content-type": "application/json", "ce-id": f"t{first + i}"}
                connection.request("POST", f"/v1/models/{MODEL_NAME}:predict", bodies[i], headers)
                answer = connection.getresponse()
                body = answer.read()
                if answer.status != http.HTTPStatus.OK:
                    self.failed.append(f"{answer.status} {body[:200].decode(errors='replace')}")
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(str(error))
                connection.close()
            times.append(time.time())
        connection.close()
        return times
