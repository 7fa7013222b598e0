"""What `--json` prints: documented, stable objects for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from fraudkit.errors import FraudError, InvalidRows
from fraudkit.estimate import Estimate

if TYPE_CHECKING:
    from pipelines.local import Finished


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class DataRecord(_Record):
    """The data of a run. `sha256` names their content whatever the order of rows, the file or the format."""

    uri: str
    sha256: str
    rows: int
    frauds: int
    duplicates: int
    natural_rate: float
    split: str
    split_reason: str
    holdout_rows: int
    holdout_frauds: int


class SampleRecord(_Record):
    """The balanced sample: rows per class asked for, legitimate rows per fraud, rows used."""

    per_class: int
    ratio: int
    rows: int


class GateRecord(_Record):
    """The gate's verdict."""

    outcome: str
    reason: str
    message: str


class TrainRecord(_Record):
    """What `fraudctl train --json` prints.

    `version` is the candidate's, registered or not; `bundle` is null where the gate said no. Every estimate in
    `metrics` is `{value, low, high}`.
    """

    run: str
    version: str
    bundle: str | None
    aliases: list[str]
    report: str
    data: DataRecord
    sample: SampleRecord
    metrics: dict[str, object]
    gate: GateRecord


class ErrorRecord(_Record):
    """What `--json` prints when the input was refused: the message, and each violation in words."""

    error: str
    violations: list[str] = []
    total: int = 0

    @classmethod
    def of(cls, error: FraudError) -> ErrorRecord:
        """The record of an error."""
        if isinstance(error, InvalidRows):
            return cls(error=str(error), violations=[str(v) for v in error.violations], total=error.total)
        return cls(error=str(error))


class VersionRecord(_Record):
    """A model version and how it came to serve."""

    version: str
    story: str


class WatchedRecord(_Record):
    """Rows of traffic, and how many windows had which verdict."""

    rows: int
    verdicts: dict[str, int]


class DetectionRecord(_Record):
    """After how many of its rows a drift was seen, and by which channels."""

    rows: int
    verdict: str
    channels: list[str]


class RunEndRecord(_Record):
    """A run: who asked, and how it ended."""

    key: str
    by: str
    version: str | None
    outcome: str
    reason: str
    message: str


class StepEndRecord(_Record):
    """A step of a roll-out."""

    percent: int
    requests: int
    outcome: str


class RolledOutRecord(_Record):
    """A roll-out."""

    version: str
    outcome: str
    reason: str
    steps: list[StepEndRecord]


class AuprcRecord(_Record):
    """AUPRC in the changed world by the first model and by the one that replaced it, on the same transactions."""

    before: Estimate
    after: Estimate
    difference: Estimate


class RequestsRecord(_Record):
    """Requests that clients sent, and those of them that failed."""

    sent: int
    failed: int


class TriggerRecord(_Record):
    """What asked for a run: `run` or `coalesced`, and how many runs came of it."""

    key: str
    state: str
    runs: int


class DemoRecord(_Record):
    """What `fraudctl demo --json FILE` writes; `unmet` names what should have held and did not."""

    seconds: float
    versions: list[VersionRecord]
    train: TrainRecord
    clean: WatchedRecord
    detection: DetectionRecord
    runs: list[RunEndRecord]
    rollouts: list[RolledOutRecord]
    auprc: AuprcRecord | None
    after: WatchedRecord
    requests: RequestsRecord
    triggers: list[TriggerRecord]
    unmet: list[str]


def train_record(finished: Finished) -> TrainRecord:
    """The record of a finished run."""
    evaluation, conclusion = finished.evaluation, finished.conclusion
    prepared, training, verdict = evaluation.prepared, evaluation.training, evaluation.verdict
    held = prepared.holdout
    return TrainRecord(
        run=conclusion.run,
        version=evaluation.version,
        bundle=str(conclusion.bundle) if conclusion.bundle else None,
        aliases=list(conclusion.aliases),
        report=conclusion.report,
        data=DataRecord(
            uri=prepared.uri,
            sha256=prepared.identity,
            rows=prepared.rows,
            frauds=prepared.frauds,
            duplicates=prepared.duplicates,
            natural_rate=prepared.natural_rate,
            split=held.rule.kind,
            split_reason=held.rule.why,
            holdout_rows=held.rows,
            holdout_frauds=held.frauds,
        ),
        sample=SampleRecord(per_class=training.per_class, ratio=training.ratio, rows=sum(training.used)),
        metrics=evaluation.document(),
        gate=GateRecord(outcome=verdict.outcome, reason=verdict.reason, message=verdict.message),
    )
