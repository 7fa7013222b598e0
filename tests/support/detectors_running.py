"""A detector in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Process:
    """A part of the detector that has said that it started, and what it said."""

    process: subprocess.Popen[bytes]
    stderr: Path
    said: dict[str, Any]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.said['port']}"

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stderr.read_text().splitlines()]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self) -> int:
        """Stop it as Kubernetes would; returns its exit code."""
        self.process.terminate()
        try:
            return self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


def start(module: str, folder: Path, arguments: tuple[str, ...] = (), **variables: str) -> Process:
    """A part, once its first line of log is there."""
    folder.mkdir(parents=True, exist_ok=True)
    stderr = folder / f"{module}-{time.monotonic_ns()}.log"
    with stderr.open("wb") as file:
        command = [sys.executable, "-m", module, *arguments]
        process = subprocess.Popen(command, stderr=file, env=os.environ | variables)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        first, newline, _ = stderr.read_text().partition("\n")
        if newline:
            return Process(process, stderr, json.loads(first))
        time.sleep(0.02)
    process.kill()
    process.wait()
    pytest.fail(f"{module} did not start: {stderr.read_text()}")


@contextmanager
def running(module: str, folder: Path, **variables: str) -> Iterator[Process]:
    """A part that ends well when it is told to."""
    started = start(module, folder, **variables)
    try:
        yield started
    finally:
        code = started.end() if started.process.poll() is None else None
    assert code in (0, None), started.stderr.read_text()
