"""Files as people have them: what is read, what is wrong with it, what is found in it and taken away."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fraudkit.errors import InvalidInput, InvalidRows
from fraudkit.schema import INPUTS
from fraudkit.scoring import ALERTS, TERMS, Scorer, Thresholds
from serving.console import exports, tables
from serving.console.sifting import BAD, Query, places, row, summed
from serving.console.uploads import CELLS, Results, row_ids

SCORER = Scorer(
    weights=tuple(0.1 * i for i in range(len(TERMS))),
    intercept=-4.0,
    natural_rate=0.002,
    thresholds=Thresholds(0.1, 0.9),
    typical=(0.0,) * len(INPUTS),
)
MIB = 1024 * 1024
NAMES = ("shop", *INPUTS, "Class")


def cells(number: int, **given: str) -> list[str]:
    values = {"shop": f"shop {number}", "Time": str(3_600 * number), "Amount": f"{number}.50", "Class": "0"}
    return [(values | given).get(name, f"0.{number}0") for name in NAMES]


def csv_of(rows: Sequence[Sequence[str]], names: Sequence[str] = NAMES) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([names, *rows])
    return out.getvalue()


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "file"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path: Path, most_rows: int = 1_000_000, most_bytes: int = 16 * MIB) -> tables.Piece:
    """A file as one piece."""
    found = list(tables.pieces(path, most_rows, most_bytes))
    problems, before = {}, 0
    for piece in found:
        problems |= {before + place: problem for place, problem in piece.problems.items()}
        before += len(piece.rows)
    together = pa.Table.from_batches([piece.cells for piece in found]).combine_chunks().to_batches()[0]
    return tables.Piece(together, np.concatenate([piece.rows for piece in found]), problems)


def scored(piece: tables.Piece, folder: Path, probabilities: Sequence[float]) -> Results:
    """What a model would have said of the rows of a piece; NaN for those that it was not asked about."""
    with pa.ipc.new_file(str(folder / CELLS), piece.cells.schema) as writer:
        writer.write_batch(piece.cells)
    given = np.array(probabilities)
    levels = np.where(np.isnan(given), -1, SCORER.alerts(np.nan_to_num(given))).astype(np.int8)
    ids = row_ids([], len(given), "0123456789abcdef", 2)
    answered = np.zeros(len(given), np.int16)
    return Results(piece.rows, ids, given, levels, ["v1"], answered, dict(piece.problems), 2)


@pytest.mark.parametrize("kind", ["plain", "gzip", "byte order mark", "semicolons", "other order"])
def test_csv_is_read_as_people_have_it(tmp_path: Path, kind: str) -> None:
    rows, names = [cells(1), cells(2)], list(NAMES)
    if kind == "other order":
        rows, names = [one[::-1] for one in rows], names[::-1]
    text = csv_of(rows, names)
    content = {
        "gzip": gzip.compress(text.encode()),
        "byte order mark": b"\xef\xbb\xbf" + text.encode(),
        "semicolons": text.replace(",", ";").encode(),
    }.get(kind, text.encode())
    piece = read(write(tmp_path, content))
    assert piece.problems == {}
    assert piece.rows[:, 0].tolist() == [3_600.0, 7_200.0]
    assert piece.rows[:, -1].tolist() == [1.5, 2.5]
    assert [list(one.values()) for one in piece.cells.to_pylist()] == rows


def test_a_bad_row_is_named_by_its_place_and_field_and_the_others_are_sound(tmp_path: Path) -> None:
    rows = [cells(1), cells(2, V7="seven"), cells(3, Amount="-1"), cells(4, V1="", V2="inf"), cells(5, V3="1e13")]
    text = csv_of([*rows, cells(6, Time=" +12.0 ")])
    piece = read(write(tmp_path, text))
    assert {place: str(problem) for place, problem in piece.problems.items()} == {
        1: "V7: 'seven' is not a number",
        2: "Amount: '-1' is negative, must be ≥ 0",
        3: "V1: is empty (and 1 more)",
        4: "V3: '1e13' is beyond the limit of ±1e+12",
    }
    assert piece.rows[5, 0] == 12.0


def test_rows_of_another_width_stay_in_their_place_and_lose_nothing(tmp_path: Path) -> None:
    many = [",".join(cells(1))] * 20_000
    lines = [*many, "lone", *many, "", ",".join([*cells(2), "beyond", "more"]), *many, "tail,end"]
    piece = read(write(tmp_path, "\n".join([",".join(NAMES), *lines, "", "", ""])))
    assert len(piece.rows) == len(lines)
    said = {place: str(problem) for place, problem in piece.problems.items()}
    assert sorted(said) == [20_000, 40_001, 40_002, 60_003]
    assert said[20_000] == "has 1 values, the header has 32"
    assert said[40_001] == "Time: is empty (and 29 more)"
    assert said[40_002] == "has 34 values, the header has 32; beyond it: beyond,more"
    first = piece.cells.column("shop")
    assert [first[place].as_py() for place in sorted(said)] == ["lone", "", "shop 2", "tail"]


def test_a_spreadsheet_is_read_and_what_lies_beyond_its_header_is_said(tmp_path: Path) -> None:
    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet()
    sheet.append(NAMES)
    numbers = [["shop", *([float(i)] * 30), 0] for i in (1, 2, 3)]
    numbers[1][4] = "four"
    for one in numbers:
        sheet.append([*one, "beyond"] if one[1] == 3.0 else one)
    book.save(tmp_path / "file")
    piece = read(tmp_path / "file")
    assert {place: str(problem) for place, problem in piece.problems.items()} == {
        1: "V3: 'four' is not a number",
        2: "has values beyond the header's columns: beyond",
    }
    assert piece.rows[0].tolist() == [1.0] * 30


def test_parquet_keeps_its_types_and_may_have_numbers_as_text(tmp_path: Path) -> None:
    columns: dict[str, object] = {name: [1.0, 2.0] for name in INPUTS}
    table = pa.table(columns | {"V1": ["3", None], "V2": pa.array([4, 5], pa.int32()), "flag": [True, False]})
    pq.write_table(table, tmp_path / "file")
    piece = read(tmp_path / "file")
    assert piece.rows[0, :4].tolist() == [1.0, 3.0, 4.0, 1.0]
    assert {place: str(problem) for place, problem in piece.problems.items()} == {1: "V1: is empty"}
    assert piece.cells.column("flag").to_pylist() == [True, False]
    assert tables.first_line(tmp_path / "file") == 1


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([name for name in NAMES if name not in ("V3", "Time")], "Time: the column is missing; V3: the column is"),
        ([*NAMES, "V3"], "V3: the column is there more than once"),
        ([*NAMES, "shop"], "shop: the column is there more than once"),
        ([name.lower() for name in NAMES], "Time: the column is missing"),
    ],
)
def test_columns_that_are_missing_or_come_twice_are_named(tmp_path: Path, names: list[str], said: str) -> None:
    with pytest.raises(InvalidRows, match=said):
        read(write(tmp_path, csv_of([["1"] * len(names)], names)))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\x01\x02",
        b"PAR1 and nothing more",
        b"PK\x03\x04broken",
        gzip.compress(b"x" * 99)[:-9],
        b"\xff\xfe",
    ],
)
def test_what_is_no_table_is_refused_and_not_a_failure(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InvalidInput):
        read(write(tmp_path, content))


def test_a_file_that_is_broken_off_or_no_text_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(csv_of([cells(i) for i in range(9_000)]).encode())
    with pytest.raises(InvalidInput, match="cannot be read"):
        read(write(tmp_path, whole[: len(whole) // 2]))
    with pytest.raises(InvalidInput, match="cannot be read"):
        read(write(tmp_path, csv_of([cells(1)]).encode() + csv_of([cells(2, shop="é")]).encode("latin-1")))


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    text = csv_of([cells(i) for i in range(2_000)])
    packed = write(tmp_path, gzip.compress(text.encode()))
    with pytest.raises(InvalidInput, match="more than 1,000 rows"):
        read(packed, most_rows=1_000)
    with pytest.raises(InvalidInput, match="bytes when it is unpacked"):
        read(packed, most_bytes=len(text) // 8)
    book = openpyxl.Workbook(write_only=True)
    book.create_sheet().append(["x" * 30_000] * 30)
    book.save(tmp_path / "file")
    with pytest.raises(InvalidInput, match="bytes when it is unpacked"):
        read(tmp_path / "file", most_bytes=10_000)
    wide = {name: [1.0] * 10 for name in INPUTS} | {"note": ["x" * 40_000] * 10}
    pq.write_table(pa.table(wide), tmp_path / "file")
    with pytest.raises(InvalidInput, match="a cell has more than"):
        read(tmp_path / "file")


def test_a_download_has_every_row_and_column_as_it_came_and_the_answer_beside_it(tmp_path: Path) -> None:
    rows = [cells(1, shop='say "hi", twice'), cells(2, shop="=cmd()"), cells(3, V5="abc"), ["short"]]
    piece = read(write(tmp_path, csv_of(rows)))
    results = scored(piece, tmp_path, [0.95, 0.01, np.nan, np.nan])
    exports.write(results, tmp_path, [SCORER], "csv", tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(encoding="utf-8") as file:
        names, *found = list(csv.reader(file))
    added = ["id", "probability", "label", "alert", "reasons", "model_version", "problem"]
    assert names == [*NAMES, *added]
    width = len(NAMES)
    assert [one[:width] for one in found] == [
        rows[0], ["'=cmd()", *rows[1][1:]], rows[2], ["short", *[""] * (width - 1)]
    ]  # fmt: skip
    assert found[0][width : width + 4] == ["file-0123456789-2", "0.95", "1", "block"]
    assert found[0][-3:] == ["Amount +2.75, V28 +0.29, V27 +0.28", "v1", ""]
    assert found[1][width + 1 : width + 4] == ["0.01", "0", "normal"]
    assert found[2][width:] == ["file-0123456789-4", *[""] * 5, "V5: 'abc' is not a number"]
    assert found[3][-1] == "has 1 values, the header has 32"

    exports.write(results, tmp_path, [SCORER], "parquet", tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column("shop").to_pylist()[:2] == ['say "hi", twice', "=cmd()"]
    assert table.column("V5").to_pylist() == ["0.10", "0.20", "abc", ""]
    assert table.column("probability").to_pylist() == [0.95, 0.01, None, None]


def test_parquet_has_numbers_where_every_cell_is_one_and_new_columns_take_no_name_that_is_there(
    tmp_path: Path,
) -> None:
    piece = read(write(tmp_path, csv_of([[*cells(1), "mine"]], [*NAMES, "label"])))
    results = scored(piece, tmp_path, [0.5])
    exports.write(results, tmp_path, [SCORER], "parquet", tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column("Amount").to_pylist() == [1.5]
    assert table.column("label").to_pylist() == ["mine"]
    assert table.column("scored_label").to_pylist() == [1]


def test_a_file_without_a_sound_row_comes_back_too(tmp_path: Path) -> None:
    piece = read(write(tmp_path, csv_of([cells(1, V1="x"), cells(2, V2="y")])))
    results = replace(scored(piece, tmp_path, [np.nan, np.nan]), versions=[])
    exports.write(results, tmp_path, [], "csv", tmp_path / "out.csv")
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert [line.rpartition(",")[2] for line in lines] == [
        "problem",
        "V1: 'x' is not a number",
        "V2: 'y' is not a number",
    ]
    assert summed(results).bad == 2


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-2+3", "@SUM(A1)", "\tx", "\rx", "-", "+-1", "=1", "-1e"])
def test_a_formula_gets_an_apostrophe(text: str) -> None:
    assert next(csv.reader(io.StringIO(tables.csv_lines([pa.array([text])]).decode(), newline=""))) == [f"'{text}"]


@pytest.mark.parametrize(
    "text", ["-1", "+1.5", "-.5e-3", "1.50", "plain", "a=b", " =x", "é", "", "line\nbreak", '"']
)
def test_any_other_text_stays_as_it_is(text: str) -> None:
    line = tables.csv_lines([pa.array(["first"]), pa.array([text])]).decode()
    assert next(csv.reader(io.StringIO(line, newline=""))) == ["first", text]


def test_rows_are_named_by_their_own_ids_where_these_can_name_them() -> None:
    own = [pa.array(["a", "b"]), pa.array(["c"])]
    assert row_ids(own, 3, "0" * 64, 2).to_pylist() == ["a", "b", "c"]
    for bad in ("a", "", "x" * 257, "with\ttab", None):
        made = row_ids([*own, pa.array([bad], pa.string())], 4, "0" * 64, 2).to_pylist()
        assert made == [f"file-0000000000-{line}" for line in (2, 3, 4, 5)]


def test_alerts_come_first_and_rows_are_found_by_alert_probability_and_id(tmp_path: Path) -> None:
    piece = read(write(tmp_path, csv_of([cells(i) for i in range(1, 6)])))
    results = scored(piece, tmp_path, [0.01, 0.95, np.nan, 0.5, 0.97])
    assert places(results, Query()).tolist() == [4, 1, 3, 0, 2]
    assert places(results, Query(sort="Amount")).tolist() == [4, 3, 2, 1, 0]
    assert places(results, Query(sort="probability", down=False)).tolist() == [0, 3, 1, 4, 2]
    assert places(results, Query(sort="id", down=False)).tolist() == [0, 1, 2, 3, 4]
    assert places(results, Query(alert=BAD)).tolist() == [2]
    assert places(results, Query(alert="review")).tolist() == [3]
    assert places(results, Query(least=0.5)).tolist() == [4, 1, 3]
    assert places(results, Query(text="789-6")).tolist() == [4]
    assert row(results, 2).alert == BAD
    whole = summed(results)
    assert (whole.rows, whole.review, whole.block, whole.bad) == (5, 1, 2, 1)
    assert whole.at_risk == pytest.approx(2.5 + 4.5 + 5.5)
    assert "3 in all" in whole.hours


def test_a_query_comes_from_a_url_and_goes_back_into_one() -> None:
    query = Query.of(
        {"alert": "block", "least": "0.5", "text": " x&y ", "sort": "Amount", "down": "0", "page": "3"}
    )
    assert query == Query("block", 0.5, "x&y", "Amount", down=False, number=3)
    assert query.link(page=2) == "?alert=block&least=0.5&text=x%26y&sort=Amount&down=0&page=2#rows"
    assert "down=1" in query.turned("Amount")
    assert Query.of({"alert": "x", "sort": "y", "page": "-1"}) == Query()
    assert set(ALERTS) < {Query.of({"alert": name}).alert for name in (*ALERTS, "")}
    for text in ("2", "nan", "much"):
        with pytest.raises(InvalidInput, match="a number from 0 to 1"):
            Query.of({"least": text})
