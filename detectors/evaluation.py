"""One step of the evaluator after another: bind to a promoted model, or bring the next closed window to a verdict.

A step reads what can no longer change, and writes its outcome with its new state in one transaction. Killed at any
moment and started again, it computes the same once more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import structlog
from pydantic import BaseModel, ConfigDict

from detectors.channels import Level
from detectors.clock import ClockRule
from detectors.engines import load_engine
from detectors.episodes import EpisodeState, Told, Verdict, judge
from detectors.reference import Reference
from detectors.store.log import Binding
from detectors.store.windows import Change, Outgoing, WindowStore
from detectors.watch import Seen, State, Watch, WindowFacts
from detectors.windows import Window, WindowRule, cut
from fraudkit.bundle import load
from fraudkit.errors import BundleError
from fraudkit.schema import FloatArray
from fraudkit.settings import Settings

log = structlog.get_logger()

TRACE_POINTS: Final = 200
"""Points of a trace that are kept of a window."""


class Kept(BaseModel):
    """The state of the evaluator as it is stored.

    Attributes:
        binding: Id, version and time of the promotion that it is bound to.
        cursor: Buckets below are evaluated.
        past: First bucket and bucket after the last of the windows that the channels remember, oldest first.
        channels: The rest of what they remember.
        episode: What the verdicts remember.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    binding: tuple[str, str, float]
    cursor: int
    past: tuple[tuple[int, int], ...] = ()
    channels: str
    episode: str


@dataclass(frozen=True, slots=True)
class Bound:
    """What is computed with while one model is watched, and what the last window left."""

    kept: Kept
    watch: Watch
    state: State
    episode: EpisodeState
