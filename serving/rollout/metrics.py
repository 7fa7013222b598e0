"""What the controller says in Prometheus' terms; read from its state when asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from serving.rollout.controller import Controller
from serving.rollout.state import GOING_ON, State
from serving.rollout.troubles import OF


class RolloutMetrics(Collector):
    """Of one controller; before its state is loaded, what is wrong is all that there is to say.

    Args:
        controller: Whose.
        clock: The time [s, UTC].
    """

    def __init__(self, controller: Controller, clock: Callable[[], float] = time.time) -> None:
        self._controller = controller
        self._clock = clock

    def describe(self) -> Iterator[Metric]:
        """Nothing beforehand: what there is depends on the state."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """All metrics, for prometheus_client."""
        troubles = self._controller.troubles
        wrong = GaugeMetricFamily("fraud_rollout_trouble", "1 where something is wrong now.", labels=("of",))
        errors = CounterMetricFamily("fraud_rollout_errors", "How often something was wrong.", labels=("of",))
        now = troubles.now
        for what in OF:
            wrong.add_metric((what,), float(what in now))
            errors.add_metric((what,), troubles.errors[what])
        yield wrong
        yield errors
        if self._controller.known:
            yield from self._of(self._controller.known)

    def _of(self, state: State) -> Iterator[Metric]:
        rollout, goal = state.going_on, self._controller.goal
        status = GaugeMetricFamily(
            "fraud_rollout_status", "1 for the status of the roll-out that goes on.", labels=("status",)
        )
        for one in sorted(GOING_ON):
            status.add_metric((one.value,), float(rollout is not None and rollout.status is one))
        champion = GaugeMetricFamily("fraud_rollout_champion_info", "The model that serves.", labels=("version",))
        if state.champion:
            champion.add_metric((state.champion,), 1.0)
        yield status
        yield champion
        percent = goal.percent if goal else 0
        yield GaugeMetricFamily("fraud_rollout_percent", "The canary's share of the traffic.", value=percent)
        age = max(self._clock() - rollout.began, 0.0) if rollout else 0.0
        yield GaugeMetricFamily("fraud_rollout_step_seconds", "Since the step or way back began.", value=age)
        waits = float(state.provisional is not None)
        yield GaugeMetricFamily("fraud_rollout_provisional", "1 while labels may undo a promotion.", value=waits)
        yield GaugeMetricFamily(
            "fraud_rollout_outbox", "Events that a sink has not acknowledged.", value=len(state.outbox)
        )
