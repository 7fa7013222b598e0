"""Promotions and rollbacks that MLflow is to show: heard as events, kept, and shown by a short process.

MLflow is not imported here: it would cost a launcher 200 MB for a few seconds of work a month.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime
from typing import IO, Final, Protocol

import structlog
from pydantic import BaseModel, ConfigDict

from fraudkit.errors import InvalidInput
from fraudkit.events import ModelPromoted, ModelRolledBack, decode, rfc3339
from fraudkit.processes import end_with_this

log = structlog.get_logger()

TYPES: Final = frozenset({ModelPromoted.type, ModelRolledBack.type})
MOST: Final = 100
"""Moves that one process shows."""
CHILD_SECONDS: Final = 600.0
"""How long it may take."""
RETRY_SECONDS: Final = 5.0
LONGEST_WAIT: Final = 300.0
_STOP_SECONDS: Final = 5.0
_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,219}")
"""What may stand in the name of a tag of MLflow."""


class Move(BaseModel):
    """Something that happened to a model.

    Attributes:
        id: Of the event.
        version: The model.
        tag: Name of the tag that tells of it.
        said: What the tag says: when, by whom, why.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    version: str
    tag: str
    said: str


class Moves(Protocol):
    """Where they are kept."""

    def moves(self, limit: int) -> tuple[Move, ...]:
        """Those that MLflow does not show yet."""

    def shown(self, moves: tuple[Move, ...]) -> None:
        """Forget what it shows."""


def move_of(kind: str, headers: Mapping[str, str], body: bytes) -> Move:
    """The move that an event of one of `TYPES` tells of; `headers` by lower-case name.

    Raises:
        InvalidInput: It does not.
    """
    if kind == ModelPromoted.type:
        received, promoted = decode(ModelPromoted, headers, body)
        return _move(received.id, promoted.version, "promoted", promoted.key, received.time, promoted.by)
    received, back = decode(ModelRolledBack, headers, body)
    by = f"{back.by}: {back.reason}"
    return _move(received.id, back.version, "rolled_back", back.key, received.time, by)


def _move(name: str, version: str, what: str, key: str, at: datetime, by: str) -> Move:
    if not _KEY.fullmatch(key) or "\0" in name + by:
        raise InvalidInput(f"key: {key!r} is not that of a roll-out, or the event has a NUL")
    return Move(id=name, version=version, tag=f"{what}.{key}", said=f"{rfc3339(at)} by {by}")


class Mirror:
    """Has a process show what is kept, one at a time, until it has succeeded.

    Args:
        moves: Where it is kept.
    """

    def __init__(self, moves: Moves) -> None:
        self._moves = moves
        self._child: subprocess.Popen[bytes] | None = None
        self._at_work: tuple[Move, ...] = ()
        self._began = 0.0
        self._wait = RETRY_SECONDS
        self._not_before = 0.0

    def step(self) -> None:
        """Begin, look, or wait; this does not take long."""
        if self._child is None:
            if time.monotonic() >= self._not_before and (moves := self._moves.moves(MOST)):
                self._start(moves)
        elif self._child.poll() is not None:
            self._ended(self._child.returncode)
        elif time.monotonic() - self._began > CHILD_SECONDS:
            self._child.kill()

    def close(self) -> None:
        """End the process; the next launcher begins anew."""
        if self._child is None:
            return
        self._child.terminate()
        try:
            self._child.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child = None

    def _start(self, moves: tuple[Move, ...]) -> None:
        with tempfile.TemporaryFile() as file:
            file.writelines(move.model_dump_json().encode() + b"\n" for move in moves)
            file.seek(0)
            self._child = _process(file)
        self._at_work, self._began = moves, time.monotonic()

    def _ended(self, code: int) -> None:
        self._child = None
        if code == 0:
            self._moves.shown(self._at_work)
            self._wait = RETRY_SECONDS
            return
        log.warning("MLflow does not show yet what serves", code=code, seconds=self._wait)
        self._not_before = time.monotonic() + self._wait
        self._wait = min(2 * self._wait, LONGEST_WAIT)


def _process(stdin: IO[bytes]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pipelines.registry", "--moves"]
    return subprocess.Popen(  # noqa: S603
        command, stdin=stdin, stdout=subprocess.DEVNULL, start_new_session=True, preexec_fn=end_with_this()
    )
