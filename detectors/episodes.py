"""From what channels say of a window to a verdict: drift begins once confirmed, and lasts until it surely is over.

Pure. A window that has too little data says nothing: it neither confirms a drift nor ends one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel, ConfigDict

from detectors.channels import Level, Reading, inputs, quality, slow
from detectors.reference import COLUMNS
from fraudkit.policy.drift import EpisodeRule

_SPOKEN: Final = (Level.DRIFT, Level.WARNING)


class EpisodeState(BaseModel):
    """What one window leaves to the next.

    Attributes:
        windows: Windows since the model was bound.
        start: From when on no rows are from before the drift that is going on [s, UTC]: when the first window that
            says so ended, because the change may lie within it.
        first: The same of the windows that would confirm one.
        running: How many these are.
        calm: Stable windows running while there is drift.
        channels: Channels that spoke in the drift that is going on.
        columns: Columns that drifted in it.
        quality: Whether the last window's data were bad.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    windows: int = 0
    start: float | None = None
    first: float | None = None
    running: int = 0
    calm: int = 0
    channels: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    quality: bool = False


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdict of a window, and what happened with it.

    Attributes:
        level: What it says.
        reason: The channel that it says it for; empty where none does.
        message: One sentence for a person.
        raised: A drift began.
        cleared: `start` of the drift that ended [s, UTC]; None where none ended.
        quality: Bad data began.
        state: For the next window.
    """

    level: Level
    reason: str
    message: str
    raised: bool
    cleared: float | None
    quality: bool
    state: EpisodeState


def judge(readings: Sequence[Reading], ends: float, state: EpisodeState, rule: EpisodeRule) -> Judged:
    """The verdict of the window that ends at `ends` [s, UTC]."""
    own, speaks = _own_level(readings)
    drift = own is Level.DRIFT
    unsure = own is Level.INSUFFICIENT_DATA
    running = state.running + drift if drift or unsure else 0
    first = (ends if state.running == 0 else state.first) if running else None
    raised = state.start is None and running >= rule.confirm
    start = first if raised else state.start
    # Where a window says nothing, what was counted before it stands.
    calm = 0 if start is None or drift else state.calm + (own is Level.STABLE) if own is not Level.WARNING else 0
    ended = start is not None and calm >= rule.clear
    bad = any(one.channel == quality.CHANNEL and one.level is Level.WARNING for one in readings)
    after = EpisodeState(
        windows=state.windows + 1,
        start=None if ended else start,
        first=first,
        running=running,
        calm=0 if ended else calm,
        channels=() if ended or start is None else _merged(state.channels, _speaking(readings)),
        columns=() if ended or start is None else _merged(state.columns, _columns(readings)),
        quality=bad,
    )
    level, message = own, speaks.message
    if after.start is not None:
        level = Level.DRIFT
        message = message if drift else f"not yet over ({calm} of {rule.clear} stable windows running); {message}"
    elif drift:
        level, message = Level.WARNING, f"drift, not yet confirmed ({running} of {rule.confirm}); {message}"
    elif own is Level.STABLE and state.windows < rule.warm_up:
        level = Level.WARMING_UP
    cleared = start if ended else None
    return Judged(level, speaks.channel, message, raised, cleared, bad and not state.quality, after)


def _own_level(readings: Sequence[Reading]) -> tuple[Level, Reading]:
    """What the window says by itself, and the reading that says it."""
    for level in _SPOKEN:
        for reading in readings:
            if reading.level is level:
                return level, reading
    tested = next(reading for reading in readings if reading.channel == inputs.CHANNEL)
    return tested.level, tested


def _speaking(readings: Sequence[Reading]) -> tuple[str, ...]:
    return tuple(reading.channel for reading in readings if reading.level in _SPOKEN)


def _columns(readings: Sequence[Reading]) -> tuple[str, ...]:
    return tuple(
        statistic.subject
        for reading in readings
        if reading.level is Level.DRIFT and reading.channel in (inputs.CHANNEL, slow.CHANNEL)
        for statistic in reading.statistics
        if statistic.beyond and statistic.subject in COLUMNS
    )


def _merged(before: tuple[str, ...], now: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted({*before, *now}))
