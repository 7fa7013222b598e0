"""The story of the demo, act by act: each asks the platform as its users do, waits, and says what came of it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

import httpx
import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.markup import escape

from detectors.records import WindowRecord
from fraudctl.asking import ask, who
from fraudctl.drift import fetch_history, fetch_status
from fraudctl.launch import PART as LAUNCHER
from fraudctl.launch import LaunchRecord, RunRecord, launch, runs
from fraudctl.platform import Platform
from fraudctl.rollout import RolloutRecord, begin, rollouts
from fraudctl.traffic import DAY_ROWS, MOVED, NEW_SHARE, RATE, Callers, Sent
from fraudkit import bundle
from fraudkit.bundle import Bundle, Origin
from fraudkit.errors import PermanentError
from fraudkit.estimate import Estimate
from fraudkit.events import CONTENT_TYPE, RetrainRequested, encode
from fraudkit.settings import Settings
from pipelines.data.sources import open_source
from pipelines.data.synthesize import SCHEMA, write
from pipelines.evaluation.resampling import paired_auprc, ranking_estimates

CALM: Final = 50
"""Requests a second while a run has the processors."""
MOST_ROWS: Final = 3 * DAY_ROWS
"""A drift that is not seen in so many rows is not."""
WAIT_SECONDS: Final = 180.0
ENOUGH: Final = 5_000
"""Outcomes by which a model that catches next to nothing is found out."""
SHUFFLED_BLOCKS: Final = 2
WEAKENED: Final = 0.1
_DONE: Final = frozenset({"provisional", "confirmed", "superseded", "rolled_back", "reversed", "stopped"})

_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True)
class Watched:
    """What the detector said of some traffic."""

    rows: int
    windows: tuple[WindowRecord, ...]

    @property
    def verdicts(self) -> dict[str, int]:
        """How many windows had each verdict."""
        return dict(Counter(str(window.verdict.level) for window in self.windows))


@dataclass(frozen=True, slots=True)
class Detection:
    """How a drift was seen: after how many of its rows, or that it was not."""

    rows: int
    verdict: str
    channels: tuple[str, ...]
    message: str


@dataclass(frozen=True, slots=True)
class Compared:
    """AUPRC of two models on the same transactions, and their difference."""

    before: Estimate
    after: Estimate
    difference: Estimate


class Story:
    """The acts.

    Args:
        platform: The parts.
        callers: Who asks it.
        settings: Its settings.
        data: The base data.
        out: Where it is told.
        status: Shows what goes on at the moment.
        began: When the demo did [s, monotonic].
    """

    def __init__(
        self,
        platform: Platform,
        callers: Callers,
        settings: Settings,
        data: str,
        out: Console,
        status: Callable[[str], None],
        began: float,
    ) -> None:
        self._began = began
        self._held: list[Sent] = []
        self._platform = platform
        self._callers = callers
        self._settings = settings
        self._data = data
        self._out = out
        self._status = status

    def clean(self) -> Watched:
        """Traffic as in the training data."""
        self._title("Clean traffic", f"{DAY_ROWS:,} transactions as the model knows them")
        return self._watched(new=False)[0]

    def drift(self) -> tuple[Detection, Sent]:
        """Another world: until it is seen, and a day of it is logged."""
        self._title("The world changes", f"V4, V10, V14 by +{MOVED} σ; a new fraud, {NEW_SHARE:.0%} of all")
        seen: list[WindowRecord] = []

        def over(sent: Sent) -> bool:
            self._moment(sent)
            if not seen:
                seen.extend(window for window in self._windows(sent.began) if window.verdict.level == "drift")
                if seen:
                    after = f"after {sent.until(seen[0].ends.timestamp()):,} transactions"
                    self._say(f"[bold red]drift[/] {after}: {escape(seen[0].verdict.message)}")
            return sent.rows >= (DAY_ROWS if seen else MOST_ROWS)

        sent = self._callers.flow(new=True, over=over)
        if not seen:
            status = str(fetch_status(self._platform.detector).status)
            self._say(f"no drift was seen in {sent.rows:,} transactions: {status}")
            return Detection(sent.rows, status, (), "no drift was seen"), sent
        verdict = seen[0].verdict
        channels = tuple(one.channel for one in verdict.channels if one.level == "drift")
        rows = sent.until(seen[0].ends.timestamp())
        return Detection(rows, str(verdict.level), channels, verdict.message), sent

    def retrain(self, drifted: Sent) -> RunRecord | None:
        """Outcomes come in; the detector asks for a run; it and its roll-out are followed to their end.

        No outcome comes back meanwhile, as in the field, where a canary has promoted long before the first
        chargeback: the promotion is provisional until `labels`.
        """
        self._title("Labels arrive", "and the detector decides on a run")
        self._say(f"{self._callers.report(drifted):,} outcomes reported")
        asked = self._until(lambda: next((run for run in self.runs() if run.key.startswith("drift-")), None), RATE)
        if asked is None:
            decision = fetch_status(self._platform.detector).decision
            self._say(f"no run was asked for: {escape(decision.message) if decision else 'nothing was decided'}")
            return None
        self._say(f"the detector asks for [bold]{asked.key}[/]: {escape(asked.reason)}")
        self._deliver_again(asked)
        return self._followed(asked.key)

    def after(self, before: Bundle, now: Bundle) -> tuple[Watched, Compared | None]:
        """The changed world under the model that serves now, and what it is worth there."""
        self._title("After", f"{DAY_ROWS:,} more transactions of the changed world, served by {now.version}")
        watched, sent = self._watched(new=True)
        self._held.append(sent)
        if before.version == now.version:
            return watched, None
        told = sent.transactions()
        labels = told.labels.astype(np.int64)
        one, other = (model.scorer.logits(told.rows) for model in (before, now))
        compared = Compared(
            ranking_estimates(labels, one)[0],
            ranking_estimates(labels, other)[0],
            paired_auprc(labels, one, other),
        )
        self._say(
            f"AUPRC there: {compared.before} by {before.version}, [bold]{compared.after}[/] by {now.version}; "
            f"difference {compared.difference}"
        )
        return watched, compared

    def refused(self) -> RunRecord:
        """A model that learned from shuffled labels meets the gate."""
        self._title("A bad model", "trained on shuffled labels, asked for by hand")
        path = self._settings.state / "data" / "shuffled.parquet"
        write(path, _shuffled(self._data, self._settings.sampling.seed))
        key, reason = "manual-shuffled-labels", "the demo: shuffled labels"
        launch(self._platform.launcher, key, str(path.absolute()), reason)
        return self._followed(key)

    def past_the_gate(self, champion: Bundle) -> RolloutRecord:
        """A weak model is rolled out without a gate."""
        self._title(
            "Another one, past the gate", f"the champion with weights × {WEAKENED}, posted to the controller"
        )
        weak = _weakened(champion, self._settings.state / "data")
        key = "manual-past-the-gate"
        begin(self._platform.controller, weak.version, key, who(), "the demo: a weak model")
        told: list[str] = []
        self._until(lambda: self._taking_traffic(key), CALM)
        ended = self._until(lambda: self._rolled_out(key, told), RATE, labels=ENOUGH)
        if ended is None:
            raise PermanentError(f"the roll-out {key} did not end within {WAIT_SECONDS:g} s")
        return ended

    def monthly(self) -> RunRecord:
        """The monthly schedule: no drift, and no label that the last run did not know."""
        self._title("The first of the month", "no drift, and nothing new to learn from")
        due = datetime.now(UTC).isoformat()
        body = {"trigger": "schedule", "scheduled_time": due, "by": "schedule", "reason": "the monthly run"}
        answer = ask(LAUNCHER, "POST", f"{self._platform.launcher}/v1/runs", body)
        return self._followed(LaunchRecord.model_validate_json(answer).key)

    def labels(self, run: RunRecord | None) -> RolloutRecord | None:
        """The outcomes of all that was sent since the run come in; what they make of its promotion."""
        self._title("More labels", "those of the time since the run")
        self._say(f"{sum(self._callers.report(sent) for sent in self._held):,} outcomes reported")
        if run is None or self._rollout(run.key) is None:
            return None
        judged = frozenset({"confirmed", "reversed", "superseded"})
        rollout = self._until(lambda: self._rollout(run.key, judged), CALM) or self._rollout(run.key)
        if rollout:
            self._say(f"[bold]{rollout.status}[/] · {rollout.said[1]}: {escape(rollout.said[2])}")
        return rollout

    def runs(self) -> tuple[RunRecord, ...]:
        """All runs that were asked for, oldest first."""
        return tuple(reversed(runs(self._platform.launcher, 100)))

    def rollouts(self) -> tuple[RolloutRecord, ...]:
        """All roll-outs, oldest first."""
        return tuple(reversed(rollouts(self._platform.controller)))

    def _watched(self, *, new: bool) -> tuple[Watched, Sent]:
        """A day of traffic, until all of it is in windows that have ended; its outcomes do not come back yet."""
        whole: list[float] = []

        def over(sent: Sent) -> bool:
            self._moment(sent)
            if not whole and sent.rows >= DAY_ROWS:
                whole.append(time.time())
            return bool(whole) and (self._judged() >= whole[0] or time.time() > whole[0] + WAIT_SECONDS)

        sent = self._callers.flow(new=new, over=over)
        watched = Watched(sent.rows, self._windows(sent.began))
        said = ", ".join(f"{count} {verdict}" for verdict, count in watched.verdicts.items())
        self._say(f"{watched.rows:,} transactions in {len(watched.windows)} windows: [bold]{said or 'none'}[/]")
        return watched, sent

    def _deliver_again(self, run: RunRecord) -> None:
        """The event once more, as a broker may deliver it: no second run comes of it."""
        history = fetch_history(self._platform.detector, 100)
        event = next(
            (
                event
                for event in history.events
                if event.type == RetrainRequested.type and event.data["key"] == run.key
            ),
            None,
        )
        if event is None:
            return
        body = encode(RetrainRequested.model_validate(event.data), self._settings.events.source, event.created)
        url = f"{self._platform.launcher}/"
        httpx.post(url, content=body, headers={"content-type": CONTENT_TYPE}, trust_env=False).raise_for_status()
        self._say("the event is delivered a second time, as brokers do")

    def _followed(self, key: str) -> RunRecord:
        """Follow a run, and its roll-out where it comes to one, to their end.

        Raises:
            PermanentError: It does not come to an end.
        """
        told: list[str] = []

        def ended() -> RunRecord | None:
            self._rolled_out(key, told)
            return next((run for run in self.runs() if run.key == key and run.status == "ended"), None)

        self._until(lambda: ended() or self._rollout(key), CALM)
        run = self._until(ended, RATE)
        if run is None:
            raise PermanentError(f"the run {key} did not end within {WAIT_SECONDS:g} s")
        version = f" ({run.version})" if run.version else ""
        self._say(f"[bold]{run.outcome}[/]{version} · {run.outcome_reason}: {escape(run.message or '')}")
        return run

    def _rollout(self, key: str, statuses: frozenset[str] | None = None) -> RolloutRecord | None:
        """A roll-out, once it has one of these statuses."""
        found = next((one for one in rollouts(self._platform.controller) if one.key == key), None)
        return found if found and (statuses is None or found.status in statuses) else None

    def _taking_traffic(self, key: str) -> RolloutRecord | None:
        """A roll-out, once its canary takes traffic, or it has ended."""
        rollout = self._rollout(key)
        return rollout if rollout and (rollout.settled or rollout.status in _DONE) else None

    def _rolled_out(self, key: str, told: list[str]) -> RolloutRecord | None:
        """Say what is new of a roll-out; the roll-out once it has ended."""
        rollout = self._rollout(key)
        if rollout is None:
            return None
        if not told:
            told.append(f"{rollout.version} beside {rollout.champion}")
            self._say(f"canary {told[0]}")
        for step in rollout.steps[len(told) - 1 :]:
            told.append(
                f"{step.percent:>3} %  {step.requests:>4,} requests  {step.outcome}  {escape(step.message)}"
            )
            self._say(told[-1])
        if rollout.status not in _DONE:
            return None
        if told[-1] != rollout.status:
            told.append(rollout.status)
            self._say(f"[bold]{rollout.status}[/] · {rollout.said[1]}: {escape(rollout.said[2])}")
        return rollout

    def _until(self, found: Callable[[], _Found | None], rate: int, *, labels: int = 0) -> _Found | None:
        """Send transactions of the changed world until something is found; None where it is not in time."""
        deadline = time.monotonic() + WAIT_SECONDS
        what: list[_Found] = []

        def over(sent: Sent) -> bool:
            self._moment(sent)
            answer = found()
            if answer is not None:
                what.append(answer)
            return answer is not None or time.monotonic() > deadline

        sent = self._callers.flow(new=True, over=over, rate=rate, labels=labels)
        self._held.append(sent)
        return what[0] if what else None

    def _windows(self, since: float) -> tuple[WindowRecord, ...]:
        """Windows that began since [s, UTC], oldest first."""
        history = fetch_history(self._platform.detector, 1_000)
        return tuple(window for window in reversed(history.windows) if window.begins.timestamp() >= since)

    def _judged(self) -> float:
        """Until when traffic has been brought to a verdict [s, UTC]."""
        window = fetch_status(self._platform.detector).window
        return window.ends.timestamp() if window else 0.0

    def _moment(self, sent: Sent) -> None:
        """What goes on now; parts that have died are started again."""
        self._platform.look_after()
        failed = f" · {len(self._callers.failed):,} failed" if self._callers.failed else ""
        self._status(f"{sent.rows:,} transactions in this act · {self._callers.sent:,} requests in all{failed}")

    def _title(self, title: str, what: str) -> None:
        passed = f"[dim]{time.monotonic() - self._began:.0f} s[/]"
        self._out.print(f"\n{passed} [bold cyan]{title}[/]: {what}", highlight=False, soft_wrap=True)

    def _say(self, text: str) -> None:
        self._out.print(f"  {text}", highlight=False, soft_wrap=True)


def _weakened(champion: Bundle, scratch: Path) -> Bundle:
    """A bundle like the champion, that hardly tells frauds apart."""
    scorer = champion.scorer
    weak = replace(scorer, weights=tuple(WEAKENED * weight for weight in scorer.weights)).rounded()
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        draft = Path(folder) / "draft"
        shutil.copytree(champion.path, draft)
        (draft / bundle.SCORER).write_bytes(weak.to_json())
        told = champion.manifest.model_dump(include=set(Origin.model_fields))
        own = {
            "run": "demo",
            "trigger": "manual-past-the-gate",
            "by": who(),
            "reason": "a weak model for the demo",
        }
        origin = Origin(**told | own | {"parent": champion.version})
        return bundle.seal(draft, champion.path.parent, origin)


def _shuffled(uri: str, seed: int) -> Iterator[pa.RecordBatch]:
    """The first transactions of a data set, with the labels of others."""
    rng = np.random.default_rng(seed)
    with open_source(uri) as source:
        for block in islice(source.blocks(), SHUFFLED_BLOCKS):
            columns = [*block.columns[:-1], rng.permutation(block.labels).astype(np.int8)]
            yield pa.record_batch([pa.array(column) for column in columns], schema=SCHEMA)
