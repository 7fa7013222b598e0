"""Files as people have them: what is read, and what each bad one is refused with."""

from __future__ import annotations

import gzip
import io
import os
import zipfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from fraudkit.errors import FraudError, InvalidInput, InvalidRows, TemporaryError
from fraudkit.schema import INPUTS, LABEL, MAX_REPORTED
from pipelines.data.sources import BLOCK, COLUMNS, Block, open_source, without_secrets

HEADER = ",".join(COLUMNS)
ROWS = 10


def line(number: int, **values: object) -> str:
    """A row of text: Time is its number, every third a fraud; `values` stand in their columns."""
    good: dict[str, object] = dict.fromkeys(INPUTS, f"0.{number}") | {"Time": number, LABEL: int(number % 3 == 0)}
    return ",".join(str(value) for value in (good | values).values())


def table(rows: int = ROWS, **columns: object) -> dict[str, object]:
    """Columns for Parquet, with `columns` in place of some or beside them."""
    random = np.random.default_rng(0)
    good: dict[str, object] = {name: random.normal(size=rows) for name in INPUTS}
    good |= {"Time": np.arange(float(rows)), "Amount": np.arange(rows) / 4, LABEL: np.arange(rows) % 3 % 2}
    return good | columns


GOOD = [HEADER, *(line(i) for i in range(1, ROWS + 1))]


def text(lines: list[str], end: str = "\n") -> bytes:
    return "".join(one + end for one in lines).encode()


def with_line(number: int, replacement: str) -> bytes:
    return text([*GOOD[:number], replacement, *GOOD[number + 1 :]])


def parquet(columns: dict[str, object] | pa.Table, **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), sink, **options)
    return sink.getvalue()


def arrow() -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, pa.table(table()).schema) as writer:
        writer.write_table(pa.table(table()))
    return sink.getvalue()


def zipped() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as file:
        file.writestr("creditcard.csv", text(GOOD))
    return sink.getvalue()


def damaged(content: bytes, start: int, stop: int) -> bytes:
    return content[:start] + b"\xff" * (stop - start) + content[stop:]


@pytest.fixture
def file(tmp_path: Path) -> Callable[[bytes], str]:
    """Writes a file with some content; its name says nothing of the format."""

    def write(content: bytes) -> str:
        path = tmp_path / "data"
        path.write_bytes(content)
        return str(path)

    return write


def read(uri: str) -> np.ndarray:
    """All columns [31, n] of a source."""
    with open_source(uri) as source:
        return np.concatenate([block.columns for block in source.blocks()], axis=1)


def refusal(uri: str, kind: type[FraudError] = InvalidInput) -> FraudError:
    with pytest.raises(kind) as caught:
        read(uri)
    message = str(caught.value)
    assert message.startswith(uri)
    assert message.isprintable()  # and hence one line
    return caught.value


PLAIN = np.array([[float(value) for value in one.split(",")] for one in GOOD[1:]]).T

QUOTED = [",".join(f'"{value}"' for value in one.split(",")) for one in GOOD]


@pytest.mark.parametrize(
    "content",
    [
        text(GOOD),
        text(GOOD)[:-1],
        text(GOOD, "\r\n"),
        text(GOOD, "\r"),
        b"\xef\xbb\xbf" + text(GOOD),
        b"\xef\xbb\xbf" + text(QUOTED, "\r\n"),
        text(QUOTED),
        text([*GOOD[:4], "", "", *GOOD[4:], "", ""]),
        text(["", "", *GOOD]),
        b"\xef\xbb\xbf\r\n" + text(GOOD, "\r\n"),
        text([one.replace(",", ", ") for one in GOOD]),
        text([one.replace(",", " ,") for one in GOOD]),
        text([one.replace(",", ",\t") for one in GOOD]),
        text([",".join(reversed(one.split(","))) for one in GOOD]),
        text([HEADER, *(one.replace("0.", "+.") for one in GOOD[1:])]),
        text([HEADER, *(",".join(f"{float(value):E}" for value in one.split(",")) for one in GOOD[1:])]),
        gzip.compress(text(GOOD)),
        gzip.compress(text(GOOD[:5])) + gzip.compress(text(GOOD[5:])),
    ],
    ids=[
        *("plain", "no last line end", "CRLF", "CR", "BOM", "BOM, quotes, CRLF", "quotes", "blank lines"),
        *("blank lines first", "BOM and a blank line", "blanks before", "blanks behind", "tabs", "reversed"),
        *("plus signs", "exponents", "gzip", "gzip in two parts"),
    ],
)
def test_every_way_to_write_the_same_rows_as_csv_is_read_alike(
    file: Callable[[bytes], str], content: bytes
) -> None:
    assert np.array_equal(read(file(content)), PLAIN)


def test_a_header_with_blanks_is_read_where_a_column_begins_with_integers(file: Callable[[bytes], str]) -> None:
    rows = [line(i % 7 + 1, V3=1 if i < 60_000 else 1.5) for i in range(70_000)]
    columns = read(file(text([HEADER.replace(",", ", "), *rows])))
    assert columns[INPUTS.index("V3")].sum() == 75_000


def test_the_three_formats_of_the_same_rows_are_read_alike(file: Callable[[bytes], str]) -> None:
    columns = pa.table(table(1_000))
    sink = io.BytesIO()
    pacsv.write_csv(columns, sink)
    csv = read(file(sink.getvalue()))
    assert csv.shape == (31, 1_000)
    assert np.array_equal(read(file(gzip.compress(sink.getvalue()))), csv)
    assert np.array_equal(read(file(parquet(columns))), csv)


@pytest.mark.parametrize(
    ("columns", "column", "values"),
    [
        ({"Time": pa.array(range(ROWS), pa.int64())}, "Time", range(ROWS)),
        ({"Time": pa.array(range(ROWS), pa.uint8())}, "Time", range(ROWS)),
        ({"V1": pa.array(range(ROWS), pa.float32())}, "V1", range(ROWS)),
        ({"V1": np.arange(ROWS, dtype=np.float16)}, "V1", range(ROWS)),
        ({"Amount": [Decimal(f"{i}.25") for i in range(ROWS)]}, "Amount", [i + 0.25 for i in range(ROWS)]),
        ({LABEL: [i % 2 == 0 for i in range(ROWS)]}, LABEL, [1, 0] * 5),
        ({LABEL: pa.array([float(i % 2) for i in range(ROWS)])}, LABEL, [0, 1] * 5),
    ],
    ids=["int64", "uint8", "float32", "float16", "decimal", "bool label", "float label"],
)
def test_every_kind_of_number_in_parquet_is_read(
    file: Callable[[bytes], str], columns: dict[str, object], column: str, values: list[float]
) -> None:
    found = read(file(parquet(table(**columns))))
    assert found[COLUMNS.index(column)].tolist() == list(values)


@pytest.mark.parametrize("size", [1, 7, 1_000, 65_536, 70_000, 10**6])
def test_blocks_are_the_same_whatever_the_row_groups(file: Callable[[bytes], str], size: int) -> None:
    rows = 2_000 if size < 1_000 else 140_000
    columns = table(rows)
    with open_source(file(parquet(columns, row_group_size=size))) as source:
        assert source.total_rows == rows
        blocks = list(source.blocks())
    assert [block.first_row for block in blocks] == list(range(1, rows + 1, BLOCK))
    assert [block.columns.shape[1] for block in blocks[:-1]] == [BLOCK] * (len(blocks) - 1)
    found = np.concatenate([block.columns for block in blocks], axis=1)
    assert np.array_equal(found, np.array([columns[name] for name in COLUMNS]))


def test_blocks_of_csv_are_full_but_the_last(file: Callable[[bytes], str]) -> None:
    with open_source(file(text([HEADER, *(line(i % 7 + 1) for i in range(140_000))]))) as source:
        sizes = [(block.first_row, block.columns.shape[1]) for block in source.blocks()]
    assert sizes == [(1, BLOCK), (1 + BLOCK, BLOCK), (1 + 2 * BLOCK, 140_000 - 2 * BLOCK)]


def test_a_source_can_be_read_again_and_again(file: Callable[[bytes], str]) -> None:
    with open_source(file(text(GOOD))) as source:
        first, second = (list(source.blocks()) for _ in range(2))
    assert np.array_equal(first[0].columns, second[0].columns)
    assert first[0].rows.shape == (ROWS, 30)
    assert first[0].labels.sum() == 3


def test_minus_zero_is_read_as_zero(file: Callable[[bytes], str]) -> None:
    columns = read(file(with_line(3, line(3, Time="-0", V1="-0.0", Amount="-0e5"))))
    assert not np.signbit(columns).any()
    assert not np.signbit(read(file(parquet(table(V1=np.full(ROWS, -0.0)))))[COLUMNS.index("V1")]).any()


LAYOUT_2023 = ["id", *INPUTS[1:], LABEL]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_layout_of_2023_is_read_with_time_0_and_without_the_id(
    file: Callable[[bytes], str], kind: str
) -> None:
    columns = table()
    with_id = {"id": np.arange(ROWS) + 1_000, **{name: columns[name] for name in LAYOUT_2023[1:]}}
    sink = io.BytesIO()
    pacsv.write_csv(pa.table(with_id), sink)
    found = read(file(sink.getvalue() if kind == "csv" else parquet(with_id)))
    assert np.array_equal(found[0], np.zeros(ROWS))
    assert np.array_equal(found[1:], np.array([columns[name] for name in COLUMNS[1:]]))


def test_a_bad_value_in_the_layout_of_2023_is_named_like_any_other(file: Callable[[bytes], str]) -> None:
    lines = [",".join(LAYOUT_2023), line(1), line(2, V3="abc", Amount=-1), line(3)]
    said = str(refusal(file(text(lines))))
    assert said.endswith("row 2, V3: 'abc' is not a number; row 2, Amount: -1 is negative, must be ≥ 0")


HIGH = 1 << 60

# Content → what the message says after the name of the file.
BAD_CSV = {
    "an empty file": (b"", "the file is empty; a header and rows are needed"),
    "blank lines": (b"\n\r\n\n", "the file is empty; a header and rows are needed"),
    "blanks": (b"   \n  ", "the file is empty; a header and rows are needed"),
    "a BOM": (b"\xef\xbb\xbf", "the file is empty; a header and rows are needed"),
    "a header": (HEADER.encode(), "the file has a header and no rows"),
    "a header and blank lines": (text([HEADER, "", ""]), "the file has a header and no rows"),
    "a header that lacks a column": (HEADER[5:].encode(), "Time: the column is missing"),
    "HTML": (b"<!DOCTYPE html>\n<html>", "this is HTML or XML, not CSV; download the data file itself"),
    "HTML after blanks": (b"\n\n  <html>\n", "this is HTML or XML, not CSV"),
    "HTML with a BOM": (b"\xef\xbb\xbf<html>\n", "this is HTML or XML, not CSV"),
    "JSON": (b'[{"Time": 1, "V1": 2}]\n', "Time: the column is missing"),
    "semicolons": (text([one.replace(",", ";") for one in GOOD]), "the delimiter is a semicolon, must be a comma"),
    "semicolons and decimal commas": (
        text([one.replace(",", ";").replace(".", ",") for one in GOOD]),
        "the delimiter is a semicolon, must be a comma",
    ),
    "tabs": (text([one.replace(",", "\t") for one in GOOD]), "the delimiter is a tab, must be a comma"),
    "bars": (text([one.replace(",", "|") for one in GOOD]), "the delimiter is a bar, must be a comma"),
    "UTF-16": ("\n".join(GOOD).encode("utf-16"), "this is neither CSV in UTF-8, nor that in gzip, nor Parquet"),
    "UTF-16 without a BOM": ("\n".join(GOOD).encode("utf-16-be"), "this is neither CSV in UTF-8"),
    "zeros": (bytes(5_000), "this is neither CSV in UTF-8"),
    "a ZIP archive": (zipped(), "this is neither CSV in UTF-8"),
    "an Arrow file": (arrow(), "this is neither CSV in UTF-8"),
    "gzip of gzip": (gzip.compress(gzip.compress(text(GOOD))), "this is neither CSV in UTF-8"),
    "gzip of Parquet": (gzip.compress(parquet(table())), "this is neither CSV in UTF-8"),
    "gzip of HTML": (gzip.compress(b"<html>"), "this is HTML or XML"),
    "gzip of nothing": (gzip.compress(b""), "the file is empty"),
    "no header": (text(GOOD[1:]), "Time: the column is missing; V1: the column is missing; V2: the column is"),
    "no label": (text([one.rpartition(",")[0] for one in GOOD]), "Class: the column is missing"),
    "a missing column": (
        text([",".join(np.delete(one.split(","), 5)) for one in GOOD]),
        "V5: the column is missing",
    ),
    "an extra column": (
        text([f"{one},{end}" for one, end in zip(GOOD, ["foo", *"0123456789"], strict=True)]),
        "foo: is not a column of this schema; remove it",
    ),
    "a column twice": (
        text([f"{one},{end}" for one, end in zip(GOOD, ["V1", *"0123456789"], strict=True)]),
        "V1: ",
    ),
    "a row number without a name": (
        text([f",{HEADER}", *(f"0,{one}" for one in GOOD[1:])]),
        "'': is not a column",
    ),
    "id and Time": (
        text([f"id,{HEADER}", *(f"0,{one}" for one in GOOD[1:])]),
        "id: is not a column of this schema",
    ),
    "names in lower case": (text([HEADER.lower(), *GOOD[1:]]), "Time: the column is missing"),
    "a name with a colour": (
        text([HEADER.replace("V3", "V3\x1b[31m"), *GOOD[1:]]),
        "this is neither CSV in UTF-8",
    ),
    "a name in Latin-1": (
        text([HEADER.replace("V3", "é"), *GOOD[1:]]).decode().encode("latin-1"),
        "V3: the column is missing; é: is not a column of this schema; remove it",
    ),
    "a very long name": (text(["x" * 200_000, *GOOD[1:]]), "Time: the column is missing"),
    "a comma at the end of every line": (text([f"{one}," for one in GOOD]), "'': is not a column of this schema"),
    "a comma at the end of every row": (
        text([HEADER, *(f"{one}," for one in GOOD[1:])]),
        "row 1: has 32 values, must have 31; row 2: has 32 values, must have 31; row 3: has 32",
    ),
    "a comma at the end of one row": (with_line(3, GOOD[3] + ","), "row 3: has 32 values, must have 31"),
    "a short row": (with_line(3, "1,2,3"), "row 3: has 3 values, must have 31"),
    "a short row at the end": (text(GOOD) + b"1,2", "row 11: has 2 values, must have 31"),
    "a decimal comma": (with_line(3, line(3, V3="1,5")), "row 3: has 32 values, must have 31"),
    "a decimal comma in quotes": (with_line(3, line(3, V3='"1,5"')), "row 3, V3: '1,5' is not a number"),
    "thousands": (with_line(3, line(3, V3='"1,000.5"')), "row 3, V3: '1,000.5' is not a number"),
    "an open quote": (with_line(3, line(3, V3='"1')), "row 3: has 4 values, must have 31"),
    "a line end in quotes": (with_line(3, line(3, V3='"1\n2"')), r"row 3, V3: '1\n2' is not a number"),
    "text": (with_line(3, line(3, V3="abc")), "row 3, V3: 'abc' is not a number"),
    "text after blank lines": (
        text([*GOOD[:3], "", "", line(3, V3="abc"), *GOOD[4:]]),
        "row 3, V3: 'abc' is not a number",
    ),
    "text behind a BOM and blanks": (
        b"\xef\xbb\xbf" + text([HEADER.replace(",", ", "), line(1, Time="abc"), *GOOD[2:]]),
        "row 1, Time: 'abc' is not a number",
    ),
    "text behind a BOM and a blank line": (
        b"\xef\xbb\xbf\r\n" + text([*GOOD[:3], line(3, V3="abc")], "\r\n"),
        "row 3, V3: 'abc' is not a number",
    ),
    "NA": (with_line(3, line(3, V3="NA")), "row 3, V3: 'NA' is not a number"),
    "null": (with_line(3, line(3, V3="null")), "row 3, V3: 'null' is not a number"),
    "nothing": (with_line(3, line(3, V3="")), "row 3, V3: is empty"),
    "nothing in quotes": (with_line(3, line(3, V3='""')), "row 3, V3: is empty"),
    "blanks for a number": (with_line(3, line(3, V3="  ")), "row 3, V3: is empty"),
    "nan": (with_line(3, line(3, V3="nan")), "row 3, V3: nan is not a finite number"),
    "NaN": (with_line(3, line(3, V3="NaN")), "row 3, V3: nan is not a finite number"),
    "inf": (with_line(3, line(3, V3="-Infinity")), "row 3, V3: -inf is not a finite number"),
    "1e400": (with_line(3, line(3, V3="1e400")), "row 3, V3: inf is not a finite number"),
    "five million digits": (with_line(3, line(3, V3="1" * 5_000_000)), "row 3, V3: inf is not a finite number"),
    "beyond the limit": (with_line(3, line(3, V3="1e13")), "row 3, V3: 1e+13 is beyond the limit of ±1e+12"),
    "true": (with_line(3, line(3, V3="true")), "row 3, V3: 'true' is not a number"),
    "hexadecimal": (with_line(3, line(3, V3="0x1p3")), "row 3, V3: '0x1p3' is not a number"),
    "underscores": (with_line(3, line(3, V3="1_000")), "row 3, V3: '1_000' is not a number"),
    "Arabic digits": (with_line(3, line(3, V3="٣")), "row 3, V3: '٣' is not a number"),
    "another minus": (with_line(3, line(3, V3="−1")), "row 3, V3: '−1' is not a number"),
    "a date": (with_line(3, line(3, Time="2013-09-01")), "row 3, Time: '2013-09-01' is not a number"),
    "a zero byte": (with_line(3, line(3, V3="1\x002")), r"row 3, V3: '1\x002' is not a number"),
    "a colour": (with_line(3, line(3, V3="\x1b[31m1")), r"row 3, V3: '\x1b[31m1' is not a number"),
    "Latin-1": (with_line(3, line(3, V3="é")).decode().encode("latin-1"), "row 3, V3: '�' is not a number"),
    "long text": (with_line(3, line(3, V3="x" * 100_000)), f"row 3, V3: '{'x' * 40}' is not a number"),
    "a negative amount": (with_line(3, line(3, Amount=-0.01)), "row 3, Amount: -0.01 is negative, must be ≥ 0"),
    "a negative time": (with_line(3, line(3, Time=-1)), "row 3, Time: -1 is negative, must be ≥ 0"),
    "label 2": (with_line(3, line(3, Class=2)), "row 3, Class: 2 must be 0 or 1"),
    "label 0.5": (with_line(3, line(3, Class=0.5)), "row 3, Class: 0.5 must be 0 or 1"),
    "label nan": (with_line(3, line(3, Class="nan")), "row 3, Class: nan must be 0 or 1"),
    "a label in words": (with_line(3, line(3, Class="fraud")), "row 3, Class: 'fraud' is not a number"),
    "no label in a row": (with_line(3, line(3, Class="")), "row 3, Class: is empty"),
    "many things at once": (
        text([*GOOD[:8], "1,2,3", line(9, V3="abc", Amount=-3, Class=7), line(10, V1="inf"), line(2, Time=-1)]),
        "row 8: has 3 values, must have 31; row 9, V3: 'abc' is not a number; row 9, Amount: -3 is negative",
    ),
}


@pytest.mark.parametrize(("content", "said"), BAD_CSV.values(), ids=BAD_CSV)
def test_a_bad_csv_file_is_refused_by_row_column_and_value(
    file: Callable[[bytes], str], content: bytes, said: str
) -> None:
    uri = file(content)
    assert said in str(refusal(uri))
    if not content.startswith(b"\x1f\x8b"):
        assert said in str(refusal(file(gzip.compress(content, 1))))


TRUNCATED = gzip.compress(text([HEADER, *(line(i % 7 + 1, V7=i * 0.1) for i in range(20_000))]))
BIG = parquet(table(1_000), compression="snappy")

BAD_FILES = {
    "gzip cut in the middle": (TRUNCATED[:30_000], " cannot be read, is it whole? Truncated compressed stream"),
    "gzip cut at its end": (gzip.compress(text(GOOD))[:-4], " cannot be read, is it whole? Truncated"),
    "gzip cut at its start": (gzip.compress(text(GOOD))[:5], " cannot be read, is it whole? Truncated"),
    "two bytes of gzip": (b"\x1f\x8b", " cannot be read, is it whole? Truncated"),
    "gzip with damage": (damaged(TRUNCATED, 5_000, 5_020), " cannot be read, is it whole? zlib"),
    "a row of 20 MB": (with_line(3, line(3, V3="x" * 20_000_000)), " cannot be read, is it whole?"),
    "a number of 20 MB": (with_line(3, line(3, V3="0" * 20_000_000)), " cannot be read, is it whole?"),
    "Parquet cut at its end": (BIG[:-100], " cannot be read, is it whole? Parquet magic bytes not found"),
    "Parquet cut in the middle": (BIG[: len(BIG) // 2], " cannot be read, is it whole? Parquet magic bytes"),
    "four bytes of Parquet": (b"PAR1", " cannot be read, is it whole? Parquet file size is 4 bytes"),
    "Parquet with damage in a page": (damaged(BIG, 500, 900), " cannot be read, is it whole?"),
    "Parquet with damage in its footer": (
        damaged(BIG, len(BIG) - 500, len(BIG) - 100),
        " cannot be read, is it whole?",
    ),
}


@pytest.mark.parametrize(("content", "said"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_damaged_file_is_refused_in_one_line(file: Callable[[bytes], str], content: bytes, said: str) -> None:
    uri = file(content)
    assert str(refusal(uri)).startswith(uri + said)


V1 = [1.0] * ROWS
TABLE = pa.table(table())
FRAME = pd.DataFrame(table())

BAD_PARQUET = {
    "no rows": (parquet(TABLE.slice(0, 0)), "the file has a header and no rows"),
    "a missing column": (parquet(TABLE.drop_columns(["V5"])), "V5: the column is missing"),
    "an extra column": (parquet(table(foo=V1)), "foo: is not a column of this schema; remove it"),
    "a column twice": (parquet(TABLE.append_column("V1", pa.array(V1))), "V1: the column is there more than once"),
    "the index of pandas": (
        parquet(pa.Table.from_pandas(FRAME[FRAME["Time"] > 2])),
        "__index_level_0__: is not a column of this schema",
    ),
    "text": (parquet(table(V1=["1"] * ROWS)), "V1: has type string, must be a number"),
    "categories": (
        parquet(table(V1=pa.array(["a"] * ROWS).dictionary_encode())),
        "V1: has type dictionary<values=string, indices=int32, ordered=0>, must be a number",
    ),
    "lists": (parquet(table(V1=[[1.0]] * ROWS)), "V1: has type list<element: double>, must be a number"),
    "structs": (parquet(table(V1=[{"a": 1.0}] * ROWS)), "V1: has type struct<a: double>, must be a number"),
    "timestamps": (
        parquet(table(Time=pa.array(range(ROWS), pa.timestamp("ms")))),
        "Time: has type timestamp[ms], must be a number",
    ),
    "durations": (parquet(table(Time=pa.array(range(ROWS), pa.duration("s")))), "Time: has type duration[s]"),
    "no type": (parquet(table(V1=pa.nulls(ROWS))), "V1: has type null, must be a number"),
    "several wrong types": (
        parquet(table(V1=["1"] * ROWS, V2=[b"1"] * ROWS)),
        "V1: has type string, must be a number; V2: has type binary, must be a number",
    ),
    "a null": (parquet(table(V1=[*V1[1:], None])), "row 10, V1: nan is not a finite number"),
    "a null integer": (parquet(table(Time=pa.array([None, *range(9)], pa.int8()))), "row 1, Time: nan is not a"),
    "a null label": (
        parquet(table(Class=pa.array([None, *[1] * 9], pa.int8()))),
        "row 1, Class: nan must be 0 or 1",
    ),
    "a null decimal": (parquet(table(Amount=[None, *[Decimal(1)] * 9])), "row 1, Amount: nan is not a finite"),
    "NaN": (parquet(table(V1=[*V1[1:], np.nan])), "row 10, V1: nan is not a finite number"),
    "infinity": (parquet(table(V1=[np.inf] * ROWS)), "row 1, V1: inf is not a finite number; row 2, V1: inf"),
    "a large integer": (
        parquet(table(Time=[*range(9), HIGH])),
        "row 10, Time: 1.15292e+18 is beyond the limit of ±1e+12",
    ),
    "the largest unsigned integer": (
        parquet(table(V1=pa.array([2**64 - 1] * ROWS, pa.uint64()))),
        "row 1, V1: 1.84467e+19 is beyond the limit of ±1e+12",
    ),
    "a negative amount": (parquet(table(Amount=[*range(9), -1])), "row 10, Amount: -1 is negative, must be ≥ 0"),
    "label 2": (parquet(table(Class=[*[0, 1] * 4, 1, 2])), "row 10, Class: 2 must be 0 or 1"),
}


@pytest.mark.parametrize(("content", "said"), BAD_PARQUET.values(), ids=BAD_PARQUET)
def test_a_bad_parquet_file_is_refused_by_row_column_and_value(
    file: Callable[[bytes], str], content: bytes, said: str
) -> None:
    uri = file(content)
    assert str(refusal(uri)).startswith(f"{uri}: {said}")


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["csv", "csv.gz"])
def test_bad_rows_far_down_are_numbered_rightly_and_come_in_their_order(
    file: Callable[[bytes], str], compress: Callable[[bytes], bytes]
) -> None:
    good = [line(i % 7 + 1, V7=i * 0.1) for i in range(70_000)]
    bad = ["1,2", line(1, V3="abc"), line(2, Amount=-1), "1", line(3, Class="x", V28="")]
    error = refusal(file(compress(text([HEADER, *good, *bad, *good[:9], "7"]))), InvalidRows)
    assert isinstance(error, InvalidRows)
    assert error.total == 7
    assert [(violation.row, violation.column) for violation in error.violations] == [
        (70_001, None),
        (70_002, "V3"),
        (70_003, "Amount"),
        (70_004, None),
        (70_005, "V28"),
        (70_005, "Class"),
        (70_015, None),
    ]


def test_of_many_violations_the_first_rows_are_told_and_all_are_counted(file: Callable[[bytes], str]) -> None:
    rows = [line(i % 7 + 1, V1="x", V2="", V3="nan") for i in range(20_000)]
    error = refusal(file(text([HEADER, *rows])), InvalidRows)
    assert isinstance(error, InvalidRows)
    assert error.total == 60_000
    assert [(v.row, v.column) for v in error.violations[:4]] == [(1, "V1"), (1, "V2"), (1, "V3"), (2, "V1")]
    assert len(error.violations) == MAX_REPORTED


def test_no_block_comes_after_a_bad_one(file: Callable[[bytes], str]) -> None:
    columns = table(3 * BLOCK)
    amount = np.arange(3.0 * BLOCK)
    amount[[BLOCK + 5, 3 * BLOCK - 1]] = -1
    seen: list[Block] = []
    with open_source(file(parquet(columns | {"Amount": amount}))) as source, pytest.raises(InvalidRows) as caught:
        seen.extend(source.blocks())
    assert caught.value.total == 2
    assert caught.value.violations[1].row == 3 * BLOCK


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing.csv", "does not exist; --data takes one CSV, CSV.gz or Parquet file"),
        ("folder", "is a folder; --data takes one CSV"),
        ("folder/x.csv", "does not exist"),
        ("pipe", "is not a regular file"),
        ("data\0", "Embedded NUL"),
    ],
)
def test_what_is_not_a_file_is_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidInput, match=said):
        read(str(tmp_path / name))


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("ftp://host/file.csv", "Unrecognized filesystem type"),
        ("http://127.0.0.1:9/file.csv", "URLs are not read here"),
        ("file://host/file.csv", "Unsupported hostname"),
        ("~nobody-of-this-name/file.csv", "home directory"),
        ("", "is a folder"),
    ],
)
def test_an_address_that_cannot_be_read_is_refused(uri: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        read(uri)


def test_a_file_url_is_read(file: Callable[[bytes], str]) -> None:
    assert np.array_equal(read(Path(file(text(GOOD))).as_uri()), PLAIN)


def test_a_url_is_downloaded_once_and_what_was_downloaded_does_not_stay() -> None:
    places: list[Path] = []

    def download(url: str, target: Path) -> Path:
        assert url == "https://host/file.csv"
        places.append(target)
        target.write_bytes(text(GOOD))
        return target

    with open_source("https://host/file.csv", download) as source:
        for _ in range(2):
            (block,) = source.blocks()
            assert np.array_equal(block.columns, PLAIN)
    assert len(places) == 1
    assert not places[0].parent.exists()


def test_what_is_wrong_with_a_download_is_said_of_its_url() -> None:
    def download(url: str, target: Path) -> Path:
        target.write_bytes(b"<html>")
        return target

    with open_source("https://host/file.csv", download) as source, pytest.raises(InvalidInput) as caught:
        list(source.blocks())
    assert str(caught.value).startswith("https://host/file.csv: this is HTML")


@pytest.mark.slow  # the client tries again for six seconds
def test_an_object_store_that_does_not_answer_is_a_temporary_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    uri = "s3://bucket/file.csv?endpoint_override=127.0.0.1:9&scheme=http&region=none"
    with pytest.raises(TemporaryError, match="cannot be reached"):
        read(uri)


def test_the_real_sample_is_read_as_pandas_reads_it(real_sample: Path) -> None:
    frame = pd.read_csv(real_sample, float_precision="round_trip")
    assert np.array_equal(read(str(real_sample)), frame[list(COLUMNS)].to_numpy().T)


def test_secrets_in_an_address_are_neither_shown_nor_recorded() -> None:
    assert without_secrets("s3://key:secret@bucket/a.csv?region=x&token=y") == "s3://bucket/a.csv"
    assert without_secrets("https://host/a.csv?sig=abc#d") == "https://host/a.csv"
    assert without_secrets("what? a #1 file@home.csv") == "what? a #1 file@home.csv"
    with pytest.raises(InvalidInput) as refused, open_source("nonsense://key:secret@bucket/a.csv"):
        pass
    assert "secret" not in str(refused.value)
