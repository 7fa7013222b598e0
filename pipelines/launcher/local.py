"""Runs on this machine: each in a process and a folder of its own, which say how it ended."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from fraudkit.errors import PermanentError, TemporaryError
from fraudkit.processes import end_with_this
from pipelines.launcher.backends import Order, Phase, Progress, Result

ORDER: Final = "order.json"
ENDED: Final = "ended.json"
LOG: Final = "log"
LOCK: Final = "lock"
STOP_SECONDS: Final = 20.0
_LOCK_SECONDS: Final = 5.0
_WORDS_BYTES: Final = 2_000
_ORDERS: Final = TypeAdapter(Order)


class Ended(BaseModel):
    """What the process of a run leaves: how the run ended, or why it did not.

    Attributes:
        result: How it ended.
        error: Why it failed.
        retry: Whether the same again may succeed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    result: Result | None = None
    error: str = ""
    retry: bool = False


class LocalBackend:
    """Runs as processes.

    Args:
        folder: Has a folder for each attempt of each run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._children: dict[Path, subprocess.Popen[bytes]] = {}

    def start(self, order: Order) -> str:
        """Start the process of an order, unless it is there or has been; returns its folder."""
        folder = self._folder / order.key / str(order.attempt)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / ENDED).exists() and folder not in self._children:
                _write(folder / ORDER, _ORDERS.dump_json(order))
                self._children[folder] = _start(folder)
        except OSError as error:
            raise TemporaryError(f"the run cannot be started in {folder}: {error}") from error
        return str(folder)

    def look(self, order: Order, handle: str) -> Progress:  # noqa: ARG002  # the folder says it all
        """What the folder says, or the process."""
        folder = Path(handle)
        child = self._children.get(folder)
        code = child.poll() if child else None
        # Asked before the file is read, which is the last thing that the process writes.
        running = is_held(folder) if child is None else code is None
        ended = read_ended(folder)
        if ended is None and (running or is_held(folder)):
            return Progress(Phase.RUNNING)
        if child:
            _end(self._children.pop(folder), STOP_SECONDS)
        if ended is None:
            how = "with the launcher before this one" if code is None else f"with {code}"
            return Progress(Phase.FAILED, f"the run's process ended {how}: {last_words(folder)}", retry=True)
        if ended.result is None:
            return Progress(Phase.FAILED, ended.error, ended.retry)
        return Progress(Phase.ENDED, result=ended.result)

    def close(self) -> bool:
        """End all processes; whether one was at work."""
        at_work = any(child.poll() is None for child in self._children.values())
        for child in self._children.values():
            child.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for child in self._children.values():
            _end(child, max(deadline - time.monotonic(), 0.1))
        self._children.clear()
        return at_work


def read_order(folder: Path) -> Order:
    """The order of a run.

    Raises:
        PermanentError: There is none.
    """
    try:
        return _ORDERS.validate_json((folder / ORDER).read_bytes())
    except (OSError, ValidationError) as error:
        raise PermanentError(f"{folder / ORDER} is not the order of a run: {error}") from error


def read_ended(folder: Path) -> Ended | None:
    """How the run of a folder ended; None while it has not."""
    try:
        return Ended.model_validate_json((folder / ENDED).read_bytes())
    except FileNotFoundError:
        return None


def write_ended(folder: Path, ended: Ended) -> None:
    """Say how the run of a folder ended: all of it at once."""
    _write(folder / ENDED, ended.model_dump_json(indent=1).encode() + b"\n")


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Whether this process alone runs what the folder is for."""
    with (folder / LOCK).open("w") as file:
        deadline = time.monotonic() + _LOCK_SECONDS  # who asks whether it is held holds it for a moment
        while not _take(file.fileno()):
            if time.monotonic() > deadline:
                yield False
                return
            time.sleep(0.05)
        yield True


def is_held(folder: Path) -> bool:
    """Whether the process of a run is at work."""
    with (folder / LOCK).open("w") as file:
        return not _take(file.fileno())


def last_words(folder: Path) -> str:
    """The end of a run's log."""
    try:
        with (folder / LOG).open("rb") as file:
            file.seek(max((folder / LOG).stat().st_size - _WORDS_BYTES, 0))
            return file.read().decode(errors="replace").strip() or "it said nothing"
    except FileNotFoundError:
        return "it said nothing"


def _end(child: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait until a process has ended, and make it."""
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _take(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _start(folder: Path) -> subprocess.Popen[bytes]:
    with (folder / LOG).open("ab") as log:
        return subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "pipelines.launcher.job", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=end_with_this(),
        )


def _write(path: Path, content: bytes) -> None:
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
