"""The demo over seeds: does the whole story come out as it must each time, and how long does it take?

Each demo is a process of its own with a state folder of its own, one after the other. `--data` tells it on a file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from fraudctl.records import DemoRecord

COLUMNS = (
    "seed",
    "s",
    "clean",
    "drift after",
    "promoted at",
    "AUPRC before",
    "after",
    "difference",
    "windows after",
    "requests",
    "failed",
    "doubled",
    "not as it must be",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--port", type=int, default=8080, help="Of the model; the parts' are settings.")
    parser.add_argument("--data", help="Transactions of a file instead of synthesized ones.")
    options = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    as_it_must = 0
    for seed in range(options.first, options.first + options.seeds):
        with tempfile.TemporaryDirectory(prefix="fraud-story-") as folder:
            told = tell(seed, options.data, options.port, Path(folder))
        as_it_must += told is not None and not told.unmet
        print(f"| {seed} | {row(told) if told else 'failed'} |", flush=True)
    print(f"\n{as_it_must} of {options.seeds} as it must be")


def tell(seed: int, data: str | None, port: int, folder: Path) -> DemoRecord | None:
    """One demo; None where it left no record."""
    record = folder / "out.json"
    command = [sys.executable, "-m", "fraudctl", "demo", "--exit", "--json", str(record), "--port", str(port)]
    command += ["--data", data] if data else []
    variables = os.environ | {"FRAUD_STATE": str(folder / "state"), "FRAUD__SAMPLING__SEED": str(seed)}
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    if not record.exists():
        print(done.stdout[-2_000:], done.stderr[-2_000:], file=sys.stderr)
        return None
    document: dict[str, Any] = json.loads(record.read_text())
    return DemoRecord.model_validate(document)


def row(told: DemoRecord) -> str:
    """The record in a line."""
    promoted = next(
        (one for one in told.rollouts if one.outcome in ("provisional", "confirmed", "superseded")), None
    )
    cells = [
        f"{told.seconds:.0f}",
        _verdicts(told.clean.verdicts),
        f"{told.detection.rows:,}" if told.detection.verdict == "drift" else told.detection.verdict,
        f"{sum(step.requests for step in promoted.steps):,} requests" if promoted else "",
        str(told.auprc.before) if told.auprc else "",
        str(told.auprc.after) if told.auprc else "",
        str(told.auprc.difference) if told.auprc else "",
        _verdicts(told.after.verdicts),
        f"{told.requests.sent:,}",
        str(told.requests.failed),
        str(sum(trigger.runs > 1 for trigger in told.triggers)),
        "; ".join([*told.unmet, told.runs[-1].message if told.unmet and told.runs else ""]),
    ]
    return " | ".join(cells)


def _verdicts(verdicts: dict[str, int]) -> str:
    return ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())


if __name__ == "__main__":
    main()
