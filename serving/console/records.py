"""What the other parts say, as far as it is shown; here of runs and roll-outs. Times are seconds UTC."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Read(BaseModel):
    """What a part says; it may say more."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ModelRecord(Read):
    """A version that was rolled out."""

    version: str


class ServingRecord(Read):
    """Who serves, who is tried, and all versions that there were, oldest first."""

    champion: str | None
    challenger: str | None
    models: tuple[ModelRecord, ...] = ()


class RunRecord(Read):
    """A run: who asked for it and why, and what became of it; `handle` is what its backend finds it by."""

    key: str
    trigger: str
    state: str
    into: str | None
    status: str
    asked: float
    by: str
    reason: str
    evidence: dict[str, str]
    data_uri: str
    since: float | None
    as_of: float
    attempt: int
    handle: str | None
    started: float | None
    ended: float | None
    outcome: str | None
    outcome_reason: str | None
    message: str | None
    version: str | None

    @property
    def who(self) -> str:
        """Who asked, where a part did by its name in words."""
        return self.by.replace("/fraud-platform/", "the ")

    @property
    def became(self) -> str:
        """Its outcome, or how far it is."""
        return self.outcome or self.status


class RunsRecord(Read):
    """Runs, newest first."""

    runs: tuple[RunRecord, ...]


class StepRecord(Read):
    """A step that is over."""

    percent: int
    began: float
    ended: float
    requests: int
    outcome: str
    reason: str
    message: str


class HandRecord(Read):
    """What a person did."""

    at: float
    action: str
    by: str
    reason: str


class DisagreementRecord(Read):
    """A transaction, and the probability that each model gives it."""

    id: str
    canary: float
    stable: float


class CountsRecord(Read):
    """What was compared."""

    skew_rows: int = 0
    disagreements: tuple[DisagreementRecord, ...] = ()


class RolloutRecord(Read):
    """A roll-out."""

    id: str
    key: str
    version: str
    champion: str | None
    by: str
    reason: str
    asked: float
    status: str
    step: int
    counts: CountsRecord
    steps: tuple[StepRecord, ...]
    hands: tuple[HandRecord, ...]
    said: tuple[str, str, str]
    promoted_at: float | None
    ended: float | None

    @property
    def goes_on(self) -> bool:
        """Whether no other one may begin."""
        return self.ended is None and self.status != "provisional"

    @property
    def by_hand(self) -> str | None:
        """Who promoted it; None where the policy did."""
        at = self.promoted_at
        names = [one.by for one in self.hands if one.action == "promote" and at is not None and one.at <= at]
        return names[-1] if names else None


class RolloutsRecord(Read):
    """Roll-outs, newest first."""

    rollouts: tuple[RolloutRecord, ...]


class CheckRecord(Read):
    """A thing that a canary is judged by; `limit` is the least that is needed, or the most that is allowed."""

    name: str
    outcome: str
    canary: float | None
    stable: float | None
    limit: float | None
    at_least: bool
    message: str


class ChecksRecord(Read):
    """All that a canary is judged by now, and the percent of each step."""

    steps: tuple[int, ...]
    checks: tuple[CheckRecord, ...]
