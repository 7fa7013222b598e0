"""What the detector says of drift, as tables for people."""

from __future__ import annotations

from datetime import datetime
from typing import Final, TypeVar

import httpx
from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from detectors.records import ChannelRecord, DriftRecord, HistoryRecord
from fraudkit.client import trust
from fraudkit.errors import PermanentError
from fraudkit.settings import MODEL_NAME

COLOURS: Final = {"stable": "green", "warning": "yellow", "drift": "red", "stale": "magenta"}
SHOWN: Final = 3
"""Numbers of a channel that are shown; `--json` has all."""
_PATH: Final = f"/v1/models/{MODEL_NAME}/drift"
_Record = TypeVar("_Record", bound=BaseModel)


def fetch_status(url: str) -> DriftRecord:
    """What the detector at `url` says now."""
    return _get(DriftRecord, f"{url}{_PATH}", {})


def fetch_history(url: str, limit: int) -> HistoryRecord:
    """What it has said, newest first."""
    return _get(HistoryRecord, f"{url}{_PATH}/history", {"limit": limit})


def show_status(record: DriftRecord, console: Console) -> None:
    """The verdict, and each channel with its numbers beside their thresholds."""
    console.print(
        f"[bold]{record.model}[/] {record.version or '(no model promoted)'}: {_level(record.status)}"
        f"{f' since {_time(record.since)}' if record.since else ''}",
        escape(record.message),
        sep="\n",
        highlight=False,
    )
    window = record.window
    if window:
        span = f"{_time(window.begins)} – {_time(window.ends)}"
        table = Table(title=f"Window {span} UTC, {window.rows:,} rows", title_justify="left")
        for name in ("channel", "says", "number", "of", "value", "threshold"):
            table.add_column(name, justify="right" if name in ("value", "threshold") else "left")
        for channel in window.verdict.channels:
            _channel(channel, table)
        console.print(table)
        if window.verdict.influence:
            names = ", ".join(f"{one.feature} {one.mean_change:+.2f}" for one in window.verdict.influence[:5])
            console.print(f"Moved the score most (log odds): {names}", highlight=False)
    if record.decision:
        decision = record.decision
        said = f"{decision.outcome} · {decision.reason}: {decision.message}"
        console.print(f"[bold]Retraining[/] {escape(said)} ({_time(decision.at)})", highlight=False)


def show_history(record: HistoryRecord, console: Console) -> None:
    """Windows, then events and decisions, oldest first: the newest is where one looks."""
    table = Table(title="Windows", title_justify="left")
    for name in ("from", "rows", "version", "verdict", "channel", "said"):
        table.add_column(name, justify="right" if name == "rows" else "left")
    for window in reversed(record.windows):
        verdict = window.verdict
        said = (_time(window.begins), f"{window.rows:,}", window.version, _level(verdict.level), verdict.reason)
        table.add_row(*said, escape(verdict.message))
    console.print(table)
    happened = [(event.created, event.type, event.id, event.undelivered) for event in record.events]
    if happened:
        table = Table("at", "event", "id", "not yet acknowledged by", title="Events", title_justify="left")
        for created, kind, name, undelivered in reversed(happened):
            table.add_row(_time(created), kind, name, escape(", ".join(undelivered)))
        console.print(table)
    if record.decisions:
        table = Table("at", "outcome", "reason", "said", title="Retraining", title_justify="left")
        for decision in reversed(record.decisions):
            table.add_row(_time(decision.at), decision.outcome, decision.reason, escape(decision.message))
        console.print(table)


def _channel(channel: ChannelRecord, table: Table) -> None:
    first = (channel.channel, _level(channel.level))
    if not channel.statistics:
        table.add_row(*first, escape(channel.message), "", "", "")
    for statistic in channel.statistics[:SHOWN]:
        value = f"[red]{statistic.value:.3g}[/]" if statistic.beyond else f"{statistic.value:.3g}"
        table.add_row(*first, statistic.name, statistic.subject, value, f"{statistic.threshold:.3g}")
        first = ("", "")


def _level(level: str) -> str:
    return f"[{COLOURS.get(level, 'blue')}]{level}[/]"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def _get(kind: type[_Record], url: str, parameters: dict[str, int]) -> _Record:
    try:
        answer = httpx.get(url, params=parameters, timeout=30, verify=trust())
        answer.raise_for_status()
        return kind.model_validate_json(answer.content)
    except httpx.HTTPStatusError as error:
        raise PermanentError(
            f"{url} answered {error.response.status_code}: {error.response.text[:500]}"
        ) from error
    except httpx.HTTPError as error:
        raise PermanentError(f"{url} cannot be reached ({error}); `fraudctl up` starts a detector") from error
    except ValidationError as error:
        raise PermanentError(f"{url} is not a detector of this version: {error.error_count()} problems") from error
