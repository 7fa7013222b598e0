"""`fraudctl train` as a person runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fraudctl.__main__ import main

BIN = Path(sys.executable).parent


def train(state: Path, data: Path | str, *options: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, JSON and standard error of `fraudctl train --json`."""
    done = subprocess.run(
        [BIN / "fraudctl", "train", "--data", str(data), "--json", *options],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "FRAUD_STATE": str(state), "HOME": str(state.parent)},
    )
    return done.returncode, json.loads(done.stdout), done.stderr


@pytest.mark.slow
def test_real_transactions_become_a_registered_model_with_the_promised_quality(
    real_sample: Path, tmp_path: Path
) -> None:
    code, record, _ = train(tmp_path / "one", real_sample)
    assert code == 0
    assert record["gate"]["reason"] == "first_model"
    assert record["data"]["duplicates"] == 58
    assert (record["data"]["rows"], record["data"]["frauds"]) == (10_118, 492)
    assert record["data"]["split"] == "hash"
    assert "more than 3-fold apart" in record["data"]["split_reason"]
    balanced, natural = record["metrics"]["balanced"], record["metrics"]["natural"]
    assert balanced["accuracy"]["value"] >= 0.93
    assert balanced["roc_auc"]["value"] >= 0.97
    assert natural["auprc"]["low"] < natural["auprc"]["value"] < natural["auprc"]["high"]
    assert natural["natural_rate"] == pytest.approx(492 / 10_118, rel=0.15)
    assert Path(record["bundle"]).name == record["version"]

    _, other, _ = train(tmp_path / "two", real_sample)
    assert other["version"] == record["version"], "the same seed gives the same version"

    code, again, _ = train(tmp_path / "one", real_sample)
    assert (code, again["gate"]["reason"], again["bundle"]) == (1, "no_gain", None)
    assert again["version"] == record["version"]


def good_row(label: int) -> str:
    return ",".join(["0", *["0.5"] * 28, "9.5", str(label)])


HEADER = ",".join(["Time", *[f"V{i}" for i in range(1, 29)], "Amount", "Class"])
BAD: dict[str, tuple[str, str]] = {
    "NaN": (
        f"{HEADER}\n{good_row(0).replace('0.5', 'nan', 1)}\n{good_row(1)}\n",
        "row 1, V1: nan is not a finite number",
    ),
    "one class": (f"{HEADER}\n{good_row(0)}\n{good_row(0)}\n", "Class has no 1 (fraud) row"),
    "negative Amount": (
        f"{HEADER}\n{good_row(0)}\n{good_row(1).replace('9.5', '-9.5')}\n",
        "row 2, Amount: -9.5 is negative",
    ),
    "HTML": ("<!DOCTYPE html>\n<html><body>Please log in</body></html>\n", "HTML"),
    "empty": ("", "empty"),
    "semicolons": (f"{HEADER}\n{good_row(0)}\n".replace(",", ";"), "the delimiter is a semicolon"),
    "text": (
        f"{HEADER}\n{good_row(0)}\n{good_row(1).replace('0.5', 'abc', 1)}\n",
        "row 2, V1: 'abc' is not a number",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_cannot_be_right_gives_one_line_exit_2_and_leaves_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content, message = BAD[name]
    file, state = tmp_path / "bad.csv", tmp_path / "state"
    file.write_text(content, encoding="utf-8")
    monkeypatch.setenv("FRAUD_STATE", str(state))
    monkeypatch.setattr(sys, "argv", ["fraudctl", "train", "--data", str(file)])
    with pytest.raises(SystemExit) as exit_:
        main()
    printed = capsys.readouterr()
    complaint = [line for line in printed.err.splitlines() if line.startswith("fraudctl: ")]
    assert exit_.value.code == 2
    assert len(complaint) == 1
    assert message in complaint[0]
    assert str(file) in complaint[0]
    assert "Traceback" not in printed.err
    assert printed.out == ""
    assert not state.exists()


def leaky(real_sample: Path, tmp_path: Path, name: str) -> Path:
    """The real sample with a leak in it."""
    import pandas as pd

    frame = pd.read_csv(real_sample).sort_values("Class", kind="stable").reset_index(drop=True)
    if name == "a row number in V7":
        frame["V7"] = frame.index.astype(float)
    elif name == "an id renamed Time":
        frame["Time"] = frame.index.astype(float)
    else:
        frame["Time"] = frame["Time"].sort_values().to_numpy()
    path = tmp_path / "leaky.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    ("name", "column"),
    [("a row number in V7", "V7"), ("an id renamed Time", "Time"), ("a Time sorted by label", "Time")],
)
def test_a_leak_is_refused_by_name_with_its_auc(
    name: str,
    column: str,
    real_sample: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, state = leaky(real_sample, tmp_path, name), tmp_path / "state"
    monkeypatch.setenv("FRAUD_STATE", str(state))
    monkeypatch.setattr(sys, "argv", ["fraudctl", "train", "--data", str(path), "--json"])
    with pytest.raises(SystemExit) as exit_:
        main()
    printed = capsys.readouterr()
    assert exit_.value.code == 2
    assert f"{column} (AUC " in json.loads(printed.out)["error"]
    assert "alone separates fraud from legitimate" in printed.err
    assert not state.exists()
