from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from detectors.clock import ClockRule

RULE = ClockRule(width=60.0, lateness=120.0, idle=300.0)
TIMES = st.floats(0, 1e10)


def test_a_bucket_closes_once_events_are_later_than_its_end_by_the_lateness() -> None:
    assert RULE.closed(high=59.0 + 120.0, received=0.0, now=0.0) == 0
    assert RULE.closed(high=60.0 + 120.0, received=0.0, now=0.0) == 1


def test_without_events_buckets_close_by_the_clock_of_the_machine() -> None:
    assert RULE.closed(high=60.0, received=100.0, now=399.0) == -1
    assert RULE.closed(high=60.0, received=100.0, now=400.0) == 4


@given(TIMES, TIMES, TIMES)
def test_an_event_within_the_lateness_finds_its_bucket_open(high: float, received: float, now: float) -> None:
    closed = RULE.closed(high, received, min(now, received))
    assert RULE.bucket(high - RULE.lateness) >= closed
