"""The one row validator: what it lets through, and what it says of the rest."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudkit.errors import InvalidRows, Violation
from fraudkit.schema import (
    DRIFT_FEATURES,
    INPUTS,
    LABEL,
    LIMIT,
    MAX_REPORTED,
    check_columns,
    check_labels,
    check_rows,
    hour_of_day,
    number,
    rows_from_instances,
)

GOOD = [float(i) for i in range(30)]


def with_value(name: str, value: object) -> list[object]:
    values: list[object] = list(GOOD)
    values[INPUTS.index(name)] = value
    return values


def refusal(instances: list[object], first_row: int = 0) -> InvalidRows:
    with pytest.raises(InvalidRows) as caught:
        rows_from_instances(instances, first_row=first_row)
    return caught.value


def test_the_inputs_are_time_then_the_components_then_the_amount() -> None:
    assert ("Time", *(f"V{i}" for i in range(1, 29)), "Amount") == INPUTS
    assert "Time" not in DRIFT_FEATURES
    assert len(DRIFT_FEATURES) == 29


@pytest.mark.parametrize(
    ("time", "hour"),
    [(0.0, 0), (-0.0, 0), (3599.999, 0), (3600.0, 1), (86399.0, 23), (86400.0, 0), (172792.0, 23), (LIMIT, 1)],
)
def test_the_hour_of_day_is_whole_hours_modulo_24(time: float, hour: int) -> None:
    assert hour_of_day(np.array([time]))[0] == hour


@given(st.integers(0, 10**9))
def test_the_hour_of_day_agrees_with_integer_arithmetic(seconds: int) -> None:
    assert hour_of_day(np.array([float(seconds)]))[0] == seconds // 3600 % 24


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([*INPUTS, LABEL], []),
        ([LABEL, *reversed(INPUTS)], []),
        ([*INPUTS], ["Class: the column is missing"]),
        ([*INPUTS[1:], LABEL], ["Time: the column is missing"]),
        ([*INPUTS, LABEL, "foo"], ["foo: is not a column of this schema; remove it"]),
        ([*INPUTS, LABEL, ""], ["'': is not a column of this schema; remove it"]),
        ([*INPUTS, LABEL, "a\x1b[31m"], [r"'a\x1b[31m': is not a column of this schema; remove it"]),
        ([*INPUTS, LABEL, "V1"], ["V1: the column is there more than once"]),
        ([*INPUTS[:-1], "amount", LABEL], ["Amount: the column is missing", "amount: is not a column of"]),
    ],
    ids=["complete", "any order", "no label", "no Time", "extra", "empty", "control", "twice", "lower case"],
)
def test_every_missing_unknown_and_repeated_column_is_named(names: list[str], said: list[str]) -> None:
    found = [str(violation) for violation in check_columns(names, labelled=True)]
    assert len(found) == len(said)
    assert all(text.startswith(start) for text, start in zip(found, said, strict=True))


def test_the_label_is_neither_needed_nor_refused_where_rows_are_only_scored() -> None:
    assert check_columns(INPUTS, labelled=False) == []
    assert check_columns([*INPUTS, LABEL], labelled=False) == []


def test_a_long_column_name_is_shortened() -> None:
    (violation,) = check_columns([*INPUTS, LABEL, "x" * 100_000], labelled=True)
    assert len(str(violation)) < 100


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("V3", math.nan, "row 1, V3: nan is not a finite number"),
        ("V3", math.inf, "row 1, V3: inf is not a finite number"),
        ("V28", -math.inf, "row 1, V28: -inf is not a finite number"),
        ("V3", 1.01 * LIMIT, "row 1, V3: 1.01e+12 is beyond the limit of ±1e+12"),
        ("V3", -1e300, "row 1, V3: -1e+300 is beyond the limit"),
        ("Amount", -0.01, "row 1, Amount: -0.01 is negative, must be ≥ 0"),
        ("Time", -1.0, "row 1, Time: -1 is negative, must be ≥ 0"),
        ("Time", math.nan, "row 1, Time: nan is not a finite number"),
    ],
)
def test_a_bad_number_is_named_with_row_column_and_value(name: str, value: float, said: str) -> None:
    rows = np.array([GOOD, with_value(name, value)], dtype=float)
    with pytest.raises(InvalidRows) as caught:
        check_rows(rows)
    assert caught.value.total == 1
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(("name", "value"), [("Amount", -0.0), ("Time", -0.0), ("V1", -LIMIT), ("V1", LIMIT)])
def test_a_number_on_the_edge_is_let_through(name: str, value: float) -> None:
    check_rows(np.array([with_value(name, value)], dtype=float))


def test_no_rows_at_all_are_valid_rows() -> None:
    check_rows(np.empty((0, 30)))


@pytest.mark.parametrize("shape", [(30,), (1, 29), (1, 31), (0, 0), (1, 30, 1)])
def test_another_shape_is_refused_with_what_it_must_be(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidRows, match=r"the input has shape .*, must be \[n, 30\]"):
        check_rows(np.zeros(shape))


def test_all_violations_are_counted_and_the_first_are_described_in_the_order_of_the_rows() -> None:
    with pytest.raises(InvalidRows) as caught:
        check_rows(np.full((10, 30), np.nan), first_row=5)
    assert caught.value.total == 300
    assert len(caught.value.violations) == MAX_REPORTED
    assert caught.value.violations[0] == Violation("is not a finite number", 5, "Time", "nan")
    assert "(and 297 more)" in str(caught.value)


@given(st.integers(0, 6), st.sampled_from(INPUTS), st.sampled_from([math.nan, math.inf, -2 * LIMIT]))
def test_one_bad_number_anywhere_is_found(row: int, name: str, value: float) -> None:
    rows = np.tile(GOOD, (7, 1))
    rows[row, INPUTS.index(name)] = value
    with pytest.raises(InvalidRows) as caught:
        check_rows(rows, first_row=100)
    (violation,) = caught.value.violations
    assert (violation.row, violation.column) == (100 + row, name)


@pytest.mark.parametrize("label", [2.0, -1.0, 0.5, math.nan, math.inf])
def test_a_label_other_than_0_and_1_is_named(label: float) -> None:
    with pytest.raises(InvalidRows, match=f"row 3, Class: {label:g} must be 0 or 1"):
        check_labels(np.array([0.0, 1.0, label]), first_row=1)


def test_an_instance_may_be_a_list_or_an_object_by_name_in_any_order() -> None:
    by_name = dict(reversed(list(zip(INPUTS, GOOD, strict=True))))
    assert rows_from_instances([GOOD, tuple(GOOD), by_name]).tolist() == [GOOD] * 3


def test_integers_are_numbers() -> None:
    assert rows_from_instances([list(range(30))]).tolist() == [GOOD]


def test_no_instances_give_no_rows() -> None:
    assert rows_from_instances([]).shape == (0, 30)


@pytest.mark.parametrize(
    ("instance", "said"),
    [
        (with_value("V7", None), "row 4, V7: is null"),
        (with_value("V7", "abc"), "row 4, V7: 'abc' is not a number"),
        (with_value("V7", "1.5"), "row 4, V7: '1.5' is not a number"),
        (with_value("V7", True), "row 4, V7: True is not a number"),
        (with_value("V7", [1.0]), "row 4, V7: [1.0] is not a number"),
        (with_value("V7", {}), "row 4, V7: {} is not a number"),
        (with_value("V7", Decimal(1)), "row 4, V7: Decimal('1') is not a number"),
        (with_value("V7", 10**400), "row 4, V7: inf is not a finite number"),
        (with_value("V7", math.nan), "row 4, V7: nan is not a finite number"),
        (with_value("Amount", -3), "row 4, Amount: -3 is negative, must be ≥ 0"),
        (GOOD[:29], "row 4: has 29 values, must have 30"),
        ([*GOOD, 1.0], "row 4: has 31 values, must have 30"),
        ([], "row 4: has 0 values, must have 30"),
        ("x" * 30, "row 4: 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' must be a list of 30 numbers or an object"),
        (b"x" * 3, "row 4: b'xxx' must be a list of 30 numbers or an object by name"),
        (None, "row 4: None must be a list of 30 numbers or an object by name"),
        (7, "row 4: 7 must be a list of 30 numbers or an object by name"),
        ({**dict(zip(INPUTS, GOOD, strict=True)), "V29": 1.0}, "row 4, 'V29': is not an input"),
        (dict(list(zip(INPUTS, GOOD, strict=True))[:-1]), "row 4, Amount: is missing"),
        ({**dict(zip(INPUTS, GOOD, strict=True)), "V7": None}, "row 4, V7: is null"),
    ],
    ids=lambda value: value[7:40] if isinstance(value, str) and value.startswith("row") else "",
)
def test_a_bad_instance_is_named_with_row_and_input(instance: object, said: str) -> None:
    error = refusal([GOOD, instance], first_row=3)
    assert error.total == 1
    assert str(error).startswith(said)


def test_violations_of_several_instances_come_together() -> None:
    error = refusal([with_value("V1", None), GOOD, with_value("V2", "x"), {}])
    assert error.total == 32
    assert [violation.row for violation in error.violations[:3]] == [0, 2, 3]


def test_a_long_or_deep_value_is_shortened() -> None:
    deep: list[object] = []
    for _ in range(50_000):
        deep = [deep]
    for value in ("x" * 1_000_000, deep, "\x1b[31m\n"):
        said = str(refusal([with_value("V1", value)]))
        assert len(said) < 120
        assert said.isprintable()
    while deep:  # a list this deep is taken apart by hand: freeing it at once recurses
        deep = deep.pop()  # type: ignore[assignment]


def test_an_object_with_a_million_names_is_refused_with_a_short_list() -> None:
    error = refusal([{f"x{i}": 1.0 for i in range(100_000)}])
    assert len(error.violations) <= MAX_REPORTED


@given(
    st.lists(
        st.lists(
            st.one_of(st.none(), st.booleans(), st.text(), st.integers(), st.floats()), min_size=28, max_size=31
        ),
        max_size=4,
    )
)
def test_whatever_comes_gives_checked_rows_or_a_refusal(instances: list[object]) -> None:
    problem, rows = None, np.empty((0, 30))
    try:
        rows = rows_from_instances(instances)
    except InvalidRows as error:
        problem = error
    assert problem is None or (problem.total and problem.violations)
    check_rows(rows)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, 1.0), (1.5, 1.5), (10**400, math.inf), (True, None), ("1", None), (None, None), (1j, None)],
)
def test_only_real_numbers_are_numbers(value: object, expected: float | None) -> None:
    assert number(value) == expected


def test_an_error_says_where_first_and_then_what() -> None:
    assert (
        str(Violation("is not a number", row=17, column="V7", value="'abc'"))
        == "row 17, V7: 'abc' is not a number"
    )
    assert str(Violation("the column is missing", column="V7")) == "V7: the column is missing"
    assert str(Violation("all is wrong")) == "all is wrong"
    assert str(InvalidRows([Violation("all is wrong")], source="file.csv")) == "file.csv: all is wrong"
