"""The content hash: the same for ever, blind to order, unlike for other content and other purposes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data.rowhash import below, content_hash, keyed

# Frozen: a change of these numbers moves every sample, split and data identity there is.
KNOWN_COLUMNS = np.array([[0.0, 1.0, -1.5, 1e12], [0.1, -0.1, 5e-324, 172792.0], [1.0, 0.0, 1.0, 0.0]])
KNOWN_CONTENT = [0xC2282FB637FE327E, 0xEA2B223F7FEAD746, 0x44FF0082E4FDB261, 0x17BDBA218C2BBA0A]
KNOWN_KEYED = [0xA575105AE31D22DC, 0x5C4C262482880068, 0xBE984FE18D8DC348, 0x124F49EAD9D4EA53]

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
ROWS = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=20)


@pytest.fixture(scope="module")
def many() -> np.ndarray:
    """Rows [31, 200,000] that hardly differ: integers in one column, small steps in another, the rest zero."""
    columns = np.zeros((31, 200_000))
    columns[0] = np.arange(200_000) // 400
    columns[29] = np.round(np.arange(200_000) % 400 / 100, 2)
    return columns


def test_the_hash_of_known_rows_is_what_it_always_was() -> None:
    assert content_hash(KNOWN_COLUMNS).tolist() == KNOWN_CONTENT


def test_the_keyed_hash_of_known_contents_is_what_it_always_was() -> None:
    assert keyed(content_hash(KNOWN_COLUMNS), "sample", 7).tolist() == KNOWN_KEYED


@given(ROWS, st.randoms(use_true_random=False))
def test_a_row_has_its_hash_wherever_it_stands(rows: list[tuple[float, ...]], random: object) -> None:
    alone = [content_hash(np.array([row]).T)[0] for row in rows]
    assert content_hash(np.array(rows).T).tolist() == alone


@given(ROWS)
def test_minus_zero_is_zero(rows: list[tuple[float, ...]]) -> None:
    columns = np.array(rows).T
    columns[1] = 0.0
    negative = columns.copy()
    negative[1] = -0.0
    assert np.array_equal(content_hash(columns), content_hash(negative))


@given(ROWS)
def test_the_layout_in_memory_does_not_matter(rows: list[tuple[float, ...]]) -> None:
    columns = np.array(rows).T
    expected = content_hash(np.ascontiguousarray(columns))
    wide = np.repeat(np.repeat(columns, 2, axis=0), 3, axis=1)
    for other in (columns, np.asfortranarray(columns), wide[::2, ::3], columns[:, ::-1][:, ::-1]):
        assert np.array_equal(content_hash(other), expected)


def test_hashing_leaves_the_rows_as_they_are() -> None:
    columns = KNOWN_COLUMNS.copy()
    keyed(content_hash(columns), "sample", 0)
    assert np.array_equal(columns, KNOWN_COLUMNS)


def test_no_rows_have_no_hashes() -> None:
    assert content_hash(np.empty((31, 0))).size == 0


def test_the_columns_are_told_apart() -> None:
    row = np.arange(31.0)[:, np.newaxis]
    swapped = row.copy()
    swapped[[3, 4]] = swapped[[4, 3]]
    assert content_hash(row) != content_hash(swapped)


def test_two_hundred_thousand_rows_that_hardly_differ_have_as_many_hashes(many: np.ndarray) -> None:
    content = content_hash(many)
    assert np.unique(content).size == 200_000
    assert np.unique(keyed(content, "sample", 0)).size == 200_000


def test_every_bit_of_the_hash_is_set_in_half_of_the_rows(many: np.ndarray) -> None:
    hashes = keyed(content_hash(many), "sample", 0)
    shares = [float((hashes >> np.uint64(bit) & np.uint64(1)).mean()) for bit in range(64)]
    assert max(abs(share - 0.5) for share in shares) < 5 * 0.5 / np.sqrt(200_000)


def test_one_flipped_bit_of_a_number_changes_half_of_the_hash() -> None:
    columns = np.random.default_rng(0).normal(size=(31, 2_000))
    flipped = columns.copy()
    flipped.view(np.uint64)[7] ^= np.uint64(1)
    changed = content_hash(columns) ^ content_hash(flipped)
    bits = np.unpackbits(changed.view(np.uint8)).sum() / changed.size
    assert 31 < bits < 33


@pytest.mark.parametrize(
    "other", [("holdout", 0), ("sample", 1), ("validation", 0)], ids=["purpose", "seed", "another purpose"]
)
def test_the_orders_of_two_purposes_or_seeds_are_unrelated(many: np.ndarray, other: tuple[str, int]) -> None:
    content = content_hash(many)
    one, two = keyed(content, "sample", 0), keyed(content, *other)
    ranks = np.argsort(np.argsort(one)), np.argsort(np.argsort(two))
    assert abs(np.corrcoef(*ranks)[0, 1]) < 5 / np.sqrt(content.size)
    both = below(one, 0.1) & below(two, 0.1)
    assert both.sum() == pytest.approx(0.01 * content.size, rel=0.12)  # σ is 2.2 %


@pytest.mark.parametrize("share", [0.0, 1e-3, 0.2, 0.5, 0.999])
def test_a_share_of_the_rows_is_below_a_share_of_the_hashes(many: np.ndarray, share: float) -> None:
    found = below(keyed(content_hash(many), "holdout", 0), share).mean()
    assert found == pytest.approx(share, abs=5 * np.sqrt(share * (1 - share) / 200_000) + 1e-12)


@given(st.floats(0, 0.999), st.floats(0, 0.999))
def test_a_smaller_share_is_part_of_a_larger_one(one: float, two: float) -> None:
    hashes = keyed(np.arange(500, dtype=np.uint64), "holdout", 0)
    assert not (below(hashes, min(one, two)) & ~below(hashes, max(one, two))).any()
