"""Transactions from a file or URL, streamed in blocks of `BLOCK` rows whatever the format.

CSV, CSV.gz and Parquet are told apart by their first bytes. Whatever is wrong with the columns, the types or the
values is raised as one InvalidRows that names column, row and value; rows are counted from 1.
"""

from __future__ import annotations

import contextlib
import csv
import io
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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
_HEAD_BYTES: Final = 1 << 16
_TEXT_ROWS: Final = 8_192
_CONTROL: Final = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]")
_NUMBER: Final = r"(?i)^[ \t]*[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|nan|inf|infinity)[ \t]*$"
"""What pyarrow reads as a number."""
_NO_ROWS: Final = "the file has a header and no rows"
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
        labels: FloatArray = self.columns[-1]
        return labels


@dataclass(frozen=True, slots=True)
class Shard:
    """A share of the blocks of a source; together the shards 0 … `of` - 1 have each block once.

    Of Parquet it is blocks in a row, so that only their row groups are read. How many blocks a CSV has is known
    only at its end, and gzip cannot be entered in the middle: there it is each `of`-th block, and all is parsed.
    """

    index: int = 0
    of: int = 1

    def rows(self, total: int) -> tuple[int, int]:
        """Where it begins and ends in Parquet of so many rows, counted from 0."""
        blocks = -(-total // BLOCK)
        start, end = (blocks * i // self.of * BLOCK for i in (self.index, self.index + 1))
        return start, min(end, total)


ONLY: Final = Shard()
"""The one that has all blocks."""


@dataclass(frozen=True, slots=True)
class Source:
    """A data set that can be read again and again.

    Attributes:
        uri: What the person named, without secrets.
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
        complaints = Complaints(self.uri)
        for _, block in self.shard(ONLY, complaints):
            if block:
                yield block
        complaints.raise_any()

    def shard(self, shard: Shard, complaints: Complaints) -> Iterator[tuple[FloatArray, Block | None]]:
        """All blocks that are parsed for a shard, in order: of Parquet its own, of CSV those of the others too.

        Args:
            shard: Which blocks are wanted.
            complaints: Hears of what is wrong with rows of the shard.

        Returns:
            Of each block Time and label [2, n], unchecked; and, until a block of the shard is not valid, the block
            itself, or None where it is of another shard.

        Raises:
            InvalidInput: The source as a whole cannot be read, or a CSV has what is no number in any of its rows
                (InvalidRows, with every violation of the source); in each shard the same.
        """
        parquet, first_row = self.kind == "parquet", 1
        if parquet:
            first_row += shard.rows(self.total_rows or 0)[0]
        with _reading(self.uri, self.filesystem):
            for chunk in _exact(self._parquet_columns(shard) if parquet else self._csv_columns()):
                block = Block(chunk, first_row)
                wanted = parquet or first_row // BLOCK % shard.of == shard.index
                valid = wanted and complaints.check(block) and not complaints.total
                yield chunk[[0, -1]], block if valid else None
                first_row += chunk.shape[1]
        if first_row == 1 and not self.total_rows:
            raise InvalidInput(f"{self.uri}: {_NO_ROWS}")

    def outline(self) -> Iterator[FloatArray]:
        """Time and label [2, n] of all rows of Parquet, unchecked; no other column is read."""
        with _reading(self.uri, self.filesystem):
            yield from map(np.stack, self._parquet_columns(ONLY, (COLUMNS[0], LABEL)))

    def _csv_columns(self) -> Iterator[list[FloatArray]]:
        header, names = self._csv_header()
        options = pacsv.ConvertOptions(column_types=dict.fromkeys(header, pa.float64()), null_values=[])
        read = pacsv.ReadOptions(block_size=_CSV_BYTES)
        try:
            with self._open() as stream, pacsv.open_csv(stream, read, convert_options=options) as reader:
                for batch in reader:
                    yield _arrays(batch, names)
        except pa.ArrowInvalid:
            self._explain_csv(names)
            raise

    def _csv_header(self) -> tuple[list[str], list[str]]:
        """The names in the first line that is not empty: as they stand there, and as they are meant."""
        with self._open() as stream:
            start = stream.read(_HEAD_BYTES)
        line, *rest = re.split(rb"[\r\n]+", start.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n"), maxsplit=1)
        try:
            text = line.decode()
        except UnicodeDecodeError:
            text = line.decode("latin-1")
        if not text.strip():
            raise InvalidInput(f"{self.uri}: the file is empty; a header and rows are needed")
        if text.lstrip().startswith("<"):
            raise InvalidInput(f"{self.uri}: this is HTML or XML, not CSV; download the data file itself")
        if _CONTROL.search(text):
            raise InvalidInput(f"{self.uri}: this is neither CSV in UTF-8, nor that in gzip, nor Parquet")
        header = next(csv.reader([text]))
        if len(header) == 1:
            for delimiter, word in _DELIMITERS.items():
                if delimiter in text:
                    raise InvalidInput(f"{self.uri}: the delimiter is {word}, must be a comma")
        names = [name.strip().strip('"') for name in header]
        _check_names(names, self.uri)
        if len(start) < _HEAD_BYTES and not b"".join(rest).strip():
            raise InvalidInput(f"{self.uri}: {_NO_ROWS}")
        return header, names

    def _explain_csv(self, names: list[str]) -> None:
        """Read the file again as text and raise InvalidRows with all that is wrong with it."""
        complaints = Complaints(self.uri)
        first_row = 1
        with self._open() as stream:
            text = io.TextIOWrapper(stream, "utf-8-sig", "replace", newline="")
            lines = filter(None, csv.reader(text))
            next(lines)
            while rows := list(islice(lines, _TEXT_ROWS)):
                for i, row in enumerate(rows):
                    if len(row) != len(names):
                        problem = f"has {len(row)} values, must have {len(names)}"
                        complaints.add([Violation(problem, row=first_row + i)], 1)
                        rows[i] = ["0"] * len(names)
                columns = [
                    complaints.check_text(name, pa.array(column, pa.string()), first_row)
                    for name, column in zip(names, zip(*rows, strict=True), strict=True)
                ]
                for chunk in _exact([_arrays(pa.record_batch(columns, names), names)]):
                    complaints.check(Block(chunk, first_row))
                first_row += len(rows)
        complaints.raise_any()

    def _parquet_columns(self, shard: Shard, wanted: tuple[str, ...] = COLUMNS) -> Iterator[list[FloatArray]]:
        with self.filesystem.open_input_file(self.file) as file, parquet_file(file) as parquet:
            schema = parquet.schema_arrow
            _check_names(schema.names, self.uri)
            wrong = [
                Violation(f"has type {field.type}, must be a number", column=field.name)
                for field in schema
                if field.name in COLUMNS and not _numeric(field.type)
            ]
            if wrong:
                raise InvalidRows(wrong, source=self.uri)
            start, end = shard.rows(parquet.metadata.num_rows)
            groups, at = _row_groups(parquet.metadata, start, end)
            names = [name for name in wanted if name in schema.names]
            for batch in parquet.iter_batches(BLOCK, row_groups=groups, columns=names):
                first, at = at, at + batch.num_rows
                mine = batch.slice(max(start - first, 0), max(min(at, end) - max(first, start), 0))
                if mine.num_rows:
                    yield _arrays(mine, mine.schema.names, wanted)
                if at >= end:
                    return

    @contextlib.contextmanager
    def _open(self) -> Iterator[pa.NativeFile]:
        compression = "gzip" if self.kind == "csv.gz" else None
        with self.filesystem.open_input_stream(self.file, compression=compression) as stream:
            yield stream


class Complaints:
    """Violations of a whole source: the first in the order of the rows are kept, all are counted."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.total = 0
        self.violations: list[Violation] = []

    def add(self, violations: list[Violation], total: int) -> None:
        """Keep the first of them and of what is here, count all."""
        self.violations = sorted([*self.violations, *violations], key=_place)[:MAX_REPORTED]
        self.total += total

    def check(self, block: Block) -> bool:
        """Whether the rows and labels of `block` are valid."""
        before = self.total
        for check, numbers in ((check_rows, block.rows), (check_labels, block.labels)):
            try:
                check(numbers, first_row=block.first_row)
            except InvalidRows as error:
                self.add(list(error.violations), error.total)
        return self.total == before

    def check_text(self, name: str, column: pa.StringArray, first_row: int) -> pa.DoubleArray:
        """The numbers of `column`; what is not a number is noted, and 0 instead of it."""
        numeric = pc.match_substring_regex(column, _NUMBER)
        noted = []
        bad = np.flatnonzero(~numeric.to_numpy(zero_copy_only=False))
        for i in bad[:MAX_REPORTED]:
            text = column[i].as_py().strip()
            problem, shown = ("is not a number", repr(text[:40])) if text else ("is empty", None)
            noted.append(Violation(problem, row=first_row + int(i), column=name, value=shown))
        self.add(noted, bad.size)
        return pc.utf8_trim_whitespace(pc.if_else(numeric, column, "0")).cast(pa.float64())

    def raise_any(self) -> None:
        """Raise InvalidRows when there was a violation."""
        if self.total:
            raise InvalidRows(self.violations, self.total, self.uri)


def without_secrets(uri: str) -> str:
    """`uri` as it may be shown and logged: without user, password and query."""
    return re.sub(r"//[^/]*@", "//", re.split(r"[?#]", uri)[0]) if "://" in uri else uri


def parquet_file(file: pa.NativeFile | Path) -> pq.ParquetFile:
    """A Parquet file to iterate over in constant memory; pyarrow's default keeps every row group it has read."""
    return pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)


@contextlib.contextmanager
def open_source(uri: str, download: Callable[[str, Path], Path] | None = None) -> Iterator[Source]:
    """The data set at `uri`: a path, or an https, s3, gs or abfs URL.

    An http(s) URL is downloaded once, to a temporary file, by `download(url, target)`.

    Raises:
        InvalidInput: There is nothing to read at `uri`, or it is neither CSV nor Parquet.
    """
    with tempfile.TemporaryDirectory(prefix="fraud-source-") as scratch:
        place, shown = uri, without_secrets(uri)
        if uri.startswith(("http://", "https://")):
            if download is None:
                raise InvalidInput(f"{shown}: URLs are not read here; give a file")
            place = str(download(uri, Path(scratch) / "download"))
        yield _locate(shown, place)


def _locate(uri: str, place: str) -> Source:
    try:
        if "://" in place:
            filesystem, file = pafs.FileSystem.from_uri(place)
        else:
            filesystem, file = pafs.LocalFileSystem(), str(Path(place).expanduser().absolute())
        info = filesystem.get_file_info(file)
    except (ValueError, RuntimeError) as error:  # pyarrow's errors are of these, too
        raise InvalidInput(f"{uri}: {_line(error).replace(place, uri)}") from None
    except OSError as error:
        raise TemporaryError(f"{uri} cannot be reached: {_line(error).replace(place, uri)}") from None
    if info.type != pafs.FileType.File:
        kinds = {pafs.FileType.Directory: "is a folder", pafs.FileType.NotFound: "does not exist"}
        what = kinds.get(info.type, "is not a regular file")
        raise InvalidInput(f"{uri} {what}; --data takes one CSV, CSV.gz or Parquet file")
    with _reading(uri, filesystem):
        with filesystem.open_input_stream(file, compression=None) as stream:
            start = stream.read(4)
        if start == b"PAR1":
            with filesystem.open_input_file(file) as opened, parquet_file(opened) as parquet:
                return Source(uri, file, filesystem, "parquet", int(parquet.metadata.num_rows))
    return Source(uri, file, filesystem, "csv.gz" if start.startswith(b"\x1f\x8b") else "csv")


@contextlib.contextmanager
def _reading(uri: str, filesystem: pafs.FileSystem) -> Iterator[None]:
    """The errors of readers as ours: a file that is here and cannot be read will not mend itself."""
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"{uri} cannot be read, is it whole? {_line(error)}") from error
    except OSError as error:
        if isinstance(filesystem, pafs.LocalFileSystem):
            raise InvalidInput(f"{uri} cannot be read, is it whole? {_line(error)}") from error
        raise TemporaryError(f"{uri} cannot be read: {_line(error)}") from error


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return "".join(letter if letter.isprintable() else "�" for letter in text)


def _check_names(names: list[str], uri: str) -> None:
    if set(names) == _2023 and len(names) == len(_2023):
        return
    violations = check_columns(names, labelled=True)
    if violations:
        raise InvalidRows(violations[:MAX_REPORTED], len(violations), uri)


def _row_groups(metadata: pq.FileMetaData, start: int, end: int) -> tuple[list[int], int]:
    """The row groups that have rows from `start` to before `end`, and the first one's first row; from 0."""
    ends = np.cumsum([metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)], dtype=np.int64)
    starts = np.concatenate([[0], ends])[:-1]
    groups = np.flatnonzero((start < end) & (starts < end) & (ends > start))
    return groups.tolist(), int(starts[groups[0]]) if groups.size else start


def _arrays(batch: pa.RecordBatch, names: list[str], wanted: tuple[str, ...] = COLUMNS) -> list[FloatArray]:
    """Arrays [n] of a batch in the order of `wanted`; nulls are NaN; without Time, Time is 0."""
    return [
        batch.column(names.index(name)).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        if name in names
        else np.zeros(batch.num_rows)
        for name in wanted
    ]


def _exact(batches: Iterable[list[FloatArray]]) -> Iterator[FloatArray]:
    """Matrices [31, BLOCK] of the same columns in a row; the last may be narrower."""
    block = np.empty((len(COLUMNS), BLOCK))
    filled = 0
    for arrays in batches:
        taken, size = 0, arrays[0].size
        while taken < size:
            step = min(BLOCK - filled, size - taken)
            with np.errstate(invalid="ignore"):  # a NaN is found later
                for target, values in zip(block, arrays, strict=True):
                    # -0.0 becomes 0.0: rows that are equal are the same bytes
                    np.add(values[taken : taken + step], 0.0, out=target[filled : filled + step])
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


def _place(violation: Violation) -> tuple[int, int]:
    return violation.row or 0, COLUMNS.index(violation.column) if violation.column in COLUMNS else -1
