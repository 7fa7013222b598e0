"""Asks the launcher for a run, and shows what becomes of it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Final

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fraudctl.asking import ask, who

POLL_SECONDS: Final = 1.0
PART: Final = "launcher"


class RunRecord(BaseModel):
    """What is shown of a run; the launcher's API has more."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str
    state: str
    status: str
    by: str
    reason: str
    asked: float
    attempt: int
    outcome: str | None
    outcome_reason: str | None
    message: str | None
    version: str | None
    into: str | None


class LaunchRecord(BaseModel):
    """What `fraudctl launch --json` prints: `run`, `coalesced` or `duplicate`, and the record of the key."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str
    state: str
    run: RunRecord


class _Runs(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    runs: tuple[RunRecord, ...]


def launch(url: str, key: str, data: str | None, reason: str) -> LaunchRecord:
    """Ask for a run under a key.

    Raises:
        InvalidInput: The launcher does not take the key or the data.
        PermanentError: It cannot be reached, or fails.
    """
    body = {"key": key, "by": who(), "reason": reason, "data_uri": data}
    answer = ask(
        PART, "POST", f"{url}/v1/runs", {name: value for name, value in body.items() if value is not None}
    )
    return LaunchRecord.model_validate_json(answer)


def follow(url: str, record: LaunchRecord, console: Console) -> LaunchRecord:
    """Wait until the run of a key has ended; what was coalesced has."""
    run, said = record.run, ""
    while run.status != "ended":
        now = f"{run.status}, attempt {run.attempt}" if run.attempt else run.status
        if now != said:
            console.print(f"{escape(run.key)}: {now}", highlight=False)
        said = now
        time.sleep(POLL_SECONDS)
        run = RunRecord.model_validate_json(ask(PART, "GET", f"{url}/v1/runs/{run.key}"))
    return record.model_copy(update={"run": run})


def runs(url: str, limit: int) -> tuple[RunRecord, ...]:
    """The last runs that were asked for, newest first."""
    return _Runs.model_validate_json(ask(PART, "GET", f"{url}/v1/runs?limit={limit}")).runs


def show_launch(record: LaunchRecord, console: Console) -> None:
    """Say what became of it."""
    said = {
        "run": "a run was asked for",
        "coalesced": f"{record.run.into} goes on: this one is recorded, and does not run",
        "duplicate": "this key was asked for before",
    }[record.state]
    console.print(f"[bold]{escape(record.key)}[/]: {escape(said)}", highlight=False)
    if record.run.outcome:
        version = f" ({record.run.version})" if record.run.version else ""
        console.print(f"{record.run.outcome}{version}: {escape(record.run.message or '')}", highlight=False)


def show_runs(records: tuple[RunRecord, ...], console: Console) -> None:
    """As a table."""
    table = Table("key", "asked", "by", "became", "model", "why", box=None, header_style="bold")
    for run in records:
        asked = f"{datetime.fromtimestamp(run.asked, UTC):%Y-%m-%d %H:%M}"
        became = run.outcome or run.status
        why = run.message or run.reason
        table.add_row(*map(escape, (run.key, asked, run.by, became, run.version or "", why)))
    console.print(table if records else "no run was asked for yet")
