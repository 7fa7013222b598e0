"""Asks for a run when the policy says so: facts of store and launcher, a decision, an event in the outbox."""

from __future__ import annotations

from typing import Any

import httpx
import orjson
import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from detectors.evaluation import Evaluator, Kept
from detectors.outgoing import outgoing
from detectors.records import moment
from detectors.store.labels import LabelStore
from fraudkit.events import RetrainRequested, compact, drift_key
from fraudkit.policy.retrain import DriftFacts, Launched, decide
from fraudkit.policy.verdict import Verdict
from fraudkit.settings import Settings

log = structlog.get_logger()


class _Run(BaseModel):
    """What is read of a run in the launcher's answer."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str
    state: str
    outcome: str | None = None


class _Runs(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    runs: tuple[_Run, ...]


class Retraining:
    """The policy beside an evaluator.

    Args:
        evaluator: Whose state it goes by, and adds to.
        labels: What is known of outcomes.
        settings: All settings.
        client: Asks the launcher.
    """

    def __init__(self, evaluator: Evaluator, labels: LabelStore, settings: Settings, client: httpx.Client) -> None:
        self._evaluator = evaluator
        self._labels = labels
        self._settings = settings
        self._client = client

    def consider(self) -> Verdict[DriftFacts] | None:
        """Decide whether a run is asked for, and ask; None when nobody has to decide.

        Time is that of the events: the end of what was evaluated. A decision is kept when it is another than the
        last one, and a request with its key in one transaction with the state that knows of it.
        """
        kept = self._evaluator.kept
        if kept is None or (kept.episode.start is None and kept.decided is None):
            return None
        now = kept.cursor * self._settings.detector.bucket_seconds
        facts = self._facts(kept, now)
        verdict = decide(facts, self._settings.retrain, now)
        said = (str(verdict.outcome), verdict.reason)
        if verdict.passed and facts.start is not None:
            self._request(kept, facts, verdict, now)
        elif said != kept.decided:
            update = {"decided": None if facts.start is None else said}
            self._evaluator.write(kept.model_copy(update=update), {"decision": _row(kept, verdict, now)})
            log.info("no run asked for", reason=verdict.reason, message=verdict.message)
        return verdict

    def _request(self, kept: Kept, facts: DriftFacts, verdict: Verdict[DriftFacts], now: float) -> None:
        start, attempt = moment(facts.start or 0.0), kept.attempts + 1
        requested = RetrainRequested(
            key=drift_key(kept.version, start, attempt),
            version=kept.version,
            episode_start=start,
            as_of=moment(now),
            reason=verdict.message,
            verdict_id=f"{kept.version}-{kept.past[-1][0]}" if kept.past else compact(start),
        )
        after = kept.model_copy(
            update={
                "attempts": attempt,
                "requested": now,
                "frauds_then": facts.frauds,
                "decided": (str(verdict.outcome), verdict.reason),
            }
        )
        event = outgoing(requested, self._settings.events.source, now)
        self._evaluator.write(after, {"decision": _row(kept, verdict, now), "events": (event,)})
        log.info("run asked for", key=requested.key, message=verdict.message)

    def _facts(self, kept: Kept, now: float) -> DriftFacts:
        episode = kept.episode
        if episode.start is None:
            return DriftFacts(None, (), (), 0, kept.hours, Launched())
        frauds = self._labels.matured_frauds(episode.start, now)
        return DriftFacts(
            episode.start, episode.channels, episode.columns, frauds, kept.hours, self._launched(kept)
        )

    def _launched(self, kept: Kept) -> Launched | None:
        """What the launcher says of runs; None where it does not answer."""
        url = self._settings.events.launcher
        if url is None:
            return None
        try:
            active, last = (
                _Runs.model_validate_json(
                    self._client.get(f"{url}/v1/runs", params=params).raise_for_status().content
                )
                for params in (
                    {"active": "true"},
                    {"last": str(self._settings.retrain.rejected), "trigger": "drift"},
                )
            )
            unheard, own = self._own(url, kept)
        except (httpx.HTTPError, ValidationError) as error:
            log.warning("the launcher does not answer", url=url, error=str(error))
            return None
        return Launched(
            active=(*(run.key for run in active.runs), *unheard),
            outcomes=tuple(run.outcome or run.state for run in last.runs),
            attempts=kept.attempts,
            last=max([time for time in (kept.requested, kept.binding[2]) if time is not None]),
            frauds_then=kept.frauds_then,
            own=own,
        )

    def _own(self, url: str, kept: Kept) -> tuple[tuple[str, ...], str | None]:
        """The key of this drift's last request while the launcher has not heard of it; else how its run ended."""
        if not kept.attempts or kept.episode.start is None:
            return (), None
        key = drift_key(kept.version, moment(kept.episode.start), kept.attempts)
        answer = self._client.get(f"{url}/v1/runs/{key}")
        if answer.status_code == httpx.codes.NOT_FOUND:
            return (key,), None
        return (), _Run.model_validate_json(answer.raise_for_status().content).outcome


def _row(kept: Kept, verdict: Verdict[DriftFacts], now: float) -> dict[str, Any]:
    facts = orjson.loads(orjson.dumps(verdict.facts))
    return {
        "version": kept.version,
        "at": now,
        "outcome": str(verdict.outcome),
        "reason": verdict.reason,
        "decision": orjson.dumps({"message": verdict.message, "facts": facts}).decode(),
    }
