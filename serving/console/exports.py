"""A scored file to take away: its own columns and rows as they came, and beside them what the model says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fraudkit.schema import INPUTS, FloatArray
from fraudkit.scoring import ALERTS, Scorer
from serving.console.tables import csv_lines
from serving.console.uploads import CELLS, Results

Kind = Literal["csv", "parquet"]
MEDIA: Final[Mapping[Kind, str]] = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}
REASONS: Final = 3


def write(results: Results, folder: Path, scorers: Sequence[Scorer], kind: Kind, target: Path) -> None:
    """Write a scored file.

    CSV has every text as it came, formulas apart; in Parquet an input column that holds nothing but numbers is one
    of numbers.

    Args:
        results: What became of its rows.
        folder: Where its cells lie.
        scorers: One for each of the results' versions, for the reasons.
        kind: What to write.
        target: Where.
    """
    tables = _tables(results, folder, scorers)
    if kind == "csv":
        with target.open("wb") as file:
            for number, table in enumerate(tables):
                if not number:
                    file.write(csv_lines([pa.array([name]) for name in table.schema.names]))
                file.write(csv_lines(table.columns))
        return
    numeric = [name for j, name in enumerate(INPUTS) if not np.isnan(results.rows[:, j]).any()]
    begin, writer = 0, None
    for table in tables:
        end = begin + table.num_rows
        for name in numeric:
            numbers = pa.array(results.rows[begin:end, INPUTS.index(name)])
            if pa.types.is_string(table.schema.field(name).type):
                table = table.set_column(table.schema.get_field_index(name), name, numbers)
        if writer is None:
            writer = pq.ParquetWriter(target, table.schema)
        writer.write_batch(table)
        begin = end
    if writer is not None:
        writer.close()


def reasons(scorer: Scorer, rows: FloatArray) -> list[str]:
    """The inputs that add or take most log odds of each row [n, 30], as text."""
    parts = scorer.contributions(rows)
    order = np.argsort(-np.abs(parts), axis=1, kind="stable")[:, :REASONS]
    named = zip(order.tolist(), np.take_along_axis(parts, order, axis=1).tolist(), strict=True)
    return [", ".join(f"{INPUTS[j]} {value:+.2f}" for j, value in zip(*row, strict=True)) for row in named]


def _tables(results: Results, folder: Path, scorers: Sequence[Scorer]) -> Iterator[pa.RecordBatch]:
    begin = 0
    with closing(pa.memory_map(str(folder / CELLS))) as mapped:
        reader = pa.ipc.open_file(mapped)
        for number in range(reader.num_record_batches):
            cells = reader.get_batch(number)
            end = begin + cells.num_rows
            names, columns = list(cells.schema.names), list(cells.columns)
            for name, column in _added(results, scorers, begin, end).items():
                if name == "id" and name in cells.schema.names:
                    continue  # the file's own stays
                while name in names:
                    name = f"scored_{name}"
                names.append(name)
                columns.append(column)
            yield pa.RecordBatch.from_arrays(columns, names=names)
            begin = end


def _added(results: Results, scorers: Sequence[Scorer], begin: int, end: int) -> dict[str, pa.Array]:
    """The columns that are added to rows `begin` … `end`; empty where a row could not be scored."""
    levels, answered = results.levels[begin:end], results.answered[begin:end]
    unscored = levels < 0
    why = np.full(end - begin, None, object)
    for version, scorer in enumerate(scorers):
        places = np.flatnonzero(~unscored & (answered == version))
        why[places] = reasons(scorer, np.asarray(results.rows[begin:end][places]))
    versions = pa.array(results.versions or [""], pa.string())
    problems = [results.problems.get(place) for place in range(begin, end)]
    return {
        "id": results.ids.slice(begin, end - begin),
        "probability": pa.array(results.probabilities[begin:end], mask=unscored),
        "label": pa.array((levels > 0).astype(np.int64), mask=unscored),
        "alert": pa.array(ALERTS, pa.string()).take(pa.array(levels, pa.int64(), mask=unscored)),
        "reasons": pa.array(why, pa.string()),
        "model_version": pc.if_else(pa.array(unscored), None, versions.take(pa.array(answered))),
        "problem": pa.array([str(replace(one, row=None)) if one else None for one in problems], pa.string()),
    }
