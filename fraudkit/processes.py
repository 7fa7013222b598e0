"""Processes of this machine: started, watched, restarted, and never left behind."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from fraudkit.errors import PermanentError

READY_SECONDS: Final = 60.0
STOP_SECONDS: Final = 30.0
LONGEST_WAIT: Final = 30.0
_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True)
class Part:
    """A process.

    Attributes:
        name: What people call it.
        module: What Python runs.
        arguments: What it is told.
        ready: URL that answers once it is ready; None for a part without one.
    """

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    ready: str | None = None


class Running:
    """A part that runs, and is started again when it dies.

    Args:
        part: What to run.
        environment: Its variables.
        log: File that its log is added to.
    """

    def __init__(self, part: Part, environment: Mapping[str, str], log: Path) -> None:
        self.part = part
        self.log = log
        self.restarts = 0
        self._environment = dict(environment)
        self._again: float | None = None
        self._process = self._start()

    def wait_ready(self) -> None:
        """Wait until the part answers.

        Raises:
            PermanentError: It did not; the message has its last words.
        """
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            if self.part.ready is None or _answers(self.part.ready):
                return
            time.sleep(0.1)
        raise PermanentError(f"{self.part.name} did not become ready: {self.last_words()}")

    def look_after(self, now: float) -> str | None:
        """Start the part again if it has died and its time has come; returns what is to be said of it."""
        code = self._process.poll()
        if code is None:
            return None
        if self._again is None:
            wait = min(2.0**self.restarts, LONGEST_WAIT)
            self._again = now + wait
            return f"{self.part.name} ended with {code}; it is started again in {wait:g} s (log: {self.log})"
        if now < self._again:
            return None
        self.restarts += 1
        self._again = None
        self._process = self._start()
        return f"{self.part.name} is started again"

    def stop(self) -> None:
        """Ask it to end."""
        if self._process.poll() is None:
            self._process.terminate()

    def end(self, deadline: float) -> None:
        """Wait until it has ended, and make it."""
        try:
            self._process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def last_words(self) -> str:
        """The end of its log."""
        with self.log.open("rb") as file:
            file.seek(max(self.log.stat().st_size - 2_000, 0))
            return file.read().decode(errors="replace").strip() or "it said nothing"

    def _start(self) -> subprocess.Popen[bytes]:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", self.part.module, *self.part.arguments]
        with self.log.open("ab") as file:
            return subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=self._environment,
                # A Ctrl-C in the terminal is for the one who started them, who ends them in order.
                start_new_session=True,
                preexec_fn=end_with_this(),
            )


def stop_all(parts: Sequence[Running]) -> None:
    """End the parts, the last one first."""
    deadline = time.monotonic() + STOP_SECONDS
    for running in reversed(parts):
        running.stop()
        running.end(deadline)


def end_with_this() -> Callable[[], None] | None:
    """What a child is to call first, so that the kernel ends it when the thread that started it dies, however."""
    if sys.platform != "linux":
        return None
    parent, library = os.getpid(), ctypes.CDLL(None, use_errno=True)

    def set_signal() -> None:
        library.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it has died already
            os._exit(1)

    return set_signal


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False
