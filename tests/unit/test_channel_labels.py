from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.channels import Level
from detectors.channels.labels import LabelFacts, read
from fraudkit.policy.drift import LabelsRule

HOLDOUT = LabelFacts(frauds=95, caught=78, alerts=300, true_alerts=78)


def test_frauds_that_are_caught_as_before_are_stable() -> None:
    reading = read(LabelFacts(200, 160, 600, 160), HOLDOUT, LabelsRule())
    assert reading.level is Level.STABLE
    assert reading.message.startswith("160 of 200 frauds caught, 160 of 600 alerts true; on the holdout 78 of 95")


def test_a_recall_that_fell_surely_is_drift() -> None:
    assert read(LabelFacts(200, 80, 600, 150), HOLDOUT, LabelsRule()).level is Level.DRIFT


def test_a_precision_that_fell_is_a_warning() -> None:
    assert read(LabelFacts(200, 160, 2_000, 160), HOLDOUT, LabelsRule()).level is Level.WARNING


def test_few_frauds_say_nothing() -> None:
    assert read(LabelFacts(29, 0, 20, 0), HOLDOUT, LabelsRule()).level is Level.INSUFFICIENT_DATA
    assert read(LabelFacts(200, 0, 0, 0), LabelFacts(0, 0, 0, 0), LabelsRule()).level is Level.INSUFFICIENT_DATA


@pytest.mark.parametrize("frauds", [0, 5, 29])
def test_alerts_as_true_as_before_say_nothing_of_frauds_that_are_too_few(frauds: int) -> None:
    reading = read(LabelFacts(frauds, 0, 600, 160), HOLDOUT, LabelsRule())
    assert reading.level is Level.INSUFFICIENT_DATA
    assert reading.message == f"{frauds} frauds have matured, 30 are needed"
    assert [one.subject for one in reading.statistics] == ["precision"]


def test_a_holdout_of_few_frauds_says_so() -> None:
    reading = read(LabelFacts(200, 0, 600, 160), LabelFacts(12, 9, 300, 78), LabelsRule())
    assert reading.level is Level.INSUFFICIENT_DATA
    assert reading.message == "200 frauds have matured, 30 are needed; the holdout has 12"


def test_a_precision_that_fell_is_a_warning_however_few_the_frauds_are() -> None:
    assert read(LabelFacts(5, 0, 600, 10), HOLDOUT, LabelsRule()).level is Level.WARNING


def test_frauds_are_enough_where_alerts_are_few() -> None:
    assert read(LabelFacts(200, 160, 10, 5), HOLDOUT, LabelsRule()).level is Level.STABLE


def test_of_equal_models_few_are_called_drifted() -> None:
    random = np.random.default_rng(0)
    levels = []
    for _ in range(2_000):
        before, now = random.binomial(95, 0.8), random.binomial(120, 0.8)
        levels.append(read(LabelFacts(120, now, 0, 0), LabelFacts(95, before, 0, 0), LabelsRule()).level)
    assert levels.count(Level.DRIFT) <= 1
    assert levels.count(Level.WARNING) <= 6


@given(st.integers(30, 300), st.data())
def test_fewer_caught_frauds_never_look_better(frauds: int, data: st.DataObject) -> None:
    caught = data.draw(st.integers(1, frauds))
    order = [Level.STABLE, Level.WARNING, Level.DRIFT]
    more, fewer = (read(LabelFacts(frauds, n, 0, 0), HOLDOUT, LabelsRule()).level for n in (caught, caught - 1))
    assert order.index(fewer) >= order.index(more)


def test_more_caught_than_there_are_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="more caught or true"):
        LabelFacts(1, 2, 0, 0)
