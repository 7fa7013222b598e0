"""One step of the evaluator after another: bind to a promoted model, or bring the next closed window to a verdict.

A step reads what can no longer change, and writes its outcome with its new state in one transaction. Killed at any
moment and started again, it computes the same once more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
import structlog
from pydantic import BaseModel, ConfigDict

from detectors.channels import Reading
from detectors.channels.labels import LabelFacts
from detectors.clock import ClockRule
from detectors.engines import load_engine
from detectors.episodes import EpisodeState, Judged, judge
from detectors.outgoing import happenings
from detectors.records import InfluenceRecord, VerdictRecord, channels_of
from detectors.reference import HOURS, Reference
from detectors.store.labels import LabelStore
from detectors.store.log import Binding
from detectors.store.windows import Change, WindowStore
from detectors.watch import Seen, State, Watch, WindowFacts
from detectors.windows import Window, WindowRule, cut
from fraudkit.bundle_store import BundleStore
from fraudkit.errors import BundleError
from fraudkit.settings import Settings

log = structlog.get_logger()

TRACE_POINTS: Final = 200
"""Points of a trace that are kept of a window."""
INFLUENTIAL: Final = 10
"""Features that are kept of a window, the most influential."""


class Kept(BaseModel):
    """The state of the evaluator as it is stored.

    Attributes:
        binding: Id, version and time of the promotion that it is bound to.
        cursor: Buckets below are evaluated.
        past: First bucket and bucket after the last of the windows that the channels remember, oldest first.
        channels: The rest of what they remember.
        episode: What the verdicts remember.
        hours: Rows by hour of day since the drift that is going on began [24].
        attempts: Runs that were asked for by it.
        requested: When the last of them was [s, UTC].
        frauds_then: Matured frauds of this drift at that time.
        decided: The last decision on a run: outcome and reason.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    binding: tuple[str, str, float]
    cursor: int
    past: tuple[tuple[int, int], ...] = ()
    channels: str
    episode: EpisodeState = EpisodeState()
    hours: tuple[int, ...] = (0,) * HOURS
    attempts: int = 0
    requested: float | None = None
    frauds_then: int = 0
    decided: tuple[str, str] | None = None

    @property
    def version(self) -> str:
        """The model that is watched."""
        return self.binding[1]


@dataclass(frozen=True, slots=True)
class Bound:
    """What is computed with while one model is watched, and what its last window left."""

    kept: Kept
    watch: Watch
    holdout: LabelFacts
    state: State


class Evaluator:
    """Brings closed windows to verdicts.

    Args:
        store: The evaluator's view of the database.
        labels: What is known of outcomes.
        settings: All settings.
        clock: The time [s, UTC].
    """

    def __init__(
        self,
        store: WindowStore,
        labels: LabelStore,
        settings: Settings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        detector = settings.detector
        self._store = store
        self._labels = labels
        self._settings = settings
        self._clock = clock
        self._rule = WindowRule(detector.window_rows, detector.window_buckets, detector.window_least)
        self._time = ClockRule(detector.bucket_seconds, detector.lateness_seconds, detector.idle_seconds)
        self._step, state = store.state()
        self._bound = self._restored(Kept.model_validate_json(state)) if state else None

    @property
    def kept(self) -> Kept | None:
        """The state after the last step; None before a model was promoted."""
        return self._bound.kept if self._bound else None

    def advance(self) -> bool:
        """Do what is next, if anything is; returns whether there was.

        Raises:
            sqlalchemy.exc.DBAPIError: The database is away; nothing was written, as far as is known.
            PermanentError: Another evaluator works on this database.
            BundleError: The model to be bound to cannot be read.
        """
        closed = self._close()
        former = Binding(*self._bound.kept.binding) if self._bound else None
        promoted = self._store.next_binding(former)
        if self._bound is None:
            return promoted is not None and self._bind(promoted)
        cursor = self._bound.kept.cursor
        end = closed if promoted is None else min(closed, max(self._begins(promoted), cursor))
        window = self._next_window(cursor, end)
        if window:
            self._evaluate(self._bound, window)
            return True
        return promoted is not None and closed >= self._begins(promoted) and self._bind(promoted)

    def write(self, kept: Kept, change: dict[str, Any]) -> None:
        """Write `kept` as the state of the next step, and what comes with it: members of `Change`."""
        assert self._bound is not None  # noqa: S101  # there is no state before a model is bound
        self._write(Bound(kept, self._bound.watch, self._bound.holdout, self._bound.state), change)

    def _close(self) -> int:
        arrivals = self._store.arrivals()
        if arrivals is None:
            return 0
        return self._store.close(self._time.closed(arrivals.high, arrivals.received, self._clock()))

    def _next_window(self, cursor: int, end: int) -> Window | None:
        """The first window from `cursor` on that has ended; of a long backlog no more than that is read."""
        first = self._store.first_bucket(cursor, end)
        if first is None:
            return None
        closed = min(end, first + self._rule.buckets)
        ended = cut(self._store.buckets(first, closed), closed, self._rule).ended
        return ended[0] if ended else None

    def _begins(self, promoted: Binding) -> int:
        """The first bucket in which every row came after the promotion."""
        return self._time.bucket(promoted.time) + 1

    def _bind(self, promoted: Binding) -> bool:
        """Watch the promoted model from its first whole bucket on; what its predecessor left open ends there."""
        cursor = self._begins(promoted)
        if self._bound:
            cursor = max(cursor, self._bound.kept.cursor)
        state = State()
        binding = (promoted.id, promoted.version, promoted.time)
        watch, holdout = self._opened(promoted.version)
        self._write(Bound(Kept(binding=binding, cursor=cursor, channels=state.dump()), watch, holdout, state), {})
        log.info("bound to a model", version=promoted.version, first_bucket=cursor)
        return True

    def _evaluate(self, bound: Bound, window: Window) -> None:
        content = self._store.content(window)
        day = window.start // self._settings.detector.slow_buckets
        seen = bound.watch.read(WindowFacts(content.rows, content.rejected, day), bound.state)
        readings = (*seen.readings, *self._labelled(bound, seen, window))
        begins, ends = self._seconds(window.start), self._seconds(window.end)
        judged = judge(readings, ends, bound.kept.episode, self._settings.drift.episode)
        name = f"{bound.kept.version}-{window.start}"
        events = happenings(bound.kept.version, name, begins, ends, readings, judged, self._settings.events.source)
        kept = self._after(bound.kept, window, seen, judged)
        row = {
            "id": name,
            "version": bound.kept.version,
            "start": window.start,
            "end": window.end,
            "begins": begins,
            "ends": ends,
            "rows": len(content.rows),
            "level": str(judged.level),
            "verdict": _record(judged, seen, readings).model_dump_json(),
            "hours": orjson.dumps(seen.hours.tolist()).decode(),
            "histogram": seen.counts.astype("<u4").tobytes(),
            "traces": _thinned(seen).astype("<f8").tobytes(),
        }
        self._write(Bound(kept, bound.watch, bound.holdout, seen.state), {"window": row, "events": events})
        log.info("window evaluated", id=name, rows=len(content.rows), verdict=str(judged.level))

    def _labelled(self, bound: Bound, seen: Seen, window: Window) -> tuple[Reading, ...]:
        """The labels are looked at once a day, when the first window of the next has ended."""
        before, after = bound.state.day, seen.state.day
        if before is None or after is None or before.number == after.number:
            return ()
        facts = self._labels.facts(bound.kept.version, bound.kept.binding[2], self._seconds(window.end))
        return (bound.watch.labels(facts, bound.holdout),)

    def _after(self, kept: Kept, window: Window, seen: Seen, judged: Judged) -> Kept:
        spans = (*kept.past, (window.start, window.end))
        goes_on = judged.state.start is not None
        same = goes_on and judged.state.start == kept.episode.start
        inside = goes_on and judged.state.start != self._seconds(window.end)
        hours = tuple((np.array(kept.hours) * same + seen.all_hours * inside).tolist())
        return Kept(
            binding=kept.binding,
            cursor=window.end,
            past=spans[len(spans) - len(seen.state.past) :],
            channels=seen.state.dump(),
            episode=judged.state,
            hours=hours,
            attempts=kept.attempts if same else 0,
            requested=kept.requested if same else None,
            frauds_then=kept.frauds_then if same else 0,
            decided=kept.decided,
        )

    def _restored(self, kept: Kept) -> Bound:
        watch, holdout = self._opened(kept.version)
        past = [self._store.content(Window(start, end, 0)).rows for start, end in kept.past]
        return Bound(kept, watch, holdout, watch.restore(kept.channels, past))

    def _opened(self, version: str) -> tuple[Watch, LabelFacts]:
        """The channels of a model, and the labels of its holdout, from its bundle."""
        from detectors.holdout import holdout_labels

        bundle = BundleStore.of(self._settings).load(version)
        if bundle.version != version:
            raise BundleError(f"{bundle.path} holds version {bundle.version}, not {version}")
        reference = Reference.of(bundle)
        engine = load_engine(self._settings.detector.engine, reference)
        watch = Watch(bundle.scorer, reference, engine, self._settings.drift, self._rule.least)
        return watch, holdout_labels(bundle)

    def _seconds(self, bucket: int) -> float:
        return bucket * self._settings.detector.bucket_seconds

    def _write(self, bound: Bound, change: dict[str, Any]) -> None:
        written = Change(bound.kept.model_dump_json(), **change)
        self._step = self._store.change(self._step, written, self._settings.events.sinks, self._clock())
        self._bound = bound


def _record(judged: Judged, seen: Seen, readings: tuple[Reading, ...]) -> VerdictRecord:
    return VerdictRecord(
        level=judged.level,
        reason=judged.reason,
        message=judged.message,
        episode=judged.state.start,
        untested=seen.untested,
        channels=channels_of(readings),
        influence=tuple(
            InfluenceRecord(feature=one.feature, mean_change=one.mean_change, spread_change=one.spread_change)
            for one in seen.influence[:INFLUENTIAL]
        ),
    )


def _thinned(seen: Seen) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The sums of the alert rate [2, points]: of each stretch of rows the highest, so that no alarm is lost."""
    traces = np.stack([seen.rate.up, seen.rate.down])
    points = min(traces.shape[1], TRACE_POINTS)
    if not points:
        return traces
    parts = np.array_split(np.arange(traces.shape[1]), points)
    return np.stack([traces[:, part].max(axis=1) for part in parts], axis=1)
