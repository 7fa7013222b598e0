"""What the detector's intake counts, in Prometheus' terms; read from its counts when asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from detectors.intake import Intake


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
        yield GaugeMetricFamily("fraud_events_waiting", "Events that wait to be stored.", value=events)
        yield GaugeMetricFamily("fraud_events_waiting_bytes", "Their bytes.", value=size)
        failing = float(counts.failing_since > 0)
        yield GaugeMetricFamily("fraud_store_failing", "Whether storing fails at present.", value=failing)


def _counter(name: str, documentation: str, label: str, values: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, documentation, labels=(label,))
    for value, count in list(values.items()):
        family.add_metric((value,), count)
    return family
