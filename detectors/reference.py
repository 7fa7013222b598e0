"""The drift reference of a bundle as tests of drift need it: by hour of day, and sorted beforehand.

A daily cycle alone tells a window of one hour from a reference of all hours, so a window is held against reference
rows of its own hours of day, in its own proportions. Rows of an hour are shuffled once, with a fixed seed: the
first k of them are a random sample of the hour, frauds among them, and the same for every engine and process.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fraudkit.bundle import REFERENCE, Bundle
from fraudkit.errors import BundleError, InvalidInput
from fraudkit.schema import DRIFT_FEATURES, INPUTS, FloatArray, hour_of_day

COLUMNS: Final = (*DRIFT_FEATURES, "score")
"""What windows are tested on: the drift features, and the model's log odds."""
HOURS: Final = 24
_SEED: Final = 0

Values = NDArray[np.float32]
"""Rows [n, 30] of `COLUMNS`. Reference rows are kept at this precision, so windows are compared at it."""


def window_values(rows: FloatArray, logits: FloatArray) -> Values:
    """`COLUMNS` [n, 30] of inputs [n, 30] and their log odds [n]."""
    values = np.empty((len(rows), len(COLUMNS)), dtype=np.float32)
    values[:, :28] = rows[:, 1:29]
    values[:, 28] = np.log1p(rows[:, 29])
    values[:, 29] = logits
    return values


def distinct(values: Values) -> NDArray[np.intp]:
    """Where each row [n, 30] that is not the same as an earlier one stands, ascending."""
    whole = np.ascontiguousarray(values).view(np.dtype((np.void, values.itemsize * values.shape[1]))).ravel()
    return np.sort(np.unique(whole, return_index=True)[1])


@dataclass(frozen=True, slots=True)
class Matched:
    """How many rows of each hour of day, [24], a window is held against: the first of the hour."""

    counts: NDArray[np.int64]

    @property
    def rows(self) -> int:
        """All of them."""
        return int(self.counts.sum())


class Reference:
    """The reference rows of a model.

    Args:
        values: Rows [n, 30] of `COLUMNS`, sorted by hour of day.
        hours: Hour of day [n] of each.
        by_time: The rows are one period; otherwise they were drawn without regard to time.
    """

    def __init__(self, values: Values, hours: NDArray[np.int64], *, by_time: bool) -> None:
        if values.ndim != 2 or values.shape[1] != len(COLUMNS) or len(values) != len(hours) or not len(values):
            raise BundleError(f"a reference has {len(COLUMNS)} values and an hour for each row")
        if not np.isfinite(values).all() or (np.diff(hours) < 0).any() or hours[0] < 0 or hours[-1] >= HOURS:
            raise BundleError("a reference has finite numbers, in the order of their hours of day")
        self.values = values
        self.by_time = by_time
        self.starts = np.searchsorted(hours, np.arange(HOURS + 1))
        self.rows_by_hour = np.diff(self.starts)

    @classmethod
    def of(cls, bundle: Bundle) -> Reference:
        """The reference of a verified bundle.

        Raises:
            BundleError: A file is missing, or is not what this version reads.
        """
        folder = bundle.path / REFERENCE
        try:
            features = np.load(folder / "rows.npy", allow_pickle=False)
            hours = np.load(folder / "hours.npy", allow_pickle=False).astype(np.int64)
            summary = json.loads((folder / "summary.json").read_bytes())
            known = summary["format"] == 1 and tuple(summary["features"]) == DRIFT_FEATURES
            by_time = bool(summary["by_time"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BundleError(f"{folder} cannot be read: {error}") from error
        if not known or features.shape != (len(hours), len(DRIFT_FEATURES)):
            raise BundleError(f"{folder} has another format or other features than this version reads")
        inputs = np.empty((len(features), len(INPUTS)))
        inputs[:, 0] = hours * 3_600.0
        inputs[:, 1:29] = features[:, :28]
        inputs[:, 29] = np.expm1(features[:, 28].astype(np.float64))
        values = np.column_stack([features, bundle.scorer.logits(inputs).astype(np.float32)])
        shuffled = np.lexsort((np.random.default_rng(_SEED).random(len(hours)), hours))
        return cls(values[shuffled], hours[shuffled], by_time=by_time)

    def match(self, times: FloatArray) -> tuple[Matched, NDArray[np.bool_]]:
        """Reference rows for a window whose rows have these `times` [m, s], and which rows they stand for, [m].

        Rows of an hour that the reference does not have stand beside the rest of the window where the reference
        was drawn without regard to time, and the whole reference is used; else they cannot be tested.
        """
        hours = hour_of_day(times)
        covered = self.rows_by_hour[hours] > 0
        if not covered.all() and not self.by_time:
            return Matched(self.rows_by_hour), np.ones(len(times), dtype=np.bool_)
        wanted = np.bincount(hours[covered], minlength=HOURS)
        present = wanted > 0
        if not present.any():
            return Matched(np.zeros(HOURS, dtype=np.int64)), covered
        multiple = float((self.rows_by_hour[present] / wanted[present]).min())
        return Matched(np.floor(wanted * multiple + 1e-9).astype(np.int64)), covered

    def rows(self, matched: Matched) -> Values:
        """The matched rows [k, 30]; InvalidInput where there are none."""
        _check_matched(matched)
        first = self.starts[:-1]
        return np.concatenate([self.values[i : i + k] for i, k in zip(first, matched.counts, strict=True)])

    def ascending(self, matched: Matched) -> list[list[Values]]:
        """The values of the matched rows by column and hour, each ascending; InvalidInput where there are none."""
        _check_matched(matched)
        parts: list[list[Values]] = [[] for _ in COLUMNS]
        for hour in np.flatnonzero(matched.counts):
            ranked, places = self._sorted[hour]
            whole = matched.counts[hour] == self.rows_by_hour[hour]
            for part, values, place in zip(parts, ranked, places, strict=True):
                part.append(values if whole else values[place < matched.counts[hour]])
        return parts

    @cached_property
    def _sorted(self) -> list[tuple[Values, NDArray[np.int64]]]:
        """By hour: the values of each column in ascending order [30, k], and where in the hour each stands."""
        by_hour = []
        for first, last in zip(self.starts[:-1], self.starts[1:], strict=True):
            columns = np.ascontiguousarray(self.values[first:last].T)
            places = np.argsort(columns, axis=1, kind="stable")
            by_hour.append((np.take_along_axis(columns, places, axis=1), places))
        return by_hour


def _check_matched(matched: Matched) -> None:
    if not matched.rows:
        raise InvalidInput("the reference has no rows of the window's hours to test it against")


def check_window(values: Values) -> None:
    """Raise InvalidInput unless `values` can be tested.

    A p-value of NaN is below no threshold: one number that is not finite would silence its column without a word,
    and alibi-detect tests a window of another width without one too.
    """
    if values.ndim != 2 or values.shape[1] != len(COLUMNS):
        raise InvalidInput(f"a window has shape {list(values.shape)}, must be [n, {len(COLUMNS)}]")
    if not len(values):
        raise InvalidInput("a window without rows cannot be tested")
    bad = np.argwhere(~np.isfinite(values))
    if bad.size:
        row, column = bad[0]
        raise InvalidInput(f"row {row} of a window, {COLUMNS[column]}: is not a finite number")
