"""One transaction by hand: what is pasted, and the examples."""

from __future__ import annotations

import json

import pytest

from fraudkit.errors import InvalidInput, InvalidRows
from fraudkit.schema import COMPONENTS, INPUTS
from fraudkit.scoring import TERMS, Scorer, Thresholds
from serving.console.views.score import checked, example, read_line

VALUES = {name: str(number / 2) for number, name in enumerate(INPUTS, start=1)}
SCORER = Scorer(
    weights=tuple(0.1 * (i % 5 - 2) for i in range(len(TERMS))),
    intercept=-6.0,
    natural_rate=0.002,
    thresholds=Thresholds(0.05, 0.75),
    typical=(80_000.0, *([0.1] * len(COMPONENTS)), 22.0),
)


@pytest.mark.parametrize(
    "pasted",
    [
        ",".join(VALUES.values()),
        ",".join(VALUES) + "\n" + ",".join(VALUES.values()),
        ",".join([*VALUES.values(), "0"]),
        json.dumps({name: float(value) for name, value in VALUES.items()}),
        json.dumps([float(value) for value in VALUES.values()]),
        json.dumps({"instances": [{name: float(value) for name, value in VALUES.items()}]}),
    ],
)
def test_a_line_is_read_however_it_is_written(pasted: str) -> None:
    assert {name: float(value) for name, value in read_line(pasted).items()} == {
        name: float(value) for name, value in VALUES.items()
    }


@pytest.mark.parametrize("pasted", ["1,2,3", "{", "[1, 2]", "a\nb\nc", '"text"'])
def test_what_is_no_transaction_is_refused(pasted: str) -> None:
    with pytest.raises(InvalidInput):
        read_line(pasted)


def test_each_field_that_is_wrong_is_named() -> None:
    with pytest.raises(InvalidRows) as refused:
        checked(VALUES | {"V3": "three", "V9": " "})
    assert {(one.column, one.problem) for one in refused.value.violations} == {
        ("V3", "is not a number"),
        ("V9", "is needed"),
    }
    with pytest.raises(InvalidRows, match="Amount"):
        checked(VALUES | {"Amount": "-1"})


@pytest.mark.parametrize(("wanted", "alert"), [("normal", 0), ("borderline", 1), ("fraud", 2)])
def test_an_example_is_what_it_is_called(wanted: str, alert: int) -> None:
    row = [float(value) for value in example(SCORER, wanted).values()]
    assert SCORER.score_row(row[0], row[1:29], row[29])[1] == alert
