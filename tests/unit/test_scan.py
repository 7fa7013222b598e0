"""One pass over the data, and the same from shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudkit.errors import InvalidInput
from fraudkit.schema import INPUTS
from pipelines.data.rowhash import content_hash
from pipelines.data.scan import EXACT_ROWS, DuplicateCounter, Moments, Scan
from pipelines.data.sources import Block, open_source


def table(rows: int, seed: int = 0, frauds: float = 0.2) -> np.ndarray:
    """Columns [31, rows] that are valid: numbers of very different size, and some rows twice."""
    random = np.random.default_rng(seed)
    columns = random.normal(size=(31, rows)) * np.logspace(-6, 6, 31)[:, np.newaxis]
    columns[0] = np.floor(np.abs(random.normal(size=rows)) * 50_000)
    columns[29] = np.abs(columns[29])
    columns[30] = random.random(rows) < frauds
    columns[:, : rows // 50] = columns[:, rows // 2 : rows // 2 + rows // 50]
    return columns


def blocks(columns: np.ndarray, size: int) -> Iterator[Block]:
    for start in range(0, columns.shape[1], size):
        yield Block(np.ascontiguousarray(columns[:, start : start + size]), start + 1)


def scanned(parts: Iterator[Block] | list[Block]) -> Scan:
    scan = Scan(0)
    for block in parts:
        scan.add(block, content_hash(block.columns))
    return scan


def facts(scan: Scan) -> tuple[object, ...]:
    """All that a scan knows, in bytes where it is numbers."""
    moments = [
        (m.count, *(a.tobytes() for a in (m.mean, m.squares, m.minimum, m.maximum))) for m in scan.moments()
    ]
    samples = [tuple(part.tobytes() for part in sample.result()) for sample in scan.samples]
    return (
        scan.identity(),
        scan.counts,
        scan.duplicates.count(),
        scan.hours.tobytes(),
        scan.time_span(),
        moments,
        samples,
    )


@pytest.fixture(scope="module")
def columns() -> np.ndarray:
    return table(5_000)


@pytest.mark.parametrize("shards", [1, 2, 3, 16])
@pytest.mark.parametrize("seed", range(3))
def test_shards_merged_in_any_order_are_one_pass_to_the_last_bit(
    columns: np.ndarray, shards: int, seed: int
) -> None:
    parts = list(blocks(columns, 300))
    order = np.random.default_rng(seed).permutation(len(parts))
    scans = [scanned([parts[j] for j in order[i::shards]]) for i in range(shards)]
    merged = Scan(0)
    for scan in scans:
        merged.merge(scan)
    assert facts(merged) == facts(scanned(blocks(columns, 300)))


@pytest.mark.parametrize("shards", [1, 2, 16])
def test_shards_that_were_saved_are_one_pass_to_the_last_bit(
    columns: np.ndarray, shards: int, tmp_path: Path
) -> None:
    parts = list(blocks(columns, 500))
    merged = Scan(0)
    for i in range(shards):
        (tmp_path / str(i)).mkdir()
        scanned(parts[i::shards]).save(tmp_path / str(i))
        merged.merge_saved(tmp_path / str(i))
    assert facts(merged) == facts(scanned(blocks(columns, 500)))
    assert merged.blocks == list(range(1, 5_001, 500))


@settings(max_examples=20, deadline=None)
@given(st.integers(100, 5_000), st.integers(0, 99))
def test_chunks_and_order_do_not_change_identity_sample_or_duplicates(
    columns: np.ndarray, size: int, seed: int
) -> None:
    shuffled = np.random.default_rng(seed).permutation(columns, axis=1)
    one, two = scanned(blocks(columns, 5_000)), scanned(blocks(shuffled, size))
    assert one.identity() == two.identity()
    assert (one.counts, one.time_span()) == (two.counts, two.time_span())
    assert one.duplicates.count() == two.duplicates.count()
    assert np.array_equal(one.hours, two.hours)
    for mine, other in zip(one.samples, two.samples, strict=True):
        assert mine.result()[1].tobytes() == other.result()[1].tobytes()


def test_the_moments_are_those_of_numpy(columns: np.ndarray) -> None:
    labels = columns[30]
    for label, moments in enumerate(scanned(blocks(columns, 300)).moments()):
        of_class = columns[:30, labels == label]
        assert moments.count == of_class.shape[1]
        assert moments.mean == pytest.approx(of_class.mean(axis=1), rel=1e-11, abs=1e-12)
        assert moments.deviation == pytest.approx(of_class.std(axis=1, ddof=1), rel=1e-11)
        assert np.array_equal(moments.minimum, of_class.min(axis=1))
        assert np.array_equal(moments.maximum, of_class.max(axis=1))


def test_the_deviation_survives_a_large_mean() -> None:
    values = 1e9 + np.random.default_rng(0).normal(size=(30, 10_000))
    moments = Moments.of(values[:, :1]) + Moments.of(values[:, 1:37]) + Moments.of(values[:, 37:])
    assert moments.deviation == pytest.approx(values.std(axis=1, ddof=1), rel=1e-6)


def test_moments_of_nothing_add_nothing() -> None:
    nothing = Moments.of(np.empty((30, 0)))
    some = Moments.of(table(100)[:30])
    assert (nothing + nothing).count == 0
    for total in (nothing + some, some + nothing):
        assert np.array_equal(total.mean, some.mean)
        assert np.array_equal(total.squares, some.squares)
    assert Moments.of(np.ones((30, 1))).deviation.tolist() == [0.0] * 30


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c[:, 1:],
        lambda c: np.hstack([c, c[:, :1]]),
        lambda c: c + np.eye(31, c.shape[1]) * 1e-9,
        lambda c: np.vstack([c[:30], 1 - c[30]]),
        lambda c: np.vstack([c[:1], c[2:3], c[1:2], c[3:]]),
    ],
    ids=["a row less", "a row twice", "numbers a little different", "other labels", "columns swapped"],
)
def test_other_rows_are_another_data_set(columns: np.ndarray, change: object) -> None:
    assert callable(change)
    assert scanned(blocks(change(columns), 300)).identity() != scanned(blocks(columns, 300)).identity()


def test_the_identity_of_known_rows_is_what_it_always_was() -> None:
    known = np.zeros((31, 3))
    known[0] = [0.0, 3_600.0, 86_400.0]
    known[30] = [0.0, 1.0, 0.0]
    assert (
        scanned(blocks(known, 2)).identity() == "3cfadadb5adc39517e8fe6e1779414c37f9b3c3ff08c8f7c81e99d0651928017"
    )


def test_rows_are_counted_by_class_and_hour() -> None:
    columns = np.zeros((31, 4))
    columns[0] = [0.0, 3_599.0, 3_600.0, 90_000.0]
    columns[30] = [0.0, 1.0, 1.0, 1.0]
    scan = scanned(blocks(columns, 3))
    assert scan.hours[:, :2].tolist() == [[1, 0], [1, 2]]
    assert scan.hours.sum() == scan.rows == 4
    assert scan.counts == (1, 3)


@pytest.mark.parametrize(("label", "missing"), [(0.0, r"no 1 \(fraud\) row"), (1.0, r"no 0 \(legitimate\) row")])
def test_one_class_alone_is_refused_by_the_name_of_the_other(label: float, missing: str) -> None:
    columns = table(100)
    columns[30] = label
    with pytest.raises(InvalidInput, match=f"x.csv: column Class has {missing}; both classes are needed"):
        scanned(blocks(columns, 60)).require_both_classes("x.csv")


REPEATS = st.lists(st.integers(0, 30), max_size=200)


@given(REPEATS, st.integers(1, 50))
def test_duplicates_are_the_rows_that_repeat_an_earlier_one(values: list[int], chunk: int) -> None:
    content = content_hash(np.array([values], dtype=float))
    counter = DuplicateCounter()
    for start in range(0, len(values), chunk):
        counter.add(content[start : start + chunk])
    assert counter.count() == len(values) - len(set(values))
    assert counter.count() == len(values) - len(set(values))  # counting changes nothing


@given(st.lists(REPEATS, max_size=6))
def test_duplicates_across_shards_are_counted(shards: list[list[int]]) -> None:
    merged = DuplicateCounter()
    for values in shards:
        shard = DuplicateCounter()
        shard.add(content_hash(np.array([values], dtype=float).reshape(1, -1)))
        merged.merge(shard)
    everything = Counter(value for values in shards for value in values)
    assert merged.count() == everything.total() - len(everything)


def doubled(rows: int, twice: int) -> np.ndarray:
    """Content hashes of `rows` rows, of which `twice` repeat another one, in random order."""
    values = np.arange(rows, dtype=float)
    values[:twice] = values[rows - twice :]
    return content_hash(np.random.default_rng(0).permutation(values)[np.newaxis])


@pytest.mark.parametrize("exact", [300_000, 40_000, 10_000])
def test_beyond_its_exact_limit_the_counter_estimates_within_a_few_per_cent(exact: int) -> None:
    counter = DuplicateCounter(exact)
    for part in np.array_split(doubled(200_000, 60_000), 37):
        counter.add(part)
        assert counter._held <= exact
    assert (counter.share == 1.0) is (exact == 300_000)
    found = counter.share * 60_000  # pairs looked at: the estimate has a deviation of 1 / √found
    assert counter.count() == pytest.approx(60_000, rel=0 if counter.share == 1.0 else 4 / np.sqrt(found))


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("shards", [1, 2, 5])
def test_beyond_its_exact_limit_shards_give_the_estimate_of_one_pass_in_the_same_memory(
    tmp_path: Path, shards: int, saved: bool
) -> None:
    content = doubled(50_000, 10_000)
    one = DuplicateCounter(4_000)
    one.add(content)
    merged = DuplicateCounter(4_000)
    for i in range(shards):
        shard = DuplicateCounter(4_000)
        for part in np.array_split(content[i::shards], 9):
            shard.add(part)
        if saved:
            shard.save(tmp_path / f"{i}.npz")
            merged.merge_saved(tmp_path / f"{i}.npz")
        else:
            merged.merge(shard)
        assert merged._held <= 4_000
    assert (merged.count(), merged.share) == (one.count(), one.share)


def test_the_counter_comes_to_an_end_where_all_rows_are_the_same() -> None:
    counter = DuplicateCounter(1_000)
    counter.add(content_hash(np.ones((1, 5_000))))
    assert counter._held <= 1_000


def test_a_file_of_thirty_million_rows_is_counted_exactly() -> None:
    assert EXACT_ROWS > 30_000_000
    assert DuplicateCounter().exact == EXACT_ROWS


def test_the_real_sample_is_scanned_as_pandas_reads_it(real_sample: Path) -> None:
    frame = pd.read_csv(real_sample)
    with open_source(str(real_sample)) as source:
        scan = scanned(source.blocks())
    assert scan.counts == (9_626, 492)
    assert scan.duplicates.count() == frame.duplicated().sum() == 58
    assert scan.time_span() == (frame["Time"].min(), frame["Time"].max())
    legitimate, fraud = scan.moments()
    both = legitimate + fraud
    assert both.mean == pytest.approx(frame[list(INPUTS)].mean().to_numpy(), rel=1e-10, abs=1e-12)
    assert both.deviation == pytest.approx(frame[list(INPUTS)].std().to_numpy(), rel=1e-10)
