"""The thirty inputs, the label, and the one row validator that files, requests and the pipeline share.

Everything numeric is checked as a matrix [n, 30] in the order of `INPUTS`; what arrives as text or JSON
goes through `rows_from_instances` first. Numbers are finite and at most `LIMIT` in magnitude, so that no
product or sum of a linear score can overflow.
"""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from operator import itemgetter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fraudkit.errors import InvalidRows, Violation

FloatArray = NDArray[np.float64]

COMPONENTS: Final = tuple(f"V{i}" for i in range(1, 29))
"""The principal components V1 … V28."""
INPUTS: Final = ("Time", *COMPONENTS, "Amount")
"""The inputs in the order of the scorer: Time [s], V1 … V28, Amount [currency units]."""
LABEL: Final = "Class"
"""The label: 1 is fraud, 0 legitimate."""
DRIFT_FEATURES: Final = (*COMPONENTS, "log_amount")
"""What drift is watched on: V1 … V28 and log(1 + Amount), never Time."""
NONNEGATIVE: Final = ("Time", "Amount")
LIMIT: Final = 1e12
"""Largest magnitude of any input."""
MAX_REPORTED: Final = 20
"""How many violations are described one by one; the rest are counted."""

_WIDTH: Final = len(INPUTS)
_NONNEGATIVE_INDEX: Final = [INPUTS.index(name) for name in NONNEGATIVE]
_INDEX: Final = {name: i for i, name in enumerate(INPUTS)}
_BY_NAME: Final = itemgetter(*INPUTS)
_PLAIN: Final = frozenset({float, int})


def hour_of_day(time: FloatArray) -> NDArray[np.int64]:
    """Hour of day, 0 … 23, of `time` in seconds: ⌊Time / 3600⌋ mod 24, for scorer and detector alike."""
    hours = time.astype(np.int64)  # division of whole numbers is many times faster; and time is ≥ 0
    hours //= 3_600
    hours %= 24
    return hours


def check_columns(names: Sequence[str], *, labelled: bool) -> list[Violation]:
    """Violations in a header: missing, unknown and repeated columns."""
    wanted = (*INPUTS, LABEL) if labelled else INPUTS
    violations = [Violation("the column is missing", column=name) for name in wanted if name not in names]
    violations += [
        Violation("is not a column of this schema; remove it", column=_column(name))
        for name in names
        if name not in wanted and not (name == LABEL and not labelled)
    ]
    repeated = sorted(name for name, times in Counter(names).items() if times > 1)
    return violations + [
        Violation("the column is there more than once", column=_column(name)) for name in repeated
    ]


def check_rows(rows: FloatArray, *, first_row: int = 0) -> None:
    """Raise InvalidRows unless every number of `rows` [n, 30] is finite, bounded and, where it must be, ≥ 0."""
    if rows.ndim != 2 or rows.shape[1] != _WIDTH:
        raise InvalidRows([Violation(f"has shape {list(rows.shape)}, must be [n, {_WIDTH}]", value="the input")])
    if not len(rows):
        return
    # Where the sum of squares is within the square of the limit, so is each number; with NaN it is NaN.
    bounded = np.einsum("ij,ij->", rows, rows) <= LIMIT**2 or (rows.min() >= -LIMIT and rows.max() <= LIMIT)
    if bounded and np.minimum(rows[:, 0], rows[:, -1]).min() >= 0.0:  # Time and Amount
        return
    raise _invalid_rows(rows, first_row)


def check_labels(labels: FloatArray, *, first_row: int = 0) -> None:
    """Raise InvalidRows unless every label of `labels` [n] is 0 or 1."""
    bad = np.flatnonzero((labels != 0.0) & (labels != 1.0))
    if bad.size:
        raise InvalidRows(
            [
                Violation("must be 0 or 1", row=first_row + int(i), column=LABEL, value=f"{labels[i]:g}")
                for i in bad[:MAX_REPORTED]
            ],
            total=int(bad.size),
        )


def rows_from_instances(instances: Sequence[object], *, first_row: int = 0) -> FloatArray:
    """The matrix [n, 30] of instances, each a sequence of thirty numbers or a mapping by input name.

    Raises:
        InvalidRows: Naming row and input of every value that is missing, unknown, null, not a number,
            not finite, too large or negative where it must not be.
    """
    violations: list[Violation] = []
    rows = np.zeros((len(instances), _WIDTH))
    for i, instance in enumerate(instances):
        values = _ordered(instance, first_row + i, violations)
        if values is not None:
            rows[i] = _numbers(values, first_row + i, violations)
    if violations:
        raise InvalidRows(violations[:MAX_REPORTED], total=len(violations))
    check_rows(rows, first_row=first_row)
    return rows


def number(value: object) -> float | None:
    """`value` as a float when it is a real number (a bool, a text or a null is not), else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def _ordered(instance: object, row: int, violations: list[Violation]) -> Sequence[object] | None:
    """The values of one instance in the order of `INPUTS`, or None after noting why not."""
    if isinstance(instance, Mapping):
        if instance.keys() == _INDEX.keys():
            values: Sequence[object] = _BY_NAME(instance)
            return values
        missing = [name for name in INPUTS if name not in instance]
        unknown = [name for name in instance if name not in _INDEX]
        violations += [Violation("is missing", row=row, column=name) for name in missing]
        # One row may have a million names: no more of them are noted than are shown.
        violations += [
            Violation("is not an input", row=row, column=_short(name)) for name in unknown[:MAX_REPORTED]
        ]
        return None
    if isinstance(instance, Sequence) and not isinstance(instance, str | bytes):
        if len(instance) == _WIDTH:
            return instance
        violations.append(Violation(f"has {len(instance)} values, must have {_WIDTH}", row=row))
        return None
    violations.append(
        Violation(f"must be a list of {_WIDTH} numbers or an object by name", row=row, value=_short(instance))
    )
    return None


def _numbers(values: Sequence[object], row: int, violations: list[Violation]) -> list[float]:
    if _PLAIN.issuperset(map(type, values)):
        with suppress(OverflowError):
            return list(map(float, values))  # type: ignore[arg-type]  # they are floats and ints
    numbers = []
    for name, value in zip(INPUTS, values, strict=True):
        parsed = number(value)
        if parsed is None:
            problem = "is null" if value is None else "is not a number"
            shown = None if value is None else _short(value)
            violations.append(Violation(problem, row=row, column=name, value=shown))
        numbers.append(0.0 if parsed is None else parsed)
    return numbers


def _invalid_rows(rows: FloatArray, first_row: int) -> InvalidRows:
    bad = ~(np.abs(rows) <= LIMIT)
    bad[:, _NONNEGATIVE_INDEX] |= rows[:, _NONNEGATIVE_INDEX] < 0.0
    places = np.argwhere(bad)
    return InvalidRows(
        [
            Violation(
                _number_problem(float(rows[i, j])),
                row=first_row + int(i),
                column=INPUTS[j],
                value=f"{rows[i, j]:g}",
            )
            for i, j in places[:MAX_REPORTED]
        ],
        total=len(places),
    )


def _number_problem(value: float) -> str:
    if not np.isfinite(value):
        return "is not a finite number"
    return f"is beyond the limit of ±{LIMIT:g}" if abs(value) > LIMIT else "is negative, must be ≥ 0"


def _column(name: str) -> str:
    """A column's name as it is, unless it is empty, long or not printable."""
    return name if name and len(name) <= 40 and name.isprintable() else _short(name)


def _short(value: object) -> str:
    # A value from JSON may be nested deeper than repr recurses; reprlib stops at a depth.
    text = repr(value) if isinstance(value, str | int | float) else reprlib.repr(value)
    return text if len(text) <= 40 else text[:37] + "…"
