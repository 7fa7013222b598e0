"""Prepared in shards and merged: the bytes, the holdout and the errors of one pass, whatever the shards."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from fraudkit.errors import FraudError, InvalidInput, InvalidRows, PermanentError, TemporaryError
from fraudkit.schema import LABEL
from fraudkit.settings import Settings, load_settings
from pipelines.data import sources
from pipelines.data.holdout import load_record
from pipelines.data.sources import Complaints, Shard, open_source
from pipelines.data.synthesize import synthesize, write
from pipelines.steps import shards
from pipelines.steps.prepare import PROFILE, prepare
from pipelines.steps.shards import RECORD, Record, merge, prepare_shard

ROWS, BLOCK = 2_500, 200
COUNTS = (1, 2, 5, 16)
LIMITS = {"sampling": {"per_class": 100}, "data": {"leak_auc": 1.0}}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirteen blocks of so few rows are as good as of 65,536, and sixteen shards are more than that."""
    monkeypatch.setattr(sources, "BLOCK", BLOCK)
    monkeypatch.setattr(shards, "BLOCK", BLOCK)


def columns(frauds: float = 0.15) -> pa.Table:
    """Transactions of two days, some of them twice."""
    table = pa.Table.from_batches(list(synthesize(ROWS - 50, 0, fraud_rate=frauds)))
    return pa.concat_tables([table, table.slice(1_000, 50)])


def save(table: pa.Table, path: Path) -> str:
    """Write the rows; the ending says the format, and `.whole.parquet` has one row group."""
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=ROWS if ".whole" in path.name else 330)
    elif path.suffix == ".gz":
        with pa.output_stream(str(path), compression="gzip") as sink:
            pacsv.write_csv(table, sink)
    else:
        pacsv.write_csv(table, path)
    return str(path)


def changed(table: pa.Table, name: str, rows: Sequence[int], value: float) -> pa.Table:
    """The rows with another value in some of them."""
    values = table[name].to_numpy().astype(float)
    values[list(rows)] = value
    return table.set_column(table.schema.get_field_index(name), name, pa.array(values))


def settings_in(folder: Path, **more: dict[str, object]) -> Settings:
    sections = {name: LIMITS.get(name, {}) | more.get(name, {}) for name in {*LIMITS, *more}}
    return load_settings(state=folder / "state", **sections)


def sharded(uri: str, settings: Settings, folder: Path, of: int) -> list[Path]:
    """The folders of all shards, in no order."""
    made = [folder / f"{of}-{i}" for i in range(of)]
    for i, path in enumerate(made):
        prepare_shard(uri, Shard(i, of), settings, path)
    random.Random(of).shuffle(made)  # noqa: S311 - any order will do
    return made


def files(*folders: Path) -> dict[str, bytes]:
    """What is in folders, by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
    }


def merged(uri: str, folder: Path, of: int, **more: dict[str, object]) -> dict[str, bytes]:
    """What shards, merged, leave: what was prepared, and the holdout."""
    settings = settings_in(folder, **more)
    merge(uri, sharded(uri, settings, folder, of), settings, folder / "prepared")
    return files(folder / "prepared", folder / "state")


def in_one_pass(uri: str, folder: Path, **more: dict[str, object]) -> dict[str, bytes]:
    settings = settings_in(folder, **more)
    prepare(uri, settings, folder / "prepared")
    return files(folder / "prepared", folder / "state")


@pytest.mark.parametrize(
    ("ending", "kind", "counts"),
    [
        ("parquet", "time", COUNTS),
        ("parquet", "hash", COUNTS),
        ("csv", "time", COUNTS),
        ("csv", "hash", COUNTS),
        ("whole.parquet", "time", (5,)),
        ("csv.gz", "hash", (5,)),
        ("parquet", "2023", (5,)),
        ("csv", "2023", (5,)),
    ],
)
def test_shards_in_any_order_merge_to_the_bytes_of_one_pass(
    tmp_path: Path, ending: str, kind: str, counts: tuple[int, ...]
) -> None:
    table = columns(0.05 if kind == "hash" else 0.15)
    table = table.select(table.column_names[::-1])
    if kind == "2023":  # no Time, and a row number
        table = table.drop_columns("Time").append_column("id", pa.array(range(ROWS)))
    uri = save(table, tmp_path / f"data.{ending}")
    wanted = in_one_pass(uri, tmp_path / "one")
    (holdout,) = (tmp_path / "one" / "state" / "bundles" / "holdouts").iterdir()
    record = load_record(holdout)
    assert record.rule.kind == ("time" if kind == "time" else "hash")
    assert (record.rule.why.startswith("the data have no time span")) is (kind == "2023")
    assert record.rows > BLOCK
    assert {PROFILE, "prepared.json", "kept-legitimate.npy", "kept-fraud.npy"} < set(wanted)
    for of in counts:
        assert merged(uri, tmp_path / str(of), of) == wanted, of


@dataclass(frozen=True)
class Prepared:
    """Five shards of good data, and what is needed to merge them."""

    uri: str
    folders: list[Path]
    settings: Callable[[Path], Settings]


@pytest.fixture
def five(tmp_path: Path) -> Prepared:
    uri = save(columns(), tmp_path / "data.parquet")
    return Prepared(uri, sharded(uri, settings_in(tmp_path), tmp_path, 5), settings_in)


def test_shards_share_the_blocks_and_leave_little(five: Prepared) -> None:
    records = [Record.model_validate_json((folder / RECORD).read_bytes()) for folder in five.folders]
    assert sorted(number for record in records for number in record.blocks) == list(range(1, ROWS, BLOCK))
    assert {len(record.blocks) for record in records} == {2, 3}
    assert not (five.folders[0].parent / "state").exists(), "shards freeze nothing"


def test_a_holdout_that_was_frozen_with_another_share_is_kept_to(tmp_path: Path) -> None:
    uri = save(columns(), tmp_path / "data.csv")
    found = []
    for name, run in (("one", in_one_pass), ("shards", lambda *args, **more: merged(*args, 5, **more))):
        first = in_one_pass(uri, tmp_path / name)
        assert run(uri, tmp_path / name) == first, "the same rule: nothing is read again"
        found.append(run(uri, tmp_path / name, data={"leak_auc": 1.0, "holdout": 0.4}))
    assert found[0] == found[1] == first


def refusal(run: Callable[[], object]) -> FraudError:
    with pytest.raises(FraudError) as caught:
        run()
    return caught.value


@pytest.mark.parametrize(("ending", "of"), [("parquet", 5), ("parquet", 16), ("csv", 2), ("csv", 16)])
def test_bad_rows_of_several_shards_are_refused_together_as_in_one_pass(
    tmp_path: Path, ending: str, of: int
) -> None:
    bad = changed(columns(), "Amount", [*range(1_480, 1_489), 2_499], -5.0)
    bad = changed(bad, "Time", [620, 621], np.inf if ending == "csv" else np.nan)
    bad = changed(bad, LABEL, range(1_990, 2_020), 2.0)
    uri = save(bad, tmp_path / f"data.{ending}")
    wanted = refusal(lambda: prepare(uri, settings_in(tmp_path), tmp_path / "prepared"))
    found = refusal(lambda: merged(uri, tmp_path, of))
    assert isinstance(wanted, InvalidRows)
    assert isinstance(found, InvalidRows)
    assert wanted.total == 42
    assert "row 621, Time: " in str(wanted)
    assert (str(found), found.violations, found.total) == (str(wanted), wanted.violations, wanted.total)
    assert not (tmp_path / "prepared").exists()
    assert not (tmp_path / "state").exists()


def test_one_bad_row_in_the_third_of_five_shards_is_the_error_of_one_pass(tmp_path: Path) -> None:
    uri = save(changed(columns(), "V7", [1_300], np.nan), tmp_path / "data.parquet")
    wanted = refusal(lambda: prepare(uri, settings_in(tmp_path), tmp_path / "prepared"))
    folders = sharded(uri, settings_in(tmp_path), tmp_path, 5)
    records = [Record.model_validate_json((folder / RECORD).read_bytes()) for folder in folders]
    assert [record.index for record in records if record.total] == [2]
    found = refusal(lambda: merge(uri, folders, settings_in(tmp_path), tmp_path / "prepared"))
    assert str(found) == str(wanted) == f"{uri}: row 1301, V7: nan is not a finite number"


@pytest.mark.parametrize(
    "content",
    [
        lambda text: text.replace("\n", "\nabc,", 1),
        lambda text: text.replace("V5", "V6", 1),
        lambda text: text.partition("\n")[0] + "\n",
        lambda _: "",
    ],
    ids=["text", "columns", "no rows", "nothing"],
)
def test_what_is_wrong_with_the_whole_file_every_shard_says_as_one_pass_does(
    tmp_path: Path, content: Callable[[str], str]
) -> None:
    path = Path(save(columns(), tmp_path / "data.csv"))
    path.write_text(content(path.read_text(encoding="utf-8")), encoding="utf-8")
    wanted = refusal(lambda: prepare(str(path), settings_in(tmp_path), tmp_path / "prepared"))
    assert isinstance(wanted, InvalidInput)
    for i in range(5):
        shard = Shard(i, 5)
        found = refusal(lambda shard=shard: prepare_shard(str(path), shard, settings_in(tmp_path), tmp_path / "s"))
        assert (type(found), str(found)) == (type(wanted), str(wanted))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [(LABEL, 0.0, "has no 1 (fraud) row"), (LABEL, 1.0, "has no 0 (legitimate) row")],
)
def test_what_only_all_rows_show_is_refused_by_the_merge(
    tmp_path: Path, name: str, value: float, said: str
) -> None:
    uri = save(changed(columns(), name, range(ROWS), value), tmp_path / "data.parquet")
    wanted = refusal(lambda: prepare(uri, settings_in(tmp_path), tmp_path / "prepared"))
    found = refusal(lambda: merged(uri, tmp_path, 5))
    assert said in str(wanted)
    assert (type(found), str(found)) == (type(wanted), str(wanted))


def test_a_leak_is_refused_by_the_merge(tmp_path: Path) -> None:
    table = columns()
    leak = table.set_column(table.schema.get_field_index("V3"), "V3", table[LABEL].cast(pa.float64()))
    uri = save(leak, tmp_path / "data.parquet")
    assert "V3 (AUC 1.0000) alone" in str(refusal(lambda: merged(uri, tmp_path, 2, data={"leak_auc": 0.995})))


@pytest.mark.parametrize("given", [[], [0, 1, 2, 3], [0, 1, 2, 3, 3], [0, 1, 2, 3, 4, 4]], ids=str)
def test_a_shard_that_is_missing_or_there_twice_is_noticed(
    five: Prepared, tmp_path: Path, given: list[int]
) -> None:
    folders = sorted(five.folders)
    with pytest.raises(PermanentError, match="shards these are given"):
        merge(five.uri, [folders[i] for i in given], five.settings(tmp_path), tmp_path / "prepared")


@pytest.mark.parametrize("rows", [ROWS - 50, BLOCK], ids=["a few rows fewer", "far fewer"])
def test_data_that_change_between_the_shards_are_worth_another_try(
    five: Prepared, tmp_path: Path, rows: int
) -> None:
    save(columns().slice(0, rows), Path(five.uri))
    again = sorted(five.folders)[3]
    shutil.rmtree(again)
    prepare_shard(five.uri, Shard(3, 5), five.settings(tmp_path), again)
    with pytest.raises(TemporaryError, match="changed while its shards were prepared"):
        merge(five.uri, five.folders, five.settings(tmp_path), tmp_path / "prepared")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parts")


MANY = columns()


@examples(max_examples=40)
@given(st.integers(1, ROWS), st.integers(1, ROWS), st.integers(1, 16), st.booleans())
def test_shards_have_each_block_once_whatever_the_row_groups(
    parts: Path, rows: int, group: int, of: int, csv: bool
) -> None:
    table = MANY.slice(0, rows)
    path = parts / ("data.csv" if csv else "data.parquet")
    if csv:
        pacsv.write_csv(table, path)
    else:
        pq.write_table(table, path, row_group_size=group)
    with open_source(str(path)) as source:
        wanted = {block.first_row: block.columns.tobytes() for block in source.blocks()}
        found = [
            (block.first_row, block.columns.tobytes())
            for i in range(of)
            for _, block in source.shard(Shard(i, of), Complaints(source.uri))
            if block
        ]
    assert sorted(found) == sorted(wanted.items())
    assert len(wanted) == -(-rows // BLOCK)


def test_a_shard_of_parquet_reads_its_row_groups_alone(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    write(path, synthesize(ROWS, 0))
    pq.write_table(pq.read_table(path), path, row_group_size=BLOCK)
    content = bytearray(path.read_bytes())
    metadata = pq.read_metadata(path)
    for i in range(metadata.num_row_groups):
        if i not in (4, 5):
            chunk = metadata.row_group(i).column(4)
            start = chunk.dictionary_page_offset or chunk.data_page_offset
            content[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    path.write_bytes(content)
    with open_source(str(path)) as source:
        mine = [block for _, block in source.shard(Shard(2, 6), Complaints(source.uri)) if block]
        assert [block.first_row for block in mine] == [801, 1_001]
        assert sum(part.shape[1] for part in source.outline()) == ROWS, "of the others Time and label alone"
        with pytest.raises(InvalidInput, match="cannot be read, is it whole"):
            list(source.blocks())
