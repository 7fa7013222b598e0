from __future__ import annotations

import numpy as np
import pytest

from detectors.channels import Level
from detectors.channels.quality import Quality
from detectors.reference import COLUMNS, Reference, Values
from fraudkit.policy.drift import QualityRule


def values_of(rows: int, seed: int) -> Values:
    return np.random.default_rng(seed).normal(0, 1, (rows, len(COLUMNS))).astype(np.float32)


@pytest.fixture(scope="module")
def quality() -> Quality:
    return Quality(Reference(values_of(24_000, 0), np.sort(np.arange(24_000) % 24), by_time=True), QualityRule())


def test_sound_windows_are_stable(quality: Quality) -> None:
    assert {quality.read(values_of(1_000, seed), [("null", 5)]).level for seed in range(1, 50)} == {Level.STABLE}


def test_rejected_rows_beyond_what_may_be_are_a_warning_with_their_reasons(quality: Quality) -> None:
    reading = quality.read(values_of(900, 1), [("null", 20), ("wrong_width", 80)])
    assert reading.level is Level.WARNING
    assert reading.message.startswith("10.0% of rows were rejected, 1.0% may be; 8.0% of rows (wrong_width)")
    assert [one.subject for one in reading.statistics] == ["all", "wrong_width", "null"]


def test_a_few_rejected_rows_of_few_are_chance(quality: Quality) -> None:
    assert quality.read(values_of(20, 1), [("null", 1)]).level is Level.STABLE


def test_a_column_that_stands_still_is_named(quality: Quality) -> None:
    values = values_of(500, 1)
    values[:, 6] = 0.0
    reading = quality.read(values, [])
    assert (reading.level, reading.message) == (Level.WARNING, "V7 stands still")
    assert quality.read(values[:199], []).level is Level.STABLE


def test_a_column_that_stands_still_in_the_reference_may_do_so() -> None:
    still = values_of(24_000, 0)
    still[:, 6] = 1.0
    quality = Quality(Reference(still, np.sort(np.arange(24_000) % 24), by_time=True), QualityRule())
    assert quality.read(still[:500], []).level is Level.STABLE


def test_values_of_another_unit_are_named(quality: Quality) -> None:
    values = values_of(500, 1)
    values[:, 28] *= 100
    reading = quality.read(values, [])
    assert reading.level is Level.WARNING
    assert "of log_amount are outside of what the reference has seen" in reading.message


def test_nothing_at_all_says_nothing(quality: Quality) -> None:
    assert quality.read(values_of(0, 1), []).level is Level.INSUFFICIENT_DATA


def test_rows_that_come_again_and_again_are_said(quality: Quality) -> None:
    values = values_of(500, 1)
    assert quality.read(np.concatenate([values, values[:200]]), []).level is Level.STABLE
    reading = quality.read(np.concatenate([values, values[:300]]), [])
    assert (reading.level, reading.message) == (Level.WARNING, "37.5% of rows are the same as an earlier one")
