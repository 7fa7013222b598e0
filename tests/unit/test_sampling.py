"""The balanced sample: the same bytes for any order, chunking and sharding of the rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data import sampling
from pipelines.data.rowhash import content_hash, keyed
from pipelines.data.sampling import BottomK

WIDTH = 3


def bottom(columns: np.ndarray, k: int, chunk: int = 1_000_000) -> BottomK:
    """The sample of `columns` [3, n], offered in chunks."""
    sample = BottomK(k, WIDTH)
    for start in range(0, columns.shape[1], chunk):
        part = columns[:, start : start + chunk]
        sample.add(keyed(content_hash(part), "sample", 0), part)
    return sample


def bytes_of(sample: BottomK) -> tuple[bytes, bytes]:
    hashes, rows = sample.result()
    return hashes.tobytes(), rows.tobytes()


def least(columns: np.ndarray, k: int) -> np.ndarray:
    """The k rows [k, 3] of least hash by sorting all rows."""
    return columns[:, np.argsort(keyed(content_hash(columns), "sample", 0), kind="stable")[:k]].T


# Few different values, so that equal rows are common.
TABLES = st.lists(st.tuples(*[st.integers(-2, 2).map(float)] * WIDTH), min_size=1, max_size=60).map(
    lambda rows: np.array(rows).T + 0.0
)


@given(TABLES, st.integers(1, 70))
def test_the_sample_is_the_k_rows_of_least_hash(columns: np.ndarray, k: int) -> None:
    hashes, rows = bottom(columns, k).result()
    assert np.array_equal(rows, least(columns, k))
    assert len(rows) == min(k, columns.shape[1])
    assert (hashes[1:] >= hashes[:-1]).all()


@settings(max_examples=200)
@given(TABLES, st.integers(1, 70), st.data())
def test_order_chunks_and_shards_do_not_change_a_byte_of_the_sample(
    columns: np.ndarray, k: int, data: st.DataObject
) -> None:
    n = columns.shape[1]
    shuffled = columns[:, data.draw(st.permutations(range(n)))]
    edges = sorted(data.draw(st.lists(st.integers(0, n), max_size=6)))
    shards = [
        bottom(part, k, data.draw(st.integers(1, n)))
        for part in np.split(shuffled, edges, axis=1)
        if part.shape[1] or data.draw(st.booleans())
    ]
    merged = BottomK(k, WIDTH)
    for shard in data.draw(st.permutations(shards)):
        merged.merge(shard)
    assert bytes_of(merged) == bytes_of(bottom(columns, k))


@pytest.mark.parametrize("k", [1, 100, 40_000, 100_000])
@pytest.mark.parametrize(
    "arrange",
    [
        lambda columns: columns,
        lambda columns: columns[:, ::-1],
        lambda columns: columns[:, np.argsort(columns[0])],
        lambda columns: columns[:, np.argsort(keyed(content_hash(columns), "sample", 0))],
        lambda columns: columns[:, np.argsort(keyed(content_hash(columns), "sample", 0))[::-1]],
    ],
    ids=["as it came", "backwards", "by a column", "best first", "best last"],
)
def test_what_is_cut_on_the_way_is_never_missed(k: int, arrange: Callable[[np.ndarray], np.ndarray]) -> None:
    columns = np.random.default_rng(0).normal(size=(WIDTH, 60_000))
    assert k + max(k // 2, sampling._SLACK) < 60_000 or k > 30_000  # else nothing is cut
    expected = least(columns, k).tobytes()
    for chunk in (777, 60_000):
        assert bytes_of(bottom(arrange(columns), k, chunk))[1] == expected


@pytest.mark.parametrize("shards", [1, 2, 7, 16])
def test_sixteen_shards_of_many_rows_give_the_bytes_of_one_pass(shards: int) -> None:
    columns = np.random.default_rng(1).normal(size=(WIDTH, 100_000))
    merged = BottomK(500, WIDTH)
    for i in reversed(range(shards)):
        merged.merge(bottom(columns[:, i::shards], 500, 4_096))
    assert bytes_of(merged) == bytes_of(bottom(columns, 500))


def test_a_smaller_sample_is_the_beginning_of_a_larger_one() -> None:
    columns = np.random.default_rng(2).normal(size=(WIDTH, 5_000))
    large = bottom(columns, 2_000).result()[1]
    for k in (1, 10, 1_999):
        assert np.array_equal(bottom(columns, k).result()[1], large[:k])


def test_a_sample_goes_on_after_it_was_looked_at() -> None:
    columns = np.random.default_rng(3).normal(size=(WIDTH, 5_000))
    sample = bottom(columns[:, :2_500], 100)
    sample.result()
    sample.merge(bottom(columns[:, 2_500:], 100))
    assert bytes_of(sample) == bytes_of(bottom(columns, 100))


def test_merging_leaves_the_other_sample_as_it_was() -> None:
    columns = np.random.default_rng(4).normal(size=(WIDTH, 2_000))
    one, two = bottom(columns[:, :1_000], 100), bottom(columns[:, 1_000:], 100)
    before = bytes_of(two)
    one.merge(two)
    one.result()
    assert bytes_of(two) == before


def test_fewer_rows_than_k_are_all_there_and_none_is_there_twice() -> None:
    columns = np.random.default_rng(5).normal(size=(WIDTH, 50))
    rows = bottom(columns, 10_000).result()[1]
    assert rows.shape == (50, WIDTH)
    assert np.unique(rows, axis=0).shape == (50, WIDTH)


def test_rows_that_are_all_the_same_fill_the_sample_with_themselves() -> None:
    columns = np.ones((WIDTH, 40_000))
    assert np.array_equal(bottom(columns, 100, 1_000).result()[1], np.ones((100, WIDTH)))


def test_a_sample_of_nothing_is_empty() -> None:
    hashes, rows = BottomK(10, WIDTH).result()
    assert hashes.shape == (0,)
    assert rows.shape == (0, WIDTH)
    assert bytes_of(bottom(np.empty((WIDTH, 0)), 10)) == (b"", b"")


def test_memory_does_not_grow_with_the_rows() -> None:
    sample = BottomK(100, WIDTH)
    random = np.random.default_rng(6)
    held = []
    for _ in range(100):
        columns = random.normal(size=(WIDTH, 10_000))
        sample.add(keyed(content_hash(columns), "sample", 0), columns)
        held.append(sample._held)
    assert max(held) <= 100 + sampling._SLACK


def test_another_seed_gives_another_sample() -> None:
    columns = np.random.default_rng(7).normal(size=(WIDTH, 10_000))
    content = content_hash(columns)
    chosen = []
    for seed in (0, 1):
        sample = BottomK(1_000, WIDTH)
        sample.add(keyed(content, "sample", seed), columns)
        chosen.append({row.tobytes() for row in sample.result()[1]})
    assert 50 < len(chosen[0] & chosen[1]) < 160  # 100 by chance


def test_the_sample_represents_the_rows() -> None:
    columns = np.random.default_rng(8).normal(size=(WIDTH, 100_000))
    rows = bottom(columns, 10_000).result()[1]
    assert np.abs(rows.mean(axis=0)).max() < 5 / np.sqrt(10_000)
    assert np.abs(rows.std(axis=0) - 1).max() < 5 / np.sqrt(20_000)
