from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.labels import (
    MAX_LABELS,
    SILENCE,
    Label,
    Mistake,
    Outcome,
    TooManyLabels,
    mature,
    read_csv,
    read_json,
)

SECONDS = st.floats(0, 4e9)
SILENCES = st.floats(1, 1e7)
REPORTED = st.none() | st.builds(Outcome, st.sampled_from([0, 1]), st.just("bank"), SECONDS)


@given(SECONDS, REPORTED, SECONDS, SILENCES)
def test_an_outcome_is_what_was_reported_or_silence(
    time: float, reported: Outcome | None, as_of: float, silence: float
) -> None:
    outcome = mature(time, reported, as_of, silence)
    if reported and reported.at <= as_of:
        assert outcome is reported
    elif outcome:
        assert outcome == Outcome(0, SILENCE, time + silence)
        assert time <= as_of - silence
    else:
        assert time > as_of - silence


@given(SECONDS, REPORTED, SECONDS, st.floats(0, 1e8), SILENCES)
def test_what_has_matured_stays_so(
    time: float, reported: Outcome | None, as_of: float, later: float, silence: float
) -> None:
    if mature(time, reported, as_of, silence):
        assert mature(time, reported, as_of + later, silence)


def test_a_transaction_matures_at_the_moment_at_which_its_silence_is_long_enough() -> None:
    assert mature(100.0, None, 129.9, 30.0) is None
    assert mature(100.0, None, 130.0, 30.0) == Outcome(0, SILENCE, 130.0)


def test_a_label_is_read_with_what_it_does_not_say_left_open() -> None:
    assert list(read_json(b'{"labels": [{"id": "a-0", "label": true}]}')) == [Label("a-0", 1, "api", "api", None)]
    table = b"\xef\xbb\xbfID, Label,at\r\na-0,legitimate,\r\na-1,1,2025-12-01T00:00:00Z\r\n"
    assert list(read_csv(table)) == [
        Label("a-0", 0, "api", "api", None),
        Label("a-1", 1, "api", "api", 1_764_547_200.0),
    ]


def test_a_row_with_more_values_than_names_is_a_mistake() -> None:
    assert list(read_csv(b"id,label\na-0,1,x\na-1,1\n")) == [
        Mistake(0, "", "has more values than the header has names"),
        Label("a-1", 1, "api", "api", None),
    ]


def test_more_labels_than_a_request_may_have_are_not_read_on() -> None:
    with pytest.raises(TooManyLabels, match="at most 100,000"):
        read_csv(b"id,label\n" + b"a,1\n" * (MAX_LABELS + 1))
    with pytest.raises(TooManyLabels):
        read_json(b"[" + b"{}," * MAX_LABELS + b"{}]")
