"""Files of transactions as people have them: CSV, CSV.gz, Parquet and XLSX, read and written in pieces.

What a cell says is kept as it is; beside it stand the thirty numbers, or what is wrong with them.
"""

from __future__ import annotations

import csv
import gzip
import zipfile
import zlib
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final
from xml.etree.ElementTree import ParseError

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from fraudkit.errors import InvalidInput, InvalidRows, Violation
from fraudkit.schema import INPUTS, LIMIT, NONNEGATIVE, FloatArray, check_columns, check_rows

PIECE_ROWS: Final = 10_000
MOST_COLUMNS: Final = 500
MOST_CELL: Final = 32_767
"""Characters of a cell: as many as a spreadsheet holds."""
MOST_HEADER: Final = 64 * 1024
EXPANSION: Final = 4
"""How many times its largest size a file may have when it is unpacked."""
_GZIP, _PARQUET, _ZIP = b"\x1f\x8b", b"PAR1", b"PK\x03\x04"
_NUMBER: Final = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_FORMULA: Final = r"^[=+\-@\t\r]"
_UNREADABLE: Final = (
    pa.ArrowException, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, csv.Error, ParseError, EOFError,
    ValueError, KeyError, IndexError, NotImplementedError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows of a file, in its order.

    Attributes:
        cells: Its columns as they are: text, or what a Parquet file has.
        rows: The inputs [n, 30]; NaN where a cell is no number.
        problems: What is wrong with a row, by its place in this piece.
    """

    cells: pa.RecordBatch
    rows: FloatArray
    problems: Mapping[int, Violation]


_Found = Iterator[tuple[pa.RecordBatch, dict[int, Violation]]]


def pieces(path: Path, most_rows: int, most_bytes: int) -> Iterator[Piece]:
    """The rows of a file; what kind it is, its first bytes say.

    Args:
        path: The file.
        most_rows: Most rows.
        most_bytes: Most bytes of the file; unpacked it may have `EXPANSION` times as many.

    Raises:
        InvalidInput: It cannot be read, has not the columns, or is too large.
    """
    with path.open("rb") as file:
        magic = file.read(4)
    read = {_PARQUET: _parquet, _ZIP: _xlsx}.get(magic, _csv)
    rows = size = 0
    try:
        for cells, problems in _without_blank_end(read(path, EXPANSION * most_bytes), most_rows):
            rows, size = rows + cells.num_rows, size + cells.nbytes
            if rows > most_rows:
                raise InvalidInput(f"the file has more than {most_rows:,} rows; send it in parts")
            if size > EXPANSION * most_bytes:
                raise InvalidInput(f"the file has more than {EXPANSION * most_bytes:,} bytes when it is unpacked")
            yield _checked(cells, problems)
    except _UNREADABLE as error:
        raise InvalidInput(f"the file cannot be read: {str(error)[:300] or type(error).__name__}") from error


def first_line(path: Path) -> int:
    """The number of the first row as its reader counts: below the header is line 2, in Parquet row 1."""
    with path.open("rb") as file:
        return 1 if file.read(4) == _PARQUET else 2


def csv_lines(columns: Sequence[pa.Array]) -> bytes:
    """Columns [n] as n lines of CSV.

    A text that a spreadsheet would take for a formula gets an apostrophe before it; numbers are left as they are.
    """
    lines = pc.binary_join_element_wise(*map(_csv_cells, columns), ",")
    return "".join(f"{line}\n" for line in lines.to_pylist()).encode()


def _csv_cells(column: pa.Array) -> pa.Array:
    text = pc.fill_null(pc.cast(column, pa.string()), "")
    formula = pc.and_not(pc.match_substring_regex(text, _FORMULA), pc.match_substring_regex(text, _NUMBER))
    if pc.any(formula).as_py():
        text = pc.if_else(formula, pc.binary_join_element_wise("'", text, ""), text)
    special = pc.match_substring_regex(text, '[",\r\n]')
    if pc.any(special).as_py():
        doubled = pc.replace_substring(text, '"', '""')
        text = pc.if_else(special, pc.binary_join_element_wise('"', doubled, '"', ""), text)
    return text


def _without_blank_end(found: _Found, most: int) -> _Found:
    """Batches without the empty lines that end a file; those between its rows are rows."""
    held: list[pa.RecordBatch] = []
    for cells, problems in found:
        end = cells.num_rows
        while end and end - 1 not in problems and all(column[end - 1].as_py() == "" for column in cells.columns):
            end -= 1
        before = sum(batch.num_rows for batch in held)
        if before > most:
            raise InvalidInput(f"the file has more than {most:,} empty lines")
        if not end:
            held.append(cells)
            continue
        shifted = {before + place: problem for place, problem in problems.items()}
        yield pa.concat_batches([*held, cells.slice(0, end)]), shifted
        held = [cells.slice(end)]


def _csv(path: Path, _: int) -> _Found:
    with path.open("rb") as raw:
        opened = gzip.open if raw.read(2) == _GZIP else Path.open
    with opened(path, "rb") as file:
        header, more = file.readline(MOST_HEADER).decode("utf-8-sig"), file.read(1)
    delimiter = max(",;\t", key=header.count)
    names = next(csv.reader([header], delimiter=delimiter), [])
    _check_names(names)
    if not more:
        return
    ragged: deque[tuple[int, str]] = deque()

    def keep(row: Any) -> str:
        ragged.append((row.number, row.text))
        return "skip"

    line = 2
    with opened(path, "rb") as file:
        reader = pcsv.open_csv(
            file,
            read_options=pcsv.ReadOptions(use_threads=False),
            parse_options=pcsv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, ignore_empty_lines=False, invalid_row_handler=keep
            ),
            convert_options=pcsv.ConvertOptions(
                column_types={name: pa.string() for name in names}, strings_can_be_null=False
            ),
        )
        empty = pa.RecordBatch.from_pylist([], reader.schema)
        for batch in reader:
            found = _with_ragged(batch, ragged, line, delimiter)
            line += found[0].num_rows
            yield found
        yield _with_ragged(empty, ragged, line, delimiter)


def _with_ragged(
    batch: pa.RecordBatch, ragged: deque[tuple[int, str]], line: int, delimiter: str
) -> tuple[pa.RecordBatch, dict[int, Violation]]:
    """The rows of a batch that begins at a line, and among them those that have too few or too many values."""
    width = batch.num_columns
    problems: dict[int, Violation] = {}
    added: list[list[str]] = []
    while ragged and ragged[0][0] <= line + batch.num_rows + len(added):
        number, text = ragged.popleft()
        cells = next(csv.reader([text], delimiter=delimiter), [])
        said = f"has {len(cells)} values, the header has {width}"
        beyond = delimiter.join(cells[width:])
        problems[number - line] = Violation(f"{said}; beyond it: {beyond}" if beyond else said)
        added.append([*cells, *[""] * width][:width])
    if not added:
        return batch, problems
    columns = [pa.array(column, pa.string()) for column in zip(*added, strict=True)]
    both = pa.concat_batches([batch, pa.RecordBatch.from_arrays(columns, schema=batch.schema)])
    order = np.empty(both.num_rows, np.int64)
    places = np.fromiter(problems, np.int64)
    order[places] = np.arange(batch.num_rows, both.num_rows)
    order[np.setdiff1d(np.arange(both.num_rows), places)] = np.arange(batch.num_rows)
    return both.take(pa.array(order)), problems


def _parquet(path: Path, _: int) -> _Found:
    schema = pq.read_schema(path)
    _check_names(schema.names)
    for field in schema:
        if pa.types.is_nested(field.type) or pa.types.is_binary(field.type):
            raise InvalidInput(f"{field.name}: is of type {field.type}, which no table of text can hold")
    # A dictionary may have one long text, and a million rows that name it: it is looked at before it is spread.
    texts = [
        field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
    ]
    with pq.ParquetFile(path, read_dictionary=texts) as file:
        for batch in file.iter_batches(PIECE_ROWS):
            yield pa.RecordBatch.from_arrays(list(map(_spread, batch.columns)), names=schema.names), {}


def _spread(column: pa.Array) -> pa.Array:
    if not pa.types.is_dictionary(column.type):
        return column
    if pa.types.is_string(column.type.value_type) or pa.types.is_large_string(column.type.value_type):
        if (pc.max(pc.utf8_length(column.dictionary)).as_py() or 0) > MOST_CELL:
            raise InvalidInput(f"a cell has more than {MOST_CELL:,} characters")
        return column.dictionary_decode().cast(pa.string())
    return column.dictionary_decode()


def _xlsx(path: Path, most_bytes: int) -> _Found:
    import openpyxl

    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > most_bytes:
            raise InvalidInput(f"the file has more than {most_bytes:,} bytes when it is unpacked")
    with path.open("rb") as file:
        yield from _sheet(openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False))


def _sheet(book: Any) -> _Found:
    try:
        sheet = book.worksheets[0]
        sheet.reset_dimensions()  # what the file says of its own size may be wrong
        rows = sheet.iter_rows(values_only=True)
        names = [_cell(value) for value in next(rows, ())]
        while names and not names[-1]:
            names.pop()
        _check_names(names)
        schema = pa.schema([(name, pa.string()) for name in names])
        while some := list(islice(rows, PIECE_ROWS)):
            problems = {}
            for place, row in enumerate(some):
                if beyond := [_cell(value) for value in row[len(names) :] if value is not None]:
                    problems[place] = Violation(f"has values beyond the header's columns: {', '.join(beyond)}")
            columns = [
                pa.array([_cell(row[i]) if i < len(row) else "" for row in some], pa.string())
                for i in range(len(names))
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=schema), problems
    finally:
        book.close()


def _cell(value: object) -> str:
    return "" if value is None else str(value)


def _check_names(names: Sequence[str]) -> None:
    """Raise InvalidRows for inputs that are missing and names that come twice; other columns are kept."""
    if len(names) > MOST_COLUMNS:
        raise InvalidInput(f"the file has {len(names):,} columns, at most {MOST_COLUMNS} are kept")
    wrong = check_columns([name for name in names if name in INPUTS], labelled=False)
    wrong += [
        Violation("the column is there more than once", column=name or "a column without a name")
        for name, times in Counter(names).items()
        if times > 1 and name not in INPUTS
    ]
    if wrong:
        raise InvalidRows(wrong)


def _checked(cells: pa.RecordBatch, problems: dict[int, Violation]) -> Piece:
    rows = np.column_stack([_numbers(cells.column(name), name) for name in INPUTS])
    bad = ~(np.abs(rows) <= LIMIT)
    nonnegative = [INPUTS.index(name) for name in NONNEGATIVE]
    bad[:, nonnegative] |= rows[:, nonnegative] < 0.0
    for place in np.flatnonzero(bad.any(axis=1)).tolist():
        if place not in problems:
            first = int(bad[place].argmax())
            problems[place] = _violation(cells, rows, place, first, int(bad[place].sum()) - 1)
    return Piece(cells, rows, problems)


def _numbers(column: pa.Array, name: str) -> FloatArray:
    """A column as numbers [n]; NaN where a cell is none."""
    try:
        found = pc.cast(column, pa.float64(), safe=False)
    except pa.ArrowNotImplementedError as error:
        raise InvalidInput(f"{name}: is of type {column.type}, must be numbers") from error
    except pa.ArrowInvalid:
        text = pc.utf8_trim_whitespace(column)
        like = pc.match_substring_regex(text, _NUMBER)
        found = pc.cast(pc.if_else(like, text, None), pa.float64())
    numbers: FloatArray = found.to_numpy(zero_copy_only=False)
    return numbers


def _violation(cells: pa.RecordBatch, rows: FloatArray, place: int, column: int, more: int) -> Violation:
    """What is wrong with the first wrong input of a row."""
    name = INPUTS[column]
    text = _cell(cells.column(name)[place].as_py()).strip()
    said = "is not a number"
    if not np.isnan(rows[place, column]):
        sound = np.zeros((1, len(INPUTS)))
        sound[0, column] = rows[place, column]
        try:
            check_rows(sound)
        except InvalidRows as error:
            said = error.violations[0].problem
    also = f" (and {more} more)" if more else ""
    shown = text if len(text) <= 40 else f"{text[:37]}…"
    return (
        Violation(f"{said}{also}", column=name, value=repr(shown))
        if text
        else Violation(f"is empty{also}", column=name)
    )
