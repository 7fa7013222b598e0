"""Prepare and train on files: what is refused leaves nothing, what is held out stays so, order does not matter."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import skops.io

from fraudkit.bundle import version_of
from fraudkit.errors import BundleError, FraudError, InvalidInput
from fraudkit.schema import INPUTS, LABEL
from fraudkit.scoring import Scorer, sigmoid
from fraudkit.settings import Settings, load_settings
from pipelines.data.holdout import RECORD, read_blocks
from pipelines.data.sources import COLUMNS, open_source
from pipelines.data.synthesize import synthesize, write
from pipelines.model import TRUSTED
from pipelines.records import KEPT, PREPARED, Prepared, Training, load_prepared
from pipelines.steps.prepare import PROFILE, prepare, profile_alone
from pipelines.steps.train import PENALTIES, train


def table(rows: int, frauds: int, seed: int = 0, span: float = 0.0) -> dict[str, np.ndarray]:
    """Transactions whose frauds differ a little in V4 and V14, in random order."""
    random = np.random.default_rng(seed)
    columns = {name: random.normal(size=rows) for name in INPUTS}
    label = random.permutation((np.arange(rows) < frauds).astype(float))
    columns["V4"] += 1.5 * label
    columns["V14"] -= 1.5 * label
    columns |= {"Time": np.floor(np.sort(random.random(rows)) * span), "Amount": np.abs(columns["Amount"]) * 50}
    return columns | {LABEL: label}


def save(path: Path, columns: dict[str, np.ndarray], order: np.ndarray | None = None) -> str:
    """Write columns, in another order of the rows if one is given; the ending says the format."""
    frame = pa.table(columns if order is None else {name: values[order] for name, values in columns.items()})
    if path.suffix == ".parquet":
        pq.write_table(frame, path, row_group_size=1_000)
    elif path.suffix == ".gz":
        with gzip.open(path, "wb", 1) as sink:
            pacsv.write_csv(frame, sink)
    else:
        pacsv.write_csv(frame, path)
    return str(path)


def rows_of(folder: Path) -> np.ndarray:
    """The rows [n, 31] of a frozen holdout."""
    return np.concatenate([block.columns.T for block in read_blocks(folder)])


def settings_in(folder: Path, **sections: object) -> Settings:
    return load_settings(state=folder / "state", **sections)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@dataclass(frozen=True)
class Run:
    """A data set prepared and trained on."""

    uri: str
    settings: Settings
    folder: Path
    prepared: Prepared
    training: Training

    @property
    def holdout(self) -> Path:
        return self.settings.bundle_folder / "holdouts" / self.prepared.data

    @property
    def scorer(self) -> Scorer:
        return Scorer.from_json((self.folder / "candidate" / "scorer.json").read_bytes())


def run(uri: str, folder: Path, **sections: object) -> Run:
    settings = settings_in(folder, **sections)
    prepared = prepare(uri, settings, folder / "prepared")
    return Run(uri, settings, folder, prepared, train(folder / "prepared", settings, folder / "candidate"))


@pytest.fixture(scope="module")
def real(real_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The real sample, prepared and trained on."""
    return run(str(real_sample), tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Synthetic transactions of two days, prepared and trained on."""
    folder = tmp_path_factory.mktemp("synthetic")
    write(folder / "data.parquet", synthesize(50_000, 0, fraud_rate=0.02))
    return run(str(folder / "data.parquet"), folder)


GOOD = table(400, 80)
NUMBER = np.arange(400.0)


def changed(**columns: object) -> dict[str, np.ndarray]:
    return GOOD | {name: np.asarray(values) for name, values in columns.items()}


def with_value(name: str, value: float) -> dict[str, np.ndarray]:
    values = GOOD[name].copy()
    values[16] = value
    return changed(**{name: values})


BY_LABEL = np.argsort(GOOD[LABEL], kind="stable")
SORTED = {name: values[BY_LABEL] for name, values in GOOD.items()}

BAD: dict[str, tuple[dict[str, np.ndarray] | bytes, str]] = {
    "an empty file": (b"", "the file is empty; a header and rows are needed"),
    "a header and no rows": ((",".join(COLUMNS) + "\n").encode(), "the file has a header and no rows"),
    "HTML": (b"<html></html>", "this is HTML or XML, not CSV; download the data file itself"),
    "a missing column": ({name: v for name, v in GOOD.items() if name != "V5"}, "V5: the column is missing"),
    "text": (changed(V3=["abc", *["1"] * 399]), "row 1, V3: 'abc' is not a number"),
    "infinity": (with_value("V3", math.inf), "row 17, V3: inf is not a finite number"),
    "a negative amount": (with_value("Amount", -5.0), "row 17, Amount: -5 is negative, must be ≥ 0"),
    "a third label": (with_value(LABEL, 2.0), "row 17, Class: 2 must be 0 or 1"),
    "no frauds": (changed(**{LABEL: np.zeros(400)}), "column Class has no 1 (fraud) row; both classes are needed"),
    "frauds alone": (changed(**{LABEL: np.ones(400)}), "column Class has no 0 (legitimate) row; both classes are"),
    "one fraud": (table(300, 1, seed=2), "too few rows of one class to train on some and hold others out"),
    "rows that are all the same": (
        dict.fromkeys(INPUTS, np.ones(400)) | {LABEL: GOOD[LABEL]},
        "too few rows of one class to train on some and hold others out",
    ),
    "a row number among the inputs": (SORTED | {"V13": NUMBER}, "V13 (AUC 1.0000) alone separates fraud"),
    "an id renamed to Time": (SORTED | {"Time": NUMBER}, "Time (AUC 1.0000) alone separates fraud"),
    "a label among the inputs": (changed(V28=-GOOD[LABEL]), "V28 (AUC 1.0000) alone separates fraud"),
}


@pytest.mark.parametrize("ending", ["csv", "csv.gz"])
@pytest.mark.parametrize(("content", "said"), BAD.values(), ids=BAD)
def test_bad_data_are_refused_and_nothing_is_written(
    tmp_path: Path, content: dict[str, np.ndarray] | bytes, said: str, ending: str
) -> None:
    path = tmp_path / f"data.{ending}"
    if isinstance(content, bytes):
        path.write_bytes(gzip.compress(content) if ending == "csv.gz" else content)
    else:
        save(path, content)
    with pytest.raises(InvalidInput) as caught:
        prepare(str(path), settings_in(tmp_path, data={"leak_auc": 0.995}), tmp_path / "prepared")
    assert str(caught.value).startswith(f"{path}: {said}")
    assert left_in(tmp_path) == [path.name]


def test_a_source_cut_short_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "data.csv.gz"
    save(path, table(5_000, 500))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InvalidInput, match="cannot be read, is it whole"):
        prepare(str(path), settings_in(tmp_path), tmp_path / "prepared")
    assert left_in(tmp_path) == [path.name]


@pytest.mark.parametrize("frauds", [1, 2, 3, 5, 8, 13])
@pytest.mark.parametrize("seed", range(3))
def test_a_handful_of_frauds_is_trained_on_or_refused_without_a_trace(
    tmp_path: Path, frauds: int, seed: int
) -> None:
    uri = save(tmp_path / "data.parquet", table(120, frauds, seed))
    settings = settings_in(tmp_path, data={"leak_auc": 1.0})
    try:
        prepared = prepare(uri, settings, tmp_path / "prepared")
    except InvalidInput:
        assert left_in(tmp_path) == ["data.parquet"]
        return
    training = train(tmp_path / "prepared", settings, tmp_path / "candidate")
    assert training.used[1] == prepared.training[1] == prepared.frauds - prepared.holdout.frauds > 0
    assert prepared.holdout.frauds > 0


@pytest.mark.parametrize("rows", [(1, 1), (2, 1), (5, 100), (1, 100)], ids=str)
def test_a_handful_of_rows_gives_a_model_or_one_of_our_errors(tmp_path: Path, rows: tuple[int, int]) -> None:
    uri = save(tmp_path / "data.csv", table(sum(rows), rows[1]))
    try:
        assert run(uri, tmp_path, data={"leak_auc": 1.0}).training.converged
    except FraudError as error:
        assert str(error).isprintable()  # noqa: PT017 - either is fine, a traceback is not


def test_data_that_hardly_vary_give_a_model(tmp_path: Path) -> None:
    columns = table(1_000, 200) | {name: np.full(1_000, 7.0) for name in INPUTS[5:]}
    columns["V2"] = columns["V1"]
    found = run(save(tmp_path / "data.csv", columns), tmp_path)
    assert np.isfinite(found.scorer.weights).all()


def test_numbers_at_the_limit_give_a_model_with_finite_scores(tmp_path: Path) -> None:
    columns = table(1_000, 200)
    columns["V1"] = np.where(np.arange(1_000) % 2 == 0, 1e12, -1e12)
    found = run(save(tmp_path / "data.csv", columns), tmp_path)
    rows = np.array([columns[name] for name in INPUTS]).T
    assert np.isfinite(found.scorer.logits(rows)).all()


def test_the_real_sample_is_split_by_hash_and_says_why(real: Run) -> None:
    found = real.prepared
    assert (found.rows, found.frauds, found.duplicates) == (10_118, 492, 58)
    assert found.holdout.rule.kind == "hash"
    assert "more than 3-fold apart: split by keyed hash within each class" in found.holdout.rule.why
    assert found.holdout.rows == pytest.approx(0.2 * 10_118, rel=0.1)
    assert found.holdout.frauds == pytest.approx(0.2 * 492, rel=0.3)
    assert max(found.separations, key=found.separations.__getitem__) == "V14"
    assert found.separations["V14"] == pytest.approx(0.963, abs=0.005)


def test_no_row_of_the_holdout_is_trained_on_and_none_is_lost(real: Run) -> None:
    _, kept = load_prepared(real.folder / "prepared")
    trained = {row.tobytes() for rows in (kept.legitimate, kept.fraud) for row in rows}
    held = rows_of(real.holdout)
    assert trained.isdisjoint(row[:30].tobytes() for row in held)
    assert len(held) == real.prepared.holdout.rows
    assert len(held) + len(kept.legitimate) + len(kept.fraud) == 10_118
    assert real.prepared.kept == real.prepared.training == (len(kept.legitimate), len(kept.fraud))


def test_synthetic_data_are_split_at_the_last_fifth_of_their_time(synthetic: Run) -> None:
    record = synthetic.prepared.holdout
    assert (record.rule.kind, record.rule.why) == ("time", "the last 20% of the time span")
    _, kept = load_prepared(synthetic.folder / "prepared")
    held = rows_of(synthetic.holdout)
    assert record.rule.cut is not None
    assert max(kept.legitimate[:, 0].max(), kept.fraud[:, 0].max()) <= record.rule.cut < held[:, 0].min()
    assert record.rule.cut == pytest.approx(0.8 * 172_792, rel=0.01)


@pytest.mark.parametrize("name", ["real", "synthetic"])
def test_scorer_json_and_the_pipeline_agree_on_every_row_of_the_holdout(
    name: str, request: pytest.FixtureRequest
) -> None:
    found: Run = request.getfixturevalue(name)
    rows = rows_of(found.holdout)[:, :30]
    pipeline = skops.io.load(found.folder / "candidate" / "model.skops", trusted=list(TRUSTED))
    fitted = sigmoid(pipeline.decision_function(rows) + found.training.added)
    assert np.abs(fitted - found.scorer.probabilities(rows)).max() <= 1e-9


@pytest.mark.parametrize("name", ["real", "synthetic"])
def test_the_mean_probability_on_the_training_rows_is_the_natural_rate(
    name: str, request: pytest.FixtureRequest
) -> None:
    found: Run = request.getfixturevalue(name)
    _, kept = load_prepared(found.folder / "prepared")
    mean = found.scorer.probabilities(np.concatenate([kept.legitimate, kept.fraud])).mean()
    assert found.scorer.natural_rate == pytest.approx(found.prepared.natural_rate, rel=1e-11)
    assert mean == pytest.approx(found.prepared.natural_rate, rel=0.35)


def test_contributions_on_real_rows_sum_to_the_log_odds_less_those_of_the_typical_one(real: Run) -> None:
    rows = rows_of(real.holdout)[:, :30]
    scorer = real.scorer
    difference = scorer.logits(rows) - scorer.logits(np.array([scorer.typical]))
    assert np.abs(scorer.contributions(rows).sum(axis=1) - difference).max() < 1e-9


@pytest.mark.parametrize("ending", ["parquet", "csv", "csv.gz"])
def test_shuffled_rows_in_another_format_give_the_same_bytes_the_same_holdout_and_the_same_version(
    real: Run, tmp_path: Path, ending: str
) -> None:
    with open_source(real.uri) as source:
        columns = np.concatenate([block.columns for block in source.blocks()], axis=1)
    order = np.random.default_rng(0).permutation(columns.shape[1])
    uri = save(tmp_path / f"data.{ending}", dict(zip(COLUMNS, columns, strict=True)), order)
    settings = settings_in(tmp_path)
    found = prepare(uri, settings, tmp_path / "prepared")
    assert found.data == real.prepared.data
    for name in KEPT:
        assert (tmp_path / "prepared" / name).read_bytes() == (real.folder / "prepared" / name).read_bytes()
    held = rows_of(settings.bundle_folder / "holdouts" / found.data)
    assert {row.tobytes() for row in held} == {row.tobytes() for row in rows_of(real.holdout)}
    if ending == "parquet":
        train(tmp_path / "prepared", settings, tmp_path / "candidate")
        assert version_of(tmp_path / "candidate") == version_of(real.folder / "candidate")


def test_the_frozen_holdout_is_used_again_also_with_another_seed_and_another_share(tmp_path: Path) -> None:
    uri = save(tmp_path / "data.csv", table(2_000, 400))
    first = prepare(uri, settings_in(tmp_path), tmp_path / "first")
    folder = tmp_path / "state" / "bundles" / "holdouts"
    before = {path.name: path.read_bytes() for path in (folder / first.data).iterdir()}
    other = settings_in(tmp_path, sampling={"seed": 7}, data={"holdout": 0.4})
    second = prepare(uri, other, tmp_path / "second")
    assert second.holdout == first.holdout
    assert second.training == first.training
    assert second.seed == 7
    assert {path.name: path.read_bytes() for path in (folder / first.data).iterdir()} == before
    assert [path.name for path in folder.iterdir()] == [first.data]
    one, two = (load_prepared(tmp_path / name)[1].fraud for name in ("first", "second"))
    assert not np.array_equal(one, two)  # the same frauds, in the order of another key
    assert np.array_equal(np.sort(one, axis=0), np.sort(two, axis=0))


def test_other_data_start_another_holdout_beside_it(tmp_path: Path) -> None:
    found = [
        prepare(
            save(tmp_path / f"{seed}.csv", table(2_000, 400, seed)), settings_in(tmp_path), tmp_path / str(seed)
        )
        for seed in range(2)
    ]
    folder = tmp_path / "state" / "bundles" / "holdouts"
    assert sorted(path.name for path in folder.iterdir()) == sorted(one.data for one in found)


def test_a_row_is_on_the_same_side_in_another_data_set_and_with_another_seed(tmp_path: Path) -> None:
    columns = table(2_000, 200, seed=4)
    fewer = {name: values[:-1] for name, values in columns.items()}
    held = []
    for name, data, seed in (("all", columns, 0), ("fewer", fewer, 5)):
        one = run(save(tmp_path / f"{name}.csv", data), tmp_path / name, sampling={"seed": seed})
        blocks = list(read_blocks(one.settings.bundle_folder / "holdouts" / one.prepared.data))
        held.append({block.columns[:, i].tobytes() for block in blocks for i in range(block.columns.shape[1])})
    assert len(held[0] ^ held[1]) <= 1, "no champion may be measured on what it was trained on"
    assert len(held[0]) > 300


def edit_record(folder: Path) -> None:
    document = json.loads((folder / RECORD).read_text())
    document["rule"]["seed"] = 1
    (folder / RECORD).write_text(json.dumps(document))


def flip(folder: Path) -> None:
    content = bytearray((folder / "holdout.parquet").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "holdout.parquet").write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (flip, r"holdout\.parquet is not what was frozen"),
        (lambda folder: (folder / "holdout.parquet").unlink(), r"holdout\.parquet"),
        (lambda folder: (folder / RECORD).unlink(), r"record\.json"),
        (edit_record, r"the rule in .*record\.json is not the one that chose"),
    ],
    ids=["flipped bit", "no rows", "no record", "another rule"],
)
def test_a_holdout_that_was_changed_is_refused_and_nothing_is_prepared(
    tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    uri = save(tmp_path / "data.csv", table(2_000, 400))
    first = prepare(uri, settings_in(tmp_path), tmp_path / "first")
    damage(tmp_path / "state" / "bundles" / "holdouts" / first.data)
    with pytest.raises(BundleError, match=said):
        prepare(uri, settings_in(tmp_path), tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_the_layout_of_2023_is_prepared_with_time_0_and_its_id_is_no_leak(tmp_path: Path) -> None:
    columns = {"id": NUMBER, **{name: values for name, values in SORTED.items() if name != "Time"}}
    found = prepare(save(tmp_path / "data.csv", columns), settings_in(tmp_path), tmp_path / "prepared")
    assert found.separations["Time"] == 0.5
    assert found.holdout.rule.kind == "hash"
    assert found.holdout.rule.why.startswith("the data have no time span")
    with pytest.raises(InvalidInput, match=r"Time \(AUC 1\.0000\) alone separates fraud from legitimate"):
        prepare(
            save(tmp_path / "renamed.csv", {"Time" if name == "id" else name: v for name, v in columns.items()}),
            settings_in(tmp_path),
            tmp_path / "renamed",
        )


def test_duplicate_rows_are_reported_and_not_refused(tmp_path: Path) -> None:
    columns = {name: np.append(values, values[:30]) for name, values in table(400, 80).items()}
    found = prepare(save(tmp_path / "data.csv", columns), settings_in(tmp_path), tmp_path / "prepared")
    assert (found.rows, found.duplicates) == (430, 30)


def test_the_balanced_sample_has_k_of_each_class_and_repeats_none(synthetic: Run, tmp_path: Path) -> None:
    settings = settings_in(tmp_path, sampling={"per_class": 500})
    found = train(synthetic.folder / "prepared", settings, tmp_path / "candidate")
    assert (found.used, found.ratio, found.trials) == ((500, 500), 1, ())
    _, kept = load_prepared(synthetic.folder / "prepared")
    for rows in (kept.legitimate[:500], kept.fraud[:500]):
        assert np.unique(rows, axis=0).shape == (500, 30)


def test_with_fewer_frauds_than_k_the_ratio_with_the_best_auprc_is_taken(real: Run) -> None:
    found = real.training
    assert [trial.ratio for trial in found.trials] == [1, 3, 10]  # for 30 there are too few legitimate rows
    assert found.ratio == max(found.trials, key=lambda trial: trial.auprc).ratio
    frauds = real.prepared.kept[1]
    assert found.used == (min(found.ratio * frauds, real.prepared.kept[0]), frauds)


def test_a_ratio_that_was_asked_for_is_taken_and_tuning_tries_the_penalties(
    synthetic: Run, tmp_path: Path
) -> None:
    settings = settings_in(tmp_path, sampling={"per_class": 300, "ratio": 3}, training={"tune": True})
    found = train(synthetic.folder / "prepared", settings, tmp_path / "candidate")
    assert found.used == (900, 300)
    assert sorted(trial.c for trial in found.trials) == sorted(PENALTIES)
    assert {trial.ratio for trial in found.trials} == {3}
    assert found.c == max(found.trials, key=lambda trial: trial.auprc).c


def test_a_natural_rate_that_was_set_is_the_one_the_probabilities_speak_at(synthetic: Run, tmp_path: Path) -> None:
    settings = synthetic.settings.model_copy(
        update={"data": synthetic.settings.data.model_copy(update={"natural_rate": 0.001})}
    )
    prepare(synthetic.uri, settings, tmp_path / "prepared")
    train(tmp_path / "prepared", settings, tmp_path / "candidate")
    rarer = Scorer.from_json((tmp_path / "candidate" / "scorer.json").read_bytes())
    rate = synthetic.scorer.natural_rate
    assert rarer.natural_rate == 0.001
    assert rarer.weights == synthetic.scorer.weights
    moved = math.log(0.001 / 0.999) - math.log(rate / (1 - rate))
    assert rarer.intercept - synthetic.scorer.intercept == pytest.approx(moved, abs=1e-9)


def test_progress_counts_up_to_all_rows(synthetic: Run, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    prepare(synthetic.uri, synthetic.settings, tmp_path / "prepared", lambda *state: told.append(state))
    assert told[-1] == (50_000, 50_000)
    assert all(one[0] < two[0] for one, two in pairwise(told))


def test_prepare_leaves_what_training_needs_and_a_profile(synthetic: Run) -> None:
    assert left_in(synthetic.folder / "prepared") == sorted([*KEPT, PREPARED, PROFILE])
    assert Prepared.read(synthetic.folder / "prepared") == synthetic.prepared
    assert b"V14" in (synthetic.folder / "prepared" / PROFILE).read_bytes()


def test_a_profile_alone_writes_its_page_and_nothing_else(tmp_path: Path) -> None:
    uri = save(tmp_path / "data.csv", GOOD)
    profile_alone(uri, tmp_path / "page.html")
    assert left_in(tmp_path) == ["data.csv", "page.html"]
    with pytest.raises(InvalidInput, match=r"no 1 \(fraud\) row"):
        profile_alone(save(tmp_path / "bad.csv", changed(**{LABEL: np.zeros(400)})), tmp_path / "bad.html")
    assert not (tmp_path / "bad.html").exists()
