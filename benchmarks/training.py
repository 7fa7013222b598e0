"""`make bench`: one training run, ours beside a plain pandas script; and `prepare` on twenty million rows.

Each command is a process of its own, in turn, after one warm-up; medians and the ratio pair by pair are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pipelines.data.synthesize import synthesize, write

ROWS = 284_807


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--large", type=int, nargs="*", default=[], metavar="ROWS", help="also prepare so many rows"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "transactions.csv"
        write(path, synthesize(ROWS, 0))
        beside_plain(path, options.runs)
        whole_run(path, Path(folder))
        for rows in options.large:
            large(rows, Path(folder))


def beside_plain(path: Path, runs: int) -> None:
    """Ours and the plain script in turn."""
    plain, ours = [], []
    for i in range(runs + 1):
        pair = [measured([f"benchmarks.{name}", str(path)]) for name in ("plain", "ours")]
        if i:
            plain.append(pair[0])
            ours.append(pair[1])
    ratios = [b["seconds"] / a["seconds"] for a, b in zip(plain, ours, strict=True)]
    print(f"{ROWS:,} rows of CSV, {runs} runs in turn, medians; seconds without imports")
    for name, results in (("plain script", plain), ("ours, the same work", ours)):
        seconds = statistics.median(result["seconds"] for result in results)
        memory = statistics.median(result["memory"] for result in results)
        auprc = results[0]["metrics"]["auprc"]
        print(f"  {name:24} {seconds:6.2f} s   {memory:5.0f} MB   AUPRC {auprc:.3f}")
    print(f"  ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    for part in ours[0]["beside"]:
        print(f"  beside: {part:24} {statistics.median(result['beside'][part] for result in ours):6.2f} s")


def whole_run(path: Path, folder: Path) -> None:
    """`fraudctl train` as a whole, in an empty state folder: imports, MLflow and everything."""
    command = [str(Path(sys.executable).parent / "fraudctl"), "train", "--data", str(path), "--json"]
    began = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, env=os.environ | {"FRAUD_STATE": str(folder / "s")}
    ) as run:
        _, _, usage = os.wait4(run.pid, 0)
    seconds = time.perf_counter() - began
    cpu = usage.ru_utime + usage.ru_stime
    print(f"fraudctl train, whole: {seconds:.1f} s wall, {cpu:.1f} s CPU, {usage.ru_maxrss / 1024:.0f} MB")


def large(rows: int, folder: Path) -> None:
    """`prepare` on a large Parquet file."""
    path = folder / f"{rows}.parquet"
    write(path, synthesize(rows, 0))
    result = measured(["benchmarks.prepare", str(path)])
    print(f"prepare, {rows:,} rows of Parquet: {result['seconds']:.1f} s, {result['memory']:.0f} MB")
    path.unlink()


def measured(command: list[str]) -> dict[str, Any]:
    """What a module printed as JSON, and the peak memory of its process in MB."""
    with subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.PIPE) as process:
        output = process.stdout.read() if process.stdout else b""
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed")
    printed: dict[str, Any] = json.loads(output)
    return printed | {"memory": usage.ru_maxrss / 1024}


if __name__ == "__main__":
    main()
