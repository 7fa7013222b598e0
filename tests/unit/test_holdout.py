"""The frozen holdout: how it is chosen, and that it stays what it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fraudkit.errors import BundleError, InvalidInput
from pipelines.data.holdout import (
    FEWEST_FRAUDS,
    RECORD,
    ROWS,
    Record,
    Rule,
    Sides,
    Writer,
    hash_rule,
    load_record,
    objection,
    read_blocks,
    require_both_classes,
    require_same,
    time_rule,
)
from pipelines.data.rowhash import content_hash
from pipelines.data.sources import BLOCK, Block

DATA = "d" * 64


def block(rows: int, frauds: float = 0.1, seed: int = 0) -> Block:
    random = np.random.default_rng(seed)
    columns = random.normal(size=(31, rows))
    columns[0] = np.arange(rows) * 10.0
    columns[30] = random.random(rows) < frauds
    return Block(columns, 1)


def freeze(holdouts: Path, rule: Rule, rows: Block) -> Record:
    held, sides = rule.held_out(rows, content_hash(rows.columns)), Sides()
    sides.add(rows.labels, held)
    with Writer(holdouts, DATA) as writer:
        writer.add(rows.columns[:, held])
        return writer.freeze(rule, sides)


@pytest.fixture
def frozen(tmp_path: Path) -> Path:
    """The folder of a frozen holdout."""
    freeze(tmp_path / "holdouts", hash_rule("there is no time", 0.2, 0), block(1_000))
    return tmp_path / "holdouts" / DATA


def test_the_last_share_of_the_time_span_is_held_out() -> None:
    rule = time_rule((100.0, 1_100.0), 0.2)
    assert rule is not None
    assert (rule.kind, rule.cut, rule.why) == ("time", 900.0, "the last 20% of the time span")
    rows = Block(np.vstack([[100.0, 899.0, 900.0, 900.1, 1_100.0], np.zeros((30, 5))]), 1)
    assert rule.held_out(rows, content_hash(rows.columns)).tolist() == [False, False, False, True, True]


def test_without_a_time_span_there_is_no_rule_by_time() -> None:
    assert time_rule((7.0, 7.0), 0.2) is None


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_by_hash_the_share_is_held_out_of_each_class(share: float) -> None:
    rows = block(50_000)
    held = hash_rule("why", share, 0).held_out(rows, content_hash(rows.columns))
    for label in (0, 1):
        of_class = held[rows.labels == label]
        assert of_class.mean() == pytest.approx(share, abs=5 * np.sqrt(share * (1 - share) / of_class.size))


def test_by_hash_equal_rows_are_on_the_same_side_in_any_order() -> None:
    rows = block(1_000)
    rule = hash_rule("why", 0.2, 0)
    held = rule.held_out(rows, content_hash(rows.columns))
    backwards = Block(rows.columns[:, ::-1], 1)
    assert np.array_equal(rule.held_out(backwards, content_hash(backwards.columns)), held[::-1])


def test_another_seed_holds_out_other_rows() -> None:
    rows = block(10_000)
    one, two = (hash_rule("why", 0.2, seed).held_out(rows, content_hash(rows.columns)) for seed in (0, 1))
    assert (one & two).mean() == pytest.approx(0.04, abs=0.01)


def test_sides_are_counted() -> None:
    sides = Sides()
    sides.add(np.array([0.0, 1.0, 1.0, 0.0]), np.array([False, False, True, True]))
    sides.add(np.array([1.0]), np.array([True]))
    assert sides == Sides(train_rows=2, train_frauds=1, held_rows=3, held_frauds=2)


@pytest.mark.parametrize(
    ("sides", "said"),
    [
        (Sides(8_000, 400, 2_000, 100), None),
        (Sides(8_000, 50, 2_000, 12), "leaves 12 frauds on one side, fewer than 50"),
        (Sides(8_000, 49, 2_000, 100), "leaves 49 frauds on one side, fewer than 50"),
        (Sides(8_000, 0, 2_000, 0), "leaves 0 frauds on one side"),
        (Sides(0, 0, 2_000, 100), "leaves 0 frauds on one side"),
        (Sides(8_000, 80, 2_000, 60), None),
        (Sides(8_000, 80, 2_000, 61), "fraud rates of 1.00% before and 3.05% after, more than 3-fold apart"),
        (Sides(2_000, 61, 8_000, 80), "fraud rates of 3.05% before and 1.00% after, more than 3-fold apart"),
    ],
)
def test_a_split_by_time_does_not_serve_with_few_frauds_or_with_very_different_rates(
    sides: Sides, said: str | None
) -> None:
    found = objection(sides)
    assert found is None if said is None else said in str(found)
    assert FEWEST_FRAUDS == 50


@pytest.mark.parametrize("sides", [Sides(5, 0, 5, 1), Sides(5, 1, 5, 0), Sides(5, 5, 5, 1), Sides(5, 1, 5, 5)])
def test_a_side_without_one_class_is_refused(sides: Sides) -> None:
    with pytest.raises(InvalidInput, match=r"x\.csv: too few rows of one class"):
        require_both_classes(sides, "x.csv")
    require_both_classes(Sides(2, 1, 2, 1), "x.csv")


def test_a_frozen_holdout_has_its_rows_and_a_record_that_says_why(tmp_path: Path) -> None:
    rows = block(2_000)
    rule = hash_rule("there is no time", 0.2, 7)
    record = freeze(tmp_path / "holdouts", rule, rows)
    held = rows.columns[:, rule.held_out(rows, content_hash(rows.columns))]
    (read,) = read_blocks(tmp_path / "holdouts" / DATA)
    assert np.array_equal(read.columns, held)
    assert record == load_record(tmp_path / "holdouts" / DATA)
    assert (record.rows, record.frauds) == (held.shape[1], held[30].sum())
    assert record.rule.why == "there is no time: split by keyed hash within each class"
    assert record.rule.seed == 7
    assert record.data == DATA
    assert [path.name for path in (tmp_path / "holdouts").iterdir()] == [DATA]


def test_a_holdout_is_read_in_blocks_whatever_was_written_at_once(tmp_path: Path) -> None:
    rows = BLOCK + 10
    columns = np.tile(np.arange(float(rows)), (31, 1))
    with Writer(tmp_path, DATA) as writer:
        for part in np.split(columns, [3, 3, 40_000], axis=1):
            writer.add(part)
        writer.freeze(hash_rule("why", 0.2, 0), Sides(0, 0, rows, 0))
    parts = list(read_blocks(tmp_path / DATA))
    assert [part.first_row for part in parts] == list(
        np.cumsum([1, *(part.columns.shape[1] for part in parts)])[:-1]
    )
    assert max(part.columns.shape[1] for part in parts) <= BLOCK
    assert np.array_equal(np.concatenate([part.columns for part in parts], axis=1), columns)


def test_the_same_rows_are_frozen_to_the_same_bytes(tmp_path: Path) -> None:
    rule = hash_rule("why", 0.2, 0)
    one, two = (freeze(tmp_path / name, rule, block(1_000)) for name in ("one", "two"))
    assert one == two


def test_a_holdout_that_is_there_already_stays_as_it_is(frozen: Path) -> None:
    before = load_record(frozen)
    again = freeze(frozen.parent, hash_rule("another", 0.5, 1), block(1_000, seed=1))
    assert again == before == load_record(frozen)
    assert [path.name for path in frozen.parent.iterdir()] == [DATA]


def test_what_is_not_frozen_leaves_nothing_behind(tmp_path: Path) -> None:
    with Writer(tmp_path / "a" / "b", DATA) as writer:
        writer.add(block(100).columns)
    assert list(tmp_path.iterdir()) == []


def test_an_error_while_writing_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="arrays unequal"), Writer(tmp_path / "a" / "b", DATA) as writer:
        writer.add(np.ones((30, 2)))
    assert list(tmp_path.iterdir()) == []


def test_folders_that_were_there_before_stay(tmp_path: Path, frozen: Path) -> None:
    (tmp_path / "empty").mkdir()
    with Writer(tmp_path / "empty", DATA):
        pass
    with Writer(frozen.parent, "e" * 64):
        pass
    assert (tmp_path / "empty").is_dir()
    assert [path.name for path in frozen.parent.iterdir()] == [DATA]


@pytest.mark.parametrize("where", [0, 0.3, 0.9, -1])
def test_one_flipped_bit_of_the_rows_is_refused(frozen: Path, where: float) -> None:
    content = bytearray((frozen / ROWS).read_bytes())
    content[int(where * len(content)) if where >= 0 else -1] ^= 1
    (frozen / ROWS).write_bytes(content)
    with pytest.raises(BundleError, match=r"holdout\.parquet is not what was frozen; every comparison"):
        load_record(frozen)


@pytest.mark.parametrize("name", [ROWS, RECORD])
def test_a_holdout_that_lacks_a_file_is_refused_by_its_name(frozen: Path, name: str) -> None:
    (frozen / name).unlink()
    with pytest.raises(BundleError, match=name):
        load_record(frozen)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"data": "x"}', '{"more": 1}'], ids=["empty", "cut", "list", "short", "unknown"]
)
def test_a_record_that_cannot_be_read_is_refused_in_one_line(frozen: Path, content: str) -> None:
    (frozen / RECORD).write_text(content)
    with pytest.raises(BundleError, match=r"record\.json cannot be read") as caught:
        load_record(frozen)
    assert "\n" not in str(caught.value)


def test_a_record_with_another_hash_is_refused(frozen: Path) -> None:
    document = json.loads((frozen / RECORD).read_text())
    (frozen / RECORD).write_text(json.dumps(document | {"sha256": "0" * 64}))
    with pytest.raises(BundleError, match="is not what was frozen"):
        load_record(frozen)


def test_a_rule_that_holds_out_other_rows_than_were_frozen_is_refused(frozen: Path) -> None:
    record = load_record(frozen)
    sides = Sides(held_rows=record.rows, held_frauds=record.frauds)
    require_same(record, sides, frozen)
    sides.held_rows += 1
    with pytest.raises(
        BundleError, match=r"the rule in .*record\.json is not the one that chose holdout\.parquet"
    ):
        require_same(record, sides, frozen)
