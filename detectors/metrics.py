"""What the detector counts and says, in Prometheus' terms; read from its counts and its store when asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from detectors.api.drift import status
from detectors.intake import Intake
from detectors.records import Status
from detectors.store.verdicts import VerdictStore
from fraudkit.settings import DetectorSettings


class IntakeMetrics(Collector):
    """The counts of one intake."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def collect(self) -> Iterator[Metric]:
        """All metrics, for prometheus_client."""
        intake, counts = self._intake, self._intake.counts
        outcomes = {
            "stored": counts.new,
            "repeated": counts.repeated,
            "dropped": counts.dropped,
            "lost": counts.lost,
            "rejected": sum(counts.rejected.values()),
            "ignored": sum(counts.ignored.values()),
        }
        yield _counter("fraud_events", "Log events by what became of them.", "outcome", outcomes)
        yield _counter("fraud_events_rejected", "Events by what is wrong.", "reason", counts.rejected)
        yield _counter("fraud_rows_rejected", "Rows of rejected requests.", "reason", counts.rejected_rows)
        yield _counter("fraud_events_ignored", "Events that are not for the log.", "reason", counts.ignored)
        marks = {"late": counts.late, "duplicate_id": counts.clashes}
        yield _counter(
            "fraud_requests_marked", "Requests that are in no window, or never labelled.", "mark", marks
        )
        number = GaugeMetricFamily("fraud_intake_seq", "Number of the last event taken.", labels=("replica",))
        durable = GaugeMetricFamily("fraud_durable_seq", "What is below survives anything.", labels=("replica",))
        number.add_metric((intake.replica,), counts.taken)
        durable.add_metric((intake.replica,), counts.durable)
        events, size = intake.waiting
        yield number
        yield durable
        yield _gauge("fraud_events_waiting", "Events that wait to be stored.", events)
        yield _gauge("fraud_events_waiting_bytes", "Their bytes.", size)
        failing = float(counts.failing_since > 0)
        yield _gauge("fraud_store_failing", "Whether storing fails at present.", failing)


def _counter(name: str, documentation: str, label: str, values: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, documentation, labels=(label,))
    for value, count in list(values.items()):
        family.add_metric((value,), count)
    return family


class DriftMetrics(Collector):
    """What the evaluator wrote; nothing while the database is away, which the intake's metrics say.

    Args:
        store: Reads it.
        settings: When a verdict is stale.
        clock: The time [s, UTC].
    """

    def __init__(
        self, store: VerdictStore, settings: DetectorSettings, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock

    def describe(self) -> Iterator[Metric]:
        """Nothing beforehand: to collect is to ask the database, which may be away."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """All metrics, for prometheus_client."""
        try:
            now, undelivered = self._store.now(), self._store.undelivered()
        except SQLAlchemyError:
            return
        record = status(now, self._settings, self._clock())
        said = GaugeMetricFamily("fraud_drift_status", "1 for the verdict that holds now.", labels=("status",))
        for one in Status:
            said.add_metric((one.value,), float(record.status is one))
        version = GaugeMetricFamily("fraud_drift_model_info", "The model that is watched.", labels=("version",))
        version.add_metric((record.version or "",), 1.0)
        yield said
        yield version
        if record.window:
            end = record.window.ends.timestamp()
            yield _gauge("fraud_drift_window_end_timestamp_seconds", "End of the last window.", end)
        if record.last_event:
            last = record.last_event.timestamp()
            yield _gauge("fraud_last_event_timestamp_seconds", "When an event was stored last.", last)
        yield _gauge("fraud_events_undelivered", "Events that a sink has not acknowledged.", undelivered)


def _gauge(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, documentation, value=value)
