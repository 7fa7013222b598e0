"""Asks the roll-out controller, and shows what it says."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Final

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fraudctl.asking import ask, who
from fraudkit.errors import InvalidInput, PermanentError

PART: Final = "roll-out controller"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class StepRecord(_Record):
    """A step that is over."""

    percent: int
    requests: int
    outcome: str
    reason: str
    message: str


class HandRecord(_Record):
    """What a person did."""

    at: float
    action: str
    by: str
    reason: str


class RolloutRecord(_Record):
    """What is shown of a roll-out; the controller's API has more."""

    id: str
    key: str
    version: str
    champion: str | None
    by: str
    reason: str
    asked: float
    status: str
    settled: bool
    steps: tuple[StepRecord, ...]
    hands: tuple[HandRecord, ...]
    said: tuple[str, str, str]


class _Rollouts(_Record):
    rollouts: tuple[RolloutRecord, ...]


class ModelsRecord(_Record):
    """Who serves, and who is tried."""

    champion: str | None
    challenger: str | None


def rollouts(url: str) -> tuple[RolloutRecord, ...]:
    """All that are remembered, newest first."""
    return _Rollouts.model_validate_json(ask(PART, "GET", f"{url}/v1/rollouts")).rollouts


def models(url: str) -> ModelsRecord:
    """Who serves."""
    return ModelsRecord.model_validate_json(ask(PART, "GET", f"{url}/v1/models"))


def begin(url: str, version: str, key: str, by: str, reason: str) -> RolloutRecord:
    """Begin a roll-out.

    Raises:
        InvalidInput: The controller refuses, and says why.
    """
    body = {"version": version, "key": key, "by": by, "reason": reason}
    return RolloutRecord.model_validate_json(ask(PART, "POST", f"{url}/v1/rollouts", body))


def act(url: str, action: str, name: str | None, reason: str) -> RolloutRecord:
    """Pause, resume, promote or roll back; the newest roll-out if none is named.

    Raises:
        InvalidInput: There is none, or it is not in a state for that.
    """
    named = name or next((one.id for one in rollouts(url)), None)
    if named is None:
        raise InvalidInput("there was no roll-out yet")
    body = {"by": who(), "reason": reason}
    return RolloutRecord.model_validate_json(ask(PART, "POST", f"{url}/v1/rollouts/{named}/{action}", body))


def wait_for_champion(url: str, seconds: float) -> str:
    """Wait until a model serves.

    Raises:
        PermanentError: None does.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        champion = models(url).champion
        if champion:
            return champion
        time.sleep(0.1)
    raise PermanentError(f"the roll-out controller at {url} brought no model to serve within {seconds:g} s")


def show(records: tuple[RolloutRecord, ...], console: Console) -> None:
    """As a table, and the newest one step by step."""
    if not records:
        console.print("there was no roll-out yet")
        return
    table = Table("roll-out", "asked", "by", "model", "instead of", "status", "why", box=None, header_style="bold")
    for one in records:
        asked = f"{datetime.fromtimestamp(one.asked, UTC):%Y-%m-%d %H:%M}"
        cells = (one.key, asked, one.by, one.version, one.champion or "", one.status, one.said[1] or one.reason)
        table.add_row(*map(escape, cells))
    console.print(table)
    newest = records[0]
    console.print(f"\n[bold]{escape(newest.key)}[/]: {escape(newest.said[2] or newest.reason)}", highlight=False)
    for step in newest.steps:
        said = f"{step.percent:>3} %  {step.requests:,} requests  {step.outcome}  {step.reason}: {step.message}"
        console.print(escape(said), highlight=False, soft_wrap=True)
    for hand in newest.hands:
        at = f"{datetime.fromtimestamp(hand.at, UTC):%Y-%m-%d %H:%M}"
        console.print(escape(f"{at}  {hand.by}: {hand.action} ({hand.reason})"), highlight=False)
