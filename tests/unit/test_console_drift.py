"""How the console tells drift: places on the axis of time, shades, what happened, and drawings."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

import pytest
from starlette.datastructures import QueryParams

from serving.console import charts
from serving.console.course import course_of, place, shade
from serving.console.records import RolloutsRecord, RunRecord, RunsRecord
from serving.console.verdicts import (
    ChannelRecord,
    EventRecord,
    HistogramRecord,
    HistoryRecord,
    StatisticRecord,
    VerdictRecord,
    WindowRecord,
    happenings,
)
from serving.console.views.drift import Asked, beside

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)


def statistic(
    value: float, subject: str = "V4", name: str = "p_value", threshold: float = 1e-6
) -> StatisticRecord:
    beyond = value < threshold if name.startswith("p_value") else value > threshold
    return StatisticRecord(name=name, subject=subject, value=value, threshold=threshold, beyond=beyond)


def window(minute: int, level: str = "stable", *statistics: StatisticRecord, version: str = "a") -> WindowRecord:
    begins = NOON + timedelta(minutes=minute)
    channel = ChannelRecord(channel="inputs", level=level, message="said", statistics=statistics)
    verdict = VerdictRecord(level=level, message="said", channels=(channel,))
    ends = begins + timedelta(minutes=5)
    return WindowRecord(id=f"w{minute}", version=version, begins=begins, ends=ends, rows=1_000, verdict=verdict)


NOTHING = HistoryRecord(windows=(), events=(), decisions=())
NO_RUNS, NO_ROLLOUTS = RunsRecord(runs=()), RolloutsRecord(rollouts=())


def test_a_time_lies_in_its_window_and_the_time_between_two_windows_has_no_width() -> None:
    windows = [window(0), window(60)]
    minutes = {-5: 0.0, 0: 0.0, 2: 0.4, 5: 1.0, 30: 1.0, 60: 1.0, 61: 1.2, 300: 2.0}
    for minute, wanted in minutes.items():
        assert place(windows, NOON + timedelta(minutes=minute)) == pytest.approx(wanted), minute
    assert place([], NOON) == 0.0


def test_a_p_value_of_none_at_all_is_as_far_as_can_be_and_every_step_has_its_shade() -> None:
    assert statistic(1e-6).relative == pytest.approx(1.0)
    assert math.isfinite(statistic(0.0).relative)
    values = (0.5, 1e-4, 1e-7, 1e-10, 0.0)
    shades = [shade(statistic(value)) for value in values]
    assert shades == ["heat near-1", "heat near-2", "heat beyond-1", "heat beyond-2", "heat beyond-3"]
    assert statistic(15.0, name="larger", threshold=5.0).relative == 3.0


def test_parameters_that_are_not_known_are_as_if_they_were_not_given() -> None:
    assert Asked.of(QueryParams("last=7&feature=V99")) == Asked()
    asked = Asked.of(QueryParams("last=48&feature=V14&window=x%26y"))
    assert asked == Asked(48, "x&y", "V14")
    assert asked.href("x&y") == "/drift?last=48&window=x%26y&feature=V14#window"


def test_what_happened_is_told_newest_first_by_all_parts_with_sinks_that_wait() -> None:
    event = EventRecord.model_validate(
        {
            "type": "io.fraudplatform.drift.detected.v1",
            "created": NOON,
            "data": {"version": "a", "message": "V4 moved", "evidence": []},
            "undelivered": ["broker"],
        }
    )
    decision = {"at": NOON, "outcome": "inconclusive", "reason": "too_few_frauds", "message": "needs 100, has 3"}
    history = HistoryRecord.model_validate(
        {"windows": [], "events": [event], "decisions": [decision | {"facts": {"frauds": 3, "start": 1.0}}]}
    )
    at = NOON.timestamp()
    run = dict.fromkeys(RunRecord.model_fields) | {"state": "run", "status": "ended", "by": "x", "reason": "moved"}
    run |= {"asked": at, "as_of": at, "attempt": 1, "evidence": {}, "data_uri": "base.csv"}
    run |= {"trigger": "drift", "ended": at + 60, "outcome": "promoted", "message": "better"}
    runs = RunsRecord.model_validate(
        {
            "runs": [
                run | {"key": "one"},
                run | {"key": "two", "trigger": "manual"},
                run | {"key": "3", "ended": None},
            ]
        }
    )
    rollout = {"version": "b", "champion": "a", "by": "x", "reason": "better", "promoted_at": at + 50}
    rollout |= {"id": "r2", "key": "one", "asked": at, "step": 3, "counts": {}, "steps": [], "hands": []}
    ended = {"status": "reversed", "ended": at + 90, "said": ["fail", "contradicted", "labels speak against it"]}
    rollouts = RolloutsRecord.model_validate({"rollouts": [rollout | ended]})
    told = happenings(history, runs, rollouts)
    assert [one.title for one in told] == [
        "Rolled back",
        "Run ended: promoted",
        "Promoted",
        "Drift detected",
        "Decided: wait",
    ]
    assert "labels speak against it" in told[0].text
    assert "not acknowledged yet by broker" in told[3].text
    assert told[4].facts == "too few frauds: 3 matured frauds"
    assert [one.href for one in told] == ["/models/b", "/runs/one", "/models/b", "", ""]
    assert [one.marked for one in told] == [True, False, True, True, False]


def test_flags_are_numbered_in_time_and_name_what_the_list_names() -> None:
    drifted = {5: [statistic(0.0)], 60: [statistic(0.0)]}
    windows = [
        window(minute, "stable", *drifted.get(minute, ()), version="a" if minute < 75 else "b")
        for minute in range(0, 150, 5)
    ]
    events = [
        {
            "type": "io.fraudplatform.drift.cleared.v1",
            "created": NOON + timedelta(minutes=minute),
            "data": {"version": "a"},
        }
        for minute in (9, 8, -60)
    ]
    history = HistoryRecord.model_validate({"windows": windows, "events": events, "decisions": []})
    course = course_of(windows, happenings(history, NO_RUNS, NO_ROLLOUTS), Asked().href, "w5")
    assert [number for number, _ in course.listed] == [2, 1]  # what was before the windows is left out
    assert all(f"#happening-{number}" in course.strip for number in (1, 2))
    assert "#happening-3" not in course.strip
    assert course.strip.count("chosen") == 1
    assert "model b" in course.strip
    assert [(one.column, one.beyond, one.last and one.last.id) for one in course.told] == [("V4", 2, "w60")]
    assert course.heat.count("beyond-3") == 2


def test_the_gap_beside_the_reference_is_that_of_cumulative_shares() -> None:
    histogram = HistogramRecord(
        column="V1", edges=(0.0, 1.0, 2.0, 3.0), observed=(0.5, 0.2, 0.3), expected=(0.2, 0.4, 0.4)
    )
    found = beside(histogram, 400)
    assert found.gap == pytest.approx(0.3)
    assert found.chance == pytest.approx(0.068)


def test_every_drawing_is_well_formed_and_escapes_what_it_is_given() -> None:
    bad = 'V"<1>&'
    mark = charts.Mark("drift", 1.0, bad, f"/drift?a=1&b={bad}", chosen=True)
    drawings = [
        charts.strip([mark], [(0.5, "1", bad), (0.5, "2", bad)], [(0, bad)], [(0, bad)], bad),
        charts.heat([bad], 1, [charts.Cell(0, 0, "heat", bad, f"/x?{bad}")], [(0, bad)], bad),
        charts.steps([(bad, [1.0, None, 2.0]), (bad, [])], 5.0, [(0.0, bad)], bad),
        charts.overlay([0.5, 0.5], [1.0, 0.0], [(1.0, bad)], bad),
        charts.pairs([(bad, 0.3, -0.1)], bad),
        charts.strip([], [], [], [], bad),
        charts.pairs([], bad),
    ]
    for drawing in drawings:
        root = ElementTree.fromstring(str(drawing))  # noqa: S314  # drawn here
        assert root.attrib["aria-label"] == bad
        assert "style=" not in drawing
