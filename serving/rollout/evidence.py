"""What a canary is judged by: the predictors' counters, live scores beside offline ones, labels scored by both."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from fraudkit.bundle_store import BundleStore
from fraudkit.client import get
from fraudkit.errors import FraudError, PermanentError
from fraudkit.policy.rollout import Labelled
from fraudkit.schema import INPUTS, FloatArray
from fraudkit.scoring import Scorer
from serving.rollout.state import KEPT_DISAGREEMENTS, Counted, Counts, Disagreement, Tally
from serving.rollout.targets import Side

if TYPE_CHECKING:
    import pyarrow as pa

SCRAPE_SECONDS: Final = 5.0
ASK_SECONDS: Final = 20.0
OVERLAP_SECONDS: Final = 2.0
"""How long after an answer it is surely in the log: rows that are newer are compared the next time."""
NO_LABELS: Final = Labelled(0, 0, 0, 0, 0, 0, 0, 0)


class Evidence:
    """Gathers it.

    Args:
        bundles: The store of bundles.
        detector: URL of the detector.
        tolerance: Largest difference of probability between a live score and an offline one.
    """

    def __init__(self, bundles: BundleStore, detector: str, tolerance: float) -> None:
        self._bundles = bundles
        self._detector = detector.rstrip("/")
        self._tolerance = tolerance

    def scorer(self, version: str) -> Scorer:
        """The scorer of a version.

        Raises:
            BundleError: It is not there, or damaged.
            TemporaryError: The store is away.
        """
        if not self._bundles.has(version):
            self._bundles.reach()  # away is not the same as gone
        return _scorer(self._bundles, version)

    def reach(self) -> None:
        """Raise FraudError unless bundles and detector are there."""
        self._bundles.reach()
        get(f"{self._detector}/health", seconds=SCRAPE_SECONDS)

    def compared(self, counts: Counts, stable: str, version: str, since: float, now: float) -> Counts:
        """`counts` with the rows of `version` logged since they were compared last; stable scores them too."""
        begin, end = counts.skew_until or since, now - OVERLAP_SECONDS
        if end <= begin:
            return counts
        table = self._table("logged", version=version, since=_time(begin), until=_time(end))
        if table.num_rows == 0:
            return counts.model_copy(update={"skew_until": end})
        inputs = _inputs(table)
        offline = self.scorer(version).probabilities(inputs)
        away = np.abs(offline - table["probability"].to_numpy())
        update = {
            "skew_rows": counts.skew_rows + table.num_rows,
            "skew_differing": counts.skew_differing + int((~(away <= self._tolerance)).sum()),
            "skew_largest": max(counts.skew_largest, float(away.max())),
            "skew_until": end,
            "disagreements": disagreeing(
                counts.disagreements,
                table["id"].to_pylist(),
                offline,
                self.scorer(stable).probabilities(inputs),
            ),
        }
        return counts.model_copy(update=update)

    def labelled(self, stable: str, canary: str, since: float) -> Labelled:
        """Matured transactions since a moment, which neither can have been trained on, scored by both."""
        table = self._table("labelled", since=_time(since))
        if table.num_rows == 0:
            return NO_LABELS
        rows, frauds = _inputs(table), table["label"].to_numpy() == 1
        one, other = (self._alerts(version, rows) for version in (stable, canary))
        return Labelled(
            frauds=int(frauds.sum()),
            stable_caught=int((one & frauds).sum()),
            canary_caught=int((other & frauds).sum()),
            both_caught=int((one & other & frauds).sum()),
            legitimate=int((~frauds).sum()),
            stable_alerts=int((one & ~frauds).sum()),
            canary_alerts=int((other & ~frauds).sum()),
            both_alerts=int((one & other & ~frauds).sum()),
        )

    def _alerts(self, version: str, rows: FloatArray) -> NDArray[np.bool_]:
        scorer = self.scorer(version)
        alerts: NDArray[np.bool_] = scorer.probabilities(rows) >= scorer.thresholds.review
        return alerts

    def _table(self, what: str, **parameters: str) -> pa.Table:
        import pyarrow as pa
        import pyarrow.parquet as pq

        url = f"{self._detector}/v1/{what}"
        try:
            return pq.read_table(io.BytesIO(get(url, parameters, ASK_SECONDS)))
        except (pa.ArrowException, OSError) as error:
            raise PermanentError(f"{url} did not give Parquet: {error}") from error


def disagreeing(
    known: tuple[Disagreement, ...], ids: Sequence[str], canary: FloatArray, stable: FloatArray
) -> tuple[Disagreement, ...]:
    """The largest disagreements of those that are known and of new rows, by the probabilities of both."""
    most = np.argsort(-np.abs(canary - stable), kind="stable")[:KEPT_DISAGREEMENTS]
    new = [
        Disagreement(id=ids[at], canary=float(canary[at]), stable=float(stable[at]))
        for at in most
        if canary[at] != stable[at]
    ]
    return tuple(sorted((*known, *new), key=lambda one: -abs(one.canary - one.stable))[:KEPT_DISAGREEMENTS])


def counted(counts: Counts, servers: Mapping[Side, Sequence[str]], fallbacks: int) -> Counts:
    """`counts` with what each predictor counted since it was read last; one that does not answer is read later.

    A server of the canary's side began with the roll-out, so all that it counted is the roll-out's; of stable's
    side that is so only for those that came later.
    """
    sides = {}
    bounds = counts.bounds
    for side, urls in servers.items():
        tally = counts.canary if side is Side.CANARY else counts.stable
        fresh = side is Side.STABLE and not tally.last
        for url in urls:
            try:
                bounds, now = scraped(url)
            except FraudError:
                continue
            earlier = now if fresh else tally.last.get(url, Counted())
            tally = Tally(
                last=tally.last | {url: now}, step=tally.step.plus(now.since(earlier)), before=tally.before
            )
        sides[side.value] = tally
    more = 0 if counts.fallbacks_last is None else max(fallbacks - counts.fallbacks_last, 0)
    update = {"bounds": bounds, "fallbacks": counts.fallbacks + more, "fallbacks_last": fallbacks}
    return counts.model_copy(update=sides | update)


def scraped(url: str) -> tuple[tuple[float, ...], Counted]:
    """Bounds of the latency histogram, and what the predictor at `url` has counted of scoring.

    Raises:
        FraudError: It does not answer, or not as a predictor does.
    """
    text = get(f"{url}/metrics", seconds=SCRAPE_SECONDS).decode()
    requests = errors = 0
    cumulative: dict[float, int] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "fraud_requests_total":
                requests += int(sample.value)
                errors += int(sample.value) if _is_fault(sample.labels["code"]) else 0
            elif sample.name == "fraud_request_seconds_bucket":
                bound = float(sample.labels["le"])
                cumulative[bound] = cumulative.get(bound, 0) + int(sample.value)
    bounds = tuple(sorted(cumulative))
    latency = np.diff([cumulative[bound] for bound in bounds], prepend=0).tolist()
    return bounds[:-1], Counted(requests=requests, errors=errors, latency=tuple(latency))


def _is_fault(code: str) -> bool:
    """Whether a request failed by the server's fault."""
    return code.startswith("5") if code.isdigit() else code in ("INTERNAL", "UNKNOWN", "UNAVAILABLE")


def _inputs(table: pa.Table) -> FloatArray:
    return np.column_stack([table[name].to_numpy() for name in INPUTS])


def _time(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat()


@lru_cache(maxsize=8)
def _scorer(bundles: BundleStore, version: str) -> Scorer:
    return bundles.load(version).scorer
