"""Transactions from a file or URL, streamed in blocks of `BLOCK` rows whatever the format.

CSV, CSV.gz and Parquet are told apart by their first bytes. Whatever is wrong with the columns, the types or the
values is raised as one InvalidRows that names column, row and value; rows are counted from 1.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from fraudkit.errors import InvalidInput, InvalidRows, TemporaryError, Violation
from fraudkit.schema import INPUTS, LABEL, MAX_REPORTED, FloatArray, check_columns, check_labels, check_rows

BLOCK: Final = 65_536
"""Rows of a block; statistics are made block by block, so that shards of whole blocks merge to the same bytes."""
COLUMNS: Final = (*INPUTS, LABEL)
_2023: Final = frozenset({"id", *INPUTS, LABEL} - {"Time"})
_CSV_BYTES: Final = 4 << 20
_DELIMITERS: Final = {";": "a semicolon", "\t": "a tab", "|": "a bar"}


@dataclass(frozen=True, slots=True)
class Block:
    """Checked rows.

    Attributes:
        columns: The inputs and the label [31, n], each column contiguous.
        first_row: Number of the first row, counted from 1.
    """

    columns: FloatArray
    first_row: int

    @property
    def rows(self) -> FloatArray:
        """The inputs [n, 30]."""
        return self.columns[:-1].T

    @property
    def labels(self) -> FloatArray:
        """The labels [n], 0 or 1."""
        return self.columns[-1]


@dataclass(frozen=True, slots=True)
class Source:
    """A data set that can be read again and again.

    Attributes:
        uri: What the person named.
        file: Where it is read from.
        filesystem: The filesystem of `file`.
        kind: `csv`, `csv.gz` or `parquet`.
        total_rows: Number of rows, where the format says it without reading.
    """

    uri: str
    file: str
    filesystem: pafs.FileSystem
    kind: str
    total_rows: int | None = None

    def blocks(self) -> Iterator[Block]:
        """The rows in order, in checked blocks of `BLOCK` rows; the last may be shorter.

        Raises:
            InvalidRows: After the whole source was read, with every violation counted.
        """
        columns = self._parquet_columns() if self.kind == "parquet" else self._csv_columns()
        complaints = Complaints(self.uri)
        first_row = 1
        for chunk in _exact(columns):
            block = Block(chunk, first_row)
            if complaints.check(block) and not complaints.total:
                yield block
            first_row += chunk.shape[1]
        complaints.raise_any()
        if first_row == 1:
            raise InvalidInput(f"{self.uri}: the file has a header and no rows")

    def _csv_columns(self) -> Iterator[FloatArray]:
        names = self._csv_names()
        types = dict.fromkeys(names, pa.float64())
        options = pacsv.ConvertOptions(column_types=types, null_values=[])
        read = pacsv.ReadOptions(block_size=_CSV_BYTES)
        try:
            with self._open() as stream, pacsv.open_csv(stream, read, convert_options=options) as reader:
                for batch in reader:
                    yield _matrix(batch, names)
        except pa.ArrowInvalid as error:
            self._explain_csv(names)
            raise InvalidInput(f"{self.uri}: {error}") from error

    def _csv_names(self) -> list[str]:
        with self._open() as stream:
            start = stream.read(1 << 16)
        try:
            header = start.decode("utf-8-sig").splitlines()[0] if start else ""
        except UnicodeDecodeError:
            header = start.decode("latin-1").splitlines()[0]
        if not header.strip():
            raise InvalidInput(f"{self.uri}: the file is empty; a header and rows are needed")
        if header.lstrip().startswith("<"):
            raise InvalidInput(f"{self.uri}: this is HTML or XML, not CSV; download the data file itself")
        names = [name.strip().strip('"') for name in header.split(",")]
        if len(names) == 1:
            for delimiter, word in _DELIMITERS.items():
                if delimiter in header:
                    raise InvalidInput(f"{self.uri}: the delimiter is {word}, must be a comma")
        _check_names(names, self.uri)
        return names

    def _explain_csv(self, names: list[str]) -> None:
        """Read the file again as text and raise InvalidRows for what is not a number or not of the width."""
        complaints = Complaints(self.uri)
        skipped: list[int] = []

        def skip(row: pacsv.InvalidRow) -> str:
            skipped.append(row.number)
            problem = f"has {row.actual_columns} values, must have {row.expected_columns}"
            complaints.add([Violation(problem, row=row.number - 1)], 1)
            return "skip"

        parse = pacsv.ParseOptions(invalid_row_handler=skip)
        options = pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), null_values=[])
        read = pacsv.ReadOptions(use_threads=False, block_size=_CSV_BYTES)
        first_row = 1
        with self._open() as stream, pacsv.open_csv(stream, read, parse, options) as reader:
            for batch in reader:
                for name, column in zip(batch.schema.names, batch.columns, strict=True):
                    complaints.check_text(name, column, first_row)
                first_row += batch.num_rows
        complaints.raise_any()

    def _parquet_columns(self) -> Iterator[FloatArray]:
        with self.filesystem.open_input_file(self.file) as file, pq.ParquetFile(file) as parquet:
            schema = parquet.schema_arrow
            _check_names(schema.names, self.uri)
            wrong = [
                Violation(f"has type {field.type}, must be a number", column=field.name)
                for field in schema
                if field.name in COLUMNS and not _numeric(field.type)
            ]
            if wrong:
                raise InvalidRows(wrong, source=self.uri)
            wanted = [name for name in COLUMNS if name in schema.names]
            for batch in parquet.iter_batches(BLOCK, columns=wanted):
                yield _matrix(batch, batch.schema.names)

    @contextlib.contextmanager
    def _open(self) -> Iterator[pa.NativeFile]:
        compression = "gzip" if self.kind == "csv.gz" else None
        with self.filesystem.open_input_stream(self.file, compression=compression) as stream:
            yield stream


class Complaints:
    """Violations of a whole source: the first are kept, all are counted."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.total = 0
        self.violations: list[Violation] = []

    def add(self, violations: list[Violation], total: int) -> None:
        """Keep what there is room for, count all."""
        self.violations += violations[: MAX_REPORTED - len(self.violations)]
        self.total += total

    def check(self, block: Block) -> bool:
        """Whether the rows and labels of `block` are valid."""
        before = self.total
        for check in (
            lambda: check_rows(block.rows, first_row=block.first_row),
            lambda: check_labels(block.labels, first_row=block.first_row),
        ):
            try:
                check()
            except InvalidRows as error:
                self.add(list(error.violations), error.total)
        return self.total == before

    def check_text(self, name: str, column: pa.StringArray, first_row: int) -> None:
        """Note each text of `column` that is not a number."""
        with contextlib.suppress(pa.ArrowInvalid):
            column.cast(pa.float64())
            return
        for i, text in enumerate(column.to_pylist()):
            if not _is_number(text):
                violation = (
                    Violation("is not a number", row=first_row + i, column=name, value=repr(text[:40]))
                    if text
                    else Violation("is empty", row=first_row + i, column=name)
                )
                self.add([violation], 1)

    def raise_any(self) -> None:
        """Raise InvalidRows when there was a violation."""
        if self.total:
            self.violations.sort(key=lambda violation: violation.row or 0)
            raise InvalidRows(self.violations, self.total, self.uri)


@contextlib.contextmanager
def open_source(uri: str, download: Callable[[str, Path], Path] | None = None) -> Iterator[Source]:
    """The data set at `uri`: a path, or an https, s3, gs or abfs URL.

    An http(s) URL is downloaded once, to a temporary file, by `download(url, target)`.

    Raises:
        InvalidInput: There is nothing to read at `uri`, or it is neither CSV nor Parquet.
    """
    with tempfile.TemporaryDirectory(prefix="fraud-source-") as scratch:
        place = uri
        if uri.startswith(("http://", "https://")):
            if download is None:
                raise InvalidInput(f"{uri}: URLs are not read here; give a file")
            place = str(download(uri, Path(scratch) / "download"))
        yield _locate(uri, place)


def _locate(uri: str, place: str) -> Source:
    try:
        if "://" in place:
            filesystem, file = pafs.FileSystem.from_uri(place)
        else:
            filesystem, file = pafs.LocalFileSystem(), str(Path(place).expanduser().absolute())
        info = filesystem.get_file_info(file)
    except pa.ArrowInvalid as error:
        raise InvalidInput(f"{uri}: {error}") from error
    except OSError as error:
        raise TemporaryError(f"{uri} cannot be reached: {error}") from error
    if info.type != pafs.FileType.File:
        what = "is a folder" if info.type == pafs.FileType.Directory else "does not exist"
        raise InvalidInput(f"{uri} {what}; --data takes one CSV, CSV.gz or Parquet file")
    with filesystem.open_input_stream(file, compression=None) as stream:
        start = stream.read(4)
    if start == b"PAR1":
        return Source(uri, file, filesystem, "parquet", _parquet_rows(uri, filesystem, file))
    return Source(uri, file, filesystem, "csv.gz" if start.startswith(b"\x1f\x8b") else "csv")


def _parquet_rows(uri: str, filesystem: pafs.FileSystem, file: str) -> int:
    try:
        with filesystem.open_input_file(file) as opened, pq.ParquetFile(opened) as parquet:
            return int(parquet.metadata.num_rows)
    except pa.ArrowInvalid as error:
        raise InvalidInput(f"{uri}: this Parquet file cannot be read: {error}") from error


def _check_names(names: list[str], uri: str) -> None:
    if set(names) == _2023 and len(names) == len(_2023):
        return
    violations = check_columns(names, labelled=True)
    if violations:
        raise InvalidRows(violations[:MAX_REPORTED], len(violations), uri)


def _matrix(batch: pa.RecordBatch, names: list[str]) -> FloatArray:
    """The columns [31, n] of a batch in the order of `COLUMNS`; nulls become NaN; without Time, Time is 0."""
    matrix = np.zeros((len(COLUMNS), batch.num_rows))
    for i, name in enumerate(COLUMNS):
        if name in names:
            matrix[i] = batch.column(names.index(name)).cast(pa.float64()).to_numpy(zero_copy_only=False)
    return matrix


def _exact(matrices: Iterator[FloatArray]) -> Iterator[FloatArray]:
    """Matrices [31, BLOCK] of the same columns in a row; the last may be narrower."""
    block = np.empty((len(COLUMNS), BLOCK))
    filled = 0
    for matrix in matrices:
        taken = 0
        while taken < matrix.shape[1]:
            step = min(BLOCK - filled, matrix.shape[1] - taken)
            block[:, filled : filled + step] = matrix[:, taken : taken + step]
            filled, taken = filled + step, taken + step
            if filled == BLOCK:
                yield block
                block, filled = np.empty((len(COLUMNS), BLOCK)), 0
    if filled:
        yield np.ascontiguousarray(block[:, :filled])


def _numeric(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_boolean(kind)
    )


def _is_number(text: str) -> bool:
    try:
        pa.scalar(text).cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True
