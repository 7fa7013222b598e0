"""Synthetic transactions: the same from a seed, like the real set where it matters, drifting on demand."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from fraudkit.errors import InvalidInput
from fraudkit.schema import COMPONENTS, INPUTS, LABEL, check_labels, check_rows
from pipelines.data.synthesize import CHUNK_ROWS, Shift, synthesize, write

V = list(COMPONENTS)


def frame(rows: int = 60_000, seed: int = 0, **shift: Any) -> pd.DataFrame:
    return pd.DataFrame(pa.Table.from_batches(synthesize(rows, seed, shift=Shift(**shift))).to_pandas())


def legitimate(data: pd.DataFrame) -> pd.DataFrame:
    return data.loc[data[LABEL] == 0, [*V, "Amount"]]


def strongest_link(data: pd.DataFrame) -> float:
    links = legitimate(data).corr("spearman").to_numpy()
    return float(np.abs(links[np.triu_indices(len(links), 1)]).max())


def test_the_default_rows_are_like_the_real_set() -> None:
    data = frame(284_807)
    check_rows(data[list(INPUTS)].to_numpy())
    check_labels(data[LABEL].to_numpy(float))
    time = data["Time"].to_numpy()
    assert (np.diff(time) >= 0).all()
    assert (time == np.floor(time)).all()
    frauds = data.groupby(time >= 0.8 * 172_792)[LABEL].agg(["sum", "mean"])
    assert (frauds["sum"].sum(), time[-1] < 172_792) == (492, True)
    assert frauds["sum"].min() >= 50
    assert frauds["mean"].max() < 3 * frauds["mean"].min()
    by_hour = np.bincount((time // 3600 % 24).astype(int))
    assert by_hour[1:6].mean() < 0.3 * by_hour[9:22].mean()
    np.testing.assert_allclose(legitimate(data)[["V1", "V14", "V28"]].std(), [1.93, 0.90, 0.33], rtol=0.05)
    assert 20 < legitimate(data)["Amount"].median() < 24
    aucs = {name: roc_auc_score(data[LABEL], data[name]) for name in ("V14", "V12", "V17", "Amount", "Time")}
    assert max(max(auc, 1 - auc) for auc in aucs.values()) < 0.975
    assert aucs["V14"] < 0.05


def test_the_same_arguments_give_the_same_rows_and_another_seed_gives_others() -> None:
    once, again, other = (pa.Table.from_batches(synthesize(CHUNK_ROWS + 10, seed)) for seed in (3, 3, 4))
    assert once.equals(again)
    assert not once.equals(other)
    assert [batch.num_rows for batch in once.to_batches()] == [CHUNK_ROWS, 10]


def test_a_shifted_mean_and_variance_move_the_named_features_alone() -> None:
    plain, moved = frame(), frame(mean=0.5, variance=4.0, features=("V4", "V28"))
    np.testing.assert_allclose(moved["V4"], 2 * plain["V4"] + 0.5 * 1.40)
    np.testing.assert_allclose(moved["V28"].std(), 2 * plain["V28"].std())
    pd.testing.assert_frame_equal(moved.drop(columns=["V4", "V28"]), plain.drop(columns=["V4", "V28"]))


def test_broken_correlation_keeps_each_distribution_and_ends_their_dependence() -> None:
    plain, broken = frame(), frame(broken_correlation=True)
    assert strongest_link(plain) > 0.35
    assert strongest_link(broken) < 0.05
    before, after = (legitimate(data)[V].quantile([0.05, 0.5, 0.95]) for data in (plain, broken))
    assert ((before - after).abs() < 0.06 * legitimate(plain)[V].std()).all(axis=None)


def test_the_fraud_rate_can_be_anything_between_none_and_all() -> None:
    assert [int(frame(1_000, fraud_rate=rate)[LABEL].sum()) for rate in (1e-6, 0.01, 0.99)] == [0, 10, 990]


def test_new_fraud_is_labelled_and_lies_far_off_where_known_fraud_does_not() -> None:
    plain, new = frame(), frame(new_fraud=0.01)
    changed = new.loc[new[LABEL] > plain[LABEL]]
    moved = (changed[V] - plain.loc[changed.index, V]).abs().mean() / legitimate(plain)[V].std()
    assert (len(changed), list(moved.index[moved > 0])) == (600, ["V13", "V15", "V24", "V26"])
    np.testing.assert_allclose(moved[moved > 0], 6.0, rtol=0.05)


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
def test_a_file_holds_what_was_made_and_nothing_is_left_beside_it(tmp_path: Path, ending: str) -> None:
    path, seen = tmp_path / "made" / f"rows.{ending}", list[int]()
    write(path, synthesize(2_000, 5), seen.append)
    read = pd.read_parquet(path) if ending == "parquet" else pd.read_csv(path, float_precision="round_trip")
    pd.testing.assert_frame_equal(read.astype({"Time": float, LABEL: "int8"}), frame(2_000, 5))
    first = path.read_bytes()
    write(path, synthesize(2_000, 5))
    assert (path.read_bytes() == first, seen, list(path.parent.iterdir())) == (True, [2_000], [path])


def test_a_write_that_fails_leaves_the_old_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="schema"):
        write(path, [next(synthesize(10)), pa.record_batch({"Time": [1.0]})])
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"old", [path])
    with pytest.raises(InvalidInput, match=r"rows\.xlsx"):
        write(tmp_path / "rows.xlsx", synthesize(10))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rows": 0}, "rows"),
        ({"seed": -1}, "seed"),
        ({"fraud_rate": float("nan")}, "fraud rate"),
        ({"start": -1.0}, "start"),
        ({"span": 0.0}, "span"),
        ({"shift": Shift(features=("V4", "Amount"))}, "not Amount"),
        ({"shift": Shift(variance=0.0)}, "variance"),
        ({"shift": Shift(mean=float("inf"))}, "mean"),
        ({"shift": Shift(fraud_rate=0.5, new_fraud=0.5)}, "new_fraud"),
    ],
)
def test_nonsense_is_refused_at_once(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        synthesize(**wrong)
